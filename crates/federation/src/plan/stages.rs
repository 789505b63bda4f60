//! The stages of a session: what is summed, one after the other.

use std::ops::Range;

use super::{FormPlan, Plan, Stopping};

/// What is summed at a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Training images by syndrome.
    Counts,
    /// What tuned members start from.
    Start,
    /// Updates of a round of training.
    Round,
    /// Figures of the last round's model on validation images.
    Validation,
    /// What closed-form members are computed from.
    Moments,
    /// The gradient of a step that refines closed-form members.
    Gradient,
    /// What the members' weights are computed from.
    Pairs,
    /// Hits of the evaluation.
    Metrics,
}

impl Stage {
    /// As it stands in what the masks are derived from.
    pub(crate) fn purpose(self) -> &'static str {
        match self {
            Self::Counts => "counts",
            Self::Start => "start",
            Self::Round => "round",
            Self::Validation => "validation",
            Self::Moments => "moments",
            Self::Gradient => "gradient",
            Self::Pairs => "pairs",
            Self::Metrics => "metrics",
        }
    }
}

impl Plan {
    /// Aggregations: epochs / interval, rounded up.
    pub fn rounds(&self) -> u32 {
        self.epochs.div_ceil(self.interval.max(1))
    }

    /// Stages between the counts and the first round: one where tuned members start from closed forms.
    pub fn start_stages(&self) -> u32 {
        u32::from(!self.starts.is_empty())
    }

    /// The stage of a round (from 1); of round 0, the one after which the model stands that the first round begins with.
    pub fn stage_of(&self, round: u32) -> u32 {
        self.start_stages() + round
    }

    /// Stages that tuned members need: their start, the rounds, and the last model's validation where the best one is chosen.
    /// Rounds after the one that they end with are left out, and keep their numbers.
    pub fn tuning_stages(&self) -> u32 {
        self.stage_of(self.rounds()) + u32::from(self.chooses())
    }

    /// Whether the release has the model of the best round, and not that of the last.
    fn chooses(&self) -> bool {
        self.tuning.stopping != Stopping::Never && self.rounds() > 0
    }

    /// The stage after which closed-form members are solved: one more than those of tuned ones, where there are any.
    fn moments_stage(&self) -> u32 {
        self.tuning_stages() + u32::from(!self.forms.is_empty())
    }

    /// The last stage of members: those of tuned ones, one for closed-form ones, and one for each step that refines these.
    pub fn members_stage(&self) -> u32 {
        self.moments_stage() + self.forms.iter().map(FormPlan::steps).max().unwrap_or(0)
    }

    /// The step (from 0) that a stage of kind [`Stage::Gradient`] is.
    pub(crate) fn step_of(&self, stage: u32) -> u32 {
        stage.saturating_sub(self.moments_stage() + 1)
    }

    /// The last stage whose sum changes the model: those of members, and one more where their weights are fitted.
    pub fn last_model_stage(&self) -> u32 {
        self.members_stage() + u32::from(self.weighed().is_some())
    }

    /// How many members have fitted weights; none where all count alike.
    pub(crate) fn weighed(&self) -> Option<usize> {
        self.kernel.as_ref()?.weighed.map(usize::from)
    }

    /// One stage of every kind, for what depends on the kind only.
    pub(crate) fn kinds_of_stages(&self) -> impl Iterator<Item = u32> {
        let last = self.last_model_stage();
        let (tuning, moments, members) = (self.tuning_stages(), self.moments_stage(), self.members_stage());
        [0, 1, self.stage_of(1), tuning, moments, moments + 1, members, last, last + 1].into_iter()
    }

    /// What is summed at a stage.
    pub(crate) fn stage(&self, stage: u32) -> Stage {
        match stage {
            0 => Stage::Counts,
            stage if stage <= self.start_stages() => Stage::Start,
            stage if stage <= self.stage_of(self.rounds()) => Stage::Round,
            stage if stage <= self.tuning_stages() => Stage::Validation,
            stage if stage <= self.moments_stage() => Stage::Moments,
            stage if stage <= self.members_stage() => Stage::Gradient,
            stage if stage <= self.last_model_stage() => Stage::Pairs,
            _ => Stage::Metrics,
        }
    }

    /// The epochs (from 0) that belong to a round (from 1).
    pub fn epochs_of(&self, round: u32) -> Range<u32> {
        let start = round.saturating_sub(1).saturating_mul(self.interval).min(self.epochs);
        start..start.saturating_add(self.interval).min(self.epochs)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::tests::{toy_form, toy_kernel, toy_plan};

    #[test]
    fn rounds_cover_every_epoch_once() {
        let plan = toy_plan();
        assert_eq!(plan.rounds(), 3);
        let epochs: Vec<u32> = (1..=plan.rounds()).flat_map(|r| plan.epochs_of(r)).collect();
        assert_eq!(epochs, (0..7).collect::<Vec<_>>());
    }

    #[test]
    fn stages_follow_each_other_whatever_a_plan_has() {
        use Stage::*;
        let stages =
            |plan: &Plan| (0..=plan.last_model_stage() + 1).map(|s| plan.stage(s)).collect::<Vec<_>>();
        let mut plan = toy_plan();
        assert_eq!(stages(&plan), [Counts, Round, Round, Round, Metrics]);
        plan.starts.push(toy_form("toy"));
        assert_eq!(stages(&plan), [Counts, Start, Round, Round, Round, Metrics]);
        assert_eq!((plan.stage_of(0), plan.stage_of(3)), (1, 4));
        plan.tuning.stopping = "loss:2".parse().unwrap();
        plan.forms.push(toy_form("form"));
        plan.kernel = Some(KernelPlan { weighed: Some(2), ..toy_kernel() });
        assert_eq!(stages(&plan), [Counts, Start, Round, Round, Round, Validation, Moments, Pairs, Metrics]);
        plan.check().unwrap();
        plan.forms[0].refinement = Some(RefinementPlan { steps: 2, rate: 0.1, scale: 16.0 });
        assert_eq!(stages(&plan)[6..], [Moments, Gradient, Gradient, Pairs, Metrics]);
        assert_eq!((plan.step_of(7), plan.step_of(8), plan.members_stage()), (0, 1, 8));
        for kind in stages(&plan) {
            assert!(plan.kinds_of_stages().any(|stage| plan.stage(stage) == kind), "{kind:?}");
        }
    }

    use crate::plan::{KernelPlan, RefinementPlan};
}
