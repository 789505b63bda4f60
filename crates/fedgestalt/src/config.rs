//! The configuration: one TOML file, every default visible.
//!
//! [`TEMPLATE`] is the file that `fedgestalt init` writes; it says the same as [`Config::default`], which a test holds
//! it to. Unknown keys are refused by name: a misspelt key would otherwise silently leave its default in force.

mod detector;
mod member;
mod trunk;
mod tuning;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use domain::draw::Draw;
use domain::{Normalisation, Pooling, Scoring};
use federation::{
    Aggregation, ClassWeighting, Policy, Rates, Rows, ServerOptimizer, Statistics, Stopping, Tuning,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use detector::DetectorConfig;
pub use member::{
    ClassifierName, DEFAULT_FORM, MemberConfig, MemberKind, RecipeName, RidgeConfig, RidgeWord, StartName,
};
pub use trunk::{Cut, Engine, Precision, TrunkConfig};

/// The name of the configuration file.
pub const FILE_NAME: &str = "fedgestalt.toml";

/// The configuration file with every default and what it means.
pub const TEMPLATE: &str = include_str!("config/fedgestalt.toml");

/// The members of the paper's recipe, as they stand in a file.
const RECIPE: &str = include_str!("config/recipe.toml");

/// The configuration file of the paper's recipe: [`TEMPLATE`] with its members, and rankings by the nearest image.
pub fn recipe_template() -> String {
    let (before, rest) = TEMPLATE.split_once("[[members]]").unwrap_or((TEMPLATE, ""));
    let after = rest.split_once("[training]").map_or("", |(_, after)| after);
    let Scoring { pooling, normalisation } = KernelConfig::default().scoring();
    format!("{before}{RECIPE}[training]{after}")
        .replace(&format!("pooling = \"{pooling}\""), "pooling = \"nearest\"")
        .replace(&format!("normalisation = \"{normalisation}\""), "normalisation = \"none\"")
}

/// All that can be configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The network that members share.
    pub trunk: TrunkConfig,
    /// What finds faces on photographs.
    pub detector: DetectorConfig,
    /// The members of the ensemble, in the order of their representations in an encoding.
    pub members: Vec<MemberConfig>,
    /// Local training.
    pub training: TrainingConfig,
    /// Training together.
    pub federation: FederationConfig,
    /// What this site allows.
    pub policy: Policy,
    /// The private kernel.
    pub kernel: KernelConfig,
    /// The simulated consortium.
    pub demo: DemoConfig,
    /// The folder that relative paths start from: that of the file.
    #[serde(skip)]
    base: PathBuf,
}

/// `[training]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingConfig {
    /// Local epochs in all.
    pub epochs: u32,
    /// Local epochs between two aggregations.
    pub interval: u32,
    /// Augmented draws of every image in the feature cache, 1 to 255.
    pub draws: usize,
    /// Learning rates over the epochs.
    pub rates: Rates,
    /// Whether rare syndromes count more in the loss.
    pub class_weighting: ClassWeighting,
    /// When training ends, by the validation images of all sites.
    pub stopping: Stopping,
    /// What everything random follows from.
    pub seed: u64,
}

/// `[federation]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FederationConfig {
    /// Sites, 3 to 100.
    pub sites: u16,
    /// How a cohort is handed to them.
    pub draw: Draw,
    /// How updates become one.
    pub aggregation: Aggregation,
    /// What the average update of tuned members is put through before it is added.
    pub server_optimizer: ServerOptimizer,
    /// What its step is multiplied by, above 0 and at most 10.
    pub server_rate: f64,
    /// Decay of its first moment, 0 to below 1.
    pub server_momentum: f64,
    /// Decay of its second moment, 0 to below 1.
    pub server_beta2: f64,
    /// Its adaptivity, above 0 and at most 1.
    pub server_tau: f64,
    /// Strength of the pull towards the round's model in local training, 0 to 1000.
    pub proximal: f64,
    /// How running statistics of BatchNorm become one.
    pub statistics: Statistics,
    /// Classifier rows that leave a site.
    pub rows: Rows,
    /// Whether the coordinator is kept from the sums.
    pub blind: bool,
    /// Training images a site needs in order to take part; 0 admits sites that bring their gallery alone.
    pub minimum_cohort: u32,
    /// Whether `demo` and `federate` also train the paper's recipe on everybody's images, where nothing is tuned.
    pub compare_recipe: bool,
}

/// `[kernel]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KernelConfig {
    /// Syndromes in an answer, 1 to 30.
    pub top: u8,
    /// How the similarities to a syndrome's images become one; also in `rank`, `evaluate` and the baselines.
    pub pooling: Pooling,
    /// How that is normalised before syndromes are ranked, there too.
    pub normalisation: Normalisation,
    /// What the members count in a similarity.
    pub weights: MemberWeights,
    /// Distances are rounded up to a multiple of this; above 0, at most 2.
    pub distance_step: f32,
    /// Rankings that a site may ask for in all.
    pub answers_per_site: u32,
}

/// What the members count in a similarity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberWeights {
    /// All alike.
    Equal,
    /// By how well they tell syndromes of validation images apart, from one small sum over all sites.
    Fitted,
}

/// `[demo]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DemoConfig {
    /// Which of the two sizes is drawn.
    pub scale: Scale,
    /// Whether one more site joins the release at the end.
    pub newcomer: bool,
    /// The quick size.
    pub small: DemoCohort,
    /// The size of GMDB.
    pub paper: DemoCohort,
}

/// A size of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// A few minutes on two cores.
    Small,
    /// As many syndromes and images as GMDB has.
    Paper,
}

/// The cohort of one size of the demo. All keys are needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemoCohort {
    /// Syndromes trained on.
    pub frequent_syndromes: usize,
    /// Syndromes only in the gallery.
    pub rare_syndromes: usize,
    /// Photographs in all, about.
    pub images: usize,
    /// 0 is easy, 1 is hard.
    pub difficulty: f32,
    /// Side of a photograph in pixels, 256 to 512.
    pub photo_size: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            trunk: TrunkConfig::default(),
            detector: DetectorConfig::default(),
            members: vec![
                MemberConfig::closed_form("form"),
                MemberConfig { lift: Some(1024), ..MemberConfig::closed_form("lift") },
                MemberConfig { projection: Some(1024), ..MemberConfig::closed_form("map") },
                MemberConfig::refined("joint"),
                MemberConfig::refined("joint-2"),
            ],
            training: TrainingConfig::default(),
            federation: FederationConfig::default(),
            policy: Policy::default(),
            kernel: KernelConfig::default(),
            demo: DemoConfig::default(),
            base: PathBuf::new(),
        }
    }
}

impl Default for TrainingConfig {
    fn default() -> Self {
        let Tuning { rates, class_weighting, stopping, .. } = Tuning::default();
        Self { epochs: 50, interval: 5, draws: 8, rates, class_weighting, stopping, seed: 1 }
    }
}

impl Default for FederationConfig {
    fn default() -> Self {
        let Tuning { server, proximal, statistics, .. } = Tuning::default();
        Self {
            sites: 4,
            draw: Draw::NearUniform,
            aggregation: Aggregation::SampleWeighted,
            server_optimizer: server.optimizer,
            server_rate: server.rate,
            server_momentum: server.momentum,
            server_beta2: server.beta2,
            server_tau: server.tau,
            proximal,
            statistics,
            rows: Rows::All,
            blind: true,
            minimum_cohort: 0,
            compare_recipe: true,
        }
    }
}

impl Default for KernelConfig {
    fn default() -> Self {
        Self {
            top: 30,
            pooling: Pooling::Soft(5.0),
            normalisation: Normalisation::Z(0.75),
            weights: MemberWeights::Equal,
            distance_step: 0.01,
            answers_per_site: 100_000,
        }
    }
}

impl KernelConfig {
    /// How syndromes are ranked.
    pub fn scoring(&self) -> Scoring {
        Scoring { pooling: self.pooling, normalisation: self.normalisation }
    }

    /// This with the paper's ranking: by the nearest image, with every member counting the same.
    #[must_use]
    pub fn as_recipe(&self) -> Self {
        let Scoring { pooling, normalisation } = Scoring::NEAREST;
        Self { pooling, normalisation, weights: MemberWeights::Equal, ..self.clone() }
    }
}

impl Default for DemoConfig {
    fn default() -> Self {
        let cohort = |frequent_syndromes, rare_syndromes, images, difficulty| DemoCohort {
            frequent_syndromes,
            rare_syndromes,
            images,
            difficulty,
            photo_size: 256,
        };
        Self {
            scale: Scale::Small,
            newcomer: true,
            small: cohort(40, 20, 1200, 0.75),
            paper: cohort(204, 118, 6500, 0.3),
        }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is not TOML, has an unknown key or an impossible value; the file and the key are named.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let name = file.display();
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {name}; `fedgestalt init` writes one"))?;
        let mut config = Self::parse(&text).with_context(|| format!("{name} is not a configuration"))?;
        config.base = file.parent().unwrap_or(Path::new("")).to_owned();
        Ok(config)
    }

    /// Reads and checks the text of a file; relative paths start from the working folder.
    ///
    /// # Errors
    ///
    /// As [`Config::read`].
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    /// The configuration as TOML, without comments.
    ///
    /// # Errors
    ///
    /// When a path is not Unicode.
    pub fn to_toml(&self) -> anyhow::Result<String> {
        Ok(toml::to_string(self)?)
    }

    /// A path of the configuration, seen from the working folder.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.base.join(path)
    }

    /// This configuration as run with the engines of another: what a model was trained under, on the machine at hand.
    #[must_use]
    pub fn on_machine_of(&self, here: &Self) -> Self {
        Self { trunk: self.trunk.on_machine(&here.trunk, &here.base), ..self.clone() }
    }

    /// This configuration with the paper's recipe for its members and rankings by the nearest image. Networks that members
    /// name for themselves go with them: the first and the last.
    #[must_use]
    pub fn as_recipe(&self) -> Self {
        let on = |member: MemberConfig, at: Option<&MemberConfig>| match at {
            Some(MemberConfig { trunk, cut, precision, .. }) => {
                let (trunk, cut, precision) = (trunk.clone(), cut.clone(), *precision);
                MemberConfig { trunk, cut, precision, ..member }
            }
            None => member,
        };
        let (first, last) = (self.members.first(), self.members.last());
        let mut recipe = Self {
            members: vec![
                on(MemberConfig::tuned("r50", RecipeName::R50), first),
                on(MemberConfig::tuned("r100", RecipeName::R100), last),
                on(MemberConfig::published("published"), last),
            ],
            kernel: self.kernel.as_recipe(),
            ..self.clone()
        };
        recipe.set_tuning(Tuning::default());
        recipe
    }

    /// Stages of a session that a site can vanish in: the sum that tuned members start from, their aggregations, the validation of
    /// the last one, the sums behind closed forms and the steps that refine these, and the sum behind the members' weights.
    pub fn rounds(&self) -> u32 {
        let any = |kind| self.members.iter().any(|member| member.kind == kind);
        let validation = u32::from(self.training.stopping != Stopping::Never);
        let rounds = if any(MemberKind::Tuned) {
            let starts = self.members.iter().any(|member| member.start().is_some());
            u32::from(starts) + self.training.epochs.div_ceil(self.training.interval.max(1)) + validation
        } else {
            0
        };
        let weighed = self.kernel.weights == MemberWeights::Fitted;
        let steps = self.members.iter().filter_map(|member| member.refine).max().unwrap_or(0);
        rounds + u32::from(any(MemberKind::ClosedForm)) + steps + u32::from(weighed)
    }

    /// The cohort of a size of the demo.
    pub fn demo_cohort(&self, scale: Scale) -> &DemoCohort {
        match scale {
            Scale::Small => &self.demo.small,
            Scale::Paper => &self.demo.paper,
        }
    }

    /// Refuses what TOML allows and the program cannot do, naming section and key. Commands call it again after the
    /// command line has changed values.
    ///
    /// # Errors
    ///
    /// The first impossible value.
    pub fn check(&self) -> anyhow::Result<()> {
        self.trunk.check(self.members.iter().filter_map(|member| member.precision))?;
        self.detector.check()?;
        ensure!(!self.members.is_empty() && self.members.len() <= 16, "[[members]]: give 1 to 16 members");
        for (at, member) in self.members.iter().enumerate() {
            member.check()?;
            if self.members[..at].iter().any(|other| other.name == member.name) {
                bail!("[[members]]: the name {:?} is given twice; give each member its own", member.name);
            }
        }
        let training = &self.training;
        self.check_tuning()?;
        for member in &self.members {
            member.check_stand(&self.members)?;
        }
        ensure!((1..=255).contains(&training.draws), "[training] draws is {}; give 1 to 255", training.draws);
        let sites = self.federation.sites;
        ensure!((3..=100).contains(&sites), "[federation] sites is {sites}; a secure sum needs 3 to 100");
        let kernel = &self.kernel;
        ensure!((1..=30).contains(&kernel.top), "[kernel] top is {}; give 1 to 30", kernel.top);
        let step = kernel.distance_step;
        ensure!(
            step > 0.0 && step <= 2.0,
            "[kernel] distance_step is {step}; give a number above 0, at most 2"
        );
        for (name, cohort) in [("demo.small", &self.demo.small), ("demo.paper", &self.demo.paper)] {
            cohort.check().with_context(|| format!("[{name}]"))?;
        }
        Ok(())
    }
}

impl DemoCohort {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.frequent_syndromes >= 2,
            "frequent_syndromes is {}; give at least 2",
            self.frequent_syndromes
        );
        let least = 10 * self.frequent_syndromes + 3 * self.rare_syndromes;
        ensure!(self.images >= least, "images is {}; so many syndromes need at least {least}", self.images);
        ensure!((0.0..=1.0).contains(&self.difficulty), "difficulty is {}; give 0 to 1", self.difficulty);
        ensure!((256..=512).contains(&self.photo_size), "photo_size is {}; give 256 to 512", self.photo_size);
        Ok(())
    }
}

mod empty_is_none {
    use super::*;

    pub(super) fn serialize<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
        path.as_deref().unwrap_or(Path::new("")).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
        let path = PathBuf::deserialize(from)?;
        Ok(Some(path).filter(|path| !path.as_os_str().is_empty()))
    }
}

#[cfg(test)]
mod tests;
