//! The report of a run: what happened, in the shape that the page is drawn from.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use domain::cohort::{Cohort, Part, Syndrome};
use domain::discover::{Distances, cohort_similarity};
use domain::evaluate::{Accuracies, Setting, comparisons};
use domain::{Encoding, ImageId, SyndromeId};
use serde::{Deserialize, Serialize};

use super::coordinator::Accounts;
use super::federated::Federated;
use super::pooled::Baseline;
use super::results::{NewcomerResults, Results};
use super::{Run, engine_drops};
use crate::cohort_dir::CohortDir;
use crate::engine::local::Vanish;
use crate::report::{
    AccuracyRow, AccuracyTable, Attendance, Candidate, CohortSimilarity, Curves, Disclosure, Discovery, Fact,
    FourSettings, MemberCurves, Merge, Neighbour, Newcomer, PhaseTime, Picture, Presence, Privacy, Probe,
    ReleaseFacts, ReportData, RoundAttendance, RowKind, Series, SettingSize, SiteTraffic, Traffic, Training,
};
use crate::site::Site;

/// Probes shown, candidates of each, nearest faces of each.
const PROBES: usize = 6;
const CANDIDATES: usize = 5;
const NEIGHBOURS: usize = 4;
/// Random cohorts that a syndrome's patients are compared with.
const RANDOM_COHORTS: usize = 500;

/// All that a report is made from.
pub struct Story<'a> {
    /// The run.
    pub run: &'a Run<'a>,
    /// `results.json`.
    pub results: &'a Results,
    /// One training on everybody's images.
    pub central: &'a Baseline,
    /// The federation.
    pub federated: &'a Federated,
    /// Further rows of the table.
    pub extra_rows: Vec<(String, Option<String>, Accuracies)>,
    /// The newcomer's story, if there was one.
    pub newcomer: Option<NewcomerStory>,
    /// Title and scale.
    pub title: String,
    /// Size of the cohort in words.
    pub scale: String,
}

/// What happened when a site joined.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewcomerStory {
    /// Its name.
    pub site: String,
    /// What it did, step by step.
    pub steps: Vec<String>,
    /// Its numbers.
    pub results: NewcomerResults,
}

impl Story<'_> {
    /// The report's data.
    pub fn data(&self) -> Result<ReportData> {
        Ok(ReportData {
            title: self.title.clone(),
            headline: None,
            date: None,
            generator: format!("fedgestalt {}", env!("CARGO_PKG_VERSION")),
            settings: self.settings(),
            accuracies: self.accuracies(),
            training: Some(self.training()),
            probes: self.probes()?,
            discovery: Some(self.discovery()?),
            traffic: Some(traffic(&self.federated.accounts, usize::from(self.results.sites))),
            times: self.times(),
            newcomer: self.newcomer.as_ref().map(|story| self.newcomer(story)),
            attendance: Some(self.attendance()),
            privacy: Some(privacy()),
            release: Some(self.release()),
            configuration: Some(self.run.settings.config.to_toml()?),
        })
    }

    fn settings(&self) -> Vec<Fact> {
        let config = &self.run.settings.config;
        let trunks: Vec<String> = self
            .run
            .blueprint
            .networks
            .iter()
            .map(|n| {
                let name = if n.file.is_some() { n.name() } else { "shipped".to_owned() };
                format!("{name} ({}) on {}", &hex::encode(n.trunk.digest())[..8], n.runs)
            })
            .collect();
        vec![
            Fact::new("sites", self.results.sites),
            Fact::new("draw", &self.results.draw),
            Fact::new("seed", self.results.seed),
            Fact::new("scale", &self.scale),
            Fact::new(
                "epochs",
                format!("{}, aggregation every {}", config.training.epochs, config.training.interval),
            ),
            Fact::new(
                "aggregation",
                format!(
                    "{}, rows {}{}",
                    config.federation.aggregation,
                    config.federation.rows,
                    if config.federation.blind { ", blind" } else { "" }
                ),
            ),
            Fact::new("trunk", trunks.join(", ")),
            Fact::new("peak memory", format!("{:.0} MB", self.results.peak_rss_mb)),
        ]
    }

    fn accuracies(&self) -> AccuracyTable {
        let row = |kind,
                   name: &str,
                   note: Option<&str>,
                   pick: &dyn Fn(&super::results::SettingResults) -> [f64; 4]| {
            let of = |setting: Setting| self.results.settings.get(setting.key()).map_or([f64::NAN; 4], pick);
            AccuracyRow {
                kind,
                name: name.to_owned(),
                note: note.map(str::to_owned),
                values: FourSettings {
                    frequent_frequent: of(Setting::FrequentFrequent),
                    rare_rare: of(Setting::RareRare),
                    frequent_all: of(Setting::FrequentAll),
                    rare_all: of(Setting::RareAll),
                },
                spread: None,
            }
        };
        let mut rows = vec![
            row(RowKind::Central, "Centralised", Some("all data in one place"), &|r| r.central),
            row(RowKind::Federated, "Federated", None, &|r| r.federated),
            row(RowKind::Local, "Local only", Some("trained at one site, mean over sites"), &|r| r.local),
            row(RowKind::Baseline, "Networks as published", Some("no training"), &|r| r.published),
        ];
        if self.results.settings.values().any(|results| results.recipe.is_some()) {
            let note = Some("two tuned members and a published one, all data in one place");
            rows.push(row(RowKind::Baseline, "The paper's recipe", note, &|r| {
                r.recipe.unwrap_or([f64::NAN; 4])
            }));
        }
        if self.results.settings.values().any(|results| results.recipe_ranked_alike.is_some()) {
            let note = Some("the same encodings, ranked as the federation's are");
            rows.push(row(RowKind::Baseline, "The paper's recipe, ranked alike", note, &|r| {
                r.recipe_ranked_alike.unwrap_or([f64::NAN; 4])
            }));
        }
        rows.extend(self.extra_rows.iter().map(|(name, note, accuracies)| AccuracyRow {
            kind: RowKind::Baseline,
            name: name.clone(),
            note: note.clone(),
            values: four(accuracies),
            spread: None,
        }));
        AccuracyTable { rows, sizes: sizes(&self.run.cohort.cohort), note: None }
    }

    fn training(&self) -> Training {
        let plan_rounds: Vec<f64> =
            self.federated.sites[0].records.iter().map(|record| f64::from(record.epoch)).collect();
        let members = self
            .run
            .blueprint
            .tuned_names()
            .into_iter()
            .enumerate()
            .map(|(at, member)| self.curves(at, member))
            .collect();
        Training { rounds_at: plan_rounds, members }
    }

    fn curves(&self, at: usize, member: String) -> MemberCurves {
        let mut loss = Curves::default();
        let mut accuracy = Curves::default();
        let mut sums: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        let mut losses: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        for site in &self.federated.sites {
            let images = site.cohort.part(Part::Train).len() as f64;
            let mut own = Series { name: site.name.to_string(), points: Vec::new() };
            let mut right = own.clone();
            for record in &site.records {
                let epoch = f64::from(record.epoch);
                if let Some(&value) = record.loss.get(at) {
                    own.points.push((epoch, value));
                    let sum = losses.entry(record.epoch).or_default();
                    *sum = (sum.0 + value * images, sum.1 + images);
                }
                if let Some(values) = &record.validation_accuracy {
                    right.points.push((epoch, 100.0 * values[at]));
                    let n = record.validation_images as f64;
                    let sum = sums.entry(record.epoch).or_default();
                    *sum = (sum.0 + 100.0 * values[at] * n, sum.1 + n);
                }
            }
            loss.sites.push(own);
            accuracy.sites.push(right);
        }
        let global = |sums: BTreeMap<u32, (f64, f64)>| {
            let points = sums.into_iter().map(|(epoch, (sum, n))| (f64::from(epoch), sum / n)).collect();
            Some(Series { name: "global".to_owned(), points })
        };
        loss.global = global(losses);
        accuracy.global = global(sums);
        let central = self.central.curves.get(at);
        let series = |pick: &dyn Fn(&crate::pipeline::training::CurvePoint) -> Option<f64>| {
            let points = central?.iter().filter_map(|p| Some((f64::from(p.epoch), pick(p)?))).collect();
            Some(Series { name: "centralised".to_owned(), points })
        };
        loss.central = series(&|point| Some(point.loss));
        accuracy.central = series(&|point| point.validation_accuracy.map(|a| 100.0 * a));
        MemberCurves { member, loss, accuracy }
    }

    /// A few probes of the hardest question (against the whole gallery), spread over sites.
    fn probes(&self) -> Result<Vec<Probe>> {
        let cohort = &self.run.cohort.cohort;
        let mut shown = Vec::new();
        let sites = &self.federated.sites;
        for turn in 0..PROBES {
            let site = &sites[turn % sites.len()];
            let mine: Vec<_> = site.ranked.iter().filter(|r| r.galleries == 1).collect();
            let Some(ranked) = mine.get(turn / sites.len() * 3 + turn % 3).or(mine.first()) else { continue };
            let is_true = |syndrome: &Option<SyndromeId>| syndrome.as_ref() == Some(&ranked.truth);
            let named = |syndrome: &Option<SyndromeId>| match syndrome {
                Some(id) => name(cohort, id),
                None => "a syndrome unknown here".to_owned(),
            };
            shown.push(Probe {
                name: format!("image {}", ranked.image),
                site: Some(site.name.to_string()),
                note: None,
                face: Some(face(&self.run.cohort, &ranked.image)?),
                truth: name(cohort, &ranked.truth),
                position: ranked.position().map(|at| at as u32 + 1),
                ranked: Some(ranked.places.len() as u32),
                candidates: ranked
                    .places
                    .iter()
                    .take(CANDIDATES)
                    .enumerate()
                    .map(|(at, r)| Candidate {
                        position: at as u32 + 1,
                        syndrome: named(&r.syndrome),
                        id: r.syndrome.as_ref().and_then(|id| public_id(cohort, id)),
                        distance: f64::from(r.distance),
                        is_true: is_true(&r.syndrome),
                    })
                    .collect(),
                nearest: self.nearest(site, &ranked.image, &ranked.truth)?,
            });
        }
        Ok(shown)
    }

    /// The nearest faces of the probe's own site: other hospitals' faces stay there, only their syndromes came back.
    fn nearest(&self, site: &Site, probe: &ImageId, truth: &SyndromeId) -> Result<Vec<Neighbour>> {
        let cohort = &self.run.cohort.cohort;
        let images = gallery(&site.cohort);
        let own = site.encode(std::slice::from_ref(probe))?;
        let encoding = own.get(probe).context("a probe without an encoding")?;
        let mut near: Vec<(f32, ImageId)> = site
            .encode(&images)?
            .into_iter()
            .map(|(image, other)| (encoding.distance(&other), image))
            .collect();
        near.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        near.into_iter()
            .take(NEIGHBOURS)
            .map(|(distance, image)| {
                let case = cohort.case(&image).context("a gallery image without a case")?;
                Ok(Neighbour {
                    face: Some(face(&self.run.cohort, &image)?),
                    syndrome: name(cohort, &case.syndrome),
                    site: Some(site.name.to_string()),
                    distance: f64::from(distance),
                    is_true: case.syndrome == *truth,
                })
            })
            .collect()
    }

    /// Distances between syndromes over the galleries.
    fn discovery(&self) -> Result<Discovery> {
        let cohort = &self.run.cohort.cohort;
        let mut encodings: BTreeMap<ImageId, Encoding> = BTreeMap::new();
        for site in &self.federated.sites {
            let images: Vec<ImageId> = gallery(&site.cohort);
            encodings.extend(site.encode(&images)?);
        }
        let mut groups: BTreeMap<&SyndromeId, usize> = BTreeMap::new();
        for image in encodings.keys() {
            let case = cohort.case(image).context("a gallery image without a case")?;
            groups.entry(&case.syndrome).or_default();
        }
        for (at, index) in groups.values_mut().enumerate() {
            *index = at;
        }
        let group_of = encodings
            .keys()
            .map(|image| Ok(groups[&cohort.case(image).context("a gallery image without a case")?.syndrome]))
            .collect::<Result<Vec<_>>>()?;
        let all = Distances::between_images(&encodings.values().collect::<Vec<_>>());
        let between = all.between_groups(&group_of, groups.len())?;
        let tree = between.cluster();
        let mut cohorts = Vec::new();
        for (&syndrome, &index) in groups.iter() {
            let members: Vec<usize> = (0..group_of.len()).filter(|&i| group_of[i] == index).collect();
            if cohort.trained_syndromes().contains(syndrome)
                || !(3..=12).contains(&members.len())
                || cohorts.len() == 6
            {
                continue;
            }
            let found = cohort_similarity(&all, &members, RANDOM_COHORTS, self.results.seed)?;
            cohorts.push(CohortSimilarity {
                name: name(cohort, syndrome),
                size: members.len() as u32,
                mean: found.mean,
                random_mean: found.random_mean,
                random_low: found.random_mean - 2.0 * found.random_sd,
                random_high: found.random_mean + 2.0 * found.random_sd,
                p: found.p,
            });
        }
        let note = "Mean distance between the gallery photographs of two syndromes, with the federated ensemble. The cohorts \
                    below are rare syndromes that nobody trained on: their patients should lie closer together than \
                    random patients do.";
        Ok(Discovery {
            syndromes: groups.keys().map(|id| name(cohort, id)).collect(),
            distances: between.as_slice().to_vec(),
            merges: tree.merges().iter().map(|m| Merge { a: m.left, b: m.right, height: m.height }).collect(),
            order: tree.leaf_order(),
            pairs: Vec::new(),
            cohorts,
            note: Some(note.to_owned()),
        })
    }

    fn times(&self) -> Vec<PhaseTime> {
        self.results
            .seconds
            .iter()
            .map(|(phase, &seconds)| PhaseTime { phase: phase.clone(), seconds, note: None })
            .collect()
    }

    fn newcomer(&self, story: &NewcomerStory) -> Newcomer {
        let row = |name: &str, values: [f64; 4]| AccuracyRow {
            kind: RowKind::Baseline,
            name: name.to_owned(),
            note: None,
            values: FourSettings { frequent_frequent: values, ..FourSettings::default() },
            spread: None,
        };
        Newcomer {
            site: story.site.clone(),
            steps: story.steps.clone(),
            facts: vec![Fact::new("probes", story.results.probes)],
            rows: vec![row(&story.site, story.results.newcomer), row("training sites", story.results.others)],
            note: Some(
                "Frequent probes against the frequent gallery, which now holds the newcomer's patients too. The \
                 newcomer's syndromes are few, so its figures are coarse."
                    .to_owned(),
            ),
        }
    }

    fn attendance(&self) -> Attendance {
        let sites = &self.federated.sites;
        let vanish: BTreeMap<(u16, u32), Vanish> =
            engine_drops(&self.run.settings.drops).iter().map(|d| ((d.site.0, d.round), d.vanish)).collect();
        let rounds = sites[0].records.iter().map(|record| {
            let presence = sites.iter().enumerate().map(|(at, _)| {
                let at = at as u16;
                match vanish.get(&(at, record.round)) {
                    Some(Vanish::BeforeUpload) => Presence::DroppedBefore,
                    Some(Vanish::AfterUpload) => Presence::DroppedAfter,
                    None if record.round > 1 && vanish.contains_key(&(at, record.round - 1)) => {
                        if record.sites.contains(&at) { Presence::Returned } else { Presence::Away }
                    }
                    None if record.sites.contains(&at) => Presence::Present,
                    None => Presence::Abstained,
                }
            });
            RoundAttendance { round: record.round, presence: presence.collect() }
        });
        Attendance { sites: sites.iter().map(|s| s.name.to_string()).collect(), rounds: rounds.collect() }
    }

    fn release(&self) -> ReleaseFacts {
        let release = &self.federated.release;
        let signers: Vec<String> = release.signers().map(ToString::to_string).collect();
        ReleaseFacts {
            digest: self.results.release.clone(),
            facts: vec![
                Fact::new("signed by", signers.join(", ")),
                Fact::new("rounds", self.federated.sites[0].records.len()),
                Fact::new("length of an encoding", self.run.blueprint.dim()),
            ],
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

fn sizes(cohort: &Cohort) -> Vec<SettingSize> {
    let all = comparisons(cohort);
    let sizes: Vec<SettingSize> = Setting::ALL
        .iter()
        .filter_map(|&setting| {
            let mine: Vec<_> = all.iter().filter(|c| c.setting == setting).collect();
            let first = mine.first()?;
            let syndromes: std::collections::BTreeSet<_> = first
                .probes
                .iter()
                .filter_map(|image| cohort.case(image))
                .map(|case| &case.syndrome)
                .collect();
            Some(SettingSize {
                probes: first.probes.len() as u64,
                gallery: first.gallery.len() as u64,
                syndromes: syndromes.len() as u64,
                splits: mine.len() as u64,
            })
        })
        .collect();
    if sizes.len() == 4 { sizes } else { Vec::new() }
}

fn gallery(cohort: &Cohort) -> Vec<ImageId> {
    let mut images: Vec<ImageId> = cohort
        .parts()
        .filter(|(part, _)| matches!(part, Part::FrequentGallery | Part::RareGallery(_)))
        .flat_map(|(_, images)| images.to_vec())
        .collect();
    images.sort();
    images.dedup();
    images
}

fn syndrome<'a>(cohort: &'a Cohort, id: &SyndromeId) -> Option<&'a Syndrome> {
    Some(&cohort.syndromes()[cohort.syndrome_index(id)?])
}

/// A syndrome's name, or its label where it has none.
pub fn name(cohort: &Cohort, id: &SyndromeId) -> String {
    match syndrome(cohort, id) {
        Some(syndrome) if !syndrome.name.is_empty() => syndrome.name.clone(),
        _ => id.to_string(),
    }
}

fn public_id(cohort: &Cohort, id: &SyndromeId) -> Option<String> {
    let syndrome = syndrome(cohort, id)?;
    syndrome.mondo.clone().or_else(|| syndrome.omim.clone()).or_else(|| syndrome.orpha.clone())
}

fn face(cohort: &CohortDir, image: &ImageId) -> Result<Picture> {
    Ok(Picture::from_bytes(cohort.crop(image)?.to_jpeg(88)?)?)
}

fn traffic(accounts: &Accounts, sites: usize) -> Traffic {
    const ORDER: [&str; 8] =
        ["enrol", "counts", "rounds", "model", "kernel", "metrics", "release", "control"];
    let used: Vec<String> = ORDER
        .iter()
        .filter(|phase| accounts.up.iter().any(|(_, p, _)| p == *phase))
        .map(|phase| (*phase).to_owned())
        .collect();
    let bytes = |table: &[(u16, String, u64)], site: usize| {
        let of = |phase: &String| {
            table.iter().filter(|(s, p, _)| usize::from(*s) == site && p == phase).map(|(_, _, n)| n).sum()
        };
        used.iter().map(of).collect()
    };
    let sites = (0..sites)
        .map(|at| SiteTraffic {
            site: super::site_name(at),
            sent: bytes(&accounts.up, at),
            received: bytes(&accounts.down, at),
        })
        .collect();
    Traffic { phases: used, sites, note: None }
}

fn privacy() -> Privacy {
    let left = |what: &str, to: &str, protection: &str, learns: &str| Disclosure {
        what: what.to_owned(),
        to: to.to_owned(),
        protection: protection.to_owned(),
        learns: learns.to_owned(),
    };
    Privacy {
        summary: None,
        left: vec![
            left(
                "model updates, image counts, hits",
                "coordinator",
                "pairwise, self and blind masks; only the sum over all present sites opens, and only at sites",
                "nothing but that a site took part",
            ),
            left(
                "sums of the above",
                "every site",
                "at least three sites are in every sum",
                "the sum; with classifier rows of syndromes that fewer sites hold, what those rows say (policy rows = shared(k))",
            ),
            left(
                "encodings of gallery and probes",
                "coordinator",
                "rotated by a secret orthogonal matrix of the release",
                "all pairwise distances, which tokens are near each other",
            ),
            left("syndrome names", "other sites", "sealed under the group key", "the united list of syndromes"),
        ],
        kept: vec![
            "photographs and aligned faces".to_owned(),
            "encodings in readable form".to_owned(),
            "names, subjects, and which image is behind a pseudonym".to_owned(),
            "this site's own update, accuracy and counts".to_owned(),
        ],
        limits: vec![
            "A party that knows as many photographs behind masked vectors as an encoding is long can solve for the rotation; \
             it is fresh for each release."
                .to_owned(),
            "A coordinator that colludes with a site that has the group key can undo the rotation and the blind mask, not \
             the pairwise masks."
                .to_owned(),
            "The trained model itself may remember its training images; no noise is added.".to_owned(),
        ],
    }
}
