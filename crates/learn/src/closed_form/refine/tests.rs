#![allow(clippy::unwrap_used)]
use super::*;
use crate::closed_form::{FormSettings, Ridge, Weighting};
use crate::random::{self, Purpose};

const DIM: usize = 9;
const OUTPUTS: usize = 4;
const CLASSES: usize = 5;
const EACH: usize = 12;
const REFINEMENT: Refinement = Refinement { steps: 10, rate: 0.1, scale: 16.0 };
const WEIGHTS: [f32; CLASSES] = [1.0, 0.5, 0.75, 1.0, 0.6];
const SETTINGS: FormSettings = FormSettings {
    ridge: Ridge::Fixed(0.3),
    weighting: Weighting::HeldOut,
    outputs: Some(OUTPUTS),
    per_image: 1,
};

fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    random::uniform(&mut random::stream(seed, Purpose::Init, 0, 0), 1.0, &mut values);
    values
}

/// Representations of all classes but the last, scattered so that they are mixed up.
fn images() -> (Vec<f32>, Vec<u32>) {
    let labels: Vec<u32> = (0..(CLASSES - 1) * EACH).map(|at| (at % (CLASSES - 1)) as u32).collect();
    let (middles, noise) = (uniform(8, CLASSES * DIM), uniform(9, labels.len() * DIM));
    let values = labels.iter().zip(noise.chunks_exact(DIM)).flat_map(|(&label, noise)| {
        let middle = &middles[label as usize * DIM..][..DIM];
        noise.iter().zip(middle).map(|(noise, middle)| noise + 0.5 * middle + 0.4).collect::<Vec<_>>()
    });
    (values.collect(), labels)
}

fn start() -> (Refiner, ClosedForm) {
    let (values, labels) = images();
    let moments = Moments::collect(&values, DIM, &labels, &[true; CLASSES]).unwrap();
    let refiner = Refiner::new(&moments, REFINEMENT, &WEIGHTS).unwrap();
    (refiner, ClosedForm::solve(&moments, SETTINGS).unwrap())
}

/// The loss written out plainly: weighted cross-entropy of scaled cosines to the mapped class means.
fn loss(refiner: &Refiner, form: &ClosedForm, values: &[f32], labels: &[u32]) -> f64 {
    let [mean, map] = form.tensors();
    let see = |x: &[f64]| -> Vec<f64> {
        let row = |row: &[f32]| row.iter().zip(x).map(|(&a, x)| f64::from(a) * x).sum::<f64>();
        let y: Vec<f64> = map.chunks_exact(DIM).map(row).collect();
        let length = y.iter().map(|y| y * y).sum::<f64>().sqrt();
        y.into_iter().map(|y| y / length).collect()
    };
    let means: Vec<Vec<f64>> = refiner
        .apart
        .chunks_exact(DIM)
        .map(|row| see(&row.iter().map(|&x| f64::from(x)).collect::<Vec<_>>()))
        .collect();
    let one = |(x, &label): (&[f32], &u32)| {
        let norm = super::super::length(x);
        let x: Vec<f64> = x.iter().zip(mean).map(|(&x, &m)| f64::from(x) / norm - f64::from(m)).collect();
        let z = see(&x);
        let scores: Vec<f64> = means
            .iter()
            .map(|c| REFINEMENT.scale * c.iter().zip(&z).map(|(a, b)| a * b).sum::<f64>())
            .collect();
        let total: f64 = scores.iter().map(|s| s.exp()).sum();
        f64::from(WEIGHTS[label as usize]) * (total.ln() - scores[label as usize])
    };
    values.chunks_exact(DIM).zip(labels).map(one).sum()
}

#[test]
fn a_step_goes_down_the_gradient_that_differences_of_the_loss_give() {
    let (refiner, form) = start();
    let (values, labels) = images();
    let gradient = refiner.gradient(&form, &values, &labels).unwrap();
    let plain = loss(&refiner, &form, &values, &labels);
    assert!((gradient.loss as f64 / STEPS - plain).abs() < 1e-4 * plain, "{gradient:?} {plain}");
    let [mean, map] = form.tensors();
    let length = super::super::length;
    let stepped = refiner.step(&form, &gradient, 0).unwrap();
    let step: Vec<f32> = stepped.tensors()[1].iter().zip(map).map(|(a, b)| a - b).collect();
    assert!((length(&step) / length(map) - REFINEMENT.rate).abs() < 1e-5, "as long as the rate says");
    let unit = length(map) * 1e-3;
    let differences: Vec<f32> = (0..map.len())
        .map(|at| {
            let moved = |by: f64| {
                let mut map = map.to_vec();
                map[at] += by as f32;
                let form = ClosedForm::from_tensors(mean.to_vec(), map).unwrap();
                loss(&refiner, &form, &values, &labels)
            };
            (moved(unit) - moved(-unit)) as f32
        })
        .collect();
    let dot: f64 = differences.iter().zip(&step).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    let cosine = dot / (length(&differences) * length(&step));
    assert!(cosine < -0.9999, "straight down: {cosine}");
    assert!(loss(&refiner, &stepped, &values, &labels) < plain);
    assert_eq!(stepped.tensors()[0], mean);
}

#[test]
fn the_gradient_is_the_same_bit_for_bit_however_images_are_split() {
    let (refiner, form) = start();
    let (values, labels) = images();
    let whole = refiner.gradient(&form, &values, &labels).unwrap();
    for parts in [2, 3, 7, labels.len()] {
        let mut sum = Gradient::zeros(DIM, OUTPUTS, CLASSES);
        for part in 0..parts {
            let rows: Vec<usize> = (0..labels.len()).rev().filter(|row| row * 5 % parts == part).collect();
            let values: Vec<f32> = rows.iter().flat_map(|&r| &values[r * DIM..][..DIM]).copied().collect();
            let labels: Vec<u32> = rows.iter().map(|&row| labels[row]).collect();
            sum.add(&refiner.gradient(&form, &values, &labels).unwrap()).unwrap();
        }
        assert_eq!(sum, whole, "{parts} parts");
    }
    let threads = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
    assert_eq!(threads.install(|| refiner.gradient(&form, &values, &labels).unwrap()), whole);
}

#[test]
fn images_of_a_class_without_a_mean_take_no_part() {
    let (values, labels) = images();
    let mut shared = [true; CLASSES];
    shared[1] = false;
    let moments = Moments::collect(&values, DIM, &labels, &shared).unwrap();
    let refiner = Refiner::new(&moments, REFINEMENT, &WEIGHTS).unwrap();
    let form = ClosedForm::solve(&moments, SETTINGS).unwrap();
    let gradient = refiner.gradient(&form, &values, &labels).unwrap();
    assert_eq!(gradient.rows, ((CLASSES - 2) * EACH) as i64);
    for class in [1, CLASSES - 1] {
        assert!(gradient.means[class * OUTPUTS..][..OUTPUTS].iter().all(|&x| x == 0), "class {class}");
    }
    let without: Vec<usize> = (0..labels.len()).filter(|&row| labels[row] != 1).collect();
    let values: Vec<f32> = without.iter().flat_map(|&r| &values[r * DIM..][..DIM]).copied().collect();
    let labels: Vec<u32> = without.iter().map(|&row| labels[row]).collect();
    assert_eq!(refiner.gradient(&form, &values, &labels).unwrap(), gradient);
}

#[test]
fn what_is_kept_of_the_means_restores_them() {
    let (refiner, form) = start();
    let restored = Refiner::restored(&refiner.means(), DIM, REFINEMENT, &WEIGHTS).unwrap();
    assert_eq!(restored, refiner);
    let (values, labels) = images();
    let gradient = refiner.gradient(&form, &values, &labels).unwrap();
    let last = restored.step(&form, &gradient, REFINEMENT.steps).unwrap();
    assert_eq!(last, form, "the last step would have no length");
    assert!(Refiner::restored(&refiner.means()[1..], DIM, REFINEMENT, &WEIGHTS).is_err());
}

#[test]
fn a_representation_at_the_mean_drowns_nobody_and_one_of_zeros_is_refused() {
    let (refiner, form) = start();
    let (mut values, mut labels) = images();
    let few = refiner.gradient(&form, &values, &labels).unwrap();
    values.extend(form.tensors()[0].iter().map(|&x| x + 1e-6));
    labels.push(0);
    let more = refiner.gradient(&form, &values, &labels).unwrap();
    let added = more.shift.iter().zip(&few.shift).map(|(a, b)| ((a - b) as f64 / STEPS).powi(2)).sum::<f64>();
    assert!(added.sqrt() <= CLIP * 1.001, "{}", added.sqrt());
    values.extend([0.0; DIM]);
    labels.push(0);
    assert!(
        refiner.gradient(&form, &values, &labels).unwrap_err().to_string().contains("zero or not finite")
    );
}

#[test]
fn what_does_not_fit_is_refused() {
    let (refiner, form) = start();
    for bad in [
        Refinement { rate: 0.0, ..REFINEMENT },
        Refinement { rate: f64::NAN, ..REFINEMENT },
        Refinement { scale: -1.0, ..REFINEMENT },
    ] {
        assert!(Refiner::restored(&refiner.means(), DIM, bad, &WEIGHTS).is_err(), "{bad:?}");
    }
    assert!(Refiner::restored(&refiner.means(), DIM, REFINEMENT, &[2.0; CLASSES]).is_err());
    assert!(refiner.gradient(&form, &[1.0; DIM], &[9]).is_err());
    assert!(refiner.gradient(&form, &[1.0; DIM - 1], &[0]).is_err());
    assert!(refiner.step(&form, &Gradient::zeros(DIM, OUTPUTS + 1, CLASSES), 0).is_err());
    let zeros = ClosedForm::zeros(DIM, OUTPUTS);
    assert!(refiner.gradient(&zeros, &[1.0; DIM], &[0]).unwrap_err().to_string().contains("sees no"));
}
