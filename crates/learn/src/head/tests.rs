#![allow(clippy::unwrap_used)]

use super::*;
use crate::matmul::BLOCK_ROWS;
use crate::{ErrorKind, MemoryFeatures, Recipe, Trainer};

fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    random::uniform(&mut random::stream(seed, Purpose::Init, 0, 0), 1.0, &mut values);
    values
}

#[test]
fn an_identity_head_represents_an_embedding_by_itself() {
    let head = Head::identity(5, 3, 1).unwrap();
    let x = noise(1, 10);
    for (got, want) in head.represent(&x, 2).unwrap().iter().zip(&x) {
        // BatchNorm divides by sqrt(1 + 1e-5).
        assert!((got - want).abs() < 1e-5, "{got} against {want}");
    }
}

#[test]
fn a_calibrated_head_represents_an_embedding_by_itself_in_training_too() {
    let (n, dim) = (64, 4);
    let x: Vec<f32> = noise(2, n * dim).iter().enumerate().map(|(i, x)| x * 0.1 + (i % dim) as f32).collect();
    let column = |j: usize| x.iter().skip(j).step_by(dim).map(|&x| f64::from(x));
    let mean: Vec<f32> = (0..dim).map(|j| (column(j).sum::<f64>() / n as f64) as f32).collect();
    let var: Vec<f32> = (0..dim)
        .map(|j| (column(j).map(|x| (x - f64::from(mean[j])).powi(2)).sum::<f64>() / n as f64) as f32)
        .collect();
    let mut head = Head::identity_calibrated(dim, 2, 1, &mean, &var).unwrap();
    for (got, want) in head.represent(&x, n).unwrap().iter().zip(&x) {
        assert!((got - want).abs() < 1e-5, "evaluation: {got} against {want}");
    }
    let mut normalised = norm::Normalised::default();
    norm::standardise(&x, dim, head.bn_eps, &mut normalised);
    for (row, x) in normalised.standard.chunks(dim).zip(x.chunks(dim)) {
        for j in 0..dim {
            let got = row[j] * head.bn_weight[j] + head.bn_bias[j];
            assert!((got - x[j]).abs() < 1e-5, "training: {got} against {}", x[j]);
        }
    }
    assert!(head.set_tensor("bn.running_var", &[-1.0; 4]).is_err());
}

#[test]
fn a_calibrated_start_survives_its_first_updates() {
    let (n, dim) = (128, 16);
    let x = noise(3, n * dim);
    let (mean, var) = (vec![0.0; dim], vec![1.0 / 3.0; dim]);
    let head = Head::identity_calibrated(dim, 2, 1, &mean, &var).unwrap();
    let rows: Vec<Example> = (0..n).map(|row| Example { row, label: (row % 2) as u32 }).collect();
    let recipe = Recipe { batch: 64, ..Recipe::r50() };
    let mut trainer = Trainer::new(head, recipe, &[1.0; 2], 1).unwrap();
    trainer.epoch(&MemoryFeatures::new(dim, 1, x.clone()).unwrap(), &rows, 0).unwrap();
    let represented = trainer.head().represent(&x, n).unwrap();
    let cosine = |a: &[f32], b: &[f32]| {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    for (got, want) in represented.chunks(dim).zip(x.chunks(dim)) {
        assert!(cosine(got, want) > 0.99);
    }
}

#[test]
fn a_representation_does_not_depend_on_its_batch() {
    let shape = HeadShape { input: 1300, dim: 150, classes: 2 };
    let mut head = Head::zeros(shape, 1e-5).unwrap();
    head.set_tensor("neck.weight", &noise(4, shape.input * shape.dim)).unwrap();
    let n = 2 * BLOCK_ROWS + 5;
    let x = noise(5, n * shape.input);
    let together = head.represent(&x, n).unwrap();
    for (row, together) in together.chunks(shape.dim).enumerate() {
        let alone = head.represent(&x[row * shape.input..][..shape.input], 1).unwrap();
        assert!(alone.iter().zip(together).all(|(a, b)| a.to_bits() == b.to_bits()), "row {row}");
        let want: f64 = x[row * shape.input..][..shape.input]
            .iter()
            .zip(head.neck_weight.iter())
            .map(|(&x, &w)| f64::from(x) * f64::from(w))
            .sum();
        assert!((f64::from(alone[0]) - want / (1.0 + 1e-5f64).sqrt()).abs() < 1e-4);
    }
    assert!(head.represent(&[], 0).unwrap().is_empty());
    assert_eq!(head.represent(&x, n + 1).unwrap_err().kind(), ErrorKind::Shape);
}

#[test]
fn tensors_keep_their_order_and_round_trip() {
    let shape = HeadShape { input: 3, dim: 2, classes: 4 };
    let mut head = Head::zeros(shape, 1e-5).unwrap();
    let shapes: Vec<Vec<usize>> = head.tensors().iter().map(|tensor| tensor.shape.clone()).collect();
    let expected: [&[usize]; 8] = [&[2, 3], &[2], &[2], &[2], &[2], &[2], &[4, 2], &[4]];
    assert_eq!(shapes, expected);
    for (index, name) in Head::TENSORS.into_iter().enumerate() {
        let length = shapes[index].iter().product();
        let values: Vec<f32> = (0..length).map(|i| (10 * index + i) as f32).collect();
        head.set_tensor(name, &values).unwrap();
        let tensor = &head.tensors()[index];
        assert_eq!((tensor.name, tensor.values), (name, &values[..]));
    }
}

#[test]
fn a_tensor_that_does_not_fit_is_refused_and_changes_nothing() {
    let mut head = Head::identity(2, 3, 1).unwrap();
    let before = head.clone();
    for (name, values, expected) in [
        ("neck.wieght", &[0.0; 4][..], "neck.weight"),
        ("neck.weight", &[0.0; 5], "needs 4 values but got 5"),
        ("bn.bias", &[0.0, f32::INFINITY], "bn.bias holds inf at index 1"),
        ("bn.running_var", &[1.0, -0.5], "negative variance at index 1"),
    ] {
        let error = head.set_tensor(name, values).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert_eq!(head, before);
}

#[test]
fn impossible_shapes_are_refused() {
    for (input, dim, classes) in [(0, 1, 1), (1, 0, 1), (1, 1, 0), (usize::MAX, 2, 1), (1 << 40, 1 << 30, 2)]
    {
        assert_eq!(
            Head::zeros(HeadShape { input, dim, classes }, 1e-5).unwrap_err().kind(),
            ErrorKind::Shape
        );
    }
    assert!(Head::identity(0, 1, 1).is_err());
    assert!(Head::zeros(HeadShape { input: 1, dim: 1, classes: 1 }, 0.0).is_err());
}

#[test]
fn the_classifier_starts_from_its_seed() {
    let head = |seed| Head::identity(100, 7, seed).unwrap();
    assert_eq!(head(1), head(1));
    assert_ne!(head(1).classifier_weight, head(2).classifier_weight);
    let largest = head(1).classifier_weight.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    assert!((0.09..=0.1).contains(&largest), "uniform in ±1/sqrt(100), largest {largest}");
}
