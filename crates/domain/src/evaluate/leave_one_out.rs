use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use super::{KS, Scratch, macro_recall};
use crate::encoding::inner_products;
use crate::{Cohort, Encoding, Error, ErrorKind, ImageId, Pooling, Result};

/// Probes whose products with the gallery are held at once.
const WAVE: usize = 256;

/// What [`leave_one_out`] found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeaveOneOut {
    /// Images asked about: those whose syndrome has another image.
    pub probes: usize,
    /// Their syndromes.
    pub syndromes: usize,
    /// Macro top-k accuracy in percent, `k` as in [`KS`].
    pub accuracies: [f64; 4],
}

/// Asks about every image in turn, against all other images of the cohort, whatever parts they play. Other photographs
/// of the same subject stay in the gallery.
///
/// An image whose syndrome no other image has is not asked about, but stays in the gallery.
///
/// # Errors
///
/// When an image has no encoding, encodings differ in length, or nothing can be asked.
pub fn leave_one_out(cohort: &Cohort, encodings: &BTreeMap<ImageId, Encoding>) -> Result<LeaveOneOut> {
    let mut images: Vec<&Encoding> = Vec::new();
    let mut labels: Vec<u32> = Vec::new();
    for case in cohort.cases() {
        let encoding = encodings.get(&case.image).ok_or_else(|| {
            Error::new(
                ErrorKind::MissingEncoding,
                format!("image {} has no encoding; encode the cohort first", case.image),
            )
        })?;
        if images.first().is_some_and(|first| first.as_slice().len() != encoding.as_slice().len()) {
            return Err(Error::new(
                ErrorKind::Length,
                format!("the encoding of image {} has another length than the first", case.image),
            ));
        }
        images.push(encoding);
        // A cohort lists the syndrome of every case.
        labels.push(cohort.syndrome_index(&case.syndrome).unwrap_or_default() as u32);
    }
    let mut sizes: HashMap<u32, usize> = HashMap::new();
    for &label in &labels {
        *sizes.entry(label).or_default() += 1;
    }
    let probes: Vec<usize> = (0..images.len()).filter(|&at| sizes[&labels[at]] > 1).collect();
    let mut words = vec![0u32; cohort.syndromes().len() * (1 + KS.len())];
    for wave in probes.chunks(WAVE) {
        let rows: Vec<&Encoding> = wave.iter().map(|&at| images[at]).collect();
        let products = inner_products(&rows, &images);
        let places: Vec<Option<usize>> = wave
            .par_iter()
            .zip(products.par_chunks(images.len()))
            .map_init(Scratch::default, |scratch, (&probe, row)| {
                let others = || (0..labels.len()).filter(|&at| at != probe);
                scratch.take(others().map(|at| row[at]));
                let labels_of_others: Vec<u32> = others().map(|at| labels[at]).collect();
                let scores = Pooling::Nearest.scores(scratch.values.iter().copied(), &labels_of_others);
                scratch.place(&scores, &labels_of_others, labels[probe])
            })
            .collect();
        for (&probe, place) in wave.iter().zip(places) {
            let cell = &mut words[labels[probe] as usize * (1 + KS.len())..][..1 + KS.len()];
            cell[0] += 1;
            for (word, k) in cell[1..].iter_mut().zip(KS) {
                *word += u32::from(place.is_some_and(|place| place < k));
            }
        }
    }
    let recall = macro_recall(&words).ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, "no syndrome has two images; there is nothing to leave out")
    })?;
    Ok(LeaveOneOut {
        probes: probes.len(),
        syndromes: sizes.values().filter(|&&size| size > 1).count(),
        accuracies: recall.map(|share| 100.0 * share),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Case, SubjectId, Syndrome, SyndromeId};

    /// Faces on the unit circle by their angle in degrees.
    fn cohort(faces: &[(&str, f32)]) -> (Cohort, BTreeMap<ImageId, Encoding>) {
        let id = |at: usize| ImageId::new(&at.to_string()).unwrap();
        let mut names: Vec<&str> = faces.iter().map(|face| face.0).collect();
        names.sort();
        names.dedup();
        let syndromes = names.iter().map(|name| Syndrome::unnamed(SyndromeId::new(name).unwrap())).collect();
        let cases = faces.iter().enumerate().map(|(at, face)| Case {
            image: id(at),
            subject: SubjectId::new(&at.to_string()).unwrap(),
            syndrome: SyndromeId::new(face.0).unwrap(),
        });
        let encodings = faces.iter().enumerate().map(|(at, face)| {
            let (sin, cos) = face.1.to_radians().sin_cos();
            (id(at), Encoding::from_representations(&[&[cos, sin]]).unwrap())
        });
        (Cohort::new(syndromes, cases.collect(), BTreeMap::new()).unwrap(), encodings.collect())
    }

    #[test]
    fn the_image_itself_does_not_count_and_syndromes_weigh_alike() {
        // a: three images, of which the one at 60 lies nearest to b's at 65. b: two, the one at 65 nearest to a's.
        // c: a single image that nobody asks about, but that stands between b's.
        let (cohort, encodings) =
            cohort(&[("a", 0.0), ("a", 2.0), ("a", 60.0), ("b", 65.0), ("b", 120.0), ("c", 119.0)]);
        let found = leave_one_out(&cohort, &encodings).unwrap();
        assert_eq!((found.probes, found.syndromes), (5, 2));
        // a: 2 of 3; b: 65 has a before it, 120 has c before it: 0 of 2.
        let expected = [100.0 / 3.0, 100.0, 100.0, 100.0];
        for (value, expected) in found.accuracies.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-9, "{found:?}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_an_error() {
        let (cohort, mut encodings) = cohort(&[("a", 0.0), ("b", 1.0)]);
        let error = leave_one_out(&cohort, &encodings).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        encodings.pop_first();
        assert_eq!(leave_one_out(&cohort, &encodings).unwrap_err().kind(), ErrorKind::MissingEncoding);
    }
}
