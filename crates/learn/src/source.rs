//! Where the features of the frozen trunk come from.

use crate::error::{Result, TrainError};

/// One training or validation example: a row of a [`FeatureSource`] and its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Example {
    /// The image's row in the source.
    pub row: usize,
    /// The classifier's row of the image's syndrome.
    pub label: u32,
}

/// A table of trunk features: for every row (image) a fixed number of augmented draws.
pub trait FeatureSource: Sync {
    /// Features per draw.
    fn dim(&self) -> usize;

    /// Images.
    fn rows(&self) -> usize;

    /// Draws per image, at least 1. A table made for validation or encoding has one, not augmented.
    fn draws(&self) -> usize;

    /// Writes the features of `draw` of `row` to `out`, which holds `dim()` values.
    ///
    /// # Panics
    /// May panic if `row`, `draw` or the length of `out` is out of range; callers check first.
    fn copy_row(&self, row: usize, draw: usize, out: &mut [f32]);
}

/// Features held in memory.
#[derive(Debug, Clone)]
pub struct MemoryFeatures {
    dim: usize,
    draws: usize,
    values: Vec<f32>,
}

impl MemoryFeatures {
    /// `values` is images x `draws` x `dim`, row-major.
    pub fn new(dim: usize, draws: usize, values: Vec<f32>) -> Result<Self> {
        let row = dim.checked_mul(draws).filter(|&row| row > 0);
        match row {
            Some(row) if values.len().is_multiple_of(row) => Ok(Self { dim, draws, values }),
            _ => Err(TrainError::shape(format!(
                "{} values are not a whole number of images with {draws} draws of {dim} features; \
                 pass images x draws x dim values, dim and draws at least 1",
                values.len()
            ))),
        }
    }
}

impl FeatureSource for MemoryFeatures {
    fn dim(&self) -> usize {
        self.dim
    }

    fn rows(&self) -> usize {
        self.values.len() / (self.dim * self.draws)
    }

    fn draws(&self) -> usize {
        self.draws
    }

    fn copy_row(&self, row: usize, draw: usize, out: &mut [f32]) {
        let start = (row * self.draws + draw) * self.dim;
        out.copy_from_slice(&self.values[start..start + self.dim]);
    }
}

/// Refuses a source or examples that a head of `dim` inputs and `classes` classes cannot use.
pub(crate) fn check(
    data: &dyn FeatureSource,
    examples: &[Example],
    dim: usize,
    classes: usize,
) -> Result<()> {
    if data.dim() != dim {
        return Err(TrainError::shape(format!(
            "the head takes {dim} features but the table holds {}; compute the features with the head's own trunk",
            data.dim()
        )));
    }
    if data.draws() == 0 {
        return Err(TrainError::shape(
            "the feature table holds no draws; compute the features again with at least one",
        ));
    }
    let rows = data.rows();
    for (index, example) in examples.iter().enumerate() {
        if example.row >= rows {
            return Err(TrainError::invalid(format!(
                "example {index} asks for row {} of a table of {rows}; compute the features of the whole cohort first",
                example.row
            )));
        }
        if example.label as usize >= classes {
            return Err(TrainError::invalid(format!(
                "example {index} has label {} but the classifier has {classes} classes; use the plan's syndrome list",
                example.label
            )));
        }
    }
    Ok(())
}
