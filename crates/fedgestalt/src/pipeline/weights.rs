//! Heads on disk: one safetensors file, tensors named `member/tensor`, the epsilons of BatchNorm in its metadata.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use learn::{Head, HeadShape};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::store;

/// Writes the heads of some members, in order.
pub fn save(path: &Path, names: &[String], heads: &[Head]) -> Result<()> {
    let mut metadata = HashMap::from([("members".to_owned(), serde_json::to_string(names)?)]);
    let mut bytes: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, head) in names.iter().zip(heads) {
        metadata.insert(format!("{name}/bn.eps"), head.bn_eps().to_string());
        for tensor in head.tensors() {
            let values = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            bytes.push((format!("{name}/{}", tensor.name), tensor.shape, values));
        }
    }
    let views = bytes
        .iter()
        .map(|(name, shape, values)| Ok((name.clone(), TensorView::new(Dtype::F32, shape.clone(), values)?)))
        .collect::<Result<Vec<_>>>()?;
    let file = safetensors::serialize(views, Some(metadata))?;
    Ok(store::write_private(path, &file)?)
}

/// Reads heads: names and weights in the order they were written.
pub fn load(path: &Path) -> Result<Vec<(String, Head)>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&bytes).with_context(|| format!("{} is not a file of trained members", path.display()))
}

fn parse(bytes: &[u8]) -> Result<Vec<(String, Head)>> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let metadata = header.metadata().as_ref().context("it has no metadata")?;
    let names: Vec<String> = serde_json::from_str(metadata.get("members").context("it names no members")?)?;
    let tensors = SafeTensors::deserialize(bytes)?;
    names
        .into_iter()
        .map(|name| {
            let eps: f32 = metadata
                .get(&format!("{name}/bn.eps"))
                .with_context(|| format!("member {name} has no epsilon"))?
                .parse()
                .with_context(|| format!("member {name}: the epsilon is not a number"))?;
            let shape_of = |tensor: &str| -> Result<Vec<usize>> {
                let view = tensors
                    .tensor(&format!("{name}/{tensor}"))
                    .with_context(|| format!("member {name} has no tensor {tensor}"))?;
                Ok(view.shape().to_vec())
            };
            let (neck, classifier) = (shape_of("neck.weight")?, shape_of("classifier.weight")?);
            let (&[dim, input], &[classes, width]) = (&neck[..], &classifier[..]) else {
                bail!("member {name}: neck.weight and classifier.weight must be matrices");
            };
            if width != dim {
                bail!("member {name}: classifier.weight takes {width} values but the neck gives {dim}");
            }
            let mut head = Head::zeros(HeadShape { input, dim, classes }, eps)?;
            for tensor in Head::TENSORS {
                let view = tensors
                    .tensor(&format!("{name}/{tensor}"))
                    .with_context(|| format!("member {name} has no tensor {tensor}"))?;
                if view.dtype() != Dtype::F32 {
                    bail!("member {name}: tensor {tensor} is {:?} instead of F32", view.dtype());
                }
                let (values, _) = view.data().as_chunks::<4>();
                let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                head.set_tensor(tensor, &values).with_context(|| format!("member {name}"))?;
            }
            Ok((name, head))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let heads = vec![Head::identity(4, 3, 1).unwrap(), Head::identity(2, 5, 2).unwrap()];
        let names = vec!["a".to_owned(), "b".to_owned()];
        save(&path, &names, &heads).unwrap();
        let read = load(&path).unwrap();
        assert_eq!(read.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>(), names);
        for ((_, read), head) in read.iter().zip(&heads) {
            assert_eq!(read.tensors(), head.tensors());
        }
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 7, 100, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let error = format!("{:#}", load(&path).unwrap_err());
            assert!(error.contains("m.safetensors"), "{error}");
        }
    }
}
