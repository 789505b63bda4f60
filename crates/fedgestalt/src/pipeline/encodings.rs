//! Encodings on disk: one safetensors file with the encodings and the images they belong to.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use domain::{Encoding, ImageId};

use crate::store::tensors::{self, Tensor, Tensors};

const TENSOR: &str = "encodings";
const IMAGES: &str = "images";
const MODEL: &str = "model";

/// Encodings of a cohort by one model.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodingFile {
    /// What computed them: encodings of different models cannot be compared.
    pub model: String,
    /// By image.
    pub encodings: BTreeMap<ImageId, Encoding>,
}

impl EncodingFile {
    /// Writes the file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let dim = self.encodings.values().next().context("there is nothing to write")?.as_slice().len();
        let images: Vec<&str> = self.encodings.keys().map(ImageId::as_str).collect();
        let values: Vec<f32> = self.encodings.values().flat_map(|e| e.as_slice()).copied().collect();
        let facts = BTreeMap::from([
            (IMAGES.to_owned(), serde_json::to_string(&images)?),
            (MODEL.to_owned(), self.model.clone()),
        ]);
        let all = BTreeMap::from([(TENSOR.to_owned(), Tensor::new(&[images.len(), dim], &values))]);
        Ok(tensors::save(path, &all, &facts)?)
    }

    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self> {
        let file = Tensors::open(path).context("`fedgestalt encode` writes encodings")?;
        Self::parse(&file).with_context(|| format!("{} is not a file of encodings", path.display()))
    }

    fn parse(file: &Tensors) -> Result<Self> {
        let images: Vec<String> =
            serde_json::from_str(file.facts().get(IMAGES).context("it names no images")?)?;
        let model = file.facts().get(MODEL).context("it does not say which model it is from")?.clone();
        let all = file.get(TENSOR)?;
        let &[rows, dim] = &all.shape[..] else { bail!("tensor {TENSOR} is not a matrix") };
        if rows != images.len() || dim == 0 {
            bail!("tensor {TENSOR} is {rows} x {dim} for {} images", images.len());
        }
        let encodings = images
            .iter()
            .zip(all.values.chunks_exact(dim))
            .map(|(image, row)| {
                let encoding = Encoding::from_unit(row.to_vec()).with_context(|| format!("image {image}"))?;
                Ok((ImageId::new(image)?, encoding))
            })
            .collect::<Result<_>>()?;
        Ok(Self { model, encodings })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.safetensors");
        let encodings = [("1", [0.6, 0.8]), ("b", [1.0, 0.0])]
            .map(|(id, values)| (ImageId::new(id).unwrap(), Encoding::from_unit(values.to_vec()).unwrap()));
        let file = EncodingFile { model: "m".into(), encodings: encodings.into_iter().collect() };
        file.save(&path).unwrap();
        assert_eq!(EncodingFile::load(&path).unwrap(), file);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        assert!(format!("{:#}", EncodingFile::load(&path).unwrap_err()).contains("e.safetensors"));
    }
}
