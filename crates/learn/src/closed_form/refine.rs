//! Closed forms refined by gradient descent that is as exact as they are.
//!
//! A closed form assumes that images of every syndrome scatter alike. Steps down the gradient of a classification loss take
//! its map from there: each image is scored by its cosines to the syndromes' means as the map sees them (nearest class mean
//! metric learning: Mensink et al. 2013), softmax cross-entropy, all images at once. With the map fixed during a step, the
//! gradient is a sum over images (FedSGD: McMahan et al. 2017), and [`Gradient`] has it in whole numbers, as
//! [`Moments`](super::Moments) are: the step is the same bit for bit however the images are split. (An image's own exponentials are those of
//! its site's library; what the sites share, and the step itself, are exact.) Between steps nothing is
//! remembered but the map itself: each has a length that the schedule gives, whatever the gradient's.

use rayon::prelude::*;

use super::linear::{self, View};
use super::{BLOCK, ClosedForm, Moments, STEPS, rounded};
use crate::error::{Result, TrainError};
use crate::matmul::{exact_product, map_rows};

/// Greatest length of one image's gradient, in units of its usual greatest one: images that lie almost at the mean have none
/// to speak of, and must not drown the others.
const CLIP: f64 = 8.0;

/// How a closed form is refined.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Refinement {
    /// Steps; none leaves the closed form as it is solved.
    pub steps: u32,
    /// Length of the first step as a share of the map's; it falls evenly, to nothing after the last.
    pub rate: f64,
    /// What cosines are multiplied by before the softmax.
    pub scale: f64,
}

impl Refinement {
    /// Whether the settings make sense.
    ///
    /// # Errors
    /// Names the setting that does not.
    pub fn check(&self) -> Result<()> {
        if !(self.rate > 0.0 && self.rate <= 1.0) {
            return Err(TrainError::invalid(format!("rate {} must be above 0, at most 1", self.rate)));
        }
        if !(self.scale > 0.0 && self.scale.is_finite()) {
            return Err(TrainError::invalid(format!("scale {} must be above 0", self.scale)));
        }
        Ok(())
    }
}

/// The gradient over some images, in whole numbers: units as [`Refiner::gradient`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gradient {
    /// By the map, as if images were not centred: `outputs` x `dim`.
    pub map: Vec<i64>,
    /// By what is taken from the images' values: `outputs`.
    pub shift: Vec<i64>,
    /// By the means of the syndromes as the map sees them: class x `outputs`; zeros for those that do not take part.
    pub means: Vec<i64>,
    /// The loss, added up in steps of 2^-18.
    pub loss: i64,
    /// Representations.
    pub rows: i64,
}

impl Gradient {
    /// No images.
    pub fn zeros(dim: usize, outputs: usize, classes: usize) -> Self {
        let (map, shift, means) = (vec![0; outputs * dim], vec![0; outputs], vec![0; classes * outputs]);
        Self { map, shift, means, loss: 0, rows: 0 }
    }

    /// Adds the gradient over other images.
    ///
    /// # Errors
    /// Other sizes.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        let sizes = |g: &Self| (g.map.len(), g.shift.len(), g.means.len());
        if sizes(self) != sizes(other) {
            return Err(TrainError::shape("gradients of other dimensions cannot be added".to_owned()));
        }
        let add = |to: &mut [i64], from: &[i64]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        add(&mut self.map, &other.map);
        add(&mut self.shift, &other.shift);
        add(&mut self.means, &other.means);
        self.loss += other.loss;
        self.rows += other.rows;
        Ok(())
    }

    /// The mean loss of a representation; none without any.
    pub fn mean_loss(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.loss as f64 / STEPS / self.rows as f64)
    }
}

/// What refining needs beside the images: how far each syndrome's mean lies from the mean of all, and what it counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Refiner {
    refinement: Refinement,
    dim: usize,
    /// Row of each class in `apart`; none for those without a mean, which take no part.
    rows: Vec<Option<usize>>,
    /// Present class x `dim`.
    apart: Vec<f32>,
    /// What an image of each class counts in the loss.
    weights: Vec<f32>,
}

/// The means as a map sees them.
struct Seen {
    /// Present class x `outputs`, of length 1.
    directions: Vec<f64>,
    lengths: Vec<f64>,
    /// Root mean square of the lengths.
    usual: f64,
}

/// The class of a representation that takes part.
struct Own {
    /// Its row among the present ones.
    row: usize,
    /// What it counts.
    weight: f64,
}

impl Refiner {
    /// From the sums that the closed form was solved from. `weights` has what an image of each class counts in the loss, at most
    /// 1.
    ///
    /// # Errors
    /// Settings out of range, weights that do not fit, or fewer than two classes.
    pub fn new(moments: &Moments, refinement: Refinement, weights: &[f32]) -> Result<Self> {
        let (_, apart) = moments.means()?;
        let mut present = 0;
        let rows = moments.counts.iter().map(|&count| {
            present += usize::from(count > 0);
            (count > 0).then(|| present - 1)
        });
        let rows = rows.collect();
        Self::from_parts(
            refinement,
            rows,
            apart.into_iter().map(|x| x as f32).collect(),
            moments.dim,
            weights,
        )
    }

    fn from_parts(
        refinement: Refinement,
        rows: Vec<Option<usize>>,
        apart: Vec<f32>,
        dim: usize,
        weights: &[f32],
    ) -> Result<Self> {
        refinement.check()?;
        if weights.len() != rows.len() || weights.iter().any(|w| !(0.0..=1.0).contains(w)) {
            return Err(TrainError::invalid(format!(
                "{} classes need as many weights from 0 to 1",
                rows.len()
            )));
        }
        Ok(Self { refinement, dim, rows, apart, weights: weights.to_vec() })
    }

    /// The means with rows for all classes, zeros for those that take no part: what [`Refiner::restored`] takes.
    pub fn means(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows.len() * self.dim];
        for (row, out) in self.rows.iter().zip(out.chunks_exact_mut(self.dim)) {
            if let Some(row) = *row {
                out.copy_from_slice(&self.apart[row * self.dim..][..self.dim]);
            }
        }
        out
    }

    /// From what [`Refiner::means`] gave.
    ///
    /// # Errors
    /// As [`Refiner::new`].
    pub fn restored(means: &[f32], dim: usize, refinement: Refinement, weights: &[f32]) -> Result<Self> {
        if dim == 0 || weights.len().checked_mul(dim) != Some(means.len()) {
            return Err(TrainError::shape(format!("{} values for {} means", means.len(), weights.len())));
        }
        let (mut rows, mut apart) = (Vec::new(), Vec::new());
        for mean in means.chunks_exact(dim) {
            let present = mean.iter().any(|&x| x != 0.0);
            rows.push(present.then_some(apart.len() / dim));
            apart.extend(mean.iter().filter(|_| present));
        }
        Self::from_parts(refinement, rows, apart, dim, weights)
    }

    /// The settings.
    pub fn refinement(&self) -> Refinement {
        self.refinement
    }

    fn seen(&self, form: &ClosedForm) -> Result<Seen> {
        if form.dim() != self.dim {
            return Err(TrainError::shape(format!(
                "a form of {} values for means of {}",
                form.dim(),
                self.dim
            )));
        }
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let (apart, map) = (wide(&self.apart), wide(form.tensors()[1]));
        let mut directions = linear::product(View::new(&apart, self.dim), View::new(&map, self.dim).t());
        let mut lengths = Vec::with_capacity(self.apart.len() / self.dim);
        for mean in directions.chunks_exact_mut(form.outputs()) {
            let length = linear::dot(mean, mean).sqrt();
            mean.iter_mut().for_each(|x| *x = if length > 0.0 { *x / length } else { 0.0 });
            lengths.push(length);
        }
        let usual = (linear::dot(&lengths, &lengths) / lengths.len().max(1) as f64).sqrt();
        if !(usual > 0.0 && usual.is_finite()) {
            return Err(TrainError::invalid(
                "the map sees no syndrome's mean; look at its settings".to_owned(),
            ));
        }
        Ok(Seen { directions, lengths, usual })
    }

    /// The gradient over `labels.len()` representations, row-major; those of classes that take no part are passed over. With
    /// `z` the direction that the map gives a representation of unit length `x`, `c` those of the means, `w` what its class
    /// counts, `p` the softmax of the scaled cosines and `e = w (p - 1[own class])`: `means` sums `e z'`, `shift` the
    /// gradient `d` of `sum e c z` by the mapped representation (which has about the length of a mean, whose usual one is its
    /// unit) and `map` sums `d x'`; all in steps of 2^-18, products of two in steps of 2^-36.
    ///
    /// # Errors
    /// Lengths that do not fit, or a representation that is zero or not finite.
    pub fn gradient(&self, form: &ClosedForm, representations: &[f32], labels: &[u32]) -> Result<Gradient> {
        let (dim, outputs, classes) = (self.dim, form.outputs(), self.rows.len());
        if labels.len().checked_mul(dim) != Some(representations.len()) {
            return Err(TrainError::shape(format!(
                "{} x {dim} representations expected but {} values given",
                labels.len(),
                representations.len()
            )));
        }
        if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
            return Err(TrainError::shape(format!("label {label} of {classes} classes")));
        }
        let seen = self.seen(form)?;
        let mut total = Gradient::zeros(dim, outputs, classes);
        // Few enough for products of 2^18 by 8 x 2^18 steps.
        const ROWS: usize = BLOCK >> 3;
        for (values, labels) in representations.chunks(ROWS * dim).zip(labels.chunks(ROWS)) {
            let (mut taken, mut own) = (Vec::with_capacity(values.len()), Vec::with_capacity(labels.len()));
            for (values, &label) in values.chunks_exact(dim).zip(labels) {
                let Some(row) = self.rows[label as usize] else { continue };
                taken.extend_from_slice(values);
                own.push(Own { row, weight: f64::from(self.weights[label as usize]) });
            }
            self.add_gradient(&mut total, form, &seen, &taken, &own)?;
        }
        Ok(total)
    }

    fn add_gradient(
        &self,
        total: &mut Gradient,
        form: &ClosedForm,
        seen: &Seen,
        values: &[f32],
        own: &[Own],
    ) -> Result<()> {
        let (dim, outputs, n) = (self.dim, form.outputs(), own.len());
        let present = seen.lengths.len();
        let directions: Vec<f32> = seen.directions.iter().map(|&x| x as f32).collect();
        let mut turned = vec![0.0; directions.len()];
        for (class, direction) in directions.chunks_exact(outputs).enumerate() {
            direction.iter().enumerate().for_each(|(at, &x)| turned[at * present + class] = x);
        }
        let steps = rounded(values, dim)?;
        let mut z = form.apply(values, n)?;
        let lengths: Vec<f64> = z.par_chunks_exact_mut(outputs).map(unit).collect();
        let mut errors = map_rows(&z, n, &directions, outputs);
        let losses: Vec<i64> = errors
            .par_chunks_exact_mut(present)
            .zip(own)
            .map(|(cosines, own)| softmax_error(cosines, own, self.refinement.scale))
            .collect();
        let pulled = map_rows(&errors, n, &turned, present);
        let mut back = vec![0.0; n * outputs];
        back.par_chunks_exact_mut(outputs)
            .zip(pulled.par_chunks_exact(outputs))
            .zip(z.par_chunks_exact(outputs))
            .zip(&lengths)
            .for_each(|(((back, pull), z), &length)| tangent(back, pull, z, seen.usual / length));
        let whole = |x: &f32| (f64::from(*x) * STEPS).round_ties_even();
        let errors: Vec<f64> = errors.par_iter().map(whole).collect();
        let z: Vec<f64> = z.par_iter().map(whole).collect();
        let add = |to: &mut [i64], from: &[f64]| to.iter_mut().zip(from).for_each(|(to, &x)| *to += x as i64);
        add(&mut total.map, &exact_product(&back, &steps, n, outputs, dim));
        back.chunks_exact(outputs).for_each(|back| add(&mut total.shift, back));
        let means = exact_product(&errors, &z, n, present, outputs);
        for (row, to) in self.rows.iter().zip(total.means.chunks_exact_mut(outputs)) {
            if let Some(row) = *row {
                add(to, &means[row * outputs..][..outputs]);
            }
        }
        total.loss += losses.iter().sum::<i64>();
        total.rows += n as i64;
        Ok(())
    }

    /// The map after one more step (from 0) down the gradient over all images.
    ///
    /// # Errors
    /// A gradient of other sizes.
    pub fn step(&self, form: &ClosedForm, gradient: &Gradient, step: u32) -> Result<ClosedForm> {
        let (dim, outputs) = (self.dim, form.outputs());
        let sizes = (gradient.map.len(), gradient.shift.len(), gradient.means.len());
        if sizes != (outputs * dim, outputs, self.rows.len() * outputs) {
            return Err(TrainError::shape("the gradient does not fit the closed form".to_owned()));
        }
        let seen = self.seen(form)?;
        let [mean, map] = form.tensors();
        let per_map = 1.0 / (STEPS * STEPS * seen.usual);
        let per_shift = 1.0 / (STEPS * seen.usual);
        let mut slope: Vec<f64> = gradient.map.iter().map(|&x| x as f64 * per_map).collect();
        for (row, &shift) in slope.chunks_exact_mut(dim).zip(&gradient.shift) {
            let shift = shift as f64 * per_shift;
            row.iter_mut().zip(mean).for_each(|(x, &mean)| *x -= shift * f64::from(mean));
        }
        // By way of the means: they move with the map.
        let mut pulls = vec![0.0; seen.directions.len()];
        for (row, sums) in self.rows.iter().zip(gradient.means.chunks_exact(outputs)) {
            let Some(row) = *row else { continue };
            let (direction, length) = (&seen.directions[row * outputs..][..outputs], seen.lengths[row]);
            if length <= 0.0 {
                continue;
            }
            let sums: Vec<f64> = sums.iter().map(|&x| x as f64 / (STEPS * STEPS)).collect();
            let along = linear::dot(&sums, direction);
            let pull = &mut pulls[row * outputs..][..outputs];
            for ((pull, sum), direction) in pull.iter_mut().zip(&sums).zip(direction) {
                *pull = (sum - along * direction) / length;
            }
        }
        let apart: Vec<f64> = self.apart.iter().map(|&x| f64::from(x)).collect();
        let (pulls, apart) = (View::new(&pulls, outputs), View::new(&apart, dim));
        linear::add_product(&mut slope, dim, 1.0, pulls.t(), apart, linear::Part::All);

        let map: Vec<f64> = map.iter().map(|&x| f64::from(x)).collect();
        let (long, steep) = (linear::dot(&map, &map).sqrt(), linear::dot(&slope, &slope).sqrt());
        let Refinement { steps, rate, .. } = self.refinement;
        let left = f64::from(steps.saturating_sub(step)) / f64::from(steps.max(1));
        let by = if steep > 0.0 { rate * left * long / steep } else { 0.0 };
        let map = map.iter().zip(&slope).map(|(x, slope)| (x - by * slope) as f32).collect();
        ClosedForm::from_tensors(mean.to_vec(), map)
    }
}

/// Brings a row to length 1; its length before.
fn unit(row: &mut [f32]) -> f64 {
    let length = super::length(row);
    row.iter_mut().for_each(|x| *x = if length > 0.0 { (f64::from(*x) / length) as f32 } else { 0.0 });
    length
}

/// Turns cosines into what the loss's gradient by their scaled values is; the loss, in steps.
fn softmax_error(cosines: &mut [f32], own: &Own, scale: f64) -> i64 {
    let Own { row: own, weight } = *own;
    let top = cosines.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponent = |cosine: f32| ((f64::from(cosine) - f64::from(top)) * scale).exp();
    let total: f64 = cosines.iter().map(|&cosine| exponent(cosine)).sum();
    let loss = total.ln() - (f64::from(cosines[own]) - f64::from(top)) * scale;
    for (class, cosine) in cosines.iter_mut().enumerate() {
        let share = exponent(*cosine) / total;
        *cosine = (weight * (share - f64::from(u8::from(class == own)))) as f32;
    }
    (weight * loss * STEPS).round_ties_even() as i64
}

/// What of `pull` turns `z`, times `by`, in whole steps and of bounded length.
fn tangent(out: &mut [f64], pull: &[f32], z: &[f32], by: f64) {
    let along: f64 = pull.iter().zip(z).map(|(&pull, &z)| f64::from(pull) * f64::from(z)).sum();
    for ((out, &pull), &z) in out.iter_mut().zip(pull).zip(z) {
        *out = f64::from(pull) - along * f64::from(z);
    }
    let length = out.iter().map(|x| x * x).sum::<f64>().sqrt();
    // A representation at the very mean has no direction, and so no gradient.
    let by = if by.is_finite() && length > 0.0 { by.min(CLIP / length) } else { 0.0 };
    out.iter_mut().for_each(|x| *x = (*x * by * STEPS).round_ties_even());
}

#[cfg(test)]
mod tests;
