//! `evaluate`: the four-setting table, or every image against all others.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use domain::evaluate::{Comparison, Setting, comparisons, evaluate_scored, leave_one_out};
use domain::{Normalisation, Pooling, Scoring};
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
#[command(group = clap::ArgGroup::new("who").required(true).args(["cohort", "metadata"]))]
pub struct EvaluateArgs {
    /// Cohort in the GMDB layout
    #[arg(long, value_name = "DIR")]
    pub cohort: Option<PathBuf>,
    /// Instead of a cohort: the folder with GMDB's tables alone (gmdb_metadata)
    #[arg(long, value_name = "DIR")]
    pub metadata: Option<PathBuf>,
    /// Encodings that `encode` wrote, or GestaltMatcher's all_encodings.csv
    #[arg(long, value_name = "FILE", default_value = "out/encodings.safetensors")]
    pub encodings: PathBuf,
    /// Ask about every image of the cohort, against all its other images, instead of the four settings
    #[arg(long)]
    pub leave_one_out: bool,
    /// How the similarities to a syndrome's images become one: nearest, or soft:SHARPNESS [default: nearest with --metadata,
    /// as in GestaltMatcher; else from the configuration]
    #[arg(long, value_name = "HOW", conflicts_with = "leave_one_out")]
    pub pooling: Option<Pooling>,
    /// How that is normalised: none, or z:STRENGTH [default: none with --metadata, as in GestaltMatcher; else from the
    /// configuration]
    #[arg(long, value_name = "HOW", conflicts_with = "leave_one_out")]
    pub normalisation: Option<Normalisation>,
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
    let dir = args.cohort.as_ref().or(args.metadata.as_ref()).context("give --cohort or --metadata")?;
    let cohort = CohortDir::open(dir)?.cohort;
    let file = EncodingFile::load(&args.encodings)?;
    let encodings = file.encodings()?;
    let failed = || format!("cannot evaluate {}", args.encodings.display());
    let results = if args.leave_one_out {
        let found = leave_one_out(&cohort, &encodings).with_context(failed)?;
        Results::LeaveOneOut {
            model: file.model,
            gallery: cohort.cases().len() - 1,
            probes: found.probes,
            syndromes: found.syndromes,
            accuracies: found.accuracies,
        }
    } else {
        let usual = if args.metadata.is_some() { Scoring::NEAREST } else { context.config.kernel.scoring() };
        let scoring = Scoring {
            pooling: args.pooling.unwrap_or(usual.pooling),
            normalisation: args.normalisation.unwrap_or(usual.normalisation),
        };
        let counts = evaluate_scored(&cohort, &encodings, scoring).with_context(failed)?;
        let accuracies = counts.table();
        let sizes = comparisons(&cohort);
        Results::Settings {
            model: file.model,
            pooling: scoring.pooling,
            normalisation: scoring.normalisation,
            settings: Setting::ALL.iter().map(|&s| (s.key(), accuracies.get(s))).collect(),
            sizes: Setting::ALL.iter().filter_map(|&s| Some((s.key(), Sizes::of(s, &sizes)?))).collect(),
        }
    };
    if let Some(out) = &args.out {
        store::write_json(out, &results)?;
    }
    context.output.result(&results, shown)?;
    Ok(Outcome::Done)
}

/// Accuracies in percent.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Results {
    /// Of the four settings.
    Settings {
        model: Option<String>,
        pooling: Pooling,
        normalisation: Normalisation,
        settings: BTreeMap<&'static str, [f64; 4]>,
        sizes: BTreeMap<&'static str, Sizes>,
    },
    /// Of every image against all others.
    LeaveOneOut {
        model: Option<String>,
        gallery: usize,
        probes: usize,
        syndromes: usize,
        #[serde(rename = "leave_one_out")]
        accuracies: [f64; 4],
    },
}

/// Images in a setting, on average over its splits.
#[derive(Debug, Clone, Copy, Serialize)]
struct Sizes {
    gallery: f64,
    probes: f64,
}

impl Sizes {
    fn of(setting: Setting, comparisons: &[Comparison]) -> Option<Self> {
        let of: Vec<&Comparison> = comparisons.iter().filter(|c| c.setting == setting).collect();
        let mean = |count: fn(&Comparison) -> usize| {
            of.iter().map(|comparison| count(comparison)).sum::<usize>() as f64 / of.len() as f64
        };
        (!of.is_empty())
            .then(|| Self { gallery: mean(|c| c.gallery.len()), probes: mean(|c| c.probes.len()) })
    }
}

fn shown(results: &Results) -> String {
    let mut table = Table::new(["", "gallery", "test", "top-1", "top-5", "top-10", "top-30"]);
    let cells = |accuracies: &[f64; 4]| accuracies.map(|value| format!("{value:.2}"));
    match results {
        Results::Settings { settings, sizes, .. } => {
            for setting in Setting::ALL {
                let key = setting.key();
                // A setting without probes or gallery has no accuracy.
                let mut row = vec![title(setting).to_owned()];
                if let Some(Sizes { gallery, probes }) = sizes.get(key) {
                    row.extend([gallery.to_string(), probes.to_string()]);
                    row.extend(cells(&settings[key]));
                }
                table.row(row);
            }
        }
        Results::LeaveOneOut { gallery, probes, syndromes, accuracies, .. } => {
            let mut row = vec![format!("each against all others, {syndromes} syndromes")];
            row.extend([gallery.to_string(), probes.to_string()]);
            row.extend(cells(accuracies));
            table.row(row);
        }
    }
    table.to_string()
}
