//! A checked, single-threaded matrix product on `gemm`: the only module of the crate that may be unsafe.
//!
//! Callers split their work into tiles of a fixed size and run one product per tile, so no result depends
//! on the number of threads.
#![allow(unsafe_code)]

/// A borrowed matrix with arbitrary positive strides.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// The elements a strided `rows` x `cols` matrix reaches into, or `None` on overflow.
fn extent(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Option<usize> {
    if rows == 0 || cols == 0 {
        return Some(0);
    }
    (rows - 1)
        .checked_mul(row_stride)?
        .checked_add((cols - 1).checked_mul(col_stride)?)?
        .checked_add(1)
        .filter(|&extent| extent <= isize::MAX as usize / size_of::<f32>())
}

impl<'a> Mat<'a> {
    /// A row-major `rows` x `cols` matrix whose rows start `row_stride` elements apart.
    ///
    /// # Panics
    /// If `values` is too short for the shape.
    pub(crate) fn new(values: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        let reach = extent(rows, cols, row_stride, 1);
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

/// `out = a b`, or `out += a b` if `accumulate`; `out` is row-major and dense.
///
/// # Panics
/// If the inner dimensions differ or `out` has not exactly one value per element of the product.
pub(crate) fn matmul(out: &mut [f32], a: Mat<'_>, b: Mat<'_>, accumulate: bool) {
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
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
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
