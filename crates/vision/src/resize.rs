//! Resizing, in integers: the same bits on every processor.

use std::borrow::Cow;

use rayon::prelude::*;

/// Fraction bits of a weight: a sum of weighted bytes stays below 2^31.
const FRACTION: u32 = 22;

/// Resizes an interleaved RGB square of `from` x `from` pixels to `to` x `to` with the triangle filter, whose
/// support grows with the reduction: bilinear interpolation when it enlarges, antialiased when it shrinks.
/// Columns first, then rows, each rounded to 8 bits; equal to Pillow's `BILINEAR`.
pub(crate) fn square(rgb: &[u8], from: usize, to: usize) -> Vec<u8> {
    triangle(rgb, [from; 2], [from as f64; 2], [to; 2])
}

/// Resizes a large picture of `from` (width, height) pixels: the mean of whole blocks first, as long as at least
/// twice the wanted size is left, then the triangle filter. Equal to Pillow's `BILINEAR` with a reducing gap of 2.
pub(crate) fn photo(rgb: &[u8], from: [usize; 2], to: [usize; 2]) -> Vec<u8> {
    let block = [0, 1].map(|axis| (from[axis] / (2 * to[axis])).max(1));
    let reduced = reduce(rgb, from, block);
    let size = [0, 1].map(|axis| from[axis].div_ceil(block[axis]));
    triangle(&reduced, size, [0, 1].map(|axis| from[axis] as f64 / block[axis] as f64), to)
}

/// The rounded mean of each block; those at the right and lower edge may be cut.
fn reduce(rgb: &[u8], [width, height]: [usize; 2], [columns, rows]: [usize; 2]) -> Cow<'_, [u8]> {
    debug_assert_eq!(rgb.len(), width * height * 3);
    if (columns, rows) == (1, 1) {
        return Cow::Borrowed(rgb);
    }
    let across = width.div_ceil(columns) * 3;
    let mut out = vec![0; across * height.div_ceil(rows)];
    let bands = rgb.par_chunks(rows * width * 3);
    bands.zip(out.par_chunks_exact_mut(across)).for_each_init(
        || vec![0u32; width * 3],
        |sums, (band, out)| {
            sums.fill(0);
            for row in band.chunks_exact(width * 3) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += u32::from(value);
                }
            }
            let rows = band.len() / (width * 3);
            for (block, out) in sums.chunks(columns * 3).zip(out.as_chunks_mut::<3>().0) {
                let count = (block.len() / 3 * rows) as u32;
                let (pixels, _) = block.as_chunks::<3>();
                let total = pixels.iter().fold([0; 3], |t, p| [t[0] + p[0], t[1] + p[1], t[2] + p[2]]);
                *out = total.map(|sum: u32| ((sum + count / 2) / count) as u8);
            }
        },
    );
    Cow::Owned(out)
}

/// The triangle filter over the upper left `extent` of a picture of `from` pixels.
fn triangle(rgb: &[u8], from: [usize; 2], extent: [f64; 2], to: [usize; 2]) -> Vec<u8> {
    debug_assert_eq!(rgb.len(), from[0] * from[1] * 3);
    let [across, down] = [0, 1].map(|axis| {
        (0..to[axis]).map(|at| Taps::new(at, from[axis], extent[axis] / to[axis] as f64)).collect()
    });
    let (across, down): (Vec<Taps>, Vec<Taps>) = (across, down);
    let mut narrow = Vec::with_capacity(from[1] * to[0] * 3);
    for row in rgb.chunks_exact(from[0] * 3) {
        let (pixels, _) = row.as_chunks::<3>();
        for taps in &across {
            narrow.extend(taps.sum(pixels[taps.first..].iter().copied()));
        }
    }
    let (narrow, _) = narrow.as_chunks::<3>();
    let mut out = Vec::with_capacity(to[0] * to[1] * 3);
    for taps in &down {
        for column in 0..to[0] {
            let pixels = narrow[taps.first * to[0] + column..].iter().step_by(to[0]);
            out.extend(taps.sum(pixels.copied()));
        }
    }
    out
}

/// The source pixels that make one target pixel along one axis.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

impl Taps {
    /// For target pixel `at`, from `from` pixels of which `scale` make one target pixel.
    fn new(at: usize, from: usize, scale: f64) -> Self {
        let support = scale.max(1.0);
        let centre = (at as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let weights: Vec<f64> =
            (first..end).map(|x| (1.0 - ((x as f64 + 0.5 - centre) / support).abs()).max(0.0)).collect();
        let total: f64 = weights.iter().sum();
        let fixed = |w: f64| (w / total * f64::from(1 << FRACTION)).round() as i32;
        Self { first, weights: weights.into_iter().map(fixed).collect() }
    }

    fn sum(&self, pixels: impl Iterator<Item = [u8; 3]>) -> [u8; 3] {
        let mut sums = [1 << (FRACTION - 1); 3];
        for (&weight, pixel) in self.weights.iter().zip(pixels) {
            for (sum, value) in sums.iter_mut().zip(pixel) {
                *sum += weight * i32::from(value);
            }
        }
        sums.map(|sum| (sum >> FRACTION).clamp(0, 255) as u8)
    }
}
