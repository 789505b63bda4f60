//! Winograd's minimal filtering F(4 x 4, 3 x 3): sixteen pixels of a 3 x 3 convolution from 36 products in place of 144. Where two
//! pixels are left at the edge of a map it is F(2, 3) in that direction, from four of the same six points.
//!
//! The transforms are those of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308, section
//! 4.3: an output tile is `A' [ (G g G') . (B' d B) ] A` for a filter `g` of 3 x 3 and the window `d` of 6 x 6 pixels below it.

use pulp::Simd;

use super::layout::TILE;
use super::rows::{ACROSS, DOWN, Kind, SHORT};

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

/// A transform of a line of `N` numbers, those at `TAKES`, to one of `M`, at `GIVES`. Functions throughout and no closures: the compiler leaves closures out of
/// line, and so without wide vectors.
trait Transform<const N: usize, const M: usize> {
    const TAKES: [usize; N];
    const GIVES: [usize; M];

    fn line<S: Simd>(simd: S, line: [S::f32s; N]) -> [S::f32s; M];
}

/// A transform of every row by `A`, then of every column by `D`.
#[inline(always)]
fn both<
    D: Transform<N, M>,
    A: Transform<K, L>,
    S: Simd,
    const N: usize,
    const M: usize,
    const K: usize,
    const L: usize,
>(
    simd: S,
    source: &impl Source<S>,
    sink: &mut impl Sink<S>,
) {
    let zero = simd.splat_f32s(0.0);
    // columns[x][y]
    let mut columns = [[zero; N]; L];
    for y in 0..N {
        let mut row = [zero; K];
        for (x, value) in row.iter_mut().enumerate() {
            *value = source.at(D::TAKES[y], A::TAKES[x]);
        }
        for (column, value) in columns.iter_mut().zip(A::line(simd, row)) {
            column[y] = value;
        }
    }
    for (x, column) in columns.iter().enumerate() {
        let column = D::line(simd, *column);
        for (y, &value) in column.iter().enumerate() {
            sink.put(D::GIVES[y], A::GIVES[x], value);
        }
    }
}

const ALL: [usize; WINDOW] = [0, 1, 2, 3, 4, 5];
const FIRST_THREE: [usize; 3] = [0, 1, 2];
const OF_TILE: [usize; TILE] = [0, 1, 2, 3];
/// The points of 0, 1, -1 and infinity.
const OF_SHORT: [usize; 4] = [0, 1, 2, 5];

/// `B' d B` for a tile of this kind.
#[inline(always)]
pub(super) fn window<S: Simd>(simd: S, kind: Kind, d: &impl Source<S>, sink: &mut impl Sink<S>) {
    match kind {
        0 => both::<OfWindow, OfWindow, S, WINDOW, WINDOW, WINDOW, WINDOW>(simd, d, sink),
        ACROSS => both::<OfWindow, OfShortWindow, S, WINDOW, WINDOW, 4, 4>(simd, d, sink),
        DOWN => both::<OfShortWindow, OfWindow, S, 4, 4, WINDOW, WINDOW>(simd, d, sink),
        _ => both::<OfShortWindow, OfShortWindow, S, 4, 4, 4, 4>(simd, d, sink),
    }
}

/// `G g G'`.
#[inline(always)]
pub(super) fn filter<S: Simd>(simd: S, g: &impl Source<S>, sink: &mut impl Sink<S>) {
    both::<OfFilter, OfFilter, S, 3, WINDOW, 3, WINDOW>(simd, g, sink);
}

/// `A' m A` for a tile of this kind.
#[inline(always)]
pub(super) fn tile<S: Simd>(simd: S, kind: Kind, m: &impl Source<S>, sink: &mut impl Sink<S>) {
    match kind {
        0 => both::<OfProducts, OfProducts, S, WINDOW, TILE, WINDOW, TILE>(simd, m, sink),
        ACROSS => both::<OfProducts, OfShortProducts, S, WINDOW, TILE, 4, SHORT>(simd, m, sink),
        DOWN => both::<OfShortProducts, OfProducts, S, 4, SHORT, WINDOW, TILE>(simd, m, sink),
        _ => both::<OfShortProducts, OfShortProducts, S, 4, SHORT, 4, SHORT>(simd, m, sink),
    }
}

struct OfWindow;

impl Transform<WINDOW, WINDOW> for OfWindow {
    const TAKES: [usize; WINDOW] = ALL;
    const GIVES: [usize; WINDOW] = ALL;

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
    const TAKES: [usize; 3] = FIRST_THREE;
    const GIVES: [usize; WINDOW] = ALL;

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
    const TAKES: [usize; WINDOW] = ALL;
    const GIVES: [usize; TILE] = OF_TILE;

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

/// F(2, 3) of the same filters: the factors by which its own points of them differ are taken to the window.
struct OfShortWindow;

impl Transform<4, 4> for OfShortWindow {
    const TAKES: [usize; 4] = OF_TILE;
    const GIVES: [usize; 4] = OF_SHORT;

    #[inline(always)]
    fn line<S: Simd>(simd: S, [d0, d1, d2, d3]: [S::f32s; 4]) -> [S::f32s; 4] {
        [
            scaled(simd, 4.0, simd.sub_f32s(d0, d2)),
            scaled(simd, -3.0, simd.add_f32s(d1, d2)),
            scaled(simd, 3.0, simd.sub_f32s(d1, d2)),
            simd.sub_f32s(d3, d1),
        ]
    }
}

struct OfShortProducts;

impl Transform<4, SHORT> for OfShortProducts {
    const TAKES: [usize; 4] = OF_SHORT;
    const GIVES: [usize; SHORT] = [0, 1];

    #[inline(always)]
    fn line<S: Simd>(simd: S, [m0, m1, m2, m5]: [S::f32s; 4]) -> [S::f32s; SHORT] {
        [simd.add_f32s(m0, simd.add_f32s(m1, m2)), simd.add_f32s(simd.sub_f32s(m1, m2), m5)]
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
