//! The experiment as text: a block per method on standard output, and every number in Markdown.

use std::fmt::Write as _;

use domain::evaluate::{KS, Setting};

use super::results::{Estimate, Experiment, Measured, Row, Summary, mean};
use crate::consortium::results::title;
use crate::output::Table;
use crate::report::FourSettings;
use crate::report::format::{NONE, bytes, decimal, seconds};

/// Headings of the short table; each setting stands for its top-1.
pub(crate) const HEADINGS: [&str; 14] = [
    "sites",
    "draw",
    "seeds",
    "f→f",
    "r→r",
    "f→all",
    "r→all",
    "mean of 16",
    "kept",
    "lowest",
    "kept of best",
    "lowest of best",
    "time",
    "sent by a site",
];

/// What the short table's columns say.
pub(crate) const LEGEND: &str = "f→f, r→r, f→all, r→all: top-1 in percent, frequent and rare probes against the frequent, the rare or the whole gallery. \
Mean of 16: over top-1, 5, 10 and 30 of these four. ±: sample standard deviation over seeds. Kept: percent of the centralised \
accuracy of the same method, and of the best method, mean over the 16 and the lowest of them.";

/// What goes to standard output.
pub fn text(experiment: &Experiment) -> String {
    let mut out = String::new();
    for summary in &experiment.summary {
        let _ = writeln!(out, "{}", summary.method);
        let mut table = Table::new(HEADINGS);
        for row in short_rows(summary) {
            table.row(row);
        }
        let _ = writeln!(out, "{table}");
    }
    let _ = writeln!(out, "{}", legend(experiment));
    out
}

/// The legend with the best method's name.
pub(crate) fn legend(experiment: &Experiment) -> String {
    match &experiment.best_central {
        Some(best) => format!("{LEGEND} The best centralised training is that of {best}."),
        None => LEGEND.to_owned(),
    }
}

/// The short table of a method: centralised, as published, then one row per number of sites and draw.
pub(crate) fn short_rows(summary: &Summary) -> Vec<Vec<String>> {
    let named = |name: &str| [name.to_owned(), String::new(), String::new()];
    let mut central = numbers(named("centralised"), &summary.central, summary.central_overall);
    central.resize(HEADINGS.len() - 2, String::new());
    central.push(seconds(summary.central_seconds));
    let published = Measured { mean: summary.published, ..Measured::default() };
    let overall = Estimate { mean: mean(&summary.published.cells()), spread: f64::NAN };
    let published = numbers(named("as published"), &published, overall);
    [central, published].into_iter().chain(summary.rows.iter().map(short_row)).collect()
}

fn short_row(row: &Row) -> Vec<String> {
    let name = [row.sites.to_string(), row.draw.clone(), row.seeds.len().to_string()];
    if row.seeds.is_empty() {
        return name.to_vec();
    }
    let overall = &row.overall;
    let mut cells = numbers(name, &row.federated, overall.federated);
    cells.extend([
        decimal(overall.retention.mean, 1),
        decimal(overall.lowest, 1),
        decimal(overall.retention_of_best.mean, 1),
        decimal(overall.lowest_of_best, 1),
        seconds(row.seconds),
        bytes(row.bytes_up_per_site),
    ]);
    cells
}

/// A row's name, its four top-1 accuracies and the mean over the 16.
fn numbers(name: [String; 3], of: &Measured, overall: Estimate) -> Vec<String> {
    let (means, spreads) = (of.mean.in_order(), of.spread.in_order());
    let top1 = (0..4).map(|s| Estimate { mean: means[s][0], spread: spreads[s][0] });
    name.into_iter().chain(top1.chain([overall]).map(with_spread)).collect()
}

fn with_spread(of: Estimate) -> String {
    let Estimate { mean, spread } = of;
    if spread.is_finite() && mean.is_finite() {
        format!("{} ±{}", decimal(mean, 2), decimal(spread, 2))
    } else {
        decimal(mean, 2)
    }
}

/// Everything in Markdown.
pub fn markdown(experiment: &Experiment) -> String {
    let seeds: Vec<String> = experiment.seeds.iter().map(ToString::to_string).collect();
    let mut out = format!("# Experiment\n\nSeeds {}. {}\n", seeds.join(", "), legend(experiment));
    for summary in &experiment.summary {
        let _ = writeln!(out, "\n## {}\n", summary.method);
        lines(&mut out, &HEADINGS.map(str::to_owned), &short_rows(summary));
        let heads: Vec<String> = ["sites", "draw", ""]
            .into_iter()
            .map(str::to_owned)
            .chain(KS.iter().map(|k| format!("top-{k}")))
            .collect();
        for (at, setting) in Setting::ALL.into_iter().enumerate() {
            let _ = writeln!(out, "\n### {}: {}\n", summary.method, title(setting));
            lines(&mut out, &heads, &full_rows(summary, at));
        }
    }
    let failures: Vec<String> =
        experiment.failures().map(|(cell, error)| format!("- {cell}: {error}\n")).collect();
    if !failures.is_empty() {
        let _ = write!(out, "\n## Cells that failed\n\n{}", failures.concat());
    }
    out
}

/// One setting in full: accuracies with their spread, and for each row what is kept.
fn full_rows(summary: &Summary, setting: usize) -> Vec<Vec<String>> {
    let line = |sites: String, draw: &str, what: &str, table: &FourSettings, spread: &FourSettings| {
        let (means, spreads) = (table.in_order()[setting], spread.in_order()[setting]);
        let cells = (0..4).map(|k| with_spread(Estimate { mean: means[k], spread: spreads[k] }));
        [sites, draw.to_owned(), what.to_owned()].into_iter().chain(cells).collect::<Vec<_>>()
    };
    let none = FourSettings::default();
    let mut rows = vec![
        line(String::new(), "", "centralised", &summary.central.mean, &summary.central.spread),
        line(String::new(), "", "as published", &summary.published, &none),
    ];
    for row in summary.rows.iter().filter(|row| !row.seeds.is_empty()) {
        let mut add = |what: &str, table: &FourSettings, spread: &FourSettings| {
            rows.push(line(row.sites.to_string(), &row.draw, what, table, spread));
        };
        add("federated", &row.federated.mean, &row.federated.spread);
        add("% of centralised", &row.retention, &none);
        add("% of the best centralised", &row.retention_of_best, &none);
        if row.local.cells().iter().any(|accuracy| accuracy.is_finite()) {
            add("local, mean over sites", &row.local, &none);
        }
    }
    rows
}

fn lines(out: &mut String, heads: &[String], rows: &[Vec<String>]) {
    let mut line = |cells: Vec<&str>| {
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    };
    line(heads.iter().map(String::as_str).collect());
    line(heads.iter().map(|_| "---").collect());
    for row in rows {
        // A row that ends early was not measured; without its cells the table would be malformed.
        let missing = if row.len() == 3 { NONE } else { "" };
        let rest = std::iter::repeat_n(missing, heads.len() - row.len());
        line(row.iter().map(String::as_str).chain(rest).collect());
    }
}
