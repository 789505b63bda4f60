//! Members that are computed and not trained: linear discriminant analysis from sums.
//!
//! With a frozen trunk below, everything a closed form needs of the images are sums: how many there are of each
//! syndrome, their sums, and one second moment. Sums can be added by secure sum, so every site holds exactly what
//! pooling all images would give, whatever the split of patients, after one round. (Class means and shared covariance:
//! Fisher 1936; whitening within classes: WCCN, Hatch et al. 2006; the same for federated frozen features: Fed3R, ICML
//! 2024.)
//!
//! [`Moments`] are integers: a representation is scaled to unit length and rounded to multiples of 2^-18 first. Integer
//! sums have no rounding and no order, so the moments of all images are the same bit for bit however the images are
//! split. [`ClosedForm::solve`] uses additions, multiplications, divisions and square roots in one fixed order and no
//! fused operations, so equal moments give equal weights on every processor.

mod eigen;
mod held_out;
pub(crate) mod linear;
mod random_features;
mod refine;
mod ridge;
mod start;

use rayon::prelude::*;

use self::held_out::HeldOut;
use self::linear::{Part, View};
pub use self::random_features::RandomFeatures;
pub use self::refine::{Gradient, Refinement, Refiner};
pub use self::ridge::Ridge;
pub use self::start::StartMoments;
use crate::error::{Result, TrainError};
use crate::matmul::{exact_gram, map_rows};

/// Steps of a rounded representation per unit.
const STEPS: f64 = 262_144.0;
/// Rows added up in floating point at a time: `BLOCK * STEPS^2` is 2^51, so every partial sum is an exact integer.
const BLOCK: usize = 1 << 15;
/// Eigenvalues below this share of the largest are taken as zero: directions in which class means do not differ.
const NEGLIGIBLE: f64 = 1e-12;

/// Counts, sums and second moment of labelled representations, as integers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moments {
    /// Values of a representation.
    pub dim: usize,
    /// Representations behind `scatter`.
    pub rows: i64,
    /// Representations per class, of classes that are shared.
    pub counts: Vec<i64>,
    /// Their sums, class x `dim`, in steps of 2^-18.
    pub sums: Vec<i64>,
    /// Second moment, upper triangle row by row, `dim * (dim + 1) / 2` integers in steps of 2^-36.
    pub scatter: Vec<i64>,
}

/// How much a direction counts, by the spread of class means along it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weighting {
    /// By a power of the trained classes' spread.
    Power {
        /// 0 whitens only, 0.25 to 0.5 favours what tells the trained classes apart. A multiple of 0.25 from 0 to 1.
        power: f64,
        /// Added to the spread before the power is taken: what keeps directions in which trained classes do not differ, and
        /// untrained ones may. In units of the within-class spread, 0 or more.
        floor: f64,
    },
    /// By the spread that classes show which had no part in finding the directions: with `e` their spread and `w` that
    /// within classes, `sqrt(e / (e + w))`, the share of the variance that tells classes apart (the weights of
    /// probabilistic linear discriminant analysis: Ioffe 2006). Nothing is to be chosen.
    HeldOut,
}

/// How the sums become weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FormSettings {
    /// Added to the within-class covariance, in units of its mean eigenvalue.
    pub ridge: Ridge,
    /// How much each direction counts.
    pub weighting: Weighting,
    /// Values of the result, where they shall be fewer than those that come in: only so many directions are kept, those
    /// along which class means differ most.
    pub outputs: Option<usize>,
    /// Representations that are views of one image, at least 1: together they scatter like one.
    pub per_image: usize,
}

/// A linear map behind a member's representation: `x -> projection (x / |x| - mean)`.
#[derive(Debug, Clone, PartialEq)]
pub struct ClosedForm {
    dim: usize,
    mean: Vec<f32>,
    projection: Vec<f32>,
}

impl Moments {
    /// No images.
    pub fn zeros(dim: usize, classes: usize) -> Self {
        Self {
            dim,
            rows: 0,
            counts: vec![0; classes],
            sums: vec![0; classes * dim],
            scatter: vec![0; dim * (dim + 1) / 2],
        }
    }

    /// The moments of `labels.len()` representations, row-major. A class that is not `shared` enters the second moment
    /// about its own mean here, and neither counts nor sums: what leaves shows its spread and not where it lies.
    ///
    /// # Errors
    /// A length that does not fit, a label without a class, a representation that is zero or not finite.
    pub fn collect(representations: &[f32], dim: usize, labels: &[u32], shared: &[bool]) -> Result<Self> {
        if dim == 0 || labels.len().checked_mul(dim) != Some(representations.len()) {
            return Err(TrainError::shape(format!(
                "{} x {dim} representations expected but {} values given",
                labels.len(),
                representations.len()
            )));
        }
        if let Some(label) = labels.iter().find(|&&label| label as usize >= shared.len()) {
            return Err(TrainError::shape(format!("label {label} of {} classes", shared.len())));
        }
        let mut moments = Self::zeros(dim, shared.len());
        let mut apart = Self::zeros(dim, shared.len());
        for (rows, labels) in representations.chunks(BLOCK * dim).zip(labels.chunks(BLOCK)) {
            let steps = rounded(rows, dim)?;
            for (row, &label) in steps.chunks_exact(dim).zip(labels) {
                let class = label as usize;
                let to = if shared[class] { &mut moments } else { &mut apart };
                to.counts[class] += 1;
                to.sums[class * dim..][..dim].iter_mut().zip(row).for_each(|(sum, &x)| *sum += x as i64);
            }
            let gram = exact_gram(&steps, labels.len(), dim);
            let upper = (0..dim).flat_map(|i| &gram[i * dim + i..(i + 1) * dim]);
            moments.scatter.iter_mut().zip(upper).for_each(|(sum, &x)| *sum += x as i64);
        }
        moments.rows = labels.len() as i64;
        moments.centre(&apart);
        Ok(moments)
    }

    /// Takes the means of classes out of the second moment, rounded to integers.
    fn centre(&mut self, apart: &Self) {
        let dim = self.dim;
        for (class, &count) in apart.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let sum = &apart.sums[class * dim..][..dim];
            let mut at = 0;
            for i in 0..dim {
                for j in i..dim {
                    let product = i128::from(sum[i]) * i128::from(sum[j]);
                    self.scatter[at] -= product.div_euclid(i128::from(count)) as i64;
                    at += 1;
                }
            }
        }
    }

    /// Adds the moments of other images.
    ///
    /// # Errors
    /// Another dimension or number of classes.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        if (self.dim, self.counts.len()) != (other.dim, other.counts.len()) {
            return Err(TrainError::shape("moments of other dimensions cannot be added".to_owned()));
        }
        self.rows += other.rows;
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
        self.sums.iter_mut().zip(&other.sums).for_each(|(a, b)| *a += b);
        self.scatter.iter_mut().zip(&other.scatter).for_each(|(a, b)| *a += b);
        Ok(())
    }

    /// The mean of all representations of shared classes, and of each class that has any how far its own mean lies from
    /// it: class x `dim`.
    fn means(&self) -> Result<(Vec<f64>, Vec<f64>)> {
        let dim = self.dim;
        let classes: Vec<usize> = (0..self.counts.len()).filter(|&c| self.counts[c] > 0).collect();
        if classes.len() < 2 {
            return Err(TrainError::invalid(format!(
                "a closed form needs images of at least 2 shared syndromes, not {}",
                classes.len()
            )));
        }
        let mut total = vec![0i64; dim];
        for sum in self.sums.chunks_exact(dim) {
            total.iter_mut().zip(sum).for_each(|(total, x)| *total += x);
        }
        let count: i64 = self.counts.iter().sum();
        let mean: Vec<f64> = total.into_iter().map(|x| x as f64 / count as f64 / STEPS).collect();
        let apart = classes.into_iter().flat_map(|class| {
            let by = 1.0 / (STEPS * self.counts[class] as f64);
            let sum = &self.sums[class * dim..][..dim];
            sum.iter().zip(&mean).map(move |(&sum, mean)| sum as f64 * by - mean)
        });
        let apart = apart.collect();
        Ok((mean, apart))
    }

    /// Representations of each class that has any.
    fn shared_counts(&self) -> impl Iterator<Item = f64> {
        self.counts.iter().filter(|&&count| count > 0).map(|&count| count as f64)
    }

    /// The covariance within classes, `dim` x `dim`; its lower triangle alone is filled.
    fn within(&self) -> Vec<f64> {
        let dim = self.dim;
        let mut out = vec![0.0; dim * dim];
        let mut rest = &self.scatter[..];
        for i in 0..dim {
            let (row, below) = rest.split_at(dim - i);
            rest = below;
            row.iter().zip(i..).for_each(|(&x, j)| out[j * dim + i] = x as f64);
        }
        let (sums, means): (Vec<f64>, Vec<f64>) = (self.sums.chunks_exact(dim).zip(&self.counts))
            .filter(|(_, count)| **count > 0)
            .flat_map(|(sum, &count)| sum.iter().map(move |&x| (x as f64, x as f64 / count as f64)))
            .unzip();
        let (sums, means) = (View::new(&sums, dim), View::new(&means, dim));
        linear::add_product(&mut out, dim, -1.0, sums.t(), means, Part::Lower);
        let scale = 1.0 / (STEPS * STEPS * self.rows.max(1) as f64);
        out.iter_mut().for_each(|x| *x *= scale);
        out
    }
}

/// Unit representations in whole steps.
fn rounded(rows: &[f32], dim: usize) -> Result<Vec<f64>> {
    let mut out = vec![0.0; rows.len()];
    out.par_chunks_exact_mut(dim).zip(rows.par_chunks_exact(dim)).enumerate().try_for_each(
        |(row, (out, values))| {
            let norm = length(values);
            if !(norm > 0.0 && norm.is_finite()) {
                return Err(TrainError::non_finite(format!(
                    "representation {row} is zero or not finite; look for a corrupt image"
                )));
            }
            out.iter_mut()
                .zip(values)
                .for_each(|(out, &x)| *out = (f64::from(x) / norm * STEPS).round_ties_even());
            Ok(())
        },
    )?;
    Ok(out)
}

fn length(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

impl FormSettings {
    /// Whether the settings make sense.
    ///
    /// # Errors
    /// Names the setting that does not.
    pub fn check(&self) -> Result<()> {
        let Self { ridge, weighting, outputs, per_image } = *self;
        if let Ridge::Fixed(ridge) = ridge
            && !(ridge > 0.0 && ridge.is_finite())
        {
            return Err(TrainError::invalid(format!("ridge {ridge} must be above 0; 0.1 is usual")));
        }
        if let Weighting::Power { power, floor } = weighting {
            let quarters = power * 4.0;
            if !(0.0..=1.0).contains(&power) || quarters != quarters.round() {
                return Err(TrainError::invalid(format!("power {power} must be 0, 0.25, 0.5, 0.75 or 1")));
            }
            if !(floor >= 0.0 && floor.is_finite()) {
                return Err(TrainError::invalid(format!("floor {floor} must be 0 or more")));
            }
        }
        if per_image == 0 {
            return Err(TrainError::invalid("an image has at least 1 representation".to_owned()));
        }
        if outputs == Some(0) {
            return Err(TrainError::invalid("outputs must be at least 1".to_owned()));
        }
        Ok(())
    }
}

/// Class means in units of the spread within classes.
struct Whitened {
    dim: usize,
    /// The inverse of the lower factor of the within-class covariance, ridge added.
    whitening: Vec<f64>,
    /// The ridge that it contains.
    ridge: f64,
    mean: Vec<f64>,
    /// How far each class's mean lies from `mean`, whitened: class x `dim`.
    apart: Vec<f64>,
    /// Images behind each of them.
    images: Vec<f64>,
    /// Directions (unit rows) along which they differ, and how far, largest first.
    directions: Vec<f64>,
    spreads: Vec<f64>,
}

impl Whitened {
    fn new(moments: &Moments, ridge: f64, per_image: usize) -> Result<Self> {
        let dim = moments.dim;
        let (mean, apart) = moments.means()?;
        let mut within = moments.within();
        let level = (0..dim).map(|i| within[i * dim + i]).sum::<f64>() / dim as f64;
        if level <= 0.0 {
            return Err(alike());
        }
        let ridge = ridge * level;
        (0..dim).for_each(|i| within[i * dim + i] += ridge);
        let lower = linear::cholesky(within, dim).ok_or_else(alike)?;
        let whitening = linear::inverse_lower(&lower, dim);
        let apart = linear::product(View::new(&apart, dim), View::new(&whitening, dim).t());
        let (spreads, directions) = principal(&apart, dim);
        let images = moments.shared_counts().map(|count| count / per_image as f64).collect();
        Ok(Self { dim, whitening, ridge, mean, apart, images, directions, spreads })
    }

    fn whitening(&self) -> View<'_> {
        View::new(&self.whitening, self.dim)
    }

    /// What images of one class scatter along a direction, on average: what of the identity is not ridge.
    fn noise(&self) -> f64 {
        let squares = linear::dot(&self.whitening, &self.whitening);
        1.0 - self.ridge * squares / self.dim as f64
    }
}

/// `(spread + floor)^power`.
fn powered(spread: f64, power: f64, floor: f64) -> f64 {
    let quarter = (spread + floor).sqrt().sqrt();
    // By square roots alone: a library's power function may differ between machines.
    (0..(power * 4.0) as usize).fold(1.0, |product, _| product * quarter)
}

impl ClosedForm {
    /// Linear discriminant analysis of `moments`. With the within-class covariance `S` (ridge added), `S = L L'`, and the
    /// class means' covariance `Q diag(e) Q'` after whitening by `L^-1`, the map is `W L^-1` with `W` the symmetric matrix
    /// that weights `Q`'s directions and all others as [`Weighting`] says; with fewer outputs than inputs, `W` has as rows
    /// the directions of largest `e`, weighted, and zeros when there are no more. (Another root of `S` than `L` turns the
    /// representations, which changes no cosine between them.)
    ///
    /// # Errors
    /// Settings out of range, fewer than two classes, or moments without any spread.
    pub fn solve(moments: &Moments, settings: FormSettings) -> Result<Self> {
        settings.check()?;
        let dim = moments.dim;
        let out = settings.outputs.unwrap_or(dim);
        if out > dim {
            return Err(TrainError::invalid(format!("{out} outputs of a closed form of {dim} values")));
        }
        let ridge = settings.ridge.of(moments, settings)?;
        let whitened = Whitened::new(moments, ridge, settings.per_image)?;
        let (weights, rest) = match settings.weighting {
            Weighting::Power { power, floor } => {
                let weights = whitened.spreads.iter().map(|&spread| powered(spread, power, floor));
                (weights.collect(), powered(0.0, power, floor))
            }
            Weighting::HeldOut => {
                let held_out = HeldOut::new(&whitened);
                (held_out.weights(whitened.spreads.len()), held_out.weight_elsewhere())
            }
        };
        let whitening = whitened.whitening();
        let Whitened { mean, directions, spreads, .. } = &whitened;

        let projection = if out < dim {
            let kept = out.min(spreads.len());
            let mut rows = directions[..kept * dim].to_vec();
            for (row, weight) in rows.chunks_exact_mut(dim).zip(&weights) {
                row.iter_mut().for_each(|x| *x *= weight);
            }
            rows.resize(out * dim, 0.0);
            linear::product(View::new(&rows, dim), whitening)
        } else {
            let mut along = linear::product(View::new(directions, dim), whitening);
            for (row, weight) in along.chunks_exact_mut(dim).zip(&weights) {
                row.iter_mut().for_each(|x| *x *= weight - rest);
            }
            let mut map: Vec<f64> = whitening.values().iter().map(|x| rest * x).collect();
            let (directions, along) = (View::new(directions, dim), View::new(&along, dim));
            linear::add_product(&mut map, dim, 1.0, directions.t(), along, Part::All);
            map
        };
        Ok(Self {
            dim,
            mean: mean.iter().map(|&x| x as f32).collect(),
            projection: projection.into_iter().map(|x| x as f32).collect(),
        })
    }

    /// A form that is not solved yet: all zeros.
    pub fn zeros(dim: usize, outputs: usize) -> Self {
        Self { dim, mean: vec![0.0; dim], projection: vec![0.0; outputs * dim] }
    }

    /// From the two tensors of [`ClosedForm::tensors`].
    ///
    /// # Errors
    /// Lengths that do not fit, or values that are not finite.
    pub fn from_tensors(mean: Vec<f32>, projection: Vec<f32>) -> Result<Self> {
        let dim = mean.len();
        if dim == 0 || projection.is_empty() || !projection.len().is_multiple_of(dim) {
            return Err(TrainError::shape(format!(
                "a closed form of {dim} values has so many weights for each output; {} do not fit",
                projection.len()
            )));
        }
        if mean.iter().chain(&projection).any(|x| !x.is_finite()) {
            return Err(TrainError::shape("a closed form with weights that are not finite".to_owned()));
        }
        Ok(Self { dim, mean, projection })
    }

    /// Values in.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Values out.
    pub fn outputs(&self) -> usize {
        self.projection.len() / self.dim
    }

    /// Mean (`dim`) and projection (`outputs` x `dim`, one row per output).
    pub fn tensors(&self) -> [&[f32]; 2] {
        [&self.mean, &self.projection]
    }

    /// Maps `n` representations, row-major.
    ///
    /// # Errors
    /// A length that does not fit, or a representation of length zero.
    pub fn apply(&self, representations: &[f32], n: usize) -> Result<Vec<f32>> {
        let dim = self.dim;
        if n.checked_mul(dim) != Some(representations.len()) {
            return Err(TrainError::shape(format!(
                "{n} x {dim} representations expected but {} values given",
                representations.len()
            )));
        }
        let mut centred = representations.to_vec();
        centred.par_chunks_exact_mut(dim).enumerate().try_for_each(|(row, values)| {
            let norm = length(values);
            if !(norm > 0.0 && norm.is_finite()) {
                return Err(TrainError::non_finite(format!("representation {row} is zero or not finite")));
            }
            let values = values.iter_mut().zip(&self.mean);
            values.for_each(|(x, &mean)| *x = (f64::from(*x) / norm) as f32 - mean);
            Ok(())
        })?;
        Ok(map_rows(&centred, n, &self.projection, dim))
    }
}

fn alike() -> TrainError {
    TrainError::invalid(
        "the images of each syndrome are all alike; a closed form needs several images of some".to_owned(),
    )
}

/// The directions (unit rows) along which the rows of `apart` spread about zero, and their mean squares there, largest
/// first; negligible ones are left out.
fn principal(apart: &[f64], dim: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = apart.len() / dim;
    let view = View::new(apart, dim);
    let by = 1.0 / rows as f64;
    let small = rows.min(dim);
    // The smaller of the two Gram matrices has the same eigenvalues.
    let mut gram = if rows < dim { linear::product(view, view.t()) } else { linear::product(view.t(), view) };
    gram.iter_mut().for_each(|x| *x *= by);
    let (spreads, vectors) = eigen::symmetric(gram, small);
    let largest = spreads.last().copied().unwrap_or(0.0);
    let kept: Vec<usize> = (0..small).rev().filter(|&i| spreads[i] > NEGLIGIBLE * largest).collect();
    let mut directions: Vec<f64> =
        kept.iter().flat_map(|&i| &vectors[i * small..(i + 1) * small]).copied().collect();
    if rows < dim {
        directions = linear::product(View::new(&directions, rows), view);
        for direction in directions.chunks_exact_mut(dim) {
            let length = linear::dot(direction, direction).sqrt();
            direction.iter_mut().for_each(|x| *x /= length);
        }
    }
    (kept.into_iter().map(|i| spreads[i]).collect(), directions)
}
