//! A block of tiles tap by tap.

use pulp::Simd;

use super::conv::Block;
use super::finish::{at_in, vectors};
use super::layout::TILE_PIXELS;
use crate::kernel::{Task, multiply};

/// Tiles that are computed in one go; every kernel's rows divide their pixels.
pub(super) const TILES: usize = 3;
/// Their pixels.
const PIXELS: usize = TILES * TILE_PIXELS;

/// For every tap of the filters, each pixel's channels are multiplied and added to the pixel.
pub(super) struct TapsBlock<'a> {
    pub(super) block: Block<'a>,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) pad: usize,
}

impl Task for TapsBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const R: usize, const V: usize>(self, simd: S) {
        let Self { block: Block { conv, filters, x, first, other, out }, kernel, stride, pad } = self;
        let (depth_in, depth_out) = (conv.from.depth(), conv.to.depth());
        let zeros = vec![0f32; depth_in];
        let (map, to) = (conv.from, conv.to);
        let (product_len, panel_len) = (conv.product_len(), depth_in * V * S::F32_LANES);
        let (out, _) = S::as_mut_simd_f32s(out);
        let width = depth_out / S::F32_LANES;
        out.fill(simd.splat_f32s(0.0));
        // For every output pixel, where its crop begins, and row and column of its first tap.
        let mut places = [(0, 0, 0); PIXELS];
        for (pixel, place) in places[..out.len() / width].iter_mut().enumerate() {
            let pixel = first * TILE_PIXELS + pixel;
            let of_crop = to.tiles() * TILE_PIXELS;
            let (y, x) = to.place(pixel % of_crop);
            *place = (pixel / of_crop * map.len(), y * stride, x * stride);
        }
        let inside = pad..map.side + pad;
        for tap in 0..kernel * kernel {
            let (down, across) = (tap / kernel, tap % kernel);
            let mut taps: [&[f32]; PIXELS] = [&zeros; PIXELS];
            for (taps, &(crop, y, x_at)) in taps[..out.len() / width].iter_mut().zip(&places) {
                let (y, x_at) = (y + down, x_at + across);
                if inside.contains(&y) && inside.contains(&x_at) {
                    *taps = &x[crop + map.offset(y - pad, x_at - pad)..][..depth_in];
                }
            }
            for panel in 0..depth_out / (V * S::F32_LANES) {
                let (weights, _) =
                    S::as_simd_f32s(&filters[(panel * kernel * kernel + tap) * product_len..][..panel_len]);
                for (taps, out) in taps.chunks(R).zip(out.chunks_mut(R * width)) {
                    let pixels = out.len() / width;
                    let mut rows: [&[f32]; R] = [&zeros; R];
                    rows.copy_from_slice(taps);
                    let mut sums = [[simd.splat_f32s(0.0); V]; R];
                    for (row, sums) in sums.iter_mut().enumerate().take(pixels) {
                        sums.copy_from_slice(&out[row * width + panel * V..][..V]);
                    }
                    let sums = multiply::<S, R, V>(simd, rows, weights, sums);
                    for (row, sums) in sums.iter().enumerate().take(pixels) {
                        out[row * width + panel * V..][..V].copy_from_slice(sums);
                    }
                }
            }
        }
        let other = vectors::<S>(other);
        for vector in 0..width {
            let finish = conv.finish.vector(simd, vector);
            for at in (vector..out.len()).step_by(width) {
                out[at] = finish.apply(simd, out[at], at_in(other, at));
            }
        }
    }
}
