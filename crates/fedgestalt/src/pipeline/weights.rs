//! Heads on disk: tensors named `member/tensor` in one safetensors file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use learn::{ClosedForm, Head, HeadShape, Values};

use crate::store::tensors::{self, Tensor, Tensors};

/// The fact that lists the tuned members, in order.
const MEMBERS: &str = "members";
/// The fact that lists the closed-form members, in order.
const FORMS: &str = "forms";
/// The tensor of the members' weights, where they are fitted. Members' own tensors have a slash in their names.
const MEMBER_WEIGHTS: &str = "ensemble.weights";
/// The largest tensor of a head, which stays in its file.
const NECK_WEIGHT: &str = "neck.weight";
const FORM_TENSORS: [&str; 2] = ["mean", "projection"];

/// What training leaves of an ensemble, in the blueprint's order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Weights {
    /// The tuned members' heads.
    pub heads: Vec<Head>,
    /// The closed-form members' maps.
    pub forms: Vec<ClosedForm>,
    /// What each member of the ensemble counts, adding up to 1; empty where all count alike.
    pub members: Vec<f32>,
}

/// The fact that holds a member's epsilon of BatchNorm.
fn epsilon(member: &str) -> String {
    format!("{member}/bn.eps")
}

/// Writes weights under the names of their members.
pub fn save(path: &Path, heads: &[String], forms: &[String], weights: &Weights) -> Result<()> {
    let mut facts = BTreeMap::from([
        (MEMBERS.to_owned(), serde_json::to_string(heads)?),
        (FORMS.to_owned(), serde_json::to_string(forms)?),
    ]);
    let mut all = BTreeMap::new();
    for (name, head) in heads.iter().zip(&weights.heads) {
        facts.insert(epsilon(name), head.bn_eps().to_string());
        for tensor in head.tensors() {
            all.insert(format!("{name}/{}", tensor.name), Tensor::new(&tensor.shape, tensor.values));
        }
    }
    for (name, form) in forms.iter().zip(&weights.forms) {
        let dim = form.dim();
        for ((tensor, values), shape) in
            FORM_TENSORS.iter().zip(form.tensors()).zip([&[dim][..], &[form.outputs(), dim]])
        {
            all.insert(format!("{name}/{tensor}"), Tensor::new(shape, values));
        }
    }
    if !weights.members.is_empty() {
        let members = &weights.members;
        all.insert(MEMBER_WEIGHTS.to_owned(), Tensor::new(&[members.len()], members));
    }
    Ok(tensors::save(path, &all, &facts)?)
}

/// Reads weights in the order they were written.
pub fn load(path: &Path) -> Result<Weights> {
    Ok(load_with_digest(path)?.0)
}

/// As [`load`], and what stands for the file's content.
pub fn load_with_digest(path: &Path) -> Result<(Weights, [u8; 32])> {
    let file = Tensors::open(path)?;
    let weights =
        parse(&file).with_context(|| format!("{} is not a file of trained members", path.display()))?;
    Ok((weights, file.digest()))
}

fn parse(file: &Tensors) -> Result<Weights> {
    let names: Vec<String> = serde_json::from_str(file.facts().get(MEMBERS).context("it names no members")?)?;
    let forms: Vec<String> =
        file.facts().get(FORMS).map_or(Ok(Vec::new()), |names| serde_json::from_str(names))?;
    let heads = names.iter().map(|name| head(file, name).with_context(|| format!("member {name}")));
    let forms = forms.iter().map(|name| form(file, name).with_context(|| format!("member {name}")));
    let members = match file.names().any(|name| name == MEMBER_WEIGHTS) {
        true => file.get(MEMBER_WEIGHTS)?.values.to_vec(),
        false => Vec::new(),
    };
    Ok(Weights { heads: heads.collect::<Result<_>>()?, forms: forms.collect::<Result<_>>()?, members })
}

fn form(file: &Tensors, member: &str) -> Result<ClosedForm> {
    let [mean, projection] = FORM_TENSORS.map(|tensor| file.get(&format!("{member}/{tensor}")));
    Ok(ClosedForm::from_tensors(mean?.values.to_vec(), projection?.values.to_vec())?)
}

fn head(file: &Tensors, member: &str) -> Result<Head> {
    let bn_eps = file.facts().get(&epsilon(member)).context("it has no epsilon")?.parse()?;
    let get = |tensor: &str| file.get(&format!("{member}/{tensor}"));
    let (neck, classifier) = (get(NECK_WEIGHT)?, get("classifier.weight")?);
    let (&[dim, input], &[classes, width]) = (&neck.shape[..], &classifier.shape[..]) else {
        bail!("neck.weight and classifier.weight must be matrices");
    };
    if width != dim {
        bail!("classifier.weight takes {width} values but the neck gives {dim}");
    }
    let mut head = Head::zeros(HeadShape { input, dim, classes }, bn_eps)?;
    let weight = file.mapped(&format!("{member}/{NECK_WEIGHT}"), &neck.shape)?;
    head.set_neck_weight(Values::new(weight))?;
    for tensor in Head::TENSORS.into_iter().filter(|&tensor| tensor != NECK_WEIGHT) {
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
        let form = ClosedForm::from_tensors(vec![0.5, -1.0], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let weights = Weights { heads, forms: vec![form], members: vec![0.25, 0.0, 0.75] };
        save(&path, &["b".to_owned(), "a".to_owned()], &["c".to_owned()], &weights).unwrap();
        assert_eq!(load(&path).unwrap(), weights);
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
