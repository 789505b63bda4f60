//! The sums behind the members' weights, as words of a secure sum.

use secure::fixed::Integers;

use super::Layout;
use super::numbers::{Reader, Writer};
use crate::action::{PairMoments, PairSums};
use crate::refusal::{Result, refuse};

impl Layout {
    /// A site's sums over pairs of images, as words.
    pub(crate) fn encode_pairs(&self, sums: &PairSums) -> Result<Vec<u32>> {
        let members = self.weighed.unwrap_or(0);
        let mut words = Writer::new(self.integers, self.pair_words());
        for moments in [&sums.same, &sums.different] {
            if (moments.sums.len(), moments.scatter.len()) != (members, members * (members + 1) / 2) {
                refuse!(Update, "sums over pairs of images that do not fit {members} members");
            }
            if moments.pairs < 0 {
                refuse!(Update, "{} pairs of images", moments.pairs);
            }
            for numbers in [&[moments.pairs][..], &moments.sums, &moments.scatter] {
                words.put(numbers, "pairs of images")?;
            }
        }
        Ok(words.words())
    }

    /// All sites' sums.
    pub(crate) fn decode_pairs(&self, sum: &[u32]) -> Result<PairSums> {
        if sum.len() != self.pair_words() {
            refuse!(Malformed, "sums of {} words; the plan gives {}", sum.len(), self.pair_words());
        }
        let members = self.weighed.unwrap_or(0);
        let mut numbers = Reader::new(self.integers, sum);
        let mut moments = || -> Result<PairMoments> {
            Ok(PairMoments {
                pairs: numbers.one()?,
                sums: numbers.take(members)?,
                scatter: numbers.take(members * (members + 1) / 2)?,
            })
        };
        Ok(PairSums { same: moments()?, different: moments()? })
    }

    /// Words of the sums over pairs.
    pub(super) fn pair_words(&self) -> usize {
        let members = self.weighed.unwrap_or(0);
        2 * Integers::WORDS * (1 + members + members * (members + 1) / 2)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::KernelPlan;
    use crate::plan::tests::{toy_kernel, toy_plan};
    use crate::refusal::RefusalKind;

    #[test]
    fn sums_over_pairs_are_added_exactly_and_must_fit() {
        let mut plan = toy_plan();
        plan.kernel = Some(KernelPlan { weighed: Some(2), ..toy_kernel() });
        let layout = Layout::new(&plan, 3, 3).unwrap();
        let same = PairMoments { pairs: 3, sums: vec![-5, 7], scatter: vec![1, -2, 3] };
        let different = PairMoments { pairs: 8, sums: vec![1, 2], scatter: vec![4, 5, 1 << 40] };
        let sums = PairSums { same, different };
        let words = layout.encode_pairs(&sums).unwrap();
        let twice: Vec<u32> = words.iter().map(|w| w.wrapping_add(*w)).collect();
        let both = layout.decode_pairs(&twice).unwrap();
        assert_eq!((both.same.pairs, both.same.sums, both.same.scatter), (6, vec![-10, 14], vec![2, -4, 6]));
        assert_eq!((both.different.pairs, both.different.scatter[2]), (16, 1 << 41));
        let spoils: [fn(&mut PairSums); 4] = [
            |s| s.same.sums.push(0),
            |s| s.different.scatter.truncate(1),
            |s| s.same.pairs = -1,
            |s| s.different.sums[0] = 1 << 60,
        ];
        for spoil in spoils {
            let mut sums = sums.clone();
            spoil(&mut sums);
            assert_eq!(layout.encode_pairs(&sums).unwrap_err().kind(), RefusalKind::Update);
        }
        assert_eq!(layout.decode_pairs(&words[1..]).unwrap_err().kind(), RefusalKind::Malformed);
    }
}
