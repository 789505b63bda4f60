//! A model folder: trained heads, the syndromes they were trained on, and which networks they stand on.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use domain::SyndromeId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::engines::{CalibrationFaces, Engines, Runs};
use super::ensemble::{Blueprint, Loading};
use super::weights::{self, Weights};
use crate::config::Config;
use crate::store;

const MODEL: &str = "model.json";
const HEADS: &str = "heads.safetensors";

/// What `model.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// How the model was trained: `central`, `local site-0`, `federated`.
    pub how: String,
    /// Digests of the networks, in order.
    pub trunks: Vec<String>,
    /// How they were run when the features were computed.
    #[serde(default)]
    pub engines: Vec<Runs>,
    /// The trained syndromes, in the order of the classifier's rows.
    pub syndromes: Vec<SyndromeId>,
    /// The trunk's file, where one was given on the command line.
    pub trunk: Option<PathBuf>,
    /// The configuration it was trained under.
    pub config: Config,
    /// Digest of the release it is, if it is one.
    pub release: Option<String>,
    /// What each member counts in a similarity, where that is fitted; the weights' file says it too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<f32>,
}

/// Writes a model folder.
pub fn save(folder: &Path, model: &Model, blueprint: &Blueprint, weights: &Weights) -> Result<()> {
    store::make_folder(folder)?;
    weights::save(&folder.join(HEADS), &blueprint.tuned_names(), &blueprint.form_names(), weights)?;
    let model = Model { weights: weights.members.clone(), ..model.clone() };
    Ok(store::write_json(&folder.join(MODEL), &model)?)
}

/// An ensemble ready to encode, and a name for it.
pub struct Loaded {
    /// Networks and members.
    pub blueprint: Blueprint,
    /// What training left; `None` for the networks as published.
    pub weights: Option<Weights>,
    /// Names the model: encodings of models with different names cannot be compared.
    pub name: String,
}

impl Loaded {
    /// The model in `folder`, or the networks as published without one. `trunk` takes the place of the network's file.
    /// Engines are those of the configuration, compared on `faces`.
    pub fn open(
        config: &Config,
        folder: Option<&Path>,
        trunk: Option<&Path>,
        faces: Option<CalibrationFaces<'_>>,
    ) -> Result<Self> {
        Self::on(&Engines::new(config, faces), config, folder, trunk, &|_, _| ())
    }

    /// As [`Loaded::open`], for so many photographs, one at a time; `loaded` is told of every network as soon as it can run.
    pub fn for_photographs(
        config: &Config,
        folder: Option<&Path>,
        trunk: Option<&Path>,
        photographs: usize,
        loaded: &Loading<'_>,
    ) -> Result<Self> {
        let engines = Engines::new(config, None).for_photographs(photographs);
        Self::on(&engines, config, folder, trunk, loaded)
    }

    fn on(
        engines: &Engines<'_>,
        config: &Config,
        folder: Option<&Path>,
        trunk: Option<&Path>,
        loaded: &Loading<'_>,
    ) -> Result<Self> {
        let Some(folder) = folder else {
            let blueprint = Blueprint::load_telling(config, trunk, engines, loaded)?;
            let name = name("published", &blueprint, None);
            return Ok(Self { blueprint, weights: None, name });
        };
        let path = folder.join(MODEL);
        let model: Model = store::read_json(&path)?.with_context(|| {
            format!("{} is not there; `train` and `federate` write model folders", path.display())
        })?;
        let trained = model.config.on_machine_of(config);
        let (blueprint, weights) = rayon::join(
            || Blueprint::load_telling(&trained, trunk.or(model.trunk.as_deref()), engines, loaded),
            || weights::load_with_digest(&folder.join(HEADS)),
        );
        let (blueprint, (weights, digest)) = (blueprint?, weights?);
        let found: Vec<String> = blueprint.networks.iter().map(|n| hex::encode(n.trunk.digest())).collect();
        if found != model.trunks {
            bail!(
                "{} was trained on other networks (digests {}) than those at hand ({}); give the right file with --trunk",
                folder.display(),
                model.trunks.join(", "),
                found.join(", ")
            );
        }
        let name = name(&model.how, &blueprint, Some(digest));
        Ok(Self { blueprint, weights: Some(weights), name })
    }
}

fn name(how: &str, blueprint: &Blueprint, weights: Option<[u8; 32]>) -> String {
    let mut hash = Sha256::new();
    for network in &blueprint.networks {
        hash.update(network.trunk.digest());
    }
    for member in &blueprint.members {
        let kind = u8::from(member.recipe.is_some()) + 2 * u8::from(member.form.is_some());
        hash.update([member.network as u8, kind]);
    }
    hash.update(weights.unwrap_or_default());
    format!("{how} {}", hex::encode(&hash.finalize()[..8]))
}
