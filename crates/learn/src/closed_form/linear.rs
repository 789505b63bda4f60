//! Products and factors of double matrices in one fixed order of plain additions and multiplications, so that they are
//! the same bit for bit on every processor and for any number of threads.
//!
//! An element of a product is the sum over panels of [`PANEL`] terms, each panel added up term by term. Tiles keep many
//! such sums in registers at once, which changes neither the terms nor their order; nothing is fused.

use std::sync::LazyLock;

use rayon::prelude::*;

static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// Partial sums of a dot product; their order is fixed.
const LANES: usize = 8;
/// Rows and columns of a tile of a product.
const ROWS: usize = 4;
const COLS: usize = 16;
/// Terms that are added up before they meet the element of the product.
const PANEL: usize = 256;
/// Rows that one thread computes at a time.
const BAND: usize = 64;
/// Rows and columns of a diagonal block of a factor.
const BLOCK: usize = 64;

/// `sum a_i b_i`.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (whole_a, rest_a) = a.as_chunks::<LANES>();
    let (whole_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in whole_a.iter().zip(whole_b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f64 = rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f64>() + rest
}

/// `to += by * from`.
pub(super) fn add_scaled(to: &mut [f64], by: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += by * from);
}

/// A matrix in a slice: element (i, j) at `i * row + j * col`.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    values: &'a [f64],
    rows: usize,
    cols: usize,
    row: usize,
    col: usize,
}

impl<'a> View<'a> {
    /// Row-major, rows `stride` elements apart.
    pub(super) fn strided(values: &'a [f64], rows: usize, cols: usize, stride: usize) -> Self {
        Self { values, rows, cols, row: stride, col: 1 }
    }

    /// Row-major and dense.
    pub(super) fn new(values: &'a [f64], cols: usize) -> Self {
        Self::strided(values, values.len() / cols, cols, cols)
    }

    /// Rows and columns exchanged.
    pub(super) fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row: self.col, col: self.row, ..self }
    }

    /// The slice behind it.
    pub(super) fn values(&self) -> &'a [f64] {
        self.values
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.row + j * self.col]
    }

    /// `N` rows from `first` on, side by side for each of the columns `from..to`; zeros below the last row.
    fn packed<const N: usize>(&self, first: usize, from: usize, to: usize) -> Vec<[f64; N]> {
        let mut out = vec![[0.0; N]; to - from];
        for n in 0..N.min(self.rows - first) {
            for (k, out) in (from..to).zip(&mut out) {
                out[n] = self.at(first + n, k);
            }
        }
        out
    }
}

/// `a b` of the packed rows of `a` and columns of `b`.
#[inline(always)]
fn tile(a: &[[f64; ROWS]], b: &[[f64; COLS]]) -> [[f64; COLS]; ROWS] {
    let [mut s0, mut s1, mut s2, mut s3] = [[0.0; COLS]; ROWS];
    for (a, b) in a.iter().zip(b) {
        for j in 0..COLS {
            s0[j] += a[0] * b[j];
            s1[j] += a[1] * b[j];
            s2[j] += a[2] * b[j];
            s3[j] += a[3] * b[j];
        }
    }
    [s0, s1, s2, s3]
}

/// Which elements of a square product are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    All,
    /// Those at and left of the diagonal, at least.
    Lower,
}

/// `out += sign * a b`; rows of `out` lie `stride` elements apart.
pub(super) fn add_product(out: &mut [f64], stride: usize, sign: f64, a: View<'_>, b: View<'_>, part: Part) {
    let (inner, cols) = (a.cols, b.cols);
    debug_assert_eq!(inner, b.rows);
    if a.rows == 0 || cols == 0 {
        return;
    }
    let b = b.t();
    for from in (0..inner).step_by(PANEL) {
        let to = inner.min(from + PANEL);
        let columns: Vec<Vec<[f64; COLS]>> =
            (0..cols.div_ceil(COLS)).into_par_iter().map(|at| b.packed(at * COLS, from, to)).collect();
        out.par_chunks_mut(BAND * stride).enumerate().take(a.rows.div_ceil(BAND)).for_each(|(band, out)| {
            for top in (0..BAND.min(a.rows - band * BAND)).step_by(ROWS) {
                let rows = a.packed::<ROWS>(band * BAND + top, from, to);
                let wanted = match part {
                    Part::All => cols,
                    Part::Lower => cols.min(band * BAND + top + ROWS),
                };
                let height = ROWS.min(a.rows - band * BAND - top);
                ARCH.dispatch(
                    #[inline(always)]
                    || {
                        for (at, columns) in columns[..wanted.div_ceil(COLS)].iter().enumerate() {
                            let sums = tile(&rows, columns);
                            let width = COLS.min(cols - at * COLS);
                            for (i, sums) in sums.iter().take(height).enumerate() {
                                let out = &mut out[(top + i) * stride + at * COLS..][..width];
                                out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sign * sum);
                            }
                        }
                    },
                );
            }
        });
    }
}

/// `a b`, row-major.
pub(super) fn product(a: View<'_>, b: View<'_>) -> Vec<f64> {
    let mut out = vec![0.0; a.rows * b.cols];
    add_product(&mut out, b.cols.max(1), 1.0, a, b, Part::All);
    out
}

/// The lower factor `L` of a positive definite `a = L L'`, of which only the lower triangle is read. What lies above the
/// diagonal of the result is zero. `None` where `a` is not positive definite.
pub(crate) fn cholesky(mut a: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    for start in (0..n).step_by(BLOCK) {
        let end = n.min(start + BLOCK);
        for i in start..end {
            let (above, below) = a.split_at_mut(i * n);
            let row = &mut below[..n];
            for j in start..i {
                let left = &above[j * n..];
                row[j] = (row[j] - dot(&row[start..j], &left[start..j])) / left[j];
            }
            let square = row[i] - dot(&row[start..i], &row[start..i]);
            if square.is_nan() || square <= 0.0 {
                return None;
            }
            row[i] = square.sqrt();
        }
        let (above, below) = a.split_at_mut(end * n);
        below.par_chunks_exact_mut(n).for_each(|row| {
            for j in start..end {
                let left = &above[j * n..(j + 1) * n];
                row[j] = (row[j] - dot(&row[start..j], &left[start..j])) / left[j];
            }
        });
        let width = end - start;
        let panel: Vec<f64> = below.chunks_exact(n).flat_map(|row| &row[start..end]).copied().collect();
        if !panel.is_empty() {
            let panel = View::new(&panel, width);
            add_product(&mut below[end..], n, -1.0, panel, panel.t(), Part::Lower);
        }
    }
    for i in 0..n {
        a[i * n + i + 1..(i + 1) * n].fill(0.0);
    }
    Some(a)
}

/// The inverse of a lower triangular matrix with a diagonal free of zeros, lower triangular too.
pub(crate) fn inverse_lower(lower: &[f64], n: usize) -> Vec<f64> {
    let mut out = vec![0.0; n * n];
    for start in (0..n).step_by(BLOCK) {
        let end = n.min(start + BLOCK);
        let (done, rest) = out.split_at_mut(start * n);
        let rows = &mut rest[..(end - start) * n];
        // Rows of the unit matrix less what the rows above take from them.
        (start..end).for_each(|i| rows[(i - start) * n + i] = 1.0);
        if start > 0 {
            let left = View::strided(&lower[start * n..], end - start, start, n);
            add_product(rows, n, -1.0, left, View::strided(done, start, start, n), Part::All);
        }
        for i in start..end {
            let (above, row) = rows.split_at_mut((i - start) * n);
            let row = &mut row[..end];
            for j in start..i {
                add_scaled(row, -lower[i * n + j], &above[(j - start) * n..][..end]);
            }
            let diagonal = lower[i * n + i];
            row.iter_mut().for_each(|x| *x /= diagonal);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn values(count: usize, seed: usize) -> Vec<f64> {
        (0..count).map(|i| ((i * i * 37 + i * 11 + seed) % 101) as f64 / 50.0 - 1.0).collect()
    }

    #[test]
    fn products_are_the_sums_in_the_order_that_is_promised() {
        for (m, k, n) in [(1, 1, 1), (5, 3, 17), (70, 300, 33), (4, 600, 16), (3, 0, 2)] {
            let (a, b) = (values(m * k, 1), values(n * k, 2));
            let (a, b) = (View::strided(&a, m, k, k), View::strided(&b, n, k, k).t());
            let wanted = |i: usize, j: usize| {
                let panels = (0..k).step_by(PANEL).map(|from| {
                    (from..k.min(from + PANEL)).fold(0.0, |sum, at| sum + a.at(i, at) * b.at(at, j))
                });
                panels.fold(0.0, |sum, panel| sum + panel)
            };
            let got = product(a, b);
            for i in 0..m {
                for j in 0..n {
                    assert_eq!(got[i * n + j].to_bits(), wanted(i, j).to_bits(), "{m} {k} {n}: {i} {j}");
                }
            }
        }
    }

    #[test]
    fn a_factor_gives_its_matrix_and_its_inverse_the_unit() {
        for n in [1, 2, 63, 64, 65, 200] {
            let x = values(2 * n * n, 3);
            let mut a = product(View::new(&x, n).t(), View::new(&x, n));
            (0..n).for_each(|i| a[i * n + i] += 0.5 * n as f64);
            let lower = cholesky(a.clone(), n).unwrap();
            let again = product(View::new(&lower, n), View::new(&lower, n).t());
            let unit = product(View::new(&inverse_lower(&lower, n), n), View::new(&lower, n));
            let size = a.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            for i in 0..n {
                for j in 0..n {
                    assert!((again[i * n + j] - a[i * n + j]).abs() < 1e-13 * size * n as f64, "{n}");
                    let want = f64::from(u8::from(i == j));
                    assert!((unit[i * n + j] - want).abs() < 1e-11, "{n} {i} {j}: {}", unit[i * n + j]);
                }
            }
        }
        assert!(cholesky(vec![1.0, 2.0, 2.0, 1.0], 2).is_none());
        assert!(cholesky(vec![f64::NAN], 1).is_none());
    }
}
