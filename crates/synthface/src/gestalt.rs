//! Syndromes as sets of facial terms: real ones from HPO's annotations, and invented ones.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::error::{Error, ErrorKind};
use crate::noise::Draws;
use crate::param::{Param, Params};
use crate::term::HpoTerm;

/// Frequency taken for a term that is annotated without one.
pub const UNSTATED_FREQUENCY: f32 = 0.5;

/// A facial gestalt: which terms a syndrome shows in which share of its patients.
#[derive(Clone, Debug, PartialEq)]
pub struct Gestalt {
    /// `OMIM:122470`, or `SYN:0001` for an invented syndrome.
    pub key: String,
    /// The syndrome's name as annotated.
    pub name: String,
    /// OMIM number with its prefix.
    pub omim: Option<String>,
    /// Orphanet number with its prefix.
    pub orpha: Option<String>,
    /// Terms with the share of patients (0 to 1) who show them.
    pub terms: Vec<(HpoTerm, f32)>,
    /// Where terms and frequencies are from.
    pub source: String,
    /// A further shift of shape that all patients share, for what terms do not say.
    pub shift: Params,
}

/// Source of the catalogue, to be shown with it: the licence of HPO asks for it.
pub const ATTRIBUTION: &str =
    "Human Phenotype Ontology, annotations of 2025-01-16, http://www.human-phenotype-ontology.org";

/// The real gestalts, by OMIM number as in `data/gestalts.csv`.
pub fn catalogue() -> &'static [Gestalt] {
    static CATALOGUE: LazyLock<Vec<Gestalt>> = LazyLock::new(|| {
        // The table is part of the crate and read by a test.
        parse(include_str!("../data/gestalts.csv")).expect("data/gestalts.csv is well-formed")
    });
    &CATALOGUE
}

fn parse(text: &str) -> Result<Vec<Gestalt>, Error> {
    let mut by_key: BTreeMap<String, Gestalt> = BTreeMap::new();
    for record in csv::Reader::from_reader(text.as_bytes()).deserialize() {
        let record: BTreeMap<String, String> =
            record.map_err(|e| Error::new(ErrorKind::Table, format!("gestalts.csv: {e}")))?;
        let field = |name: &str| record.get(name).map_or("", String::as_str);
        let bad = |what: &str| {
            Error::new(ErrorKind::Table, format!("gestalts.csv: {} {}: {what}", field("omim"), field("term")))
        };
        let term: HpoTerm = field("term").parse()?;
        if term.name() != Some(field("term_name")) {
            return Err(bad(
                "the term is not in terms.csv under this name; run reference/hpo_gestalts.py again",
            ));
        }
        let frequency = match field("frequency") {
            "" => UNSTATED_FREQUENCY,
            number => number
                .parse()
                .ok()
                .filter(|f| (0.0..=1.0).contains(f))
                .ok_or_else(|| bad("the frequency is not within 0 and 1"))?,
        };
        let gestalt = by_key.entry(field("omim").to_owned()).or_insert_with(|| Gestalt {
            key: field("omim").to_owned(),
            name: field("name").to_owned(),
            omim: Some(field("omim").to_owned()),
            orpha: Some(field("orpha").to_owned()).filter(|o| !o.is_empty()),
            terms: Vec::new(),
            source: ATTRIBUTION.to_owned(),
            shift: Params::AVERAGE,
        });
        gestalt.terms.push((term, frequency));
    }
    Ok(by_key.into_values().collect())
}

/// `count` invented syndromes, `SYN:0001` and on; the first of them do not depend on `count`.
///
/// Each has 7 to 14 terms that do not contradict each other, at frequencies as
/// they occur among real syndromes, and a small shift of its own.
pub fn generated(count: usize, seed: u64) -> Vec<Gestalt> {
    let terms: Vec<HpoTerm> = HpoTerm::drawable().collect();
    (0..count).map(|i| invent(i, seed, &terms)).collect()
}

fn invent(index: usize, seed: u64, terms: &[HpoTerm]) -> Gestalt {
    let mut draws = Draws::new(b"gestalt ", seed, index as u64, 0);
    let wanted = 7 + draws.below(8);
    let mut chosen: Vec<(HpoTerm, f32)> = Vec::with_capacity(wanted);
    let mut taken: BTreeMap<Param, ()> = BTreeMap::new();
    while chosen.len() < wanted {
        let term = terms[draws.below(terms.len())];
        let frequency = if draws.chance(0.55) { draws.range(0.6, 1.0) } else { draws.range(0.1, 0.6) };
        // A term that moves an axis already moved would repeat or contradict.
        if term.effects().iter().any(|(p, _)| taken.contains_key(p)) {
            continue;
        }
        taken.extend(term.effects().iter().map(|&(p, _)| (p, ())));
        chosen.push((term, frequency));
    }
    chosen.sort_by_key(|&(term, _)| term);
    let mut shift = Params::AVERAGE;
    for &p in SHIFTED {
        shift[p] = 0.45 * draws.normal();
    }
    Gestalt {
        key: format!("SYN:{:04}", index + 1),
        name: format!("simulated syndrome {}", index + 1),
        omim: None,
        orpha: None,
        terms: chosen,
        source: "invented".to_owned(),
        shift,
    }
}

/// Axes of bony and soft shape that an invented syndrome shifts as a whole.
const SHIFTED: &[Param] = &[
    Param::HeadWidth,
    Param::CraniumSize,
    Param::ForeheadWidth,
    Param::ForeheadBulge,
    Param::FaceLength,
    Param::FaceWidth,
    Param::JawWidth,
    Param::ChinWidth,
    Param::ChinHeight,
    Param::ChinProjection,
    Param::Midface,
    Param::CheekFullness,
    Param::EyeSpacing,
    Param::EyeWidth,
    Param::EyeSlant,
    Param::EyeDepth,
    Param::BrowHeight,
    Param::BrowArch,
    Param::NoseBridgeHeight,
    Param::NoseBridgeWidth,
    Param::NoseLength,
    Param::NoseProjection,
    Param::NoseTipWidth,
    Param::NoseTipRotation,
    Param::AlarWidth,
    Param::PhiltrumLength,
    Param::UpperLip,
    Param::LowerLip,
    Param::MouthWidth,
    Param::EarSize,
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_catalogue_is_whole() {
        let all = catalogue();
        assert!((38..=50).contains(&all.len()), "{} gestalts", all.len());
        for g in all {
            assert!(g.terms.len() >= 5, "{} has {} terms", g.name, g.terms.len());
            assert!(g.terms.iter().all(|t| (0.0..=1.0).contains(&t.1)));
            assert!(g.omim.as_ref().unwrap().starts_with("OMIM:"));
            assert!(g.orpha.as_ref().is_none_or(|o| o.starts_with("ORPHA:")));
        }
        let name = |key: &str| all.iter().find(|g| g.key == key).map(|g| g.name.as_str());
        assert_eq!(name("OMIM:147920"), Some("Kabuki syndrome"));
        assert_eq!(name("OMIM:194050"), Some("Williams syndrome"));
    }

    #[test]
    fn every_row_keeps_its_reference() {
        for row in csv::Reader::from_reader(include_str!("../data/gestalts.csv").as_bytes()).deserialize() {
            let row: BTreeMap<String, String> = row.unwrap();
            let parts = |name: &str| row[name].split(';').count();
            assert_eq!(parts("frequency_raw"), parts("reference"), "{row:?}");
            assert_eq!(parts("annotated_to"), parts("reference"), "{row:?}");
            assert!(row["reference"].split([';', '+']).all(|r| r.contains(':')), "{row:?}");
        }
        let notice = include_str!("../data/NOTICE");
        for must in
            ["2025-01-16", "Human Phenotype Ontology", "https://hpo.jax.org/app/license", "HPO Consortium"]
        {
            assert!(notice.contains(must), "{must}");
        }
    }

    #[test]
    fn invented_syndromes_are_stable_and_differ() {
        let (few, many) = (generated(3, 7), generated(40, 7));
        assert_eq!(few[..], many[..3]);
        assert_ne!(generated(1, 8)[0].terms, few[0].terms);
        for (i, a) in many.iter().enumerate() {
            assert!((7..=14).contains(&a.terms.len()));
            assert!(many[..i].iter().all(|b| b.terms != a.terms));
        }
    }

    #[test]
    fn bad_rows_are_named() {
        let head = "omim,orpha,name,term,term_name,frequency\n";
        for row in ["OMIM:1,,x,HP:0000316,Hypertelorism,1.5", "OMIM:1,,x,HP:0000316,Wrong,0.5"] {
            let error = parse(&format!("{head}{row}\n")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Table);
            assert!(error.to_string().contains("OMIM:1 HP:0000316"), "{error}");
        }
    }
}
