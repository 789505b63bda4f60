//! One cell: a federation in its own folder.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use domain::evaluate::Accuracies;

use super::results::Central;
use super::shared::Ground;
use super::{Cell, GridPlan, clear, subfolder};
use crate::config::Config;
use crate::consortium::federated::federate;
use crate::consortium::pooled::Patients;
use crate::consortium::results::Results;
use crate::consortium::{Order, Run, job};
use crate::context::Context;
use crate::store::Folder;

const RESULTS: &str = "results.json";
const CONFIG: &str = "config.toml";
/// What a session leaves and nobody asks for once the results are there: stores, weights, masked galleries.
const BULK: [&str; 3] = ["sites", "coordinator", "baselines"];

/// Runs a cell, or what is left of it; one that has its results is only read.
pub(super) fn run(
    context: &Context,
    plan: &GridPlan,
    folder: &Folder,
    cell: &Cell,
    ground: &Ground,
    central: &Central,
) -> Result<Results> {
    let order = Order {
        out: subfolder(folder, ["cells", &plan.name(cell)])?,
        cohort: plan.cohort.clone(),
        trunk: plan.trunk.clone(),
        config: plan.config(cell),
        drops: Vec::new(),
    };
    let mut run = Run::open_with(context, &order, ground.cohort.clone(), ground.blueprint.clone())?;
    if let Some(results) = run.folder.read_json(RESULTS)? {
        clear(run.folder.path(), &BULK)?;
        return Ok(results);
    }
    let baselines = match (&central.baselines, &central.error) {
        (Some(baselines), _) => baselines,
        (None, error) => {
            return Err(anyhow!("{}", error.as_deref().unwrap_or_default()))
                .context("its centralised training failed");
        }
    };
    let config = by_itself(&order.config, plan.trunk.as_deref())?;
    run.folder.write(CONFIG, config.to_toml()?.as_bytes())?;
    let members = run.phase("draw", |run| run.members_on(&ground.tables))?;
    let everybody = [Patients { cohort: &ground.cohort.cohort, tables: &ground.tables }];
    let local = match plan.local {
        true => run.phase("local training", |run| job::local(run, &members, &everybody))?,
        false => Vec::new(),
    };
    let local: Vec<Accuracies> = local.iter().map(|baseline| baseline.accuracies).collect();
    let federated = run.phase("federation", |run| federate(run, members))?;
    let baselines = job::Baselines {
        central: &baselines.central,
        local: &local,
        published: &baselines.published,
        recipe: None,
    };
    let results = job::results(&run, baselines, &federated, None);
    run.folder.write_json(RESULTS, &results)?;
    drop(federated);
    clear(run.folder.path(), &BULK)?;
    Ok(results)
}

/// The configuration with which `federate` does the same from any folder.
fn by_itself(config: &Config, trunk: Option<&Path>) -> Result<Config> {
    let mut whole = config.clone();
    whole.federation.compare_recipe = false;
    let absolute = |path: PathBuf| std::path::absolute(&path).with_context(|| path.display().to_string());
    let shared = trunk.map(Path::to_path_buf).or(config.trunk.file.as_ref().map(|file| config.resolve(file)));
    whole.trunk.file = shared.map(absolute).transpose()?;
    for member in &mut whole.members {
        let own = member.trunk.as_ref().map(|file| config.resolve(file));
        member.trunk = own.map(absolute).transpose()?;
    }
    Ok(whole)
}
