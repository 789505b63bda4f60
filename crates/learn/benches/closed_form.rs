//! Closed-form members at the sizes of embeddings and of random features, with GMDB's 204 syndromes.
//!
//! `cargo bench -p learn --bench closed_form`
#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use learn::{ClosedForm, FormMoments, FormSettings, Ridge, Weighting};

const CLASSES: usize = 204;

fn rows(n: usize, dim: usize) -> (Vec<f32>, Vec<u32>) {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let rows = (0..n * dim).map(|_| next()).collect();
    (rows, (0..n).map(|i| (i % CLASSES) as u32).collect())
}

fn closed_form(c: &mut Criterion) {
    let mut group = c.benchmark_group("closed_form");
    group.sample_size(10);
    for dim in [512, 1024, 2048] {
        let (rows, labels) = rows(2048, dim);
        let collect = || FormMoments::collect(&rows, dim, &labels, &[true; CLASSES]).unwrap();
        let moments = collect();
        let settings = FormSettings {
            ridge: Ridge::Fixed(0.3),
            weighting: Weighting::HeldOut,
            outputs: None,
            per_image: 4,
        };
        group.bench_function(format!("solve {dim}"), |b| {
            b.iter(|| ClosedForm::solve(black_box(&moments), settings).unwrap());
        });
        group.bench_function(format!("moments of 2048 x {dim}"), |b| b.iter(|| black_box(collect())));
    }
    group.finish();
}

criterion_group!(benches, closed_form);
criterion_main!(benches);
