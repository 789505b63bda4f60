//! Training a member on one pool of images: the central baseline, and each site by itself.

use anyhow::{Context, Result};
use domain::SyndromeId;
use learn::{Example, FeatureSource, Head, Recipe, Trainer, class_weights};
use serde::{Deserialize, Serialize};

/// Images to train on and to validate with, as rows of one network's feature tables.
pub struct Pool<'a> {
    /// Augmented draws of the training images.
    pub draws: &'a dyn FeatureSource,
    /// Views of the validation images; view 0 is used.
    pub views: &'a dyn FeatureSource,
    /// Training images.
    pub training: &'a [Example],
    /// Validation images.
    pub validation: &'a [Example],
}

/// Images that a training needs: a batch of one cannot be normalised.
pub const LEAST_IMAGES: usize = 2;

/// One point of a training curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Epochs done.
    pub epoch: u32,
    /// Mean training loss in the last epoch.
    pub loss: f64,
    /// Share of validation images whose syndrome the classifier puts first, 0..=1; `None` without any.
    pub validation_accuracy: Option<f64>,
}

/// How long and from where.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Epochs in all.
    pub epochs: u32,
    /// Epochs between points of the curve.
    pub interval: u32,
    /// Seed of order, draws and dropout.
    pub seed: u64,
}

/// The class weights of a pool: counted over `classes` labels.
pub fn pool_weights(pool: &Pool<'_>, classes: usize) -> Vec<f32> {
    let mut counts = vec![0; classes];
    for example in pool.training {
        counts[example.label as usize] += 1;
    }
    class_weights(&counts)
}

/// Trains `head` on `pool` and returns it with its curve. `tick` is called after every epoch.
pub fn train(
    head: Head,
    recipe: Recipe,
    weights: &[f32],
    pool: &Pool<'_>,
    schedule: Schedule,
    tick: &(dyn Fn() + Sync),
) -> Result<(Head, Vec<CurvePoint>)> {
    let mut trainer = Trainer::new(head, recipe, weights, schedule.seed)?;
    let mut curve = Vec::new();
    for epoch in 0..schedule.epochs {
        let stats = trainer.epoch(pool.draws, pool.training, epoch)?;
        tick();
        if (epoch + 1).is_multiple_of(schedule.interval) || epoch + 1 == schedule.epochs {
            let validation_accuracy = validate(&trainer.head(), pool, weights)?.map(|(_, accuracy)| accuracy);
            curve.push(CurvePoint { epoch: epoch + 1, loss: stats.loss, validation_accuracy });
        }
    }
    Ok((trainer.head(), curve))
}

/// Loss and accuracy on the validation images; `None` when there are none.
pub fn validate(head: &Head, pool: &Pool<'_>, weights: &[f32]) -> Result<Option<(f64, f64)>> {
    if pool.validation.is_empty() {
        return Ok(None);
    }
    let scores = head.evaluate(pool.views, pool.validation, weights)?;
    Ok(Some((scores.loss, scores.accuracy)))
}

/// Rows and labels of images: `row_of` finds an image in a table, `trained` is the classifier's list of syndromes.
/// Images of syndromes outside the list are left out.
pub fn examples<'a>(
    images: impl IntoIterator<Item = (&'a str, &'a SyndromeId)>,
    row_of: &dyn Fn(&str) -> Option<usize>,
    trained: &[SyndromeId],
) -> Result<Vec<Example>> {
    let mut out = Vec::new();
    for (image, syndrome) in images {
        let Ok(label) = trained.binary_search(syndrome) else { continue };
        let row = row_of(image).with_context(|| {
            format!("image {image} is not in the feature table; run the same command again")
        })?;
        out.push(Example { row, label: label as u32 });
    }
    Ok(out)
}
