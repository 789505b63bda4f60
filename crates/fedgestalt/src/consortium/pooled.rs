//! What a federation is measured against: one training on everybody's images, and each site by itself.

use anyhow::{Context as _, Result};
use domain::cohort::{Cohort, Part};
use domain::evaluate::{Accuracies, evaluate_scored};
use domain::{Encoding, ImageId, SyndromeId};
use learn::{ClosedForm, Head, Recipe};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::{Method, Run};
use crate::config::MemberWeights;
use crate::pipeline::bundle;
use crate::pipeline::ensemble::{Blueprint, Ensemble, Member};
use crate::pipeline::features::Union;
use crate::pipeline::forms;
use crate::pipeline::pairs;
use crate::pipeline::training::{
    CurvePoint, LEAST_IMAGES, Learner, Schedule, label_counts, loss_weights, rate_schedule, train,
};
use crate::pipeline::weights::Weights;
use crate::site::model::{member_seed, starting_heads};
use crate::site::tables::{Lessons, Tables};

/// Syndromes that a closed form needs: there is nothing to tell apart in fewer.
const LEAST_SYNDROMES: usize = 2;

/// A training on one pool: per tuned member its curve, and what the ensemble reaches on the whole cohort.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Curve per tuned member.
    pub curves: Vec<Vec<CurvePoint>>,
    /// Accuracies on the whole cohort's gallery and probes.
    pub accuracies: Accuracies,
    /// The same encodings ranked as the run ranks its own, where the method says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alike: Option<Accuracies>,
}

/// Some patients with their features: those of one site, or of all.
#[derive(Clone, Copy)]
pub struct Patients<'a> {
    /// Who they are.
    pub cohort: &'a Cohort,
    /// Tables with at least their rows.
    pub tables: &'a Tables,
}

/// The baseline of one training over the tables of some sites. Kept in the run's folder under `name`.
pub fn baseline(
    run: &Run<'_>,
    method: Method<'_>,
    name: &str,
    learners: &[Patients<'_>],
    everybody: &[Patients<'_>],
    tick: &(dyn Fn() + Sync),
) -> Result<Baseline> {
    let folder = run.folder.subfolder("baselines")?;
    let file = format!("{name}.json");
    let kept = crate::store::read_json::<Baseline>(&folder.join(&file))?;
    if let Some(kept) = kept {
        (0..method.config.training.epochs as usize * kept.curves.len()).for_each(|_| tick());
        return Ok(kept);
    }
    let trained = trained(learners);
    let (weights, curves) =
        training(method, learners, &trained, tick).with_context(|| format!("{name} training"))?;
    let ensemble = method.blueprint.ensemble(weights.clone())?;
    let encodings = encodings(&ensemble, everybody)?;
    let ranked =
        |scoring| Ok::<_, anyhow::Error>(evaluate_scored(&run.cohort.cohort, &encodings, scoring)?.table());
    let (own, runs) = (method.config.kernel.scoring(), run.method().config.kernel.scoring());
    let accuracies = ranked(own)?;
    let alike = (own != runs).then(|| ranked(runs)).transpose()?;
    let model = run.model(method, name, trained, None);
    bundle::save(&folder.join(name), &model, method.blueprint, &weights)?;
    let baseline = Baseline { curves, accuracies, alike };
    crate::store::write_json(&folder.join(&file), &baseline)?;
    Ok(baseline)
}

/// Trains every tuned member on the images of some sites, and computes the closed-form ones from them. A member that
/// they have too few images for stays as it was published.
fn training(
    method: Method<'_>,
    learners: &[Patients<'_>],
    trained: &[SyndromeId],
    tick: &(dyn Fn() + Sync),
) -> Result<(Weights, Vec<Vec<CurvePoint>>)> {
    let (blueprint, config) = (method.blueprint, &method.config.training);
    let mut heads = starting_heads(blueprint, trained.len().max(1), config.seed)?;
    let merged = Cohort::merge(&learners.iter().map(|m| m.cohort).collect::<Vec<_>>())?;
    if trained.len() >= LEAST_SYNDROMES {
        let starts = blueprint.starts().map(|(_, member, _)| {
            let (views, lessons) = on_views(learners, &merged, trained, member.network)?;
            let published = blueprint.network(member).published()?;
            forms::start_moments(published, &views, &lessons.training_views, &vec![true; trained.len()])
        });
        forms::start(blueprint, &mut heads, &starts.collect::<Result<Vec<_>>>()?)?;
    }
    let tuned: Vec<&Member> = blueprint.tuned().collect();
    let material = tuned.iter().map(|member| {
        let draws = learners.iter().map(|l| l.tables.draws[member.network].as_ref());
        let draws =
            Union::new(draws.map(|d| d.context("a site has no augmented draws")).collect::<Result<_>>()?)?;
        let views = Union::new(learners.iter().map(|l| &l.tables.views[member.network]).collect())?;
        let lessons =
            Lessons::new(&merged, trained, Some(&|image| draws.row_of(image)), &|image| views.row_of(image))?;
        Ok((draws, views, lessons))
    });
    let material: Vec<_> = material.collect::<Result<_>>()?;
    let (heads, curves): (Vec<Head>, Vec<Vec<CurvePoint>>) = if material
        .iter()
        .any(|(_, _, lessons)| lessons.training.len() < LEAST_IMAGES)
    {
        (0..config.epochs as usize * heads.len()).for_each(|_| tick());
        heads.into_iter().map(|head| (head, Vec::new())).unzip()
    } else {
        let members = heads.into_iter().zip(&tuned).zip(&material).enumerate();
        let learners = members.map(|(at, ((head, member), (draws, views, lessons)))| {
            let pool = lessons.pool(draws, views);
            let weights = loss_weights(config.class_weighting, &label_counts(pool.training, trained.len()));
            let recipe = member.recipe.with_context(|| format!("member {} has no recipe", member.name))?;
            let recipe = Recipe { rates: rate_schedule(config.rates, config.epochs), ..recipe };
            Learner::new(&member.name, head, recipe, weights, pool, member_seed(config.seed, at))
        });
        let (epochs, interval, stopping) = (config.epochs, config.interval, config.stopping);
        let schedule = Schedule { epochs, interval, stopping, rates: config.rates };
        train(learners.collect::<Result<_>>()?, schedule, tick)?.into_iter().unzip()
    };
    if trained.len() < LEAST_SYNDROMES {
        let forms = blueprint.forms().map(|(_, form)| unchanged(form.dim, form.outputs()));
        return Ok((Weights { heads, forms: forms.collect::<Result<_>>()?, members: Vec::new() }, curves));
    }
    let weighting = config.class_weighting;
    let mut weights = forms::complete(blueprint, heads, trained.len(), weighting, |network| {
        let (views, lessons) = on_views(learners, &merged, trained, network)?;
        Ok((Box::new(views), lessons.training_views))
    })?;
    if method.config.kernel.weights == MemberWeights::Fitted {
        weights.members = member_weights(blueprint, learners, &merged, trained, &weights)?;
    }
    Ok((weights, curves))
}

/// The tables of one network's views, and the images on them.
fn on_views<'a>(
    learners: &[Patients<'a>],
    merged: &Cohort,
    trained: &[SyndromeId],
    network: usize,
) -> Result<(Union<'a>, Lessons)> {
    let views = Union::new(learners.iter().map(|l| &l.tables.views[network]).collect())?;
    let lessons = Lessons::new(merged, trained, None, &|image| views.row_of(image))?;
    Ok((views, lessons))
}

/// What each member counts, by the pool's own validation images.
fn member_weights(
    blueprint: &Blueprint,
    learners: &[Patients<'_>],
    merged: &Cohort,
    trained: &[SyndromeId],
    weights: &Weights,
) -> Result<Vec<f32>> {
    let networks = (0..blueprint.networks.len()).map(|at| on_views(learners, merged, trained, at));
    let networks = networks.collect::<Result<Vec<_>>>()?;
    let (_, lessons) = networks.first().context("an ensemble stands on networks")?;
    let views: Vec<_> = networks.iter().map(|(views, _)| views as _).collect();
    Ok(pairs::moments(blueprint, weights.clone(), &views, &lessons.as_pairs())?.weights())
}

/// The closed form that leaves representations as they are, or takes the first values of them.
fn unchanged(dim: usize, outputs: usize) -> Result<ClosedForm> {
    let mut projection = vec![0.0; outputs * dim];
    projection.iter_mut().step_by(dim + 1).for_each(|value| *value = 1.0);
    Ok(ClosedForm::from_tensors(vec![0.0; dim], projection)?)
}

/// The syndromes some sites train on, united and in order.
fn trained(learners: &[Patients<'_>]) -> Vec<SyndromeId> {
    let all: std::collections::BTreeSet<SyndromeId> =
        learners.iter().flat_map(|member| member.cohort.trained_syndromes()).collect();
    all.into_iter().collect()
}

/// The four settings for an ensemble, over the gallery and probes of every site.
pub fn accuracies(
    method: Method<'_>,
    cohort: &Cohort,
    ensemble: &Ensemble<'_>,
    everybody: &[Patients<'_>],
) -> Result<Accuracies> {
    let encodings = encodings(ensemble, everybody)?;
    Ok(evaluate_scored(cohort, &encodings, method.config.kernel.scoring())?.table())
}

/// The encodings of every site's gallery and probes.
pub fn encodings(ensemble: &Ensemble<'_>, everybody: &[Patients<'_>]) -> Result<BTreeMap<ImageId, Encoding>> {
    let mut all = BTreeMap::new();
    for member in everybody {
        let images: std::collections::BTreeSet<ImageId> = member
            .cohort
            .parts()
            .filter(|(part, _)| !matches!(part, Part::Train | Part::Validation))
            .flat_map(|(_, images)| images.to_vec())
            .collect();
        all.extend(member.tables.encode(ensemble, &images.into_iter().collect::<Vec<_>>())?);
    }
    Ok(all)
}
