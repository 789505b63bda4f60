//! Writes aligned face crops of many people, for training a recognition network.
//!
//! `cargo run -p synthface --release --example identities -- --subjects N --images M --seed S --size 160 --out FILE`
//!
//! FILE holds N*M crops of 112x112 RGB bytes, the images of a subject together;
//! FILE.labels the subjects' numbers as little-endian `u32`. Crops are aligned by
//! the least-squares similarity from the five points to the ArcFace template.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use synthface::{Photograph, Population};

const SIDE: usize = 112;
const TEMPLATE: [[f32; 2]; 5] =
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let option = |name: &str| {
        let args: Vec<String> = std::env::args().collect();
        args.iter().position(|a| a == name).and_then(|i| args.get(i + 1).cloned())
    };
    let number = |name: &str, default: u64| option(name).map_or(Ok(default), |v| v.parse::<u64>());
    let (subjects, images) = (number("--subjects", 100)?, number("--images", 8)?);
    let (seed, size) = (number("--seed", 1)?, number("--size", 160)? as u32);
    let out = option("--out").ok_or("--out FILE is missing")?;
    let threads = std::thread::available_parallelism()?.get();

    let mut crops = BufWriter::new(File::create(&out)?);
    let mut labels = BufWriter::new(File::create(format!("{out}.labels"))?);
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::sync_channel::<(usize, Vec<u8>)>(threads * 4);
    std::thread::scope(|scope| -> std::io::Result<()> {
        for _ in 0..threads {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i as u64 >= subjects {
                        break;
                    }
                    let subject = Population::varied(seed, i as u64);
                    let all = (0..images).flat_map(|k| align(&subject.photograph(k, size))).collect();
                    if sender.send((i, all)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        // Subjects arrive out of order and leave in order.
        let mut waiting = std::collections::BTreeMap::new();
        let mut due = 0;
        for (i, crop) in receiver {
            waiting.insert(i, crop);
            while let Some(crop) = waiting.remove(&due) {
                crops.write_all(&crop)?;
                for _ in 0..images {
                    labels.write_all(&(due as u32).to_le_bytes())?;
                }
                due += 1;
            }
        }
        Ok(())
    })?;
    crops.flush()?;
    labels.flush()?;
    Ok(())
}

/// Samples the photograph where the template's pixels fall.
fn align(photo: &Photograph) -> Vec<u8> {
    // The similarity from template to photograph: (x, y) -> (a x - b y + tx, b x + a y + ty).
    let mean = |p: &[[f32; 2]; 5], k: usize| p.iter().map(|q| q[k]).sum::<f32>() / 5.0;
    let (mx, my) = (mean(&TEMPLATE, 0), mean(&TEMPLATE, 1));
    let (ux, uy) = (mean(&photo.points, 0), mean(&photo.points, 1));
    let (mut dot, mut cross, mut square) = (0.0, 0.0, 0.0);
    for (t, p) in TEMPLATE.iter().zip(&photo.points) {
        let (tx, ty, px, py) = (t[0] - mx, t[1] - my, p[0] - ux, p[1] - uy);
        dot += tx * px + ty * py;
        cross += tx * py - ty * px;
        square += tx * tx + ty * ty;
    }
    let (a, b) = (dot / square, cross / square);
    let (width, height) = (photo.width as isize, photo.height as isize);
    let mut crop = Vec::with_capacity(SIDE * SIDE * 3);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let (dx, dy) = (x as f32 - mx, y as f32 - my);
            let (sx, sy) = (a * dx - b * dy + ux, b * dx + a * dy + uy);
            let (ix, iy) = (sx.floor() as isize, sy.floor() as isize);
            let (fx, fy) = (sx - sx.floor(), sy - sy.floor());
            for channel in 0..3 {
                let at = |x: isize, y: isize| {
                    if x < 0 || y < 0 || x >= width || y >= height {
                        0.0
                    } else {
                        f32::from(photo.rgb[((y * width + x) * 3) as usize + channel])
                    }
                };
                let top = at(ix, iy) * (1.0 - fx) + at(ix + 1, iy) * fx;
                let low = at(ix, iy + 1) * (1.0 - fx) + at(ix + 1, iy + 1) * fx;
                crop.push((top * (1.0 - fy) + low * fy + 0.5) as u8);
            }
        }
    }
    crop
}
