//! The secret semi-orthogonal matrix, kept as Householder reflectors.

use std::f64::consts::TAU;
use std::fmt;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;
use zeroize::Zeroize;

use crate::{Error, ErrorKind, GroupKey, Result, Secret};

/// Reflectors applied together.
const BLOCK: usize = 128;
/// Rows masked together: fixed, so that results do not depend on the number of threads.
const ROWS: usize = 256;

/// A `dim` x `width` matrix Q with Q Q^T = I, uniformly distributed (Haar) among all such, as a
/// function of group key and release.
///
/// The QR decomposition of a Gaussian matrix gives such a Q; its Householder vectors are themselves
/// independent Gaussians of falling length (Stewart, "The efficient generation of random orthogonal
/// matrices", SIAM J. Numer. Anal. 17, 1980, theorem 3.3). So the vectors are drawn directly,
/// without a decomposition, and masking applies them, without ever forming Q: at 6144 dimensions
/// this takes the time of one product with Q and half its memory. Reflectors are grouped
/// into I - V T V^T (compact WY form, Schreiber and Van Loan 1989) so that products do the work.
pub struct Rotation {
    dim: usize,
    width: usize,
    /// +1 or -1 for each dimension: what makes the diagonal of R positive.
    signs: Vec<f32>,
    /// In the order of the decomposition.
    blocks: Vec<Reflectors>,
}

struct Reflectors {
    /// First coordinate that these reflectors touch.
    first: usize,
    /// Householder vectors over coordinates `first..width`, one after the other.
    vectors: Vec<f32>,
    /// T, upper triangular, column after column.
    factor: Vec<f32>,
}

impl fmt::Debug for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rotation({} x {}, ..)", self.dim, self.width)
    }
}

impl Drop for Rotation {
    fn drop(&mut self) {
        self.signs.zeroize();
        for block in &mut self.blocks {
            block.vectors.zeroize();
            block.factor.zeroize();
        }
    }
}

impl Rotation {
    /// The square rotation of `dim` dimensions for a release.
    ///
    /// # Errors
    /// `Parameter` unless `dim` is 1 to 65,536.
    pub fn derive(key: &GroupKey, release: &[u8; 32], dim: usize) -> Result<Self> {
        Self::derive_wide(key, release, dim, dim)
    }

    /// As [`Rotation::derive`], into a space of `width` dimensions. A wider one hides how many
    /// dimensions encodings have and costs in proportion.
    ///
    /// # Errors
    /// `Parameter` unless `dim` is 1 to `width` and `width` at most 65,536.
    pub fn derive_wide(key: &GroupKey, release: &[u8; 32], dim: usize, width: usize) -> Result<Self> {
        if dim == 0 || dim > width || width > 1 << 16 {
            return Err(Error::new(
                ErrorKind::Parameter,
                format!("no rotation takes {dim} to {width} dimensions: give 1 <= dim <= width <= 65536"),
            ));
        }
        let mut context = release.to_vec();
        context.extend_from_slice(&(dim as u64).to_le_bytes());
        context.extend_from_slice(&(width as u64).to_le_bytes());
        let seed = key.derive("kernel/rotation", &context);
        let firsts: Vec<usize> = (0..dim).step_by(BLOCK).collect();
        let (blocks, signs): (Vec<_>, Vec<_>) = firsts
            .par_iter()
            .map(|&first| Reflectors::draw(&seed, first, BLOCK.min(dim - first), width))
            .unzip();
        Ok(Self { dim, width, signs: signs.concat(), blocks })
    }

    /// Dimensions of an encoding.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Dimensions of a masked encoding.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Multiplies encodings with Q: `encodings` is n x `dim`, the result n x `width`, both row after
    /// row. Inner products of rows stay the same to a few units of f32 rounding.
    ///
    /// # Errors
    /// `Length` if the length is no multiple of `dim`; `OutOfRange` for a value that is not finite.
    pub fn mask(&self, encodings: &[f32]) -> Result<Vec<f32>> {
        if !encodings.len().is_multiple_of(self.dim) {
            return Err(Error::new(
                ErrorKind::Length,
                format!("{} values are not whole encodings of {} dimensions", encodings.len(), self.dim),
            ));
        }
        if let Some(place) = encodings.iter().position(|value| !value.is_finite()) {
            return Err(Error::new(
                ErrorKind::OutOfRange,
                format!(
                    "encoding {} is not finite at dimension {}: compute it again before masking",
                    place / self.dim,
                    place % self.dim
                ),
            ));
        }
        let mut masked = vec![0.0; encodings.len() / self.dim * self.width];
        masked
            .par_chunks_mut(ROWS * self.width)
            .zip(encodings.par_chunks(ROWS * self.dim))
            .for_each(|(masked, encodings)| self.mask_rows(encodings, masked));
        Ok(masked)
    }

    fn mask_rows(&self, encodings: &[f32], masked: &mut [f32]) {
        let rows = encodings.len() / self.dim;
        for (from, to) in encodings.chunks_exact(self.dim).zip(masked.chunks_exact_mut(self.width)) {
            for ((to, from), sign) in to.iter_mut().zip(from).zip(&self.signs) {
                *to = from * sign;
            }
        }
        let mut x = MatMut::from_row_major_slice_mut(masked, rows, self.width);
        for block in self.blocks.iter().rev() {
            block.apply(x.as_mut().subcols_mut(block.first, self.width - block.first));
        }
    }
}

impl Reflectors {
    /// Draws `count` reflectors, the first over coordinates `first..width`, each next over one less.
    fn draw(seed: &Secret, first: usize, count: usize, width: usize) -> (Self, Vec<f32>) {
        let len = width - first;
        let mut vectors = vec![0.0; len * count];
        let mut signs = Vec::with_capacity(count);
        for (j, vector) in vectors.chunks_exact_mut(len).enumerate() {
            let mut gaussian = normals(seed, first + j, len - j);
            let norm = gaussian.iter().map(|x| x * x).sum::<f64>().sqrt();
            let sign = if gaussian[0] < 0.0 { -1.0 } else { 1.0 };
            signs.push(-sign as f32);
            gaussian[0] += sign * norm;
            // Unit length before rounding, so that no product leaves the comfortable range of f32.
            let length = (2.0 * norm * gaussian[0].abs()).sqrt();
            for (to, from) in vector[j..].iter_mut().zip(&gaussian) {
                *to = (from / length) as f32;
            }
            gaussian.zeroize();
        }
        let factor = factor(&vectors, len, count);
        let block = Self { first, vectors, factor };
        (block, signs)
    }

    /// X <- X (I - V T V^T)^T for the rows of X.
    fn apply(&self, mut x: MatMut<'_, f32>) {
        let (rows, len) = (x.nrows(), x.ncols());
        let count = self.vectors.len() / len;
        let vectors = MatRef::from_column_major_slice(&self.vectors, len, count);
        let factor = MatRef::from_column_major_slice(&self.factor, count, count);
        let mut along = Mat::zeros(rows, count);
        let mut weighted = Mat::zeros(rows, count);
        matmul(&mut along, Accum::Replace, x.as_ref(), vectors, 1.0, Par::Seq);
        matmul(&mut weighted, Accum::Replace, &along, factor.transpose(), 1.0, Par::Seq);
        matmul(x.as_mut(), Accum::Add, &weighted, vectors.transpose(), -1.0, Par::Seq);
    }
}

/// T of the compact WY form for the vectors as they are after rounding, so that I - V T V^T is
/// orthogonal however they were rounded.
fn factor(vectors: &[f32], len: usize, count: usize) -> Vec<f32> {
    let v = Mat::from_fn(len, count, |i, j| f64::from(vectors[j * len + i]));
    let mut gram = Mat::<f64>::zeros(count, count);
    matmul(&mut gram, Accum::Replace, v.transpose(), &v, 1.0, Par::Seq);
    let mut t = Mat::<f64>::zeros(count, count);
    for j in 0..count {
        let tau = 2.0 / gram[(j, j)];
        t[(j, j)] = tau;
        for i in 0..j {
            let dot: f64 = (i..j).map(|l| t[(i, l)] * gram[(l, j)]).sum();
            t[(i, j)] = -tau * dot;
        }
    }
    (0..count * count).map(|place| t[(place % count, place / count)] as f32).collect()
}

/// Standard normal values for one reflector: Box and Muller's transform of a keystream. The last
/// bits depend on the platform's logarithm and sine, which moves inner products between
/// platforms by no more than rounding does.
fn normals(seed: &Secret, reflector: usize, len: usize) -> Vec<f64> {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&(reflector as u64).to_le_bytes());
    let mut stream = ChaCha20::new(seed.expose().into(), &nonce.into());
    let mut bits = vec![0u64; len.next_multiple_of(2)];
    stream.write_keystream(bytemuck::cast_slice_mut(&mut bits));
    let unit = |bits: u64| (u64::from_le(bits) >> 11) as f64 * 2f64.powi(-53);
    let mut out = Vec::with_capacity(bits.len());
    for &[a, b] in bits.as_chunks().0 {
        // 1 - u lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - unit(a)).ln()).sqrt();
        let (sin, cos) = (TAU * unit(b)).sin_cos();
        out.extend([radius * cos, radius * sin]);
    }
    bits.zeroize();
    out.truncate(len);
    out
}
