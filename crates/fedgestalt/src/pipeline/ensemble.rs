//! The ensemble: the networks its members stand on, and how their representations make an encoding.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use domain::Encoding;
use learn::{Head, NeckInit, Recipe};
use rayon::prelude::*;
use vision::onnx::TrunkFile;
use vision::views::VIEWS;
use vision::{NeckWeights, Trunk};

use super::engines::{Engines, Runs};
use crate::config::{Config, Cut, MemberKind, Precision};

/// The small network that is shipped; how it was trained is in `reference/train_trunk.py`.
const SHIPPED_TRUNK: &[u8] = include_bytes!("../../assets/trunk.onnx");

/// The neck a trunk file brings, or the identity for a generic embedder.
#[derive(Debug, Clone)]
pub enum StartingNeck {
    /// `Gemm` and `BatchNormalization` of the network.
    Own(NeckWeights),
    /// The trunk's output is the embedding already; its length.
    Identity(usize),
}

impl StartingNeck {
    /// Features in.
    pub fn input(&self) -> usize {
        match self {
            Self::Own(neck) => neck.input,
            Self::Identity(dim) => *dim,
        }
    }

    /// Values of a representation.
    pub fn output(&self) -> usize {
        match self {
            Self::Own(neck) => neck.output,
            Self::Identity(dim) => *dim,
        }
    }

    /// A head that starts from this neck, with a classifier drawn from `seed`.
    pub fn head(&self, classes: usize, seed: u64) -> Result<Head> {
        Ok(match self {
            Self::Own(neck) => Head::from_neck(
                NeckInit {
                    input: neck.input,
                    output: neck.output,
                    weight: neck.weight.clone(),
                    bias: neck.bias.clone(),
                    bn_weight: neck.bn_weight.clone(),
                    bn_bias: neck.bn_bias.clone(),
                    bn_mean: neck.bn_mean.clone(),
                    bn_var: neck.bn_var.clone(),
                    bn_eps: neck.bn_eps,
                },
                classes,
                seed,
            )?,
            Self::Identity(dim) => Head::identity(*dim, classes, seed)?,
        })
    }
}

/// A frozen network, loaded.
pub struct Network {
    /// Its file; `None` for the shipped one.
    pub file: Option<PathBuf>,
    /// The engine's trunk.
    pub trunk: Box<dyn Trunk>,
    /// How the engine runs it.
    pub runs: Runs,
    /// Why it is not run as the configuration wishes, if it is not.
    pub note: Option<String>,
    /// The neck that training starts from.
    pub neck: StartingNeck,
}

impl Network {
    /// Its file's name, or what it is called without one.
    pub fn name(&self) -> String {
        match self.file.as_deref().and_then(Path::file_name) {
            Some(name) => name.to_string_lossy().into_owned(),
            None => "the shipped trunk".to_owned(),
        }
    }
}

/// One member of the ensemble.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its name in files, messages and reports.
    pub name: String,
    /// The recipe of a tuned member; `None` for the network as published.
    pub recipe: Option<Recipe>,
    /// Its network's place in [`Blueprint::networks`].
    pub network: usize,
}

/// What the ensemble is made of: networks, each loaded once however many members stand on it, and members.
pub struct Blueprint {
    /// The networks.
    pub networks: Vec<Network>,
    /// The members, in the order of their representations in an encoding.
    pub members: Vec<Member>,
}

impl Blueprint {
    /// Loads the networks that the configuration names on the engines at hand; `trunk` takes the place of
    /// `[trunk] file`.
    pub fn load(config: &Config, trunk: Option<&Path>, engines: &Engines<'_>) -> Result<Self> {
        let shared =
            trunk.map(Path::to_path_buf).or_else(|| config.trunk.file.as_ref().map(|f| config.resolve(f)));
        let mut wanted: Vec<(Option<PathBuf>, Cut, Precision)> = Vec::new();
        let mut members = Vec::new();
        for member in &config.members {
            let file = match &member.trunk {
                Some(file) => Some(config.resolve(file)),
                None => shared.clone(),
            };
            let cut = member.cut.clone().unwrap_or_else(|| config.trunk.cut.clone());
            let key = (file, cut, member.precision.unwrap_or(config.trunk.precision));
            let network = wanted.iter().position(|other| *other == key).unwrap_or_else(|| {
                wanted.push(key);
                wanted.len() - 1
            });
            let recipe = (member.kind == MemberKind::Tuned).then(|| member.recipe());
            members.push(Member { name: member.name.clone(), recipe, network });
        }
        // Reading, checking and packing hundreds of megabytes: one thread each.
        let networks = wanted
            .into_par_iter()
            .map(|(file, cut, precision)| load(file, cut, precision, engines))
            .collect::<Result<_>>()?;
        Ok(Self { networks, members })
    }

    /// How the networks are run, in order.
    pub fn runs(&self) -> Vec<Runs> {
        self.networks.iter().map(|network| network.runs.clone()).collect()
    }

    /// What there is to say of how the networks are run: of those that the user brought, and where something is not as
    /// wished.
    pub fn remarks(&self) -> Vec<String> {
        let said =
            self.networks.iter().filter(|n| n.file.is_some() || n.note.is_some() || n.runs.engine != "rten");
        said.map(|network| {
            let note = network.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
            format!("{} runs on {}{note}", network.name(), network.runs)
        })
        .collect()
    }

    /// The tuned members, in order.
    pub fn tuned(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.recipe.is_some())
    }

    /// Their names.
    pub fn tuned_names(&self) -> Vec<String> {
        self.tuned().map(|member| member.name.clone()).collect()
    }

    /// The network under a member.
    pub fn network(&self, member: &Member) -> &Network {
        &self.networks[member.network]
    }

    /// Whether a tuned member stands on this network, so that augmented draws of it are needed.
    pub fn is_tuned(&self, network: usize) -> bool {
        self.tuned().any(|member| member.network == network)
    }

    /// Values of an encoding: over members, views x representation.
    pub fn dim(&self) -> usize {
        self.members.iter().map(|member| VIEWS * self.network(member).neck.output()).sum()
    }

    /// The ensemble with every member as published.
    pub fn published(&self) -> Result<Ensemble<'_>> {
        let heads = self.tuned().map(|member| self.network(member).neck.head(1, 0)).collect::<Result<_>>()?;
        self.ensemble(heads)
    }

    /// The ensemble with these heads for its tuned members, in order.
    pub fn ensemble(&self, tuned: Vec<Head>) -> Result<Ensemble<'_>> {
        if tuned.len() != self.tuned().count() {
            bail!("{} trained heads for {} tuned members", tuned.len(), self.tuned().count());
        }
        let mut tuned = tuned.into_iter();
        let heads = self
            .members
            .iter()
            .map(|member| match member.recipe.and_then(|_| tuned.next()) {
                Some(head) => Ok(head),
                None => self.network(member).neck.head(1, 0),
            })
            .collect::<Result<_>>()?;
        Ok(Ensemble { blueprint: self, heads })
    }
}

fn load(file: Option<PathBuf>, cut: Cut, precision: Precision, engines: &Engines<'_>) -> Result<Network> {
    let name =
        file.as_ref().map_or_else(|| "the shipped trunk".to_owned(), |file| file.display().to_string());
    let bytes = match &file {
        Some(path) => std::fs::read(path).with_context(|| format!("cannot read the trunk {name}"))?,
        None => SHIPPED_TRUNK.to_vec(),
    };
    let cut = match cut {
        Cut::Auto => vision::onnx::Cut::Auto,
        Cut::End => vision::onnx::Cut::End,
        Cut::Node(node) => vision::onnx::Cut::Node(node),
    };
    let parsed =
        TrunkFile::parse_owned(bytes, cut).with_context(|| format!("cannot use {name} as a trunk"))?;
    let own = parsed.neck.clone();
    let chosen =
        engines.load(parsed, precision, file.is_none()).with_context(|| format!("cannot run {name}"))?;
    let neck = own.map_or_else(|| StartingNeck::Identity(chosen.trunk.output_len()), StartingNeck::Own);
    Ok(Network { file, trunk: chosen.trunk, runs: chosen.runs, note: chosen.note, neck })
}

/// A blueprint with weights.
#[derive(Clone)]
pub struct Ensemble<'a> {
    blueprint: &'a Blueprint,
    heads: Vec<Head>,
}

impl Ensemble<'_> {
    /// Encodes images from the features of their views.
    ///
    /// `features` holds, for each network, images x views x features, row-major.
    pub fn encode(&self, features: &[Vec<f32>], images: usize) -> Result<Vec<Encoding>> {
        let members = &self.blueprint.members;
        let mut values: Vec<Arc<Vec<f32>>> = Vec::with_capacity(members.len());
        for (index, (member, head)) in members.iter().zip(&self.heads).enumerate() {
            // Members as published on one network are the same function: computed once.
            let twin = (0..index).find(|&other| {
                member.network == members[other].network && same_neck(&self.heads[other], head)
            });
            values.push(match twin {
                Some(twin) => values[twin].clone(),
                None => Arc::new(
                    head.represent(&features[member.network], images * VIEWS)
                        .with_context(|| format!("cannot represent images with member {}", member.name))?,
                ),
            });
        }
        (0..images)
            .map(|image| {
                let mut parts: Vec<&[f32]> = Vec::with_capacity(members.len() * VIEWS);
                for (values, head) in values.iter().zip(&self.heads) {
                    let dim = head.shape().dim;
                    parts.extend(values[image * VIEWS * dim..][..VIEWS * dim].chunks_exact(dim));
                }
                Ok(Encoding::from_representations(&parts)?)
            })
            .collect()
    }
}

/// Whether two heads represent alike: all but the classifier is equal.
fn same_neck(a: &Head, b: &Head) -> bool {
    a.shape().dim == b.shape().dim
        && a.tensors()
            .iter()
            .zip(b.tensors())
            .filter(|(tensor, _)| !tensor.name.starts_with("classifier"))
            .all(|(a, b)| a.values == b.values)
}
