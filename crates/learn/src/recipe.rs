//! What a training is told: batch, learning rates, decay, dropout, class weights.

use crate::classifier::Classifier;
use crate::error::{Result, TrainError};
use crate::schedule::RateSchedule;

/// The settings of one member's training.
///
/// The neck (weight, bias, BatchNorm scale and shift) and the classifier are two parameter groups of one
/// Adam; weight decay is added to the gradient, as `torch.optim.Adam(weight_decay=..)` does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipe {
    /// Examples per step, at least 2 (a single example cannot be batch-normalised).
    pub batch: usize,
    /// Learning rate of the neck.
    pub neck_lr: f64,
    /// L2 weight decay of the neck.
    pub neck_wd: f64,
    /// Learning rate of the classifier.
    pub classifier_lr: f64,
    /// L2 weight decay of the classifier.
    pub classifier_wd: f64,
    /// Probability in `[0, 1)` with which dropout zeroes a value of the representation.
    pub dropout: f64,
    /// Adam's decay of the first moment, in `[0, 1)`.
    pub beta1: f64,
    /// Adam's decay of the second moment, in `[0, 1)`.
    pub beta2: f64,
    /// Added to Adam's denominator; positive.
    pub adam_eps: f64,
    /// Weight of the newest batch in BatchNorm's running statistics, in `[0, 1]`.
    pub bn_momentum: f64,
    /// Strength of the pull back to the weights that a round began with, not negative (FedProx, Li et al. 2020): `proximal`
    /// times the distance is added to the gradient.
    pub proximal: f64,
    /// How the classifier scores.
    pub classifier: Classifier,
    /// What both learning rates are multiplied by, epoch by epoch.
    pub rates: RateSchedule,
}

impl Recipe {
    /// The member on the tuned iResNet-50 trunk.
    pub fn r50() -> Self {
        Self {
            batch: 64,
            neck_lr: 5e-4,
            neck_wd: 5e-5,
            classifier_lr: 1e-3,
            classifier_wd: 5e-4,
            dropout: 0.5,
            beta1: 0.9,
            beta2: 0.999,
            adam_eps: 1e-8,
            bn_momentum: 0.1,
            proximal: 0.0,
            classifier: Classifier::Linear,
            rates: RateSchedule::Constant,
        }
    }

    /// The member on the tuned iResNet-100 trunk.
    pub fn r100() -> Self {
        Self { batch: 128, neck_lr: 1e-3, neck_wd: 0.0, ..Self::r50() }
    }

    /// Refuses settings outside the ranges given at the fields, naming the first.
    pub fn check(&self) -> Result<()> {
        self.classifier.check()?;
        let non_negative = |x: f64| x.is_finite() && x >= 0.0;
        let below_one = |x: f64| (0.0..1.0).contains(&x);
        let checks = [
            ("batch", self.batch >= 2, "at least 2"),
            ("neck_lr", non_negative(self.neck_lr), "finite and not negative"),
            ("neck_wd", non_negative(self.neck_wd), "finite and not negative"),
            ("classifier_lr", non_negative(self.classifier_lr), "finite and not negative"),
            ("classifier_wd", non_negative(self.classifier_wd), "finite and not negative"),
            ("dropout", below_one(self.dropout), "at least 0 and below 1"),
            ("beta1", below_one(self.beta1), "at least 0 and below 1"),
            ("beta2", below_one(self.beta2), "at least 0 and below 1"),
            ("adam_eps", self.adam_eps.is_finite() && self.adam_eps > 0.0, "finite and positive"),
            ("proximal", non_negative(self.proximal), "finite and not negative"),
            ("bn_momentum", (0.0..=1.0).contains(&self.bn_momentum), "between 0 and 1"),
        ];
        match checks.iter().find(|(_, holds, _)| !holds) {
            Some((field, _, range)) => Err(TrainError::invalid(format!(
                "the recipe's `{field}` must be {range}; correct it in the plan ({self:?})"
            ))),
            None => Ok(()),
        }
    }
}

/// The weight of every class in the loss: `0.5 + 0.5 * min_count / count`, where `min_count` is the smallest
/// count that is not zero.
///
/// A class nobody has a photograph of cannot be a label, so its weight is never used; it is 1, as for the
/// rarest class. `counts` are images per class over all sites.
pub fn class_weights(counts: &[u32]) -> Vec<f32> {
    let smallest = counts.iter().copied().filter(|&count| count > 0).min();
    counts
        .iter()
        .map(|&count| match smallest {
            Some(smallest) if count > 0 => (0.5 + 0.5 * f64::from(smallest) / f64::from(count)) as f32,
            _ => 1.0,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rarest_class_weighs_one_and_the_others_tend_to_a_half() {
        assert_eq!(class_weights(&[10, 5, 50, 5]), [0.75, 1.0, 0.55, 1.0]);
    }

    #[test]
    fn classes_without_images_neither_count_as_rarest_nor_divide_by_zero() {
        assert_eq!(class_weights(&[0, 4, 8]), [1.0, 1.0, 0.75]);
        assert_eq!(class_weights(&[0, 0]), [1.0, 1.0]);
        assert!(class_weights(&[]).is_empty());
    }

    #[test]
    fn a_recipe_out_of_range_is_refused_by_the_name_of_its_field() {
        assert!(Recipe::r50().check().is_ok() && Recipe::r100().check().is_ok());
        type Spoil = fn(&mut Recipe);
        let cases: [(&str, Spoil); 6] = [
            ("proximal", |r| r.proximal = -1.0),
            ("batch", |r| r.batch = 1),
            ("neck_lr", |r| r.neck_lr = f64::NAN),
            ("dropout", |r| r.dropout = 1.0),
            ("beta2", |r| r.beta2 = 1.0),
            ("adam_eps", |r| r.adam_eps = 0.0),
        ];
        for (field, spoil) in cases {
            let mut recipe = Recipe::r50();
            spoil(&mut recipe);
            let error = recipe.check().expect_err(field);
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
