//! The sums behind closed-form members, as words of a secure sum.

use secure::fixed::Integers;

use super::{Counts, Layout};
use crate::action::FormSums;
use crate::refusal::{RefusalKind, Result, refusal, refuse};

impl Layout {
    /// A site's sums for the closed-form members, as words.
    pub(crate) fn encode_sums(&self, sums: &[FormSums], counts: &Counts) -> Result<Vec<u32>> {
        if sums.len() != self.forms.len() {
            refuse!(Update, "sums for {} closed forms; the plan has {}", sums.len(), self.forms.len());
        }
        let mut words = vec![0; self.sum_words()];
        let mut start = 0;
        for (form, sums) in self.forms.iter().zip(sums) {
            let (dim, trained) = (form.dim, self.trained);
            if (sums.counts.len(), sums.sums.len(), sums.scatter.len())
                != (trained, trained * dim, dim * (dim + 1) / 2)
            {
                refuse!(Update, "the sums for {} do not fit {trained} syndromes of {dim} values", form.name);
            }
            for row in (0..trained).filter(|&row| !self.travels(counts, row)) {
                if sums.counts[row] != 0 || sums.sums[row * dim..(row + 1) * dim].iter().any(|&x| x != 0) {
                    refuse!(
                        Update,
                        "the sums for {} show syndrome row {row}, which too few sites hold; leave it out",
                        form.name
                    );
                }
            }
            let numbers = [&[sums.rows][..], &sums.counts, &sums.sums, &sums.scatter];
            for numbers in numbers {
                let end = start + numbers.len() * Integers::WORDS;
                self.integers
                    .encode(numbers, &mut words[start..end])
                    .map_err(|e| refusal(RefusalKind::Update, format!("{}: {e}", form.name)))?;
                start = end;
            }
        }
        Ok(words)
    }

    /// All sites' sums.
    pub(crate) fn decode_sums(&self, sum: &[u32]) -> Result<Vec<FormSums>> {
        if sum.len() != self.sum_words() {
            refuse!(Malformed, "sums of {} words; the plan gives {}", sum.len(), self.sum_words());
        }
        let mut rest = sum;
        let mut take = |len: usize| -> Result<Vec<i64>> {
            let (words, behind) = rest.split_at(len * Integers::WORDS);
            rest = behind;
            let mut numbers = vec![0; len];
            self.integers.decode(words, &mut numbers)?;
            Ok(numbers)
        };
        let forms = self.forms.iter().map(|form| {
            Ok(FormSums {
                rows: take(1)?[0],
                counts: take(self.trained)?,
                sums: take(self.trained * form.dim)?,
                scatter: take(form.dim * (form.dim + 1) / 2)?,
            })
        });
        forms.collect()
    }

    /// Words of the closed-form members' sums.
    pub(super) fn sum_words(&self) -> usize {
        self.forms.iter().map(|form| form.words(self.trained)).sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::counts;
    use super::*;
    use crate::plan::tests::toy_plan;
    use crate::plan::{Basis, FormPlan, Rows};

    #[test]
    fn sums_of_a_syndrome_that_too_few_sites_hold_do_not_leave() {
        let mut plan = toy_plan();
        plan.rows = Rows::Shared(2);
        plan.forms.push(FormPlan {
            name: "form".into(),
            on: None,
            trunk: [1; 32],
            basis: Basis::Representation,
            dim: 2,
            outputs: 2,
            ridge: crate::plan::Ridge::Fixed(0.1),
            weighting: crate::plan::Weighting::Power { power: 0.25, floor: 0.0 },
        });
        let (_, counts) = counts();
        let layout = Layout::new(&plan, 3, 3).unwrap();
        // Row 2 has one holder.
        let sums = FormSums {
            rows: 9,
            counts: vec![5, 4, 0],
            sums: vec![1, -2, 3, -4, 0, 0],
            scatter: vec![7, -8, 9],
        };
        let words = layout.encode_sums(std::slice::from_ref(&sums), &counts).unwrap();
        let twice: Vec<u32> = words.iter().map(|w| w.wrapping_add(*w)).collect();
        let both = &layout.decode_sums(&twice).unwrap()[0];
        assert_eq!(
            (both.rows, &both.sums, &both.scatter),
            (18, &vec![2, -4, 6, -8, 0, 0], &vec![14, -16, 18])
        );
        let shows: [fn(&mut FormSums); 2] = [|s| s.counts[2] = 1, |s| s.sums[5] = 1];
        for show in shows {
            let mut sums = sums.clone();
            show(&mut sums);
            let error = layout.encode_sums(&[sums], &counts).unwrap_err();
            assert_eq!(error.kind(), RefusalKind::Update);
            assert!(error.to_string().contains("syndrome row 2"), "{error}");
        }
        let huge = FormSums { scatter: vec![1 << 60, 0, 0], ..sums.clone() };
        assert!(layout.encode_sums(&[huge], &counts).unwrap_err().to_string().contains("form: "));
        let short = FormSums { scatter: vec![0], ..sums };
        assert_eq!(layout.encode_sums(&[short], &counts).unwrap_err().kind(), RefusalKind::Update);
    }
}
