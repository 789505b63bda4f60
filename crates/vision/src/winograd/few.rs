//! A convolution of few tiles: its filters are multiplied where they are transformed.
//!
//! Transformed filters are four times their weights, tens of megabytes. Where they meet a photograph's views only, writing them to
//! memory and reading them again takes longer than the products. So each thread transforms a part that its cache holds and
//! multiplies all tiles with it.

use std::ops::Range;

use pulp::Simd;
use rayon::prelude::*;

use super::conv::{APART, Block, Conv, space, with_scratch};
use super::filter::{self, POINTS};
use super::finish::vectors;
use super::layout::TILE_PIXELS;
use super::minimal::{Matrices, Pixels, Products};
use super::prepare::Prepare;
use super::rows::Rows;
use crate::kernel::{REST, Task, compute, filled_up, kernel_shape, multiply};

/// Input channels whose filters are transformed in one go: a panel's and the products stay in a core's second cache.
const INPUTS: usize = 64;

pub(super) struct FewTiles<'a> {
    pub(super) conv: &'a Conv,
    /// Scale and shift of each channel before.
    pub(super) norm: Option<&'a [Vec<f32>; 2]>,
    pub(super) x: &'a [f32],
    pub(super) other: Option<&'a [f32]>,
    /// Room for windows.
    pub(super) windows: &'a mut Vec<f32>,
    /// Room for pixels, by panels of output channels.
    pub(super) columns: &'a mut Vec<f32>,
}

impl FewTiles<'_> {
    pub(super) fn run(self, out: &mut [f32]) {
        let Self { conv, norm, x, other, windows, columns } = self;
        let (kernel_rows, width) = kernel_shape();
        let tiles = out.len() / conv.to.tile_len();
        // A block of windows for every thread.
        let block = tiles.div_ceil(rayon::current_num_threads());
        let from = Matrices { rows: filled_up(block, kernel_rows), depth: conv.from.depth() };
        let block_len = POINTS * from.stride();
        let rows = (0..tiles).step_by(block).map(|first| Rows::new(conv.to, first, block.min(tiles - first)));
        let rows: Vec<Rows> = rows.collect();
        let windows = space(windows, rows.len() * block_len);
        windows.par_chunks_exact_mut(block_len).enumerate().for_each(|(at, windows)| {
            let rows = &rows[at];
            let block = Block { conv, filters: &[], x, first: at * block, other: None, out: &mut [] };
            compute(Windows { block, rows, norm, from, windows });
        });

        let (windows, rows) = (&*windows, rows.as_slice());
        let columns = space(columns, out.len());
        columns.par_chunks_exact_mut(tiles * TILE_PIXELS * width).enumerate().for_each(|(panel, out)| {
            with_scratch(|filters, products| {
                let first = panel * width;
                compute(Columns { conv, first, windows, from, block, rows, other, filters, products, out });
            });
        });

        let columns = &*columns;
        out.par_chunks_exact_mut(conv.to.depth()).enumerate().with_min_len(64).for_each(|(pixel, out)| {
            for (panel, out) in out.chunks_exact_mut(width).enumerate() {
                out.copy_from_slice(&columns[(panel * tiles * TILE_PIXELS + pixel) * width..][..width]);
            }
        });
    }
}

/// The windows of a block of tiles.
struct Windows<'a> {
    block: Block<'a>,
    rows: &'a Rows,
    norm: Option<&'a [Vec<f32>; 2]>,
    from: Matrices,
    windows: &'a mut [f32],
}

impl Task for Windows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const R: usize, const V: usize>(self, simd: S) {
        self.block.transform_windows(simd, self.rows, self.norm, self.from, self.windows);
    }
}

/// All pixels of a panel of output channels.
struct Columns<'a> {
    conv: &'a Conv,
    /// The first channel.
    first: usize,
    windows: &'a [f32],
    from: Matrices,
    /// Tiles of a block of windows.
    block: usize,
    /// Of each block.
    rows: &'a [Rows],
    other: Option<&'a [f32]>,
    filters: &'a mut Vec<f32>,
    products: &'a mut Vec<f32>,
    out: &'a mut [f32],
}

impl Task for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const R: usize, const V: usize>(self, simd: S) {
        let Self { conv, first, windows, from, block, rows, other, filters, products, out } = self;
        let depth = V * S::F32_LANES;
        let to = Matrices { rows: from.rows, depth };
        let stride = INPUTS * depth + APART.max(depth);
        let filters = space(filters, POINTS * stride);
        let products = space(products, rows.len() * POINTS * to.stride());
        for input in (0..from.depth).step_by(INPUTS) {
            let inputs = input..from.depth.min(input + INPUTS);
            let panel = Prepare { conv, first, inputs: inputs.clone(), stride, panel: filters };
            panel.run::<S, R, V>(simd);
            let blocks = windows.chunks_exact(POINTS * from.stride());
            let blocks = blocks.zip(products.chunks_exact_mut(POINTS * to.stride())).zip(rows);
            for ((windows, products), rows) in blocks {
                for point in 0..POINTS {
                    let rows = filled_up(rows.of_point(point), R);
                    let (filters, _) = S::as_simd_f32s(&filters[point * stride..][..inputs.len() * depth]);
                    let windows = &windows[point * from.stride()..][..rows * from.depth];
                    let products = &mut products[point * to.stride()..][..rows * depth];
                    let (products, _) = S::as_mut_simd_f32s(products);
                    let (products, _) = products.as_chunks_mut::<V>();
                    let whole = rows / R * R;
                    let (windows, windows_of_rest) = windows.split_at(whole * from.depth);
                    let (products, products_of_rest) = products.split_at_mut(whole);
                    let add = Add { simd, filters, inputs: inputs.clone(), depth: from.depth };
                    add.to::<R, V>(windows, products);
                    add.to::<REST, V>(windows_of_rest, products_of_rest);
                }
            }
        }

        let (products, _) = S::as_simd_f32s(products);
        let (out, _) = S::as_mut_simd_f32s(out);
        let other = vectors::<S>(other);
        let (stride, width) = (to.stride() / S::F32_LANES, conv.to.depth() / S::F32_LANES);
        for (tile, place) in rows.iter().flat_map(Rows::places).enumerate() {
            let of_block = tile / block * POINTS * stride;
            for vector in 0..V {
                let channel = first / S::F32_LANES + vector;
                let finish = conv.finish.vector(simd, channel);
                let at = of_block + vector;
                let source = Products { products, stride, width: V, place, at };
                let other_at = (tile * TILE_PIXELS * width + channel, width);
                let at = (tile * TILE_PIXELS * V + vector, V);
                let mut pixels = Pixels { finish: &finish, other, other_at, out, at, simd };
                filter::tile(simd, place.kind, &source, &mut pixels);
            }
        }
    }
}

/// A panel's filters for some input channels, to be added.
struct Add<'a, S: Simd> {
    simd: S,
    filters: &'a [S::f32s],
    inputs: Range<usize>,
    /// Numbers of a window.
    depth: usize,
}

impl<S: Simd> Add<'_, S> {
    /// Adds the products of all windows, `R` at a time; those of the first input channels are the first.
    #[inline(always)]
    fn to<const R: usize, const V: usize>(&self, windows: &[f32], products: &mut [[S::f32s; V]]) {
        let Self { simd, filters, ref inputs, depth } = *self;
        for (windows, products) in windows.chunks_exact(R * depth).zip(products.chunks_exact_mut(R)) {
            let mut rows: [&[f32]; R] = [&[]; R];
            for (row, windows) in rows.iter_mut().zip(windows.chunks_exact(depth)) {
                *row = &windows[inputs.start..inputs.end];
            }
            let mut sums = [[simd.splat_f32s(0.0); V]; R];
            if inputs.start > 0 {
                sums.copy_from_slice(products);
            }
            let sums = multiply::<S, R, V>(simd, rows, filters, sums);
            products.copy_from_slice(&sums);
        }
    }
}
