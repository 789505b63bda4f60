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
mod linear;

use rayon::prelude::*;

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

/// How the sums become weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FormSettings {
    /// Added to the within-class covariance, in units of its mean eigenvalue; above 0.
    pub ridge: f64,
    /// Power of the spread of class means along each direction: 0 whitens only, 0.25 to 0.5 favours what tells the trained
    /// classes apart. A multiple of 0.25 from 0 to 1.
    pub power: f64,
    /// Added to the spread before the power is taken: what keeps directions in which trained classes do not differ, and
    /// untrained ones may. In units of the within-class spread, 0 or more.
    pub floor: f64,
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

    /// The covariance within classes, `dim` x `dim`.
    fn within(&self) -> Vec<f64> {
        let dim = self.dim;
        let upper: Vec<Vec<f64>> = (0..dim)
            .into_par_iter()
            .map(|i| {
                let from = triangle(i, dim);
                let mut row: Vec<f64> =
                    self.scatter[from..from + dim - i].iter().map(|&x| x as f64).collect();
                for (sum, &count) in self.sums.chunks_exact(dim).zip(&self.counts) {
                    if count > 0 {
                        let by = sum[i] as f64 / count as f64;
                        row.iter_mut().zip(&sum[i..]).for_each(|(x, &s)| *x -= by * s as f64);
                    }
                }
                row
            })
            .collect();
        let scale = 1.0 / (STEPS * STEPS * self.rows.max(1) as f64);
        let mut out = vec![0.0; dim * dim];
        for (i, row) in upper.iter().enumerate() {
            for (j, value) in (i..).zip(row) {
                out[i * dim + j] = value * scale;
                out[j * dim + i] = value * scale;
            }
        }
        out
    }
}

/// Where row `i` of an upper triangle of `dim` rows begins.
fn triangle(i: usize, dim: usize) -> usize {
    i * dim - i * i.saturating_sub(1) / 2
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
        let Self { ridge, power, floor } = *self;
        let quarters = power * 4.0;
        if !(ridge > 0.0 && ridge.is_finite()) {
            return Err(TrainError::invalid(format!("ridge {ridge} must be above 0; 0.1 is usual")));
        }
        if !(0.0..=1.0).contains(&power) || quarters != quarters.round() {
            return Err(TrainError::invalid(format!("power {power} must be 0, 0.25, 0.5, 0.75 or 1")));
        }
        if !(floor >= 0.0 && floor.is_finite()) {
            return Err(TrainError::invalid(format!("floor {floor} must be 0 or more")));
        }
        Ok(())
    }

    /// The weight of a direction along which class means have this variance.
    fn weight(&self, spread: f64) -> f64 {
        let quarter = (spread + self.floor).sqrt().sqrt();
        // By square roots alone: a library's power function may differ between machines.
        (0..(self.power * 4.0) as usize).fold(1.0, |product, _| product * quarter)
    }
}

impl ClosedForm {
    /// Linear discriminant analysis of `moments`: with the within-class covariance `S` (ridge added), `A = S^(-1/2)` and
    /// the class means' covariance `Q diag(e) Q'` after whitening by `A`, the rows of the map are `w(e_i) q_i' A` with
    /// `w` from `settings`.
    ///
    /// # Errors
    /// Settings out of range, fewer than two classes, or moments without any spread.
    pub fn solve(moments: &Moments, settings: FormSettings) -> Result<Self> {
        settings.check()?;
        let dim = moments.dim;
        let classes: Vec<usize> = (0..moments.counts.len()).filter(|&c| moments.counts[c] > 0).collect();
        if classes.len() < 2 {
            return Err(TrainError::invalid(format!(
                "a closed form needs images of at least 2 shared syndromes, not {}",
                classes.len()
            )));
        }
        let total: i64 = moments.counts.iter().sum();
        let mean: Vec<f64> = (0..dim)
            .map(|i| moments.sums.iter().skip(i).step_by(dim).sum::<i64>() as f64 / total as f64 / STEPS)
            .collect();
        let mut within = moments.within();
        let level = (0..dim).map(|i| within[i * dim + i]).sum::<f64>() / dim as f64;
        if level <= 0.0 {
            return Err(TrainError::invalid(
                "the images of each syndrome are all alike; a closed form needs several images of some"
                    .to_owned(),
            ));
        }
        (0..dim).for_each(|i| within[i * dim + i] += settings.ridge * level);
        let whitening = inverse_root(within, dim);

        let apart: Vec<f64> = classes
            .iter()
            .flat_map(|&class| {
                let by = 1.0 / (STEPS * moments.counts[class] as f64);
                let sum = &moments.sums[class * dim..][..dim];
                sum.iter().zip(&mean).map(move |(&sum, mean)| sum as f64 * by - mean)
            })
            .collect();
        let apart = linear::product(&apart, &whitening, dim, dim);
        let between = linear::covariance(&apart, dim, classes.len());
        let (spreads, mut directions) = eigen::symmetric(between, dim);
        let largest = spreads.iter().copied().fold(0.0, f64::max);
        for (&spread, direction) in spreads.iter().zip(directions.chunks_exact_mut(dim)) {
            let spread = if spread > NEGLIGIBLE * largest { spread } else { 0.0 };
            let weight = settings.weight(spread);
            direction.iter_mut().for_each(|x| *x *= weight);
        }
        let projection = linear::product(&directions, &whitening, dim, dim);
        Ok(Self {
            dim,
            mean: mean.into_iter().map(|x| x as f32).collect(),
            projection: projection.into_iter().map(|x| x as f32).collect(),
        })
    }

    /// A form that is not solved yet: all zeros.
    pub fn zeros(dim: usize) -> Self {
        Self { dim, mean: vec![0.0; dim], projection: vec![0.0; dim * dim] }
    }

    /// From the two tensors of [`ClosedForm::tensors`].
    ///
    /// # Errors
    /// Lengths that do not fit, or values that are not finite.
    pub fn from_tensors(mean: Vec<f32>, projection: Vec<f32>) -> Result<Self> {
        let dim = mean.len();
        if dim == 0 || dim.checked_mul(dim) != Some(projection.len()) {
            return Err(TrainError::shape(format!(
                "a closed form of {dim} values has {dim} x {dim} weights, not {}",
                projection.len()
            )));
        }
        if mean.iter().chain(&projection).any(|x| !x.is_finite()) {
            return Err(TrainError::shape("a closed form with weights that are not finite".to_owned()));
        }
        Ok(Self { dim, mean, projection })
    }

    /// Values in and out.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Mean (`dim`) and projection (`dim` x `dim`, one row per output).
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

/// `S^(-1/2)` of a positive definite matrix.
fn inverse_root(matrix: Vec<f64>, dim: usize) -> Vec<f64> {
    let (values, vectors) = eigen::symmetric(matrix, dim);
    let mut scaled = vectors.clone();
    for (&value, vector) in values.iter().zip(scaled.chunks_exact_mut(dim)) {
        let by = 1.0 / value.sqrt();
        vector.iter_mut().for_each(|x| *x *= by);
    }
    linear::product_transposed(&vectors, &scaled, dim)
}
