//! How the similarities to a syndrome's images become one.
//!
//! The nearest image alone is what GestaltMatcher ranks by. It is one image's word: the more images a syndrome has, the
//! likelier one of them is near to any face. The soft mean asks all of them, the near ones most:
//!
//! ```text
//! s = ln(mean over images of exp(t s_i)) / t
//! ```
//!
//! It lies between the mean (`t` towards 0: the similarity to the syndrome's prototype, Snell et al. 2017) and the nearest
//! image (`t` without bound).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind};

/// The largest sharpness of a soft mean; beyond it hardly anything but the nearest image counts.
const SHARPEST: f64 = 12.0;
/// Of a soft mean's terms, which are 1 for similarity 1: with 2^15 images their sum fits a word, and at the largest sharpness
/// a similarity of -1 still has 13 binary digits.
const STEPS: f64 = (1u64 << 48) as f64;

/// How the similarities to a syndrome's images become one. Written `nearest` or `soft:8`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Pooling {
    /// That of the nearest image.
    Nearest,
    /// The soft mean of all, this sharp (above 0, at most 12): images that are nearer by its inverse count e times as much.
    Soft(f64),
}

/// What the similarities to some images come to so far: a whole number, so that their order never matters, to the last bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pool(u64);

impl Pooling {
    /// One score per label from 0 to the highest that occurs, from the similarities of images with these labels. A label
    /// without images has the lowest score there is, and NaN counts as farthest.
    ///
    /// # Panics
    ///
    /// When `similarities` and `labels` differ in length.
    pub fn scores(self, similarities: impl ExactSizeIterator<Item = f32>, labels: &[u32]) -> Vec<f64> {
        assert_eq!(similarities.len(), labels.len(), "one similarity per gallery image");
        let classes = labels.iter().max().map_or(0, |&label| label as usize + 1);
        let mut pools = vec![(Pool::default(), 0); classes];
        for (near, &label) in similarities.zip(labels) {
            let (pool, images) = &mut pools[label as usize];
            *pool = self.join(*pool, self.of(near));
            *images += 1;
        }
        pools.into_iter().map(|(pool, images)| self.score(pool, images)).collect()
    }

    /// Of one image.
    pub fn of(self, similarity: f32) -> Pool {
        // One zero, so that equal numbers are equal words.
        let near = crate::rank::value(similarity) + 0.0;
        Pool(match self {
            // Words in the order of the numbers.
            Self::Nearest if near.is_sign_negative() => u64::from(!near.to_bits()),
            Self::Nearest => u64::from(near.to_bits() | 1 << 31),
            Self::Soft(sharpness) => ((sharpness * (f64::from(near) - 1.0)).exp() * STEPS) as u64,
        })
    }

    /// Of the images of both.
    pub fn join(self, a: Pool, b: Pool) -> Pool {
        Pool(match self {
            Self::Nearest => a.0.max(b.0),
            Self::Soft(_) => a.0.saturating_add(b.0),
        })
    }

    /// The similarity that a pool of so many images stands for.
    pub fn score(self, pool: Pool, images: usize) -> f64 {
        let word = pool.0 as u32;
        match self {
            _ if images == 0 => f64::NEG_INFINITY,
            Self::Nearest if word >> 31 == 0 => f64::from(f32::from_bits(!word)),
            Self::Nearest => f64::from(f32::from_bits(word & !(1 << 31))),
            Self::Soft(sharpness) => 1.0 + (pool.0 as f64 / (STEPS * images as f64)).ln() / sharpness,
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nearest => f.write_str("nearest"),
            Self::Soft(sharpness) => write!(f, "soft:{sharpness}"),
        }
    }
}

impl FromStr for Pooling {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "nearest" {
            return Ok(Self::Nearest);
        }
        let sharpness = text.strip_prefix("soft:").and_then(|sharpness| sharpness.parse::<f64>().ok());
        sharpness.filter(|sharpness| *sharpness > 0.0 && *sharpness <= SHARPEST).map(Self::Soft).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("pooling {text:?} does not exist; use nearest, or soft:8 for a soft mean of that sharpness"),
            )
        })
    }
}

impl TryFrom<String> for Pooling {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Pooling> for String {
    fn from(pooling: Pooling) -> String {
        pooling.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LABELS: [u32; 5] = [0, 2, 0, 0, 2];
    const SIMILARITIES: [f32; 5] = [0.1, 0.5, 0.7, 0.4, -0.5];

    fn scores(pooling: Pooling) -> Vec<f64> {
        pooling.scores(SIMILARITIES.into_iter(), &LABELS)
    }

    #[test]
    fn a_soft_mean_lies_between_the_mean_and_the_nearest_image() {
        let nearest = scores(Pooling::Nearest);
        assert_eq!(nearest, [f64::from(0.7f32), f64::NEG_INFINITY, 0.5]);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-6;
        // By hand: ln((e^0.8 + e^5.6 + e^3.2) / 3) / 8.
        let soft = scores(Pooling::Soft(8.0));
        assert!(close(soft[0], ((0.8f64.exp() + 5.6f64.exp() + 3.2f64.exp()) / 3.0).ln() / 8.0), "{soft:?}");
        assert_eq!(soft[1], f64::NEG_INFINITY);
        let flat = scores(Pooling::Soft(1e-4));
        assert!((flat[0] - 0.4).abs() < 1e-4 && flat[2].abs() < 1e-4, "{flat:?}");
        // At most ln(images) / sharpness below the nearest.
        let sharp = scores(Pooling::Soft(12.0));
        let below = |images: f64, at: usize| nearest[at] - images.ln() / 12.0 - 1e-9;
        assert!(
            (below(3.0, 0)..0.7).contains(&sharp[0]) && (below(2.0, 2)..0.5).contains(&sharp[2]),
            "{sharp:?}"
        );
    }

    #[test]
    fn an_image_twice_changes_no_soft_mean() {
        let once = Pooling::Soft(8.0).scores([0.2, 0.6].into_iter(), &[0, 0]);
        let twice = Pooling::Soft(8.0).scores([0.2, 0.6, 0.2, 0.6].into_iter(), &[0; 4]);
        assert!((once[0] - twice[0]).abs() < 1e-12);
    }

    #[test]
    fn pools_do_not_depend_on_the_order_and_keep_every_number() {
        let values = [0.7f32, -0.3, 0.0, -0.0, 1.0, -1.0, 1e-20, -1e-20, 0.25];
        for pooling in [Pooling::Nearest, Pooling::Soft(0.1), Pooling::Soft(8.0)] {
            let pool = |values: &[f32]| {
                values.iter().fold(Pool::default(), |pool, &value| pooling.join(pool, pooling.of(value)))
            };
            let mut turned = values;
            turned.reverse();
            let halves = pooling.join(pool(&values[..4]), pool(&values[4..]));
            assert_eq!(pool(&values), pool(&turned), "{pooling}");
            assert_eq!(pool(&values), halves, "{pooling}");
        }
        for value in values {
            assert_eq!(Pooling::Nearest.score(Pooling::Nearest.of(value), 1), f64::from(value));
            let soft = Pooling::Soft(12.0);
            assert!((soft.score(soft.of(value), 1) - f64::from(value)).abs() < 1e-5, "{value}");
        }
    }

    #[test]
    fn nan_counts_as_farthest() {
        for pooling in [Pooling::Nearest, Pooling::Soft(8.0)] {
            let scores = pooling.scores([f32::NAN, -0.9].into_iter(), &[0, 1]);
            assert!(scores[0] < scores[1], "{pooling}: {scores:?}");
        }
        assert!(Pooling::Nearest.scores(std::iter::empty(), &[]).is_empty());
    }

    #[test]
    fn forms_read_and_write() {
        for text in ["nearest", "soft:8", "soft:0.5"] {
            assert_eq!(text.parse::<Pooling>().unwrap().to_string(), text);
        }
        for text in ["soft", "soft:0", "soft:-1", "soft:nan", "soft:13", "mean"] {
            assert!(text.parse::<Pooling>().is_err(), "{text}");
        }
    }
}
