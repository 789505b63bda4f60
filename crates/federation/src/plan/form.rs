//! Closed-form members in the plan.

use serde::{Deserialize, Serialize};

use super::MemberPlan;
use crate::identity::hexed;
use crate::refusal::{Result, refuse};

/// What a closed form is an analysis of. Seeds are the plan's, so that every site draws the same random features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The representation itself.
    Representation,
    /// So many random features of the representation, rectified.
    Lift {
        /// What the signs are drawn from.
        seed: u64,
    },
    /// So many random sums of the trunk's feature map.
    Projection {
        /// What the signs are drawn from.
        seed: u64,
    },
    /// The representation and random sums of the feature map, side by side.
    Joint {
        /// What the signs are drawn from.
        seed: u64,
    },
}

/// A member that is computed from sums and not trained: linear discriminant analysis of another representation. The sites
/// read how the sums become weights; to the protocol it is two tensors, a mean of `dim` values and an `outputs` x `dim` map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormPlan {
    /// Name, such as `form`.
    pub name: String,
    /// The trained member whose representation it stands on; none for the network as published.
    pub on: Option<String>,
    /// Digest of the frozen trunk below it.
    #[serde(with = "hexed")]
    pub trunk: [u8; 32],
    /// What of the network or the member it is an analysis of.
    pub basis: Basis,
    /// Values of the basis.
    pub dim: usize,
    /// Values of the result, at most as many.
    pub outputs: usize,
    /// The ridge.
    pub ridge: Ridge,
    /// How much each direction counts.
    pub weighting: Weighting,
    /// How it is refined once it is solved, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refinement: Option<RefinementPlan>,
}

/// Steps down the gradient of a loss over all sites' images, each a secure sum of its own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefinementPlan {
    /// How many, 1 to 1000.
    pub steps: u32,
    /// Length of the first as a share of the map's, above 0, at most 1.
    pub rate: f64,
    /// What cosines to the syndromes' means are multiplied by in the loss, above 0.
    pub scale: f64,
}

impl RefinementPlan {
    /// Most steps of a plan.
    const MAX_STEPS: u32 = 1000;

    fn check(self) -> Result<()> {
        if self.steps == 0 || self.steps > Self::MAX_STEPS {
            refuse!(PlanInvalid, "{} steps; 1 to {} are possible", self.steps, Self::MAX_STEPS);
        }
        if !(self.rate > 0.0 && self.rate <= 1.0) {
            refuse!(PlanInvalid, "its rate is {}; give a number above 0, at most 1", self.rate);
        }
        if !(self.scale > 0.0 && self.scale.is_finite()) {
            refuse!(PlanInvalid, "its scale is {}; give a number above 0", self.scale);
        }
        Ok(())
    }
}

/// What is added to the covariance within syndromes, in units of its mean eigenvalue.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ridge {
    /// So much.
    Fixed(f64),
    /// What every site chooses alike from the sums: that under which syndromes are told apart best that had no part in finding
    /// the directions.
    HeldOut,
}

/// How much a direction counts, by the spread of the syndromes' means along it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// By a power of the trained syndromes' spread.
    Power {
        /// The power.
        power: f64,
        /// Added to the spread before.
        floor: f64,
    },
    /// By the spread of syndromes that had no part in finding the directions.
    HeldOut,
}

impl FormPlan {
    /// Words of one site's sums: whole numbers of two words each.
    pub(crate) fn words(&self, trained: usize) -> usize {
        let numbers = 1 + trained + trained.saturating_mul(self.dim) + self.dim * (self.dim + 1) / 2;
        numbers.saturating_mul(secure::fixed::Integers::WORDS)
    }

    /// Steps that refine it.
    pub fn steps(&self) -> u32 {
        self.refinement.map_or(0, |refinement| refinement.steps)
    }

    /// Numbers of one site's gradient by the map, by what is taken from values, and by the syndromes' means.
    pub(crate) fn gradient_numbers(&self, trained: usize) -> [usize; 3] {
        [self.outputs * self.dim, self.outputs, trained.saturating_mul(self.outputs)]
    }

    /// Words of one site's gradient: these numbers, the loss and the rows behind them.
    pub(crate) fn gradient_words(&self, trained: usize) -> usize {
        let numbers = self.gradient_numbers(trained).into_iter().fold(2, usize::saturating_add);
        numbers.saturating_mul(secure::fixed::Integers::WORDS)
    }

    pub(super) fn check(&self, members: &[MemberPlan]) -> Result<()> {
        if self.dim == 0 || self.dim > 1 << 12 {
            refuse!(PlanInvalid, "a closed form of {} values; 1 to 4096 are possible", self.dim);
        }
        if self.outputs == 0 || self.outputs > self.dim {
            refuse!(
                PlanInvalid,
                "{} outputs of {} values; at least 1 and no more than those",
                self.outputs,
                self.dim
            );
        }
        if let Some(refinement) = self.refinement {
            refinement.check()?;
        }
        if matches!(self.basis, Basis::Projection { .. } | Basis::Joint { .. }) && self.on.is_some() {
            refuse!(PlanInvalid, "a projection is of the trunk's feature map; it stands on no member");
        }
        let (power, floor) = match self.weighting {
            Weighting::Power { power, floor } => (power, floor),
            Weighting::HeldOut => (0.0, 0.0),
        };
        let ridge = match self.ridge {
            Ridge::Fixed(ridge) => ridge,
            Ridge::HeldOut => 0.0,
        };
        let settings = [ridge, power, floor];
        if settings.iter().any(|x| !x.is_finite() || *x < 0.0) {
            refuse!(PlanInvalid, "ridge, power and floor must be finite and not negative");
        }
        match &self.on {
            Some(on) if !members.iter().any(|m| m.name == *on && m.trunk == self.trunk) => {
                refuse!(PlanInvalid, "it stands on {on}, and no trained member of its trunk is called so")
            }
            _ => Ok(()),
        }
    }
}
