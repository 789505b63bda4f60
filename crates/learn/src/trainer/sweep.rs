//! One pass over the neck's weight that does everything at once.
//!
//! At 25,088 x 512 the weight and its two moments are 154 MB, so a step costs what it costs to read and write them once.
//! The pass therefore goes tile by tile: compute the tile's gradient into a buffer that stays in the second-level
//! cache, let Adam update the tile by it, and multiply the next batch with the fresh tile while it is still there. The
//! gradient never goes to memory, and the next step's forward pass reads no weights.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::adam::{AdamStep, Param};
use crate::head::HeadShape;
use crate::matmul::{Mat, matmul};

/// Weights per tile: 256 KiB, a small part of a second-level cache.
const TILE: usize = 1 << 16;

/// The input rows are cut into at most this many groups of whole tiles, one parallel task each. The cut does not depend on the
/// number of threads, so neither does the order in which partial products are added.
const GROUPS: usize = 32;

/// Values of the result that one task adds up.
const SUM_CHUNK: usize = 4096;

thread_local! {
    static GRADIENT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// An update of the weight: the features of a batch (`n` x `input`), the gradient of the neck's output (`n` x `dim`),
/// and Adam's constants.
#[derive(Clone, Copy)]
pub(super) struct Update<'a> {
    pub(super) features: &'a [f32],
    pub(super) grad: &'a [f32],
    pub(super) step: AdamStep,
}

/// Updates `weight` (`input` x `dim`) if asked, and sets `product` to the product of `next` (features, `n`) with the
/// weight as it is then: `n` x `dim`, empty if there is no next batch. `partials` is scratch that calls share.
pub(super) fn sweep(
    weight: &mut Param,
    shape: HeadShape,
    update: Option<Update<'_>>,
    next: Option<(&[f32], usize)>,
    partials: &mut Vec<f32>,
    product: &mut Vec<f32>,
) {
    let HeadShape { input, dim, .. } = shape;
    let tile_rows = (TILE / dim).max(1);
    let group_rows = input.div_ceil(tile_rows).div_ceil(GROUPS) * tile_rows;
    let groups = input.div_ceil(group_rows);
    let partial_len = next.map_or(0, |(_, n)| n * dim);
    // A group's share of the scratch may not be empty, or there would be no groups to pair with.
    let share = partial_len.max(1);
    partials.resize(groups * share, 0.0);
    let anchor = &weight.anchor;
    weight
        .values
        .par_chunks_mut(group_rows * dim)
        .zip(weight.first.par_chunks_mut(group_rows * dim))
        .zip(weight.second.par_chunks_mut(group_rows * dim))
        .zip(partials.par_chunks_mut(share))
        .enumerate()
        .for_each(|(group, (((values, first), second), partial))| {
            let tiles = values
                .chunks_mut(tile_rows * dim)
                .zip(first.chunks_mut(tile_rows * dim))
                .zip(second.chunks_mut(tile_rows * dim));
            for (tile, ((values, first), second)) in tiles.enumerate() {
                let start = group * group_rows + tile * tile_rows;
                let rows = values.len() / dim;
                if let Some(Update { features, grad, step }) = update {
                    let n = grad.len() / dim;
                    GRADIENT.with_borrow_mut(|gradient| {
                        gradient.resize(TILE.max(dim), 0.0);
                        let gradient = &mut gradient[..values.len()];
                        matmul(
                            gradient,
                            Mat::new(&features[start..], n, rows, input).t(),
                            Mat::new(grad, n, dim, dim),
                            false,
                        );
                        // Empty where nothing pulls.
                        let pull = anchor.get(start * dim..start * dim + values.len()).unwrap_or_default();
                        step.apply(values, first, second, gradient, pull);
                    });
                }
                if let Some((features, n)) = next {
                    matmul(
                        partial,
                        Mat::new(&features[start..], n, rows, input),
                        Mat::new(values, rows, dim, dim),
                        tile > 0,
                    );
                }
            }
        });
    product.resize(partial_len, 0.0);
    product.par_chunks_mut(SUM_CHUNK).enumerate().for_each(|(chunk, out)| {
        out.fill(0.0);
        for partial in partials.chunks_exact(share) {
            for (sum, value) in out.iter_mut().zip(&partial[chunk * SUM_CHUNK..]) {
                *sum += value;
            }
        }
    });
}
