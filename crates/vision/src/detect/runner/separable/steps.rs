//! Steps from maps to maps.

use pulp::Simd;
use rayon::prelude::*;

use super::Size;
use crate::kernel::{Task, compute, kernel_shape, multiply};

/// Pixels that a thread multiplies in one go; every kernel's rows divide them.
const PIXELS: usize = 96;
/// Rows that a thread filters in one go.
const ROWS: usize = 4;

/// Numbers of a pixel: channels filled up with zeros to whole panels.
pub(super) fn depth(channels: usize) -> usize {
    channels.next_multiple_of(kernel_shape().1)
}

/// A convolution that multiplies each pixel's channels, or patches of the input.
pub(super) struct Pointwise {
    /// Panels of output channels; in each, a row for every number of a pixel.
    panels: Vec<f32>,
    bias: Vec<f32>,
    /// Numbers of an input pixel.
    terms: usize,
    pub(super) relu: bool,
}

/// A convolution of 3 x 3 within each channel, with zeros round the map.
pub(super) struct Depthwise {
    /// Tap after tap, every channel.
    taps: Vec<f32>,
    bias: Vec<f32>,
    pub(super) relu: bool,
}

impl Pointwise {
    /// `weights` holds `inputs` numbers for every one of the outputs that `bias` has.
    pub(super) fn new(weights: &[f32], inputs: usize, bias: &[f32]) -> Self {
        let width = kernel_shape().1;
        let (terms, outputs) = (depth(inputs), depth(bias.len()));
        let mut panels = vec![0.0; terms * outputs];
        for (output, weights) in weights.chunks_exact(inputs).enumerate() {
            let panel = &mut panels[output / width * terms * width..][..terms * width];
            for (row, &weight) in panel.chunks_exact_mut(width).zip(weights) {
                row[output % width] = weight;
            }
        }
        Self { panels, bias: filled(bias), terms, relu: false }
    }

    /// Numbers of an output pixel.
    pub(super) fn depth(&self) -> usize {
        self.bias.len()
    }

    pub(super) fn run(&self, x: &[f32], out: &mut [f32]) {
        let blocks = x.par_chunks(PIXELS * self.terms).zip(out.par_chunks_mut(PIXELS * self.depth()));
        blocks.for_each(|(x, out)| compute(Multiply { conv: self, x, out }));
    }
}

/// Some pixels.
struct Multiply<'a> {
    conv: &'a Pointwise,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Task for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const R: usize, const V: usize>(self, simd: S) {
        let Self { conv, x, out } = self;
        let (bias, _) = S::as_simd_f32s(&conv.bias);
        let (bias, _) = bias.as_chunks::<V>();
        let (panels, _) = S::as_simd_f32s(&conv.panels);
        let (out, _) = S::as_mut_simd_f32s(out);
        let width = bias.len() * V;
        for (x, out) in x.chunks(R * conv.terms).zip(out.chunks_mut(R * width)) {
            let pixels = out.len() / width;
            let mut rows: [&[f32]; R] = [&x[..conv.terms]; R];
            for (row, x) in rows.iter_mut().zip(x.chunks_exact(conv.terms)) {
                *row = x;
            }
            for (panel, (weights, bias)) in panels.chunks_exact(conv.terms * V).zip(bias).enumerate() {
                let sums = multiply::<S, R, V>(simd, rows, weights, [*bias; R]);
                for (row, sums) in sums.iter().enumerate().take(pixels) {
                    let out = &mut out[row * width + panel * V..][..V];
                    for (out, &sum) in out.iter_mut().zip(sums) {
                        *out = if conv.relu { simd.max_f32s(sum, simd.splat_f32s(0.0)) } else { sum };
                    }
                }
            }
        }
    }
}

impl Depthwise {
    /// `weights` holds nine numbers for every channel of `bias`.
    pub(super) fn new(weights: &[f32], bias: &[f32]) -> Self {
        let bias_filled = filled(bias);
        let mut taps = vec![0.0; 9 * bias_filled.len()];
        for (channel, weights) in weights.chunks_exact(9).enumerate() {
            for (tap, &weight) in weights.iter().enumerate() {
                taps[tap * bias_filled.len() + channel] = weight;
            }
        }
        Self { taps, bias: bias_filled, relu: false }
    }

    pub(super) fn run(&self, size: Size, x: &[f32], out: &mut [f32]) {
        let row = size.width * self.bias.len();
        out.par_chunks_mut(ROWS * row).enumerate().for_each(|(at, out)| {
            for (y, out) in (at * ROWS..).zip(out.chunks_exact_mut(row)) {
                let rows = [y.checked_sub(1), Some(y), Some(y + 1).filter(|&y| y < size.height)];
                let rows = rows.map(|y| y.map(|y| &x[y * row..][..row]));
                compute(FilterRow { conv: self, rows, out });
            }
        });
    }
}

/// A row from those above, at and below it; those beyond the map are missing.
struct FilterRow<'a> {
    conv: &'a Depthwise,
    rows: [Option<&'a [f32]>; 3],
    out: &'a mut [f32],
}

impl Task for FilterRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const R: usize, const V: usize>(self, simd: S) {
        let Self { conv, rows, out } = self;
        let (bias, _) = S::as_simd_f32s(&conv.bias);
        let (taps, _) = S::as_simd_f32s(&conv.taps);
        let (out, _) = S::as_mut_simd_f32s(out);
        let depth = bias.len();
        let zeros = vec![simd.splat_f32s(0.0); out.len()];
        let mut lines = [zeros.as_slice(); 3];
        for (line, row) in lines.iter_mut().zip(rows) {
            if let Some(row) = row {
                *line = S::as_simd_f32s(row).0;
            }
        }
        let last = out.len() / depth - 1;
        for (x, out) in out.chunks_exact_mut(depth).enumerate() {
            // The pixel and its neighbours; beyond the map there are zeros.
            let mut pixels = [&zeros[..depth]; 9];
            for (down, line) in lines.iter().enumerate() {
                for across in 0..3 {
                    if (1..=last + 1).contains(&(x + across)) {
                        pixels[3 * down + across] = &line[(x + across - 1) * depth..][..depth];
                    }
                }
            }
            for (vector, out) in out.iter_mut().enumerate() {
                let mut sum = bias[vector];
                for (tap, pixel) in pixels.iter().enumerate() {
                    sum = simd.mul_add_e_f32s(pixel[vector], taps[tap * depth + vector], sum);
                }
                *out = if conv.relu { simd.max_f32s(sum, simd.splat_f32s(0.0)) } else { sum };
            }
        }
    }
}

/// The largest of each 2 x 2 pixels.
pub(super) fn pool(depth: usize, from: Size, x: &[f32], to: Size, out: &mut [f32]) {
    out.par_chunks_exact_mut(to.width * depth).enumerate().for_each(|(y, out)| {
        let rows = &x[2 * y * from.width * depth..][..2 * from.width * depth];
        let (above, below) = rows.split_at(from.width * depth);
        let pairs = above.chunks_exact(2 * depth).zip(below.chunks_exact(2 * depth));
        for (out, (above, below)) in out.chunks_exact_mut(depth).zip(pairs) {
            let (a, b) = above.split_at(depth);
            let (c, d) = below.split_at(depth);
            for (out, ((a, b), (c, d))) in out.iter_mut().zip(a.iter().zip(b).zip(c.iter().zip(d))) {
                *out = a.max(*b).max(c.max(*d));
            }
        }
    });
}

/// Each pixel twice in both directions.
pub(super) fn double(depth: usize, to: Size, x: &[f32], out: &mut [f32]) {
    out.par_chunks_exact_mut(to.width * depth).enumerate().for_each(|(y, out)| {
        let row = &x[y / 2 * (to.width / 2) * depth..][..to.width / 2 * depth];
        for (out, pixel) in out.chunks_exact_mut(2 * depth).zip(row.chunks_exact(depth)) {
            let (left, right) = out.split_at_mut(depth);
            left.copy_from_slice(pixel);
            right.copy_from_slice(pixel);
        }
    });
}

pub(super) fn add(x: &[f32], other: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(1 << 14).zip(x.par_chunks(1 << 14).zip(other.par_chunks(1 << 14))).for_each(
        |(out, (x, other))| {
            for (out, (x, other)) in out.iter_mut().zip(x.iter().zip(other)) {
                *out = x + other;
            }
        },
    );
}

fn filled(values: &[f32]) -> Vec<f32> {
    let mut filled = values.to_vec();
    filled.resize(depth(values.len()), 0.0);
    filled
}
