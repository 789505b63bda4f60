//! The program's own format: safetensors with one matrix, mapped.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use domain::ImageId;

use super::{EncodingFile, Rows, Slot};
use crate::store::tensors::{self, Tensor, Tensors};

const TENSOR: &str = "encodings";
const IMAGES: &str = "images";
const MODEL: &str = "model";
const LAYOUT: &str = "layout";
const SPREADS: &str = "spreads";

/// The matrix of a file, left where it lies.
#[derive(Debug)]
pub(super) struct Mapped {
    file: Tensors,
    /// A copy, where the machine cannot read the file's floats in place.
    copied: Option<Vec<f32>>,
}

impl Mapped {
    pub(super) fn values(&self) -> &[f32] {
        if let Some(values) = &self.copied {
            return values;
        }
        match self.file.get(TENSOR).map(|tensor| tensor.values) {
            Ok(Cow::Borrowed(values)) => values,
            // Seen to be borrowed when the file was opened.
            _ => &[],
        }
    }
}

pub(super) fn save(file: &EncodingFile, path: &Path) -> Result<()> {
    let images: Vec<&str> = file.images.iter().map(ImageId::as_str).collect();
    let mut facts = BTreeMap::from([
        (IMAGES.to_owned(), serde_json::to_string(&images)?),
        (LAYOUT.to_owned(), serde_json::to_string(&file.layout)?),
    ]);
    facts.extend(file.model.clone().map(|model| (MODEL.to_owned(), model)));
    if let Some(spreads) = &file.spreads {
        facts.insert(SPREADS.to_owned(), serde_json::to_string(spreads)?);
    }
    let all = BTreeMap::from([(TENSOR.to_owned(), Tensor::new(&[images.len(), file.dim], file.values()))]);
    Ok(tensors::save(path, &all, &facts)?)
}

pub(super) fn load(path: &Path) -> Result<EncodingFile> {
    let file = Tensors::open(path)?;
    let facts = file.facts();
    let images: Vec<ImageId> = serde_json::from_str(facts.get(IMAGES).context("it names no images")?)?;
    let layout: Vec<Slot> =
        facts.get(LAYOUT).map(|text| serde_json::from_str(text)).transpose()?.unwrap_or_default();
    let model = facts.get(MODEL).cloned();
    let spreads = facts.get(SPREADS).map(|text| serde_json::from_str(text)).transpose()?;
    let all = file.get(TENSOR)?;
    let &[rows, dim] = &all.shape[..] else { bail!("its tensor {TENSOR} is not a matrix") };
    if rows != images.len() {
        bail!("its tensor {TENSOR} is {rows} x {dim} for {} images", images.len());
    }
    let copied = match all.values {
        Cow::Borrowed(_) => None,
        Cow::Owned(values) => Some(values),
    };
    let loaded = EncodingFile::checked(model, layout, images, dim, Rows::Mapped(Mapped { file, copied }))?;
    Ok(EncodingFile { spreads, ..loaded })
}
