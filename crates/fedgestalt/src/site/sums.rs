//! What a site adds up of its images for members that are computed, and what it computes from all sites' sums.

use anyhow::{Context, Result};
use federation::{AbstainReason, Action, FormSums, Solve, Weigh};
use learn::FormMoments;

use super::Site;
use super::model::{
    SiteModel, form_moments, form_sums, pair_moments, pair_sums, shared_syndromes, start_moments, start_sums,
};
use super::tables::Lessons;
use crate::pipeline::latest::Digest;
use crate::pipeline::weights::Weights;
use crate::pipeline::{forms, pairs};

impl Site {
    /// The sums that tuned members start from.
    pub(super) fn collect_start(&mut self) -> Result<Vec<Action>> {
        let (Some(lessons), Some(begin)) = (&self.lessons, &self.begin) else {
            anyhow::bail!("the session has not begun here");
        };
        let shared = shared_syndromes(begin);
        let sums = self.blueprint.starts().map(|(_, member, _)| {
            let published = self.blueprint.network(member).published()?;
            let views = &self.tables.views[member.network];
            Ok(start_sums(forms::start_moments(published, views, &lessons.training_views, &shared)?))
        });
        let sums = sums.collect::<Result<Vec<_>>>();
        self.bring(sums)
    }

    /// The tuned members before their first round, from the sums of all sites.
    pub(super) fn start_from(&mut self, solve: Solve) -> Result<Vec<Action>> {
        let mut heads = self.heads().context("the session has not begun here")?.to_vec();
        let dims: Vec<usize> = self.blueprint.starts().map(|(at, _, _)| heads[at].shape().dim).collect();
        let moments: Vec<_> =
            solve.sums.into_iter().zip(dims).map(|(sums, dim)| start_moments(sums, dim)).collect();
        forms::start(&self.blueprint, &mut heads, &moments)?;
        let weights = Weights { heads: heads.clone(), ..Weights::default() };
        self.model_mut()?.restart(heads)?;
        self.files.save_weights(solve.stage, &self.blueprint, &weights, None)?;
        self.confirm_model()
    }

    /// The sums behind the closed-form members over this site's training images.
    pub(super) fn collect(&mut self) -> Result<Vec<Action>> {
        let (model, lessons) = self.at_work()?;
        let begin = self.begin.as_ref().context("the session has not begun here")?;
        let shared = shared_syndromes(begin);
        let sums = self.blueprint.forms().map(|(member, form)| {
            let head = forms::base(&self.blueprint, member, form, model.heads())?;
            let views = &self.tables.views[member.network];
            let moments = forms::moments(form, head, views, &lessons.training_views, &shared)?;
            Ok(form_sums(moments))
        });
        let sums = sums.collect::<Result<Vec<_>>>();
        self.bring(sums)
    }

    fn bring(&mut self, sums: Result<Vec<FormSums>>) -> Result<Vec<Action>> {
        match sums {
            Ok(sums) => Ok(self.participant.submit_sums(&sums)?),
            Err(error) => self.sit_out(&error),
        }
    }

    pub(super) fn sit_out(&mut self, error: &anyhow::Error) -> Result<Vec<Action>> {
        tracing::warn!(site = %self.name, error = format!("{error:#}"), "this site sits the sums out");
        Ok(self.participant.abstain(AbstainReason::Failed)?)
    }

    /// The closed-form members from the sums of all sites.
    pub(super) fn solve(&mut self, solve: Solve) -> Result<Vec<Action>> {
        let sums = self.blueprint.forms().zip(solve.sums);
        let moments: Vec<_> = sums.map(|((_, form), sums)| form_moments(sums, form.dim)).collect();
        let blueprint = &self.blueprint;
        let forms = blueprint.solved.get(digest(&moments), || forms::solve(blueprint, &moments))?;
        self.prepare_refining(&moments)?;
        self.model_mut()?.set_forms(forms);
        self.keep(solve.stage)
    }

    /// The sums over pairs of this site's validation and training images.
    pub(super) fn compare(&mut self) -> Result<Vec<Action>> {
        let (model, lessons) = self.at_work()?;
        let views: Vec<_> = self.tables.views.iter().map(|table| table as _).collect();
        match pairs::moments(&self.blueprint, model.weights(), &views, &lessons.as_pairs()) {
            Ok(moments) => Ok(self.participant.submit_pairs(&pair_sums(moments))?),
            Err(error) => self.sit_out(&error),
        }
    }

    /// The members' weights from the sums of all sites.
    pub(super) fn weigh(&mut self, weigh: Weigh) -> Result<Vec<Action>> {
        let weights = pair_moments(weigh.sums).weights();
        tracing::info!(site = %self.name, ?weights, "the members' weights");
        self.model_mut()?.set_member_weights(weights);
        self.keep(weigh.stage)
    }

    pub(super) fn at_work(&self) -> Result<(&SiteModel, &Lessons)> {
        let at_work = self.model.as_ref().zip(self.lessons.as_ref());
        at_work.context("the session has not begun here")
    }

    pub(super) fn keep(&mut self, stage: u32) -> Result<Vec<Action>> {
        let weights = self.at_work()?.0.weights();
        self.files.save_weights(stage, &self.blueprint, &weights, None)?;
        self.confirm_model()
    }
}

/// What closed forms are solved from, all of it.
fn digest(moments: &[FormMoments]) -> blake3::Hash {
    let mut digest = Digest::default();
    for FormMoments { dim, rows, counts, sums, scatter } in moments {
        digest.add(&[*dim as i64, *rows]);
        [counts, sums, scatter].into_iter().for_each(|numbers| digest.add(numbers));
    }
    digest.finish()
}
