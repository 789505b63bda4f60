//! The page of an experiment: what is kept over the number of sites, and the tables.

use askama::Template;

use super::page::{SCRIPT, STYLE, policy};
use super::{
    AccuracyRow, Fact, FourSettings, ReportError, RowKind,
    axis::extent,
    charts::{SiteLine, by_sites, method_swatch},
    format::{decimal, percent},
    svg::Markup,
    tables::{Accuracy, Grid},
};
use crate::experiment::results::{Estimate, Experiment, Overall, Row, Summary};
use crate::experiment::table::{HEADINGS, LEGEND, short_rows};

#[derive(Template)]
#[template(path = "report/experiment.html")]
struct Page {
    policy: String,
    style: Markup,
    script: Markup,
    generator: String,
    headline: String,
    facts: Vec<Fact>,
    legend: &'static str,
    key: Vec<(Markup, String)>,
    /// Charts beside each other, and of what they show percentages.
    figures: Vec<(Vec<Markup>, String)>,
    methods: Vec<MethodView>,
    failures: Vec<(String, String)>,
}

struct MethodView {
    id: usize,
    name: String,
    short: Grid,
    full: Accuracy,
    configuration: String,
}

/// Renders the page of an experiment; it is complete in itself, as a run's report.
///
/// # Errors
///
/// When the template cannot be filled in, or a path in a configuration is not Unicode.
pub fn experiment(experiment: &Experiment) -> Result<String, ReportError> {
    let list = |values: Vec<String>| values.join(", ");
    let best = experiment.best_central.clone().unwrap_or_default();
    let page = Page {
        policy: policy(),
        style: Markup::constant(STYLE),
        script: Markup::constant(SCRIPT),
        generator: format!("fedgestalt {}", env!("CARGO_PKG_VERSION")),
        headline: headline(experiment),
        facts: vec![
            Fact::new("methods", list(experiment.methods.iter().map(|m| m.name.clone()).collect())),
            Fact::new("sites", list(experiment.sites.iter().map(u16::to_string).collect())),
            Fact::new("draws", list(experiment.draws.clone())),
            Fact::new("seeds", list(experiment.seeds.iter().map(u64::to_string).collect())),
            Fact::new("best centralised training", &best),
            Fact::new("cohort", &experiment.cohort[..16.min(experiment.cohort.len())]),
        ],
        legend: LEGEND,
        key: experiment.methods.iter().enumerate().map(|(i, m)| (method_swatch(i), m.name.clone())).collect(),
        figures: vec![
            (
                charts(experiment, "best", |overall| overall.retention_of_best),
                format!("the best centralised training ({best})"),
            ),
            (
                charts(experiment, "own", |overall| overall.retention),
                "the same method's centralised training".to_owned(),
            ),
        ],
        methods: (experiment.summary.iter().zip(&experiment.methods).enumerate())
            .map(|(id, (summary, method))| {
                Ok(MethodView {
                    id,
                    name: summary.method.clone(),
                    short: short(summary),
                    full: full(summary),
                    configuration: method.config.to_toml().map_err(|_| ReportError::Shape {
                        section: "configuration",
                        detail: "a path is not Unicode".to_owned(),
                    })?,
                })
            })
            .collect::<Result<_, ReportError>>()?,
        failures: experiment.failures().map(|(cell, error)| (cell.to_owned(), error.to_owned())).collect(),
    };
    Ok(page.render()?)
}

/// The method whose lowest row is highest, in a sentence.
fn headline(experiment: &Experiment) -> String {
    let lowest = |summary: &Summary| -> Option<(f64, Row)> {
        let measured = summary.rows.iter().filter(|row| row.overall.retention_of_best.mean.is_finite());
        let all = measured.map(|row| (row.overall.retention_of_best.mean, row.clone()));
        all.min_by(|a, b| a.0.total_cmp(&b.0))
    };
    let all = experiment.summary.iter().filter_map(|summary| Some((summary, lowest(summary)?)));
    let Some((summary, (kept, row))) = all.max_by(|a, b| a.1.0.total_cmp(&b.1.0)) else {
        return String::new();
    };
    let best = experiment.best_central.as_deref().unwrap_or_default();
    let scope = match experiment.failures().next() {
        None => "for every number of sites and every draw",
        Some(_) => "where cells did not fail",
    };
    format!(
        "{} keeps at least {} of the best centralised accuracy ({best}), mean over the 16, {scope} (lowest: {} sites, {}).",
        summary.method,
        percent(kept),
        row.sites,
        row.draw,
    )
}

/// One chart per draw, on one scale.
fn charts(experiment: &Experiment, slug: &str, pick: fn(&Overall) -> Estimate) -> Vec<Markup> {
    let rows = experiment.summary.iter().flat_map(|summary| &summary.rows);
    let ends = rows.flat_map(|row| {
        let Estimate { mean, spread } = pick(&row.overall);
        let spread = if spread.is_finite() { spread } else { 0.0 };
        [mean - spread, mean + spread]
    });
    let Some(bounds) = extent(ends.chain([100.0])).filter(|_| !experiment.cells.is_empty()) else {
        return Vec::new();
    };
    let chart = |(number, draw): (usize, &String)| {
        let lines: Vec<SiteLine<'_>> = experiment
            .summary
            .iter()
            .map(|summary| SiteLine {
                name: &summary.method,
                points: (summary.rows.iter().filter(|row| row.draw == *draw))
                    .map(|row| pick(&row.overall))
                    .map(|of| (of.mean, of.spread))
                    .collect(),
            })
            .collect();
        by_sites(&format!("fig-{slug}-{number}"), draw, &experiment.sites, &lines, bounds)
    };
    experiment.draws.iter().enumerate().map(chart).collect()
}

fn short(summary: &Summary) -> Grid {
    Grid {
        caption: format!("{}: top-1, means and what is kept", summary.method),
        head: HEADINGS.map(str::to_owned).into(),
        rows: short_rows(summary)
            .into_iter()
            .map(|mut row| {
                row.resize(HEADINGS.len(), String::new());
                row
            })
            .collect(),
    }
}

fn full(summary: &Summary) -> Accuracy {
    let row =
        |kind, name: String, note: Option<String>, values: FourSettings, spread: Option<FourSettings>| {
            AccuracyRow { kind, name, note, values, spread }
        };
    let central = &summary.central;
    let mut rows = vec![
        row(RowKind::Central, "Centralised".to_owned(), None, central.mean, Some(central.spread)),
        row(RowKind::Baseline, "As published".to_owned(), None, summary.published, None),
    ];
    for found in summary.rows.iter().filter(|row| !row.seeds.is_empty()) {
        let (name, draw) = (format!("{} sites", found.sites), Some(found.draw.clone()));
        rows.push(row(RowKind::Federated, name, draw, found.federated.mean, Some(found.federated.spread)));
    }
    let worst = summary.rows.iter().filter(|row| row.overall.lowest.is_finite());
    let worst = worst.min_by(|a, b| a.overall.lowest.total_cmp(&b.overall.lowest));
    let note = worst.map(|row| {
        let lowest = decimal(row.overall.lowest, 1);
        format!("Lowest of all: {lowest} % ({} sites, {}).", row.sites, row.draw)
    });
    Accuracy::new(
        &format!(
            "{}: accuracy in percent, ± over seeds, and percent of its own centralised training",
            summary.method
        ),
        &rows,
        None,
        note,
    )
}
