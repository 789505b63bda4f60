//! Weighted cross-entropy and its gradient.

/// How well a head does on a set of examples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// Mean cross-entropy, each example weighted by its class.
    pub loss: f64,
    /// Share of the examples whose class has the largest logit, in `[0, 1]`.
    pub accuracy: f64,
    /// How many examples.
    pub examples: usize,
}

/// Sums over one or more batches.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BatchLoss {
    pub(crate) weighted_loss: f64,
    pub(crate) weight: f64,
    pub(crate) correct: usize,
    pub(crate) examples: usize,
}

impl BatchLoss {
    pub(crate) fn add(&mut self, other: &Self) {
        self.weighted_loss += other.weighted_loss;
        self.weight += other.weight;
        self.correct += other.correct;
        self.examples += other.examples;
    }

    pub(crate) fn scores(&self) -> Scores {
        Scores {
            loss: self.weighted_loss / self.weight,
            accuracy: self.correct as f64 / self.examples as f64,
            examples: self.examples,
        }
    }
}

/// `rows` copies of `bias`, to accumulate logits on.
pub(crate) fn bias_rows(bias: &[f32], rows: usize) -> Vec<f32> {
    bias.iter().copied().cycle().take(bias.len() * rows).collect()
}

/// The loss of `logits` (examples x classes), which are turned in place into its gradient: with class weights `w`,
/// `sum w l / sum w` over the batch, as PyTorch's `reduction="mean"`.
pub(crate) fn weighted_cross_entropy(logits: &mut [f32], labels: &[u32], class_weights: &[f32]) -> BatchLoss {
    let classes = class_weights.len();
    let mut sums = BatchLoss {
        weight: labels.iter().map(|&label| f64::from(class_weights[label as usize])).sum(),
        examples: labels.len(),
        ..BatchLoss::default()
    };
    for (row, &label) in logits.chunks_exact_mut(classes).zip(labels) {
        let label = label as usize;
        let mut best = 0;
        for (class, &logit) in row.iter().enumerate() {
            if logit > row[best] {
                best = class;
            }
        }
        sums.correct += usize::from(best == label);
        let largest = row[best];
        let at_label = f64::from(row[label] - largest);
        let mut total = 0.0f64;
        for logit in row.iter_mut() {
            *logit = (*logit - largest).exp();
            total += f64::from(*logit);
        }
        let weight = f64::from(class_weights[label]);
        sums.weighted_loss += weight * (total.ln() - at_label);
        let per_probability = (weight / sums.weight / total) as f32;
        row.iter_mut().for_each(|value| *value *= per_probability);
        row[label] -= (weight / sums.weight) as f32;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_weighted_by_class_and_the_gradient_sums_to_zero() {
        // Equal logits: every example costs ln 2, whatever its weight.
        let mut logits = [3.0, 3.0, -1.0, -1.0];
        let loss = weighted_cross_entropy(&mut logits, &[0, 1], &[1.0, 0.5]);
        let scores = loss.scores();
        assert!((scores.loss - 2.0f64.ln()).abs() < 1e-7);
        assert_eq!((scores.accuracy, scores.examples), (0.5, 2));
        let expected = [-1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0, -1.0 / 6.0];
        for (got, want) in logits.iter().zip(expected) {
            assert!((got - want).abs() < 1e-6, "{logits:?}");
        }
    }

    #[test]
    fn huge_logits_do_not_overflow_and_nan_is_not_hidden() {
        let mut logits = [1e30, -1e30];
        assert!(weighted_cross_entropy(&mut logits, &[0], &[1.0, 1.0]).weighted_loss.abs() < 1e-7);
        for broken in [[f32::NAN, 0.0], [0.0, f32::NAN], [f32::INFINITY, 0.0]] {
            let mut logits = broken;
            let loss = weighted_cross_entropy(&mut logits, &[1], &[1.0, 1.0]);
            assert!(!loss.weighted_loss.is_finite(), "{broken:?}");
        }
    }
}
