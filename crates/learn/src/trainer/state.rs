//! A trainer as bytes, to stop and go on exactly.
//!
//! Layout, little-endian: magic, version (u32), then sizes, settings, class weights and tensors as [`Writer`] puts them,
//! then the SHA-256 of everything before.

use sha2::{Digest, Sha256};

use super::{Param, Trainer};
use crate::classifier::Classifier;
use crate::error::{Result, TrainError};
use crate::head::{Head, HeadShape};
use crate::recipe::Recipe;
use crate::schedule::RateSchedule;

const MAGIC: &[u8; 8] = b"FGTRAIN\0";
const VERSION: u32 = 3;
const DIGEST: usize = 32;

struct Writer(Vec<u8>);

impl Writer {
    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn f64(&mut self, value: f64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn floats(&mut self, values: &[f32]) {
        if cfg!(target_endian = "little") {
            self.0.extend_from_slice(bytemuck::cast_slice(values));
        } else {
            self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8]> {
        match self.0.split_at_checked(count) {
            Some((head, rest)) => {
                self.0 = rest;
                Ok(head)
            }
            None => Err(TrainError::truncated(format!(
                "the training state ends within its {what}; use an earlier state or start the training again"
            ))),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn size(&mut self, what: &str) -> Result<usize> {
        let value = self.u64(what)?;
        usize::try_from(value).map_err(|_| {
            TrainError::format(format!("the training state's {what} is {value}, too large for this machine"))
        })
    }

    fn f64(&mut self, what: &str) -> Result<f64> {
        Ok(f64::from_le_bytes(self.array(what)?))
    }

    fn floats(&mut self, out: &mut [f32], what: &str) -> Result<()> {
        let bytes = self.take(size_of_val(out), what)?;
        for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(4)) {
            *out = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Ok(())
    }
}

impl Trainer {
    /// Everything needed to go on exactly, as versioned bytes closed by a digest: about three times the weights.
    ///
    /// Refused for a poisoned trainer, whose state must not replace the last good one.
    pub fn state(&self) -> Result<Vec<u8>> {
        self.check_poison()?;
        let weights: usize = self.params().iter().map(|param| param.values.len()).sum();
        let mut out =
            Writer(Vec::with_capacity(12 * weights + 8 * self.shape.dim + 4 * self.shape.classes + 512));
        out.0.extend_from_slice(MAGIC);
        out.0.extend_from_slice(&VERSION.to_le_bytes());
        for size in [self.shape.input, self.shape.dim, self.shape.classes, self.recipe.batch] {
            out.u64(size as u64);
        }
        out.u64(self.seed);
        out.u64(self.updates);
        out.f64(f64::from(self.bn_eps));
        let recipe = &self.recipe;
        for value in [
            recipe.neck_lr,
            recipe.neck_wd,
            recipe.classifier_lr,
            recipe.classifier_wd,
            recipe.dropout,
            recipe.beta1,
            recipe.beta2,
            recipe.adam_eps,
            recipe.bn_momentum,
            recipe.proximal,
        ] {
            out.f64(value);
        }
        let (kind, scale, margin) = recipe.classifier.to_numbers();
        out.u64(kind);
        out.f64(scale);
        out.f64(margin);
        let (kind, epochs) = recipe.rates.to_numbers();
        out.u64(u64::from(kind));
        out.u64(u64::from(epochs));
        out.floats(&self.class_weights);
        out.floats(&self.bn_mean);
        out.floats(&self.bn_var);
        for param in self.params() {
            out.floats(&param.values);
            out.floats(&param.first);
            out.floats(&param.second);
            out.floats(&param.anchor);
        }
        let digest = Sha256::digest(&out.0);
        out.0.extend_from_slice(&digest);
        Ok(out.0)
    }

    /// The trainer whose [`Trainer::state`] this is.
    ///
    /// Refuses bytes that are not a whole, unchanged state of this version.
    pub fn restore(bytes: &[u8]) -> Result<Self> {
        let mut input = Reader(bytes);
        if input.take(MAGIC.len(), "magic")? != MAGIC {
            return Err(TrainError::format(
                "this is not a training state; give the file that the training wrote",
            ));
        }
        let version = u32::from_le_bytes(input.array("version")?);
        if version != VERSION {
            return Err(TrainError::format(format!(
                "the training state has version {version} but this program reads version {VERSION}; use the program that wrote it"
            )));
        }
        let shape = HeadShape {
            input: input.size("input size")?,
            dim: input.size("dimension")?,
            classes: input.size("class count")?,
        };
        let batch = input.size("batch size")?;
        let seed = input.u64("seed")?;
        let updates = input.u64("update count")?;
        let bn_eps = input.f64("BatchNorm epsilon")? as f32;
        let recipe = Recipe {
            batch,
            neck_lr: input.f64("recipe")?,
            neck_wd: input.f64("recipe")?,
            classifier_lr: input.f64("recipe")?,
            classifier_wd: input.f64("recipe")?,
            dropout: input.f64("recipe")?,
            beta1: input.f64("recipe")?,
            beta2: input.f64("recipe")?,
            adam_eps: input.f64("recipe")?,
            bn_momentum: input.f64("recipe")?,
            proximal: input.f64("recipe")?,
            classifier: Classifier::from_numbers(
                input.u64("classifier")?,
                input.f64("classifier")?,
                input.f64("classifier")?,
            )?,
            rates: RateSchedule::from_numbers(input.u64("schedule")?, input.u64("schedule")?)?,
        };
        // Before the sizes are believed, and memory given to them, the length and the digest must agree.
        let pulled = recipe.proximal > 0.0;
        if Some(input.0.len()) != tensor_bytes(shape, pulled) {
            return Err(TrainError::truncated(format!(
                "the training state of a head of {shape:?} has the wrong length; use an earlier state or start the training again"
            )));
        }
        let (content, digest) = bytes.split_at(bytes.len() - DIGEST);
        if Sha256::digest(content)[..] != *digest {
            return Err(TrainError::format(
                "the training state is damaged (its digest does not match); use an earlier state or start the training again",
            ));
        }
        let mut class_weights = vec![0.0; shape.classes];
        input.floats(&mut class_weights, "class weights")?;
        let mut trainer = Self::new(Head::zeros(shape, bn_eps)?, recipe, &class_weights, seed)?;
        trainer.updates = updates;
        input.floats(&mut trainer.bn_mean, "running mean")?;
        input.floats(&mut trainer.bn_var, "running variance")?;
        for param in trainer.params_mut() {
            input.floats(&mut param.values, "weights")?;
            input.floats(&mut param.first, "first moments")?;
            input.floats(&mut param.second, "second moments")?;
            input.floats(&mut param.anchor, "weights of the round")?;
        }
        Ok(trainer)
    }

    fn params(&self) -> [&Param; 6] {
        [
            &self.neck_weight,
            &self.neck_bias,
            &self.bn_weight,
            &self.bn_bias,
            &self.classifier_weight,
            &self.classifier_bias,
        ]
    }
}

/// The bytes of class weights, tensors, moments, the weights that are `pulled` towards and digest, or `None` on overflow.
fn tensor_bytes(shape: HeadShape, pulled: bool) -> Option<usize> {
    let HeadShape { input, dim, classes } = shape;
    let trained = input
        .checked_mul(dim)?
        .checked_add(dim.checked_mul(3)?)?
        .checked_add(classes.checked_mul(dim)?)?
        .checked_add(classes)?;
    trained
        .checked_mul(3 + usize::from(pulled))?
        .checked_add(classes)?
        .checked_add(dim.checked_mul(2)?)?
        .checked_mul(4)?
        .checked_add(DIGEST)
}
