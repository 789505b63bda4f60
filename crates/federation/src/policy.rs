use serde::{Deserialize, Serialize};

use crate::plan::{Aggregation, Plan, Rows};
use crate::refusal::{Result, refuse};

/// What a site allows, in its own hands: the coordinator cannot overrule it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Sites that must take part besides what the protocol demands (3).
    pub minimum_sites: u16,
    /// Training images below which this site does not take part; 0 lets it bring its gallery and its questions alone.
    pub minimum_images: u32,
    /// Whether the coordinator must be kept from the sums.
    pub require_blind: bool,
    /// A classifier row may leave only when at least so many sites hold the syndrome; 1 allows all rows.
    pub rows_shared_by: u16,
    /// Aggregations that are allowed; empty allows every one.
    pub aggregations: Vec<Aggregation>,
    /// Digests (hexadecimal) of the trunks that are allowed; empty allows every one.
    pub trunks: Vec<String>,
    /// Whether the private kernel may be used at all.
    pub kernel: bool,
    /// Rankings that the plan may grant to each site.
    pub maximum_answers: u32,
    /// Distances in answers must be at least this coarse.
    pub minimum_distance_step: f32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            minimum_sites: 3,
            minimum_images: 0,
            require_blind: true,
            rows_shared_by: 1,
            aggregations: Vec::new(),
            trunks: Vec::new(),
            kernel: true,
            maximum_answers: 100_000,
            minimum_distance_step: 0.001,
        }
    }
}

impl Policy {
    /// Whether a site with so many training images may take part in the plan; the refusal names the rule.
    pub fn check(&self, plan: &Plan, images: u64) -> Result<()> {
        plan.check()?;
        if self.require_blind && !plan.blind {
            refuse!(PlanRefused, "policy require_blind: the plan shows the coordinator the sums");
        }
        if images < u64::from(self.minimum_images) {
            refuse!(PlanRefused, "policy minimum_images: {} are needed to take part", self.minimum_images);
        }
        if images < u64::from(plan.min_cohort) {
            refuse!(PlanRefused, "the plan asks for at least {} training images", plan.min_cohort);
        }
        if !self.aggregations.is_empty() && !self.aggregations.contains(&plan.aggregation) {
            refuse!(PlanRefused, "policy aggregations: {} is not among them", plan.aggregation);
        }
        let shared_by = match plan.rows {
            // Closed forms show the sums of each syndrome that travels, whatever becomes of the classifier.
            _ if plan.aggregation == Aggregation::EncoderOnly
                && plan.forms.is_empty()
                && plan.starts.is_empty() =>
            {
                u16::MAX
            }
            Rows::All => 1,
            Rows::Shared(k) => k,
        };
        if shared_by < self.rows_shared_by {
            refuse!(
                PlanRefused,
                "policy rows_shared_by: the plan must have rows = shared:{}",
                self.rows_shared_by
            );
        }
        let members = plan.members.iter().map(|member| (&member.name, member.trunk));
        for (name, trunk) in members.chain(plan.forms.iter().map(|form| (&form.name, form.trunk))) {
            let trunk = hex::encode(trunk);
            if !self.trunks.is_empty() && !self.trunks.iter().any(|t| t.eq_ignore_ascii_case(&trunk)) {
                refuse!(PlanRefused, "policy trunks: the trunk of member {name} ({trunk}) is not among them");
            }
        }
        if let Some(kernel) = &plan.kernel {
            if !self.kernel {
                refuse!(PlanRefused, "policy kernel: this site does not take part in a kernel");
            }
            if kernel.answers_per_site > self.maximum_answers {
                refuse!(
                    PlanRefused,
                    "policy maximum_answers: the plan grants {} answers, {} are allowed",
                    kernel.answers_per_site,
                    self.maximum_answers
                );
            }
            if kernel.distance_step < self.minimum_distance_step {
                refuse!(
                    PlanRefused,
                    "policy minimum_distance_step: the plan's {} is finer than {}",
                    kernel.distance_step,
                    self.minimum_distance_step
                );
            }
        }
        Ok(())
    }

    /// Whether so many members are enough for this site.
    pub(crate) fn check_members(&self, members: usize) -> Result<()> {
        let least = self.minimum_sites.max(3);
        if members < usize::from(least) {
            refuse!(TooFewSites, "{members} sites take part; this site asks for {least}");
        }
        Ok(())
    }
}
