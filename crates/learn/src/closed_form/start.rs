//! Heads that start from a closed form and are trained on from there (Fed3R with fine-tuning, ICML 2024).
//!
//! A closed form maps `x / |x|`, and a neck is affine in its features: so the map is folded into the neck with the
//! mean length of the images' representations in place of each one's own. BatchNorm takes the statistics that the moments
//! give, so that it changes nothing in training either. The classifier's rows are the classes' means there.

use super::linear::{View, dot, product};
use super::{ClosedForm, FormSettings, Moments, STEPS};
use crate::error::{Result, TrainError};
use crate::head::Head;

/// What a head starts from: moments of the published representations, and how long these are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartMoments {
    /// Of the representations at unit length.
    pub form: Moments,
    /// Sum of their lengths, in steps of 2^-18.
    pub lengths: i64,
}

/// The mean square of a classifier row's length: that of rows drawn as PyTorch draws them. Longer ones are surer than the
/// classes' means deserve, whose distances are partly chance.
const ROW_SQUARE: f64 = 1.0 / 3.0;

impl StartMoments {
    /// No images.
    pub fn zeros(dim: usize, classes: usize) -> Self {
        Self { form: Moments::zeros(dim, classes), lengths: 0 }
    }

    /// As [`Moments::collect`].
    ///
    /// # Errors
    /// As there.
    pub fn collect(representations: &[f32], dim: usize, labels: &[u32], shared: &[bool]) -> Result<Self> {
        let form = Moments::collect(representations, dim, labels, shared)?;
        let steps = |row: &[f32]| (super::length(row) * STEPS).round_ties_even() as i64;
        Ok(Self { form, lengths: representations.chunks_exact(dim).map(steps).sum() })
    }

    /// Adds the moments of other images.
    ///
    /// # Errors
    /// Another dimension or number of classes.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        self.form.add(&other.form)?;
        self.lengths += other.lengths;
        Ok(())
    }

    fn mean_length(&self) -> Result<f64> {
        let length = self.lengths as f64 / (STEPS * self.form.rows as f64);
        if length > 0.0 && length.is_finite() {
            return Ok(length);
        }
        Err(TrainError::invalid(
            "there are no images to start from; train with members that start as published".to_owned(),
        ))
    }
}

impl Head {
    /// Turns a head as published into one whose representations are those of the closed form of `moments`, up to one factor
    /// and each representation's own length: on average over its values they have variance 1, as BatchNorm gives.
    /// Rows of the neck are as long as the published ones are on average. Classifier rows of classes with images are their means,
    /// those of the others stay as they are.
    ///
    /// Equal heads and moments give equal bits on every processor.
    ///
    /// # Errors
    /// As [`ClosedForm::solve`], and moments of another dimension or number of classes.
    pub fn start_from(&mut self, moments: &StartMoments, settings: FormSettings) -> Result<()> {
        let form = &moments.form;
        let (dim, input) = (self.shape().dim, self.shape().input);
        if (form.dim, form.counts.len()) != (dim, self.shape().classes) {
            return Err(TrainError::shape(format!(
                "moments of {} values and {} classes cannot start a head of {:?}",
                form.dim,
                form.counts.len(),
                self.shape()
            )));
        }
        let solved = ClosedForm::solve(form, FormSettings { outputs: None, ..settings })?;
        let map: Vec<f64> = solved.projection.iter().map(|&x| f64::from(x)).collect();
        let map = View::new(&map, dim);
        let (mean, apart) = form.means()?;
        let apart = product(View::new(&apart, dim), map.t());
        let variances = variances(form, map, &apart);
        let scale = 1.0 / (variances.iter().sum::<f64>() / dim as f64).sqrt();

        let by_length = 1.0 / moments.mean_length()?;
        let eps = f64::from(self.bn_eps());
        let published = self.published_affine();
        let through: Vec<f64> =
            map.values().chunks_exact(dim).flat_map(|row| published.scaled(row, by_length)).collect();
        let neck: Vec<f64> = self.neck_weight.iter().map(|&x| f64::from(x)).collect();
        let wanted = square(&neck) / dim as f64;
        let mut weight = product(View::new(&through, dim), View::new(&neck, input));
        drop(neck);
        let means = product(map, View::new(&mean, 1));
        for (j, row) in weight.chunks_exact_mut(input).enumerate() {
            let length = square(row);
            let factor = if length > 0.0 { (wanted / length).sqrt() } else { 1.0 };
            row.iter_mut().for_each(|x| *x *= factor);
            let shift = by_length * dot(&map.values()[j * dim..][..dim], &published.shift);
            self.neck_bias[j] = (factor * shift) as f32;
            self.bn_mean[j] = (factor * means[j]) as f32;
            let variance = factor * factor * variances[j];
            self.bn_var[j] = variance as f32;
            self.bn_weight[j] = (scale * (variance + eps).sqrt() / factor) as f32;
            self.bn_bias[j] = 0.0;
        }
        self.neck_weight = weight.into_iter().map(|x| x as f32).collect::<Vec<_>>().into();
        self.start_classifier(form, &apart, scale);
        self.check_finite()
    }

    /// Rows towards the classes' means, all in one proportion; the bias makes of the inner product a distance to the mean.
    fn start_classifier(&mut self, form: &Moments, apart: &[f64], scale: f64) {
        let dim = form.dim;
        let classes: Vec<usize> = (0..form.counts.len()).filter(|&class| form.counts[class] > 0).collect();
        let mean_square = scale * scale * square(apart) / classes.len() as f64;
        let by = (ROW_SQUARE / mean_square).sqrt();
        for (&class, mean) in classes.iter().zip(apart.chunks_exact(dim)) {
            let row = &mut self.classifier_weight[class * dim..][..dim];
            row.iter_mut().zip(mean).for_each(|(to, x)| *to = (by * scale * x) as f32);
            self.classifier_bias[class] = (-0.5 * by * scale * scale * square(mean)) as f32;
        }
    }

    /// BatchNorm with its running statistics and the bias before it, as `scale * (weight x) + shift`.
    fn published_affine(&self) -> Affine {
        let eps = f64::from(self.bn_eps());
        let scales = self.bn_weight.iter().zip(&self.bn_var);
        let scale: Vec<f64> = scales.map(|(&w, &v)| f64::from(w) / (f64::from(v) + eps).sqrt()).collect();
        let shifts = self.neck_bias.iter().zip(&self.bn_mean).zip(&self.bn_bias);
        let shift = shifts.zip(&scale).map(|(((&bias, &mean), &shift), scale)| {
            (f64::from(bias) - f64::from(mean)) * scale + f64::from(shift)
        });
        Affine { shift: shift.collect(), scale }
    }
}

struct Affine {
    scale: Vec<f64>,
    shift: Vec<f64>,
}

impl Affine {
    /// A row of a map behind it as one before it, times `by`.
    fn scaled<'a>(&'a self, row: &'a [f64], by: f64) -> impl Iterator<Item = f64> + 'a {
        row.iter().zip(&self.scale).map(move |(x, scale)| x * scale * by)
    }
}

fn square(values: &[f64]) -> f64 {
    dot(values, values)
}

/// The variance of each of the form's values over all images. `apart` are the mapped class means.
fn variances(form: &Moments, map: View<'_>, apart: &[f64]) -> Vec<f64> {
    let dim = form.dim;
    let mut within = form.within();
    for i in 0..dim {
        for j in 0..i {
            within[j * dim + i] = within[i * dim + j];
        }
    }
    let mapped = product(map, View::new(&within, dim));
    let rows = mapped.chunks_exact(dim).zip(map.values().chunks_exact(dim));
    let mut variances: Vec<f64> = rows.map(|(a, b)| dot(a, b)).collect();
    let all: f64 = form.shared_counts().sum();
    for (mean, count) in apart.chunks_exact(dim).zip(form.shared_counts()) {
        let pairs = variances.iter_mut().zip(mean);
        pairs.for_each(|(variance, x)| *variance += count / all * x * x);
    }
    variances
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::closed_form::{Ridge, Weighting};
    use crate::head::NeckInit;
    use crate::random::{self, Purpose};

    const INPUT: usize = 9;
    const DIM: usize = 6;
    const CLASSES: usize = 5;
    const EACH: usize = 8;
    const SETTINGS: FormSettings =
        FormSettings { ridge: Ridge::Fixed(0.3), weighting: Weighting::HeldOut, outputs: None, per_image: 1 };

    fn uniform(seed: u64, len: usize) -> Vec<f32> {
        let mut values = vec![0.0; len];
        random::uniform(&mut random::stream(seed, Purpose::Init, 0, 0), 1.0, &mut values);
        values
    }

    /// A neck with a BatchNorm that does something.
    fn head() -> Head {
        let neck = NeckInit {
            input: INPUT,
            output: DIM,
            weight: uniform(1, INPUT * DIM).into(),
            bias: uniform(2, DIM),
            bn_weight: uniform(3, DIM).iter().map(|x| x + 2.0).collect(),
            bn_bias: uniform(4, DIM),
            bn_mean: uniform(5, DIM),
            bn_var: uniform(6, DIM).iter().map(|x| x + 1.5).collect(),
            bn_eps: Head::BN_EPS,
        };
        Head::from_neck(neck, CLASSES, 7).unwrap()
    }

    /// Features of `EACH` images of all classes but the last, about a middle of their own.
    fn images() -> (Vec<f32>, Vec<u32>) {
        let labels: Vec<u32> = (0..(CLASSES - 1) * EACH).map(|at| (at / EACH) as u32).collect();
        let middles = uniform(8, CLASSES * INPUT);
        let noise = uniform(9, labels.len() * INPUT);
        let features = labels.iter().zip(noise.chunks_exact(INPUT)).flat_map(|(&label, noise)| {
            let middle = &middles[label as usize * INPUT..][..INPUT];
            noise.iter().zip(middle).map(|(noise, middle)| 0.4 * noise + middle + 0.6).collect::<Vec<_>>()
        });
        (features.collect(), labels)
    }

    fn moments(head: &Head, shared: &[bool]) -> StartMoments {
        let (features, labels) = images();
        let published = head.represent(&features, labels.len()).unwrap();
        StartMoments::collect(&published, DIM, &labels, shared).unwrap()
    }

    fn cosine(a: &[f32], b: &[f32]) -> f64 {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    #[test]
    fn representations_of_the_mean_length_are_those_of_the_closed_form() {
        let published = head();
        let moments = moments(&published, &[true; CLASSES]);
        let form = ClosedForm::solve(&moments.form, SETTINGS).unwrap();
        let mut started = published.clone();
        started.start_from(&moments, SETTINGS).unwrap();
        // A representation of the mean length, along each direction in turn: features found by way of the neck's first DIM
        // columns, by elimination.
        let affine = published.published_affine();
        let length = moments.mean_length().unwrap();
        for (at, direction) in uniform(10, 8 * DIM).chunks_exact(DIM).enumerate() {
            let norm = super::super::length(direction);
            let wanted: Vec<f64> = direction.iter().map(|&x| f64::from(x) / norm * length).collect();
            let mut rows: Vec<Vec<f64>> = (0..DIM)
                .map(|j| {
                    let mut row: Vec<f64> = (0..DIM)
                        .map(|i| affine.scale[j] * f64::from(published.neck_weight[j * INPUT + i]))
                        .collect();
                    row.push(wanted[j] - affine.shift[j]);
                    row
                })
                .collect();
            for pivot in 0..DIM {
                let best =
                    (pivot..DIM).max_by(|&a, &b| rows[a][pivot].abs().total_cmp(&rows[b][pivot].abs()));
                rows.swap(pivot, best.unwrap());
                let (head, by) = (rows[pivot].clone(), rows[pivot][pivot]);
                for (_, row) in rows.iter_mut().enumerate().filter(|(j, _)| *j != pivot) {
                    let factor = row[pivot] / by;
                    row.iter_mut().zip(&head).for_each(|(x, head)| *x -= factor * head);
                }
            }
            let mut features: Vec<f32> = (0..DIM).map(|j| (rows[j][DIM] / rows[j][j]) as f32).collect();
            features.resize(INPUT, 0.0);
            let representation = published.represent(&features, 1).unwrap();
            let want = form.apply(&representation, 1).unwrap();
            let got = started.represent(&features, 1).unwrap();
            assert!(cosine(&got, &want) > 1.0 - 1e-5, "direction {at}: {got:?} {want:?}");
        }
    }

    #[test]
    fn batchnorm_holds_the_statistics_of_the_images_and_rows_their_classes_means() {
        let published = head();
        let mut started = published.clone();
        started.start_from(&moments(&published, &[true; CLASSES]), SETTINGS).unwrap();
        // The closed form of each image at its own length is what the moments are of.
        let (features, labels) = images();
        let form = ClosedForm::solve(&moments(&published, &[true; CLASSES]).form, SETTINGS).unwrap();
        let z = form.apply(&published.represent(&features, labels.len()).unwrap(), labels.len()).unwrap();
        let count = labels.len() as f64;
        let mut factors = Vec::new();
        for j in 0..DIM {
            let values = || z.iter().skip(j).step_by(DIM).map(|&x| f64::from(x));
            let mean = values().sum::<f64>() / count;
            let variance = values().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
            let (weight, running) = (f64::from(started.bn_weight[j]), f64::from(started.bn_var[j]));
            // What evaluation gives at the mean length, and what training gives, which has the batch's variance.
            factors.push(weight * weight * running / (running + f64::from(Head::BN_EPS)) / variance);
            assert!(started.bn_bias[j] == 0.0 && mean.abs() < 1e-4, "value {j}: mean {mean}");
        }
        assert!(factors.iter().all(|factor| (factor / factors[0] - 1.0).abs() < 1e-3), "{factors:?}");
        let square: f64 = started.bn_weight.iter().map(|&x| f64::from(x).powi(2)).sum();
        assert!((square / DIM as f64 - 1.0).abs() < 1e-2, "variance 1 on average: {square}");
        let mut squares = 0.0;
        for class in 0..CLASSES - 1 {
            let mut mean = vec![0.0f32; DIM];
            let own = z.chunks_exact(DIM).zip(&labels).filter(|(_, label)| **label as usize == class);
            own.for_each(|(row, _)| mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x / EACH as f32));
            let row = &started.classifier_weight[class * DIM..][..DIM];
            assert!(cosine(row, &mean) > 1.0 - 1e-5, "class {class}: {row:?} {mean:?}");
            let length = super::super::length(row);
            squares += length * length / (CLASSES - 1) as f64;
            // The inner product with the mean, halved.
            let bias = f64::from(started.classifier_bias[class]);
            let want = -0.5 * length * super::super::length(&mean) * factors[0].sqrt();
            assert!((bias / want - 1.0).abs() < 1e-3, "class {class}: {bias} {want}");
        }
        assert!((squares - ROW_SQUARE).abs() < 1e-5, "{squares}");
        let rows = |weight: &[f32]| weight.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / DIM as f64;
        let (before, after) = (rows(&published.neck_weight), rows(&started.neck_weight));
        assert!((before - after).abs() < 1e-5 * before);
    }

    #[test]
    fn a_class_that_too_few_hold_or_nobody_has_begins_as_published() {
        let published = head();
        let mut shared = [true; CLASSES];
        shared[1] = false;
        let mut started = published.clone();
        started.start_from(&moments(&published, &shared), SETTINGS).unwrap();
        for class in 0..CLASSES {
            let rows = class * DIM..(class + 1) * DIM;
            let same = started.classifier_weight[rows.clone()] == published.classifier_weight[rows];
            let same = same && started.classifier_bias[class] == published.classifier_bias[class];
            assert_eq!(same, class == 1 || class == CLASSES - 1, "class {class}");
        }
    }

    #[test]
    fn nothing_to_start_from_is_said() {
        let mut head = head();
        let none = StartMoments::zeros(DIM, CLASSES);
        assert!(
            head.start_from(&none, SETTINGS).unwrap_err().to_string().contains("at least 2 shared syndromes")
        );
        let other = StartMoments::zeros(DIM + 1, CLASSES);
        assert!(head.start_from(&other, SETTINGS).is_err());
    }
}
