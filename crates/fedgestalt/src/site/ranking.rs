//! Which galleries a site's images are in, which its probes are ranked in, and how the answers are counted.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use domain::cohort::{Cohort, Part};
use domain::evaluate::{HitCounts, Setting};
use domain::{ImageId, SyndromeId};
use federation::Answer;
use serde::{Deserialize, Serialize};

/// One ranking of one probe, with the names that only the site knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankedProbe {
    /// The probe.
    pub image: ImageId,
    /// Its true syndrome.
    pub truth: SyndromeId,
    /// The galleries it was ranked in.
    pub galleries: u32,
    /// Nearest first.
    pub places: Vec<Place>,
}

/// One place in a ranking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// The syndrome; none when the site has never heard of it.
    pub syndrome: Option<SyndromeId>,
    /// Distance of its nearest gallery image, rounded up to the plan's step.
    pub distance: f32,
    /// Pseudonym of that image, in hexadecimal.
    pub nearest: String,
    /// That image, when it is this site's own.
    pub own: Option<ImageId>,
}

impl RankedProbe {
    /// An answer with the truth beside it.
    pub fn new(truth: SyndromeId, answer: Answer) -> Self {
        let places = answer
            .ranked
            .into_iter()
            .map(|place| Place {
                syndrome: place.syndrome,
                distance: place.distance,
                nearest: hex::encode(place.nearest),
                own: place.own,
            })
            .collect();
        Self { image: answer.image, truth, galleries: answer.galleries, places }
    }

    /// Where the true syndrome came out, from 0; `None` when it is not among the places.
    pub fn position(&self) -> Option<usize> {
        self.places.iter().position(|place| place.syndrome.as_ref() == Some(&self.truth))
    }
}

/// The frequent gallery's bit; the rare gallery of split s has bit 1 + s.
pub const FREQUENT: u32 = 1;

fn rare(split: u8) -> u32 {
    2 << split
}

/// Which galleries each gallery image of a cohort is in.
pub fn gallery_bits(cohort: &Cohort) -> BTreeMap<ImageId, u32> {
    let mut bits = BTreeMap::new();
    for (part, images) in cohort.parts() {
        let bit = match part {
            Part::FrequentGallery => FREQUENT,
            Part::RareGallery(split) => rare(split),
            _ => continue,
        };
        for image in images {
            *bits.entry(image.clone()).or_insert(0) |= bit;
        }
    }
    bits
}

/// Which galleries each probe of a site is to be ranked in. `splits` are those of all sites: who has no rare patients,
/// or none in some split, still asks about its frequent ones there.
pub fn probe_galleries(cohort: &Cohort, splits: u8) -> BTreeMap<ImageId, Vec<u32>> {
    let mut questions: BTreeMap<ImageId, Vec<u32>> = BTreeMap::new();
    for image in cohort.part(Part::FrequentTest) {
        let asked = questions.entry(image.clone()).or_default();
        asked.push(FREQUENT);
        asked.extend((0..splits).map(|split| FREQUENT | rare(split)));
    }
    for split in 0..splits {
        for image in cohort.part(Part::RareTest(split)) {
            questions.entry(image.clone()).or_default().extend([rare(split), FREQUENT | rare(split)]);
        }
    }
    questions
}

/// The setting and split that a set of galleries stands for, given whether the probe's syndrome is frequent.
fn setting_of(galleries: u32, frequent_probe: bool) -> (Setting, u8) {
    let split = (galleries >> 1).trailing_zeros() as u8;
    match (galleries & FREQUENT != 0, galleries & !FREQUENT != 0) {
        (true, false) => (Setting::FrequentFrequent, 0),
        (false, _) => (Setting::RareRare, split),
        (true, true) if frequent_probe => (Setting::FrequentAll, split),
        (true, true) => (Setting::RareAll, split),
    }
}

/// Counts the hits of answered probes. A probe with an answer in the frequent gallery alone is a frequent one.
pub fn count_hits(ranked: &[RankedProbe], all: &[SyndromeId], splits: usize) -> Result<HitCounts> {
    let frequent: BTreeSet<&ImageId> =
        ranked.iter().filter(|r| r.galleries == FREQUENT).map(|r| &r.image).collect();
    let mut hits = HitCounts::new(all.len(), splits);
    for probe in ranked {
        let syndrome = all
            .binary_search(&probe.truth)
            .ok()
            .with_context(|| format!("the syndrome of image {} is not in the united list", probe.image))?;
        let (setting, split) = setting_of(probe.galleries, frequent.contains(&probe.image));
        hits.record(setting, split, syndrome, probe.position());
    }
    Ok(hits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use domain::SubjectId;
    use domain::cohort::{Case, Syndrome};

    fn cohort() -> Cohort {
        let id = |text: &str| ImageId::new(text).unwrap();
        let case = |image: &str, syndrome: &str| Case {
            image: id(image),
            subject: SubjectId::new(image).unwrap(),
            syndrome: SyndromeId::new(syndrome).unwrap(),
        };
        let cases = vec![case("1", "a"), case("2", "a"), case("3", "b"), case("4", "b")];
        let parts = [
            (Part::FrequentGallery, vec![id("1")]),
            (Part::FrequentTest, vec![id("2")]),
            (Part::RareGallery(0), vec![id("3")]),
            (Part::RareTest(0), vec![id("4")]),
            (Part::RareGallery(1), vec![id("4")]),
            (Part::RareTest(1), vec![id("3")]),
        ];
        let syndromes = ["a", "b"].map(|s| Syndrome::unnamed(SyndromeId::new(s).unwrap())).to_vec();
        Cohort::new(syndromes, cases, parts.into_iter().collect()).unwrap()
    }

    #[test]
    fn galleries_and_questions_are_those_of_the_four_settings() {
        let cohort = cohort();
        let bits: Vec<u32> = gallery_bits(&cohort).into_values().collect();
        assert_eq!(bits, [0b001, 0b010, 0b100]);
        let asked = |cohort: &Cohort| probe_galleries(cohort, 2).into_values().collect::<Vec<_>>();
        assert_eq!(asked(&cohort), [vec![0b001, 0b011, 0b101], vec![0b100, 0b101], vec![0b010, 0b011]]);
        // A site with frequent patients alone asks the same of them.
        let frequent = cohort.restrict(&|case| case.syndrome.as_str() == "a");
        assert!(frequent.splits().is_empty());
        assert_eq!(asked(&frequent), [[0b001, 0b011, 0b101]]);
    }

    #[test]
    fn answers_are_counted_under_the_setting_and_split_they_were_asked_for() {
        let id = |text: &str| SyndromeId::new(text).unwrap();
        let all = [id("a"), id("b")];
        let probe = |image: &str, truth: &str, galleries, first: &str| RankedProbe {
            image: ImageId::new(image).unwrap(),
            truth: id(truth),
            galleries,
            places: vec![Place {
                syndrome: Some(id(first)),
                distance: 0.1,
                nearest: String::new(),
                own: None,
            }],
        };
        let ranked = [
            probe("2", "a", 0b001, "a"),
            probe("2", "a", 0b011, "b"),
            probe("2", "a", 0b101, "a"),
            probe("4", "b", 0b010, "b"),
            probe("4", "b", 0b011, "b"),
            probe("3", "b", 0b100, "a"),
            probe("3", "b", 0b101, "b"),
        ];
        let table = count_hits(&ranked, &all, 2).unwrap().table();
        assert_eq!(table.frequent_frequent, [100.0; 4]);
        assert_eq!(table.frequent_all, [50.0; 4]);
        assert_eq!(table.rare_rare, [50.0; 4]);
        assert_eq!(table.rare_all, [100.0; 4]);
    }
}
