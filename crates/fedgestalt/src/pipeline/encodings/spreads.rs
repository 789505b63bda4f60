//! What rankings against a cohort's whole gallery are normalised by.

use std::borrow::Cow;

use anyhow::{Context as _, Result};
use domain::normalise::{Columns, Normaliser, Spread, spreads};
use domain::{Cohort, Encoding, ImageId, Normalisation, Part, Pooling, Scoring};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::EncodingFile;

/// How similar a gallery's images are to each of its syndromes: what a ranking is normalised by. Kept with encodings, since it
/// takes all inner products of the gallery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GallerySpreads {
    /// Digest of the gallery's images and their syndromes.
    gallery: String,
    /// How the similarities to a syndrome's images became one.
    #[serde(default = "nearest")]
    pooling: Pooling,
    /// Per syndrome, in the cohort's order.
    spreads: Vec<Option<Spread>>,
}

/// Of files that do not say it.
fn nearest() -> Pooling {
    Pooling::Nearest
}

/// The images of all galleries of a cohort, sorted, and their syndromes' indexes.
pub fn gallery(cohort: &Cohort) -> Result<Vec<(ImageId, usize)>> {
    let mut images: Vec<&ImageId> = cohort
        .parts()
        .filter(|(part, _)| matches!(part, Part::FrequentGallery | Part::RareGallery(_)))
        .flat_map(|(_, images)| images)
        .collect();
    images.sort();
    images.dedup();
    images
        .into_iter()
        .map(|image| {
            let case = cohort.case(image).with_context(|| format!("image {image} is not in the cohort"))?;
            let index = cohort.syndrome_index(&case.syndrome).context("a case without a syndrome")?;
            Ok((image.clone(), index))
        })
        .collect()
}

fn digest(gallery: &[(ImageId, usize)]) -> String {
    let mut hash = Sha256::new();
    for (image, syndrome) in gallery {
        hash.update((image.as_str().len() as u64).to_le_bytes());
        hash.update(image.as_str());
        hash.update((*syndrome as u64).to_le_bytes());
    }
    hex::encode(&hash.finalize()[..16])
}

impl GallerySpreads {
    /// Over the encodings of a gallery.
    ///
    /// # Errors
    /// When one of its images has no encoding.
    pub fn new(pooling: Pooling, file: &EncodingFile, gallery: &[(ImageId, usize)]) -> Result<Self> {
        let encodings =
            gallery.iter().map(|(image, _)| file.encoding(image)).collect::<Result<Vec<Encoding>>>()?;
        let encodings: Vec<&Encoding> = encodings.iter().collect();
        let columns: Columns =
            gallery.iter().enumerate().map(|(at, (_, syndrome))| (at, *syndrome as u32)).collect();
        let found = spreads(pooling, gallery.len(), &[columns], |band| {
            Ok::<_, anyhow::Error>(domain::encoding::inner_products(&encodings[band], &encodings))
        })?;
        Ok(Self { gallery: digest(gallery), pooling, spreads: found.into_iter().next().unwrap_or_default() })
    }
}

impl EncodingFile {
    /// The normaliser of a gallery: from the spreads in the file, where they are this gallery's and this pooling's, else from its
    /// encodings.
    ///
    /// # Errors
    /// When an image of the gallery has no encoding.
    pub fn normaliser(&self, scoring: Scoring, gallery: &[(ImageId, usize)]) -> Result<Option<Normaliser>> {
        if scoring.normalisation == Normalisation::None {
            return Ok(None);
        }
        let of_gallery =
            |kept: &&GallerySpreads| kept.pooling == scoring.pooling && kept.gallery == digest(gallery);
        let kept = self.spreads.as_ref().filter(of_gallery);
        let spreads = match kept {
            Some(kept) => Cow::Borrowed(kept),
            None => Cow::Owned(GallerySpreads::new(scoring.pooling, self, gallery)?),
        };
        Ok(Normaliser::new(scoring.normalisation, &spreads.spreads))
    }
}
