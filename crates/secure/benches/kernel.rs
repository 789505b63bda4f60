//! The private kernel at the paper's scale: 6,500 gallery images, 905 probes, 6,144 dimensions.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use secure::GroupKey;
use secure::kernel::{Rotation, gram};

const DIM: usize = 6144;

fn encodings(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    (0..count * DIM)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 2f32.powi(24) - 0.5
        })
        .collect()
}

fn kernel(c: &mut Criterion) {
    let mut group = c.benchmark_group("kernel");
    group.sample_size(10).warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(5));
    let key = GroupKey::from_bytes([1; 32]);
    group.bench_function("derive 6144", |b| {
        b.iter(|| Rotation::derive(&key, black_box(&[2; 32]), DIM));
    });
    let rotation = Rotation::derive(&key, &[2; 32], DIM).expect("6144 is a valid size");
    let (gallery, probes) = (encodings(6500), encodings(905));
    group.bench_function("mask 905", |b| b.iter(|| rotation.mask(black_box(&probes))));
    group.bench_function("mask 6500", |b| b.iter(|| rotation.mask(black_box(&gallery))));
    group.bench_function("gram 905 x 6500", |b| {
        b.iter(|| gram(black_box(&probes), &gallery, DIM));
    });
}

criterion_group!(benches, kernel);
criterion_main!(benches);
