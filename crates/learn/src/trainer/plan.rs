//! Which examples, on which draws, make up the batches of an epoch.

use crate::random::{self, Purpose};
use crate::source::Example;

/// An example and the augmented draw of it that this epoch sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pick {
    pub(super) example: Example,
    pub(super) draw: usize,
}

/// The batches of an epoch: every example once, in random order, each on a random draw. A last batch of one joins the
/// one before it. `rows` has at least two examples.
pub(super) fn batches(rows: &[Example], seed: u64, epoch: u32, batch: usize, draws: usize) -> Vec<Vec<Pick>> {
    let order = random::order(&mut random::stream(seed, Purpose::Shuffle, epoch, 0), rows.len());
    let choices = random::choices(&mut random::stream(seed, Purpose::Draws, epoch, 0), rows.len(), draws);
    let picks: Vec<Pick> =
        order.into_iter().zip(choices).map(|(index, draw)| Pick { example: rows[index], draw }).collect();
    let mut batches: Vec<Vec<Pick>> = picks.chunks(batch).map(<[Pick]>::to_vec).collect();
    if batches.len() > 1 && batches.last().is_some_and(|last| last.len() == 1) {
        let single = batches.pop().unwrap_or_default();
        if let Some(last) = batches.last_mut() {
            last.extend(single);
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(count: usize) -> Vec<Example> {
        (0..count).map(|row| Example { row, label: 0 }).collect()
    }

    #[test]
    fn every_example_is_seen_once_and_no_batch_has_one() {
        for (count, sizes) in
            [(2, vec![2]), (3, vec![3]), (4, vec![4]), (5, vec![5]), (6, vec![4, 2]), (9, vec![4, 5])]
        {
            let batches = batches(&examples(count), 1, 0, 4, 3);
            assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "{count} examples");
            let mut rows: Vec<usize> = batches.iter().flatten().map(|pick| pick.example.row).collect();
            rows.sort_unstable();
            assert_eq!(rows, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn another_epoch_or_seed_is_another_order() {
        let rows = examples(100);
        let base = batches(&rows, 1, 0, 10, 8);
        assert_eq!(base, batches(&rows, 1, 0, 10, 8));
        assert_ne!(base, batches(&rows, 1, 1, 10, 8));
        assert_ne!(base, batches(&rows, 2, 0, 10, 8));
    }
}
