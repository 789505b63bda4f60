//! `demo`: the whole job with synthetic patients.

use std::path::PathBuf;

use clap::Args;
use domain::draw::Draw;

use crate::Outcome;
use crate::cli::{Absence, ScheduleArgs};
use crate::config::Config;
use crate::config::Scale;
use crate::consortium::Order;
use crate::consortium::job::{Extras, run as run_job};
use crate::context::Context;
use crate::simulate;

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Sites that train together [default: from the configuration, 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(3..=100))]
    pub sites: Option<u16>,
    /// How patients are handed to sites: near-uniform, non-overlapping or dirichlet:ALPHA [default: from the configuration, near-uniform]
    #[arg(long, value_name = "KIND")]
    pub draw: Option<Draw>,
    /// Size of the cohort [default: from the configuration, small]
    #[arg(long, value_enum)]
    pub scale: Option<Scale>,
    /// How long to train, and the seed.
    #[command(flatten)]
    pub schedule: ScheduleArgs,
    /// Let a site vanish in a round and come back later, such as 2@3; may be given again
    #[arg(long, value_name = "SITE@ROUND")]
    pub drop: Vec<Absence>,
    /// Federate the default members, exact for any number of sites, and not the paper's recipe, whose rounds are more to look at
    #[arg(long)]
    pub exact: bool,
    /// Folder for sites, results.json and report.html
    #[arg(long, value_name = "DIR", default_value = "out/demo")]
    pub out: PathBuf,
}

/// Runs the demo.
///
/// # Errors
///
/// When a stage fails.
pub fn run(args: DemoArgs, context: &Context) -> anyhow::Result<Outcome> {
    let mut config = context.config.clone();
    if !args.exact && config.members == Config::default().members {
        config = config.as_recipe();
    }
    args.schedule.apply(&mut config)?;
    config.federation.sites = args.sites.unwrap_or(config.federation.sites);
    config.federation.draw = args.draw.unwrap_or(config.federation.draw);
    config.demo.scale = args.scale.unwrap_or(config.demo.scale);
    config.check()?;
    let (cohort, newcomer) = patients(&args, &config, context)?;
    let order = Order {
        cohort,
        trunk: None,
        drops: args.drop.iter().map(|absence| (absence.site, absence.round)).collect(),
        out: args.out,
        config,
    };
    let extras = Extras {
        title: format!(
            "Federated GestaltMatcher across {} simulated hospitals",
            order.config.federation.sites
        ),
        scale: None,
        newcomer,
    };
    let results = run_job(context, &order, &extras)?;
    context.output.result(&results, |results| results.table())?;
    context.output.note(format_args!("The report is {}", order.out.join("report.html").display()));
    Ok(Outcome::Done)
}

/// Draws the cohort and, if one is wanted, the newcomer's patients. Returns their folders.
fn patients(
    args: &DemoArgs,
    config: &Config,
    context: &Context,
) -> anyhow::Result<(PathBuf, Option<PathBuf>)> {
    let demo = config.demo_cohort(config.demo.scale);
    let seed = config.training.seed;
    let total = simulate::images(demo, seed)?;
    let stage = context.progress.stage("Synthetic patients", total as u64);
    let cohort = args.out.join("cohort");
    simulate::cohort(&cohort, demo, seed, &|| stage.advance(1))?;
    let newcomer = config.demo.newcomer.then(|| args.out.join("newcomer-cohort"));
    if let Some(folder) = &newcomer {
        simulate::newcomer(folder, demo, seed, &|| {})?;
    }
    stage.finish(format_args!("{} syndromes", demo.frequent_syndromes + demo.rare_syndromes));
    Ok((cohort, newcomer))
}
