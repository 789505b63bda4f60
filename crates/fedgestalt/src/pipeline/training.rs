//! Training a member on one pool of images: the central baseline, and each site by itself.

use anyhow::{Context, Result};
use domain::SyndromeId;
use federation::{ClassWeighting, Rates, RoundMetrics, Stopping};
use learn::{Classifier, Example, FeatureSource, Head, RateSchedule, Recipe, Trainer, class_weights};
use rayon::prelude::*;
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

/// How long.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Epochs in all.
    pub epochs: u32,
    /// Epochs between points of the curve.
    pub interval: u32,
    /// When it ends before.
    pub stopping: Stopping,
    /// How learning rates follow the validation loss.
    pub rates: Rates,
}

/// A plan's learning rates as the trainers read them.
pub fn rate_schedule(rates: Rates, epochs: u32) -> RateSchedule {
    match rates {
        // A plateau's pace is set round by round.
        Rates::Constant | Rates::Plateau(_) => RateSchedule::Constant,
        Rates::Cosine => RateSchedule::Cosine { epochs },
        Rates::Step => RateSchedule::Step { epochs },
    }
}

/// What every syndrome counts in the loss, from its training images.
pub fn loss_weights(weighting: ClassWeighting, counts: &[u32]) -> Vec<f32> {
    match weighting {
        ClassWeighting::Inverse => class_weights(counts),
        ClassWeighting::None => vec![1.0; counts.len()],
    }
}

/// Images by label.
pub fn label_counts(images: &[Example], classes: usize) -> Vec<u32> {
    let mut counts = vec![0; classes];
    for example in images {
        counts[example.label as usize] += 1;
    }
    counts
}

/// The means over members of loss and accuracy.
pub fn mean_scores(scores: &[(f64, f64)]) -> (f64, f64) {
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / scores.len().max(1) as f64;
    (mean(&mut scores.iter().map(|score| score.0)), mean(&mut scores.iter().map(|score| score.1)))
}

/// A member in training on one pool.
pub struct Learner<'a> {
    name: &'a str,
    pool: Pool<'a>,
    weights: Vec<f32>,
    trainer: Trainer,
    curve: Vec<CurvePoint>,
}

impl<'a> Learner<'a> {
    /// A member called `name` before its first epoch. `weights` are those of syndromes in the loss; `seed` that of order, draws and dropout.
    pub fn new(
        name: &'a str,
        head: Head,
        recipe: Recipe,
        weights: Vec<f32>,
        pool: Pool<'a>,
        seed: u64,
    ) -> Result<Self> {
        let trainer = Trainer::new(head, recipe, &weights, seed).with_context(|| format!("member {name}"))?;
        Ok(Self { name, pool, weights, trainer, curve: Vec::new() })
    }

    fn train(&mut self, epochs: std::ops::Range<u32>, tick: &(dyn Fn() + Sync)) -> Result<()> {
        let (mut loss, end) = (f64::NAN, epochs.end);
        for epoch in epochs {
            let stats = self.trainer.epoch(self.pool.draws, self.pool.training, epoch);
            loss = stats.with_context(|| format!("member {}", self.name))?.loss;
            tick();
        }
        self.curve.push(CurvePoint { epoch: end, loss, validation_accuracy: None });
        Ok(())
    }

    fn validate(&self) -> Result<Option<(f64, f64)>> {
        validate(&self.trainer.head(), &self.pool, &self.weights, self.trainer.recipe().classifier)
    }
}

/// Trains members side by side, and ends as a federation does: by the mean of their figures on the validation images. Returns the
/// heads, those of the best interval where training may end early, with their curves. `tick` is called after every epoch.
pub fn train(
    mut learners: Vec<Learner<'_>>,
    schedule: Schedule,
    tick: &(dyn Fn() + Sync),
) -> Result<Vec<(Head, Vec<CurvePoint>)>> {
    let heads = |learners: &[Learner<'_>]| learners.iter().map(|l| l.trainer.head()).collect::<Vec<_>>();
    let chooses = schedule.stopping != Stopping::Never;
    let by = |stopping: Stopping, figures: &[RoundMetrics]| -> Vec<f64> {
        figures.iter().map(|figures| stopping.score(figures)).collect()
    };
    let (mut figures, mut best) = (vec![score(&mut learners)?], Vec::new());
    if chooses {
        best = heads(&learners);
    }
    let mut epoch = 0;
    while epoch < schedule.epochs && !schedule.stopping.is_over(&by(schedule.stopping, &figures)) {
        let end = (epoch + schedule.interval).min(schedule.epochs);
        // In a federation the loss of the model that a round begins with is known when it ends.
        let known = &figures[..figures.len() - 1];
        let pace = schedule.rates.pace(&by(Stopping::Loss(1), known));
        learners.par_iter_mut().try_for_each(|learner| {
            learner.trainer.set_pace(pace)?;
            learner.train(epoch..end, tick)
        })?;
        epoch = end;
        figures.push(score(&mut learners)?);
        if chooses && Stopping::best(&by(schedule.stopping, &figures)) + 1 == figures.len() {
            best = heads(&learners);
        }
    }
    if !chooses {
        best = heads(&learners);
    }
    (epoch..schedule.epochs).for_each(|_| learners.iter().for_each(|_| tick()));
    Ok(best.into_iter().zip(learners.into_iter().map(|learner| learner.curve)).collect())
}

/// Validates all members, notes it in their curves, and says how good they are together.
fn score(learners: &mut [Learner<'_>]) -> Result<RoundMetrics> {
    let scores = learners.iter().map(Learner::validate).collect::<Result<Vec<_>>>()?;
    for (learner, score) in learners.iter_mut().zip(&scores) {
        if let Some(point) = learner.curve.last_mut() {
            point.validation_accuracy = score.map(|(_, accuracy)| accuracy);
        }
    }
    let scores: Vec<(f64, f64)> = scores.into_iter().flatten().collect();
    let (validation_loss, validation_correct) = mean_scores(&scores);
    let validation_images = if scores.is_empty() { 0.0 } else { 1.0 };
    Ok(RoundMetrics { validation_loss, validation_correct, validation_images, ..RoundMetrics::default() })
}

/// Loss and accuracy on the validation images; `None` when there are none.
pub fn validate(
    head: &Head,
    pool: &Pool<'_>,
    weights: &[f32],
    classifier: Classifier,
) -> Result<Option<(f64, f64)>> {
    if pool.validation.is_empty() {
        return Ok(None);
    }
    let scores = head.evaluate(pool.views, pool.validation, weights, classifier)?;
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
