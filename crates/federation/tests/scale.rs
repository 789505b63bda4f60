//! Full size, for measuring: `cargo test --release -p federation --test scale -- --ignored --nocapture`.

#![allow(clippy::unwrap_used)]

#[path = "harness/world.rs"]
mod world;

use std::time::{Duration, Instant};

use federation::*;
use world::*;

fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// A neck of 25088 x 512 at three sites, two rounds, through every message.
#[test]
#[ignore = "half a minute and 2 GB"]
fn thirteen_million_parameters() {
    let mut world = World::new(3, 1, |plan| {
        plan.members.truncate(1);
        plan.members[0].tensors[0].shape = vec![25_088, 512];
        (plan.epochs, plan.interval) = (2, 1);
    });
    world.check = false;
    world.record = false;
    world.start();
    let mut times: std::collections::BTreeMap<String, (u32, Duration, usize)> = Default::default();
    while !world.queue.is_empty() {
        let kind = world.queue[0].kind;
        let bytes = world.queue[0].bytes.len();
        let start = Instant::now();
        world.deliver();
        let entry = times.entry(format!("{kind:?} taken")).or_default();
        *entry = (entry.0 + 1, entry.1 + start.elapsed(), entry.2.max(bytes));
    }
    assert!(world.released.is_some());
    for (what, (count, time, bytes)) in times {
        println!(
            "{what:24} {count:4} times, {:8.1} ms each, at most {bytes} bytes",
            time.as_secs_f64() * 1e3 / f64::from(count)
        );
    }
    println!("peak memory of three sites and the coordinator in one process: {} MB", peak_mb());
}

/// 6,500 gallery images of 6,144 dimensions at three sites, 905 probes in eleven galleries each.
#[test]
#[ignore = "a minute and 3 GB"]
fn kernel_at_paper_scale() {
    let mut world = World::new(3, 1, |plan| {
        let kernel = toy_kernel();
        plan.kernel =
            Some(KernelPlan { dim: 6144, width: 6144, splits: 10, answers_per_site: 20_000, ..kernel });
        (plan.epochs, plan.interval) = (1, 1);
    });
    world.manual_kernel = true;
    world.record = false;
    world.start();
    while let Some(message) = world.queue.first() {
        let _ = message;
        world.deliver();
    }
    let mut dice = Dice(5);
    let mut encoding = || -> Vec<f32> {
        let mut v: Vec<f32> = (0..6144).map(|_| (dice.draw() % 2001) as f32 / 1000.0 - 1.0).collect();
        let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt();
        v.iter_mut().for_each(|x| *x /= norm);
        v
    };
    let name = |text: String| domain::ImageId::new(&text).unwrap();
    let galleries: Vec<Vec<GalleryImage>> = (0..3)
        .map(|s| {
            (0..2167)
                .map(|i| GalleryImage {
                    image: name(format!("g{s}-{i}")),
                    syndrome: id(&format!("{}", i % 322)),
                    galleries: if i % 322 < 204 { 1 } else { 2 << (i % 10) },
                    encoding: encoding(),
                })
                .collect()
        })
        .collect();
    let probes: Vec<Vec<Probe>> = (0..3)
        .map(|s| {
            let masks: Vec<u32> = (0..10).map(|k| 1 | (2 << k)).chain([1]).collect();
            (0..302)
                .map(|i| Probe {
                    image: name(format!("p{s}-{i}")),
                    galleries: masks.clone(),
                    encoding: encoding(),
                })
                .collect()
        })
        .collect();
    let start = Instant::now();
    world.sites[0].participant.as_mut().unwrap().rotation().unwrap();
    println!("rotation: {:.1} s", start.elapsed().as_secs_f64());
    let (first, rest) = world.sites.split_at_mut(1);
    for site in rest {
        site.participant.as_mut().unwrap().share_rotation(first[0].participant.as_mut().unwrap()).unwrap();
    }
    let start = Instant::now();
    for (s, gallery) in galleries.into_iter().enumerate() {
        world.site_calls(s, |p| p.submit_gallery(gallery));
    }
    println!("masking and sealing 6,501 images: {:.1} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    while !world.queue.is_empty() {
        world.deliver();
    }
    println!("taking them in: {:.1} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    for (s, probes) in probes.into_iter().enumerate() {
        world.site_calls(s, |p| p.submit_probes(probes));
    }
    while !world.queue.is_empty() {
        world.deliver();
    }
    println!("906 probes in eleven galleries, asked and answered: {:.1} s", start.elapsed().as_secs_f64());
    assert!(world.sites.iter().all(|s| s.answers.len() == 302 * 11));
    println!("peak memory in one process: {} MB", peak_mb());
}
