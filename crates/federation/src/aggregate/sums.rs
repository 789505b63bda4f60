//! The sums behind closed-form members and behind what trained members start from, as words of a secure sum.

use secure::fixed::Integers;

use super::numbers::{Reader, Writer};
use super::{Counts, Layout};
use crate::action::FormSums;
use crate::plan::FormPlan;
use crate::refusal::{Result, refuse};

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
        let mut words = Writer::new(self.integers, self.sum_words(of));
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
                words.put(numbers, &form.name)?;
            }
        }
        Ok(words.words())
    }

    /// All sites' sums. Of a syndrome that too few sites hold there is nothing in them, whatever a site that does not keep to the
    /// rules sent: with a mean of its own, its holders' images would be taken up by the steps that refine a form.
    pub(crate) fn decode_sums(&self, of: SumsOf, sum: &[u32], counts: &Counts) -> Result<Vec<FormSums>> {
        if sum.len() != self.sum_words(of) {
            refuse!(Malformed, "sums of {} words; the plan gives {}", sum.len(), self.sum_words(of));
        }
        let mut numbers = Reader::new(self.integers, sum);
        let forms = self.planned(of).iter().map(|form| {
            let mut sums = FormSums {
                rows: numbers.one()?,
                counts: numbers.take(self.trained)?,
                sums: numbers.take(self.trained * form.dim)?,
                scatter: numbers.take(form.dim * (form.dim + 1) / 2)?,
                lengths: if of == SumsOf::Starts { numbers.one()? } else { 0 },
            };
            for row in (0..self.trained).filter(|&row| !self.travels(counts, row)) {
                sums.counts[row] = 0;
                sums.sums[row * form.dim..(row + 1) * form.dim].fill(0);
            }
            Ok(sums)
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
    use crate::refusal::RefusalKind;

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
            let both = &layout.decode_sums(of, &twice, &counts).unwrap()[0];
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

    /// A member writes numbers for a syndrome of one holder, so that the others' steps take up its images.
    #[test]
    fn a_syndrome_that_too_few_sites_hold_gets_no_mean_from_somebody_who_makes_one_up() {
        let mut plan = toy_plan();
        plan.forms.push(toy_form("form"));
        let (_, counts) = counts();
        let sums = FormSums {
            rows: 9,
            counts: vec![5, 4, 3],
            sums: vec![1, -2, 3, -4, 5, 6],
            scatter: vec![7, -8, 9],
            lengths: 0,
        };
        // The plan that the attacker behaves by, and the one that is in force: row 2 has one holder.
        let lax = Layout::new(&plan, 3, 3).unwrap();
        plan.rows = Rows::Shared(2);
        let layout = Layout::new(&plan, 3, 3).unwrap();
        let words = lax.encode_sums(SumsOf::Forms, std::slice::from_ref(&sums), &counts).unwrap();
        let opened = &layout.decode_sums(SumsOf::Forms, &words, &counts).unwrap()[0];
        assert_eq!((&opened.counts, &opened.sums), (&vec![5, 4, 0], &vec![1, -2, 3, -4, 0, 0]));
        assert_eq!(&lax.decode_sums(SumsOf::Forms, &words, &counts).unwrap()[0], &sums);
    }
}
