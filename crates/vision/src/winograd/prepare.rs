//! Filters as they are multiplied.

use std::ops::Range;

use pulp::Simd;

use super::conv::{Conv, Way};
use super::filter::{self, Sink, Source, WINDOW};
use super::kernel::{Task, WIDEST_PANEL};

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
        // The filters of an input channel: tap after tap, each with its panel's columns.
        let mut filters = vec![0f32; taps * width];
        for (row, input) in inputs.enumerate() {
            if input >= conv.from.channels {
                filters.fill(0.0);
            }
            let outputs = if input < conv.from.channels { &outputs[..count] } else { &[] };
            for (column, (weights, scale)) in outputs.iter().enumerate() {
                for (tap, &weight) in weights[input * taps..][..taps].iter().enumerate() {
                    filters[tap * width + column] = f32::from_le_bytes(weight) * scale;
                }
            }
            let (filters, _) = S::as_simd_f32s(&filters);
            let (filters, _) = filters.as_chunks::<V>();
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
