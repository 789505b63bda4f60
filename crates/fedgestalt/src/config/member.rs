//! `[[members]]`: the ensemble, member by member.

use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use learn::{Classifier, FormSettings, Recipe, Refinement, Ridge, Weighting};
use serde::{Deserialize, Serialize};
use vision::views::VIEWS;

use super::{Cut, Precision};

/// One of `[[members]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberConfig {
    /// Its name: letters, digits, `-` and `_`, unique.
    pub name: String,
    /// Whether it is trained.
    pub kind: MemberKind,
    /// Where its recipe starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<RecipeName>,
    /// A network of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk: Option<PathBuf>,
    /// Where that is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
    /// The precision of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Images per step, instead of the recipe's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Learning rate of the neck, instead of the recipe's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neck_lr: Option<f64>,
    /// Weight decay of the neck, instead of the recipe's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neck_wd: Option<f64>,
    /// Learning rate of the classifier, instead of the recipe's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classifier_lr: Option<f64>,
    /// Weight decay of the classifier, instead of the recipe's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classifier_wd: Option<f64>,
    /// Dropout before the classifier, instead of the recipe's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// How the classifier scores in training, instead of `linear`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classifier: Option<ClassifierName>,
    /// Multiple of the cosine; of `cosine` and `arcface`, and of a closed form that is refined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Widening of the true class's angle in radians; of `arcface`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// What a tuned member's training starts from, instead of the network as published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<StartName>,
    /// Closed form: the tuned member it stands on; none for the network as published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
    /// Closed form: so many random features of the representation, rectified, take its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lift: Option<usize>,
    /// Closed form: so many random sums of the trunk's feature map take the representation's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projection: Option<usize>,
    /// Closed form: the representation and so many random sums of the trunk's feature map side by side take its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joint: Option<usize>,
    /// Closed form: steps down the gradient of a loss that refine it, each a sum over all sites; none without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refine: Option<u32>,
    /// Length of the first of them as a share of the map's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Closed form: directions that are kept; none for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<usize>,
    /// Closed form: ridge of the covariance within syndromes, in units of its mean eigenvalue, or `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ridge: Option<RidgeConfig>,
    /// Closed form: power of the spread of the trained syndromes' means by which a direction counts; without power and
    /// floor it counts by the spread of syndromes that are held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<f64>,
    /// Closed form: added to the spread before the power.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
}

/// A ridge: a number, or `auto` for the one that the sums choose.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "ridge must be a number above 0, such as 0.3, or \"auto\"")]
pub enum RidgeConfig {
    /// So much.
    Fixed(f64),
    /// `auto`.
    Word(RidgeWord),
}

/// The word that stands for a ridge.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RidgeWord {
    /// [`Ridge::HeldOut`].
    Auto,
}

impl RidgeConfig {
    fn ridge(self) -> Ridge {
        match self {
            Self::Fixed(ridge) => Ridge::Fixed(ridge),
            Self::Word(RidgeWord::Auto) => Ridge::HeldOut,
        }
    }
}

/// Whether a member is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberKind {
    /// Its neck is trained.
    Tuned,
    /// The network as it was published.
    Published,
    /// Linear discriminant analysis from sums over all sites, in one round.
    ClosedForm,
}

/// A recipe by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecipeName {
    /// [`Recipe::r50`].
    R50,
    /// [`Recipe::r100`].
    R100,
}

/// A classifier by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassifierName {
    /// [`Classifier::Linear`].
    Linear,
    /// [`Classifier::Cosine`].
    Cosine,
    /// [`Classifier::ArcFace`].
    Arcface,
}

/// What a tuned member's training starts from, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartName {
    /// The network as it was published.
    Published,
    /// A closed form of its embedding, from one sum over all sites.
    ClosedForm,
}

/// The multiple of a cosine, and the margin in radians, unless a member says otherwise.
const DEFAULT_SCALE: f64 = 16.0;
const DEFAULT_MARGIN: f64 = 0.2;
/// Length of the first step of a refinement as a share of the map's.
const DEFAULT_RATE: f64 = 0.1;
/// Most steps of one.
const MAX_STEPS: u32 = 1000;

/// Most values that a closed form can be an analysis of.
const MAX_BASIS: usize = 4096;

/// How a closed form is computed unless its member says otherwise.
pub const DEFAULT_FORM: FormSettings =
    FormSettings { ridge: Ridge::Fixed(0.3), weighting: Weighting::HeldOut, outputs: None, per_image: VIEWS };
/// Power and floor of a closed form that names one of them.
const DEFAULT_POWER: (f64, f64) = (0.25, 0.1);

impl MemberConfig {
    /// A trained member with a recipe unchanged.
    pub fn tuned(name: &str, recipe: RecipeName) -> Self {
        Self { kind: MemberKind::Tuned, recipe: Some(recipe), ..Self::published(name) }
    }

    /// A member as published.
    pub fn published(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: MemberKind::Published,
            recipe: None,
            trunk: None,
            cut: None,
            precision: None,
            batch: None,
            neck_lr: None,
            neck_wd: None,
            classifier_lr: None,
            classifier_wd: None,
            dropout: None,
            classifier: None,
            scale: None,
            margin: None,
            start: None,
            on: None,
            lift: None,
            projection: None,
            joint: None,
            refine: None,
            rate: None,
            outputs: None,
            ridge: None,
            power: None,
            floor: None,
        }
    }

    /// A closed form on the network as published, with the usual settings.
    pub fn closed_form(name: &str) -> Self {
        Self { kind: MemberKind::ClosedForm, ..Self::published(name) }
    }

    /// A closed form on embedding and feature map that is refined, with the usual settings.
    pub fn refined(name: &str) -> Self {
        Self { joint: Some(1024), outputs: Some(256), refine: Some(10), ..Self::closed_form(name) }
    }

    /// How a closed form is computed, with this member's changes.
    pub fn form(&self) -> FormSettings {
        FormSettings {
            ridge: self.ridge.map_or(DEFAULT_FORM.ridge, RidgeConfig::ridge),
            weighting: match (self.power, self.floor) {
                (None, None) => DEFAULT_FORM.weighting,
                (power, floor) => Weighting::Power {
                    power: power.unwrap_or(DEFAULT_POWER.0),
                    floor: floor.unwrap_or(DEFAULT_POWER.1),
                },
            },
            outputs: self.outputs,
            per_image: DEFAULT_FORM.per_image,
        }
    }

    /// How a closed form is refined, if it is.
    pub fn refinement(&self) -> Option<Refinement> {
        Some(Refinement {
            steps: self.refine?,
            rate: self.rate.unwrap_or(DEFAULT_RATE),
            scale: self.scale.unwrap_or(DEFAULT_SCALE),
        })
    }

    /// How what it starts from is computed, where that is a closed form.
    pub fn start(&self) -> Option<FormSettings> {
        let starts = self.kind == MemberKind::Tuned && self.start == Some(StartName::ClosedForm);
        starts.then(|| FormSettings { outputs: None, ..self.form() })
    }

    /// The recipe with this member's changes. A member that names none starts from `r50`.
    pub fn recipe(&self) -> Recipe {
        let base = match self.recipe.unwrap_or(RecipeName::R50) {
            RecipeName::R50 => Recipe::r50(),
            RecipeName::R100 => Recipe::r100(),
        };
        Recipe {
            batch: self.batch.unwrap_or(base.batch),
            neck_lr: self.neck_lr.unwrap_or(base.neck_lr),
            neck_wd: self.neck_wd.unwrap_or(base.neck_wd),
            classifier_lr: self.classifier_lr.unwrap_or(base.classifier_lr),
            classifier_wd: self.classifier_wd.unwrap_or(base.classifier_wd),
            dropout: self.dropout.unwrap_or(base.dropout),
            classifier: self.classifier(),
            ..base
        }
    }

    fn classifier(&self) -> Classifier {
        let scale = self.scale.unwrap_or(DEFAULT_SCALE);
        match self.classifier.unwrap_or(ClassifierName::Linear) {
            ClassifierName::Linear => Classifier::Linear,
            ClassifierName::Cosine => Classifier::Cosine { scale },
            ClassifierName::Arcface => {
                Classifier::ArcFace { scale, margin: self.margin.unwrap_or(DEFAULT_MARGIN) }
            }
        }
    }

    /// Whether its classifier has the keys that are given.
    fn check_classifier(&self) -> anyhow::Result<()> {
        let (name, kind) = (&self.name, self.classifier.unwrap_or(ClassifierName::Linear));
        ensure!(
            self.classifier.is_none() || self.kind == MemberKind::Tuned,
            "[[members]] {name}: only a tuned member has `classifier`"
        );
        ensure!(
            self.scale.is_none() || self.refine.is_some() || kind != ClassifierName::Linear,
            "[[members]] {name}: only classifier = \"cosine\" or \"arcface\" has `scale`, and a closed form with `refine`"
        );
        ensure!(
            self.margin.is_none() || kind == ClassifierName::Arcface,
            "[[members]] {name}: only classifier = \"arcface\" has `margin`"
        );
        Ok(())
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        let name = &self.name;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        ensure!(
            (1..=64).contains(&name.len()) && name.chars().all(plain),
            "[[members]]: the name {name:?} is impossible; give 1 to 64 letters, digits, '-' or '_'"
        );
        self.check_classifier()?;
        ensure!(
            self.start.is_none() || self.kind == MemberKind::Tuned,
            "[[members]] {name}: only a tuned member has `start`"
        );
        self.form().check().with_context(|| format!("[[members]] {name}"))?;
        self.recipe().check().with_context(|| format!("[[members]] {name}"))
    }

    /// Whether what a closed form stands on is there.
    pub(super) fn check_stand(&self, members: &[Self]) -> anyhow::Result<()> {
        let name = &self.name;
        if self.kind != MemberKind::ClosedForm {
            let keys = [
                ("on", self.on.is_some()),
                ("lift", self.lift.is_some()),
                ("projection", self.projection.is_some()),
                ("joint", self.joint.is_some()),
                ("refine", self.refine.is_some()),
                ("rate", self.rate.is_some()),
                ("outputs", self.outputs.is_some()),
            ];
            if let Some((key, _)) = keys.iter().find(|(_, given)| *given) {
                bail!("[[members]] {name}: only a closed form has `{key}`");
            }
            return Ok(());
        }
        for (key, width) in [("lift", self.lift), ("projection", self.projection), ("joint", self.joint)] {
            ensure!(
                width.is_none_or(|width| (1..=MAX_BASIS).contains(&width)),
                "[[members]] {name}: {key} must be 1 to {MAX_BASIS}"
            );
        }
        ensure!(
            self.projection.is_none() || (self.lift.is_none() && self.on.is_none()),
            "[[members]] {name}: a projection is of the trunk's feature map; leave `lift` and `on` out"
        );
        ensure!(
            self.joint.is_none() || (self.lift.is_none() && self.projection.is_none() && self.on.is_none()),
            "[[members]] {name}: `joint` is the embedding and the feature map; leave `lift`, `projection` and `on` out"
        );
        ensure!(
            self.rate.is_none() || self.refine.is_some(),
            "[[members]] {name}: `rate` is of the steps that `refine` asks for"
        );
        if let Some(refinement) = self.refinement() {
            ensure!(
                (1..=MAX_STEPS).contains(&refinement.steps),
                "[[members]] {name}: refine must be 1 to {MAX_STEPS} steps"
            );
            refinement.check().with_context(|| format!("[[members]] {name}"))?;
        }
        let Some(on) = &self.on else { return Ok(()) };
        let base = members.iter().find(|member| member.name == *on && member.kind == MemberKind::Tuned);
        let Some(base) = base else {
            bail!("[[members]] {name}: on = {on:?} is not the name of a tuned member");
        };
        ensure!(
            (&base.trunk, &base.cut) == (&self.trunk, &self.cut),
            "[[members]] {name} stands on {on}, which has another trunk; give both the same trunk and cut"
        );
        Ok(())
    }
}
