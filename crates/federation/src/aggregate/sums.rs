//! The sums behind closed-form members and behind what trained members start from, as words of a secure sum.

use secure::fixed::Integers;

use super::{Counts, Layout};
use crate::action::FormSums;
use crate::plan::FormPlan;
use crate::refusal::{RefusalKind, Result, refusal, refuse};

/// What sums are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SumsOf {
    /// Closed-form members.
    Forms,
    /// What trained members start from.
    Starts,
}

impl Layout {
    fn planned(&self, of: SumsOf) -> &[FormPlan] {
        match of {
            SumsOf::Forms => &self.forms,
            SumsOf::Starts => &self.starts,
        }
    }

    /// A site's sums, as words.
    pub(crate) fn encode_sums(&self, of: SumsOf, sums: &[FormSums], counts: &Counts) -> Result<Vec<u32>> {
        let planned = self.planned(of);
        if sums.len() != planned.len() {
            refuse!(Update, "sums for {} closed forms; the plan has {}", sums.len(), planned.len());
        }
        let mut words = vec![0; self.sum_words(of)];
        let mut start = 0;
        for (form, sums) in planned.iter().zip(sums) {
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
            let lengths: &[i64] = if of == SumsOf::Starts { &[sums.lengths] } else { &[] };
            let numbers = [&[sums.rows][..], &sums.counts, &sums.sums, &sums.scatter, lengths];
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
    pub(crate) fn decode_sums(&self, of: SumsOf, sum: &[u32]) -> Result<Vec<FormSums>> {
        if sum.len() != self.sum_words(of) {
            refuse!(Malformed, "sums of {} words; the plan gives {}", sum.len(), self.sum_words(of));
        }
        let mut rest = sum;
        let mut take = |len: usize| -> Result<Vec<i64>> {
            let (words, behind) = rest.split_at(len * Integers::WORDS);
            rest = behind;
            let mut numbers = vec![0; len];
            self.integers.decode(words, &mut numbers)?;
            Ok(numbers)
        };
        let forms = self.planned(of).iter().map(|form| {
            Ok(FormSums {
                rows: take(1)?[0],
                counts: take(self.trained)?,
                sums: take(self.trained * form.dim)?,
                scatter: take(form.dim * (form.dim + 1) / 2)?,
                lengths: if of == SumsOf::Starts { take(1)?[0] } else { 0 },
            })
        });
        forms.collect()
    }

    /// Words of the sums.
    pub(super) fn sum_words(&self, of: SumsOf) -> usize {
        let lengths = if of == SumsOf::Starts { Integers::WORDS } else { 0 };
        self.planned(of).iter().map(|form| form.words(self.trained) + lengths).sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::counts;
    use super::*;
    use crate::plan::Rows;
    use crate::plan::tests::{toy_form, toy_plan};

    #[test]
    fn sums_of_a_syndrome_that_too_few_sites_hold_do_not_leave() {
        let mut plan = toy_plan();
        plan.rows = Rows::Shared(2);
        plan.forms.push(toy_form("form"));
        plan.starts.push(toy_form("toy"));
        let (_, counts) = counts();
        let layout = Layout::new(&plan, 3, 3).unwrap();
        // Row 2 has one holder.
        let sums = FormSums {
            rows: 9,
            counts: vec![5, 4, 0],
            sums: vec![1, -2, 3, -4, 0, 0],
            scatter: vec![7, -8, 9],
            lengths: 11,
        };
        for (of, lengths) in [(SumsOf::Forms, 0), (SumsOf::Starts, 22)] {
            let words = layout.encode_sums(of, std::slice::from_ref(&sums), &counts).unwrap();
            let twice: Vec<u32> = words.iter().map(|w| w.wrapping_add(*w)).collect();
            let both = &layout.decode_sums(of, &twice).unwrap()[0];
            assert_eq!(
                (both.rows, &both.sums, &both.scatter, both.lengths),
                (18, &vec![2, -4, 6, -8, 0, 0], &vec![14, -16, 18], lengths)
            );
        }
        let shows: [fn(&mut FormSums); 2] = [|s| s.counts[2] = 1, |s| s.sums[5] = 1];
        for show in shows {
            let mut sums = sums.clone();
            show(&mut sums);
            for of in [SumsOf::Forms, SumsOf::Starts] {
                let error = layout.encode_sums(of, std::slice::from_ref(&sums), &counts).unwrap_err();
                assert_eq!(error.kind(), RefusalKind::Update);
                assert!(error.to_string().contains("syndrome row 2"), "{error}");
            }
        }
        let huge = FormSums { scatter: vec![1 << 60, 0, 0], ..sums.clone() };
        assert!(
            layout.encode_sums(SumsOf::Forms, &[huge], &counts).unwrap_err().to_string().contains("form: ")
        );
        let short = FormSums { scatter: vec![0], ..sums };
        assert_eq!(
            layout.encode_sums(SumsOf::Forms, &[short], &counts).unwrap_err().kind(),
            RefusalKind::Update
        );
    }
}
