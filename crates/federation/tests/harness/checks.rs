//! What a site opens is what the sites that took part have put in.

use federation::*;

use super::*;

impl World {
    /// What the sites' deltas average to, written out plainly.
    pub(super) fn check_average(&self, site: usize, apply: &Apply) {
        let begin = self.sites[site].begin.as_ref().unwrap();
        let own = |s: usize| -> Vec<u32> {
            begin.trained.iter().map(|id| self.sites[s].holdings.get(id).copied().unwrap_or(0)).collect()
        };
        let present: Vec<usize> = apply.sites.iter().map(|s| usize::from(s.0)).collect();
        assert_eq!(apply.metrics.images, 10.0 * present.len() as f64);
        let loss: f64 = present.iter().map(|&s| 1.5 * (s + 1) as f64).sum();
        assert!((apply.metrics.loss - loss).abs() < 1e-5);
        for (m, member) in self.plan.members.iter().enumerate() {
            for (t, spec) in member.tensors.iter().enumerate() {
                let width: usize = spec.shape.iter().product();
                for (e, &got) in apply.deltas[m][t].iter().enumerate() {
                    let row = (spec.kind == TensorKind::ClassifierRows).then(|| e / width);
                    let (mut total, mut weight) = (0.0, 0.0);
                    for &s in &present {
                        let own = own(s);
                        let w = match (self.plan.aggregation, row) {
                            (Aggregation::EncoderOnly, Some(_)) => 0.0,
                            (_, Some(r)) if matches!(self.plan.rows, Rows::Shared(k) if begin.holders[r] < u32::from(k)) => {
                                0.0
                            }
                            (Aggregation::Mean, _) => 1.0,
                            (Aggregation::SyndromeRows, Some(r)) => f64::from(own[r]),
                            _ => own.iter().sum::<u32>() as f64,
                        };
                        total += w * f64::from(delta(s, apply.round, m, t, e));
                        weight += w;
                    }
                    let want = if weight > 0.0 { total / weight } else { 0.0 };
                    // Half a fixed-point step (2 x 16 sites / 2^31) per site, over the least weight (about 1 / 200).
                    assert!((f64::from(got) - want).abs() < 5e-5, "round {}: {got} {want}", apply.round);
                }
            }
        }
    }

    /// The sites' gradients, added plainly.
    pub(super) fn check_gradients(&self, site: usize, refine: &Refine) {
        let begin = self.sites[site].begin.as_ref().unwrap();
        let refined = self.plan.forms.iter().filter(|form| form.steps() > refine.step);
        assert_eq!(refined.clone().count(), refine.gradients.len());
        for (form, got) in refined.zip(&refine.gradients) {
            let all = refine
                .sites
                .iter()
                .map(|other| gradient_sums(usize::from(other.0), refine.step, begin, form));
            let want = all.reduce(|mut sum, other| {
                let add = |to: &mut Vec<i64>, from: &[i64]| {
                    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
                };
                add(&mut sum.map, &other.map);
                add(&mut sum.shift, &other.shift);
                add(&mut sum.means, &other.means);
                GradientSums { loss: sum.loss + other.loss, rows: sum.rows + other.rows, ..sum }
            });
            assert_eq!(Some(got), want.as_ref());
        }
    }

    /// The sites' numbers, added plainly.
    pub(super) fn check_sums(
        &self,
        site: usize,
        solve: &Solve,
        forms: &[FormPlan],
        of: fn(usize, &Begin, &FormPlan) -> FormSums,
    ) {
        let begin = self.sites[site].begin.as_ref().unwrap();
        assert_eq!(forms.len(), solve.sums.len());
        for (form, got) in forms.iter().zip(&solve.sums) {
            let mut want = of(usize::from(solve.sites[0].0), begin, form);
            for other in &solve.sites[1..] {
                let other = of(usize::from(other.0), begin, form);
                want.rows += other.rows;
                want.lengths += other.lengths;
                let add = |to: &mut Vec<i64>, from: &[i64]| {
                    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
                };
                add(&mut want.counts, &other.counts);
                add(&mut want.sums, &other.sums);
                add(&mut want.scatter, &other.scatter);
            }
            assert_eq!(*got, want);
        }
    }
}
