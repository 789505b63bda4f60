//! `evaluate`: the four-setting table.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use domain::evaluate::{Setting, evaluate};
use serde::Serialize;

use crate::Outcome;
use crate::cohort_dir::CohortDir;
use crate::consortium::results::title;
use crate::context::Context;
use crate::output::Table;
use crate::pipeline::encodings::EncodingFile;
use crate::store;

/// Arguments of `evaluate`.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Cohort in the GMDB layout
    #[arg(long, value_name = "DIR")]
    pub cohort: PathBuf,
    /// Encodings that `encode` wrote
    #[arg(long, value_name = "FILE", default_value = "out/encodings.safetensors")]
    pub encodings: PathBuf,
    /// Also write the table to this JSON file
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Evaluates.
///
/// # Errors
///
/// When the cohort or the encodings cannot be used, or an image that has to be compared has no encoding.
pub fn run(args: EvaluateArgs, context: &Context) -> anyhow::Result<Outcome> {
    let cohort = CohortDir::open(&args.cohort)?;
    let file = EncodingFile::load(&args.encodings)?;
    let accuracies = evaluate(&cohort.cohort, &file.encodings)
        .with_context(|| format!("cannot evaluate {}", args.encodings.display()))?
        .table();
    let settings: BTreeMap<&str, [f64; 4]> =
        Setting::ALL.iter().map(|&setting| (setting.key(), accuracies.get(setting))).collect();
    let results = Results { model: file.model, settings };
    if let Some(out) = &args.out {
        store::write_json(out, &results)?;
    }
    context.output.result(&results, |_| {
        let mut table = Table::new(["", "top-1", "top-5", "top-10", "top-30"]);
        for setting in Setting::ALL {
            let cells = accuracies.get(setting).map(|value| format!("{value:.2}"));
            table.row(std::iter::once(title(setting).to_owned()).chain(cells));
        }
        table.to_string()
    })?;
    Ok(Outcome::Done)
}

/// Accuracies in percent, by setting.
#[derive(Debug, Serialize)]
struct Results {
    model: String,
    settings: BTreeMap<&'static str, [f64; 4]>,
}
