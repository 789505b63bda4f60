//! `results.json`: what a run came to.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use domain::evaluate::{Accuracies, KS, Setting};
use serde::{Deserialize, Deserializer, Serialize};

use super::pooled::Baseline;
use crate::pipeline::engines::Runs;

/// Accuracies of one setting, in percent, at top-1, 5, 10 and 30.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SettingResults {
    /// One training on everybody's images.
    #[serde(deserialize_with = "null_is_nan")]
    pub central: [f64; 4],
    /// The federation's.
    #[serde(deserialize_with = "null_is_nan")]
    pub federated: [f64; 4],
    /// Trained at one site only; mean over sites.
    #[serde(deserialize_with = "null_is_nan")]
    pub local: [f64; 4],
    /// The networks as published.
    #[serde(deserialize_with = "null_is_nan")]
    pub published: [f64; 4],
    /// The paper's recipe (two tuned members and a published one), trained on everybody's images; where it was compared
    /// with.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "nulls_are_nan")]
    pub recipe: Option<[f64; 4]>,
    /// The same, ranked as the federation ranks.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "nulls_are_nan")]
    pub recipe_ranked_alike: Option<[f64; 4]>,
}

/// A setting without probes has no accuracy: NaN, which JSON writes as `null`.
fn null_is_nan<'de, D: Deserializer<'de>>(from: D) -> Result<[f64; 4], D::Error> {
    Ok(<[Option<f64>; 4]>::deserialize(from)?.map(|value| value.unwrap_or(f64::NAN)))
}

fn nulls_are_nan<'de, D: Deserializer<'de>>(from: D) -> Result<Option<[f64; 4]>, D::Error> {
    null_is_nan(from).map(Some)
}

/// The whole of `results.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// By setting: `frequent_frequent`, `rare_rare`, `frequent_all`, `rare_all`.
    pub settings: BTreeMap<String, SettingResults>,
    /// Sites that trained together.
    pub sites: u16,
    /// How patients were handed to them.
    pub draw: String,
    /// The seed.
    pub seed: u64,
    /// Seconds per phase.
    pub seconds: BTreeMap<String, f64>,
    /// Mean bytes that a site sent, per phase.
    pub bytes_up_per_site: BTreeMap<String, u64>,
    /// Peak resident memory of the process, in MB.
    pub peak_rss_mb: f64,
    /// How the networks were run: engine, precision and, where it is not rten, how well it agrees with rten.
    #[serde(default)]
    pub engines: Vec<Runs>,
    /// Digest of the release.
    pub release: String,
    /// Accuracies of the newcomer's probes and of the others', against the gallery with the newcomer's patients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newcomer: Option<NewcomerResults>,
}

/// What a site reaches that joined after training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewcomerResults {
    /// Its probes.
    pub probes: usize,
    /// Their macro accuracies in percent.
    pub newcomer: [f64; 4],
    /// The training sites' frequent probes, for comparison.
    pub others: [f64; 4],
}

/// The four settings of a run.
pub fn settings(
    central: &Accuracies,
    federated: &Accuracies,
    local: &Accuracies,
    published: &Accuracies,
    recipe: Option<&Baseline>,
) -> BTreeMap<String, SettingResults> {
    Setting::ALL
        .iter()
        .map(|&setting| {
            let results = SettingResults {
                central: central.get(setting),
                federated: federated.get(setting),
                local: local.get(setting),
                published: published.get(setting),
                recipe: recipe.map(|recipe| recipe.accuracies.get(setting)),
                recipe_ranked_alike: recipe
                    .and_then(|recipe| recipe.alike.as_ref())
                    .map(|alike| alike.get(setting)),
            };
            (setting.key().to_owned(), results)
        })
        .collect()
}

/// Federated in percent of central; `None` where central is zero.
pub fn retention(federated: f64, central: f64) -> Option<f64> {
    (central > 0.0).then(|| 100.0 * federated / central)
}

impl Results {
    /// The four-setting table for a person.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let heads: Vec<String> = KS.iter().map(|k| format!("top-{k}")).collect();
        let _ = writeln!(out, "{:<30}{}", "", heads.iter().map(|h| format!("{h:>18}")).collect::<String>());
        for setting in Setting::ALL {
            let Some(results) = self.settings.get(setting.key()) else { continue };
            if results.central.iter().all(|value| value.is_nan()) {
                let _ = writeln!(out, "{}: no probes in this cohort", title(setting));
                continue;
            }
            let _ = writeln!(out, "{}", title(setting));
            let mut row = |name: &str, values: &[f64; 4], of: Option<&[f64; 4]>| {
                let cells: String = (0..4)
                    .map(|k| match of.and_then(|of| retention(values[k], of[k])) {
                        Some(kept) => format!("{:>18}", format!("{:.2} ({kept:.1} %)", values[k])),
                        None => format!("{:>18}", format!("{:.2}", values[k])),
                    })
                    .collect();
                let _ = writeln!(out, "  {name:<28}{cells}");
            };
            row("centralised", &results.central, None);
            row("federated (retention)", &results.federated, Some(&results.central));
            row("local only, mean over sites", &results.local, None);
            if let Some(recipe) = &results.recipe {
                row("the paper's recipe, central", recipe, None);
            }
            if let Some(alike) = &results.recipe_ranked_alike {
                row("  ranked as the federation is", alike, None);
            }
            row("networks as published", &results.published, None);
        }
        out
    }
}

/// A setting in words.
pub fn title(setting: Setting) -> &'static str {
    match setting {
        Setting::FrequentFrequent => "frequent -> frequent",
        Setting::RareRare => "rare -> rare",
        Setting::FrequentAll => "frequent -> frequent + rare",
        Setting::RareAll => "rare -> frequent + rare",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_is_a_share_of_the_central_cell_and_undefined_at_zero() {
        assert_eq!(retention(47.06, 52.99).map(|r| (r * 10.0).round() / 10.0), Some(88.8));
        assert_eq!(retention(1.0, 0.0), None);
    }
}
