//! Eigenvalues and eigenvectors of a real symmetric matrix: Householder reduction to tridiagonal form, then implicit QL
//! with Wilkinson shifts (Golub and Van Loan, Matrix Computations, 4th edition, 8.3).
//!
//! Of our own because of one demand that no library makes: every site must come to the same bits. Only additions,
//! multiplications, divisions and square roots are used, in an order that depends on nothing but the size.

use super::linear::{add_scaled, dot};

/// Iterations per eigenvalue; two or three are usual.
const MAX_SWEEPS: usize = 60;

/// Eigenvalues in ascending order, and the unit eigenvectors as rows in that order. The first component of largest
/// magnitude of each vector is positive.
pub(super) fn symmetric(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut diagonal, mut beside, mut vectors) = tridiagonal(&mut a, n);
    ql(&mut diagonal, &mut beside, &mut vectors, n);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| diagonal[i].total_cmp(&diagonal[j]).then(i.cmp(&j)));
    let values = order.iter().map(|&i| diagonal[i]).collect();
    let mut sorted = Vec::with_capacity(n * n);
    for &i in &order {
        let vector = &vectors[i * n..(i + 1) * n];
        let lead = vector.iter().fold(0.0f64, |lead, &x| if x.abs() > lead.abs() { x } else { lead });
        let sign = if lead < 0.0 { -1.0 } else { 1.0 };
        sorted.extend(vector.iter().map(|x| sign * x));
    }
    (values, sorted)
}

/// Reduces `a` to tridiagonal form by reflections. Returns the diagonal, the elements beside it (`beside[i]` between
/// `i` and `i + 1`) and the transposed product of the reflections.
fn tridiagonal(a: &mut [f64], n: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let mut beside = vec![0.0; n];
    let mut reflections: Vec<Option<Vec<f64>>> = Vec::with_capacity(n);
    for k in 0..n.saturating_sub(2) {
        let column: Vec<f64> = a[k * n + k + 1..(k + 1) * n].to_vec();
        let length = dot(&column, &column).sqrt();
        let alpha = if column[0] > 0.0 { -length } else { length };
        beside[k] = alpha;
        let mut v = column;
        v[0] -= alpha;
        let square = dot(&v, &v);
        if square <= 0.0 {
            reflections.push(None);
            continue;
        }
        let scale = (2.0 / square).sqrt();
        // With |v|^2 = 2 the reflection is 1 - v v'.
        v.iter_mut().for_each(|x| *x *= scale);
        let first = k + 1;
        let mut p: Vec<f64> = (first..n).map(|i| dot(&a[i * n + first..(i + 1) * n], &v)).collect();
        let half = 0.5 * dot(&p, &v);
        add_scaled(&mut p, -half, &v);
        for i in 0..n - first {
            let row = &mut a[(first + i) * n + first..(first + i + 1) * n];
            let (vi, pi) = (v[i], p[i]);
            for ((x, v), p) in row.iter_mut().zip(&v).zip(&p) {
                *x -= vi * p + pi * v;
            }
        }
        reflections.push(Some(v));
    }
    if n >= 2 {
        beside[n - 2] = a[(n - 2) * n + n - 1];
    }
    let diagonal = (0..n).map(|i| a[i * n + i]).collect();
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    // Backwards, each reflection meets only rows and columns that are no longer those of the identity.
    for (k, v) in reflections.iter().enumerate().rev() {
        let Some(v) = v else { continue };
        let first = k + 1;
        for i in first..n {
            let row = &mut vectors[i * n + first..(i + 1) * n];
            let by = dot(row, v);
            add_scaled(row, -by, v);
        }
    }
    (diagonal, beside, vectors)
}

/// Diagonalises a tridiagonal matrix and turns the rows of `vectors` with it.
fn ql(d: &mut [f64], e: &mut [f64], vectors: &mut [f64], n: usize) {
    for l in 0..n {
        for _ in 0..MAX_SWEEPS {
            let small = |m: usize| e[m].abs() <= f64::EPSILON * (d[m].abs() + d[m + 1].abs());
            let m = (l..n - 1).find(|&m| small(m)).unwrap_or(n - 1);
            if m == l {
                break;
            }
            let g = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let r = (g * g + 1.0).sqrt();
            let mut g = d[m] - d[l] + e[l] / (g + if g < 0.0 { -r } else { r });
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut whole = true;
            for i in (l..m).rev() {
                let f = s * e[i];
                let b = c * e[i];
                let r = (f * f + g * g).sqrt();
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    whole = false;
                    break;
                }
                s = f / r;
                c = g / r;
                let q = d[i + 1] - p;
                let t = (d[i] - q) * s + 2.0 * c * b;
                p = s * t;
                d[i + 1] = q + p;
                g = c * t - b;
                rotate(vectors, n, i, s, c);
            }
            if whole {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
}

/// Turns rows `i` and `i + 1` into each other.
fn rotate(vectors: &mut [f64], n: usize, i: usize, s: f64, c: f64) {
    let (upper, lower) = vectors[i * n..(i + 2) * n].split_at_mut(n);
    for (x, y) in upper.iter_mut().zip(lower) {
        let (a, b) = (*x, *y);
        *y = s * a + c * b;
        *x = c * a - s * b;
    }
}

#[cfg(test)]
mod tests {
    use super::super::linear::{View, product};
    use super::*;

    fn matrix(n: usize, rank: usize) -> Vec<f64> {
        let x: Vec<f64> = (0..rank * n).map(|i| ((i * i * 37 + i * 11) % 101) as f64 / 50.0 - 1.0).collect();
        product(View::new(&x, n).t(), View::new(&x, n))
    }

    #[test]
    fn vectors_are_orthonormal_and_diagonalise() {
        for (n, rank) in [(1, 1), (2, 2), (3, 1), (5, 5), (40, 60), (40, 7), (64, 64)] {
            let a = matrix(n, rank);
            let (values, vectors) = symmetric(a.clone(), n);
            let size = a.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            assert!(values.is_sorted());
            for i in 0..n {
                let v = &vectors[i * n..(i + 1) * n];
                let image = product(View::new(v, n), View::new(&a, n));
                for (x, y) in image.iter().zip(v) {
                    assert!((x - values[i] * y).abs() < 1e-12 * size * n as f64, "{n} {rank}");
                }
                for j in 0..n {
                    let inner = dot(v, &vectors[j * n..(j + 1) * n]);
                    assert!(
                        (inner - f64::from(u8::from(i == j))).abs() < 1e-12,
                        "{n} {rank} {i} {j}: {inner}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_diagonal_matrix_and_zero_are_their_own_form() {
        let (values, vectors) = symmetric(vec![3.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 2.0], 3);
        assert_eq!(values, [1.0, 2.0, 3.0]);
        assert_eq!(vectors, [0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(symmetric(vec![0.0; 4], 2).0, [0.0, 0.0]);
    }
}
