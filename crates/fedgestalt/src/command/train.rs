//! `train`: one cohort, or each site on its own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use domain::draw::Draw;
use domain::evaluate::Setting;
use serde::Serialize;

use crate::Outcome;
use crate::cli::ScheduleArgs;
use crate::config::{Config, MemberKind};
use crate::consortium::pooled::{Patients, baseline};
use crate::consortium::results::title;
use crate::consortium::{Member, Order, Run};
use crate::context::Context;
use crate::output::Table;

/// Arguments of `train`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("how").required(true).args(["central", "local"]))]
pub struct TrainArgs {
    /// Train once, on the whole cohort
    #[arg(long)]
    pub central: bool,
    /// Hand the cohort to sites and train each on its own part
    #[arg(long)]
    pub local: bool,
    /// Cohort in the GMDB layout; `cohort import` makes one
    #[arg(long, value_name = "DIR")]
    pub cohort: PathBuf,
    /// Frozen face network (ONNX) [default: from the configuration, the shipped one]
    #[arg(long, value_name = "FILE")]
    pub trunk: Option<PathBuf>,
    /// With --local: sites that the cohort is handed to [default: from the configuration, 4]
    #[arg(long, value_name = "N", conflicts_with = "central", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub sites: Option<u16>,
    /// With --local: how: near-uniform, non-overlapping or dirichlet:ALPHA [default: from the configuration, near-uniform]
    #[arg(long, value_name = "KIND", conflicts_with = "central")]
    pub draw: Option<Draw>,
    /// How long to train, and the seed.
    #[command(flatten)]
    pub schedule: ScheduleArgs,
    /// Folder for the models and their curves
    #[arg(long, value_name = "DIR", default_value = "out/train")]
    pub out: PathBuf,
}

/// Trains.
///
/// # Errors
///
/// When the cohort or the trunk cannot be used, or training fails.
pub fn run(args: TrainArgs, context: &Context) -> anyhow::Result<Outcome> {
    let mut config = context.config.clone();
    args.schedule.apply(&mut config)?;
    config.federation.sites = if args.central { 1 } else { args.sites.unwrap_or(config.federation.sites) };
    config.federation.draw = args.draw.unwrap_or(config.federation.draw);
    let order = Order { out: args.out, cohort: args.cohort, trunk: args.trunk, drops: Vec::new(), config };
    let mut run = Run::open(context, &order)?;
    let members = run.phase("features", Run::members)?;
    let everybody: Vec<Patients<'_>> = members.iter().map(Member::patients).collect();
    let trainings: Vec<(String, Vec<Patients<'_>>)> = if args.central {
        vec![("central".to_owned(), everybody.clone())]
    } else {
        members.iter().map(|member| (format!("local-{}", member.name), vec![member.patients()])).collect()
    };
    let epochs = epochs(&order.config, trainings.len());
    let stage = context.progress.stage("Training", epochs);
    let mut results = Results { models: BTreeMap::new() };
    for (name, learners) in &trainings {
        stage.note(name.clone());
        let baseline = baseline(&run, run.method(), name, learners, &everybody, &|| stage.advance(1))?;
        let settings = Setting::ALL.iter().map(|&s| (s.key(), baseline.accuracies.get(s))).collect();
        let folder = run.folder.path().join("baselines").join(name);
        results.models.insert(name.clone(), Trained { folder: folder.display().to_string(), settings });
    }
    stage.finish(format_args!("{} models", trainings.len()));
    context.output.result(&results, shown)?;
    Ok(Outcome::Done)
}

fn epochs(config: &Config, trainings: usize) -> u64 {
    let tuned = config.members.iter().filter(|member| member.kind == MemberKind::Tuned).count();
    u64::from(config.training.epochs) * tuned as u64 * trainings as u64
}

/// The models that were trained.
#[derive(Debug, Serialize)]
struct Results {
    models: BTreeMap<String, Trained>,
}

/// One model: where it is, and its accuracies in percent on the whole cohort.
#[derive(Debug, Serialize)]
struct Trained {
    folder: String,
    settings: BTreeMap<&'static str, [f64; 4]>,
}

fn shown(results: &Results) -> String {
    let mut table = Table::new(["", "top-1", "top-5", "top-10", "top-30"]);
    for (name, trained) in &results.models {
        table.row([format!("{name}, in {}", trained.folder)]);
        for setting in Setting::ALL {
            let cells = trained.settings[setting.key()].map(|value| format!("{value:.2}"));
            table.row(std::iter::once(format!("  {}", title(setting))).chain(cells));
        }
    }
    table.to_string()
}
