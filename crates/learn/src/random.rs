//! Random choices as pure functions of (seed, purpose, epoch, step), so a resumed training makes the same ones.

use chacha20::ChaCha8Rng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// What a stream of random numbers is for; streams of different purposes are independent.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    /// Starting weights of the classifier.
    Init,
    /// The order of the examples in an epoch.
    Shuffle,
    /// The augmented draw of each example in an epoch.
    Draws,
    /// The values dropped in a step.
    Dropout,
    /// The signs of random features.
    Signs,
}

/// The stream for one purpose at one place of the training.
pub(crate) fn stream(seed: u64, purpose: Purpose, epoch: u32, step: u32) -> ChaCha8Rng {
    let purpose: &[u8] = match purpose {
        Purpose::Init => b"init",
        Purpose::Shuffle => b"shuffle",
        Purpose::Draws => b"draws",
        Purpose::Dropout => b"dropout",
        Purpose::Signs => b"signs",
    };
    let mut hash = Sha256::new();
    hash.update(b"fedgestalt/learn/1/");
    hash.update(purpose);
    hash.update(seed.to_le_bytes());
    hash.update(epoch.to_le_bytes());
    hash.update(step.to_le_bytes());
    ChaCha8Rng::from_seed(hash.finalize().into())
}

/// A number in `0..bound`, `bound > 0`; its bias is below 2^-32 for the bounds used here.
fn below(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    ((u128::from(rng.next_u64()) * bound as u128) >> 64) as usize
}

/// A random order of `0..count` (Fisher-Yates).
pub(crate) fn order(rng: &mut ChaCha8Rng, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for i in (1..count).rev() {
        order.swap(i, below(rng, i + 1));
    }
    order
}

/// `count` numbers in `0..bound`, `bound > 0`.
pub(crate) fn choices(rng: &mut ChaCha8Rng, count: usize, bound: usize) -> Vec<usize> {
    (0..count).map(|_| below(rng, bound)).collect()
}

/// Fills `mask` with what dropout multiplies by: 0 with probability `p`, else `1 / (1 - p)`.
pub(crate) fn dropout(rng: &mut ChaCha8Rng, p: f64, mask: &mut [f32]) {
    let keep = (1.0 / (1.0 - p)) as f32;
    let threshold = (p * 4_294_967_296.0) as u64;
    for value in mask {
        *value = if u64::from(rng.next_u32()) < threshold { 0.0 } else { keep };
    }
}

/// Fills `values` uniformly from `[-bound, bound)`.
pub(crate) fn uniform(rng: &mut ChaCha8Rng, bound: f32, values: &mut [f32]) {
    for value in values {
        let unit = (rng.next_u32() >> 8) as f32 / 16_777_216.0;
        *value = (2.0 * unit - 1.0) * bound;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_every_part_of_its_name() {
        let first = |seed, purpose, epoch, step| stream(seed, purpose, epoch, step).next_u64();
        let base = first(1, Purpose::Dropout, 2, 3);
        assert_eq!(base, first(1, Purpose::Dropout, 2, 3));
        for other in [
            first(2, Purpose::Dropout, 2, 3),
            first(1, Purpose::Draws, 2, 3),
            first(1, Purpose::Dropout, 3, 3),
            first(1, Purpose::Dropout, 2, 4),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn an_order_is_a_permutation_and_choices_cover_their_range() {
        let mut sorted = order(&mut stream(1, Purpose::Shuffle, 0, 0), 500);
        assert_ne!(sorted, (0..500).collect::<Vec<_>>());
        sorted.sort_unstable();
        assert_eq!(sorted, (0..500).collect::<Vec<_>>());

        let picks = choices(&mut stream(1, Purpose::Draws, 0, 0), 8000, 8);
        for draw in 0..8 {
            // 1,000 expected, standard deviation 30.
            let count = picks.iter().filter(|&&pick| pick == draw).count();
            assert!((850..1150).contains(&count), "draw {draw}: {count} times");
        }
    }

    #[test]
    fn dropout_drops_the_asked_share_and_keeps_the_mean() {
        for p in [0.0, 0.25, 0.5] {
            let mut mask = vec![f32::NAN; 100_000];
            dropout(&mut stream(5, Purpose::Dropout, 0, 0), p, &mut mask);
            let dropped = mask.iter().filter(|&&value| value == 0.0).count() as f64 / 100_000.0;
            assert!((dropped - p).abs() < 0.01, "{dropped} against {p}");
            assert!(mask.iter().all(|&value| value == 0.0 || value == (1.0 / (1.0 - p)) as f32));
        }
    }
}
