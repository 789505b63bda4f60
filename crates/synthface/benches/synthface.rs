//! Photographs per second on one core; 5 ms per photograph of 256 px are 200 a second.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use synthface::{Population, catalogue};

fn photographs(c: &mut Criterion) {
    let population = Population::new(catalogue().to_vec(), 1.0, 1).expect("the catalogue is not empty");
    let mut group = c.benchmark_group("photograph");
    group.sample_size(40);
    for size in [160u32, 256, 512] {
        let mut number = 0;
        group.bench_function(size.to_string(), |b| {
            b.iter_batched(
                || {
                    number += 1;
                    let subject = population.subject(number as usize % population.gestalts().len(), number);
                    (subject, number % 4)
                },
                |(subject, image)| black_box(subject.photograph(image, size)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, photographs);
criterion_main!(benches);
