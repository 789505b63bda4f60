//! Training a head, epoch by epoch.

mod plan;
mod state;
mod sweep;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

use crate::adam::{AdamStep, Param};
use crate::error::{ErrorKind, Result, TrainError};
use crate::head::{self, Head, HeadShape};
use crate::loss::{self, BatchLoss};
use crate::norm::{self, Normalised};
use crate::random::{self, Purpose};
use crate::recipe::Recipe;
use crate::source::{self, Example, FeatureSource};

/// What an epoch was like: loss and accuracy as seen in training (batch statistics, dropout on).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpochStats {
    /// Mean cross-entropy over the epoch, each example weighted by its class.
    pub loss: f64,
    /// Share of examples classified correctly, in `[0, 1]`.
    pub accuracy: f64,
    /// Examples seen.
    pub examples: usize,
    /// Updates made.
    pub steps: usize,
}

/// What becomes of Adam's moments when the weights are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moments {
    /// Keep them and the count of updates: training goes on as if nothing had happened.
    Keep,
    /// Set them to zero and start the bias correction afresh.
    Reset,
}

/// A head in training: weights, Adam's moments, and the seed of all random choices.
///
/// Every choice (order, augmented draw, dropout) is a function of the seed, the epoch and the step, so a trainer
/// restored from [`Trainer::state`] goes on bit for bit, and no result depends on the number of threads.
#[derive(Debug, Clone)]
pub struct Trainer {
    shape: HeadShape,
    bn_eps: f32,
    recipe: Recipe,
    class_weights: Vec<f32>,
    seed: u64,
    /// Updates made so far.
    updates: u64,
    /// What the schedule and the pace multiply learning rates by in the epoch under way.
    rate: f64,
    /// See [`Trainer::set_pace`].
    pace: f64,
    /// Input-major (`input` x `dim`), so that the rows a tile of features touches lie together.
    neck_weight: Param,
    neck_bias: Param,
    bn_weight: Param,
    bn_bias: Param,
    bn_mean: Vec<f32>,
    bn_var: Vec<f32>,
    classifier_weight: Param,
    classifier_bias: Param,
    /// Why the trainer refuses to go on.
    poisoned: Option<String>,
}

impl Trainer {
    /// A trainer that starts from `head` with zero moments.
    ///
    /// `class_weights` has one positive weight per class (see [`crate::class_weights`]).
    pub fn new(head: Head, recipe: Recipe, class_weights: &[f32], seed: u64) -> Result<Self> {
        recipe.check()?;
        head.check_finite()?;
        let shape = head.shape();
        head::check_class_weights(class_weights, shape.classes)?;
        let mut trainer = Self {
            shape,
            bn_eps: head.bn_eps(),
            recipe,
            class_weights: class_weights.to_vec(),
            seed,
            updates: 0,
            rate: 1.0,
            pace: 1.0,
            neck_weight: Param::new(transpose(&head.neck_weight, shape.dim, shape.input)),
            neck_bias: Param::new(head.neck_bias),
            bn_weight: Param::new(head.bn_weight),
            bn_bias: Param::new(head.bn_bias),
            bn_mean: head.bn_mean,
            bn_var: head.bn_var,
            classifier_weight: Param::new(head.classifier_weight),
            classifier_bias: Param::new(head.classifier_bias),
            poisoned: None,
        };
        trainer.set_anchor();
        Ok(trainer)
    }

    /// A round begins: the weights as they are now are those that a proximal term pulls towards.
    fn set_anchor(&mut self) {
        if self.recipe.proximal > 0.0 {
            for param in self.params_mut() {
                param.anchor.clone_from(&param.values);
            }
        }
    }

    /// The sizes of the head.
    pub fn shape(&self) -> HeadShape {
        self.shape
    }

    /// The settings.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Updates made since the start or the last reset of the moments.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// A copy of the head as it stands, in PyTorch's layout.
    pub fn head(&self) -> Head {
        let HeadShape { input, dim, .. } = self.shape;
        let mut head = Head::empty(self.shape, self.bn_eps);
        head.neck_weight = transpose(&self.neck_weight.values, input, dim).into();
        head.neck_bias = self.neck_bias.values.clone();
        head.bn_weight = self.bn_weight.values.clone();
        head.bn_bias = self.bn_bias.values.clone();
        head.bn_mean = self.bn_mean.clone();
        head.bn_var = self.bn_var.clone();
        head.classifier_weight = self.classifier_weight.values.clone();
        head.classifier_bias = self.classifier_bias.values.clone();
        head
    }

    /// Replaces all weights and running statistics, for instance by those a round agreed on; a proximal term pulls towards
    /// them from now on.
    ///
    /// Refuses, and changes nothing, if the shape differs or a value is not finite. A poisoned trainer goes on after a
    /// replacement with [`Moments::Reset`], and only then.
    pub fn set_head(&mut self, head: &Head, moments: Moments) -> Result<()> {
        let shape = self.shape;
        if head.shape() != shape || head.bn_eps() != self.bn_eps {
            return Err(TrainError::shape(format!(
                "a head of {:?} (epsilon {}) cannot replace one of {shape:?} (epsilon {}); check that all sites follow the same plan",
                head.shape(),
                head.bn_eps(),
                self.bn_eps
            )));
        }
        if moments == Moments::Keep {
            self.check_poison()?;
        }
        head.check_finite()?;
        self.neck_weight.values = transpose(&head.neck_weight, shape.dim, shape.input);
        self.neck_bias.values.clone_from(&head.neck_bias);
        self.bn_weight.values.clone_from(&head.bn_weight);
        self.bn_bias.values.clone_from(&head.bn_bias);
        self.bn_mean.clone_from(&head.bn_mean);
        self.bn_var.clone_from(&head.bn_var);
        self.classifier_weight.values.clone_from(&head.classifier_weight);
        self.classifier_bias.values.clone_from(&head.classifier_bias);
        self.set_anchor();
        if moments == Moments::Reset {
            self.updates = 0;
            self.poisoned = None;
            for param in self.params_mut() {
                param.first.fill(0.0);
                param.second.fill(0.0);
            }
        }
        Ok(())
    }

    fn params_mut(&mut self) -> [&mut Param; 6] {
        [
            &mut self.neck_weight,
            &mut self.neck_bias,
            &mut self.bn_weight,
            &mut self.bn_bias,
            &mut self.classifier_weight,
            &mut self.classifier_bias,
        ]
    }

    fn check_poison(&self) -> Result<()> {
        match &self.poisoned {
            Some(cause) => Err(TrainError::new(
                ErrorKind::Poisoned,
                format!(
                    "the trainer stopped earlier ({cause}); restore its last saved state, or replace the head and reset the moments"
                ),
            )),
            None => Ok(()),
        }
    }

    /// What learning rates are multiplied by from now on, besides the schedule's factors; 1 before it is set, and in a trainer
    /// that was restored.
    ///
    /// # Errors
    ///
    /// When it is not above 0, or above 1.
    pub fn set_pace(&mut self, pace: f64) -> Result<()> {
        if !(pace > 0.0 && pace <= 1.0) {
            return Err(TrainError::invalid(format!("a pace of {pace} must be above 0, at most 1")));
        }
        self.pace = pace;
        Ok(())
    }

    /// Trains on every example once, in a random order and on a random draw of each.
    ///
    /// The last batch may be short; a single example, which cannot be batch-normalised, joins the batch before it.
    /// `epoch` is the number of the epoch (any order is allowed; the same number makes the same random choices).
    ///
    /// Refuses fewer than two examples, and rows or labels out of range, without a change. If a loss, gradient or weight
    /// stops being finite, the error names it with epoch and step, the update that would have used it is not made,
    /// and the trainer is poisoned: it refuses further epochs until it is restored or its head replaced.
    pub fn epoch(&mut self, data: &dyn FeatureSource, rows: &[Example], epoch: u32) -> Result<EpochStats> {
        self.check_poison()?;
        source::check(data, rows, self.shape.input, self.shape.classes)?;
        if rows.len() < 2 {
            return Err(TrainError::invalid(format!(
                "training needs at least two images but got {}; a single one cannot be batch-normalised",
                rows.len()
            )));
        }
        let result = self.run_epoch(data, rows, epoch);
        if let Err(error) = &result {
            self.poisoned = Some(error.to_string());
        }
        result
    }

    fn run_epoch(&mut self, data: &dyn FeatureSource, rows: &[Example], epoch: u32) -> Result<EpochStats> {
        self.rate = self.pace * self.recipe.rates.factor(epoch);
        let batches = plan::batches(rows, self.seed, epoch, self.recipe.batch, data.draws());
        let mut totals = BatchLoss::default();
        let mut mask = Vec::new();
        let mut features = Vec::new();
        gather(data, &batches[0], &mut features);
        let mut next_features = Vec::new();
        let mut partials = Vec::new();
        let mut projected = Vec::new();
        let first = Some((&features[..], batches[0].len()));
        sweep::sweep(&mut self.neck_weight, self.shape, None, first, &mut partials, &mut projected);
        for (step, batch) in batches.iter().enumerate() {
            mask.resize(batch.len() * self.shape.dim, 0.0);
            let mut rng = random::stream(self.seed, Purpose::Dropout, epoch, step as u32);
            random::dropout(&mut rng, self.recipe.dropout, &mut mask);
            let labels: Vec<u32> = batch.iter().map(|pick| pick.example.label).collect();
            let (loss, neck_grad) = self
                .update_small(&mut projected, &labels, &mask)
                .map_err(|tensor| self.diagnose(epoch, step, tensor, &features, batch))?;
            totals.add(&loss);
            let next = batches.get(step + 1);
            if let Some(next) = next {
                gather(data, next, &mut next_features);
            }
            let update = sweep::Update { features: &features, grad: &neck_grad, step: self.neck_step() };
            let next = next.map(|next| (&next_features[..], next.len()));
            sweep::sweep(
                &mut self.neck_weight,
                self.shape,
                Some(update),
                next,
                &mut partials,
                &mut projected,
            );
            std::mem::swap(&mut features, &mut next_features);
        }
        self.check_weights(epoch)?;
        let scores = totals.scores();
        Ok(EpochStats {
            loss: scores.loss,
            accuracy: scores.accuracy,
            examples: scores.examples,
            steps: batches.len(),
        })
    }

    /// Adam's constants for the neck in the update under way.
    fn neck_step(&self) -> AdamStep {
        AdamStep::new(&self.recipe, self.recipe.neck_lr * self.rate, self.recipe.neck_wd, self.updates)
    }

    /// Everything of a step but the neck's weight: from `projected` (`n` x `dim`, without bias) forward to the loss and
    /// back, updating all small tensors and running statistics. Returns the loss and the gradient of the neck's
    /// output.
    ///
    /// `mask` is what dropout multiplies each representation by. If the loss or a gradient is not finite, its name is
    /// returned and nothing has changed.
    fn update_small(
        &mut self,
        projected: &mut [f32],
        labels: &[u32],
        mask: &[f32],
    ) -> std::result::Result<(BatchLoss, Vec<f32>), &'static str> {
        let HeadShape { dim, .. } = self.shape;
        let n = labels.len();
        for row in projected.chunks_exact_mut(dim) {
            for (value, bias) in row.iter_mut().zip(&self.neck_bias.values) {
                *value += bias;
            }
        }
        let mut normalised = Normalised::default();
        norm::standardise(projected, dim, self.bn_eps, &mut normalised);
        let mut dropped = vec![0.0; n * dim];
        for ((out, standard), mask) in dropped
            .chunks_exact_mut(dim)
            .zip(normalised.standard.chunks_exact(dim))
            .zip(mask.chunks_exact(dim))
        {
            for j in 0..dim {
                out[j] = (standard[j] * self.bn_weight.values[j] + self.bn_bias.values[j]) * mask[j];
            }
        }
        let weight = &self.classifier_weight.values;
        let mut scored =
            self.recipe.classifier.score(&dropped, weight, &self.classifier_bias.values, Some(labels));
        let loss = loss::weighted_cross_entropy(&mut scored.logits, labels, &self.class_weights);
        if !loss.weighted_loss.is_finite() {
            return Err("loss");
        }

        let grads = scored.backward(&dropped, weight, labels);
        let (weight_grad, bias_grad, mut grad) = (grads.weight, grads.bias, grads.input);
        for (grad, mask) in grad.iter_mut().zip(mask) {
            *grad *= mask;
        }
        let (scale_grad, shift_grad) = norm::backward(&mut grad, &normalised, &self.bn_weight.values);
        for (name, values) in [
            ("gradient of classifier.weight", &weight_grad),
            ("gradient of classifier.bias", bias_grad.as_ref().unwrap_or(&Vec::new())),
            ("gradient of bn.weight", &scale_grad),
            ("gradient of bn.bias", &shift_grad),
            ("gradient of the neck's output", &grad),
        ] {
            if values.iter().any(|value| !value.is_finite()) {
                return Err(name);
            }
        }

        self.updates += 1;
        let recipe = &self.recipe;
        let neck = self.neck_step();
        let rate = recipe.classifier_lr * self.rate;
        let classifier = AdamStep::new(recipe, rate, recipe.classifier_wd, self.updates);
        // BatchNorm subtracts the mean, so the true gradient of the bias before it is zero. A computed one would be
        // rounding noise, which Adam's normalisation would blow up.
        self.neck_bias.update(neck, &vec![0.0; dim]);
        self.bn_weight.update(neck, &scale_grad);
        self.bn_bias.update(neck, &shift_grad);
        self.classifier_weight.update(classifier, &weight_grad);
        if let Some(bias_grad) = &bias_grad {
            self.classifier_bias.update(classifier, bias_grad);
        }
        norm::track(&mut self.bn_mean, &normalised.mean, recipe.bn_momentum);
        norm::track(&mut self.bn_var, &normalised.variance, recipe.bn_momentum);
        Ok((loss, grad))
    }

    /// Says where a value that is not finite came from.
    fn diagnose(
        &self,
        epoch: u32,
        step: usize,
        what: &str,
        features: &[f32],
        batch: &[plan::Pick],
    ) -> TrainError {
        let place = format!("epoch {epoch}, step {step}: the {what} is not finite");
        let bad_row = batch
            .iter()
            .zip(features.chunks_exact(self.shape.input))
            .find(|(_, row)| row.iter().any(|value| !value.is_finite()));
        TrainError::non_finite(match (bad_row, self.non_finite_tensor()) {
            (Some((pick, _)), _) => format!(
                "{place} because row {} draw {} of the feature table holds a value that is not; compute its features again",
                pick.example.row, pick.draw
            ),
            (None, Some(name)) => format!(
                "{place} because tensor {name} is not; restore the last saved state and lower the learning rate"
            ),
            (None, None) => format!(
                "{place} though all weights and features are; restore the last saved state and lower the learning rate"
            ),
        })
    }

    fn non_finite_tensor(&self) -> Option<&'static str> {
        let tensors = [
            &self.neck_weight.values,
            &self.neck_bias.values,
            &self.bn_weight.values,
            &self.bn_bias.values,
            &self.bn_mean,
            &self.bn_var,
            &self.classifier_weight.values,
            &self.classifier_bias.values,
        ];
        let broken = |values: &[f32]| {
            values.par_chunks(1 << 16).any(|chunk| chunk.iter().any(|value| !value.is_finite()))
        };
        Head::TENSORS.into_iter().zip(tensors).find(|(_, values)| broken(values)).map(|(name, _)| name)
    }

    fn check_weights(&self, epoch: u32) -> Result<()> {
        match self.non_finite_tensor() {
            Some(name) => Err(TrainError::non_finite(format!(
                "epoch {epoch}, after its last step: tensor {name} is not finite; restore the last saved state and lower the learning rate"
            ))),
            None => Ok(()),
        }
    }
}

/// Sets `features` to those of a batch: `batch.len()` x `dim`, row-major.
fn gather(data: &dyn FeatureSource, batch: &[plan::Pick], features: &mut Vec<f32>) {
    features.resize(batch.len() * data.dim(), 0.0);
    features
        .par_chunks_exact_mut(data.dim())
        .zip(batch)
        .for_each(|(out, pick)| data.copy_row(pick.example.row, pick.draw, out));
}

/// The transpose of the `rows` x `cols` matrix `values`.
fn transpose(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    /// A square block of this side stays in the first-level cache.
    const SIDE: usize = 32;
    let mut out = vec![0.0; values.len()];
    out.par_chunks_mut(SIDE * rows).enumerate().for_each(|(block, out)| {
        let first = block * SIDE;
        for start in (0..rows).step_by(SIDE) {
            for (i, out) in out.chunks_exact_mut(rows).enumerate() {
                for j in start..rows.min(start + SIDE) {
                    out[j] = values[j * cols + first + i];
                }
            }
        }
    });
    out
}
