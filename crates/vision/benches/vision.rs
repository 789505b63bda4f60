//! Crops and features per second: `cargo bench -p vision`.
//!
//! The trunk is the small network of the tests, or the ONNX file that the environment variable `TRUNK` names.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vision::align::{TEMPLATE, align};
use vision::augment::augment;
use vision::{CROP_LEN, Crop, Cut, Photo, Points, RtenTrunk, Trunk, TrunkFile};

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

fn trunk(c: &mut Criterion) {
    let path = std::env::var("TRUNK")
        .unwrap_or_else(|_| format!("{}/tests/data/mini_iresnet.onnx", env!("CARGO_MANIFEST_DIR")));
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let file = TrunkFile::parse(&bytes, Cut::Auto).unwrap_or_else(|e| panic!("{path}: {e}"));
    let trunk = RtenTrunk::new(file).unwrap_or_else(|e| panic!("{path}: {e}"));
    let crops: Vec<Crop> =
        noise(64 * CROP_LEN).chunks_exact(CROP_LEN).map(|rgb| Crop::from_rgb(rgb).unwrap()).collect();
    let mut out = vec![0.0; crops.len() * trunk.output_len()];
    let mut group = c.benchmark_group("trunk");
    group.sample_size(10);
    group.throughput(Throughput::Elements(crops.len() as u64));
    group.bench_function(format!("rten, {} threads", trunk.threads()), |b| {
        b.iter(|| trunk.features(black_box(&crops), &mut out).unwrap());
    });
    group.finish();
}

criterion_group!(benches, crops, trunk);
criterion_main!(benches);
