mod form;
mod stages;
mod tuning;

use std::fmt;
use std::str::FromStr;

use domain::{Normalisation, Pooling, Scoring};
use serde::{Deserialize, Serialize};

pub use self::form::{Basis, FormPlan, RefinementPlan, Ridge, Weighting};
pub(crate) use self::stages::Stage;
pub use self::tuning::{ClassWeighting, Rates, ServerOptimizer, ServerPlan, Statistics, Stopping, Tuning};
use crate::identity::{CoordinatorKey, CoordinatorPublic, Digest, digest, hexed};
use crate::refusal::{Refusal, RefusalKind, Result, refusal, refuse};
use crate::wire;

const LABEL: &str = "fedgestalt/plan/v1";
/// Rounds a plan may have.
const MAX_ROUNDS: u32 = 10_000;
/// Words in one secure sum: 1 GiB.
pub(crate) const MAX_WORDS: usize = 1 << 28;
/// Syndromes a consortium may have.
pub(crate) const MAX_SYNDROMES: usize = 100_000;

/// How the sites' updates become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Aggregation {
    /// Every site counts the same.
    Mean,
    /// A site counts by its number of training images.
    SampleWeighted,
    /// Encoder by training images; each classifier row by the site's images of that syndrome.
    SyndromeRows,
    /// Encoder by training images; the classifier stays at the site.
    EncoderOnly,
}

impl fmt::Display for Aggregation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Aggregation::Mean => "mean",
            Aggregation::SampleWeighted => "sample-weighted",
            Aggregation::SyndromeRows => "syndrome-rows",
            Aggregation::EncoderOnly => "encoder-only",
        })
    }
}

impl FromStr for Aggregation {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "mean" => Aggregation::Mean,
            "sample-weighted" => Aggregation::SampleWeighted,
            "syndrome-rows" => Aggregation::SyndromeRows,
            "encoder-only" => Aggregation::EncoderOnly,
            _ => refuse!(
                PlanInvalid,
                "aggregation {text:?} does not exist; use mean, sample-weighted, syndrome-rows or encoder-only"
            ),
        })
    }
}

/// Which classifier rows travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rows {
    /// Every row.
    All,
    /// Only rows of syndromes that at least so many sites train on; the others stay at the site.
    Shared(u16),
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rows::All => f.write_str("all"),
            Rows::Shared(k) => write!(f, "shared:{k}"),
        }
    }
}

impl FromStr for Rows {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self> {
        if text == "all" {
            return Ok(Rows::All);
        }
        match text.strip_prefix("shared:").and_then(|k| k.parse().ok()) {
            Some(k) if k >= 1 => Ok(Rows::Shared(k)),
            _ => refuse!(
                PlanInvalid,
                "rows {text:?} does not exist; use all, or shared:3 for rows that 3 sites hold"
            ),
        }
    }
}

macro_rules! as_string {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = Refusal;
            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}
as_string!(Aggregation);
as_string!(Rows);

/// What a tensor is to the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TensorKind {
    /// Trained, part of the encoder; published in the release.
    Encoder,
    /// Not trained but needed (running mean and variance); published in the release.
    Statistics,
    /// One row for each trained syndrome; used in training only.
    ClassifierRows,
}

/// One tensor of a member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// Name, such as `neck.weight`.
    pub name: String,
    /// Shape; for [`TensorKind::ClassifierRows`] the shape of one row (empty for a bias).
    pub shape: Vec<usize>,
    /// Greatest magnitude that an element of a round's delta may have; a larger one is an error.
    pub range: f32,
    /// What it is.
    pub kind: TensorKind,
}

/// How a member is trained; the sites' trainers read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipePlan {
    /// Images per step.
    pub batch: u32,
    /// Learning rate of the neck.
    pub neck_lr: f64,
    /// Weight decay of the neck.
    pub neck_wd: f64,
    /// Learning rate of the classifier.
    pub classifier_lr: f64,
    /// Weight decay of the classifier.
    pub classifier_wd: f64,
    /// Dropout before the classifier, 0 to below 1.
    pub dropout: f64,
    /// How the classifier scores.
    pub classifier: Classifier,
}

/// How a classifier scores a representation in training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Classifier {
    /// Inner product and bias.
    Linear,
    /// A multiple of the cosine.
    Cosine {
        /// The multiple, above 0.
        scale: f64,
    },
    /// The same, with a wider angle to the true class in training (Deng et al. 2019).
    Arcface {
        /// The multiple, above 0.
        scale: f64,
        /// So much wider, in radians from 0 to below half of pi.
        margin: f64,
    },
}

impl Classifier {
    fn check(self) -> Result<()> {
        let (scale, margin) = match self {
            Self::Linear => return Ok(()),
            Self::Cosine { scale } => (scale, 0.0),
            Self::Arcface { scale, margin } => (scale, margin),
        };
        if !(scale.is_finite() && scale > 0.0 && (0.0..std::f64::consts::FRAC_PI_2).contains(&margin)) {
            refuse!(
                PlanInvalid,
                "the classifier's scale must be above 0, its margin from 0 to below half of pi; not {scale} and {margin}"
            );
        }
        Ok(())
    }
}

/// One trained member of the ensemble.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberPlan {
    /// Name, such as `r50`.
    pub name: String,
    /// How it is trained.
    pub recipe: RecipePlan,
    /// Digest of the frozen trunk below it.
    #[serde(with = "hexed")]
    pub trunk: [u8; 32],
    /// What travels, in order.
    pub tensors: Vec<TensorSpec>,
}

/// The private kernel of the session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelPlan {
    /// Length of an encoding.
    pub dim: usize,
    /// Length of a masked vector, at least `dim`.
    pub width: usize,
    /// Views in an encoding.
    pub views: u8,
    /// Splits of the rare gallery, 0 to 31.
    pub splits: u8,
    /// Syndromes in an answer, 1 to 30.
    pub top: u8,
    /// How the similarities to a syndrome's images become one, by which it is ranked; distances are those of its nearest image.
    pub pooling: Pooling,
    /// How that is normalised; distances are told as they are.
    pub normalisation: Normalisation,
    /// Distances are rounded up to a multiple of this, above 0 and at most 2.
    pub distance_step: f32,
    /// Rankings that a site may ask for in all.
    pub answers_per_site: u32,
    /// How many members the ensemble has, where their weights are fitted; none where all count alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weighed: Option<u8>,
}

/// What the sites agree on before anything leaves them. Signed by the coordinator; each site accepts it
/// under its own [`crate::Policy`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Session id, never used twice.
    #[serde(with = "hexed")]
    pub session: [u8; 16],
    /// Seed of the starting model and of whatever the sites must draw alike.
    pub seed: u64,
    /// Digest of the roster it was made for.
    #[serde(with = "hexed")]
    pub roster: [u8; 32],
    /// The trained members.
    pub members: Vec<MemberPlan>,
    /// The closed-form members, computed after training.
    pub forms: Vec<FormPlan>,
    /// The closed forms that trained members start from, by the names of these; the others start as published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub starts: Vec<FormPlan>,
    /// Local epochs in all.
    pub epochs: u32,
    /// Local epochs per round.
    pub interval: u32,
    /// How updates become one.
    pub aggregation: Aggregation,
    /// How tuned members are trained, beyond their recipes.
    pub tuning: Tuning,
    /// Which classifier rows travel.
    pub rows: Rows,
    /// Whether the coordinator is kept from the sums too.
    pub blind: bool,
    /// Training images a site needs in order to take part.
    pub min_cohort: u32,
    /// The private kernel, if there is one.
    pub kernel: Option<KernelPlan>,
}

impl Plan {
    /// Canonical bytes: JSON with the fields in the order above.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a checked plan has only strings and finite numbers")
    }

    /// From canonical bytes; other spellings of the same plan are refused, so that one plan has one digest.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let plan: Self = serde_json::from_slice(bytes)
            .map_err(|e| refusal(RefusalKind::Malformed, format!("not a plan: {e}")))?;
        plan.check()?;
        if plan.encode() != bytes {
            refuse!(Malformed, "the plan is not in its canonical spelling");
        }
        Ok(plan)
    }

    /// Digest of the canonical bytes.
    pub fn digest(&self) -> Digest {
        digest(LABEL, &[&self.encode()])
    }

    /// Whether the plan makes sense in itself.
    pub fn check(&self) -> Result<()> {
        let members = self.members.len() + self.forms.len();
        if members == 0 || members > 16 {
            refuse!(PlanInvalid, "a plan makes 1 to 16 members, not {members}");
        }
        if self.interval == 0 || self.rounds() > MAX_ROUNDS {
            refuse!(PlanInvalid, "the interval must be at least 1 and give at most {MAX_ROUNDS} rounds");
        }
        if (self.epochs == 0) != self.members.is_empty() {
            refuse!(PlanInvalid, "{} epochs for {} trained members", self.epochs, self.members.len());
        }
        self.tuning.check()?;
        for member in &self.members {
            member.check().map_err(|e| e.at(format!("member {}", member.name)))?;
        }
        for form in &self.forms {
            form.check(&self.members).map_err(|e| e.at(format!("member {}", form.name)))?;
        }
        self.check_starts()?;
        let mut names: Vec<&str> = self.members.iter().map(|m| m.name.as_str()).collect();
        names.extend(self.forms.iter().map(|form| form.name.as_str()));
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            refuse!(PlanInvalid, "two members are called {}", twice[0]);
        }
        if let Some(kernel) = &self.kernel {
            kernel.check()?;
        }
        Ok(())
    }

    fn check_starts(&self) -> Result<()> {
        for (at, start) in self.starts.iter().enumerate() {
            start.check(&self.members).map_err(|e| e.at(format!("start of member {}", start.name)))?;
            let of = self.members.iter().find(|m| m.name == start.name && m.trunk == start.trunk);
            let as_published = start.on.is_none() && start.basis == Basis::Representation;
            if of.is_none() || !as_published || start.outputs != start.dim || start.refinement.is_some() {
                refuse!(
                    PlanInvalid,
                    "the start called {} is not that of a trained member from its network's representation",
                    start.name
                );
            }
            if self.starts[..at].iter().any(|other| other.name == start.name) {
                refuse!(PlanInvalid, "member {} starts twice", start.name);
            }
        }
        Ok(())
    }

    pub(crate) fn signed(&self, key: &CoordinatorKey) -> wire::Signed {
        wire::Signed { document: self.encode().into(), signature: key.sign(&self.digest()).to_vec() }
    }

    pub(crate) fn verified(signed: &wire::Signed, coordinator: &CoordinatorPublic) -> Result<Self> {
        let plan = Self::decode(&signed.document)?;
        coordinator.verify(&plan.digest(), &signed.signature).map_err(|_| {
            refusal(RefusalKind::BadSignature, "the plan is not signed by the coordinator in the roster")
        })?;
        Ok(plan)
    }
}

impl MemberPlan {
    fn check(&self) -> Result<()> {
        let r = &self.recipe;
        let rates = [r.neck_lr, r.neck_wd, r.classifier_lr, r.classifier_wd, r.dropout];
        if r.batch == 0 || rates.iter().any(|x| !x.is_finite() || *x < 0.0) || r.dropout >= 1.0 {
            refuse!(PlanInvalid, "batch must be at least 1, rates finite and not negative, dropout below 1");
        }
        r.classifier.check()?;
        if self.tensors.is_empty() || self.tensors.len() > 256 {
            refuse!(PlanInvalid, "1 to 256 tensors, not {}", self.tensors.len());
        }
        for (i, spec) in self.tensors.iter().enumerate() {
            let size = spec.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            if size.is_none_or(|n| n == 0 || n > MAX_WORDS) {
                refuse!(PlanInvalid, "tensor {} has an impossible shape {:?}", spec.name, spec.shape);
            }
            if !spec.range.is_finite() || spec.range <= 0.0 {
                refuse!(PlanInvalid, "tensor {} has range {}; give a positive number", spec.name, spec.range);
            }
            if self.tensors[..i].iter().any(|other| other.name == spec.name) {
                refuse!(PlanInvalid, "tensor {} is named twice", spec.name);
            }
        }
        Ok(())
    }
}

impl KernelPlan {
    /// How syndromes are ranked.
    pub fn scoring(&self) -> Scoring {
        Scoring { pooling: self.pooling, normalisation: self.normalisation }
    }

    fn check(&self) -> Result<()> {
        if self.dim == 0 || self.width < self.dim || self.width > 1 << 16 {
            refuse!(
                PlanInvalid,
                "kernel: width {} must be at least dim {} and at most 65536",
                self.width,
                self.dim
            );
        }
        if self.splits > 31 || self.top == 0 || self.top > 30 {
            refuse!(PlanInvalid, "kernel: at most 31 splits, and 1 to 30 syndromes in an answer");
        }
        if self.weighed.is_some_and(|members| members == 0 || members > 16) {
            refuse!(PlanInvalid, "kernel: 1 to 16 members can be weighed, not {:?}", self.weighed);
        }
        if !(self.distance_step > 0.0 && self.distance_step <= 2.0) {
            refuse!(
                PlanInvalid,
                "kernel: distance_step {} must be above 0 and at most 2",
                self.distance_step
            );
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) fn toy_plan() -> Plan {
        let spec = |name: &str, shape: &[usize], kind| TensorSpec {
            name: name.into(),
            shape: shape.into(),
            range: 4.0,
            kind,
        };
        Plan {
            session: [5; 16],
            seed: 1,
            roster: [6; 32],
            members: vec![MemberPlan {
                name: "toy".into(),
                recipe: RecipePlan {
                    batch: 4,
                    neck_lr: 1e-3,
                    neck_wd: 0.0,
                    classifier_lr: 1e-3,
                    classifier_wd: 0.0,
                    dropout: 0.5,
                    classifier: Classifier::Linear,
                },
                trunk: [1; 32],
                tensors: vec![
                    spec("neck.weight", &[3, 4], TensorKind::Encoder),
                    spec("bn.running_mean", &[3], TensorKind::Statistics),
                    spec("classifier.weight", &[3], TensorKind::ClassifierRows),
                    spec("classifier.bias", &[], TensorKind::ClassifierRows),
                ],
            }],
            forms: Vec::new(),
            starts: Vec::new(),
            epochs: 7,
            interval: 3,
            aggregation: Aggregation::SampleWeighted,
            tuning: Tuning::default(),
            rows: Rows::All,
            blind: true,
            min_cohort: 1,
            kernel: None,
        }
    }

    pub(crate) fn toy_form(name: &str) -> FormPlan {
        FormPlan {
            name: name.into(),
            on: None,
            trunk: [1; 32],
            basis: Basis::Representation,
            dim: 2,
            outputs: 2,
            ridge: Ridge::Fixed(0.1),
            weighting: Weighting::Power { power: 0.25, floor: 0.0 },
            refinement: None,
        }
    }

    pub(crate) fn toy_kernel() -> KernelPlan {
        KernelPlan {
            dim: 8,
            width: 8,
            views: 4,
            splits: 2,
            top: 30,
            pooling: Pooling::Nearest,
            normalisation: Normalisation::None,
            distance_step: 0.01,
            answers_per_site: 100,
            weighed: None,
        }
    }

    #[test]
    fn one_plan_has_one_spelling() {
        let plan = toy_plan();
        let bytes = plan.encode();
        assert_eq!(Plan::decode(&bytes).unwrap(), plan);
        let spaced = String::from_utf8(bytes.clone()).unwrap().replace(",\"seed\"", ", \"seed\"");
        assert_eq!(Plan::decode(spaced.as_bytes()).unwrap_err().kind(), RefusalKind::Malformed);
        let unknown = String::from_utf8(bytes).unwrap().replace("\"seed\"", "\"sneed\"");
        assert_eq!(Plan::decode(unknown.as_bytes()).unwrap_err().kind(), RefusalKind::Malformed);
    }

    #[test]
    fn impossible_plans_are_refused() {
        let form = |on: &str| FormPlan {
            name: "form".into(),
            on: Some(on.into()),
            trunk: [1; 32],
            basis: Basis::Representation,
            dim: 4,
            outputs: 4,
            ridge: Ridge::Fixed(0.1),
            weighting: Weighting::Power { power: 0.25, floor: 0.0 },
            refinement: None,
        };
        let mut plan = toy_plan();
        plan.forms.push(form("toy"));
        plan.check().unwrap();
        let refined = |p: &mut Plan, steps, rate, scale| {
            p.forms[0].refinement = Some(RefinementPlan { steps, rate, scale });
        };
        for (steps, rate, scale) in
            [(0, 0.1, 16.0), (1001, 0.1, 16.0), (1, 0.0, 16.0), (1, 1.1, 16.0), (1, 0.1, f64::NAN)]
        {
            let mut plan = plan.clone();
            refined(&mut plan, steps, rate, scale);
            assert_eq!(plan.check().unwrap_err().kind(), RefusalKind::PlanInvalid, "{steps} {rate} {scale}");
        }
        refined(&mut plan, 10, 0.1, 16.0);
        plan.check().unwrap();
        let forms: [fn(&mut Plan); 10] = [
            |p| p.forms[0].on = Some("other".into()),
            |p| p.forms[0].trunk = [2; 32],
            |p| p.forms[0].name = "toy".into(),
            |p| p.forms[0].dim = 5000,
            |p| p.forms[0].ridge = Ridge::Fixed(f64::NAN),
            |p| p.forms[0].outputs = 5,
            |p| p.forms[0].outputs = 0,
            |p| p.forms[0].basis = Basis::Projection { seed: 1 },
            |p| p.forms[0].basis = Basis::Joint { seed: 1 },
            |p| p.members.clear(),
        ];
        for (i, change) in forms.iter().enumerate() {
            let mut plan = toy_plan();
            plan.forms.push(form("toy"));
            change(&mut plan);
            assert_eq!(plan.check().unwrap_err().kind(), RefusalKind::PlanInvalid, "form, change {i}");
        }
        let starts: [fn(&mut Plan); 7] = [
            |p| p.starts[0].name = "other".into(),
            |p| p.starts[0].trunk = [2; 32],
            |p| p.starts[0].on = Some("toy".into()),
            |p| p.starts[0].basis = Basis::Lift { seed: 1 },
            |p| p.starts[0].refinement = Some(RefinementPlan { steps: 1, rate: 0.1, scale: 16.0 }),
            |p| p.starts[0].outputs = 1,
            |p| p.starts.push(toy_form("toy")),
        ];
        for (i, change) in starts.iter().enumerate() {
            let mut plan = toy_plan();
            plan.starts.push(toy_form("toy"));
            plan.check().unwrap();
            change(&mut plan);
            assert_eq!(plan.check().unwrap_err().kind(), RefusalKind::PlanInvalid, "start, change {i}");
        }
        let changes: [fn(&mut Plan); 11] = [
            |p| p.kernel = Some(KernelPlan { weighed: Some(17), ..toy_kernel() }),
            |p| p.members.clear(),
            |p| p.interval = 0,
            |p| p.tuning.server.rate = 0.0,
            |p| p.members[0].recipe.classifier = Classifier::Cosine { scale: 0.0 },
            |p| p.tuning.proximal = f64::NAN,
            |p| p.epochs = 0,
            |p| p.members[0].tensors[0].range = 0.0,
            |p| p.members[0].tensors[0].shape = vec![usize::MAX, 2],
            |p| p.members[0].tensors[1].name = "neck.weight".into(),
            |p| p.members[0].recipe.dropout = 1.0,
        ];
        for (i, change) in changes.iter().enumerate() {
            let mut plan = toy_plan();
            change(&mut plan);
            assert_eq!(plan.check().unwrap_err().kind(), RefusalKind::PlanInvalid, "change {i}");
        }
    }

    #[test]
    fn modes_read_and_write() {
        for text in ["mean", "sample-weighted", "syndrome-rows", "encoder-only"] {
            assert_eq!(text.parse::<Aggregation>().unwrap().to_string(), text);
        }
        for text in ["all", "shared:3"] {
            assert_eq!(text.parse::<Rows>().unwrap().to_string(), text);
        }
        assert!("shared:0".parse::<Rows>().is_err() && "median".parse::<Aggregation>().is_err());
    }
}
