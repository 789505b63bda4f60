//! Winograd's minimal filtering F(4 x 4, 3 x 3): sixteen pixels of a 3 x 3 convolution from 36 products in place of 144.
//!
//! The transforms are those of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308, section
//! 4.3: an output tile is `A' [ (G g G') . (B' d B) ] A` for a filter `g` of 3 x 3 and the window `d` of 6 x 6 pixels below it.

use pulp::Simd;

use super::layout::TILE;

/// Side of the window that a tile is computed from.
pub(super) const WINDOW: usize = TILE + 2;
/// Products per tile and pair of channels.
pub(super) const POINTS: usize = WINDOW * WINDOW;

/// Where a transform's numbers come from: by row and column, a channel in each lane.
pub(super) trait Source<S: Simd> {
    fn at(&self, row: usize, column: usize) -> S::f32s;
}

/// Where they go to.
pub(super) trait Sink<S: Simd> {
    fn put(&mut self, row: usize, column: usize, value: S::f32s);
}

/// A transform of a line of `N` numbers to one of `M`. Functions throughout and no closures: the compiler leaves closures out of
/// line, and so without wide vectors.
trait Transform<const N: usize, const M: usize> {
    fn line<S: Simd>(simd: S, line: [S::f32s; N]) -> [S::f32s; M];
}

/// A transform of every row, then of every column.
#[inline(always)]
fn both<T: Transform<N, M>, S: Simd, const N: usize, const M: usize>(
    simd: S,
    source: &impl Source<S>,
    sink: &mut impl Sink<S>,
) {
    let zero = simd.splat_f32s(0.0);
    // columns[x][y]
    let mut columns = [[zero; N]; M];
    for y in 0..N {
        let mut row = [zero; N];
        for (x, value) in row.iter_mut().enumerate() {
            *value = source.at(y, x);
        }
        for (column, value) in columns.iter_mut().zip(T::line(simd, row)) {
            column[y] = value;
        }
    }
    for (x, column) in columns.iter().enumerate() {
        let column = T::line(simd, *column);
        for (y, &value) in column.iter().enumerate() {
            sink.put(y, x, value);
        }
    }
}

/// `B' d B`.
#[inline(always)]
pub(super) fn window<S: Simd>(simd: S, d: &impl Source<S>, sink: &mut impl Sink<S>) {
    both::<OfWindow, S, WINDOW, WINDOW>(simd, d, sink);
}

/// `G g G'`.
#[inline(always)]
pub(super) fn filter<S: Simd>(simd: S, g: &impl Source<S>, sink: &mut impl Sink<S>) {
    both::<OfFilter, S, 3, WINDOW>(simd, g, sink);
}

/// `A' m A`.
#[inline(always)]
pub(super) fn tile<S: Simd>(simd: S, m: &impl Source<S>, sink: &mut impl Sink<S>) {
    both::<OfProducts, S, WINDOW, TILE>(simd, m, sink);
}

struct OfWindow;

impl Transform<WINDOW, WINDOW> for OfWindow {
    #[inline(always)]
    fn line<S: Simd>(simd: S, [d0, d1, d2, d3, d4, d5]: [S::f32s; 6]) -> [S::f32s; 6] {
        let (even, odd) = (times(simd, -4.0, d2, d4), times(simd, -4.0, d1, d3));
        let (near, far) = (simd.sub_f32s(d4, d2), simd.sub_f32s(d3, d1));
        [
            times(simd, 4.0, d0, times(simd, -5.0, d2, d4)),
            simd.add_f32s(even, odd),
            simd.sub_f32s(even, odd),
            times(simd, 2.0, far, near),
            times(simd, -2.0, far, near),
            times(simd, 4.0, d1, times(simd, -5.0, d3, d5)),
        ]
    }
}

struct OfFilter;

impl Transform<3, WINDOW> for OfFilter {
    #[inline(always)]
    fn line<S: Simd>(simd: S, [g0, g1, g2]: [S::f32s; 3]) -> [S::f32s; 6] {
        let sixth = scaled(simd, -1.0 / 6.0, simd.add_f32s(g0, g2));
        let twelfth = times(simd, 1.0 / 6.0, g2, scaled(simd, 1.0 / 24.0, g0));
        [
            scaled(simd, 0.25, g0),
            times(simd, -1.0 / 6.0, g1, sixth),
            times(simd, 1.0 / 6.0, g1, sixth),
            times(simd, 1.0 / 12.0, g1, twelfth),
            times(simd, -1.0 / 12.0, g1, twelfth),
            g2,
        ]
    }
}

struct OfProducts;

impl Transform<WINDOW, TILE> for OfProducts {
    #[inline(always)]
    fn line<S: Simd>(simd: S, [m0, m1, m2, m3, m4, m5]: [S::f32s; 6]) -> [S::f32s; 4] {
        let (sum1, sum2) = (simd.add_f32s(m1, m2), simd.add_f32s(m3, m4));
        let (difference1, difference2) = (simd.sub_f32s(m1, m2), simd.sub_f32s(m3, m4));
        [
            simd.add_f32s(m0, simd.add_f32s(sum1, sum2)),
            times(simd, 2.0, difference2, difference1),
            times(simd, 4.0, sum2, sum1),
            times(simd, 8.0, difference2, simd.add_f32s(difference1, m5)),
        ]
    }
}

#[inline(always)]
fn scaled<S: Simd>(simd: S, factor: f32, a: S::f32s) -> S::f32s {
    simd.mul_f32s(simd.splat_f32s(factor), a)
}

#[inline(always)]
fn times<S: Simd>(simd: S, factor: f32, a: S::f32s, plus: S::f32s) -> S::f32s {
    simd.mul_add_e_f32s(simd.splat_f32s(factor), a, plus)
}
