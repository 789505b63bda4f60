//! The ensemble: the networks its members stand on, and how their representations make an encoding.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail};
use domain::Encoding;
use learn::{ClosedForm, FormSettings, Head, RandomFeatures, Recipe, Refinement};
use rayon::prelude::*;
use vision::Trunk;
use vision::views::VIEWS;

use super::engines::{Engines, Neck, NetworkFile, Runs};
use super::latest::Latest;
use super::weights::Weights;
use crate::config::{Config, Cut, MemberConfig, MemberKind, Precision};
use crate::site::model::member_seed;

/// The small network that is shipped; how it was trained is in `reference/train_trunk.py`.
const SHIPPED_TRUNK: &[u8] = include_bytes!("../../assets/trunk.onnx");

/// The neck a trunk file brings, or the identity for a generic embedder.
#[derive(Debug, Clone)]
pub enum StartingNeck {
    /// `Gemm` and `BatchNormalization` of the network.
    Own(Neck),
    /// The trunk's output is the embedding already; its length.
    Identity(usize),
}

impl StartingNeck {
    /// Features in.
    pub fn input(&self) -> usize {
        match self {
            Self::Own(neck) => neck.input(),
            Self::Identity(dim) => *dim,
        }
    }

    /// Values of a representation.
    pub fn output(&self) -> usize {
        match self {
            Self::Own(neck) => neck.output(),
            Self::Identity(dim) => *dim,
        }
    }

    /// A head that starts from this neck, with a classifier drawn from `seed`.
    pub fn head(&self, classes: usize, seed: u64) -> Result<Head> {
        Ok(match self {
            Self::Own(neck) => Head::from_neck(neck.init()?, classes, seed)?,
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
    /// The head as published, once it is asked for.
    published: OnceLock<Arc<Head>>,
}

impl Network {
    /// The head as published, without a classifier.
    ///
    /// # Errors
    ///
    /// When the file that keeps the neck is damaged.
    pub fn published(&self) -> Result<&Arc<Head>> {
        if let Some(head) = self.published.get() {
            return Ok(head);
        }
        let head = Arc::new(self.neck.head(1, 0)?);
        Ok(self.published.get_or_init(|| head))
    }

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
    /// What a closed-form member is; `None` for the others.
    pub form: Option<Form>,
    /// How what a tuned member starts from is computed; `None` where it starts as published.
    pub start: Option<FormSettings>,
}

/// A closed-form member: how it is computed, and from which representation.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// Place of the tuned member it stands on, among the tuned ones; `None` for the network as published.
    pub on: Option<usize>,
    /// What of it the form is an analysis of.
    pub basis: Basis,
    /// Values of the basis.
    pub dim: usize,
    /// How.
    pub settings: FormSettings,
    /// How it is refined once it is solved, if it is.
    pub refinement: Option<Refinement>,
}

/// What a closed form is an analysis of.
#[derive(Debug, Clone, PartialEq)]
pub enum Basis {
    /// The representation.
    Representation,
    /// Random features of the representation, and what their signs are drawn from.
    Lift(Arc<RandomFeatures>, u64),
    /// Random sums of the trunk's feature map, and what their signs are drawn from.
    Projection(Arc<RandomFeatures>, u64),
    /// The representation and such sums side by side, each of length 1.
    Joint(Arc<RandomFeatures>, u64),
}

impl Basis {
    fn new(config: &MemberConfig, seed: u64, network: &Network) -> Result<(Self, usize)> {
        let features = |input, width: usize, rectified| {
            let features = RandomFeatures::new(input, width, seed, rectified);
            Ok::<_, anyhow::Error>(Arc::new(features.with_context(|| format!("member {}", config.name))?))
        };
        let (input, output) = (network.neck.input(), network.neck.output());
        if let Some(width) = config.joint {
            return Ok((Self::Joint(features(input, width, false)?, seed), output + width));
        }
        Ok(match (config.lift, config.projection) {
            (Some(width), _) => (Self::Lift(features(output, width, true)?, seed), width),
            (None, Some(width)) => (Self::Projection(features(input, width, false)?, seed), width),
            (None, None) => (Self::Representation, output),
        })
    }
}

impl Form {
    /// Values of the form's representations.
    pub fn outputs(&self) -> usize {
        self.settings.outputs.unwrap_or(self.dim)
    }

    /// The basis of `rows` views: from their features or, where it stands on a representation, from that.
    pub fn basis<'a>(
        &self,
        features: &[f32],
        representations: impl FnOnce() -> Result<Cow<'a, [f32]>>,
        rows: usize,
    ) -> Result<Cow<'a, [f32]>> {
        Ok(match &self.basis {
            Basis::Representation => representations()?,
            Basis::Lift(random, _) => Cow::Owned(random.apply(&representations()?, rows)?),
            Basis::Projection(random, _) => Cow::Owned(random.apply(features, rows)?),
            Basis::Joint(random, _) => Cow::Owned(random.joined(&representations()?, features, rows)?),
        })
    }
}

/// Told of a network that is loaded, and of its place among the networks.
pub type Loading<'a> = dyn Fn(usize, &Arc<Network>) + Sync + 'a;

/// What the ensemble is made of: networks, each loaded once however many members stand on it, and members.
pub struct Blueprint {
    /// The networks.
    pub networks: Vec<Arc<Network>>,
    /// The members, in the order of their representations in an encoding.
    pub members: Vec<Member>,
    /// Members that the configuration names and that would add nothing.
    left_out: Vec<Member>,
    /// The closed forms as sites solved them last.
    pub solved: Latest<Vec<ClosedForm>>,
    /// The closed forms as sites refined them last.
    pub refined: Latest<Vec<ClosedForm>>,
}

impl Blueprint {
    fn of(networks: Vec<Arc<Network>>, members: Vec<Member>) -> Self {
        let (left_out, solved, refined) = (Vec::new(), Latest::default(), Latest::default());
        Self { networks, members, left_out, solved, refined }
    }

    /// Loads the networks that the configuration names on the engines at hand; `trunk` takes the place of
    /// `[trunk] file`.
    pub fn load(config: &Config, trunk: Option<&Path>, engines: &Engines<'_>) -> Result<Self> {
        Self::load_telling(config, trunk, engines, &|_, _| ())
    }

    /// As [`Blueprint::load`]; `loaded` is told of every network, and of its place, as soon as it can run.
    pub fn load_telling(
        config: &Config,
        trunk: Option<&Path>,
        engines: &Engines<'_>,
        loaded: &Loading<'_>,
    ) -> Result<Self> {
        let shared =
            trunk.map(Path::to_path_buf).or_else(|| config.trunk.file.as_ref().map(|f| config.resolve(f)));
        let mut wanted: Vec<(Option<PathBuf>, Cut, Precision)> = Vec::new();
        let mut published = Vec::new();
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
                published.push(false);
                wanted.len() - 1
            });
            published[network] |= member.kind == MemberKind::Published;
            let recipe = (member.kind == MemberKind::Tuned).then(|| member.recipe());
            let (name, start) = (member.name.clone(), member.start());
            members.push(Member { name, recipe, network, form: None, start });
        }
        // Reading, checking and packing hundreds of megabytes: one thread each, and not the pool's, which stays free for
        // those who wait for less.
        let networks: Vec<Arc<Network>> = std::thread::scope(|scope| {
            let load = |(at, ((file, cut, precision), published))| {
                scope.spawn(move || {
                    let network = load(file, cut, precision, published, engines).map(Arc::new);
                    network.inspect(|network| loaded(at, network))
                })
            };
            let loading: Vec<_> = wanted.into_iter().zip(published).enumerate().map(load).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Arc<Network>>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            loading.into_iter().map(join).collect::<Result<_>>()
        })?;
        for (at, (member, config_of)) in members.iter_mut().zip(&config.members).enumerate() {
            if config_of.kind != MemberKind::ClosedForm {
                continue;
            }
            let seed = member_seed(config.training.seed, at);
            let (basis, dim) = Basis::new(config_of, seed, &networks[member.network])?;
            let settings = config_of.form();
            if settings.outputs.is_some_and(|outputs| outputs > dim) {
                bail!("[[members]] {}: more outputs than the {dim} values it is an analysis of", member.name);
            }
            let mut tuned = config.members.iter().filter(|other| other.kind == MemberKind::Tuned);
            let on = config_of.on.as_ref().and_then(|on| tuned.position(|other| other.name == *on));
            member.form = Some(Form { on, basis, dim, settings, refinement: config_of.refinement() });
        }
        let mut blueprint = Self::of(networks, members);
        blueprint.leave_copies_out();
        Ok(blueprint)
    }

    /// Leaves projections out, alone or joint, of which the network has no feature map: random sums of an embedding are a
    /// turned copy of it, which other members stand for. One that is alone stays.
    fn leave_copies_out(&mut self) {
        let is_copy = |member: &Member| {
            let of_map = |form: &Form| matches!(form.basis, Basis::Projection(..) | Basis::Joint(..));
            member.form.as_ref().is_some_and(of_map)
                && matches!(self.networks[member.network].neck, StartingNeck::Identity(_))
        };
        let (copies, others): (Vec<Member>, Vec<Member>) = self.members.iter().cloned().partition(is_copy);
        if !others.is_empty() {
            self.left_out = copies;
            self.members = others;
        }
    }

    /// The paper's recipe on the networks of these members: a tuned one on that of the first member, a tuned and a published
    /// one on that of the last.
    pub fn recipe(&self) -> Self {
        let network = |member: Option<&Member>| member.map_or(0, |member| member.network);
        let (first, last) = (network(self.members.first()), network(self.members.last()));
        let member = |name: &str, recipe, network| Member {
            name: name.to_owned(),
            recipe,
            network,
            form: None,
            start: None,
        };
        let members = vec![
            member("r50", Some(Recipe::r50()), first),
            member("r100", Some(Recipe::r100()), last),
            member("published", None, last),
        ];
        Self::of(self.networks.clone(), members)
    }

    /// The networks that members stand on, in order.
    pub fn used(&self) -> impl Iterator<Item = &Network> {
        let is_used = |at: &usize| self.members.iter().any(|member| member.network == *at);
        (0..self.networks.len()).filter(is_used).map(|at| &*self.networks[at])
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
        let networks = said.map(|network| {
            let note = network.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
            format!("{} runs on {}{note}", network.name(), network.runs)
        });
        let left_out = self.left_out.iter().map(|member| {
            let network = self.network(member).name();
            format!("member {} is left out: {network} gives its embedding and no feature map", member.name)
        });
        networks.chain(left_out).collect()
    }

    /// The tuned members, in order.
    pub fn tuned(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.recipe.is_some())
    }

    /// The tuned members that start from closed forms, each with its place among the tuned ones.
    pub fn starts(&self) -> impl Iterator<Item = (usize, &Member, FormSettings)> {
        self.tuned().enumerate().filter_map(|(at, member)| Some((at, member, member.start?)))
    }

    /// The closed-form members, in order.
    pub fn forms(&self) -> impl Iterator<Item = (&Member, &Form)> {
        self.members.iter().filter_map(|member| Some((member, member.form.as_ref()?)))
    }

    /// Their names.
    pub fn form_names(&self) -> Vec<String> {
        self.forms().map(|(member, _)| member.name.clone()).collect()
    }

    /// The tuned members' names.
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
        self.members.iter().map(|member| VIEWS * self.outputs(member)).sum()
    }

    /// Values of a member's representation.
    pub fn outputs(&self, member: &Member) -> usize {
        match &member.form {
            Some(form) => form.outputs(),
            None => self.network(member).neck.output(),
        }
    }

    /// The ensemble with what training left or, without that, every member as published.
    pub fn with(&self, weights: Option<Weights>) -> Result<Ensemble<'_>> {
        match weights {
            Some(weights) => self.ensemble(weights),
            None => self.published(),
        }
    }

    /// The ensemble with every member as published.
    fn published(&self) -> Result<Ensemble<'_>> {
        let published = self.published_heads(|_| true)?;
        let head = |network: usize| published[network].clone().context("a member's network has a head");
        let parts = self.members.iter().map(|member| Ok((head(member.network)?, None)));
        Ok(Ensemble { blueprint: self, parts: parts.collect::<Result<_>>()?, weights: Vec::new() })
    }

    /// Per network the head it is published with, if one of these members stands on it.
    fn published_heads(&self, needs: impl Fn(&Member) -> bool + Sync) -> Result<Vec<Option<Arc<Head>>>> {
        let needed = |network: usize| self.members.iter().any(|m| m.network == network && needs(m));
        (0..self.networks.len())
            .into_par_iter()
            .map(|network| needed(network).then(|| self.networks[network].published().cloned()).transpose())
            .collect()
    }

    /// The ensemble with these weights for its tuned and its closed-form members, in order.
    pub fn ensemble(&self, weights: Weights) -> Result<Ensemble<'_>> {
        let Weights { heads, forms, members: weights } = weights;
        if !weights.is_empty() && weights.len() != self.members.len() {
            bail!("weights of {} members for {}", weights.len(), self.members.len());
        }
        if (heads.len(), forms.len()) != (self.tuned().count(), self.forms().count()) {
            bail!(
                "{} trained heads and {} closed forms for {} and {} members",
                heads.len(),
                forms.len(),
                self.tuned().count(),
                self.forms().count()
            );
        }
        let tuned: Vec<Arc<Head>> = heads.into_iter().map(Arc::new).collect();
        let published = self.published_heads(|member| match &member.form {
            Some(form) => form.on.is_none(),
            None => member.recipe.is_none(),
        })?;
        let (mut next, mut forms) = (tuned.iter().cloned(), forms.into_iter());
        let parts = self
            .members
            .iter()
            .map(|member| {
                let own = match &member.form {
                    Some(form) => form.on.and_then(|at| tuned.get(at)).cloned(),
                    None => member.recipe.and_then(|_| next.next()),
                };
                let head = own.or_else(|| published[member.network].clone());
                let head = head.with_context(|| format!("member {} has no head", member.name))?;
                Ok((head, member.form.as_ref().and_then(|_| forms.next())))
            })
            .collect::<Result<_>>()?;
        Ok(Ensemble { blueprint: self, parts, weights })
    }
}

/// Loads a network and, beside it where a member is to be as `published`, its head.
fn load(
    file: Option<PathBuf>,
    cut: Cut,
    precision: Precision,
    published: bool,
    engines: &Engines<'_>,
) -> Result<Network> {
    let name =
        file.as_ref().map_or_else(|| "the shipped trunk".to_owned(), |file| file.display().to_string());
    let cut = match cut {
        Cut::Auto => vision::onnx::Cut::Auto,
        Cut::End => vision::onnx::Cut::End,
        Cut::Node(node) => vision::onnx::Cut::Node(node),
    };
    let network = match &file {
        Some(path) => NetworkFile::open(path, cut, engines.cache_folder().as_deref()),
        None => NetworkFile::from_bytes(SHIPPED_TRUNK.to_vec(), cut),
    };
    let mut network = network.with_context(|| format!("cannot use {name} as a trunk"))?;
    let own = network.neck.take().map(StartingNeck::Own);
    let (chosen, head) = std::thread::scope(|scope| {
        let head = own.as_ref().filter(|_| published).map(|neck| scope.spawn(|| neck.head(1, 0)));
        let chosen = engines.load(&network, precision, file.is_none());
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Head>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        (chosen, head.map(join).transpose())
    });
    let chosen = chosen.with_context(|| format!("cannot run {name}"))?;
    let head = head.with_context(|| format!("cannot use the last layer of {name}"))?;
    let neck = own.unwrap_or_else(|| StartingNeck::Identity(chosen.trunk.output_len()));
    let published = head.map_or_else(OnceLock::new, |head| OnceLock::from(Arc::new(head)));
    Ok(Network { file, trunk: chosen.trunk, runs: chosen.runs, note: chosen.note, neck, published })
}

/// A head, the network below it, and its representations.
type Base<'a> = (&'a Arc<Head>, usize, Arc<Vec<f32>>);

/// A blueprint with weights.
#[derive(Clone)]
pub struct Ensemble<'a> {
    blueprint: &'a Blueprint,
    /// Per member its head and, for a closed form, the map behind it. Members that share a head share it here.
    parts: Vec<(Arc<Head>, Option<ClosedForm>)>,
    /// What each member counts, adding up to 1; empty where all count alike.
    weights: Vec<f32>,
}

impl Ensemble<'_> {
    /// Encodes images from the features of their views.
    ///
    /// `features` holds, for each network, images x views x features, row-major.
    pub fn encode(&self, features: &[Vec<f32>], images: usize) -> Result<Vec<Encoding>> {
        let rows = images * VIEWS;
        let mut bases: Vec<Base<'_>> = Vec::new();
        let mut values: Vec<Arc<Vec<f32>>> = Vec::with_capacity(self.parts.len());
        for (member, (head, form)) in self.blueprint.members.iter().zip(&self.parts) {
            let features = &features[member.network];
            let mut represent = || represent(&mut bases, head, member.network, features, rows);
            let of_member = match (&member.form, form) {
                (Some(plan), Some(form)) => plan
                    .basis(features, || Ok(Cow::Owned(represent()?.to_vec())), rows)
                    .and_then(|basis| Ok(Arc::new(form.apply(&basis, rows)?))),
                _ => represent(),
            };
            values.push(
                of_member.with_context(|| format!("cannot represent images with member {}", member.name))?,
            );
        }
        let shares: Vec<f64> =
            self.weights.iter().flat_map(|&weight| [f64::from(weight) / VIEWS as f64; VIEWS]).collect();
        (0..images)
            .map(|image| {
                let mut parts: Vec<&[f32]> = Vec::with_capacity(self.parts.len() * VIEWS);
                for values in &values {
                    let dim = values.len() / rows;
                    parts.extend(values[image * VIEWS * dim..][..VIEWS * dim].chunks_exact(dim));
                }
                Ok(match self.weights.is_empty() {
                    true => Encoding::from_representations(&parts)?,
                    false => Encoding::from_weighted(&parts, &shares)?,
                })
            })
            .collect()
    }
}

/// The representations of a head, kept in `bases`: members on one network with one neck are the same function.
fn represent<'a>(
    bases: &mut Vec<Base<'a>>,
    head: &'a Arc<Head>,
    network: usize,
    features: &[f32],
    rows: usize,
) -> Result<Arc<Vec<f32>>> {
    let twin = bases
        .iter()
        .find(|(other, on, _)| *on == network && (Arc::ptr_eq(other, head) || same_neck(other, head)));
    if let Some((_, _, base)) = twin {
        return Ok(base.clone());
    }
    let base = Arc::new(head.represent(features, rows)?);
    bases.push((head, network, base.clone()));
    Ok(base)
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
