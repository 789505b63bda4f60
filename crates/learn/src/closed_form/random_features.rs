//! Random features: many more (or fewer) values than a representation has, as sums of its values with random signs.

use rand::Rng;
use rayon::prelude::*;

use super::length;
use crate::error::{Result, TrainError};
use crate::matmul::map_rows;
use crate::random::{Purpose, stream};

/// Whole numbers below this are exact in f32, and so is any sum of them that stays below it.
const EXACT: f64 = 16_777_216.0;
/// Most values that come in: the feature map of an iResNet has 25,088.
const MAX_INPUT: usize = 1 << 17;

/// Sums of a unit representation's values with random signs, negative ones set to zero if `rectified`: the features of
/// the arc-cosine kernel (Cho and Saul 2009) where they are, a random projection (Achlioptas 2003) where not.
///
/// Values are rounded to whole steps first, as many to the unit as keep every partial sum exact in f32 (2^18 up to 1,369
/// values, 2^16 for 25,088). So the features have no rounding and no order: the same bits on every machine.
#[derive(Debug, Clone, PartialEq)]
pub struct RandomFeatures {
    input: usize,
    steps: f64,
    rectified: bool,
    /// Features x `input`, each 1 or -1.
    signs: Vec<f32>,
}

impl RandomFeatures {
    /// `width` features of `input` values, with signs drawn from `seed`.
    ///
    /// # Errors
    /// Sizes that are zero or more than can be exact.
    pub fn new(input: usize, width: usize, seed: u64, rectified: bool) -> Result<Self> {
        if !(1..=MAX_INPUT).contains(&input) || width == 0 {
            return Err(TrainError::shape(format!(
                "{width} random features of {input} values; 1 to {MAX_INPUT} values can come in"
            )));
        }
        // |sum of signs x steps| <= sqrt(input) |x| steps (Cauchy and Schwarz), and rounding adds half a step each.
        let bound = |steps: f64| (input as f64).sqrt() * steps + 0.5 * input as f64;
        let mut steps = super::STEPS;
        while bound(steps) >= EXACT {
            steps *= 0.5;
        }
        let mut random = stream(seed, Purpose::Signs, 0, 0);
        let mut signs = Vec::with_capacity(input * width);
        while signs.len() < input * width {
            let bits = random.next_u64();
            let more =
                (0..64.min(input * width - signs.len())).map(|bit| 1.0 - 2.0 * (bits >> bit & 1) as f32);
            signs.extend(more);
        }
        Ok(Self { input, steps, rectified, signs })
    }

    /// Values in.
    pub fn input(&self) -> usize {
        self.input
    }

    /// Features out.
    pub fn width(&self) -> usize {
        self.signs.len() / self.input
    }

    /// The features of `n` representations, row-major, in steps.
    ///
    /// # Errors
    /// A length that does not fit, or a representation that is zero or not finite.
    pub fn apply(&self, rows: &[f32], n: usize) -> Result<Vec<f32>> {
        if n.checked_mul(self.input) != Some(rows.len()) {
            return Err(TrainError::shape(format!(
                "{n} x {} values expected but {} given",
                self.input,
                rows.len()
            )));
        }
        let mut whole = vec![0.0f32; rows.len()];
        let rows = rows.par_chunks_exact(self.input);
        whole.par_chunks_exact_mut(self.input).zip(rows).enumerate().try_for_each(
            |(row, (whole, values))| {
                let norm = length(values);
                if !(norm > 0.0 && norm.is_finite()) {
                    return Err(TrainError::non_finite(format!(
                        "representation {row} is zero or not finite; look for a corrupt image"
                    )));
                }
                whole
                    .iter_mut()
                    .zip(values)
                    .for_each(|(to, &x)| *to = (f64::from(x) / norm * self.steps).round_ties_even() as f32);
                Ok(())
            },
        )?;
        let mut features = map_rows(&whole, n, &self.signs, self.input);
        if self.rectified {
            features.iter_mut().for_each(|x| *x = x.max(0.0));
        }
        Ok(features)
    }

    /// For each of `n` rows `beside` and the features of `rows`, each brought to length 1, one behind the other.
    ///
    /// # Errors
    /// A length that does not fit, or a row that is zero or not finite.
    pub fn joined(&self, beside: &[f32], rows: &[f32], n: usize) -> Result<Vec<f32>> {
        let features = self.apply(rows, n)?;
        let (width, own) = (beside.len() / n.max(1), self.width());
        if width == 0 || beside.len() != n * width {
            return Err(TrainError::shape(format!("{} values stand beside {n} rows", beside.len())));
        }
        let mut out = vec![0.0; n * (width + own)];
        out.par_chunks_exact_mut(width + own)
            .zip(beside.par_chunks_exact(width))
            .zip(features.par_chunks_exact(own))
            .enumerate()
            .try_for_each(|(row, ((out, beside), features))| {
                let (first, second) = out.split_at_mut(width);
                for (out, values) in [(first, beside), (second, features)] {
                    let norm = length(values);
                    if !(norm > 0.0 && norm.is_finite()) {
                        return Err(TrainError::non_finite(format!(
                            "row {row} is zero or not finite; look for a corrupt image"
                        )));
                    }
                    out.iter_mut().zip(values).for_each(|(out, &x)| *out = (f64::from(x) / norm) as f32);
                }
                Ok(())
            })?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rows(n: usize, input: usize) -> Vec<f32> {
        (0..n * input).map(|i| ((i * i * 37 + i * 11) % 101) as f32 / 50.0 - 1.0).collect()
    }

    #[test]
    fn joined_rows_are_both_parts_at_length_one() {
        let features = RandomFeatures::new(7, 4, 3, false).unwrap();
        let (beside, values) = (rows(5, 3), rows(5, 7));
        let joined = features.joined(&beside, &values, 5).unwrap();
        let apart = features.apply(&values, 5).unwrap();
        for (at, joined) in joined.chunks(7).enumerate() {
            let parts = [(&joined[..3], &beside[at * 3..][..3]), (&joined[3..], &apart[at * 4..][..4])];
            for (got, of) in parts {
                assert!((length(got) - 1.0).abs() < 1e-6);
                let by = length(of);
                assert!(
                    got.iter().zip(of).all(|(&got, &x)| (f64::from(got) - f64::from(x) / by).abs() < 1e-6)
                );
            }
        }
        assert_eq!(features.joined(&beside[3..6], &values[7..14], 1).unwrap(), joined[7..14]);
        assert!(features.joined(&beside[1..], &values, 5).is_err());
        assert!(features.joined(&[0.0; 15], &values, 5).unwrap_err().to_string().contains("row 0 is zero"));
    }

    #[test]
    fn features_are_sums_with_signs_of_whole_steps() {
        for (input, width, rectified) in
            [(5, 8, true), (512, 70, false), (25_088, 3, false), (25_088, 3, true)]
        {
            let features = RandomFeatures::new(input, width, 7, rectified).unwrap();
            assert!(features.signs.iter().all(|&sign| sign.abs() == 1.0));
            let rows = rows(3, input);
            let got = features.apply(&rows, 3).unwrap();
            for (row, got) in rows.chunks(input).zip(got.chunks(width)) {
                let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                for (signs, &got) in features.signs.chunks(input).zip(got) {
                    let whole =
                        row.iter().map(|&x| (f64::from(x) / norm * features.steps).round_ties_even() as i64);
                    let sum: i64 = whole.zip(signs).map(|(x, &sign)| x * sign as i64).sum();
                    assert_eq!(got as i64, if rectified { sum.max(0) } else { sum });
                }
            }
        }
        assert_eq!(RandomFeatures::new(512, 1, 1, true).unwrap().steps, 2f64.powi(18));
        assert_eq!(RandomFeatures::new(25_088, 1, 1, true).unwrap().steps, 2f64.powi(16));
        // The worst that can come in: every value alike, and every sign.
        let worst =
            RandomFeatures { signs: vec![1.0; 25_088], ..RandomFeatures::new(25_088, 1, 1, true).unwrap() };
        let sum = worst.apply(&[1.0; 25_088], 1).unwrap()[0];
        assert_eq!(sum, (2f64.powi(16) / 25_088f64.sqrt()).round_ties_even() as f32 * 25_088.0);
    }

    #[test]
    fn a_seed_is_a_map_and_cosines_survive_a_projection() {
        let new = |seed| RandomFeatures::new(40, 4096, seed, false).unwrap();
        assert!(new(1) == new(1) && new(1) != new(2));
        let rows = rows(2, 40);
        let cosine = |x: &[f32]| {
            let (a, b) = x.split_at(x.len() / 2);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
        };
        // Four standard deviations of the projected cosine, 1 / sqrt(4096) each.
        assert!((cosine(&rows) - cosine(&new(3).apply(&rows, 2).unwrap())).abs() < 4.0 / 64.0);
    }

    #[test]
    fn what_has_no_direction_is_refused() {
        let features = RandomFeatures::new(2, 4, 1, true).unwrap();
        for bad in [[0.0, 0.0], [f32::NAN, 1.0]] {
            assert!(features.apply(&bad, 1).unwrap_err().to_string().contains("representation 0"));
        }
        assert!(features.apply(&[1.0], 1).is_err());
        assert!(RandomFeatures::new(0, 4, 1, true).is_err() && RandomFeatures::new(4, 0, 1, true).is_err());
        assert!(RandomFeatures::new(MAX_INPUT + 1, 1, 1, true).is_err());
    }
}
