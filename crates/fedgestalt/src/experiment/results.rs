//! `experiment.json`: every cell, and what the cells come to over seeds.

use std::collections::BTreeMap;

use anyhow::Result;
use domain::cohort::Cohort;
use domain::evaluate::{Accuracies, Setting};
use serde::Serialize;

pub use super::shared::Baselines;
use super::{Cell, GridPlan, Method};
use crate::config::Config;
use crate::consortium::results::{Results, SettingResults};
use crate::consortium::{cohort_digest, peak_rss_mb};
use crate::report::FourSettings;

/// What an experiment came to.
#[derive(Debug, Clone, Serialize)]
pub struct Experiment {
    /// Digest of the cohort's tables.
    pub cohort: String,
    /// Numbers of sites.
    pub sites: Vec<u16>,
    /// Draws.
    pub draws: Vec<String>,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// Methods and their configurations.
    pub methods: Vec<MethodFacts>,
    /// The method whose centralised training has the highest mean over the 16 accuracies; `None` without any.
    pub best_central: Option<String>,
    /// Centralised trainings.
    pub central: Vec<Central>,
    /// All cells, in the order of the plan.
    pub cells: Vec<CellResults>,
    /// Per method: means and spreads over seeds.
    pub summary: Vec<Summary>,
    /// Peak resident memory of this process in MB.
    pub peak_rss_mb: f64,
}

/// A method of the experiment.
#[derive(Debug, Clone, Serialize)]
pub struct MethodFacts {
    /// Its name.
    pub name: String,
    /// Its configuration; sites, draw and seed are each cell's.
    pub config: Config,
}

/// One method's centralised training with one seed.
#[derive(Debug, Clone, Serialize)]
pub struct Central {
    /// The method.
    pub method: String,
    /// The seed.
    pub seed: u64,
    /// Accuracies, and those of the networks as published.
    pub baselines: Option<Baselines>,
    /// Seconds for training and evaluating both.
    pub seconds: f64,
    /// Why there are none.
    pub error: Option<String>,
}

/// One federation.
#[derive(Debug, Clone, Serialize)]
pub struct CellResults {
    /// Its name, and its folder's under `cells`: `config.toml` there repeats it with `federate`.
    pub name: String,
    /// The method.
    pub method: String,
    /// Sites.
    pub sites: u16,
    /// Draw.
    pub draw: String,
    /// Seed.
    pub seed: u64,
    /// Its results, in the form of a single run's.
    pub results: Option<Results>,
    /// Why there are none.
    pub error: Option<String>,
}

/// Mean and spread over seeds, in percent.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Measured {
    /// Mean.
    pub mean: FourSettings,
    /// Sample standard deviation; NaN (in JSON `null`) with one seed.
    pub spread: FourSettings,
}

/// One number's mean and spread over seeds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Estimate {
    /// Mean.
    pub mean: f64,
    /// Sample standard deviation; NaN (in JSON `null`) with one seed.
    pub spread: f64,
}

/// A method over all its cells.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The method.
    pub method: String,
    /// Its centralised training.
    pub central: Measured,
    /// The mean over the 16 of it.
    pub central_overall: Estimate,
    /// Seconds of a centralised training with its evaluation, mean over seeds.
    pub central_seconds: f64,
    /// Its networks as published.
    pub published: FourSettings,
    /// One row per number of sites and draw.
    pub rows: Vec<Row>,
}

/// One number of sites and draw, over seeds.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Sites.
    pub sites: u16,
    /// Draw.
    pub draw: String,
    /// Seeds whose cells are done.
    pub seeds: Vec<u64>,
    /// The federation.
    pub federated: Measured,
    /// Sites by themselves, mean over sites and seeds.
    pub local: FourSettings,
    /// Federated mean in percent of the mean of the same method's centralised training with the same seeds.
    pub retention: FourSettings,
    /// The same of the best method's centralised training.
    pub retention_of_best: FourSettings,
    /// Over the 16 accuracies.
    pub overall: Overall,
    /// Seconds of the federation, mean over seeds. Cells that run at a time slow each other down.
    pub seconds: f64,
    /// Bytes that a site sent, mean over sites and seeds.
    pub bytes_up_per_site: u64,
}

/// A row in a few numbers; means are over the accuracies that the cohort allows, of the 16.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Overall {
    /// Mean of the federation's accuracies.
    pub federated: Estimate,
    /// Mean of the sites' by themselves.
    pub local: f64,
    /// Mean retention.
    pub retention: Estimate,
    /// The lowest of the retentions.
    pub lowest: f64,
    /// Mean retention of the best centralised training.
    pub retention_of_best: Estimate,
    /// The lowest of these.
    pub lowest_of_best: f64,
}

impl Central {
    pub(super) fn new(method: &Method, seed: u64, results: Result<(Baselines, f64)>) -> Self {
        let method = method.name.clone();
        match results {
            Ok((baselines, seconds)) => {
                Self { method, seed, baselines: Some(baselines), seconds, error: None }
            }
            Err(error) => {
                Self { method, seed, baselines: None, seconds: f64::NAN, error: Some(format!("{error:#}")) }
            }
        }
    }
}

impl CellResults {
    pub(super) fn new(name: String, method: &Method, cell: &Cell, results: Result<Results, String>) -> Self {
        let (results, error) = match results {
            Ok(results) => (Some(results), None),
            Err(error) => (None, Some(error)),
        };
        let (method, draw) = (method.name.clone(), cell.draw.to_string());
        Self { name, method, sites: cell.sites, draw, seed: cell.seed, results, error }
    }
}

impl Experiment {
    pub(super) fn new(
        plan: &GridPlan,
        cohort: &Cohort,
        central: Vec<Central>,
        cells: Vec<CellResults>,
    ) -> Self {
        let mut experiment = Self {
            cohort: cohort_digest(cohort),
            sites: plan.sites.clone(),
            draws: plan.draws.iter().map(ToString::to_string).collect(),
            seeds: plan.seeds.clone(),
            methods: plan
                .methods
                .iter()
                .map(|method| MethodFacts { name: method.name.clone(), config: method.config.clone() })
                .collect(),
            best_central: None,
            central,
            cells,
            summary: Vec::new(),
            peak_rss_mb: peak_rss_mb(),
        };
        let names: Vec<String> = plan.methods.iter().map(|method| method.name.clone()).collect();
        let overall = |name: &String| mean(&measured(&experiment.central_of(name)).mean.cells());
        // Among equals the first of the plan.
        let best = names.iter().rev().filter(|name| overall(name).is_finite());
        experiment.best_central = best.max_by(|a, b| overall(a).total_cmp(&overall(b))).cloned();
        experiment.summary = names.iter().map(|name| experiment.summarise(name)).collect();
        experiment
    }

    /// Cells that failed, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.cells.iter().filter_map(|cell| Some((cell.name.as_str(), cell.error.as_deref()?)))
    }

    fn central_of(&self, method: &str) -> Vec<FourSettings> {
        let own = self.central.iter().filter(|central| central.method == method);
        own.filter_map(|central| Some(four(&central.baselines?.central))).collect()
    }

    fn central_with(&self, method: &str, seed: u64) -> Option<FourSettings> {
        let own = self.central.iter().find(|c| c.method == method && c.seed == seed)?;
        Some(four(&own.baselines?.central))
    }

    fn summarise(&self, method: &str) -> Summary {
        let own: Vec<&Central> = self.central.iter().filter(|central| central.method == method).collect();
        let published: Vec<FourSettings> =
            own.iter().filter_map(|central| Some(four(&central.baselines?.published))).collect();
        let central = self.central_of(method);
        let mut rows = Vec::new();
        for &sites in &self.sites {
            rows.extend(self.draws.iter().map(|draw| self.row(method, sites, draw)));
        }
        Summary {
            method: method.to_owned(),
            central: measured(&central),
            central_overall: estimate(&central.iter().map(|c| mean(&c.cells())).collect::<Vec<_>>()),
            central_seconds: mean(&own.iter().map(|central| central.seconds).collect::<Vec<_>>()),
            published: measured(&published).mean,
            rows,
        }
    }

    fn row(&self, method: &str, sites: u16, draw: &str) -> Row {
        let cells: Vec<(u64, &Results)> = self
            .cells
            .iter()
            .filter(|cell| cell.method == method && cell.sites == sites && cell.draw == draw)
            .filter_map(|cell| Some((cell.seed, cell.results.as_ref()?)))
            .collect();
        let pick = |of: &dyn Fn(&SettingResults) -> [f64; 4]| -> Vec<FourSettings> {
            cells.iter().map(|(_, results)| picked(&results.settings, of)).collect()
        };
        let (federated, local) = (pick(&|r| r.federated), pick(&|r| r.local));
        let overall = |tables: &[FourSettings]| -> Vec<f64> {
            tables.iter().map(|table| mean(&table.cells())).collect()
        };
        // Seed by seed against the training with the same seed, and the means against each other.
        let against = |baseline: &str| {
            let pairs: Vec<(FourSettings, FourSettings)> = cells
                .iter()
                .zip(&federated)
                .filter_map(|((seed, _), table)| Some((*table, self.central_with(baseline, *seed)?)))
                .collect();
            let (tables, wholes): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
            let kept: Vec<f64> =
                pairs.iter().map(|(table, whole)| mean(&share(table, whole).cells())).collect();
            (share(&measured(&tables).mean, &measured(&wholes).mean), estimate(&kept).spread)
        };
        let (retention, spread) = against(method);
        let (retention_of_best, spread_of_best) = against(self.best_central.as_deref().unwrap_or_default());
        let bytes = cells.iter().map(|(_, results)| results.bytes_up_per_site.values().sum::<u64>());
        let seconds: Vec<f64> =
            cells.iter().map(|(_, r)| r.seconds.get("federation").copied().unwrap_or(f64::NAN)).collect();
        Row {
            sites,
            draw: draw.to_owned(),
            seeds: cells.iter().map(|(seed, _)| *seed).collect(),
            federated: measured(&federated),
            local: measured(&local).mean,
            retention,
            retention_of_best,
            overall: Overall {
                federated: estimate(&overall(&federated)),
                local: mean(&overall(&local)),
                retention: Estimate { mean: mean(&retention.cells()), spread },
                lowest: lowest(&retention),
                retention_of_best: Estimate {
                    mean: mean(&retention_of_best.cells()),
                    spread: spread_of_best,
                },
                lowest_of_best: lowest(&retention_of_best),
            },
            seconds: mean(&seconds),
            bytes_up_per_site: bytes.sum::<u64>() / cells.len().max(1) as u64,
        }
    }
}

fn four(accuracies: &Accuracies) -> FourSettings {
    FourSettings {
        frequent_frequent: accuracies.frequent_frequent,
        rare_rare: accuracies.rare_rare,
        frequent_all: accuracies.frequent_all,
        rare_all: accuracies.rare_all,
    }
}

fn picked(
    settings: &BTreeMap<String, SettingResults>,
    of: &dyn Fn(&SettingResults) -> [f64; 4],
) -> FourSettings {
    let one = |setting: Setting| settings.get(setting.key()).map_or([f64::NAN; 4], of);
    FourSettings {
        frequent_frequent: one(Setting::FrequentFrequent),
        rare_rare: one(Setting::RareRare),
        frequent_all: one(Setting::FrequentAll),
        rare_all: one(Setting::RareAll),
    }
}

/// The mean of the finite values; NaN without any.
pub(super) fn mean(values: &[f64]) -> f64 {
    let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    if finite.is_empty() { f64::NAN } else { finite.iter().sum::<f64>() / finite.len() as f64 }
}

/// Mean and sample standard deviation of the finite values.
fn estimate(values: &[f64]) -> Estimate {
    let centre = mean(values);
    let squares: Vec<f64> =
        values.iter().filter(|value| value.is_finite()).map(|value| (value - centre).powi(2)).collect();
    let spread = match squares.len() {
        0 | 1 => f64::NAN,
        n => (squares.iter().sum::<f64>() / (n - 1) as f64).sqrt(),
    };
    Estimate { mean: centre, spread }
}

fn measured(tables: &[FourSettings]) -> Measured {
    let cells: Vec<[f64; 16]> = tables.iter().map(FourSettings::cells).collect();
    let of = |at: usize| estimate(&cells.iter().map(|cells| cells[at]).collect::<Vec<_>>());
    Measured {
        mean: FourSettings::from_cells(std::array::from_fn(|at| of(at).mean)),
        spread: FourSettings::from_cells(std::array::from_fn(|at| of(at).spread)),
    }
}

/// One table in percent of another; NaN where that is not above zero.
fn share(table: &FourSettings, whole: &FourSettings) -> FourSettings {
    let (table, whole) = (table.cells(), whole.cells());
    FourSettings::from_cells(std::array::from_fn(|at| {
        if whole[at] > 0.0 { 100.0 * (table[at] / whole[at]) } else { f64::NAN }
    }))
}

fn lowest(table: &FourSettings) -> f64 {
    table.cells().into_iter().filter(|value| value.is_finite()).fold(f64::NAN, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_spread_are_those_of_a_sample_and_skip_what_was_not_measured() {
        // statistics.mean and statistics.stdev of Python.
        let found = estimate(&[47.06, 46.5, f64::NAN, 48.1]);
        assert!((found.mean - 47.22).abs() < 1e-9 && (found.spread - 0.811_911).abs() < 1e-6, "{found:?}");
        let one = estimate(&[3.0]);
        assert!(one.mean == 3.0 && one.spread.is_nan());
        assert!(estimate(&[]).mean.is_nan());
    }

    #[test]
    fn retention_is_cell_by_cell_and_undefined_at_zero() {
        let whole = FourSettings::from_cells(std::array::from_fn(|at| at as f64));
        let table = FourSettings::from_cells(std::array::from_fn(|at| 0.9 * at as f64));
        let kept = share(&table, &whole);
        assert!(kept.cells()[0].is_nan());
        assert!(kept.cells()[1..].iter().all(|value| (value - 90.0).abs() < 1e-9));
        assert!((lowest(&kept) - 90.0).abs() < 1e-9 && (mean(&kept.cells()) - 90.0).abs() < 1e-9);
    }
}
