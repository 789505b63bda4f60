//! The trainable part of the extractor as plain tensors, in PyTorch's layout.

use rayon::prelude::*;

use crate::classifier::Classifier;
use crate::error::{Result, TrainError};
use crate::loss::{self, Scores};
use crate::matmul::map_rows;
use crate::norm;
use crate::random::{self, Purpose};
use crate::source::{self, Example, FeatureSource};
use crate::values::Values;

/// Examples scored at once in [`Head::evaluate`].
const EVALUATION_BATCH: usize = 256;

/// The sizes of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Features the trunk gives (25,088 for iResNet).
    pub input: usize,
    /// Values of a representation (512 for iResNet).
    pub dim: usize,
    /// Syndromes the classifier tells apart.
    pub classes: usize,
}

/// The starting weights of a neck: `Linear(input, output)` followed by `BatchNorm1d(output)`.
#[derive(Debug, Clone, PartialEq)]
pub struct NeckInit {
    /// Features in.
    pub input: usize,
    /// Values out.
    pub output: usize,
    /// `output` x `input`, row-major.
    pub weight: Values,
    /// `output` values.
    pub bias: Vec<f32>,
    /// BatchNorm's scale, `output` values.
    pub bn_weight: Vec<f32>,
    /// BatchNorm's shift, `output` values.
    pub bn_bias: Vec<f32>,
    /// BatchNorm's running mean, `output` values.
    pub bn_mean: Vec<f32>,
    /// BatchNorm's running variance, `output` values, none negative.
    pub bn_var: Vec<f32>,
    /// BatchNorm's epsilon, positive.
    pub bn_eps: f32,
}

/// A tensor of a head, borrowed.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorView<'a> {
    /// Its name, as in a safetensors file.
    pub name: &'static str,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: &'a [f32],
}

/// Neck and classifier: what a training changes and a round aggregates.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    shape: HeadShape,
    bn_eps: f32,
    pub(crate) neck_weight: Values,
    pub(crate) neck_bias: Vec<f32>,
    pub(crate) bn_weight: Vec<f32>,
    pub(crate) bn_bias: Vec<f32>,
    pub(crate) bn_mean: Vec<f32>,
    pub(crate) bn_var: Vec<f32>,
    pub(crate) classifier_weight: Vec<f32>,
    pub(crate) classifier_bias: Vec<f32>,
}

impl Head {
    /// The names of the tensors, in the order of [`Head::tensors`].
    pub const TENSORS: [&'static str; 8] = [
        "neck.weight",
        "neck.bias",
        "bn.weight",
        "bn.bias",
        "bn.running_mean",
        "bn.running_var",
        "classifier.weight",
        "classifier.bias",
    ];

    /// PyTorch's default epsilon of BatchNorm.
    pub const BN_EPS: f32 = 1e-5;

    /// A head whose weights are all zero and whose BatchNorm passes its input on, to be filled with
    /// [`Head::set_tensor`].
    ///
    /// Refuses a dimension of zero, more than `u32::MAX` classes, sizes whose product overflows, and an epsilon that
    /// is not positive.
    pub fn zeros(shape: HeadShape, bn_eps: f32) -> Result<Self> {
        let HeadShape { input, dim, classes } = shape;
        let weights = input.checked_mul(dim).zip(classes.checked_mul(dim));
        let Some((neck, classifier)) = weights.filter(|&(neck, classifier)| {
            neck > 0
                && classifier > 0
                && neck.max(classifier) <= isize::MAX as usize / 16
                && u32::try_from(classes).is_ok()
        }) else {
            return Err(TrainError::shape(format!(
                "a head of {input} features, dimension {dim} and {classes} classes cannot be built; all three must be at least 1"
            )));
        };
        if !(bn_eps.is_finite() && bn_eps > 0.0) {
            return Err(TrainError::invalid(format!(
                "BatchNorm's epsilon is {bn_eps}; give a small positive number such as 1e-5"
            )));
        }
        Ok(Self {
            neck_weight: vec![0.0; neck].into(),
            neck_bias: vec![0.0; dim],
            bn_weight: vec![1.0; dim],
            bn_bias: vec![0.0; dim],
            bn_mean: vec![0.0; dim],
            bn_var: vec![1.0; dim],
            classifier_weight: vec![0.0; classifier],
            classifier_bias: vec![0.0; classes],
            ..Self::empty(shape, bn_eps)
        })
    }

    /// A head whose tensors the caller fills in.
    pub(crate) fn empty(shape: HeadShape, bn_eps: f32) -> Self {
        Self {
            shape,
            bn_eps,
            neck_weight: Vec::new().into(),
            neck_bias: Vec::new(),
            bn_weight: Vec::new(),
            bn_bias: Vec::new(),
            bn_mean: Vec::new(),
            bn_var: Vec::new(),
            classifier_weight: Vec::new(),
            classifier_bias: Vec::new(),
        }
    }

    /// A head that starts from a trunk's own neck, with a random classifier for `classes` syndromes.
    ///
    /// The classifier starts uniformly in ±1/sqrt(output), as PyTorch's `Linear`, from `seed`.
    pub fn from_neck(neck: NeckInit, classes: usize, seed: u64) -> Result<Self> {
        let shape = HeadShape { input: neck.input, dim: neck.output, classes };
        let mut head = Self::zeros(shape, neck.bn_eps)?;
        head.set_neck_weight(neck.weight)?;
        head.set_tensor("neck.bias", &neck.bias)?;
        head.set_tensor("bn.weight", &neck.bn_weight)?;
        head.set_tensor("bn.bias", &neck.bn_bias)?;
        head.set_tensor("bn.running_mean", &neck.bn_mean)?;
        head.set_tensor("bn.running_var", &neck.bn_var)?;
        let mut rng = random::stream(seed, Purpose::Init, 0, 0);
        let bound = (1.0 / (shape.dim as f64).sqrt()) as f32;
        random::uniform(&mut rng, bound, &mut head.classifier_weight);
        random::uniform(&mut rng, bound, &mut head.classifier_bias);
        Ok(head)
    }

    /// A head for a trunk that is a generic embedder: the neck starts as the identity and BatchNorm with running mean
    /// 0 and variance 1, so that `represent` starts as the embedding itself (up to BatchNorm's epsilon).
    ///
    /// In training the batch's own statistics standardise every coordinate; where that is not wanted, see
    /// [`Head::identity_calibrated`].
    pub fn identity(dim: usize, classes: usize, seed: u64) -> Result<Self> {
        Self::from_neck(identity_neck(dim)?, classes, seed)
    }

    /// As [`Head::identity`], but with BatchNorm calibrated to the data: running statistics `mean` and `var` (of each
    /// of the `dim` features over the training images), scale `sqrt(var + eps)` and shift `mean`.
    ///
    /// Its output is the embedding itself in evaluation, and up to the batch's sampling error in training. A
    /// federation must give every site the same `mean` and `var`.
    pub fn identity_calibrated(
        dim: usize,
        classes: usize,
        seed: u64,
        mean: &[f32],
        var: &[f32],
    ) -> Result<Self> {
        let mut head = Self::identity(dim, classes, seed)?;
        head.set_tensor("bn.running_mean", mean)?;
        head.set_tensor("bn.running_var", var)?;
        head.bn_bias.copy_from_slice(mean);
        for (weight, &var) in head.bn_weight.iter_mut().zip(var) {
            *weight = (f64::from(var) + f64::from(head.bn_eps)).sqrt() as f32;
        }
        Ok(head)
    }

    /// The sizes.
    pub fn shape(&self) -> HeadShape {
        self.shape
    }

    /// BatchNorm's epsilon.
    pub fn bn_eps(&self) -> f32 {
        self.bn_eps
    }

    /// All tensors, always in the order of [`Head::TENSORS`]. Weights are `out x in`, as in PyTorch.
    pub fn tensors(&self) -> Vec<TensorView<'_>> {
        let HeadShape { input, dim, classes } = self.shape;
        let shapes = [
            vec![dim, input],
            vec![dim],
            vec![dim],
            vec![dim],
            vec![dim],
            vec![dim],
            vec![classes, dim],
            vec![classes],
        ];
        let values: [&[f32]; 8] = [
            &self.neck_weight,
            &self.neck_bias,
            &self.bn_weight,
            &self.bn_bias,
            &self.bn_mean,
            &self.bn_var,
            &self.classifier_weight,
            &self.classifier_bias,
        ];
        Self::TENSORS
            .into_iter()
            .zip(shapes)
            .zip(values)
            .map(|((name, shape), values)| TensorView { name, shape, values })
            .collect()
    }

    /// Replaces a tensor by `values`, row-major.
    ///
    /// Refuses, and changes nothing, if the name is not one of [`Head::TENSORS`], if the length differs, or if a value
    /// is not finite, or negative in `bn.running_var`.
    pub fn set_tensor(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let tensor = match name {
            "neck.weight" => return self.set_neck_weight(values.to_vec().into()),
            "neck.bias" => &mut self.neck_bias,
            "bn.weight" => &mut self.bn_weight,
            "bn.bias" => &mut self.bn_bias,
            "bn.running_mean" => &mut self.bn_mean,
            "bn.running_var" => &mut self.bn_var,
            "classifier.weight" => &mut self.classifier_weight,
            "classifier.bias" => &mut self.classifier_bias,
            _ => {
                return Err(TrainError::invalid(format!(
                    "a head has no tensor {name:?}; its tensors are {}",
                    Self::TENSORS.join(", ")
                )));
            }
        };
        Self::check_tensor(name, tensor.len(), values)?;
        tensor.copy_from_slice(values);
        Ok(())
    }

    /// Replaces `neck.weight`, row-major, without a copy.
    ///
    /// Refuses what [`Head::set_tensor`] does, and changes nothing then.
    pub fn set_neck_weight(&mut self, weight: Values) -> Result<()> {
        Self::check_tensor("neck.weight", self.neck_weight.len(), &weight)?;
        self.neck_weight = weight;
        Ok(())
    }

    /// The representations of `n` feature vectors (`n` x `input`, row-major) in evaluation mode: `n` x `dim`.
    ///
    /// Uses every core; a representation does not depend on the number of threads nor on the rest of its batch.
    pub fn represent(&self, features: &[f32], n: usize) -> Result<Vec<f32>> {
        let HeadShape { input, dim, .. } = self.shape;
        if n.checked_mul(input) != Some(features.len()) {
            return Err(TrainError::shape(format!(
                "{n} x {input} features expected but {} values given; compute them with the head's own trunk",
                features.len()
            )));
        }
        let (scale, shift) =
            norm::folded(&self.bn_weight, &self.bn_bias, &self.bn_mean, &self.bn_var, self.bn_eps);
        let mut out = map_rows(features, n, &self.neck_weight, input);
        out.par_chunks_exact_mut(dim).for_each(|row| {
            for (j, value) in row.iter_mut().enumerate() {
                *value = (*value + self.neck_bias[j]) * scale[j] + shift[j];
            }
        });
        Ok(out)
    }

    /// Loss and accuracy over `examples` in evaluation mode (running statistics, no dropout, no margin), on draw 0 of each row.
    ///
    /// The loss is the mean weighted by `class_weights` over all examples, as in training. Refuses an empty list, and
    /// features or a loss that are not finite.
    pub fn evaluate(
        &self,
        data: &dyn FeatureSource,
        examples: &[Example],
        class_weights: &[f32],
        classifier: Classifier,
    ) -> Result<Scores> {
        let HeadShape { input, classes, .. } = self.shape;
        source::check(data, examples, input, classes)?;
        check_class_weights(class_weights, classes)?;
        if examples.is_empty() {
            return Err(TrainError::invalid(
                "there is nothing to evaluate on; give at least one validation image",
            ));
        }
        let mut total = loss::BatchLoss::default();
        for batch in examples.chunks(EVALUATION_BATCH) {
            let mut features = vec![0.0; batch.len() * input];
            features
                .par_chunks_mut(input)
                .zip(batch)
                .for_each(|(out, example)| data.copy_row(example.row, 0, out));
            let representations = self.represent(&features, batch.len())?;
            let (weight, bias) = (&self.classifier_weight, &self.classifier_bias);
            let mut logits = classifier.score(&representations, weight, bias, None).logits;
            let labels: Vec<u32> = batch.iter().map(|example| example.label).collect();
            let loss = loss::weighted_cross_entropy(&mut logits, &labels, class_weights);
            if !loss.weighted_loss.is_finite() {
                self.check_finite()?;
                let culprit = batch
                    .iter()
                    .zip(features.chunks_exact(input))
                    .find(|(_, row)| row.iter().any(|value| !value.is_finite()));
                return Err(TrainError::non_finite(match culprit {
                    Some((example, _)) => format!(
                        "row {} of the feature table holds a value that is not finite; compute its features again",
                        example.row
                    ),
                    None => "the validation loss is not finite though all weights and features are; the weights have \
                             grown too large: lower the learning rate"
                        .to_owned(),
                }));
            }
            total.add(&loss);
        }
        Ok(total.scores())
    }

    /// Refuses values that are too few or too many, not finite, or a negative variance.
    fn check_tensor(name: &str, len: usize, values: &[f32]) -> Result<()> {
        if values.len() != len {
            return Err(TrainError::shape(format!(
                "tensor {name} needs {} values but got {}; check that the weights belong to this trunk and syndrome list",
                len,
                values.len()
            )));
        }
        check_finite(name, values)?;
        if name == "bn.running_var"
            && let Some(at) = values.iter().position(|&value| value < 0.0)
        {
            return Err(TrainError::invalid(format!(
                "tensor {name} has a negative variance at index {at}; read the weights again from their source"
            )));
        }
        Ok(())
    }

    /// Refuses a head with a value that is not finite, naming its tensor.
    pub(crate) fn check_finite(&self) -> Result<()> {
        self.tensors().iter().try_for_each(|tensor| check_finite(tensor.name, tensor.values))
    }
}

fn check_finite(name: &str, values: &[f32]) -> Result<()> {
    // No early end: a loop that may stop at every value is several times slower, and almost all are finite.
    if values.iter().fold(true, |finite, value| finite & value.is_finite()) {
        return Ok(());
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(TrainError::non_finite(format!(
            "tensor {name} holds {} at index {at}; go back to the last good weights",
            values[at]
        ))),
        None => Ok(()),
    }
}

/// Refuses class weights of the wrong number or that are not positive.
pub(crate) fn check_class_weights(class_weights: &[f32], classes: usize) -> Result<()> {
    if class_weights.len() != classes {
        return Err(TrainError::shape(format!(
            "{} class weights given for {classes} classes; compute them from the counts of the plan's syndrome list",
            class_weights.len()
        )));
    }
    match class_weights.iter().position(|&weight| !(weight.is_finite() && weight > 0.0)) {
        Some(class) => Err(TrainError::invalid(format!(
            "the weight of class {class} is {}; class weights must be finite and positive",
            class_weights[class]
        ))),
        None => Ok(()),
    }
}

fn identity_neck(dim: usize) -> Result<NeckInit> {
    let Some(size) = dim.checked_mul(dim).filter(|&size| size > 0) else {
        return Err(TrainError::shape(format!("an identity neck of dimension {dim} cannot be built")));
    };
    let mut weight = vec![0.0; size];
    weight.iter_mut().step_by(dim + 1).for_each(|value| *value = 1.0);
    Ok(NeckInit {
        input: dim,
        output: dim,
        weight: weight.into(),
        bias: vec![0.0; dim],
        bn_weight: vec![1.0; dim],
        bn_bias: vec![0.0; dim],
        bn_mean: vec![0.0; dim],
        bn_var: vec![1.0; dim],
        bn_eps: Head::BN_EPS,
    })
}

#[cfg(test)]
mod tests;
