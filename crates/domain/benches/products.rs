//! Inner products of a band of a gallery with all of it, at the size of the paper's encodings.
//!
//! `cargo bench -p domain`; a whole gallery of 6,500 takes 26 such bands.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use domain::Encoding;
use domain::encoding::inner_products;

const GALLERY: usize = 6500;
const BAND: usize = 256;
const DIM: usize = 6144;

fn products(c: &mut Criterion) {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut encoding = || {
        let values: Vec<f32> = (0..DIM).map(|_| next()).collect();
        Encoding::from_representations(&[&values]).unwrap()
    };
    let gallery: Vec<Encoding> = (0..GALLERY).map(|_| encoding()).collect();
    let gallery: Vec<&Encoding> = gallery.iter().collect();
    let mut group = c.benchmark_group("inner_products");
    group.sample_size(10);
    group.throughput(Throughput::Elements((2 * BAND * GALLERY * DIM) as u64));
    group.bench_function("256 x 6500 x 6144", |b| {
        b.iter(|| inner_products(black_box(&gallery[..BAND]), &gallery));
    });
    group.finish();
}

criterion_group!(benches, products);
criterion_main!(benches);
