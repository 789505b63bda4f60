//! Crops per second and a photograph's way from file to crop: `cargo bench -p vision --bench vision`.
//!
//! The detector is the ONNX file that the environment variable `DETECTOR` names, else a stand-in; the photograph is `PHOTO`,
//! else 12 megapixels painted here. With `FEDGESTALT_OPENVINO` (the library's file) the detector runs on OpenVINO too.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vision::align::{TEMPLATE, align};
use vision::augment::augment;
use vision::decode::{Limits, decode};
use vision::detect::OpenVinoOptions;
use vision::{Detector, OpenVino, Photo, Points, Precision, Search};

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

/// A 4000 x 3000 JPEG with a red square, in which the stand-in detector sees a face, and a little grain.
fn painted() -> Vec<u8> {
    let grain = noise(4000);
    let pixel = |x: usize, y: usize| {
        let grain = grain[(x * 31 + y * 17) % 4000] / 32;
        let red = (2000..2200).contains(&x) && (1200..1400).contains(&y);
        let shade = 60 + ((x + y) / 100) as u8;
        if red { [220 + grain, 20 + grain, 25] } else { [shade + grain, shade + grain, shade] }
    };
    let rgb: Vec<u8> = (0..3000 * 4000).flat_map(|i| pixel(i % 4000, i / 4000)).collect();
    let mut jpeg = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 85)
        .encode(&rgb, 4000, 3000, image::ExtendedColorType::Rgb8)
        .unwrap();
    jpeg
}

fn photograph(c: &mut Criterion) {
    let read = |path: String| std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let stand_in = || format!("{}/tests/data/detectors/yunet.onnx", env!("CARGO_MANIFEST_DIR"));
    let detector = read(std::env::var("DETECTOR").unwrap_or_else(|_| stand_in()));
    let mut detectors = vec![Detector::parse(&detector).unwrap()];
    detectors.extend(detectors[0].on_separable(&detector));
    if let Some(library) = std::env::var_os("FEDGESTALT_OPENVINO") {
        let library = Arc::new(OpenVino::load(Path::new(&library)).unwrap());
        let threads = rayon::current_num_threads();
        let options = OpenVinoOptions { photos: 1, threads, precision: Precision::F32, cache: None };
        detectors.push(detectors[0].on_openvino(&library, &detector, &options).unwrap());
    }
    let file = std::env::var("PHOTO").map_or_else(|_| painted(), read);
    let limits = Limits::default();
    let photo = decode(&file, &limits).unwrap();
    let small = Photo::from_rgb(640, 480, noise(640 * 480 * 3)).unwrap();
    let mut group = c.benchmark_group("photograph");
    group.sample_size(10);
    group.bench_function("decode", |b| b.iter(|| decode(black_box(&file), &limits)));
    for detector in &detectors {
        let engine = detector.engine();
        let found = detector.find(&photo, &Search::default()).unwrap();
        println!("{detector:?}, {photo:?}: a face at {}, {} others", found.side, found.others);
        let name = |step: &str| format!("{step}, {engine}");
        group.bench_function(name("detector's network alone, 640 x 480"), |b| {
            b.iter(|| detector.detect(black_box(&small), 640));
        });
        group.bench_function(name("detect at 640"), |b| b.iter(|| detector.detect(black_box(&photo), 640)));
        group.bench_function(name("file to crop"), |b| {
            b.iter(|| {
                let photo = decode(black_box(&file), &limits).unwrap();
                let found = detector.find(&photo, &Search::default()).unwrap();
                align(&photo, &found.face.points).unwrap()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, crops, photograph);
criterion_main!(benches);
