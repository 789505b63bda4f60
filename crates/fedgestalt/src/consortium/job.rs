//! The main job from a cohort to a report: baselines, federation, newcomer, tables.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use domain::evaluate::Accuracies;

use super::federated::{Federated, federate};
use super::newcomer;
use super::pooled::{Baseline, Patients, accuracies, baseline};
use super::results::{Results, settings};
use super::show::{NewcomerStory, Story};
use super::{Member, Method, Order, Run, peak_rss_mb};
use crate::cohort_dir::CohortDir;
use crate::context::Context;
use crate::pipeline::bundle;
use crate::report;
use crate::store;

/// What the job is called and what it adds to the plain one.
pub struct Extras {
    /// Title of the report.
    pub title: String,
    /// Size of the cohort in words; `None` counts it.
    pub scale: Option<String>,
    /// A cohort of patients whose site joins after training.
    pub newcomer: Option<PathBuf>,
}

/// Runs the job in its folder, or what is left of it, and writes `results.json` and `report.html`.
pub fn run(context: &Context, order: &Order, extras: &Extras) -> Result<Results> {
    let mut run = Run::open(context, order)?;
    run.compare_with_recipe();
    let members = run.phase("features", Run::members)?;
    let published = {
        let ensemble = run.blueprint.with(None)?;
        let everybody: Vec<Patients<'_>> = members.iter().map(Member::patients).collect();
        accuracies(run.method(), &run.cohort.cohort, &ensemble, &everybody)?
    };
    let central = run.phase("central training", |run| central(run, &members))?;
    let recipe = match run.recipe().is_some() {
        true => Some(run.phase("paper's recipe", |run| recipe(run, &members))?),
        false => None,
    };
    let local = run.phase("local training", |run| {
        let everybody: Vec<Patients<'_>> = members.iter().map(Member::patients).collect();
        local(run, &members, &everybody)
    })?;
    let local: Vec<Accuracies> = local.iter().map(|baseline| baseline.accuracies).collect();
    let mut federated = run.phase("federation", |run| federate(run, members))?;
    save_model(&run, &federated)?;
    let newcomer = match &extras.newcomer {
        Some(folder) => Some(run.phase("newcomer", |run| newcomer::join(run, &mut federated, folder))?),
        None => None,
    };
    let baselines = Baselines { central: &central.accuracies, local: &local, published: &published, recipe };
    let results = results(&run, baselines, &federated, newcomer.as_ref());
    write(&run, extras, results, &central, &federated, newcomer)
}

/// The federated model as a folder that `encode` and `rank` take.
fn save_model(run: &Run<'_>, federated: &Federated) -> Result<()> {
    let site = federated.sites.first().context("a federation has sites")?;
    let (weights, trained) = site.trained().context("the session ended without a model")?;
    let release = hex::encode(federated.release.release.digest());
    bundle::save(
        &super::file(run, "model"),
        &run.model(run.method(), "federated", trained.to_vec(), Some(release)),
        &run.blueprint,
        &weights,
    )
}

fn epochs(method: Method<'_>, trainings: usize) -> u64 {
    u64::from(method.config.training.epochs) * method.blueprint.tuned().count() as u64 * trainings as u64
}

fn central(run: &Run<'_>, members: &[Member]) -> Result<Baseline> {
    let stage = run.context.progress.stage("Centralised training", epochs(run.method(), 1));
    let all: Vec<Patients<'_>> = members.iter().map(Member::patients).collect();
    let baseline = baseline(run, run.method(), "central", &all, &all, &|| stage.advance(1))?;
    stage.finish(format_args!("top-1 {:.2} %", baseline.accuracies.frequent_frequent[0]));
    Ok(baseline)
}

/// The paper's recipe on everybody's images.
fn recipe(run: &Run<'_>, members: &[Member]) -> Result<Baseline> {
    let method = run.recipe().context("the paper's recipe is not compared with")?;
    let stage = run.context.progress.stage("The paper's recipe, centralised", epochs(method, 1));
    let all: Vec<Patients<'_>> = members.iter().map(Member::patients).collect();
    let baseline = baseline(run, method, "recipe", &all, &all, &|| stage.advance(1))?;
    stage.finish(format_args!("top-1 {:.2} %", baseline.accuracies.frequent_frequent[0]));
    Ok(baseline)
}

/// Each site by itself, asked everybody's questions.
pub(crate) fn local(run: &Run<'_>, members: &[Member], everybody: &[Patients<'_>]) -> Result<Vec<Baseline>> {
    let stage = run.context.progress.stage("Local training", epochs(run.method(), members.len()));
    let baselines = members
        .iter()
        .map(|member| {
            stage.note(member.name.clone());
            let name = format!("local-{}", member.name);
            baseline(run, run.method(), &name, &[member.patients()], everybody, &|| stage.advance(1))
        })
        .collect::<Result<Vec<_>>>()?;
    let tables: Vec<Accuracies> = baselines.iter().map(|b| b.accuracies).collect();
    stage.finish(format_args!("mean top-1 {:.2} %", Accuracies::mean(&tables).frequent_frequent[0]));
    Ok(baselines)
}

/// What a federation is compared with.
pub(crate) struct Baselines<'a> {
    /// One training on everybody's images.
    pub(crate) central: &'a Accuracies,
    /// Each site by itself; their mean stands for them.
    pub(crate) local: &'a [Accuracies],
    /// The networks as published.
    pub(crate) published: &'a Accuracies,
    /// The paper's recipe, centralised.
    pub(crate) recipe: Option<Baseline>,
}

/// What the job came to.
pub(crate) fn results(
    run: &Run<'_>,
    baselines: Baselines<'_>,
    federated: &Federated,
    newcomer: Option<&NewcomerStory>,
) -> Results {
    let mut bytes = std::collections::BTreeMap::<String, u64>::new();
    for (_, phase, sent) in &federated.accounts.up {
        *bytes.entry(phase.clone()).or_default() += sent;
    }
    bytes.values_mut().for_each(|sum| *sum /= u64::from(run.settings.sites));
    Results {
        settings: settings(
            baselines.central,
            &federated.accuracies,
            &Accuracies::mean(baselines.local),
            baselines.published,
            baselines.recipe.as_ref(),
        ),
        sites: run.settings.sites,
        draw: run.settings.draw.to_string(),
        seed: run.settings.config.training.seed,
        seconds: run.phases.seconds().clone(),
        bytes_up_per_site: bytes,
        peak_rss_mb: peak_rss_mb(),
        engines: run.blueprint.runs(),
        release: hex::encode(federated.release.release.digest()),
        newcomer: newcomer.map(|story| story.results.clone()),
    }
}

fn write(
    run: &Run<'_>,
    extras: &Extras,
    results: Results,
    central: &Baseline,
    federated: &Federated,
    newcomer: Option<NewcomerStory>,
) -> Result<Results> {
    let stage = run.context.progress.stage("Report", 0);
    let story = Story {
        run,
        results: &results,
        central,
        federated,
        extra_rows: Vec::new(),
        newcomer,
        title: extras.title.clone(),
        scale: extras.scale.clone().unwrap_or_else(|| size(&run.cohort)),
    };
    let data = story.data()?;
    store::write_json(&super::file(run, "report.json"), &data)?;
    store::write_private(&super::file(run, "report.html"), report::render(&data)?.as_bytes())?;
    store::write_json(&super::file(run, "results.json"), &results)?;
    stage.finish(super::file(run, "report.html").display());
    Ok(results)
}

/// A cohort's size in words.
fn size(cohort: &CohortDir) -> String {
    let cohort = &cohort.cohort;
    let trained = cohort.trained_syndromes().len();
    let all: std::collections::BTreeSet<_> = cohort.cases().iter().map(|case| &case.syndrome).collect();
    format!("{trained} frequent and {} rare syndromes, {} images", all.len() - trained, cohort.cases().len())
}
