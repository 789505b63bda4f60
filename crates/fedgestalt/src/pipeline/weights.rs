//! Heads on disk: tensors named `member/tensor` in one safetensors file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use learn::{Head, HeadShape};

use crate::store::tensors::{self, Tensor, Tensors};

/// The fact that lists the members, in order.
const MEMBERS: &str = "members";

/// The fact that holds a member's epsilon of BatchNorm.
fn epsilon(member: &str) -> String {
    format!("{member}/bn.eps")
}

/// Writes the heads of some members, in order.
pub fn save(path: &Path, names: &[String], heads: &[Head]) -> Result<()> {
    let mut facts = BTreeMap::from([(MEMBERS.to_owned(), serde_json::to_string(names)?)]);
    let mut all = BTreeMap::new();
    for (name, head) in names.iter().zip(heads) {
        facts.insert(epsilon(name), head.bn_eps().to_string());
        for tensor in head.tensors() {
            all.insert(format!("{name}/{}", tensor.name), Tensor::new(&tensor.shape, tensor.values));
        }
    }
    Ok(tensors::save(path, &all, &facts)?)
}

/// Reads heads: names and weights in the order they were written.
pub fn load(path: &Path) -> Result<Vec<(String, Head)>> {
    let file = Tensors::open(path)?;
    parse(&file).with_context(|| format!("{} is not a file of trained members", path.display()))
}

fn parse(file: &Tensors) -> Result<Vec<(String, Head)>> {
    let names: Vec<String> = serde_json::from_str(file.facts().get(MEMBERS).context("it names no members")?)?;
    names
        .into_iter()
        .map(|name| {
            let head = head(file, &name).with_context(|| format!("member {name}"))?;
            Ok((name, head))
        })
        .collect()
}

fn head(file: &Tensors, member: &str) -> Result<Head> {
    let bn_eps = file.facts().get(&epsilon(member)).context("it has no epsilon")?.parse()?;
    let get = |tensor: &str| file.get(&format!("{member}/{tensor}"));
    let (neck, classifier) = (get("neck.weight")?, get("classifier.weight")?);
    let (&[dim, input], &[classes, width]) = (&neck.shape[..], &classifier.shape[..]) else {
        bail!("neck.weight and classifier.weight must be matrices");
    };
    if width != dim {
        bail!("classifier.weight takes {width} values but the neck gives {dim}");
    }
    let mut head = Head::zeros(HeadShape { input, dim, classes }, bn_eps)?;
    for tensor in Head::TENSORS {
        head.set_tensor(tensor, &get(tensor)?.values)?;
    }
    Ok(head)
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
        let names = vec!["b".to_owned(), "a".to_owned()];
        save(&path, &names, &heads).unwrap();
        let read = load(&path).unwrap();
        assert_eq!(read.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>(), names);
        for ((_, read), head) in read.iter().zip(&heads) {
            assert_eq!(read.tensors(), head.tensors());
            assert_eq!(read.bn_eps(), head.bn_eps());
        }
        let whole = std::fs::read(&path).unwrap();
        for cut in [7, 100, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let error = format!("{:#}", load(&path).unwrap_err());
            assert!(error.contains("m.safetensors"), "{error}");
        }
    }

    #[test]
    fn a_file_of_something_else_is_refused_by_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.safetensors");
        let values = [1.0, 2.0];
        let tensors = BTreeMap::from([("x".to_owned(), Tensor::new(&[2], &values))]);
        tensors::save(&path, &tensors, &BTreeMap::new()).unwrap();
        let error = format!("{:#}", load(&path).unwrap_err());
        assert!(error.contains("names no members"), "{error}");
    }
}
