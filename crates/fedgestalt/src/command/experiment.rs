//! `experiment`: a grid of federations over one cohort, and its table.

use std::path::PathBuf;

use clap::Args;

use crate::Outcome;
use crate::context::Context;
use crate::experiment::{self, GridPlan, table};

/// Arguments of `experiment`.
#[derive(Debug, Args)]
#[command(after_help = "The plan is a TOML file; its paths start from it:\n\n  \
                  cohort = \"cohort\"\n  \
                  trunk = \"glint360k_r50.onnx\"    # optional\n  \
                  sites = [4, 8, 16]\n  \
                  draws = [\"near-uniform\", \"non-overlapping\", \"dirichlet:0.1\"]\n  \
                  seeds = [1, 2, 3]\n  \
                  local = false                   # optional; without what each site reaches by itself\n  \
                  [[methods]]\n  \
                  name = \"paper\"\n  \
                  config = \"paper.toml\"           # a whole configuration; without it the defaults\n\n\
                  The same command goes on with the cells that are missing; new cells may be added to the plan. \
                  Exit status 1 if a cell failed.")]
pub struct ExperimentArgs {
    /// What to compare (TOML)
    #[arg(value_name = "PLAN")]
    pub plan: PathBuf,
    /// Folder for features, cells, experiment.json, table.md and experiment.html
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Cells at a time; memory grows with it, results do not depend on it [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
}

/// Runs what is missing of the grid.
///
/// # Errors
///
/// When the plan, the cohort or a trunk cannot be used, or the folder cannot be written. Cells that fail are told of in
/// the result.
pub fn run(args: ExperimentArgs, context: &Context) -> anyhow::Result<Outcome> {
    let plan = GridPlan::read(&args.plan)?;
    let jobs = args.jobs.map_or_else(rayon::current_num_threads, usize::from);
    let experiment = experiment::run(context, &plan, &args.out, jobs)?;
    context.output.result(&experiment, table::text)?;
    context.output.note(format_args!(
        "Tables with all 16 accuracies are in {}, figures in {}. Peak memory {:.0} MB with {jobs} cells at a time.",
        args.out.join(experiment::TABLE).display(),
        args.out.join(experiment::PAGE).display(),
        experiment.peak_rss_mb,
    ));
    for (cell, error) in experiment.failures() {
        context.output.warn(format_args!("cell {cell} failed: {error}"));
    }
    Ok(if experiment.failures().next().is_some() { Outcome::Unclean } else { Outcome::Done })
}
