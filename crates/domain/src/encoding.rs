//! A face as a unit vector, and the inner product of many.

use rayon::prelude::*;

use crate::{Error, ErrorKind, Result};

/// How far the length of an encoding may be from 1. Far above what rounding of a 6144-long f32 vector costs, far below
/// what would change a ranking.
pub const UNIT_TOLERANCE: f32 = 1e-3;

/// One image's encoding: its representations (members x views), each L2-normalised, laid end to end and divided by the
/// square root of their number. Unit length, and the inner product of two of them is the mean cosine over the
/// representations.
#[derive(Clone, PartialEq)]
pub struct Encoding(Vec<f32>);

impl std::fmt::Debug for Encoding {
    /// The length only: an encoding describes a face.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoding({} values)", self.0.len())
    }
}

impl Encoding {
    /// The encoding of one image from its representations, in a fixed order of member and view. Refused when there is
    /// none, or when one of them is empty, not finite, or all zero.
    pub fn from_representations(representations: &[&[f32]]) -> Result<Self> {
        if representations.is_empty() {
            return Err(Error::new(ErrorKind::Length, "an encoding needs at least one representation"));
        }
        let share = 1.0 / (representations.len() as f64).sqrt();
        let mut values = Vec::with_capacity(representations.iter().map(|r| r.len()).sum());
        for (index, representation) in representations.iter().enumerate() {
            let length = representation.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
            if !length.is_finite() || length == 0.0 {
                return Err(Error::new(
                    ErrorKind::InvalidEncoding,
                    format!(
                        "representation {index} is all zero or not finite; check the image and the extractor"
                    ),
                ));
            }
            values.extend(representation.iter().map(|&v| (f64::from(v) / length * share) as f32));
        }
        Ok(Self(values))
    }

    /// Takes values that are an encoding already, as a store or a message gives them back. Refused when they are not
    /// finite or not of unit length (within [`UNIT_TOLERANCE`]).
    pub fn from_unit(values: Vec<f32>) -> Result<Self> {
        let length = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        if !((length - 1.0).abs() <= f64::from(UNIT_TOLERANCE)) {
            return Err(Error::new(
                ErrorKind::InvalidEncoding,
                format!("an encoding has length {length:.4} instead of 1; encode the image again"),
            ));
        }
        Ok(Self(values))
    }

    /// The values.
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// The inner product with another encoding, -1..=1: the mean cosine over the representations. The order of
    /// summation is fixed, so the result is the same on every machine and in [`inner_products`].
    ///
    /// # Panics
    ///
    /// When the two have different lengths: encodings of different releases cannot be compared.
    pub fn similarity(&self, other: &Encoding) -> f32 {
        assert_eq!(self.0.len(), other.0.len(), "encodings of different lengths cannot be compared");
        products::<1, 1>([&self.0], [&other.0])[0][0]
    }

    /// `1 - similarity`, 0..=2.
    ///
    /// # Panics
    ///
    /// As [`Encoding::similarity`].
    pub fn distance(&self, other: &Encoding) -> f32 {
        1.0 - self.similarity(other)
    }
}

/// Independent partial sums per inner product: two SSE registers or one AVX register. A constant, since the order of
/// summation follows from it.
const LANES: usize = 8;

/// Inner products of `P` probes with `G` gallery vectors at once, so that each load serves several products. Each
/// product is summed in the same order whatever `P` and `G` are.
#[inline(always)]
fn products<const P: usize, const G: usize>(probes: [&[f32]; P], gallery: [&[f32]; G]) -> [[f32; G]; P] {
    let len = probes[0].len();
    let mut partial = [[[0f32; LANES]; G]; P];
    let split = probes.map(|p| p[..len].as_chunks::<LANES>());
    let gallery = gallery.map(|g| g[..len].as_chunks::<LANES>());
    for at in 0..len / LANES {
        for (p, probe) in split.iter().enumerate() {
            for (g, entry) in gallery.iter().enumerate() {
                for lane in 0..LANES {
                    partial[p][g][lane] += probe.0[at][lane] * entry.0[at][lane];
                }
            }
        }
    }
    let mut sums = [[0f32; G]; P];
    for (p, probe) in split.iter().enumerate() {
        for (g, entry) in gallery.iter().enumerate() {
            let l = &partial[p][g];
            let tail: f32 = probe.1.iter().zip(entry.1).map(|(a, b)| a * b).sum();
            sums[p][g] = (((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))) + tail;
        }
    }
    sums
}

/// Probes that share one pass over the gallery: as many as stay in a core's cache (16 x 6144 x 4 bytes).
const PROBE_TILE: usize = 16;

/// All inner products, row-major probes x gallery. Equal bit for bit to [`Encoding::similarity`] of each pair, whatever
/// the number of threads.
///
/// # Panics
///
/// When the encodings differ in length.
pub fn inner_products(probes: &[&Encoding], gallery: &[&Encoding]) -> Vec<f32> {
    if probes.is_empty() || gallery.is_empty() {
        return Vec::new();
    }
    let dim = probes[0].0.len();
    assert!(
        probes.iter().chain(gallery).all(|e| e.0.len() == dim),
        "encodings of different lengths cannot be compared"
    );
    let width = gallery.len();
    let mut values = vec![0f32; probes.len() * width];
    values.par_chunks_mut(PROBE_TILE * width).zip(probes.par_chunks(PROBE_TILE)).for_each(
        |(rows, probes)| {
            for column in (0..width).step_by(2) {
                let pair = &gallery[column..width.min(column + 2)];
                for (at, two) in probes.chunks(2).enumerate() {
                    let row = 2 * at * width + column;
                    match (two, pair) {
                        ([p, q], [a, b]) => {
                            let s = products::<2, 2>([&p.0, &q.0], [&a.0, &b.0]);
                            rows[row..row + 2].copy_from_slice(&s[0]);
                            rows[row + width..row + width + 2].copy_from_slice(&s[1]);
                        }
                        _ => {
                            for (i, p) in two.iter().enumerate() {
                                for (j, g) in pair.iter().enumerate() {
                                    rows[row + i * width + j] = products::<1, 1>([&p.0], [&g.0])[0][0];
                                }
                            }
                        }
                    }
                }
            }
        },
    );
    values
}
