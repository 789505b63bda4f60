//! A checked, single-threaded matrix product on `gemm`: the only module of the crate that may be unsafe.
//!
//! Callers split their work into tiles of a fixed size and run one product per tile, so no result depends
//! on the number of threads.
#![allow(unsafe_code)]

use rayon::prelude::*;

/// Rows, neck outputs and inputs of one product in [`map_rows`]. The last rows are padded with zeros, so every
/// representation is computed by the same products whatever else is in its batch; and over so few inputs `gemm` adds
/// in one order on every machine, where longer sums it would cut by the size of the caches.
pub(crate) const BLOCK_ROWS: usize = 32;
const BLOCK_COLS: usize = 128;
const BLOCK_INPUT: usize = 512;

/// A borrowed matrix with arbitrary positive strides.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a, T = f32> {
    values: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// The elements a strided `rows` x `cols` matrix reaches into, or `None` on overflow.
fn extent<T>(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Option<usize> {
    if rows == 0 || cols == 0 {
        return Some(0);
    }
    (rows - 1)
        .checked_mul(row_stride)?
        .checked_add((cols - 1).checked_mul(col_stride)?)?
        .checked_add(1)
        .filter(|&extent| extent <= isize::MAX as usize / size_of::<T>())
}

impl<'a, T> Mat<'a, T> {
    /// A row-major `rows` x `cols` matrix whose rows start `row_stride` elements apart.
    ///
    /// # Panics
    /// If `values` is too short for the shape.
    pub(crate) fn new(values: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        let reach = extent::<T>(rows, cols, row_stride, 1);
        assert!(
            reach.is_some_and(|reach| reach <= values.len()),
            "a {rows} x {cols} matrix of stride {row_stride} does not fit {} values",
            values.len()
        );
        Self { values, rows, cols, row_stride, col_stride: 1 }
    }

    /// The same values, rows and columns exchanged.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// Numbers that `gemm` multiplies.
pub(crate) trait Number: Copy + 'static {
    /// One.
    const ONE: Self;
}

impl Number for f32 {
    const ONE: Self = 1.0;
}

impl Number for f64 {
    const ONE: Self = 1.0;
}

/// `out = a b`, or `out += a b` if `accumulate`; `out` is row-major and dense.
///
/// # Panics
/// If the inner dimensions differ or `out` has not exactly one value per element of the product.
pub(crate) fn matmul<T: Number>(out: &mut [T], a: Mat<'_, T>, b: Mat<'_, T>, accumulate: bool) {
    assert_eq!(a.cols, b.rows, "inner dimensions differ");
    assert_eq!(Some(out.len()), a.rows.checked_mul(b.cols), "output size");
    if out.is_empty() {
        return;
    }
    // SAFETY: `gemm` reads `a` and `b` and reads and writes `out` within the shapes and strides passed. `Mat::new` has
    // checked that the furthest element of `a` and `b` lies inside its slice, transposing keeps that, and `out` is
    // dense with exactly rows x columns elements (asserted above). `out` is borrowed mutably, so it overlaps neither
    // operand and is not written twice: its strides (columns, 1) address distinct elements.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out.as_mut_ptr(),
            1,
            b.cols as isize,
            accumulate,
            a.values.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// `x w'` for `n` rows of length `input` and a weight of so many columns: `n` x `weight.len() / input`.
///
/// Uses every core. A row of the product does not depend on the number of threads nor on the other rows.
pub(crate) fn map_rows(x: &[f32], n: usize, weight: &[f32], input: usize) -> Vec<f32> {
    let dim = weight.len() / input;
    let whole = n / BLOCK_ROWS;
    let mut padded = Vec::new();
    if !n.is_multiple_of(BLOCK_ROWS) {
        padded.resize(BLOCK_ROWS * input, 0.0);
        let rest = &x[whole * BLOCK_ROWS * input..n * input];
        padded[..rest.len()].copy_from_slice(rest);
    }
    let col_blocks = dim.div_ceil(BLOCK_COLS);
    let products: Vec<Vec<f32>> = (0..n.div_ceil(BLOCK_ROWS) * col_blocks)
        .into_par_iter()
        .map(|task| {
            let (block, first) = (task / col_blocks, task % col_blocks * BLOCK_COLS);
            let cols = BLOCK_COLS.min(dim - first);
            let x = if block < whole { &x[block * BLOCK_ROWS * input..] } else { &padded[..] };
            let weight = &weight[first * input..];
            let mut out = vec![0.0; BLOCK_ROWS * cols];
            for start in (0..input).step_by(BLOCK_INPUT) {
                let inner = BLOCK_INPUT.min(input - start);
                let (x, weight) = (&x[start..], &weight[start..]);
                // The weight, which is many times larger, is taken as it lies; `gemm` would lay it out otherwise first.
                let x = Mat::new(x, BLOCK_ROWS, inner, input).t();
                matmul(&mut out, Mat::new(weight, cols, inner, input), x, true);
            }
            out
        })
        .collect();
    let mut out = vec![0.0; n * dim];
    for (row, out) in out.chunks_exact_mut(dim).enumerate() {
        let blocks = &products[row / BLOCK_ROWS * col_blocks..][..col_blocks];
        for (block, out) in blocks.iter().zip(out.chunks_mut(BLOCK_COLS)) {
            for (out, column) in out.iter_mut().zip(block.chunks_exact(BLOCK_ROWS)) {
                *out = column[row % BLOCK_ROWS];
            }
        }
    }
    out
}

/// `x' x` of `n` rows of whole numbers: `dim` rows of `dim` values, of which those left of the diagonal are not all
/// filled. Exact, and so free of any order, while every partial sum stays below 2^53.
pub(crate) fn exact_gram(x: &[f64], n: usize, dim: usize) -> Vec<f64> {
    let mut out = vec![0.0; dim * dim];
    out.par_chunks_mut(BLOCK_COLS * dim).enumerate().for_each(|(block, out)| {
        let (first, rows) = (block * BLOCK_COLS, out.len() / dim);
        if n == 0 {
            return;
        }
        let right = Mat::new(&x[first..], n, dim - first, dim);
        let mut upper = vec![0.0; rows * (dim - first)];
        matmul(&mut upper, Mat::new(&x[first..], n, rows, dim).t(), right, false);
        for (out, upper) in out.chunks_exact_mut(dim).zip(upper.chunks_exact(dim - first)) {
            out[first..].copy_from_slice(upper);
        }
    });
    out
}

/// `a' b` of `n` rows of whole numbers each, `left` and `right` of them a row: `left` rows of `right` values. Exact, and so free
/// of any order, while every partial sum stays below 2^53.
pub(crate) fn exact_product(a: &[f64], b: &[f64], n: usize, left: usize, right: usize) -> Vec<f64> {
    let mut out = vec![0.0; left * right];
    if n == 0 || right == 0 {
        return out;
    }
    out.par_chunks_mut(BLOCK_COLS * right).enumerate().for_each(|(block, out)| {
        let a = Mat::new(&a[block * BLOCK_COLS..], n, out.len() / right, left).t();
        matmul(out, a, Mat::new(b, n, right, right), false);
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
        let at = |m: Mat<'_>, i: usize, j: usize| f64::from(m.values[i * m.row_stride + j * m.col_stride]);
        let mut out = Vec::new();
        for i in 0..a.rows {
            for j in 0..b.cols {
                out.push((0..a.cols).map(|k| at(a, i, k) * at(b, k, j)).sum::<f64>() as f32);
            }
        }
        out
    }

    #[test]
    fn products_of_every_orientation_equal_the_definition() {
        let values: Vec<f32> = (0..4000).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        for (m, k, n) in [(1, 1, 1), (1, 33, 17), (17, 5, 1), (20, 31, 23), (3, 0, 4)] {
            for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
                let a = if ta { Mat::new(&values, k, m, m + 3).t() } else { Mat::new(&values, m, k, k + 3) };
                let b = if tb {
                    Mat::new(&values[7..], n, k, k + 2).t()
                } else {
                    Mat::new(&values[7..], k, n, n + 2)
                };
                let expected = naive(a, b);
                let mut out = vec![f32::NAN; m * n];
                matmul(&mut out, a, b, false);
                for (got, want) in out.iter().zip(&expected) {
                    assert!((got - want).abs() < 1e-4, "{m}x{k}x{n}: {got} against {want}");
                }
                let mut twice = out.clone();
                matmul(&mut twice, a, b, true);
                for (got, want) in twice.iter().zip(&expected) {
                    assert!((got - 2.0 * want).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_slice_too_short_for_its_shape_is_refused() {
        let _ = Mat::new(&[0.0; 5], 2, 3, 3);
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_shape_that_overflows_is_refused() {
        let _ = Mat::new(&[0.0; 5], usize::MAX, 3, usize::MAX);
    }
}
