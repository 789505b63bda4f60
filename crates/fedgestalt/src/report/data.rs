//! What a report is made of: plain numbers, names and pictures, gathered by the caller.
//!
//! Everything is text and numbers so that the whole can be kept as JSON and drawn again. A value that was not
//! measured is `f64::NAN` (`null` in JSON) and is drawn as a dash or a gap, never as a zero. Every list may be
//! empty and every option `None`: the section that would show it is then left out.

use serde::{Deserialize, Deserializer, Serialize};

use super::picture::Picture;

/// Everything that one report shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportData {
    /// Title of the page.
    pub title: String,
    /// One sentence that a reader in a hurry takes home; made from [`ReportData::accuracies`] when `None`.
    pub headline: Option<String>,
    /// Date as text, only where the caller has a reproducible one.
    pub date: Option<String>,
    /// Program and version, for the footer.
    pub generator: String,
    /// Settings of the run in reading order: sites, draw, seed, scale, epochs, interval, trunk...
    pub settings: Vec<Fact>,
    /// The four-setting table.
    pub accuracies: AccuracyTable,
    /// Training curves of the ensemble's members.
    pub training: Option<Training>,
    /// A few probes with their rankings.
    pub probes: Vec<Probe>,
    /// Distances between syndromes.
    pub discovery: Option<Discovery>,
    /// Bytes that left each site.
    pub traffic: Option<Traffic>,
    /// Wall-clock time of each phase, in the order in which they ran.
    pub times: Vec<PhaseTime>,
    /// The site that joined after training.
    pub newcomer: Option<Newcomer>,
    /// Which site took part in which round.
    pub attendance: Option<Attendance>,
    /// What left the sites, and what did not.
    pub privacy: Option<Privacy>,
    /// The signed release.
    pub release: Option<ReleaseFacts>,
    /// The run's configuration as text (TOML), shown as it is.
    pub configuration: Option<String>,
}

/// A name and its value, both as they are to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What it is, for instance `sites`.
    pub name: String,
    /// Its value, for instance `4`.
    pub value: String,
}

impl Fact {
    /// A fact from anything that prints.
    pub fn new(name: impl Into<String>, value: impl ToString) -> Self {
        Self { name: name.into(), value: value.to_string() }
    }
}

/// Macro recall at 1, 5, 10 and 30 in the four settings, in percent (0 to 100).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FourSettings {
    /// Frequent probes against the frequent gallery.
    #[serde(deserialize_with = "null::four")]
    pub frequent_frequent: [f64; 4],
    /// Rare probes against the rare gallery, mean over splits.
    #[serde(deserialize_with = "null::four")]
    pub rare_rare: [f64; 4],
    /// Frequent probes against both galleries.
    #[serde(deserialize_with = "null::four")]
    pub frequent_all: [f64; 4],
    /// Rare probes against both galleries.
    #[serde(deserialize_with = "null::four")]
    pub rare_all: [f64; 4],
}

impl FourSettings {
    /// The settings in the order in which papers print them.
    pub fn in_order(&self) -> [&[f64; 4]; 4] {
        [&self.frequent_frequent, &self.rare_rare, &self.frequent_all, &self.rare_all]
    }

    /// The 16 accuracies in that order.
    pub fn cells(&self) -> [f64; 16] {
        let all = self.in_order();
        std::array::from_fn(|at| all[at / 4][at % 4])
    }

    /// The inverse of [`FourSettings::cells`].
    pub fn from_cells(cells: [f64; 16]) -> Self {
        let four = |from: usize| std::array::from_fn(|k| cells[4 * from + k]);
        Self { frequent_frequent: four(0), rare_rare: four(1), frequent_all: four(2), rare_all: four(3) }
    }
}

impl Default for FourSettings {
    fn default() -> Self {
        let nothing = [f64::NAN; 4];
        Self { frequent_frequent: nothing, rare_rare: nothing, frequent_all: nothing, rare_all: nothing }
    }
}

/// The four-setting table: one row per way of training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccuracyTable {
    /// Rows in print order. Retention needs one [`RowKind::Central`] row.
    pub rows: Vec<AccuracyRow>,
    /// Sizes of the four settings in the order of [`FourSettings::in_order`]; empty where not known.
    pub sizes: Vec<SettingSize>,
    /// Remark under the table.
    pub note: Option<String>,
}

/// What a row of the table stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// All data in one place.
    Central,
    /// Trained together without sharing data; each cell also shows its share of the central one.
    Federated,
    /// Each site alone, mean over sites.
    Local,
    /// A line to compare with: published numbers, an untrained or random trunk, one site.
    #[default]
    Baseline,
}

/// One row of the four-setting table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccuracyRow {
    /// What was trained and how.
    pub kind: RowKind,
    /// Name as printed, for instance `Local only`.
    pub name: String,
    /// Small print beside the name, for instance `mean over 4 sites`.
    pub note: Option<String>,
    /// Percent.
    pub values: FourSettings,
    /// Standard deviation (over seeds, or over sites) in points, if there is one.
    pub spread: Option<FourSettings>,
}

/// How large one setting is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingSize {
    /// Images asked about (mean over splits where there are several).
    pub probes: u64,
    /// Images compared with.
    pub gallery: u64,
    /// Syndromes that the mean runs over.
    pub syndromes: u64,
    /// Splits averaged; 1 where there is only one.
    pub splits: u64,
}

/// Training curves of all members.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Training {
    /// Epochs after which an aggregation took place (vertical ticks).
    #[serde(deserialize_with = "null::many")]
    pub rounds_at: Vec<f64>,
    /// One entry per trained member.
    pub members: Vec<MemberCurves>,
}

/// Curves of one member of the ensemble.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberCurves {
    /// Member's name, for instance `r50, tuned`.
    pub member: String,
    /// Training loss.
    pub loss: Curves,
    /// Validation accuracy in percent.
    pub accuracy: Curves,
}

/// Lines of one chart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Curves {
    /// One thin line per site.
    pub sites: Vec<Series>,
    /// The global model (thick).
    pub global: Option<Series>,
    /// Centralised training (dashed).
    pub central: Option<Series>,
}

/// One line: points `(epoch, value)`; a NaN value interrupts it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Name in the key and in the table.
    pub name: String,
    /// Points by rising epoch.
    #[serde(deserialize_with = "null::points")]
    pub points: Vec<(f64, f64)>,
}

/// One photograph asked about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Probe {
    /// What to call it, for instance the image id.
    pub name: String,
    /// Site that asked.
    pub site: Option<String>,
    /// Remark, for instance `rare, split 3`.
    pub note: Option<String>,
    /// The face.
    pub face: Option<Picture>,
    /// True syndrome's name.
    pub truth: String,
    /// Place of the true syndrome in the whole ranking, first = 1; `None` if it was not ranked.
    pub position: Option<u32>,
    /// Number of syndromes ranked.
    pub ranked: Option<u32>,
    /// Best syndromes, nearest first. The true one may follow out of order: give its `position`.
    pub candidates: Vec<Candidate>,
    /// Nearest gallery photographs.
    pub nearest: Vec<Neighbour>,
}

/// One syndrome of a ranking.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Candidate {
    /// Place in the ranking, first = 1.
    pub position: u32,
    /// Name.
    pub syndrome: String,
    /// Identifier such as `OMIM:101600`.
    pub id: Option<String>,
    /// 1 - cosine similarity of the nearest gallery image, 0 to 2.
    #[serde(deserialize_with = "null::one")]
    pub distance: f64,
    /// Whether it is the true one.
    pub is_true: bool,
}

/// One gallery photograph near a probe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Neighbour {
    /// The face; only those that the reader may see.
    pub face: Option<Picture>,
    /// Its syndrome.
    pub syndrome: String,
    /// Site that holds it.
    pub site: Option<String>,
    /// Distance to the probe, 0 to 2.
    #[serde(deserialize_with = "null::one")]
    pub distance: f64,
    /// Whether its syndrome is the probe's true one.
    pub is_true: bool,
}

/// Distances between syndromes, their clusters, and cohorts compared with random ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Discovery {
    /// Names of the n syndromes.
    pub syndromes: Vec<String>,
    /// n x n distances, row by row in the order of `syndromes`; the diagonal holds the distance within a syndrome.
    #[serde(deserialize_with = "null::many")]
    pub distances: Vec<f64>,
    /// The n - 1 steps of agglomerative clustering, as in SciPy's linkage matrix; may be empty.
    pub merges: Vec<Merge>,
    /// Leaf order of the dendrogram (a permutation of 0..n); the order of `syndromes` when empty.
    pub order: Vec<usize>,
    /// Closest pairs of different syndromes; found from `distances` when empty.
    pub pairs: Vec<Pair>,
    /// Cohorts compared with random ones of the same size.
    pub cohorts: Vec<CohortSimilarity>,
    /// Remark, for instance how distances were taken.
    pub note: Option<String>,
}

/// One step of clustering: numbers below n are syndromes, n + i is the cluster made by step i.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Merge {
    /// First cluster.
    pub a: usize,
    /// Second cluster.
    pub b: usize,
    /// Distance at which they merge.
    #[serde(deserialize_with = "null::one")]
    pub height: f64,
}

/// Two syndromes with similar faces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pair {
    /// First syndrome.
    pub a: String,
    /// Second syndrome.
    pub b: String,
    /// Distance between them.
    #[serde(deserialize_with = "null::one")]
    pub distance: f64,
}

/// Mean pairwise distance of a cohort against random cohorts of the same size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CohortSimilarity {
    /// Cohort's name.
    pub name: String,
    /// Number of images (or subjects) in it.
    pub size: u32,
    /// Its mean pairwise distance.
    #[serde(deserialize_with = "null::one")]
    pub mean: f64,
    /// Mean over the random cohorts.
    #[serde(deserialize_with = "null::one")]
    pub random_mean: f64,
    /// 5th percentile of the random cohorts.
    #[serde(deserialize_with = "null::one")]
    pub random_low: f64,
    /// 95th percentile of the random cohorts.
    #[serde(deserialize_with = "null::one")]
    pub random_high: f64,
    /// Share of random cohorts at least as similar, 0 to 1.
    #[serde(deserialize_with = "null::one")]
    pub p: f64,
}

/// Bytes by site and phase.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Phases, in the order in which they ran.
    pub phases: Vec<String>,
    /// One entry per site.
    pub sites: Vec<SiteTraffic>,
    /// Remark.
    pub note: Option<String>,
}

/// Bytes of one site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SiteTraffic {
    /// Site's name.
    pub site: String,
    /// Bytes sent in each phase.
    pub sent: Vec<u64>,
    /// Bytes received in each phase; empty where not counted.
    pub received: Vec<u64>,
}

/// Time that a phase took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PhaseTime {
    /// Phase's name.
    pub phase: String,
    /// Wall-clock seconds.
    #[serde(deserialize_with = "null::one")]
    pub seconds: f64,
    /// Remark, for instance `212 images/s`.
    pub note: Option<String>,
}

/// The site that joined after training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Newcomer {
    /// Site's name; the row of the same name in `rows` is marked.
    pub site: String,
    /// What happened, step by step.
    pub steps: Vec<String>,
    /// Facts such as the number of subjects it brought.
    pub facts: Vec<Fact>,
    /// Each site's own probes, the newcomer's among them; also means and comparisons.
    pub rows: Vec<AccuracyRow>,
    /// Remark under the table.
    pub note: Option<String>,
}

/// Who took part in which round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attendance {
    /// Sites, one line each.
    pub sites: Vec<String>,
    /// Rounds by rising number.
    pub rounds: Vec<RoundAttendance>,
}

/// One round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundAttendance {
    /// Round's number, first = 1.
    pub round: u32,
    /// What each site did, in the order of [`Attendance::sites`].
    pub presence: Vec<Presence>,
}

/// What a site did in a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// Took part from beginning to end.
    #[default]
    Present,
    /// Vanished before its update was uploaded: the round went on without it.
    DroppedBefore,
    /// Vanished after its update was uploaded: the update counts.
    DroppedAfter,
    /// Was not there at all.
    Away,
    /// Came back, applied the rounds it had missed and took part.
    Returned,
    /// Was there and sat the round out, with a reason.
    Abstained,
}

/// What left the sites, and what did not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Privacy {
    /// Paragraph that opens the section.
    pub summary: Option<String>,
    /// Each kind of thing that left a site.
    pub left: Vec<Disclosure>,
    /// Things that never left.
    pub kept: Vec<String>,
    /// What is not guaranteed.
    pub limits: Vec<String>,
}

/// One kind of thing that left a site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disclosure {
    /// What, for instance `neck update`.
    pub what: String,
    /// To whom.
    pub to: String,
    /// How it was protected.
    pub protection: String,
    /// What the receiver learns.
    pub learns: String,
}

/// The signed release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReleaseFacts {
    /// Digest in hexadecimal.
    pub digest: String,
    /// Other facts: plan digest, signatures, trunk digests, kernel...
    pub facts: Vec<Fact>,
}

/// JSON has no NaN: `serde_json` writes `null`, and these read it back.
mod null {
    use super::{Deserialize, Deserializer};

    pub(super) fn one<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(d)?.unwrap_or(f64::NAN))
    }

    pub(super) fn four<'de, D: Deserializer<'de>>(d: D) -> Result<[f64; 4], D::Error> {
        Ok(<[Option<f64>; 4]>::deserialize(d)?.map(|v| v.unwrap_or(f64::NAN)))
    }

    pub(super) fn many<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
        let values = Vec::<Option<f64>>::deserialize(d)?;
        Ok(values.into_iter().map(|v| v.unwrap_or(f64::NAN)).collect())
    }

    pub(super) fn points<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<(f64, f64)>, D::Error> {
        let points = Vec::<(Option<f64>, Option<f64>)>::deserialize(d)?;
        let number = |v: Option<f64>| v.unwrap_or(f64::NAN);
        Ok(points.into_iter().map(|(x, y)| (number(x), number(y))).collect())
    }
}
