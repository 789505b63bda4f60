//! Convolutions of feature maps.

use std::cell::RefCell;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::few::FewTiles;
use super::filter::POINTS;
use super::finish::Finish;
use super::layout::Map;
use super::minimal::WinogradBlock;
use super::prepare::Prepare;
use super::taps::{self, TapsBlock};
use super::weights::Weights;
use crate::kernel::{compute, filled_up, kernel_shape, panel_width};

/// Filters with at most this many pairs of channels may be kept as they are multiplied; larger ones are transformed for every
/// run, in which there are many crops for them.
const KEPT_PAIRS: usize = 128 * 128;
/// With so few tiles, filters are multiplied where they are transformed, instead of going through memory.
const FEW_TILES: usize = 96;
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
    kept: OnceLock<Vec<f32>>,
}

/// Memory for runs, used again.
#[derive(Default)]
pub(super) struct Room {
    /// For filters.
    filters: Vec<f32>,
    /// For the windows of few tiles.
    windows: Vec<f32>,
    /// For their pixels, by output channel.
    columns: Vec<f32>,
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
    /// Windows or filters, and products, of what a thread computes.
    static SCRATCH: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl Conv {
    pub(super) fn new(from: Map, to: Map, way: Way, weights: Weights, finish: Finish) -> Self {
        Self { from, to, way, weights, finish, kept: OnceLock::new() }
    }

    /// Computes the maps of all crops of which `x` holds the maps before. With `keep`, small filters are kept from now on.
    pub(super) fn run(&self, x: &[f32], other: Option<&[f32]>, out: &mut [f32], room: &mut Room, keep: bool) {
        let tiles = out.len() / self.to.tile_len();
        let Room { filters, windows, columns } = room;
        let filters = match (self.kept.get(), &self.way) {
            (Some(kept), _) => kept.as_slice(),
            (None, _) if keep && self.may_be_kept() => {
                let mut filters = vec![0.0; self.filters_len()];
                self.prepare(&mut filters);
                // Another thread may have been here: its filters are the same.
                self.kept.get_or_init(|| filters).as_slice()
            }
            (None, Way::Winograd { norm }) if tiles <= FEW_TILES => {
                return FewTiles { conv: self, norm: norm.as_ref(), x, other, windows, columns }.run(out);
            }
            (None, _) => {
                let filters = space(filters, self.filters_len());
                self.prepare(filters);
                &*filters
            }
        };
        let block = self.block(tiles);
        let len = block * self.to.tile_len();
        out.par_chunks_mut(len).enumerate().for_each(|(at, out)| {
            let other = other.map(|other| &other[at * len..][..out.len()]);
            let block = Block { conv: self, filters, x, first: at * block, other, out };
            match &self.way {
                &Way::Taps { kernel, stride, pad } => compute(TapsBlock { block, kernel, stride, pad }),
                Way::Winograd { norm } => with_scratch(|windows, products| {
                    compute(WinogradBlock { block, norm: norm.as_ref(), windows, products });
                }),
            }
        });
    }

    fn may_be_kept(&self) -> bool {
        match self.way {
            Way::Winograd { .. } => self.from.channels * self.to.channels <= KEPT_PAIRS,
            Way::Taps { .. } => true,
        }
    }

    /// Lays the filters out as they are multiplied, in panels of output channels.
    fn prepare(&self, filters: &mut [f32]) {
        let stride = self.product_len();
        filters.par_chunks_exact_mut(self.panel_len()).enumerate().for_each(|(at, panel)| {
            let inputs = 0..self.from.depth();
            compute(Prepare { conv: self, first: at * panel_width(), inputs, stride, panel });
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
        let (rows, _) = kernel_shape();
        let time = |turns: usize| turns * filled_up(block(turns), rows);
        block((turns..turns + 4).min_by_key(|&turns| time(turns)).unwrap_or(turns))
    }
}

/// Hands out the memory that a thread has for the block that it computes.
pub(super) fn with_scratch<R>(task: impl FnOnce(&mut Vec<f32>, &mut Vec<f32>) -> R) -> R {
    SCRATCH.with_borrow_mut(|(windows, products)| task(windows, products))
}

/// Space for `len` numbers, which hold anything.
pub(super) fn space(memory: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if memory.len() < len {
        // Not grown: nothing in it is wanted, and what comes from the system is zero without being written.
        *memory = Vec::new();
        *memory = vec![0.0; len];
    }
    &mut memory[..len]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use prost::bytes::Bytes;

    use super::*;

    /// Numbers in -1..1 that repeat late.
    fn noise(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    /// Maps in memory from numbers by crop, channel, row and column; what nobody reads is not a number.
    fn laid_out(map: Map, crops: usize, values: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; crops * map.len()];
        for crop in 0..crops {
            for (y, x) in (0..map.side).flat_map(|y| (0..map.side).map(move |x| (y, x))) {
                let pixel = &mut out[crop * map.len() + map.offset(y, x)..][..map.depth()];
                pixel.fill(0.0);
                for (channel, value) in pixel[..map.channels].iter_mut().enumerate() {
                    *value = values[((crop * map.channels + channel) * map.side + y) * map.side + x];
                }
            }
        }
        out
    }

    fn filled(mut values: Vec<f32>, map: Map) -> Vec<f32> {
        values.resize(map.depth(), 0.0);
        values
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Any convolution, with everything that may come before and after it, against the definition in double precision.
        #[test]
        fn a_convolution_is_the_sum_of_its_products(
            side in 1usize..20,
            [channels, outputs] in [1usize..70, 1usize..70],
            (kernel, stride, pad) in prop_oneof![
                3 => Just((3, 1, 1)), 1 => Just((3, 2, 1)), 1 => Just((1, 2, 0)), 1 => Just((1, 1, 0)), 1 => Just((2, 1, 1)),
            ],
            crops in 1usize..4,
            [norm, scaled, before, added, after] in any::<[bool; 5]>(),
            threads in 1usize..4,
            keep: bool,
            seed: u32,
        ) {
            prop_assume!(side + 2 * pad >= kernel);
            let norm = norm && (kernel, stride, pad) == (3, 1, 1);
            let from = Map { side, channels };
            let to = Map { side: (side + 2 * pad - kernel) / stride + 1, channels: outputs };
            let x = noise(crops * channels * side * side, seed);
            let weights = noise(outputs * channels * kernel * kernel, seed ^ 1);
            let [scale, shift] = [2, 3].map(|salt| noise(channels, seed ^ salt));
            let [factor, bias, slope, last] = [4, 5, 6, 7].map(|salt| noise(outputs, seed ^ salt));
            let other = noise(crops * outputs * to.side * to.side, seed ^ 8);

            let way = if (kernel, stride, pad) == (3, 1, 1) {
                let filled = [&scale, &shift].map(|values| filled(values.clone(), from));
                Way::Winograd { norm: norm.then_some(filled) }
            } else {
                Way::Taps { kernel, stride, pad }
            };
            let raw: Bytes = weights.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>().into();
            let finish = Finish {
                shift: filled(bias.clone(), to),
                before: before.then(|| filled(slope.clone(), to)),
                after: after.then(|| filled(last.clone(), to)),
            };
            let factors = scaled.then(|| factor.clone());
            let conv = Conv::new(from, to, way, Weights::new(raw, outputs, factors), finish);
            let mut found = vec![f32::NAN; crops * to.len()];
            let maps = laid_out(from, crops, &x);
            let others = laid_out(to, crops, &other);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| conv.run(&maps, added.then_some(&others), &mut found, &mut Room::default(), keep));

            let bend = |value: f64, slope: f32| value.max(0.0) + f64::from(slope) * value.min(0.0);
            for (crop, output) in (0..crops).flat_map(|crop| (0..outputs).map(move |output| (crop, output))) {
                for (y, x_at) in (0..to.side).flat_map(|y| (0..to.side).map(move |x| (y, x))) {
                    let (mut sum, mut size) = (0.0, 1.0);
                    for (channel, tap) in
                        (0..channels).flat_map(|c| (0..kernel * kernel).map(move |tap| (c, tap)))
                    {
                        let y = (y * stride + tap / kernel).wrapping_sub(pad);
                        let x_at = (x_at * stride + tap % kernel).wrapping_sub(pad);
                        if y < side && x_at < side {
                            let value = x[((crop * channels + channel) * side + y) * side + x_at];
                            let mut value = f64::from(value);
                            if norm {
                                value = value * f64::from(scale[channel]) + f64::from(shift[channel]);
                            }
                            let weight = weights[(output * channels + channel) * kernel * kernel + tap];
                            let factor = if scaled { factor[output] } else { 1.0 };
                            sum += value * f64::from(weight) * f64::from(factor);
                            size += (value * f64::from(weight)).abs();
                        }
                    }
                    let mut expected = sum + f64::from(bias[output]);
                    if before {
                        expected = bend(expected, slope[output]);
                    }
                    if added {
                        expected += f64::from(other[((crop * outputs + output) * to.side + y) * to.side + x_at]);
                    }
                    if after {
                        expected = bend(expected, last[output]);
                    }
                    let found = found[crop * to.len() + to.offset(y, x_at) + output];
                    // The transforms' coefficients make rounding grow by some tens.
                    let allowed = 64.0 * f64::from(f32::EPSILON) * size;
                    prop_assert!((f64::from(found) - expected).abs() <= allowed, "{found}, expected {expected}");
                }
            }
            // Channels that only fill up stay zero, so that they add nothing to the next convolution.
            for (y, x_at) in (0..to.side).flat_map(|y| (0..to.side).map(move |x| (y, x))) {
                prop_assert!(found[to.offset(y, x_at)..][outputs..to.depth()].iter().all(|&v| v == 0.0 || added));
            }
        }
    }
}
