//! Resizing, in integers: the same bits on every processor.

use std::borrow::Cow;

use pulp::{Arch, NullaryFnOnce};
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
        |sums, (band, out)| Arch::new().dispatch(Reduce { band, columns, sums, out }),
    );
    Cow::Owned(out)
}

/// One row of blocks, for the processor's widest vectors; `sums` has the length of a row of the picture.
struct Reduce<'a> {
    band: &'a [u8],
    columns: usize,
    sums: &'a mut [u32],
    out: &'a mut [u8],
}

// A struct and not a closure: the compiler may leave a closure out of line, and so without wide vectors.
impl NullaryFnOnce for Reduce<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { band, columns, sums, out } = self;
        sums.fill(0);
        for row in band.chunks_exact(sums.len()) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += u32::from(value);
            }
        }
        let rows = band.len() / sums.len();
        let (out, _) = out.as_chunks_mut::<3>();
        match columns {
            2 => reduce_columns::<2>(sums, rows, out),
            3 => reduce_columns::<3>(sums, rows, out),
            4 => reduce_columns::<4>(sums, rows, out),
            _ => sums.chunks(columns * 3).zip(out).for_each(|(block, out)| *out = mean(block, rows)),
        }
    }
}

/// As [`mean`] of every block, for a width that the compiler knows.
#[inline(always)]
fn reduce_columns<const COLUMNS: usize>(sums: &[u32], rows: usize, out: &mut [[u8; 3]]) {
    let (pixels, _) = sums.as_chunks::<3>();
    let (blocks, rest) = pixels.as_chunks::<COLUMNS>();
    let count = (COLUMNS * rows) as u64;
    if 256 * count * count >= 1 << 32 {
        sums.chunks(COLUMNS * 3).zip(out).for_each(|(block, out)| *out = mean(block, rows));
        return;
    }
    // A product in place of a division: exact, since sums below 256 * count times count stay below 2^32.
    let reciprocal = (1u64 << 32).div_ceil(count);
    for (block, out) in blocks.iter().zip(&mut *out) {
        let total = block.iter().fold([0; 3], |t, p| [t[0] + p[0], t[1] + p[1], t[2] + p[2]]);
        *out = total.map(|sum: u32| (((u64::from(sum) + count / 2) * reciprocal) >> 32) as u8);
    }
    if let (false, Some(last)) = (rest.is_empty(), out.last_mut()) {
        *last = mean(rest.as_flattened(), rows);
    }
}

/// The rounded mean of a block from the sums of its columns over `rows` rows.
fn mean(block: &[u32], rows: usize) -> [u8; 3] {
    let (pixels, _) = block.as_chunks::<3>();
    let count = (pixels.len() * rows) as u32;
    let total = pixels.iter().fold([0; 3], |t, p| [t[0] + p[0], t[1] + p[1], t[2] + p[2]]);
    total.map(|sum: u32| ((sum + count / 2) / count) as u8)
}

/// The triangle filter over the upper left `extent` of a picture of `from` pixels.
fn triangle(rgb: &[u8], from: [usize; 2], extent: [f64; 2], to: [usize; 2]) -> Vec<u8> {
    debug_assert_eq!(rgb.len(), from[0] * from[1] * 3);
    let [across, down] = [0, 1].map(|axis| {
        (0..to[axis]).map(|at| Taps::new(at, from[axis], extent[axis] / to[axis] as f64)).collect()
    });
    let (across, down): (Vec<Taps>, Vec<Taps>) = (across, down);
    let mut narrow = vec![0; from[1] * to[0] * 3];
    narrow.par_chunks_exact_mut(to[0] * 3).zip(rgb.par_chunks_exact(from[0] * 3)).with_min_len(16).for_each(
        |(out, row)| {
            let (pixels, _) = row.as_chunks::<3>();
            for (out, taps) in out.as_chunks_mut::<3>().0.iter_mut().zip(&across) {
                *out = taps.sum(&pixels[taps.first..]);
            }
        },
    );
    let mut out = vec![0; to[0] * to[1] * 3];
    out.par_chunks_exact_mut(to[0] * 3).zip(&down).with_min_len(16).for_each_init(
        || vec![0i32; to[0] * 3],
        |sums, (out, taps)| Arch::new().dispatch(SumRows { taps, rows: &narrow, sums, out }),
    );
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

    fn sum(&self, pixels: &[[u8; 3]]) -> [u8; 3] {
        let mut sums = [HALF; 3];
        for (&weight, pixel) in self.weights.iter().zip(pixels) {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += weight * i32::from(value);
            }
        }
        sums.map(byte)
    }
}

/// A row from rows of its length, for the processor's widest vectors.
struct SumRows<'a> {
    taps: &'a Taps,
    rows: &'a [u8],
    sums: &'a mut [i32],
    out: &'a mut [u8],
}

impl NullaryFnOnce for SumRows<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { taps, rows, sums, out } = self;
        sums.fill(HALF);
        for (&weight, row) in taps.weights.iter().zip(rows.chunks_exact(out.len()).skip(taps.first)) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += weight * i32::from(value);
            }
        }
        for (out, &sum) in out.iter_mut().zip(&*sums) {
            *out = byte(sum);
        }
    }
}

/// Half of the last kept bit.
const HALF: i32 = 1 << (FRACTION - 1);

#[inline(always)]
fn byte(sum: i32) -> u8 {
    (sum >> FRACTION).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_their_rounded_means() {
        let noise = |len: usize| (0..len).map(|i| (i * i * 31 / 7 % 256) as u8).collect::<Vec<u8>>();
        for [width, height] in [[1, 1], [13, 9], [24, 12], [7, 700]] {
            let rgb = noise(width * height * 3);
            for block in [[1, 1], [2, 2], [3, 3], [4, 5], [2, 300], [5, 1], [6, 7]] {
                let found = reduce(&rgb, [width, height], block);
                let across = width.div_ceil(block[0]);
                for (at, &value) in found.iter().enumerate() {
                    let (pixel, channel) = (at / 3, at % 3);
                    let (left, top) = (pixel % across * block[0], pixel / across * block[1]);
                    let columns = left..(left + block[0]).min(width);
                    let values: Vec<u32> = (top..(top + block[1]).min(height))
                        .flat_map(|y| columns.clone().map(move |x| (y * width + x) * 3 + channel))
                        .map(|at| u32::from(rgb[at]))
                        .collect();
                    let count = values.len() as u32;
                    let mean = (values.iter().sum::<u32>() + count / 2) / count;
                    assert_eq!(u32::from(value), mean, "{width} x {height}, {block:?}, {at}");
                }
            }
        }
    }
}
