//! A face as a unit vector, and the inner product of many.

mod products;

use rayon::prelude::*;

use self::products::product;
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
        Self::laid(representations, |_| share)
    }

    /// As [`Encoding::from_representations`], with a share of each: the inner product is the mean cosine with these weights.
    /// Refused besides where shares are not one for each, are negative, or do not add up to 1.
    pub fn from_weighted(representations: &[&[f32]], shares: &[f64]) -> Result<Self> {
        let total: f64 = shares.iter().sum();
        let fit = shares.len() == representations.len() && shares.iter().all(|&share| share >= 0.0);
        if !fit || total.is_nan() || (total - 1.0).abs() > f64::from(UNIT_TOLERANCE) {
            return Err(Error::new(
                ErrorKind::InvalidEncoding,
                format!(
                    "{} shares that add up to {total} for {} representations; take the weights of the model again",
                    shares.len(),
                    representations.len()
                ),
            ));
        }
        Self::laid(representations, |index| (shares[index] / total).sqrt())
    }

    /// Representations at the lengths given, end to end.
    fn laid(representations: &[&[f32]], share: impl Fn(usize) -> f64) -> Result<Self> {
        let mut values = Vec::with_capacity(representations.iter().map(|r| r.len()).sum());
        for (index, representation) in representations.iter().enumerate() {
            let share = share(index);
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
        if length.is_nan() || (length - 1.0).abs() > f64::from(UNIT_TOLERANCE) {
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
        product(&self.0, &other.0)
    }

    /// [`Encoding::similarity`] with each of a gallery's encodings, given by their values, which may lie anywhere.
    ///
    /// # Panics
    ///
    /// As [`Encoding::similarity`].
    pub fn similarities(&self, gallery: &[&[f32]]) -> Vec<f32> {
        assert!(
            gallery.iter().all(|other| other.len() == self.0.len()),
            "encodings of different lengths cannot be compared"
        );
        gallery.par_iter().map(|other| product(&self.0, other)).collect()
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

/// All inner products, row-major probes x gallery. Equal bit for bit to [`Encoding::similarity`] of each pair, whatever
/// the number of threads.
///
/// # Panics
///
/// When the encodings differ in length.
pub fn inner_products(probes: &[&Encoding], gallery: &[&Encoding]) -> Vec<f32> {
    let probes: Vec<&[f32]> = probes.iter().map(|e| e.as_slice()).collect();
    let gallery: Vec<&[f32]> = gallery.iter().map(|e| e.as_slice()).collect();
    vector_products(&probes, &gallery)
}

/// As [`inner_products`], of vectors that need not be encodings: each product depends on its two vectors alone, whatever
/// else is multiplied with them.
///
/// # Panics
///
/// When the vectors differ in length.
pub fn vector_products(probes: &[&[f32]], gallery: &[&[f32]]) -> Vec<f32> {
    if probes.is_empty() || gallery.is_empty() {
        return Vec::new();
    }
    let dim = probes[0].len();
    assert!(
        probes.iter().chain(gallery).all(|e| e.len() == dim),
        "encodings of different lengths cannot be compared"
    );
    products::products(probes, gallery)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::random::Random;

    fn representations(count: usize, dim: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut random = Random::new("test encodings", seed, 0);
        (0..count).map(|_| (0..dim).map(|_| random.unit() as f32 - 0.4).collect()).collect()
    }

    fn encoding(seed: u64, count: usize, dim: usize) -> Encoding {
        let views = representations(count, dim, seed);
        Encoding::from_representations(&views.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn the_inner_product_is_the_mean_cosine_over_views() {
        let (a, b) = (representations(12, 512, 1), representations(12, 512, 2));
        let mean_cosine = a.iter().zip(&b).map(|(x, y)| {
            let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            dot(x, y) / (dot(x, x) * dot(y, y)).sqrt() / 12.0
        });
        let similarity = encoding(1, 12, 512).similarity(&encoding(2, 12, 512));
        // 768 f32 additions per lane, each off by at most 2^-24 of a partial sum below 1/8.
        assert!((f64::from(similarity) - mean_cosine.sum::<f64>()).abs() < 2e-6);
        assert!((encoding(1, 12, 512).similarity(&encoding(1, 12, 512)) - 1.0).abs() < 2e-6);
    }

    #[test]
    fn products_do_not_depend_on_their_neighbours_or_threads() {
        // Beyond a bundle, a group of them, a turn of the gallery, a panel and a band, and not a multiple of any.
        for (probes, gallery, dim) in
            [(1, 1, 6), (5, 7, 30), (33, 18, 512), (2, 3, 1), (14, 49, 777), (259, 25, 300)]
        {
            let rows: Vec<_> = (0..probes).map(|i| encoding(i, 3, dim)).collect();
            let columns: Vec<_> = (0..gallery).map(|i| encoding(1000 + i, 3, dim)).collect();
            let (rows, columns): (Vec<_>, Vec<_>) = (rows.iter().collect(), columns.iter().collect());
            let expected: Vec<f32> =
                rows.iter().flat_map(|p| columns.iter().map(|g| p.similarity(g))).collect();
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                assert_eq!(pool.install(|| inner_products(&rows, &columns)), expected);
                let slices: Vec<&[f32]> = columns.iter().map(|g| g.as_slice()).collect();
                let one = pool.install(|| rows[0].similarities(&slices));
                assert_eq!(one, expected[..columns.len()]);
            }
        }
        assert!(inner_products(&[], &[&encoding(1, 1, 4)]).is_empty());
    }

    #[test]
    fn what_has_no_direction_is_refused() {
        let kind = |views: &[&[f32]]| Encoding::from_representations(views).unwrap_err().kind();
        assert_eq!(kind(&[]), ErrorKind::Length);
        for bad in [&[][..], &[0.0, 0.0], &[1.0, f32::NAN], &[f32::INFINITY, 1.0]] {
            assert_eq!(kind(&[&[1.0], bad]), ErrorKind::InvalidEncoding);
        }
        for bad in [vec![], vec![0.0], vec![0.6, 0.6], vec![f32::NAN]] {
            assert_eq!(Encoding::from_unit(bad).unwrap_err().kind(), ErrorKind::InvalidEncoding);
        }
        // Squares that overflow or vanish in f32 do not spoil the length.
        for scale in [1e30, 1e-30] {
            let encoding = Encoding::from_representations(&[&[3.0 * scale, 4.0 * scale]]).unwrap();
            assert_eq!(encoding.as_slice(), [0.6, 0.8]);
        }
    }

    #[test]
    fn a_face_is_not_printed() {
        assert_eq!(format!("{:?}", encoding(1, 2, 3)), "Encoding(6 values)");
    }
}
