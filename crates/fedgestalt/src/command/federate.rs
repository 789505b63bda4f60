//! `federate`: training together on the user's own cohort, with all sites on this machine.

use std::path::PathBuf;

use clap::Args;
use domain::draw::Draw;
use federation::{Aggregation, Rows};

use crate::Outcome;
use crate::cli::{Absence, ScheduleArgs};
use crate::consortium::Order;
use crate::consortium::job::{Extras, run as run_job};
use crate::context::Context;

/// Arguments of `federate`.
#[derive(Debug, Args)]
pub struct FederateArgs {
    /// Cohort in the GMDB layout; `cohort import` makes one
    #[arg(long, value_name = "DIR")]
    pub cohort: PathBuf,
    /// Frozen face network (ONNX) [default: from the configuration, the shipped one]
    #[arg(long, value_name = "FILE")]
    pub trunk: Option<PathBuf>,
    /// Sites that the cohort is handed to [default: from the configuration, 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(3..=100))]
    pub sites: Option<u16>,
    /// How patients are handed to sites: near-uniform, non-overlapping or dirichlet:ALPHA [default: from the configuration, near-uniform]
    #[arg(long, value_name = "KIND")]
    pub draw: Option<Draw>,
    /// How long to train, and the seed.
    #[command(flatten)]
    pub schedule: ScheduleArgs,
    /// How updates become one: mean, sample-weighted, syndrome-rows or encoder-only [default: from the configuration, sample-weighted]
    #[arg(long, value_name = "KIND")]
    pub aggregation: Option<Aggregation>,
    /// Classifier rows that leave a site: all, or shared:K for syndromes that at least K sites hold [default: from the configuration, all]
    #[arg(long, value_name = "WHICH")]
    pub rows: Option<Rows>,
    /// Let a site vanish in a round and come back later, such as 2@3; may be given again
    #[arg(long, value_name = "SITE@ROUND")]
    pub drop: Vec<Absence>,
    /// Folder for sites, results.json and report.html
    #[arg(long, value_name = "DIR", default_value = "out/federate")]
    pub out: PathBuf,
}

/// Trains together.
///
/// # Errors
///
/// When a stage fails.
pub fn run(args: FederateArgs, context: &Context) -> anyhow::Result<Outcome> {
    let mut config = context.config.clone();
    args.schedule.apply(&mut config)?;
    let federation = &mut config.federation;
    federation.sites = args.sites.unwrap_or(federation.sites);
    federation.draw = args.draw.unwrap_or(federation.draw);
    federation.aggregation = args.aggregation.unwrap_or(federation.aggregation);
    federation.rows = args.rows.unwrap_or(federation.rows);
    config.check()?;
    let order = Order {
        out: args.out,
        cohort: args.cohort,
        trunk: args.trunk,
        drops: args.drop.iter().map(|absence| (absence.site, absence.round)).collect(),
        config,
    };
    let extras = Extras {
        title: format!("Federated GestaltMatcher across {} sites", order.config.federation.sites),
        scale: None,
        newcomer: None,
    };
    let results = run_job(context, &order, &extras)?;
    context.output.result(&results, |results| results.table())?;
    context.output.note(format_args!("The report is {}", order.out.join("report.html").display()));
    Ok(Outcome::Done)
}
