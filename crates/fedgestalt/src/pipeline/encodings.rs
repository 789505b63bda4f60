//! Encodings on disk: one safetensors file with the encodings and, in its metadata, the images they belong to.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use domain::{Encoding, ImageId};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::store;

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
        let values: Vec<u8> = self
            .encodings
            .values()
            .flat_map(|e| e.as_slice())
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let metadata = HashMap::from([
            (IMAGES.to_owned(), serde_json::to_string(&images)?),
            (MODEL.to_owned(), self.model.clone()),
        ]);
        let view = TensorView::new(Dtype::F32, vec![images.len(), dim], &values)?;
        let file = safetensors::serialize([(TENSOR, view)], Some(metadata))?;
        Ok(store::write_private(path, &file)?)
    }

    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| {
            format!("cannot read {}; `fedgestalt encode` writes encodings", path.display())
        })?;
        Self::parse(&bytes).with_context(|| format!("{} is not a file of encodings", path.display()))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let metadata = header.metadata().as_ref().context("it has no metadata")?;
        let images: Vec<String> = serde_json::from_str(metadata.get(IMAGES).context("it names no images")?)?;
        let model = metadata.get(MODEL).context("it does not say which model it is from")?.clone();
        let tensors = SafeTensors::deserialize(bytes)?;
        let view = tensors.tensor(TENSOR)?;
        let &[rows, dim] = view.shape() else { bail!("tensor {TENSOR} is not a matrix") };
        if view.dtype() != Dtype::F32 || rows != images.len() || dim == 0 {
            bail!("tensor {TENSOR} is {:?} {:?} for {} images", view.dtype(), view.shape(), images.len());
        }
        let (values, _) = view.data().as_chunks::<4>();
        let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let encodings = images
            .iter()
            .zip(values.chunks_exact(dim))
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
