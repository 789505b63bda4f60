//! Convolutions of feature maps.

use std::cell::RefCell;

use rayon::prelude::*;

use super::filter::POINTS;
use super::kernel::{Finish, ROWS, compute, panel_width};
use super::layout::Map;
use super::minimal::WinogradBlock;
use super::prepare::Prepare;
use super::taps::{self, TapsBlock};
use super::weights::Weights;

/// Filters with at most this many pairs of channels are transformed once and kept; larger ones are transformed for every run,
/// in which there are many crops for them.
const KEPT_PAIRS: usize = 128 * 128;
/// Numbers of a block's windows and products together: they stay in a core's second cache, or near it.
const BLOCK: usize = 1 << 17;
/// A block has about this many rows at least, if there are so many: all filters are read for every block.
const LEAST_ROWS: usize = 48;
/// Numbers between matrices, so that their rows do not all fall into the same sets of a cache.
pub(super) const APART: usize = 16;

/// A convolution with what follows it.
pub(super) struct Conv {
    pub(super) from: Map,
    pub(super) to: Map,
    pub(super) way: Way,
    pub(super) weights: Weights,
    pub(super) finish: Finish,
    /// Its filters as they are multiplied, if they are kept.
    kept: Option<Vec<f32>>,
}

/// How it is computed.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// 3 x 3 from each pixel and its neighbours, after a scale and a shift of each channel; beyond the map there are zeros.
    Winograd {
        /// Scale and shift.
        norm: Option<[Vec<f32>; 2]>,
    },
    /// `kernel` x `kernel` from every `stride`-th pixel, the first of them `pad` before the map.
    Taps { kernel: usize, stride: usize, pad: usize },
}

/// Some tiles in a row, over all crops.
pub(super) struct Block<'a> {
    pub(super) conv: &'a Conv,
    pub(super) filters: &'a [f32],
    /// The maps that the convolution takes.
    pub(super) x: &'a [f32],
    /// The first tile.
    pub(super) first: usize,
    /// The tiles that are added.
    pub(super) other: Option<&'a [f32]>,
    pub(super) out: &'a mut [f32],
}

thread_local! {
    /// Windows and products of the block that a thread computes.
    static SCRATCH: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl Conv {
    /// A convolution whose filters are ready where they are kept.
    pub(super) fn new(from: Map, to: Map, way: Way, weights: Weights, finish: Finish) -> Self {
        let mut conv = Self { from, to, way, weights, finish, kept: None };
        let kept = match conv.way {
            Way::Winograd { .. } => from.channels * to.channels <= KEPT_PAIRS,
            Way::Taps { .. } => true,
        };
        if kept {
            let mut filters = vec![0.0; conv.filters_len()];
            conv.prepare(&mut filters);
            conv.kept = Some(filters);
        }
        conv
    }

    /// Computes the maps of all crops of which `x` holds the maps before. `scratch` is room for filters.
    pub(super) fn run(&self, x: &[f32], other: Option<&[f32]>, out: &mut [f32], scratch: &mut Vec<f32>) {
        let filters = match &self.kept {
            Some(kept) => kept.as_slice(),
            None => {
                let filters = room(scratch, self.filters_len());
                self.prepare(filters);
                &*filters
            }
        };
        let block = self.block(out.len() / self.to.tile_len());
        let len = block * self.to.tile_len();
        out.par_chunks_mut(len).enumerate().for_each(|(at, out)| {
            let other = other.map(|other| &other[at * len..][..out.len()]);
            let block = Block { conv: self, filters, x, first: at * block, other, out };
            match &self.way {
                &Way::Taps { kernel, stride, pad } => compute(TapsBlock { block, kernel, stride, pad }),
                Way::Winograd { norm } => SCRATCH.with_borrow_mut(|(windows, products)| {
                    compute(WinogradBlock { block, norm: norm.as_ref(), windows, products });
                }),
            }
        });
    }

    /// Lays the filters out as they are multiplied, in panels of output channels.
    fn prepare(&self, filters: &mut [f32]) {
        filters.par_chunks_exact_mut(self.panel_len()).enumerate().for_each(|(at, panel)| {
            compute(Prepare { conv: self, first: at * panel_width(), panel });
        });
    }

    /// Products of a pair of channels with one value each.
    fn products(&self) -> usize {
        match self.way {
            Way::Winograd { .. } => POINTS,
            Way::Taps { kernel, .. } => kernel * kernel,
        }
    }

    /// Numbers of a panel's part in one product: a row for every input channel.
    pub(super) fn product_len(&self) -> usize {
        self.from.depth() * panel_width() + APART.max(panel_width())
    }

    fn panel_len(&self) -> usize {
        self.products() * self.product_len()
    }

    fn filters_len(&self) -> usize {
        self.to.depth() / panel_width() * self.panel_len()
    }

    /// Tiles that a thread computes in one go, of `tiles` in all: about as many in every thread's last turn as before.
    fn block(&self, tiles: usize) -> usize {
        let Way::Winograd { .. } = self.way else { return taps::TILES };
        let largest = (BLOCK / (POINTS * (self.from.depth() + self.to.depth()))).max(LEAST_ROWS);
        let threads = rayon::current_num_threads();
        let turns = tiles.div_ceil(threads).div_ceil(largest);
        let block = |turns: usize| tiles.div_ceil(threads * turns);
        // Rows are filled up to a multiple of those that a kernel has.
        let time = |turns: usize| turns * block(turns).next_multiple_of(ROWS);
        block((turns..turns + 4).min_by_key(|&turns| time(turns)).unwrap_or(turns))
    }
}

/// Room for `len` numbers, which hold anything.
pub(super) fn room(memory: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if memory.len() < len {
        memory.resize(len, 0.0);
    }
    &mut memory[..len]
}
