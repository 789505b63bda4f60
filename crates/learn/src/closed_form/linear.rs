//! Products of double matrices in one fixed order of plain additions and multiplications, so that they are the same bit
//! for bit on every processor and for any number of threads.

use rayon::prelude::*;

/// Partial sums of a dot product; their order is fixed.
const LANES: usize = 8;

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

/// `a b` for `a` of rows of length `inner` and `b` of `inner` x `cols`, row-major.
pub(super) fn product(a: &[f64], b: &[f64], inner: usize, cols: usize) -> Vec<f64> {
    let mut out = vec![0.0; a.len() / inner * cols];
    out.par_chunks_exact_mut(cols).zip(a.par_chunks_exact(inner)).for_each(|(out, a)| {
        for (&a, b) in a.iter().zip(b.chunks_exact(cols)) {
            add_scaled(out, a, b);
        }
    });
    out
}

/// `a' b` for two matrices of `dim` columns and equally many rows.
pub(super) fn product_transposed(a: &[f64], b: &[f64], dim: usize) -> Vec<f64> {
    let mut out = vec![0.0; dim * dim];
    out.par_chunks_exact_mut(dim).enumerate().for_each(|(i, out)| {
        for (a, b) in a.chunks_exact(dim).zip(b.chunks_exact(dim)) {
            add_scaled(out, a[i], b);
        }
    });
    out
}

/// `x' x / n` of centred rows, symmetric bit for bit.
pub(super) fn covariance(x: &[f64], dim: usize, n: usize) -> Vec<f64> {
    let mut out = product_transposed(x, x, dim);
    let scale = 1.0 / n as f64;
    out.iter_mut().for_each(|value| *value *= scale);
    out
}
