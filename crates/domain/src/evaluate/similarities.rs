//! Inner products by image.

use std::collections::{BTreeMap, HashMap};

use super::{comparisons, needed};
use crate::encoding::inner_products;
use crate::{Cohort, Encoding, Error, ErrorKind, ImageId, Result};

/// Inner products of probes with gallery images, looked up by image id. However they were computed (from encodings
/// here, from masked ones by the private kernel), [`super::evaluate_similarities`] takes them from there.
#[derive(Debug, Clone)]
pub struct Similarities {
    rows: HashMap<ImageId, usize>,
    pub(super) columns: HashMap<ImageId, usize>,
    values: Vec<f32>,
}

impl Similarities {
    /// From a row-major probes x gallery matrix. Refused when its size is not that, or an image is listed twice.
    pub fn new(probes: &[ImageId], gallery: &[ImageId], values: Vec<f32>) -> Result<Self> {
        if values.len() != probes.len() * gallery.len() {
            return Err(Error::new(
                ErrorKind::Length,
                format!(
                    "{} similarities for {} probes and {} gallery images",
                    values.len(),
                    probes.len(),
                    gallery.len()
                ),
            ));
        }
        Ok(Self { rows: index(probes)?, columns: index(gallery)?, values })
    }

    /// All inner products that the comparisons of a cohort need, from the encodings of its images.
    pub fn from_encodings(cohort: &Cohort, encodings: &BTreeMap<ImageId, Encoding>) -> Result<Self> {
        let (probes, gallery) = needed(&comparisons(cohort));
        let look_up = |images: &[ImageId]| -> Result<Vec<&Encoding>> {
            images
                .iter()
                .map(|image| {
                    encodings.get(image).ok_or_else(|| {
                        Error::new(
                            ErrorKind::MissingEncoding,
                            format!("image {image} has no encoding; encode the cohort first"),
                        )
                    })
                })
                .collect()
        };
        let (rows, columns) = (look_up(&probes)?, look_up(&gallery)?);
        if let Some(at) =
            (rows.iter().chain(&columns)).position(|e| e.as_slice().len() != rows[0].as_slice().len())
        {
            let image = probes.iter().chain(&gallery).nth(at).map_or("", ImageId::as_str);
            return Err(Error::new(
                ErrorKind::Length,
                format!(
                    "the encoding of image {image} has another length than the first; encode it again with the same release"
                ),
            ));
        }
        Self::new(&probes, &gallery, inner_products(&rows, &columns))
    }

    pub(super) fn row(&self, probe: &ImageId) -> Option<&[f32]> {
        let width = self.columns.len();
        self.rows.get(probe).map(|row| &self.values[row * width..(row + 1) * width])
    }
}

fn index(images: &[ImageId]) -> Result<HashMap<ImageId, usize>> {
    let map: HashMap<ImageId, usize> = images.iter().cloned().zip(0..).collect();
    if map.len() != images.len() {
        return Err(Error::new(
            ErrorKind::Duplicate,
            "an image is listed twice among the rows or columns of the similarities",
        ));
    }
    Ok(map)
}
