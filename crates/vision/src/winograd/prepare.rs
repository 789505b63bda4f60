//! Filters as they are multiplied.

use std::ops::Range;

use pulp::Simd;

use super::conv::{Conv, Way};
use super::filter::{self, Sink, Source, WINDOW};
use crate::kernel::{Task, WIDEST_PANEL};

/// Input channels whose weights are read in one go from each output's, which lie far apart.
const GATHERED: usize = 64;

/// A panel of filters: for every product of a pair of channels with one value each, a row for every input channel.
pub(super) struct Prepare<'a> {
    pub(super) conv: &'a Conv,
    /// Its first output channel.
    pub(super) first: usize,
    /// The input channels, those that only fill up included.
    pub(super) inputs: Range<usize>,
    /// Numbers from a product's rows to those of the next.
    pub(super) stride: usize,
    /// What is written.
    pub(super) panel: &'a mut [f32],
}

impl Task for Prepare<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const R: usize, const V: usize>(self, simd: S) {
        let Self { conv, first, inputs, stride, panel } = self;
        let width = V * S::F32_LANES;
        let (winograd, taps) = match conv.way {
            Way::Winograd { .. } => (true, 9),
            Way::Taps { kernel, .. } => (false, kernel * kernel),
        };
        let stride = stride / width;
        let (panel, _) = S::as_mut_simd_f32s(panel);
        let (panel, _) = panel.as_chunks_mut::<V>();
        let count = conv.to.channels.saturating_sub(first).min(width);
        let mut outputs = [conv.weights.output(0); WIDEST_PANEL];
        for (at, output) in outputs[..count].iter_mut().enumerate() {
            *output = conv.weights.output(first + at);
        }
        // The filters of some input channels: tap after tap, each with its panel's columns.
        let mut gathered = vec![0f32; GATHERED * taps * width];
        for (start, rows) in inputs.clone().step_by(GATHERED).zip((0..).step_by(GATHERED)) {
            let known = start.min(conv.from.channels)..(start + GATHERED).min(conv.from.channels);
            if count < width || known.len() < GATHERED {
                gathered.fill(0.0);
            }
            turn(&outputs[..count], known.start * taps..known.end * taps, &mut gathered, width);
            let (filters, _) = S::as_simd_f32s(&gathered);
            let (filters, _) = filters.as_chunks::<V>();
            let filters = filters.chunks_exact(taps).take(inputs.end - start);
            for (row, filters) in (rows..).zip(filters) {
                if winograd {
                    for vector in 0..V {
                        let source = Taps { filters, vector };
                        filter::filter(simd, &source, &mut PanelColumn { panel, stride, row, vector });
                    }
                } else {
                    for (tap, filters) in filters.iter().enumerate() {
                        panel[tap * stride + row] = *filters;
                    }
                }
            }
        }
    }
}

/// Writes some weights of each output as a column of `turned`, whose rows are `width` apart. Not for wide vectors: with them the
/// compiler scatters numbers one by one, which takes longer than four columns next to each other.
#[inline(never)]
fn turn(outputs: &[(&[[u8; 4]], f32)], weights: Range<usize>, turned: &mut [f32], width: usize) {
    let (fours, rest) = outputs.as_chunks::<4>();
    for (column, [a, b, c, d]) in (0..).step_by(4).zip(fours) {
        let scales = [a.1, b.1, c.1, d.1];
        let [a, b, c, d] = [a.0, b.0, c.0, d.0].map(|all| &all[weights.clone()]);
        let numbers = a.iter().zip(b).zip(c.iter().zip(d));
        for (row, ((&a, &b), (&c, &d))) in turned.chunks_exact_mut(width).zip(numbers) {
            let row = &mut row[column..][..4];
            row[0] = f32::from_le_bytes(a) * scales[0];
            row[1] = f32::from_le_bytes(b) * scales[1];
            row[2] = f32::from_le_bytes(c) * scales[2];
            row[3] = f32::from_le_bytes(d) * scales[3];
        }
    }
    for (column, (all, scale)) in (4 * fours.len()..).zip(rest) {
        for (row, &weight) in turned.chunks_exact_mut(width).zip(&all[weights.clone()]) {
            row[column] = f32::from_le_bytes(weight) * scale;
        }
    }
}

/// The nine taps of a panel's filters.
struct Taps<'a, T, const V: usize> {
    filters: &'a [[T; V]],
    vector: usize,
}

impl<S: Simd, const V: usize> Source<S> for Taps<'_, S::f32s, V> {
    #[inline(always)]
    fn at(&self, row: usize, column: usize) -> S::f32s {
        self.filters[3 * row + column][self.vector]
    }
}

/// An input channel's row in each of a panel's products.
struct PanelColumn<'a, T, const V: usize> {
    panel: &'a mut [[T; V]],
    /// Rows from a product to the next.
    stride: usize,
    /// That of the input channel.
    row: usize,
    vector: usize,
}

impl<S: Simd, const V: usize> Sink<S> for PanelColumn<'_, S::f32s, V> {
    #[inline(always)]
    fn put(&mut self, row: usize, column: usize, value: S::f32s) {
        self.panel[(row * WINDOW + column) * self.stride + self.row][self.vector] = value;
    }
}
