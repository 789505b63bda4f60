//! The four settings of DESIGN section 3 and their macro top-k accuracies.
//!
//! Conventions (`reference/README.md` tells how they were checked):
//!
//! * A probe counts as a hit at `k` when its syndrome is among the first `k` syndromes of the ranking, syndromes being
//!   ordered by their nearest gallery image ([`crate::rank`]), or by what a [`Scoring`] makes of all of them.
//! * A syndrome's recall is taken over its probes in one comparison; a comparison's accuracy is the plain mean over the
//!   syndromes that have probes in it (macro); a setting's accuracy is the plain mean over its splits.
//! * "All" is the frequent gallery followed by the rare gallery **of the same split**: the photographs asked about in
//!   a split are never in its gallery. Hence `frequent_all` too has one comparison per split, with the same probes.
//!
//! Counts, not percentages, are what sites exchange: [`HitCounts`] of several sites add up to that of all their probes.

mod leave_one_out;
mod similarities;

pub use leave_one_out::{LeaveOneOut, leave_one_out};
pub use similarities::Similarities;

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::encoding::inner_products;
use crate::normalise::{Columns, Normaliser, normalisers};
use crate::{Cohort, Encoding, Error, ErrorKind, ImageId, Part, Result, Scoring};

/// The `k` of top-k.
pub const KS: [usize; 4] = [1, 5, 10, 30];

/// Which photographs are asked about, and against which gallery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// Frequent probes, frequent gallery.
    FrequentFrequent,
    /// Rare probes, rare gallery, per split.
    RareRare,
    /// Frequent probes, frequent and rare gallery, per split.
    FrequentAll,
    /// Rare probes, frequent and rare gallery, per split.
    RareAll,
}

impl Setting {
    /// The four settings in the order of the paper's tables.
    pub const ALL: [Setting; 4] = [Self::FrequentFrequent, Self::RareRare, Self::FrequentAll, Self::RareAll];

    /// The setting's name in files: `frequent_frequent`, `rare_rare`, `frequent_all`, `rare_all`.
    pub fn key(self) -> &'static str {
        match self {
            Self::FrequentFrequent => "frequent_frequent",
            Self::RareRare => "rare_rare",
            Self::FrequentAll => "frequent_all",
            Self::RareAll => "rare_all",
        }
    }

    /// Whether the setting has one comparison per split, rather than one in all.
    pub fn has_splits(self) -> bool {
        self != Self::FrequentFrequent
    }
}

/// One gallery and the probes asked about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Its setting.
    pub setting: Setting,
    /// Its split; 0 where the setting has none.
    pub split: u8,
    /// The gallery, in file order: frequent before rare.
    pub gallery: Vec<ImageId>,
    /// The probes, in file order.
    pub probes: Vec<ImageId>,
}

/// The comparisons a cohort allows, in the order of [`Setting::ALL`] and ascending splits; those without probes or
/// without gallery are left out.
///
/// In a cohort without rare parts `frequent_all` is left out, not equated with `frequent_frequent`.
pub fn comparisons(cohort: &Cohort) -> Vec<Comparison> {
    let splits = cohort.splits();
    let mut all = Vec::new();
    for setting in Setting::ALL {
        let splits: &[u8] = if setting.has_splits() { &splits } else { &[0] };
        for &split in splits {
            let (gallery, probes): (&[Part], Part) = match setting {
                Setting::FrequentFrequent => (&[Part::FrequentGallery], Part::FrequentTest),
                Setting::RareRare => (&[Part::RareGallery(split)], Part::RareTest(split)),
                Setting::FrequentAll => {
                    (&[Part::FrequentGallery, Part::RareGallery(split)], Part::FrequentTest)
                }
                Setting::RareAll => {
                    (&[Part::FrequentGallery, Part::RareGallery(split)], Part::RareTest(split))
                }
            };
            let gallery: Vec<ImageId> = gallery.iter().flat_map(|&part| cohort.part(part)).cloned().collect();
            let probes = cohort.part(probes).to_vec();
            if !gallery.is_empty() && !probes.is_empty() {
                all.push(Comparison { setting, split, gallery, probes });
            }
        }
    }
    all
}

/// Probes and hits per comparison and syndrome, as integers with a fixed layout: what sites add up (securely) to get
/// the accuracies of them all.
///
/// Layout: one block per comparison, `frequent_frequent` first, then `rare_rare`, `frequent_all` and `rare_all` with
/// one block per split 0, 1, ..; in a block five words per syndrome of the shared list: probes, and hits at each of
/// [`KS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HitCounts {
    syndromes: usize,
    splits: usize,
    words: Vec<u32>,
}

/// Words per syndrome in one block.
const CELL: usize = 1 + KS.len();

impl HitCounts {
    /// No probes yet. `syndromes` is the length of the shared syndrome list, `splits` the number of rare splits.
    pub fn new(syndromes: usize, splits: usize) -> Self {
        Self { syndromes, splits, words: vec![0; Self::word_count(syndromes, splits)] }
    }

    /// The counts of a cohort before any probe: its syndrome list, and splits up to its highest.
    pub fn for_cohort(cohort: &Cohort) -> Self {
        let splits = cohort.splits().last().map_or(0, |&last| usize::from(last) + 1);
        Self::new(cohort.syndromes().len(), splits)
    }

    /// How many words such counts have.
    pub fn word_count(syndromes: usize, splits: usize) -> usize {
        (1 + 3 * splits) * syndromes * CELL
    }

    fn block(&self, setting: Setting, split: u8) -> usize {
        let split = usize::from(split);
        match setting {
            Setting::FrequentFrequent => 0,
            Setting::RareRare => 1 + split,
            Setting::FrequentAll => 1 + self.splits + split,
            Setting::RareAll => 1 + 2 * self.splits + split,
        }
    }

    /// Counts one probe of `syndrome` (its index in the shared list) whose syndrome came out at the 0-based
    /// `position`; `None` when the gallery does not have it, which is a miss. `split` is ignored where the setting has
    /// none.
    ///
    /// # Panics
    ///
    /// When `syndrome` or `split` is outside what [`HitCounts::new`] was given.
    pub fn record(&mut self, setting: Setting, split: u8, syndrome: usize, position: Option<usize>) {
        assert!(syndrome < self.syndromes, "syndrome {syndrome} of {}", self.syndromes);
        assert!(
            !setting.has_splits() || usize::from(split) < self.splits,
            "split {split} of {}",
            self.splits
        );
        let start = (self.block(setting, split) * self.syndromes + syndrome) * CELL;
        let cell = &mut self.words[start..start + CELL];
        cell[0] += 1;
        for (word, k) in cell[1..].iter_mut().zip(KS) {
            *word += u32::from(position.is_some_and(|place| place < k));
        }
    }

    /// The length of the syndrome list counted over.
    pub fn syndromes(&self) -> usize {
        self.syndromes
    }

    /// The number of splits counted over.
    pub fn splits(&self) -> usize {
        self.splits
    }

    /// The counts in their fixed layout.
    pub fn as_words(&self) -> &[u32] {
        &self.words
    }

    /// The inverse of [`HitCounts::as_words`]. Refused when the length is not that of the layout, or when a cell
    /// has more hits than probes or fewer at a larger `k`, as counts that did not add up would.
    pub fn from_words(syndromes: usize, splits: usize, words: &[u32]) -> Result<Self> {
        let expected = Self::word_count(syndromes, splits);
        if words.len() != expected {
            return Err(Error::new(
                ErrorKind::Length,
                format!(
                    "hit counts have {} words instead of {expected}; do all sites share the syndrome list and splits?",
                    words.len()
                ),
            ));
        }
        if let Some(at) = words
            .chunks_exact(CELL)
            .position(|c| c[CELL - 1] > c[0] || c[1..].windows(2).any(|w| w[0] > w[1]))
        {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "hit counts of syndrome {} contradict themselves; repeat the evaluation",
                    at % syndromes
                ),
            ));
        }
        Ok(Self { syndromes, splits, words: words.to_vec() })
    }

    /// Adds the counts of other probes. Refused when the layouts differ.
    pub fn add(&mut self, other: &HitCounts) -> Result<()> {
        if (self.syndromes, self.splits) != (other.syndromes, other.splits) {
            return Err(Error::new(
                ErrorKind::Length,
                "hit counts over different syndrome lists or splits cannot be added; share one list between the sites",
            ));
        }
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word += more;
        }
        Ok(())
    }

    /// Probes counted in a setting, over its splits.
    pub fn probes(&self, setting: Setting) -> u64 {
        self.blocks(setting).flat_map(|block| block.chunks_exact(CELL)).map(|cell| u64::from(cell[0])).sum()
    }

    fn blocks(&self, setting: Setting) -> impl Iterator<Item = &[u32]> {
        let count = if setting.has_splits() { self.splits } else { 1 };
        let size = self.syndromes * CELL;
        let first = self.block(setting, 0);
        (first..first + count).map(move |block| &self.words[block * size..(block + 1) * size])
    }

    fn accuracy(&self, setting: Setting) -> [f64; 4] {
        let per_split: Vec<[f64; 4]> = self.blocks(setting).filter_map(macro_recall).collect();
        mean(&per_split).map_or([f64::NAN; 4], |shares| shares.map(|share| 100.0 * share))
    }

    /// The accuracies that these counts amount to.
    pub fn table(&self) -> Accuracies {
        Accuracies {
            frequent_frequent: self.accuracy(Setting::FrequentFrequent),
            rare_rare: self.accuracy(Setting::RareRare),
            frequent_all: self.accuracy(Setting::FrequentAll),
            rare_all: self.accuracy(Setting::RareAll),
        }
    }
}

/// The mean recall over the syndromes of a block that have probes; `None` where none has.
fn macro_recall(block: &[u32]) -> Option<[f64; 4]> {
    let recalls: Vec<[f64; 4]> = block
        .chunks_exact(CELL)
        .filter(|cell| cell[0] > 0)
        .map(|cell| std::array::from_fn(|k| f64::from(cell[1 + k]) / f64::from(cell[0])))
        .collect();
    mean(&recalls)
}

fn mean(rows: &[[f64; 4]]) -> Option<[f64; 4]> {
    (!rows.is_empty())
        .then(|| std::array::from_fn(|k| rows.iter().map(|row| row[k]).sum::<f64>() / rows.len() as f64))
}

/// Macro top-k accuracies in percent, `k` as in [`KS`]. A setting without any probe is NaN, written as `null`: it has
/// no accuracy, and must not lower a mean over sites.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Accuracies {
    /// Frequent probes, frequent gallery.
    #[serde(with = "nan_as_null")]
    pub frequent_frequent: [f64; 4],
    /// Rare probes, rare gallery.
    #[serde(with = "nan_as_null")]
    pub rare_rare: [f64; 4],
    /// Frequent probes, whole gallery.
    #[serde(with = "nan_as_null")]
    pub frequent_all: [f64; 4],
    /// Rare probes, whole gallery.
    #[serde(with = "nan_as_null")]
    pub rare_all: [f64; 4],
}

impl Accuracies {
    /// The four accuracies of one setting.
    pub fn get(&self, setting: Setting) -> [f64; 4] {
        match setting {
            Setting::FrequentFrequent => self.frequent_frequent,
            Setting::RareRare => self.rare_rare,
            Setting::FrequentAll => self.frequent_all,
            Setting::RareAll => self.rare_all,
        }
    }

    /// Whether the setting had probes.
    pub fn has(&self, setting: Setting) -> bool {
        !self.get(setting)[0].is_nan()
    }

    /// The mean of several tables, cell by cell, each over the tables that have the cell's setting.
    pub fn mean(tables: &[Accuracies]) -> Accuracies {
        let cell = |setting: Setting| {
            let rows: Vec<[f64; 4]> =
                tables.iter().filter(|t| t.has(setting)).map(|t| t.get(setting)).collect();
            mean(&rows).unwrap_or([f64::NAN; 4])
        };
        Accuracies {
            frequent_frequent: cell(Setting::FrequentFrequent),
            rare_rare: cell(Setting::RareRare),
            frequent_all: cell(Setting::FrequentAll),
            rare_all: cell(Setting::RareAll),
        }
    }
}

mod nan_as_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(values: &[f64; 4], serializer: S) -> Result<S::Ok, S::Error> {
        values.map(|v| (!v.is_nan()).then_some(v)).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[f64; 4], D::Error> {
        Ok(<[Option<f64>; 4]>::deserialize(deserializer)?.map(|v| v.unwrap_or(f64::NAN)))
    }
}

/// Every probe and every gallery image of some comparisons, once each, in order of first appearance.
pub fn needed(comparisons: &[Comparison]) -> (Vec<ImageId>, Vec<ImageId>) {
    fn distinct<'a>(images: impl Iterator<Item = &'a ImageId>) -> Vec<ImageId> {
        let mut seen = std::collections::HashSet::new();
        images.filter(|image| seen.insert(*image)).cloned().collect()
    }
    (
        distinct(comparisons.iter().flat_map(|c| &c.probes)),
        distinct(comparisons.iter().flat_map(|c| &c.gallery)),
    )
}

/// Ranks every probe of a cohort in every comparison and counts the hits. Refused when an image has no encoding.
pub fn evaluate(cohort: &Cohort, encodings: &BTreeMap<ImageId, Encoding>) -> Result<HitCounts> {
    evaluate_scored(cohort, encodings, Scoring::NEAREST)
}

/// As [`evaluate`], with syndromes ranked by a scoring, normalised in each comparison by the similarities of its gallery.
pub fn evaluate_scored(
    cohort: &Cohort,
    encodings: &BTreeMap<ImageId, Encoding>,
    scoring: Scoring,
) -> Result<HitCounts> {
    let similarities = Similarities::from_encodings(cohort, encodings)?;
    let syndrome_of = syndromes_of(cohort);
    let comparisons = comparisons(cohort);
    let (_, gallery) = needed(&comparisons);
    let encodings: Vec<&Encoding> = gallery.iter().map(|image| &encodings[image]).collect();
    // The two settings against the whole gallery share it.
    let mut distinct: Vec<&[ImageId]> = Vec::new();
    let place: Vec<usize> = comparisons
        .iter()
        .map(|comparison| {
            let known = distinct.iter().position(|other| *other == comparison.gallery);
            known.unwrap_or_else(|| {
                distinct.push(&comparison.gallery);
                distinct.len() - 1
            })
        })
        .collect();
    let galleries: Vec<Columns> = distinct
        .iter()
        .map(|images| images.iter().map(|image| (similarities.columns[image], syndrome_of[image])).collect())
        .collect();
    let normalisers = normalisers(scoring, gallery.len(), &galleries, |band| {
        Ok::<_, Error>(inner_products(&encodings[band], &encodings))
    })?;
    count(cohort, &similarities, scoring, |comparison| normalisers.get(place[comparison]))
}

/// As [`evaluate`], with inner products that are already there. Refused when one that a comparison needs is not.
pub fn evaluate_similarities(cohort: &Cohort, similarities: &Similarities) -> Result<HitCounts> {
    count(cohort, similarities, Scoring::NEAREST, |_| None)
}

fn syndromes_of(cohort: &Cohort) -> HashMap<&ImageId, u32> {
    let cases = cohort.cases().iter();
    cases
        .filter_map(|case| Some((&case.image, u32::try_from(cohort.syndrome_index(&case.syndrome)?).ok()?)))
        .collect()
}

/// Counts the hits; `normaliser` gives that of the comparison in this place, if there is one.
fn count<'a>(
    cohort: &Cohort,
    similarities: &Similarities,
    scoring: Scoring,
    normaliser: impl Fn(usize) -> Option<&'a Normaliser>,
) -> Result<HitCounts> {
    let mut counts = HitCounts::for_cohort(cohort);
    let syndrome_of = syndromes_of(cohort);
    let missing = |image: &ImageId| {
        Error::new(
            ErrorKind::MissingEncoding,
            format!("no similarities for image {image}; encode the cohort first"),
        )
    };
    for (at, comparison) in comparisons(cohort).into_iter().enumerate() {
        let normaliser = normaliser(at);
        let column = |image| similarities.columns.get(image).copied().ok_or_else(|| missing(image));
        let columns: Vec<usize> = comparison.gallery.iter().map(column).collect::<Result<_>>()?;
        let labels: Vec<u32> = comparison.gallery.iter().map(|image| syndrome_of[image]).collect();
        let places: Vec<(usize, Option<usize>)> = comparison
            .probes
            .par_iter()
            .map_init(Scratch::default, |scratch, probe| {
                let row = similarities.row(probe).ok_or_else(|| missing(probe))?;
                let syndrome = syndrome_of[probe];
                scratch.take(columns.iter().map(|&column| row[column]));
                let scores = scoring.scores(normaliser, scratch.values.iter().copied(), &labels);
                Ok((syndrome as usize, scratch.place(&scores, &labels, syndrome)))
            })
            .collect::<Result<_>>()?;
        for (syndrome, place) in places {
            counts.record(comparison.setting, comparison.split, syndrome, place);
        }
    }
    Ok(counts)
}

/// Where a label comes out in [`crate::rank::rank_by`], for many probes.
#[derive(Default)]
struct Scratch {
    /// A similarity per gallery image.
    values: Vec<f32>,
    /// Per label its nearest image, as an index into the gallery.
    nearest: Vec<Option<usize>>,
}

impl Scratch {
    fn take(&mut self, values: impl Iterator<Item = f32>) {
        self.values.clear();
        self.values.extend(values.map(crate::rank::value));
    }

    /// The place of the label `wanted`, from 0, by the labels' scores.
    fn place(&mut self, scores: &[f64], labels: &[u32], wanted: u32) -> Option<usize> {
        self.nearest.clear();
        self.nearest.resize(scores.len(), None);
        let values = &self.values;
        for (at, &label) in labels.iter().enumerate() {
            let nearest = &mut self.nearest[label as usize];
            if nearest.is_none_or(|best| values[at] > values[best]) {
                *nearest = Some(at);
            }
        }
        let own = (*self.nearest.get(wanted as usize)?)?;
        let limit = scores[wanted as usize];
        let ahead = |(&score, nearest): (&f64, &Option<usize>)| {
            nearest.is_some_and(|at| {
                let nearer = values[at] > values[own] || (values[at] == values[own] && at < own);
                score > limit || (score == limit && nearer)
            })
        };
        Some(scores.iter().zip(&self.nearest).filter(|&label| ahead(label)).count())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accuracy_is_macro_over_syndromes_and_mean_over_splits() {
        let mut counts = HitCounts::new(3, 2);
        // Split 0: syndrome 0 found in one of three, syndrome 2 always: macro (1/3 + 1) / 2. Split 1: nothing found.
        for (syndrome, place) in [(0, Some(0)), (0, Some(1)), (0, None), (2, Some(0))] {
            counts.record(Setting::RareRare, 0, syndrome, place);
        }
        counts.record(Setting::RareRare, 1, 1, Some(30));
        let table = counts.table();
        let close = |found: [f64; 4], expected: [f64; 4]| {
            found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-9)
        };
        assert!(close(table.rare_rare, [100.0 / 3.0, 125.0 / 3.0, 125.0 / 3.0, 125.0 / 3.0]), "{table:?}");
        assert!(table.has(Setting::RareRare) && !table.has(Setting::FrequentAll));
        assert_eq!(counts.probes(Setting::RareRare), 5);

        let json = serde_json::to_string(&table).unwrap();
        assert!(json.contains("\"rare_all\":[null,null,null,null]"), "{json}");
        let again: Accuracies = serde_json::from_str(&json).unwrap();
        assert!(!again.has(Setting::RareAll) && again.rare_rare == table.rare_rare);
    }

    #[test]
    fn a_mean_leaves_out_who_had_no_probes() {
        let with = |frequent: f64, rare: f64| Accuracies {
            frequent_frequent: [frequent; 4],
            rare_rare: [rare; 4],
            frequent_all: [f64::NAN; 4],
            rare_all: [0.0; 4],
        };
        let mean = Accuracies::mean(&[with(10.0, f64::NAN), with(20.0, 40.0)]);
        assert_eq!((mean.frequent_frequent, mean.rare_rare, mean.rare_all), ([15.0; 4], [40.0; 4], [0.0; 4]));
        assert!(!mean.has(Setting::FrequentAll));
    }

    #[test]
    fn counts_that_cannot_be_are_refused() {
        let mut counts = HitCounts::new(4, 1);
        counts.record(Setting::RareAll, 0, 3, Some(7));
        let words = counts.as_words().to_vec();
        assert_eq!(HitCounts::from_words(4, 1, &words).unwrap(), counts);
        assert_eq!(HitCounts::from_words(4, 2, &words).unwrap_err().kind(), ErrorKind::Length);
        assert_eq!(counts.add(&HitCounts::new(5, 1)).unwrap_err().kind(), ErrorKind::Length);
        for at in (words.len() - 5)..words.len() {
            let mut bad = words.clone();
            // One probe, found at 10 and 30: no word can be 2 by itself, nor the probe be missing.
            bad[at] = if at == words.len() - 5 { 0 } else { 2 };
            let error = HitCounts::from_words(4, 1, &bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict);
            assert!(error.to_string().contains("syndrome 3"));
        }
    }

    type Probe = (usize, u8, usize, Option<usize>, usize);

    fn probes() -> impl Strategy<Value = Vec<Probe>> {
        prop::collection::vec((0usize..4, 0u8..3, 0usize..6, prop::option::of(0usize..40), 0usize..5), 0..200)
    }

    fn count<'a>(probes: impl Iterator<Item = &'a Probe>) -> HitCounts {
        let mut counts = HitCounts::new(6, 3);
        for &(setting, split, syndrome, place, _) in probes {
            counts.record(Setting::ALL[setting], split, syndrome, place);
        }
        counts
    }

    proptest! {
        #[test]
        fn sites_counts_add_to_the_pooled_counts(probes in probes()) {
            let mut sum = HitCounts::new(6, 3);
            for site in 0..5 {
                let words = count(probes.iter().filter(|probe| probe.4 == site)).as_words().to_vec();
                sum.add(&HitCounts::from_words(6, 3, &words).unwrap()).unwrap();
            }
            let pooled = count(probes.iter());
            prop_assert_eq!(sum.as_words(), pooled.as_words());
            for setting in Setting::ALL {
                let bits = |table: Accuracies| table.get(setting).map(f64::to_bits);
                prop_assert_eq!(bits(sum.table()), bits(pooled.table()));
            }
        }
    }
}
