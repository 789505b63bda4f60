//! Crops per second: `cargo bench -p vision --bench vision`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vision::align::{TEMPLATE, align};
use vision::augment::augment;
use vision::{Photo, Points};

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(next).collect()
}

fn crops(c: &mut Criterion) {
    let photo = Photo::from_rgb(512, 512, noise(512 * 512 * 3)).unwrap();
    let points = Points(TEMPLATE.0.map(|[x, y]| [x * 2.5 + 100.0, y * 2.4 + 80.0]));
    let crop = align(&photo, &points).unwrap();
    let mut group = c.benchmark_group("crops");
    group.throughput(Throughput::Elements(1));
    group.bench_function("align", |b| b.iter(|| align(black_box(&photo), &points)));
    let mut seed = 0;
    group.bench_function("augment", |b| {
        b.iter(|| {
            seed += 1;
            augment(black_box(&crop), seed)
        });
    });
    group.finish();
}

criterion_group!(benches, crops);
criterion_main!(benches);
