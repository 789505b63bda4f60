//! What the members of an ensemble count: Fisher's discriminant between pairs of images of one syndrome and of two.
//!
//! A pair is a vector with a number for each member, the cosine of the two images. Counts, sums and second moments of these
//! vectors can be added by secure sum. They are integers, and weights follow from them by operations that IEEE 754 rounds
//! correctly in one order: equal moments give equal bits on every processor.

use crate::closed_form::linear;
use crate::error::{Result, TrainError};

/// Steps of a cosine per unit: fine enough, and 2^18 pairs at each of 100 sites add up.
const STEPS: f64 = 16_384.0;
/// Added to the covariance, in units of its mean diagonal: members that say almost the same share their weight.
const RIDGE: f64 = 0.1;

/// Pairs of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// How many.
    pub pairs: i64,
    /// Sums of the cosines by member, in steps of 2^-14.
    pub sums: Vec<i64>,
    /// Their second moment, upper triangle row by row, in steps of 2^-28.
    pub scatter: Vec<i64>,
}

/// Moments of pairs of images of one syndrome, and of two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairMoments {
    /// Of one syndrome.
    pub same: Kind,
    /// Of two.
    pub different: Kind,
}

impl Kind {
    fn zeros(members: usize) -> Self {
        Self { pairs: 0, sums: vec![0; members], scatter: vec![0; members * (members + 1) / 2] }
    }

    fn note(&mut self, cosines: &[f64]) {
        let steps: Vec<i64> = cosines.iter().map(|x| (x * STEPS).round_ties_even() as i64).collect();
        self.pairs += 1;
        self.sums.iter_mut().zip(&steps).for_each(|(sum, x)| *sum += x);
        let products = (0..steps.len()).flat_map(|i| steps[i..].iter().map(move |x| (i, x)));
        self.scatter.iter_mut().zip(products).for_each(|(sum, (i, x))| *sum += steps[i] * x);
    }

    fn means(&self) -> Vec<f64> {
        self.sums.iter().map(|&sum| sum as f64 / self.pairs as f64 / STEPS).collect()
    }

    /// Adds half of the covariance to a full matrix.
    fn add_half_covariance(&self, out: &mut [f64]) {
        let (members, mean) = (self.sums.len(), self.means());
        let mut at = 0;
        for i in 0..members {
            for j in i..members {
                let moment = self.scatter[at] as f64 / self.pairs as f64 / (STEPS * STEPS);
                let half = 0.5 * (moment - mean[i] * mean[j]);
                out[i * members + j] += half;
                if i != j {
                    out[j * members + i] += half;
                }
                at += 1;
            }
        }
    }
}

impl PairMoments {
    /// No pairs.
    pub fn zeros(members: usize) -> Self {
        Self { same: Kind::zeros(members), different: Kind::zeros(members) }
    }

    /// Takes a pair in: the cosine that each member finds.
    ///
    /// # Errors
    /// Another number of members, or what is no cosine.
    pub fn note(&mut self, same: bool, cosines: &[f64]) -> Result<()> {
        if cosines.len() != self.same.sums.len() || cosines.iter().any(|x| x.is_nan() || x.abs() > 1.001) {
            return Err(TrainError::invalid(format!(
                "{cosines:?} are no cosines of {} members",
                self.same.sums.len()
            )));
        }
        let kind = if same { &mut self.same } else { &mut self.different };
        kind.note(cosines);
        Ok(())
    }

    /// What each member counts, adding up to 1: the direction along which the two kinds of pairs lie furthest apart in units of
    /// their spread, without what points the other way. All alike where there are no pairs of either kind, nothing that tells
    /// them apart, or sums that no pairs have: a site that lies then gains no more than that.
    pub fn weights(&self) -> Vec<f32> {
        let members = self.same.sums.len();
        self.discriminant().unwrap_or_else(|| vec![1.0 / members as f32; members])
    }

    fn discriminant(&self) -> Option<Vec<f32>> {
        let members = self.same.sums.len();
        if self.same.pairs <= 0 || self.different.pairs <= 0 {
            return None;
        }
        let mut spread = vec![0.0; members * members];
        self.same.add_half_covariance(&mut spread);
        self.different.add_half_covariance(&mut spread);
        let level = (0..members).map(|i| spread[i * members + i]).sum::<f64>() / members as f64;
        (0..members).for_each(|i| spread[i * members + i] += RIDGE * level);
        if !(level > 0.0 && level.is_finite()) {
            return None;
        }
        let lower = linear::cholesky(spread, members)?;
        let inverse = linear::inverse_lower(&lower, members);
        let apart: Vec<f64> =
            self.same.means().iter().zip(self.different.means()).map(|(a, b)| a - b).collect();
        // With L the lower factor, L'^-1 (L^-1 apart).
        let along = |row: usize| (0..members).map(|j| inverse[row * members + j] * apart[j]).sum::<f64>();
        let whitened: Vec<f64> = (0..members).map(along).collect();
        let back = |col: usize| (0..members).map(|i| inverse[i * members + col] * whitened[i]).sum::<f64>();
        let direction: Vec<f64> = (0..members).map(|col| back(col).max(0.0)).collect();
        let total: f64 = direction.iter().sum();
        let fits = total > 0.0 && total.is_finite();
        fits.then(|| direction.into_iter().map(|weight| (weight / total) as f32).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn noise(seed: usize) -> f64 {
        let mut z = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// Pairs as three members see them: the first tells syndromes apart, the second less so, the third not at all.
    fn pairs(count: usize) -> PairMoments {
        let mut moments = PairMoments::zeros(3);
        for at in 0..count {
            let same = at % 4 == 0;
            let apart = if same { 1.0 } else { 0.0 };
            let by = [0.4, 0.2, 0.0];
            let cosines: Vec<f64> = (0..3).map(|m| by[m] * apart + 0.2 * noise(3 * at + m)).collect();
            moments.note(same, &cosines).unwrap();
        }
        moments
    }

    #[test]
    fn a_member_counts_by_how_well_it_tells_syndromes_apart() {
        let weights = pairs(4000).weights();
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        // Independent members of one spread: in proportion to how far they bring the kinds apart.
        let ratio = weights[0] / weights[1];
        assert!((ratio - 2.0).abs() < 0.1 && weights[2] < 0.03, "{weights:?}");
    }

    #[test]
    fn a_member_that_says_the_opposite_counts_nothing() {
        let mut moments = PairMoments::zeros(2);
        for at in 0..400 {
            let same = at % 2 == 0;
            let apart = if same { 0.3 } else { 0.0 };
            let cosines = [apart + 0.2 * noise(2 * at), -apart + 0.2 * noise(2 * at + 1)];
            moments.note(same, &cosines).unwrap();
        }
        assert_eq!(moments.weights(), [1.0, 0.0]);
    }

    #[test]
    fn without_pairs_or_with_impossible_sums_all_count_alike() {
        assert_eq!(PairMoments::zeros(4).weights(), [0.25; 4]);
        let mut moments = pairs(80);
        assert!(
            moments.note(true, &[0.1, 0.2]).is_err() && moments.note(true, &[0.1, 0.2, f64::NAN]).is_err()
        );
        let lies: [fn(&mut PairMoments); 4] = [
            // A second moment below the square of the mean.
            |m| m.same.scatter.iter_mut().for_each(|x| *x = -(1 << 40)),
            |m| m.different.pairs = -3,
            // No direction is left over.
            |m| m.same.sums.iter_mut().for_each(|x| *x = -(1 << 30)),
            |m| m.same.scatter[1] = 1 << 45,
        ];
        for (at, lie) in lies.into_iter().enumerate() {
            let mut moments = moments.clone();
            lie(&mut moments);
            assert_eq!(moments.weights(), [1.0 / 3.0; 3], "lie {at}");
        }
    }
}
