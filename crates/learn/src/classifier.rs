//! Kinds of classifier on the representation, forward and backward.

use crate::error::{Result, TrainError};
use crate::loss::bias_rows;
use crate::matmul::{Mat, matmul};

/// Added to lengths, so that nothing is divided by zero.
const LEAST_LENGTH: f64 = 1e-12;

/// How a classifier scores a representation against the row of a class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Classifier {
    /// Inner product and bias.
    Linear,
    /// `scale` times the cosine, which is what ranking by nearest neighbour sees. The bias is not used.
    Cosine {
        /// Positive.
        scale: f64,
    },
    /// As `Cosine`, and in training the angle to the row of the true class is `margin` wider (Deng et al. 2019).
    ArcFace {
        /// Positive.
        scale: f64,
        /// In radians, from 0 to below pi / 2.
        margin: f64,
    },
}

/// Rows of unit length, and what they were divided by.
struct Directions {
    units: Vec<f32>,
    lengths: Vec<f64>,
}

impl Directions {
    fn new(values: &[f32], dim: usize) -> Self {
        let rows = values.chunks_exact(dim);
        let lengths: Vec<f64> = rows
            .map(|row| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt().max(LEAST_LENGTH))
            .collect();
        let rows = values.chunks_exact(dim).zip(&lengths);
        let units =
            rows.flat_map(|(row, length)| row.iter().map(move |&v| (f64::from(v) / length) as f32)).collect();
        Self { units, lengths }
    }

    /// Turns the gradient of the unit rows into that of the rows: what lies along a row does not change its direction.
    fn backward(&self, grad: &mut [f32], dim: usize) {
        let rows = self.units.chunks_exact(dim).zip(&self.lengths);
        for (grad, (unit, length)) in grad.chunks_exact_mut(dim).zip(rows) {
            let along: f64 = grad.iter().zip(unit).map(|(&g, &u)| f64::from(g) * f64::from(u)).sum();
            for (grad, &unit) in grad.iter_mut().zip(unit) {
                *grad = ((f64::from(*grad) - along * f64::from(unit)) / length) as f32;
            }
        }
    }
}

/// A batch's scores, and what the way back needs.
pub(crate) struct Scored {
    /// Examples x classes; the loss turns them into its gradient in place.
    pub(crate) logits: Vec<f32>,
    angular: Option<Angular>,
}

struct Angular {
    scale: f64,
    /// What the margin multiplies the derivative by, per example: by its label's cosine.
    slopes: Vec<f64>,
    inputs: Directions,
    rows: Directions,
}

/// Gradients of a classifier's weight and bias, and of its input. The bias has none where it is not used.
pub(crate) struct ClassifierGrads {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) input: Vec<f32>,
}

impl Classifier {
    pub(crate) fn check(self) -> Result<()> {
        let (scale, margin) = match self {
            Self::Linear => return Ok(()),
            Self::Cosine { scale } => (scale, 0.0),
            Self::ArcFace { scale, margin } => (scale, margin),
        };
        if !(scale.is_finite() && scale > 0.0) {
            return Err(TrainError::invalid(format!(
                "the classifier's `scale` is {scale}; give a positive number"
            )));
        }
        if !(0.0..std::f64::consts::FRAC_PI_2).contains(&margin) {
            return Err(TrainError::invalid(format!(
                "the classifier's `margin` is {margin}; give radians from 0 to below half of pi"
            )));
        }
        Ok(())
    }

    pub(crate) fn to_numbers(self) -> (u64, f64, f64) {
        match self {
            Self::Linear => (0, 0.0, 0.0),
            Self::Cosine { scale } => (1, scale, 0.0),
            Self::ArcFace { scale, margin } => (2, scale, margin),
        }
    }

    pub(crate) fn from_numbers(kind: u64, scale: f64, margin: f64) -> Result<Self> {
        match kind {
            0 => Ok(Self::Linear),
            1 => Ok(Self::Cosine { scale }),
            2 => Ok(Self::ArcFace { scale, margin }),
            _ => Err(TrainError::format(
                "the training state names a classifier that does not exist; use an earlier state",
            )),
        }
    }

    /// Scores `n` inputs (`n` x `dim`) against the rows of `weight` (classes x `dim`). `labels` are given in training, where the
    /// margin counts.
    pub(crate) fn score(
        self,
        inputs: &[f32],
        weight: &[f32],
        bias: &[f32],
        labels: Option<&[u32]>,
    ) -> Scored {
        let classes = bias.len();
        let dim = weight.len() / classes;
        let n = inputs.len() / dim;
        let (scale, margin) = match self {
            Self::Linear => {
                let mut logits = bias_rows(bias, n);
                matmul(
                    &mut logits,
                    Mat::new(inputs, n, dim, dim),
                    Mat::new(weight, classes, dim, dim).t(),
                    true,
                );
                return Scored { logits, angular: None };
            }
            Self::Cosine { scale } => (scale, 0.0),
            Self::ArcFace { scale, margin } => (scale, margin),
        };
        let (inputs, rows) = (Directions::new(inputs, dim), Directions::new(weight, dim));
        let mut logits = vec![0.0; n * classes];
        let weight = Mat::new(&rows.units, classes, dim, dim);
        matmul(&mut logits, Mat::new(&inputs.units, n, dim, dim), weight.t(), false);
        let mut slopes = vec![1.0; n];
        if margin > 0.0 {
            for ((row, &label), slope) in
                logits.chunks_exact_mut(classes).zip(labels.unwrap_or_default()).zip(&mut slopes)
            {
                let (cosine, by) = widened(f64::from(row[label as usize]), margin);
                row[label as usize] = cosine as f32;
                *slope = by;
            }
        }
        logits.iter_mut().for_each(|logit| *logit = (f64::from(*logit) * scale) as f32);
        Scored { logits, angular: Some(Angular { scale, slopes, inputs, rows }) }
    }
}

/// The cosine of an angle that is `margin` wider, and its derivative by the cosine. Beyond pi it goes on as a straight line.
fn widened(cosine: f64, margin: f64) -> (f64, f64) {
    let cosine = cosine.clamp(-1.0, 1.0);
    if cosine <= -margin.cos() {
        return (cosine - margin * margin.sin(), 1.0);
    }
    // At the angle 0 the derivative has no bound.
    let sine = (1.0 - cosine * cosine).sqrt().max(1e-3);
    (cosine * margin.cos() - sine * margin.sin(), margin.cos() + margin.sin() * cosine / sine)
}

impl Scored {
    /// The gradients, after the loss has turned the scores into its gradient.
    pub(crate) fn backward(mut self, inputs: &[f32], weight: &[f32], labels: &[u32]) -> ClassifierGrads {
        let n = labels.len();
        let (dim, classes) = (inputs.len() / n, self.logits.len() / n);
        let bias = self.angular.is_none().then(|| {
            let mut sums = vec![0.0f32; classes];
            for row in self.logits.chunks_exact(classes) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            sums
        });
        if let Some(angular) = &self.angular {
            for ((row, &label), slope) in
                self.logits.chunks_exact_mut(classes).zip(labels).zip(&angular.slopes)
            {
                row[label as usize] = (f64::from(row[label as usize]) * slope) as f32;
                row.iter_mut().for_each(|value| *value = (f64::from(*value) * angular.scale) as f32);
            }
        }
        let (from, against) = match &self.angular {
            Some(angular) => (&angular.inputs.units[..], &angular.rows.units[..]),
            None => (inputs, weight),
        };
        let grad = Mat::new(&self.logits, n, classes, classes);
        let (mut weight_grad, mut input_grad) = (vec![0.0; classes * dim], vec![0.0; n * dim]);
        rayon::join(
            || matmul(&mut weight_grad, grad.t(), Mat::new(from, n, dim, dim), false),
            || matmul(&mut input_grad, grad, Mat::new(against, classes, dim, dim), false),
        );
        if let Some(angular) = &self.angular {
            angular.rows.backward(&mut weight_grad, dim);
            angular.inputs.backward(&mut input_grad, dim);
        }
        ClassifierGrads { weight: weight_grad, bias, input: input_grad }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::loss::weighted_cross_entropy;
    use safetensors::SafeTensors;

    /// Against PyTorch in float64 (`reference/classifier_vectors.py`): loss and gradients of a batch in which one example lies
    /// beyond pi minus the margin.
    #[test]
    fn losses_and_gradients_equal_pytorchs() {
        let bytes = include_bytes!("../tests/data/classifier.safetensors");
        let file = SafeTensors::deserialize(bytes).unwrap();
        let bytes = |name: &str| file.tensor(name).unwrap().data();
        let read = |name: &str| -> Vec<f32> {
            bytes(name).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let labels: Vec<u32> =
            bytes("labels").chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        let (x, weight, bias, class_weights) =
            (read("x"), read("weight"), read("bias"), read("class_weights"));
        for (name, kind) in [
            ("linear", Classifier::Linear),
            ("cosine", Classifier::Cosine { scale: 16.0 }),
            ("arcface", Classifier::ArcFace { scale: 16.0, margin: 0.5 }),
        ] {
            let mut scored = kind.score(&x, &weight, &bias, Some(&labels));
            let loss = weighted_cross_entropy(&mut scored.logits, &labels, &class_weights).scores().loss;
            let want = f64::from(read(&format!("{name}.loss"))[0]);
            assert!((loss - want).abs() < 2e-6 * want, "{name}: loss {loss} against {want}");
            let grads = scored.backward(&x, &weight, &labels);
            assert_eq!(grads.bias.is_some(), name == "linear");
            for (what, got) in [("x", &grads.input), ("weight", &grads.weight)] {
                let want = read(&format!("{name}.grad_{what}"));
                let largest = want.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                for (got, want) in got.iter().zip(&want) {
                    // Single precision cosines times 16, and slopes of up to about 2.
                    assert!((got - want).abs() < 2e-5 * largest, "{name}, {what}: {got} against {want}");
                }
            }
        }
    }

    #[test]
    fn a_margin_makes_the_true_class_harder_in_training_and_only_there() {
        let (x, weight) = ([1.0, 0.2, -0.5, 0.4], [0.9, 0.1, -0.2, 1.0]);
        let kind = Classifier::ArcFace { scale: 10.0, margin: 0.3 };
        let plain = Classifier::Cosine { scale: 10.0 }.score(&x, &weight, &[0.0; 2], Some(&[0, 1])).logits;
        let wider = kind.score(&x, &weight, &[0.0; 2], Some(&[0, 1])).logits;
        assert!(wider[0] < plain[0] && wider[3] < plain[3]);
        assert_eq!((wider[1], wider[2]), (plain[1], plain[2]));
        assert_eq!(kind.score(&x, &weight, &[0.0; 2], None).logits, plain);
    }

    #[test]
    fn lengths_and_biases_do_not_count_for_a_cosine() {
        let kind = Classifier::Cosine { scale: 4.0 };
        let one = kind.score(&[3.0, 4.0], &[1.0, 0.0, 0.0, 1.0], &[0.0; 2], None).logits;
        let other = kind.score(&[0.6, 0.8], &[5.0, 0.0, 0.0, 0.1], &[9.0, -9.0], None).logits;
        for ((one, other), want) in one.iter().zip(other).zip([2.4, 3.2]) {
            assert!((one - want).abs() < 1e-6 && (other - want).abs() < 1e-6);
        }
        assert!(kind.score(&[0.0, 0.0], &[1.0, 0.0, 0.0, 1.0], &[0.0; 2], None).logits == [0.0, 0.0]);
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        for (kind, key) in [
            (Classifier::Cosine { scale: 0.0 }, "scale"),
            (Classifier::ArcFace { scale: f64::NAN, margin: 0.1 }, "scale"),
            (Classifier::ArcFace { scale: 16.0, margin: 1.6 }, "margin"),
            (Classifier::ArcFace { scale: 16.0, margin: -0.1 }, "margin"),
        ] {
            assert!(kind.check().unwrap_err().to_string().contains(key));
        }
    }
}
