//! Refined closed forms against PyTorch (`reference/refine_vectors.py`).
#![allow(clippy::unwrap_used)]

use learn::{ClosedForm, FormGradient, FormMoments, Refinement, Refiner};
use safetensors::SafeTensors;

fn values(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let bytes = file.tensor(name).unwrap().data();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn steps_and_losses_are_those_of_automatic_differentiation() {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/refine.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let get = |name: &str| values(&file, name);
    let (rows, weights, mean, start) = (get("rows"), get("weights"), get("mean"), get("start"));
    let labels: Vec<u32> = get("labels").into_iter().map(|label| label as u32).collect();
    let [steps, rate, scale] = get("settings")[..] else { panic!("three settings") };
    let refinement = Refinement { steps: steps as u32, rate: f64::from(rate), scale: f64::from(scale) };
    let (dim, classes) = (mean.len(), weights.len());
    let outputs = start.len() / dim;
    let moments = FormMoments::collect(&rows, dim, &labels, &vec![true; classes]).unwrap();
    let refiner = Refiner::new(&moments, refinement, &weights).unwrap();
    let mut form = ClosedForm::from_tensors(mean, start).unwrap();
    let (losses, maps) = (get("losses"), get("maps"));
    for step in 0..refinement.steps {
        // Two hospitals.
        let half = labels.len() / 2;
        let mut gradient = FormGradient::zeros(dim, outputs, classes);
        for part in [0..half, half..labels.len()] {
            let rows = &rows[part.start * dim..part.end * dim];
            gradient.add(&refiner.gradient(&form, rows, &labels[part]).unwrap()).unwrap();
        }
        let (loss, want) = (gradient.mean_loss().unwrap(), f64::from(losses[step as usize]));
        assert!((loss - want).abs() < 1e-4 * want, "step {step}: {loss} {want}");
        form = refiner.step(&form, &gradient, step).unwrap();
        let want = &maps[step as usize * outputs * dim..][..outputs * dim];
        let size = want.iter().map(|x| x * x).sum::<f32>().sqrt();
        let away = form.tensors()[1].iter().zip(want).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
        // Whole steps of 2^-18 in gradients whose elements are thousandths.
        assert!(away < 3e-5 * size, "step {step}: {}", away / size);
    }
}
