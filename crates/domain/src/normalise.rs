//! What a similarity means for a syndrome: normalisation by the gallery's own similarities.
//!
//! A syndrome with many gallery images has one that is near to almost any face, and some faces are near to everybody. So a
//! probe's similarity to a syndrome (to its nearest image) is compared with the similarities that gallery images of *other*
//! syndromes have to it: less their mean, divided by their standard deviation, each syndrome counting the same (z-norm,
//! from speaker verification: Reynolds 1997; here per syndrome). Rare syndromes gain by it, and what frequent ones lose is
//! settled by its strength. The order of a syndrome's images does not change.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

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

/// How similar gallery images of other labels are to a label: mean and standard deviation of the similarity to its nearest
/// image, each other label counting the same.
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
    /// A similarity to an image of this label as it is compared with those of other labels.
    pub fn apply(&self, similarity: f32, label: u32) -> f32 {
        let (shift, scale) = self.0.get(label as usize).copied().unwrap_or((0.0, 1.0));
        ((f64::from(similarity) - shift) / scale) as f32
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

/// The normalisers of some galleries over `images` images. `rows` gives the similarities of a range of them with all of
/// them, row-major. Empty without normalisation.
///
/// # Errors
/// Those of `rows`.
pub fn normalisers<E>(
    normalisation: Normalisation,
    images: usize,
    galleries: &[Columns],
    rows: impl FnMut(Range<usize>) -> Result<Vec<f32>, E>,
) -> Result<Vec<Normaliser>, E> {
    if normalisation == Normalisation::None {
        return Ok(Vec::new());
    }
    let spreads = spreads(images, galleries, rows)?;
    Ok(spreads.iter().filter_map(|spreads| Normaliser::new(normalisation, spreads)).collect())
}

/// The spreads of some galleries' labels, none for a label without images or without others to compare it with. `rows` as
/// in [`normalisers`].
///
/// # Errors
/// Those of `rows`.
pub fn spreads<E>(
    images: usize,
    galleries: &[Columns],
    mut rows: impl FnMut(Range<usize>) -> Result<Vec<f32>, E>,
) -> Result<Vec<Vec<Option<Spread>>>, E> {
    let mut sums: Vec<Sums<'_>> = galleries.iter().map(|columns| Sums::new(columns, images)).collect();
    for from in (0..images).step_by(BAND) {
        let band = from..images.min(from + BAND);
        let values = rows(band.clone())?;
        for sums in &mut sums {
            sums.add(band.clone(), &values);
        }
    }
    Ok(sums.iter().map(Sums::spreads).collect())
}

/// The spreads of one gallery's labels from what its images have to groups of images: `labels` are those of its images,
/// `groups` the columns of a row with the labels they belong to (of one label there may be several), `rows` what each image
/// has to the nearest image of every group. The same as [`spreads`] of the images in this order, to the last bit.
pub fn spreads_of_groups(labels: &[u32], groups: &Columns, rows: &[&[f32]]) -> Vec<Option<Spread>> {
    let classes = labels.iter().map(|label| *label as usize + 1).max().unwrap_or(0);
    let mut sums = Sums::of_labels(groups, labels.iter().copied().map(Some).collect(), classes);
    sums.add_rows(0..labels.len(), |image| rows[image]);
    sums.spreads()
}

/// Sums over a gallery's images of their similarity to each label: that to its nearest image.
struct Sums<'a> {
    columns: &'a Columns,
    /// The label of every image that is in the gallery.
    labels: Vec<Option<u32>>,
    counts: Vec<u32>,
    sum: Vec<f64>,
    square: Vec<f64>,
}

impl<'a> Sums<'a> {
    fn new(columns: &'a Columns, images: usize) -> Self {
        let classes = columns.iter().map(|(_, label)| *label as usize + 1).max().unwrap_or(0);
        let mut labels = vec![None; images];
        for &(image, label) in columns {
            labels[image] = Some(label);
        }
        Self::of_labels(columns, labels, classes)
    }

    fn of_labels(columns: &'a Columns, labels: Vec<Option<u32>>, classes: usize) -> Self {
        let mut counts = vec![0; classes];
        labels.iter().flatten().for_each(|&label| counts[label as usize] += 1);
        Self { columns, labels, counts, sum: vec![0.0; classes], square: vec![0.0; classes] }
    }

    fn add(&mut self, band: Range<usize>, values: &[f32]) {
        let (width, start) = (self.labels.len(), band.start);
        self.add_rows(band, |image| &values[(image - start) * width..][..width]);
    }

    /// Takes the rows of some images in, one after the other, so that no sum depends on the number of threads.
    fn add_rows<'r>(&mut self, images: Range<usize>, row: impl Fn(usize) -> &'r [f32] + Sync) {
        let members: Vec<(usize, u32)> =
            images.filter_map(|image| Some((image, self.labels[image]?))).collect();
        let nearest: Vec<Vec<f32>> = members
            .par_iter()
            .map(|&(image, _)| {
                let row = row(image);
                let mut nearest = vec![f32::NEG_INFINITY; self.counts.len()];
                for &(column, label) in self.columns {
                    let best = &mut nearest[label as usize];
                    *best = best.max(row[column]);
                }
                nearest
            })
            .collect();
        for (&(_, own), nearest) in members.iter().zip(nearest) {
            let weight = 1.0 / f64::from(self.counts[own as usize]);
            for (label, near) in nearest.into_iter().enumerate() {
                if label != own as usize && self.counts[label] > 0 {
                    let near = f64::from(near);
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
        normalisers(Normalisation::Z(strength), 6, &[columns], rows).unwrap().remove(0)
    }

    #[test]
    fn a_label_is_measured_by_what_other_labels_have_to_it() {
        // To label 0 the nearest of 1 and 2: 0.6 and 0.3. To label 1 the images of 0 count together: (0.1 + 0.2 + 0.6) / 3,
        // with mean square (0.01 + 0.04 + 0.36) / 3; and 0.5 of label 2.
        let (mean, square) = ((0.3 + 0.5) / 2.0, (0.41 / 3.0 + 0.25) / 2.0);
        let expected = [(0.45, 0.15), (mean, f64::sqrt(square - mean * mean))];
        for (label, (mean, deviation)) in (0..).zip(expected) {
            let got = f64::from(normaliser(1.0).apply(0.7, label));
            assert!((got - (0.7 - mean) / deviation).abs() < 1e-5, "{label}: {got}");
        }
        // Half the strength: half the mean, and a deviation half way to the usual one.
        let Normaliser(whole) = normaliser(1.0);
        let usual = whole.iter().map(|(_, scale)| scale).sum::<f64>() / 3.0;
        let got = f64::from(normaliser(0.5).apply(0.7, 0));
        assert!((got - (0.7 - 0.225) / (0.075 + 0.5 * usual)).abs() < 1e-5, "{got}");
    }

    #[test]
    fn groups_of_images_give_what_the_images_give() {
        // Label 0 in two groups, and the image outside the gallery in none.
        let groups: Columns = vec![(0, 0), (1, 0), (2, 1), (3, 2)];
        let nearest = |row: &[f32; 6]| [row[0].max(row[1]), row[2], row[3], row[4]];
        let rows: Vec<[f32; 4]> = SIMILARITIES[..5].iter().map(nearest).collect();
        let rows: Vec<&[f32]> = rows.iter().map(|row| &row[..]).collect();
        let columns = (0..5).map(|at| (at, LABELS[at])).collect();
        let of_images = spreads(6, &[columns], |range| Ok::<_, Error>(SIMILARITIES[range].concat())).unwrap();
        assert_eq!(spreads_of_groups(&LABELS[..5], &groups, &rows), of_images[0]);
    }

    #[test]
    fn what_has_nothing_to_compare_with_stays() {
        let alone = |labels: &[u32]| {
            let columns: Columns = labels.iter().copied().enumerate().collect();
            let rows = |range: Range<usize>| Ok::<_, Error>(vec![0.4; range.len() * labels.len()]);
            normalisers(Normalisation::Z(1.0), labels.len(), &[columns], rows).unwrap().remove(0)
        };
        assert_eq!(alone(&[0, 0]).apply(0.7, 0), 0.7);
        assert_eq!(alone(&[]).apply(0.7, 3), 0.7);
        // All alike: no spread to divide by, and no infinity.
        assert!(alone(&[0, 1, 2]).apply(0.7, 0).is_finite());
        let none = |_: Range<usize>| -> Result<Vec<f32>, Error> { panic!("nobody asked") };
        assert!(normalisers(Normalisation::None, 2, &[vec![]], none).unwrap().is_empty());
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
