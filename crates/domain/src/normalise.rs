//! What a similarity means for a syndrome: normalisation by the gallery's own similarities.
//!
//! A syndrome with many gallery images has one that is near to almost any face, and some faces are near to everybody. So a
//! probe's similarity to a syndrome (pooled over its images) is compared with the similarities that gallery images of *other*
//! syndromes have to it: less their mean, divided by their standard deviation, each syndrome counting the same (z-norm,
//! from speaker verification: Reynolds 1997; here per syndrome). Rare syndromes gain by it, and what frequent ones lose is
//! settled by its strength.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::pooling::{Pool, Pooling};
use crate::{Error, ErrorKind};

/// Gallery images whose similarities are held at once.
const BAND: usize = 256;
/// Least spread that is divided by: similarities closer together than f32 tells apart.
const LEAST: f64 = 1e-6;

/// How similarities are normalised before syndromes are ranked. Written `none` or `z:0.5`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Normalisation {
    /// Not at all: syndromes are ranked by their nearest image.
    None,
    /// By mean and standard deviation, this much of the way (above 0, at most 1): the mean is multiplied by the strength,
    /// and the deviation drawn towards that of all syndromes.
    Z(f64),
}

impl fmt::Display for Normalisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Z(strength) => write!(f, "z:{strength}"),
        }
    }
}

impl FromStr for Normalisation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "none" {
            return Ok(Self::None);
        }
        let strength = text.strip_prefix("z:").and_then(|strength| strength.parse::<f64>().ok());
        strength.filter(|strength| *strength > 0.0 && *strength <= 1.0).map(Self::Z).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("normalisation {text:?} does not exist; use none, or z:0.5 for half of its strength"),
            )
        })
    }
}

impl TryFrom<String> for Normalisation {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Normalisation> for String {
    fn from(normalisation: Normalisation) -> String {
        normalisation.to_string()
    }
}

/// One gallery: its images, as indexes into all that are compared, and their labels, numbered from 0.
pub type Columns = Vec<(usize, u32)>;

/// How similar gallery images of other labels are to a label: mean and standard deviation of the pooled similarity to its
/// images, each other label counting the same.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub deviation: f64,
}

/// What a gallery's similarities are normalised by: shift and scale per label.
#[derive(Debug, Clone, PartialEq)]
pub struct Normaliser(Vec<(f64, f64)>);

impl Normaliser {
    /// A similarity to a label as it is compared with those to other labels.
    pub fn apply(&self, similarity: f64, label: u32) -> f64 {
        let (shift, scale) = self.0.get(label as usize).copied().unwrap_or((0.0, 1.0));
        (similarity - shift) / scale
    }

    /// From the spread of every label, if it has one. `None` without normalisation.
    pub fn new(normalisation: Normalisation, spreads: &[Option<Spread>]) -> Option<Self> {
        let Normalisation::Z(strength) = normalisation else { return None };
        let known = || spreads.iter().flatten();
        let usual = known().map(|spread| spread.deviation).sum::<f64>() / known().count().max(1) as f64;
        let of_label = |spread: &Option<Spread>| {
            spread.map_or((0.0, 1.0), |Spread { mean, deviation }| {
                (strength * mean, (strength * deviation + (1.0 - strength) * usual).max(LEAST))
            })
        };
        Some(Self(spreads.iter().map(of_label).collect()))
    }
}

/// How syndromes are ranked for a probe: how the similarities to a syndrome's images become one, and how that is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scoring {
    /// The first.
    pub pooling: Pooling,
    /// The second.
    pub normalisation: Normalisation,
}

impl Scoring {
    /// GestaltMatcher's: by the nearest image.
    pub const NEAREST: Self = Self { pooling: Pooling::Nearest, normalisation: Normalisation::None };

    /// What labels are ranked by, from 0 to the highest that occurs, highest first. `normaliser` is that of the gallery, made
    /// with the same scoring; none without normalisation.
    ///
    /// # Panics
    ///
    /// When `similarities` and `labels` differ in length.
    pub fn scores(
        self,
        normaliser: Option<&Normaliser>,
        similarities: impl ExactSizeIterator<Item = f32>,
        labels: &[u32],
    ) -> Vec<f64> {
        let mut scores = self.pooling.scores(similarities, labels);
        if let Some(normaliser) = normaliser {
            scores.iter_mut().zip(0..).for_each(|(score, label)| *score = normaliser.apply(*score, label));
        }
        scores
    }
}

/// The normalisers of some galleries over `images` images. `rows` gives the similarities of a range of them with all of
/// them, row-major. Empty without normalisation.
///
/// # Errors
/// Those of `rows`.
pub fn normalisers<E>(
    scoring: Scoring,
    images: usize,
    galleries: &[Columns],
    rows: impl FnMut(Range<usize>) -> Result<Vec<f32>, E>,
) -> Result<Vec<Normaliser>, E> {
    if scoring.normalisation == Normalisation::None {
        return Ok(Vec::new());
    }
    let spreads = spreads(scoring.pooling, images, galleries, rows)?;
    Ok(spreads.iter().filter_map(|spreads| Normaliser::new(scoring.normalisation, spreads)).collect())
}

/// The spreads of some galleries' labels, none for a label without images or without others to compare it with. `rows` as
/// in [`normalisers`].
///
/// # Errors
/// Those of `rows`.
pub fn spreads<E>(
    pooling: Pooling,
    images: usize,
    galleries: &[Columns],
    mut rows: impl FnMut(Range<usize>) -> Result<Vec<f32>, E>,
) -> Result<Vec<Vec<Option<Spread>>>, E> {
    let mut sums: Vec<Sums> = galleries
        .iter()
        .map(|columns| {
            let mut labels = vec![None; images];
            columns.iter().for_each(|&(image, label)| labels[image] = Some(label));
            Sums::new(labels)
        })
        .collect();
    for from in (0..images).step_by(BAND) {
        let band = from..images.min(from + BAND);
        let values = rows(band.clone())?;
        for (sums, columns) in sums.iter_mut().zip(galleries) {
            let labels: Vec<u32> = columns.iter().map(|(_, label)| *label).collect();
            sums.add(band.clone(), |image| {
                let row = &values[(image - from) * images..][..images];
                pooling.scores(columns.iter().map(|&(column, _)| row[column]), &labels)
            });
        }
    }
    Ok(sums.iter().map(Sums::spreads).collect())
}

/// Images of one label whose similarities are pooled together.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// Where rows have its pool.
    pub column: usize,
    /// Their label. Others may have the same.
    pub label: u32,
    /// How many they are.
    pub images: usize,
}

/// The spreads of one gallery's labels from what its images have to groups of images: `labels` are those of its images, `rows`
/// what each image has to every group. The same as [`spreads`] of the images in this order, to the last bit.
pub fn spreads_of_groups(
    pooling: Pooling,
    labels: &[u32],
    groups: &[Group],
    rows: &[&[Pool]],
) -> Vec<Option<Spread>> {
    let mut sums = Sums::new(labels.iter().copied().map(Some).collect());
    let mut images = vec![0; sums.counts.len()];
    groups.iter().for_each(|group| images[group.label as usize] += group.images);
    sums.add(0..labels.len(), |image| {
        let mut pools = vec![Pool::default(); images.len()];
        for group in groups {
            let pool = &mut pools[group.label as usize];
            *pool = pooling.join(*pool, rows[image][group.column]);
        }
        pools.into_iter().zip(&images).map(|(pool, &images)| pooling.score(pool, images)).collect()
    });
    sums.spreads()
}

/// Sums over a gallery's images of their pooled similarity to each label.
struct Sums {
    /// The label of every image that is in the gallery.
    labels: Vec<Option<u32>>,
    counts: Vec<u32>,
    sum: Vec<f64>,
    square: Vec<f64>,
}

impl Sums {
    fn new(labels: Vec<Option<u32>>) -> Self {
        let classes = labels.iter().flatten().map(|&label| label as usize + 1).max().unwrap_or(0);
        let mut counts = vec![0; classes];
        labels.iter().flatten().for_each(|&label| counts[label as usize] += 1);
        Self { labels, counts, sum: vec![0.0; classes], square: vec![0.0; classes] }
    }

    /// Takes the scores of some images in, one after the other, so that no sum depends on the number of threads. `scores`
    /// gives those of an image, one per label.
    fn add(&mut self, images: Range<usize>, scores: impl Fn(usize) -> Vec<f64> + Sync) {
        let members: Vec<(usize, u32)> =
            images.filter_map(|image| Some((image, self.labels[image]?))).collect();
        let scores: Vec<Vec<f64>> = members.par_iter().map(|&(image, _)| scores(image)).collect();
        for (&(_, own), scores) in members.iter().zip(scores) {
            let weight = 1.0 / f64::from(self.counts[own as usize]);
            for (label, near) in scores.into_iter().enumerate() {
                if label != own as usize && self.counts[label] > 0 {
                    self.sum[label] += weight * near;
                    self.square[label] += weight * near * near;
                }
            }
        }
    }

    /// Mean and standard deviation per label over all other labels; none where there are no others to compare with.
    fn spreads(&self) -> Vec<Option<Spread>> {
        let others = self.counts.iter().filter(|&&count| count > 0).count() as f64 - 1.0;
        (self.counts.iter().zip(self.sum.iter().zip(&self.square)))
            .map(|(&count, (sum, square))| {
                let mean = sum / others;
                let deviation = (square / others - mean * mean).max(0.0).sqrt();
                (count > 0 && others >= 1.0).then_some(Spread { mean, deviation })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Three images of label 0, one each of 1 and 2, and one that is not in the gallery.
    const LABELS: [u32; 6] = [0, 0, 0, 1, 2, 9];
    const SIMILARITIES: [[f32; 6]; 6] = [
        [1.0, 0.9, 0.8, 0.1, 0.3, 0.0],
        [0.9, 1.0, 0.7, 0.2, 0.3, 0.0],
        [0.8, 0.7, 1.0, 0.6, 0.0, 0.0],
        [0.1, 0.2, 0.6, 1.0, 0.5, 0.9],
        [0.3, 0.3, 0.0, 0.5, 1.0, 0.9],
        [0.0, 0.0, 0.0, 0.9, 0.9, 1.0],
    ];

    fn normaliser(strength: f64) -> Normaliser {
        let columns = (0..5).map(|at| (at, LABELS[at])).collect();
        let rows = |range: Range<usize>| Ok::<_, Error>(SIMILARITIES[range].concat());
        normalisers(nearest(Normalisation::Z(strength)), 6, &[columns], rows).unwrap().remove(0)
    }

    fn nearest(normalisation: Normalisation) -> Scoring {
        Scoring { pooling: Pooling::Nearest, normalisation }
    }

    #[test]
    fn a_label_is_measured_by_what_other_labels_have_to_it() {
        // To label 0 the nearest of 1 and 2: 0.6 and 0.3. To label 1 the images of 0 count together: (0.1 + 0.2 + 0.6) / 3,
        // with mean square (0.01 + 0.04 + 0.36) / 3; and 0.5 of label 2.
        let (mean, square) = ((0.3 + 0.5) / 2.0, (0.41 / 3.0 + 0.25) / 2.0);
        let expected = [(0.45, 0.15), (mean, f64::sqrt(square - mean * mean))];
        for (label, (mean, deviation)) in (0..).zip(expected) {
            let got = normaliser(1.0).apply(0.7, label);
            assert!((got - (0.7 - mean) / deviation).abs() < 1e-5, "{label}: {got}");
        }
        // Half the strength: half the mean, and a deviation half way to the usual one.
        let Normaliser(whole) = normaliser(1.0);
        let usual = whole.iter().map(|(_, scale)| scale).sum::<f64>() / 3.0;
        let got = normaliser(0.5).apply(0.7, 0);
        assert!((got - (0.7 - 0.225) / (0.075 + 0.5 * usual)).abs() < 1e-5, "{got}");
    }

    #[test]
    fn spreads_are_of_what_is_pooled() {
        let columns: Columns = (0..5).map(|at| (at, LABELS[at])).collect();
        let rows = |range: Range<usize>| Ok::<_, Error>(SIMILARITIES[range].concat());
        let spreads = spreads(Pooling::Soft(2.0), 6, &[columns], rows).unwrap().remove(0);
        // To label 0, of the images of labels 1 and 2: soft means of 0.1, 0.2, 0.6 and of 0.3, 0.3, 0.
        let soft =
            |near: [f64; 3]| (near.iter().map(|near| (2.0 * near).exp()).sum::<f64>() / 3.0).ln() / 2.0;
        let (a, b) = (soft([0.1, 0.2, 0.6]), soft([0.3, 0.3, 0.0]));
        let Spread { mean, deviation } = spreads[0].unwrap();
        assert!((mean - (a + b) / 2.0).abs() < 1e-6, "{mean}");
        assert!((deviation - (a - b).abs() / 2.0).abs() < 1e-6, "{deviation}");
    }

    #[test]
    fn groups_of_images_give_what_the_images_give() {
        // Label 0 in two groups, and the image outside the gallery in none.
        let group = |column, label, images| Group { column, label, images };
        let groups = [group(0, 0, 2), group(1, 0, 1), group(2, 1, 1), group(3, 2, 1)];
        for pooling in [Pooling::Nearest, Pooling::Soft(8.0)] {
            let pools = |row: &[f32; 6]| {
                let two = pooling.join(pooling.of(row[0]), pooling.of(row[1]));
                [two, pooling.of(row[2]), pooling.of(row[3]), pooling.of(row[4])]
            };
            let rows: Vec<[Pool; 4]> = SIMILARITIES[..5].iter().map(pools).collect();
            let rows: Vec<&[Pool]> = rows.iter().map(|row| &row[..]).collect();
            let columns = (0..5).map(|at| (at, LABELS[at])).collect();
            let of_all = |range: Range<usize>| Ok::<_, Error>(SIMILARITIES[range].concat());
            let of_images = spreads(pooling, 6, &[columns], of_all).unwrap();
            assert_eq!(spreads_of_groups(pooling, &LABELS[..5], &groups, &rows), of_images[0]);
        }
    }

    #[test]
    fn what_has_nothing_to_compare_with_stays() {
        let alone = |labels: &[u32]| {
            let columns: Columns = labels.iter().copied().enumerate().collect();
            let rows = |range: Range<usize>| Ok::<_, Error>(vec![0.4; range.len() * labels.len()]);
            normalisers(nearest(Normalisation::Z(1.0)), labels.len(), &[columns], rows).unwrap().remove(0)
        };
        assert_eq!(alone(&[0, 0]).apply(0.7, 0), 0.7);
        assert_eq!(alone(&[]).apply(0.7, 3), 0.7);
        // All alike: no spread to divide by, and no infinity.
        assert!(alone(&[0, 1, 2]).apply(0.7, 0).is_finite());
        let none = |_: Range<usize>| -> Result<Vec<f32>, Error> { panic!("nobody asked") };
        assert!(normalisers(Scoring::NEAREST, 2, &[vec![]], none).unwrap().is_empty());
    }

    #[test]
    fn forms_read_and_write() {
        for text in ["none", "z:0.5", "z:1"] {
            assert_eq!(text.parse::<Normalisation>().unwrap().to_string(), text);
        }
        for text in ["z", "z:0", "z:1.5", "z:nan", "t:1"] {
            assert!(text.parse::<Normalisation>().is_err(), "{text}");
        }
    }
}
