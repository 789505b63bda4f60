//! One training step (gather from the f16 cache, forward, backward, Adam) at 25,088 -> 512 -> 204, per batch size.
//!
//! The times shown are per step. `reference/bench_head.py` times the same step in PyTorch.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use learn::cache::{FeatureTable, Header, encode_row};
use learn::{Example, Head, HeadShape, Recipe, Trainer};

const SHAPE: HeadShape = HeadShape { input: 25_088, dim: 512, classes: 204 };
const DRAWS: usize = 4;

/// Steps per epoch: enough that its first projection, which no update carries, weighs little, as in real epochs.
const STEPS: u32 = 10;

/// A small generator: the numbers only have to be irregular.
fn noise(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 40) as f32 / 8_388_608.0 - 1.0
}

fn table(images: usize) -> FeatureTable<Vec<u8>> {
    let ids = (0..images).map(|image| image.to_string()).collect();
    let mut bytes = Header::new([0; 32], 1, SHAPE.input, DRAWS, ids).expect("valid header").encode();
    let mut state = 1;
    let row: Vec<f32> = (0..SHAPE.input + images * DRAWS).map(|_| noise(&mut state)).collect();
    for start in 0..images * DRAWS {
        encode_row(&row[start..start + SHAPE.input], &mut bytes).expect("finite features");
    }
    FeatureTable::parse(bytes).expect("a whole table")
}

fn trainer(recipe: Recipe) -> Trainer {
    let mut state = 2;
    let mut head = Head::zeros(SHAPE, Head::BN_EPS).expect("valid shape");
    for (name, len) in
        [("neck.weight", SHAPE.input * SHAPE.dim), ("classifier.weight", SHAPE.classes * SHAPE.dim)]
    {
        let values: Vec<f32> = (0..len).map(|_| 0.01 * noise(&mut state)).collect();
        head.set_tensor(name, &values).expect("valid tensor");
    }
    Trainer::new(head, recipe, &[1.0; SHAPE.classes], 3).expect("valid trainer")
}

fn head_step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("head_step");
    group.sample_size(10).measurement_time(Duration::from_secs(12));
    for recipe in [Recipe::r50(), Recipe::r100()] {
        let images = recipe.batch * STEPS as usize;
        let table = table(images);
        let rows: Vec<Example> =
            (0..images).map(|row| Example { row, label: (row % SHAPE.classes) as u32 }).collect();
        let mut trainer = trainer(recipe);
        let mut epoch = 0;
        group.bench_function(format!("batch_{}", recipe.batch), |bencher| {
            bencher.iter_custom(|iterations| {
                let epochs = (iterations as u32).div_ceil(STEPS);
                let start = Instant::now();
                for _ in 0..epochs {
                    black_box(trainer.epoch(&table, &rows, epoch).expect("a finite epoch"));
                    epoch += 1;
                }
                start.elapsed() * iterations as u32 / (epochs * STEPS)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, head_step);
criterion_main!(benches);
