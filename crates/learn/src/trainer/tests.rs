#![allow(clippy::unwrap_used)]

mod behaviour;
mod reference;

use super::*;
use crate::classifier::Classifier;
use crate::schedule::RateSchedule;
use crate::source::MemoryFeatures;

/// Irregular numbers in `[-1, 1)`, the same on every machine.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    random::uniform(&mut random::stream(seed, Purpose::Init, 0, 0), 1.0, &mut values);
    values
}

/// A head whose every tensor is irregular.
fn head(shape: HeadShape, seed: u64) -> Head {
    let mut head = Head::zeros(shape, Head::BN_EPS).unwrap();
    let lengths: Vec<usize> = head.tensors().iter().map(|tensor| tensor.values.len()).collect();
    for (name, length) in Head::TENSORS.into_iter().zip(lengths) {
        let mut values = noise(seed ^ length as u64, length);
        if name == "bn.running_var" {
            values.iter_mut().for_each(|value| *value = value.abs() + 0.5);
        }
        head.set_tensor(name, &values).unwrap();
    }
    head
}

/// One update by the steps that an epoch is made of, with the dropout mask given.
fn update(trainer: &mut Trainer, features: &[f32], labels: &[u32], mask: &[f32]) -> BatchLoss {
    let (mut partials, mut projected) = (Vec::new(), Vec::new());
    let shape = trainer.shape;
    let batch = Some((features, labels.len()));
    sweep::sweep(&mut trainer.neck_weight, shape, None, batch, &mut partials, &mut projected);
    let (loss, grad) = trainer.update_small(&mut projected, labels, mask).unwrap();
    let update = sweep::Update { features, grad: &grad, step: trainer.neck_step() };
    sweep::sweep(&mut trainer.neck_weight, shape, Some(update), None, &mut partials, &mut projected);
    loss
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
