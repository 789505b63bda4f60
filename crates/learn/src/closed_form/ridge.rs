//! The ridge, given or chosen from the sums.
//!
//! How well would syndromes be told apart that had no part in the analysis? For each ridge of a ladder a tenth of the syndromes
//! at a time is left out; directions and weights come from the others. Two images of one syndrome have a mean inner product `b`,
//! the spread of its mean; two images of different ones have 0, with a variance `v` that follows from the means and the scatter
//! within syndromes. The ridge with the greatest `b / sqrt(v)` is taken (the d' of signal detection).
//!
//! Whitening is fitted to the very images whose scatter it makes small, the more so the smaller the ridge. What images that it has
//! not seen scatter is larger by `1 / (1 - t / n)`, with `t` the trace of the whitened scatter and `n` its degrees of freedom
//! (generalised cross-validation: Golub, Heath and Wahba 1979).

use super::held_out::{Fold, HeldOut};
use super::linear::{self, Part, View};
use super::{FormSettings, Moments, Weighting, Whitened, powered};
use crate::error::Result;

/// What is added to the within-class covariance, in units of its mean eigenvalue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ridge {
    /// So much, above 0.
    Fixed(f64),
    /// The one of [`Ridge::LADDER`] under which left-out classes would be told apart best, by the sums.
    HeldOut,
}

impl Ridge {
    /// The ridges that are compared.
    pub const LADDER: [f64; 5] = [0.03, 0.1, 0.3, 1.0, 3.0];

    /// The ridge for these sums: the greatest of equals.
    ///
    /// # Errors
    /// As [`super::ClosedForm::solve`].
    pub fn of(self, moments: &Moments, settings: FormSettings) -> Result<f64> {
        if let Self::Fixed(ridge) = self {
            return Ok(ridge);
        }
        let scores = Self::scores(moments, settings)?;
        let mut best = scores.len() - 1;
        for at in (0..best).rev() {
            if scores[at] > scores[best] {
                best = at;
            }
        }
        Ok(Self::LADDER[best])
    }

    /// The score of every ridge of the ladder; minus infinity where there are fewer images than whitening adapts to.
    ///
    /// # Errors
    /// As [`super::ClosedForm::solve`].
    pub fn scores(moments: &Moments, settings: FormSettings) -> Result<[f64; Self::LADDER.len()]> {
        let mut scores = [0.0; Self::LADDER.len()];
        for (score, ridge) in scores.iter_mut().zip(Self::LADDER) {
            let whitened = Whitened::new(moments, ridge, settings.per_image)?;
            let freedom = moments.rows as f64 / settings.per_image as f64 - whitened.images.len() as f64;
            *score = whitened.score(settings.weighting, freedom);
        }
        Ok(scores)
    }
}

/// The scatter within classes after whitening: the identity less the ridge's part.
struct Noise {
    dim: usize,
    matrix: Vec<f64>,
}

impl Noise {
    fn new(whitened: &Whitened) -> Self {
        let dim = whitened.dim;
        let mut matrix = vec![0.0; dim * dim];
        (0..dim).for_each(|i| matrix[i * dim + i] = 1.0 / whitened.ridge);
        let whitening = whitened.whitening();
        linear::add_product(&mut matrix, dim, -1.0, whitening, whitening.t(), Part::All);
        matrix.iter_mut().for_each(|x| *x *= whitened.ridge);
        Self { dim, matrix }
    }

    fn trace(&self) -> f64 {
        self.matrix.iter().step_by(self.dim + 1).sum()
    }

    /// Each row multiplied by it.
    fn times(&self, rows: &[f64]) -> Vec<f64> {
        linear::product(View::new(rows, self.dim), View::new(&self.matrix, self.dim))
    }
}

/// Sums over syndromes that were left out.
#[derive(Default)]
struct Sums {
    /// Squared lengths of means, less what their images' scatter adds.
    between: f64,
    /// Squared inner products of two means, and how many pairs.
    cross: f64,
    pairs: f64,
    /// What one image's scatter adds to the variance of inner products, and what two of them do.
    mixed: f64,
    within: f64,
}

impl Whitened {
    fn score(&self, weighting: Weighting, freedom: f64) -> f64 {
        let noise = Noise::new(self);
        let share = noise.trace() / freedom;
        if !(0.0..1.0).contains(&share) {
            return f64::NEG_INFINITY;
        }
        let unseen = 1.0 / (1.0 - share);
        let folds = Fold::all(self);
        let held_out = HeldOut::of(self, &folds);
        let mut sums = Sums::default();
        for fold in &folds {
            let (weights, rest) = match weighting {
                Weighting::Power { power, floor } => {
                    let weights = fold.spreads.iter().map(|&spread| powered(spread, power, floor));
                    (weights.collect(), powered(0.0, power, floor))
                }
                Weighting::HeldOut => {
                    (held_out.stretched_weights(fold.spreads.len()), held_out.weight_elsewhere())
                }
            };
            fold.add(&mut sums, &noise, unseen, &weights, rest);
        }
        let count = self.images.len() as f64;
        let variance = sums.cross / sums.pairs.max(1.0) + (sums.mixed + sums.within) / count;
        sums.between / count / variance.sqrt()
    }
}

impl Fold {
    /// Adds its syndromes. The squared map is `rest^2` of everything, and `excess` more of each direction.
    fn add(&self, sums: &mut Sums, noise: &Noise, unseen: f64, weights: &[f64], rest: f64) {
        let dim = noise.dim;
        let level = rest * rest;
        let excess: Vec<f64> = weights.iter().map(|weight| weight * weight - level).collect();
        let directions = View::new(&self.directions, dim);
        let noisy = noise.times(&self.directions);
        let among = linear::product(View::new(&noisy, dim), directions.t());
        let rank = excess.len();
        let (mut trace, mut square) =
            (level * noise.trace(), level * level * linear::dot(&noise.matrix, &noise.matrix));
        for (i, &by) in excess.iter().enumerate() {
            let row = &among[i * rank..(i + 1) * rank];
            let noisy = &noisy[i * dim..(i + 1) * dim];
            trace += by * row[i];
            square += 2.0 * level * by * linear::dot(noisy, noisy);
            square += by * row.iter().zip(&excess).map(|(x, by)| by * x * x).sum::<f64>();
        }
        let mut along = linear::product(View::new(&self.rows, dim), directions.t());
        along
            .chunks_exact_mut(rank.max(1))
            .for_each(|row| row.iter_mut().zip(&excess).for_each(|(x, by)| *x *= by));
        let mut mapped: Vec<f64> = self.rows.iter().map(|x| level * x).collect();
        linear::add_product(&mut mapped, dim, 1.0, View::new(&along, rank.max(1)), directions, Part::All);
        let noisy = noise.times(&mapped);
        let mapped: Vec<&[f64]> = mapped.chunks_exact(dim).collect();
        for (at, row) in self.rows.chunks_exact(dim).enumerate() {
            sums.between += linear::dot(row, mapped[at]) - unseen * trace / self.images[at];
            for other in &mapped[at + 1..] {
                let product = linear::dot(row, other);
                sums.cross += product * product;
                sums.pairs += 1.0;
            }
            sums.mixed += 2.0 * unseen * linear::dot(mapped[at], &noisy[at * dim..(at + 1) * dim]);
            sums.within += unseen * unseen * square;
        }
    }
}
