//! A grid of federations over one cohort: every method for every number of sites, draw and seed.
//!
//! ```text
//! plan.toml                    the plan that was asked for last
//! features/                    the trunks' outputs for the whole cohort, computed once
//! central/METHOD-seedS/        centralised trainings: they depend on method and seed only
//! cells/CELL/                  one federation each: run.json, config.toml, results.json
//! experiment.json, table.md, experiment.html
//! ```
//!
//! A cell is an ordinary run ([`crate::consortium`]) with its own keys, stores and the whole protocol; only the features
//! are those of the whole cohort, in which every site finds its own patients. Cells that have their results are not run
//! again. Nothing of a result depends on how many cells run at a time; their seconds do.

mod cell;
mod plan;
pub mod results;
mod shared;
pub mod table;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use domain::evaluate::Setting;

pub use self::plan::{Cell, GridPlan, Method};
pub use self::results::Experiment;
use self::results::{CellResults, Central};
use self::shared::{Ground, prepare};
use crate::cohort_dir::CohortDir;
use crate::consortium::results::retention;
use crate::context::Context;
use crate::faces::FaceFinder;
use crate::output::Output;
use crate::progress::{Progress, Stage};
use crate::report;
use crate::store::{self, Folder};

/// The tables for a reader.
pub const TABLE: &str = "table.md";
/// The figures.
pub const PAGE: &str = "experiment.html";
/// Everything, for a program.
pub const RESULTS: &str = "experiment.json";
const PLAN: &str = "plan.toml";

/// Runs what is missing of the grid in the folder `out`, `jobs` cells at a time, and writes its table and figures. A cell
/// that fails does not keep the others from their work.
///
/// # Errors
///
/// When the cohort or a trunk cannot be used, or the folder cannot be written.
pub fn run(context: &Context, plan: &GridPlan, out: &Path, jobs: usize) -> Result<Experiment> {
    let folder = Folder::open(out)?;
    let faces = FaceFinder::open(&context.config, None, false, 1)?;
    let cohort = Arc::new(CohortDir::open(&plan.cohort)?.with_faces(faces));
    folder.write(PLAN, plan.text.as_bytes())?;
    let grounds = prepare(context, plan, &folder, &cohort)?;
    // Many runs side by side would garble each other's progress: the grid's own is shown instead.
    let quiet = Context {
        config: context.config.clone(),
        output: Output::new(false, true),
        progress: Progress::silent(),
        began: context.began,
    };
    let central = central(context, &quiet, plan, &folder, &grounds, jobs);
    let cells = cells(context, &quiet, plan, &folder, &grounds, &central, jobs);
    let experiment = Experiment::new(plan, &cohort.cohort, central, cells);
    folder.write_json(RESULTS, &experiment)?;
    folder.write(TABLE, table::markdown(&experiment).as_bytes())?;
    folder.write(PAGE, report::experiment(&experiment)?.as_bytes())?;
    Ok(experiment)
}

/// One training on everybody's images for every method and seed.
fn central(
    context: &Context,
    quiet: &Context,
    plan: &GridPlan,
    folder: &Folder,
    grounds: &[Ground],
    jobs: usize,
) -> Vec<Central> {
    let stage = context.progress.stage("Centralised training", grounds.len() as u64);
    let central = side_by_side(jobs, grounds, |ground| {
        let method = &plan.methods[ground.method];
        let results = shared::central(quiet, plan, folder, ground);
        stage.advance(1);
        Central::new(method, ground.seed, results)
    });
    stage.finish(format_args!("{} trainings", grounds.len()));
    central
}

fn cells(
    context: &Context,
    quiet: &Context,
    plan: &GridPlan,
    folder: &Folder,
    grounds: &[Ground],
    central: &[Central],
    jobs: usize,
) -> Vec<CellResults> {
    let all = plan.cells();
    let stage = context.progress.stage("Cells", all.len() as u64);
    let cells = side_by_side(jobs, &all, |cell| {
        let name = plan.name(cell);
        let base = grounds.iter().zip(central).find(|(g, _)| (g.method, g.seed) == (cell.method, cell.seed));
        let results = base
            .context("a cell without features")
            .and_then(|(ground, central)| cell::run(quiet, plan, folder, cell, ground, central))
            .map_err(|error| format!("{error:#}"));
        let results = CellResults::new(name, &plan.methods[cell.method], cell, results);
        told(context, &stage, &results);
        results
    });
    let failed = cells.iter().filter(|cell| cell.error.is_some()).count();
    stage.finish(match failed {
        0 => format!("{} cells", cells.len()),
        failed => format!("{} cells, {failed} failed", cells.len()),
    });
    cells
}

fn told(context: &Context, stage: &Stage, cell: &CellResults) {
    stage.advance(1);
    let name = &cell.name;
    let Some(results) = &cell.results else {
        context.progress.say(format_args!("{name} failed: {}", cell.error.as_deref().unwrap_or_default()));
        return;
    };
    if let Some(table) = results.settings.get(Setting::FrequentFrequent.key()) {
        let kept = retention(table.federated[0], table.central[0]).unwrap_or(f64::NAN);
        stage.note(name.clone());
        context
            .progress
            .say(format_args!("{name}: top-1 {:.2} %, {kept:.1} % of centralised", table.federated[0]));
    }
}

/// Works on the items, so many at a time, each on a thread of its own; the results are in the items' order.
fn side_by_side<T: Sync, R: Send>(jobs: usize, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, work(item)));
        }
    };
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.clamp(1, items.len().max(1))).map(|_| scope.spawn(worker)).collect();
        let results = workers.into_iter().map(|worker| match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        results.flatten().collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// A run's large files, which nothing needs once its results are there.
fn clear(folder: &Path, names: &[&str]) -> Result<()> {
    for name in names {
        let path = folder.join(name);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes sure of a folder inside.
fn subfolder(folder: &Folder, names: [&str; 2]) -> Result<std::path::PathBuf> {
    let path = folder.path().join(names[0]).join(names[1]);
    store::make_folder(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_side_by_side_keeps_its_order_and_does_everything_once() {
        let items: Vec<usize> = (0..50).collect();
        for jobs in [1, 3, 100] {
            let done = side_by_side(jobs, &items, |item| 2 * item);
            assert_eq!(done, items.iter().map(|item| 2 * item).collect::<Vec<_>>());
        }
        assert!(side_by_side(4, &[0u8; 0], |_| ()).is_empty());
    }
}
