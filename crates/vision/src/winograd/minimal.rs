//! A block of tiles by minimal filtering.

use pulp::Simd;

use super::conv::{APART, Block, space};
use super::filter::{self, POINTS, Sink, Source, WINDOW};
use super::finish::{FinishVector, at_in, vectors};
use super::layout::{TILE, TILE_PIXELS};
use super::rows::{Place, Rows};
use crate::kernel::{REST, Task, filled_up, multiply};

/// Windows are transformed, multiplied with the filters point by point, and the products transformed to pixels.
pub(super) struct WinogradBlock<'a> {
    pub(super) block: Block<'a>,
    /// Scale and shift of each channel before.
    pub(super) norm: Option<&'a [Vec<f32>; 2]>,
    /// Room for the windows.
    pub(super) windows: &'a mut Vec<f32>,
    /// Room for the products.
    pub(super) products: &'a mut Vec<f32>,
}

impl Task for WinogradBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const R: usize, const V: usize>(self, simd: S) {
        let Self { block, norm, windows, products } = self;
        let tiles = block.out.len() / block.conv.to.tile_len();
        let most = filled_up(tiles, R);
        let from = Matrices { rows: most, depth: block.conv.from.depth() };
        let to = Matrices { rows: most, depth: block.conv.to.depth() };
        let rows = Rows::new(block.conv.to, block.first, tiles);
        let windows = space(windows, POINTS * from.stride());
        let products = space(products, POINTS * to.stride());
        block.transform_windows(simd, &rows, norm, from, windows);
        block.multiply::<S, R, V>(simd, &rows, (from, windows), (to, products));
        block.transform_products(simd, &rows, to, products);
    }
}

/// A matrix for every point, with room for a row for every tile.
#[derive(Clone, Copy)]
pub(super) struct Matrices {
    pub(super) rows: usize,
    pub(super) depth: usize,
}

impl Matrices {
    fn len(self) -> usize {
        self.rows * self.depth
    }

    /// Numbers from a matrix to the next.
    pub(super) fn stride(self) -> usize {
        self.len() + APART
    }
}

impl Block<'_> {
    /// Writes the windows of the tiles that have these rows.
    #[inline(always)]
    pub(super) fn transform_windows<S: Simd>(
        &self,
        simd: S,
        rows: &Rows,
        norm: Option<&[Vec<f32>; 2]>,
        matrices: Matrices,
        windows: &mut [f32],
    ) {
        let map = self.conv.from;
        let zeros = vec![0f32; map.depth()];
        let norm = norm.map(|norm| norm.each_ref().map(|numbers| S::as_simd_f32s(numbers).0));
        let (points, _) = S::as_mut_simd_f32s(windows);
        let (stride, width) = (matrices.stride() / S::F32_LANES, map.depth() / S::F32_LANES);
        for (tile, place) in rows.places().iter().enumerate() {
            let number = self.first + tile;
            let (crop, number) = (number / map.tiles(), number % map.tiles());
            let x = &self.x[crop * map.len()..][..map.len()];
            let (top, left) = (number / map.tiles_across() * TILE, number % map.tiles_across() * TILE);
            let mut inside = [[false; WINDOW]; WINDOW];
            let mut pixels = [[S::as_simd_f32s(&zeros).0; WINDOW]; WINDOW];
            for (down, (pixels, inside)) in pixels.iter_mut().zip(&mut inside).enumerate() {
                for (across, (pixel, inside)) in pixels.iter_mut().zip(inside).enumerate() {
                    // The window begins a pixel before the tile.
                    let (y_after, x_after) = (top + down, left + across);
                    if (1..=map.side).contains(&y_after) && (1..=map.side).contains(&x_after) {
                        *inside = true;
                        let at = map.offset(y_after - 1, x_after - 1);
                        *pixel = S::as_simd_f32s(&x[at..][..map.depth()]).0;
                    }
                }
            }
            for vector in 0..width {
                let source = Window { pixels: &pixels, inside: &inside, norm, vector, simd };
                let mut points = Points { points, stride, width, place, vector };
                filter::window(simd, place.kind, &source, &mut points);
            }
        }
    }

    #[inline(always)]
    fn multiply<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        rows: &Rows,
        (from, windows): (Matrices, &[f32]),
        (to, products): (Matrices, &mut [f32]),
    ) {
        let columns = V * S::F32_LANES;
        let width = to.depth / S::F32_LANES;
        let product_len = self.conv.product_len();
        for point in 0..POINTS {
            let rows = filled_up(rows.of_point(point), R);
            let windows = &windows[point * from.stride()..][..rows * from.depth];
            let (products, _) = S::as_mut_simd_f32s(&mut products[point * to.stride()..][..rows * to.depth]);
            for panel in 0..to.depth / columns {
                let filters = &self.filters[(panel * POINTS + point) * product_len..][..from.depth * columns];
                let (filters, _) = S::as_simd_f32s(filters);
                let whole = rows / R * R;
                let (windows, windows_of_rest) = windows.split_at(whole * from.depth);
                let (products, products_of_rest) = products.split_at_mut(whole * width);
                let panel = Panel { simd, filters, depth: from.depth, width, first: panel * V };
                panel.multiply::<R, V>(windows, products);
                panel.multiply::<REST, V>(windows_of_rest, products_of_rest);
            }
        }
    }

    #[inline(always)]
    fn transform_products<S: Simd>(self, simd: S, rows: &Rows, matrices: Matrices, products: &[f32]) {
        let (products, _) = S::as_simd_f32s(products);
        let (out, _) = S::as_mut_simd_f32s(self.out);
        let other = vectors::<S>(self.other);
        let (stride, width) = (matrices.stride() / S::F32_LANES, matrices.depth / S::F32_LANES);
        for (tile, place) in rows.places().iter().enumerate() {
            for vector in 0..width {
                let finish = self.conv.finish.vector(simd, vector);
                let source = Products { products, stride, width, place, at: vector };
                let at = tile * TILE_PIXELS * width + vector;
                let mut pixels =
                    Pixels { finish: &finish, other, other_at: (at, width), out, at: (at, width), simd };
                filter::tile(simd, place.kind, &source, &mut pixels);
            }
        }
    }
}

/// A panel's filters for one point.
struct Panel<'a, S: Simd> {
    simd: S,
    filters: &'a [S::f32s],
    /// Numbers of a window.
    depth: usize,
    /// Vectors from a window's products to the next.
    width: usize,
    /// The panel's first vector among those.
    first: usize,
}

impl<S: Simd> Panel<'_, S> {
    /// Writes the products of all windows, `R` at a time.
    #[inline(always)]
    fn multiply<const R: usize, const V: usize>(&self, windows: &[f32], products: &mut [S::f32s]) {
        let Self { simd, filters, depth, width, first } = *self;
        for (windows, products) in windows.chunks_exact(R * depth).zip(products.chunks_exact_mut(R * width)) {
            let mut rows: [&[f32]; R] = [&[]; R];
            for (row, windows) in rows.iter_mut().zip(windows.chunks_exact(depth)) {
                *row = windows;
            }
            let sums = multiply::<S, R, V>(simd, rows, filters, [[simd.splat_f32s(0.0); V]; R]);
            for (row, sums) in sums.iter().enumerate() {
                products[row * width + first..][..V].copy_from_slice(sums);
            }
        }
    }
}

/// One vector of channels of a tile's window.
struct Window<'a, S: Simd> {
    pixels: &'a [[&'a [S::f32s]; WINDOW]; WINDOW],
    /// Which pixels are those of the map.
    inside: &'a [[bool; WINDOW]; WINDOW],
    /// Scale and shift.
    norm: Option<[&'a [S::f32s]; 2]>,
    vector: usize,
    simd: S,
}

impl<S: Simd> Source<S> for Window<'_, S> {
    #[inline(always)]
    fn at(&self, row: usize, column: usize) -> S::f32s {
        let value = self.pixels[row][column][self.vector];
        match self.norm {
            Some([scale, shift]) if self.inside[row][column] => {
                self.simd.mul_add_e_f32s(value, scale[self.vector], shift[self.vector])
            }
            _ => value,
        }
    }
}

/// One vector of each point of a block's windows.
struct Points<'a, V> {
    points: &'a mut [V],
    /// Vectors from a matrix to the next, and from a row to the next.
    stride: usize,
    width: usize,
    /// The tile's rows.
    place: &'a Place,
    vector: usize,
}

impl<S: Simd> Sink<S> for Points<'_, S::f32s> {
    #[inline(always)]
    fn put(&mut self, row: usize, column: usize, value: S::f32s) {
        let at = self.place.row(row, column) * self.width + self.vector;
        self.points[(row * WINDOW + column) * self.stride + at] = value;
    }
}

/// One vector of each point of a block's products.
pub(super) struct Products<'a, V> {
    pub(super) products: &'a [V],
    /// Vectors from a matrix to the next, and from a row to the next.
    pub(super) stride: usize,
    pub(super) width: usize,
    /// The tile's rows.
    pub(super) place: &'a Place,
    /// Where the first row's is in the first matrix.
    pub(super) at: usize,
}

impl<S: Simd> Source<S> for Products<'_, S::f32s> {
    #[inline(always)]
    fn at(&self, row: usize, column: usize) -> S::f32s {
        let at = self.place.row(row, column) * self.width + self.at;
        self.products[(row * WINDOW + column) * self.stride + at]
    }
}

/// One vector of channels of a tile's pixels, which are finished on their way.
pub(super) struct Pixels<'a, S: Simd> {
    pub(super) finish: &'a FinishVector<S>,
    pub(super) other: Option<&'a [S::f32s]>,
    /// Where the first pixel is among the others, and how far apart pixels are there.
    pub(super) other_at: (usize, usize),
    pub(super) out: &'a mut [S::f32s],
    /// Where the first pixel goes to, and how far apart pixels are there.
    pub(super) at: (usize, usize),
    pub(super) simd: S,
}

impl<S: Simd> Sink<S> for Pixels<'_, S> {
    #[inline(always)]
    fn put(&mut self, row: usize, column: usize, value: S::f32s) {
        let pixel = row * TILE + column;
        let other = at_in(self.other, self.other_at.0 + pixel * self.other_at.1);
        self.out[self.at.0 + pixel * self.at.1] = self.finish.apply(self.simd, value, other);
    }
}
