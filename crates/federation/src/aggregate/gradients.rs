//! Gradients of the steps that refine closed forms, as words of a secure sum.

use super::numbers::{Reader, Writer};
use super::{Counts, Layout};
use crate::action::GradientSums;
use crate::plan::FormPlan;
use crate::refusal::{Result, refuse};

impl Layout {
    /// The forms that a step (from 0) refines.
    fn refined(&self, step: u32) -> impl Iterator<Item = &FormPlan> {
        self.forms.iter().filter(move |form| form.steps() > step)
    }

    /// Words of a step's gradients.
    pub(super) fn gradient_words(&self, step: u32) -> usize {
        self.refined(step).map(|form| form.gradient_words(self.trained)).sum()
    }

    /// A site's gradients, as words.
    pub(crate) fn encode_gradients(
        &self,
        step: u32,
        gradients: &[GradientSums],
        counts: &Counts,
    ) -> Result<Vec<u32>> {
        let refined = self.refined(step).count();
        if gradients.len() != refined {
            refuse!(Update, "gradients of {} closed forms; the step refines {refined}", gradients.len());
        }
        let mut words = Writer::new(self.integers, self.gradient_words(step));
        for (form, gradient) in self.refined(step).zip(gradients) {
            let name = &form.name;
            let [map, shift, means] = form.gradient_numbers(self.trained);
            if (gradient.map.len(), gradient.shift.len(), gradient.means.len()) != (map, shift, means) {
                refuse!(Update, "the gradient of {name} does not fit {} syndromes", self.trained);
            }
            for (row, numbers) in gradient.means.chunks_exact(form.outputs).enumerate() {
                if !self.travels(counts, row) && numbers.iter().any(|&x| x != 0) {
                    refuse!(
                        Update,
                        "the gradient of {name} shows syndrome row {row}, which too few sites hold; leave it out"
                    );
                }
            }
            let rest = [gradient.loss, gradient.rows];
            for numbers in [&gradient.map[..], &gradient.shift, &gradient.means, &rest] {
                words.put(numbers, name)?;
            }
        }
        Ok(words.words())
    }

    /// All sites' gradients.
    pub(crate) fn decode_gradients(&self, step: u32, sum: &[u32]) -> Result<Vec<GradientSums>> {
        if sum.len() != self.gradient_words(step) {
            refuse!(
                Malformed,
                "gradients of {} words; the plan gives {}",
                sum.len(),
                self.gradient_words(step)
            );
        }
        let mut numbers = Reader::new(self.integers, sum);
        let gradients = self.refined(step).map(|form| {
            let [map, shift, means] = form.gradient_numbers(self.trained);
            Ok(GradientSums {
                map: numbers.take(map)?,
                shift: numbers.take(shift)?,
                means: numbers.take(means)?,
                loss: numbers.one()?,
                rows: numbers.one()?,
            })
        });
        gradients.collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::counts;
    use super::*;
    use crate::plan::tests::{toy_form, toy_plan};
    use crate::plan::{RefinementPlan, Rows};
    use crate::refusal::RefusalKind;

    #[test]
    fn gradients_add_up_and_show_no_syndrome_that_too_few_sites_hold() {
        let mut plan = toy_plan();
        plan.rows = Rows::Shared(2);
        let refinement = |steps| Some(RefinementPlan { steps, rate: 0.1, scale: 16.0 });
        plan.forms = vec![
            FormPlan { refinement: refinement(1), ..toy_form("short") },
            toy_form("form"),
            FormPlan { refinement: refinement(3), outputs: 1, ..toy_form("long") },
        ];
        plan.check().unwrap();
        let (_, counts) = counts();
        let layout = Layout::new(&plan, 3, 3).unwrap();
        // Row 2 has one holder.
        let short = GradientSums {
            map: vec![1 << 40, -2, 3, -4],
            shift: vec![-5, 6],
            means: vec![7, -8, 9, 10, 0, 0],
            loss: 11,
            rows: 12,
        };
        let long =
            GradientSums { map: vec![-1, 2], shift: vec![3], means: vec![-4, 5, 0], loss: 6, rows: 12 };
        let both = [short.clone(), long.clone()];
        let words = layout.encode_gradients(0, &both, &counts).unwrap();
        let thrice: Vec<u32> = words.iter().map(|w| w.wrapping_mul(3)).collect();
        let sum = layout.decode_gradients(0, &thrice).unwrap();
        assert_eq!((&sum[0].map, &sum[0].shift), (&vec![3 << 40, -6, 9, -12], &vec![-15, 18]));
        assert_eq!((&sum[1].means, sum[1].loss, sum[1].rows), (&vec![-12, 15, 0], 18, 36));
        for step in 1..3 {
            let words = layout.encode_gradients(step, std::slice::from_ref(&long), &counts).unwrap();
            assert_eq!(layout.decode_gradients(step, &words).unwrap(), vec![long.clone()], "step {step}");
            assert!(layout.decode_gradients(0, &words).is_err());
        }
        let mut shows = both.clone();
        shows[1].means[2] = 1;
        let error = layout.encode_gradients(0, &shows, &counts).unwrap_err();
        assert_eq!(error.kind(), RefusalKind::Update);
        assert!(error.to_string().contains("long shows syndrome row 2"), "{error}");
        let mut huge = both.clone();
        huge[0].shift[1] = 1 << 60;
        let error = layout.encode_gradients(0, &huge, &counts).unwrap_err().to_string();
        assert!(error.contains("short: "), "{error}");
        let mut cut = both;
        cut[1].map.pop();
        assert_eq!(layout.encode_gradients(0, &cut, &counts).unwrap_err().kind(), RefusalKind::Update);
        assert_eq!(layout.encode_gradients(0, &[short], &counts).unwrap_err().kind(), RefusalKind::Update);
    }
}
