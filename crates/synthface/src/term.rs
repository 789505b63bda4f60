//! Facial terms of the Human Phenotype Ontology and what they do to a face.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use crate::error::{Error, ErrorKind};
use crate::param::{Param, Params};

/// The number of a term of the Human Phenotype Ontology, `HP:0000316`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HpoTerm(u32);

impl HpoTerm {
    /// Every term that this crate can draw, by number.
    pub fn drawable() -> impl Iterator<Item = HpoTerm> {
        TERMS.keys().copied()
    }

    /// The term's name in HPO 2025-01-16, where this crate can draw it.
    pub fn name(self) -> Option<&'static str> {
        TERMS.get(&self).map(|t| t.name.as_str())
    }

    /// How the term shifts a face at full severity, in standard deviations; nothing where it is not drawn.
    pub fn effects(self) -> &'static [(Param, f32)] {
        TERMS.get(&self).map_or(&[], |t| &t.effects)
    }
}

impl FromStr for HpoTerm {
    type Err = Error;

    fn from_str(text: &str) -> Result<HpoTerm, Error> {
        let digits =
            text.strip_prefix("HP:").filter(|d| d.len() == 7 && d.bytes().all(|b| b.is_ascii_digit()));
        digits.and_then(|d| d.parse().ok()).map(HpoTerm).ok_or_else(|| {
            Error::new(
                ErrorKind::Term,
                format!("{text:?} is not an HPO term; write it as HP: and seven digits, HP:0000316"),
            )
        })
    }
}

impl fmt::Display for HpoTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HP:{:07}", self.0)
    }
}

struct Entry {
    name: String,
    effects: Vec<(Param, f32)>,
}

static TERMS: LazyLock<BTreeMap<HpoTerm, Entry>> = LazyLock::new(|| {
    // The table is part of the crate and read by a test.
    parse(include_str!("../data/terms.csv")).expect("data/terms.csv is well-formed")
});

fn parse(text: &str) -> Result<BTreeMap<HpoTerm, Entry>, Error> {
    let bad = |what: String| Error::new(ErrorKind::Table, format!("terms.csv: {what}"));
    let mut terms = BTreeMap::new();
    for record in csv::Reader::from_reader(text.as_bytes()).records() {
        let record = record.map_err(|e| bad(e.to_string()))?;
        let line = record.position().map_or(0, csv::Position::line);
        let [id, name, effects] = [0, 1, 2].map(|i| record.get(i).unwrap_or_default());
        let effects = effects
            .split_whitespace()
            .map(|effect| {
                let at = effect.find(['+', '-'])?;
                Some((Param::from_name(&effect[..at])?, effect[at..].parse().ok()?))
            })
            .collect::<Option<Vec<_>>>()
            .filter(|e| !e.is_empty())
            .ok_or_else(|| bad(format!("line {line}: effects of {id} must look like EyeSpacing+3.0")))?;
        if terms.insert(id.parse()?, Entry { name: name.to_owned(), effects }).is_some() {
            return Err(bad(format!("line {line}: {id} appears twice")));
        }
    }
    Ok(terms)
}

/// The joint shift of several terms, each with its severity.
///
/// Terms often say the same thing twice ("macrocephaly", "relative
/// macrocephaly"), so shifts of one sign add like independent errors.
pub(crate) fn joint_shift(terms: &[(HpoTerm, f32)]) -> Params {
    let mut squares = [[0.0f32; 2]; Param::COUNT];
    for (term, severity) in terms {
        for &(param, shift) in term.effects() {
            let s = shift * severity;
            squares[param as usize][usize::from(s < 0.0)] += s * s;
        }
    }
    let mut shift = Params::AVERAGE;
    for &p in Param::ALL {
        let [more, less] = squares[p as usize];
        shift[p] = more.sqrt() - less.sqrt();
    }
    shift
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_are_read_and_written() {
        let term: HpoTerm = "HP:0000316".parse().unwrap();
        assert_eq!(term.to_string(), "HP:0000316");
        assert_eq!(term.name(), Some("Hypertelorism"));
        for bad in ["", "HP:316", "HP:00003161", "0000316", "hp:0000316", "HP:00003a6"] {
            assert_eq!(bad.parse::<HpoTerm>().unwrap_err().kind(), ErrorKind::Term, "{bad}");
        }
    }

    #[test]
    fn bad_lines_are_named() {
        for line in
            ["HP:0000316,Hypertelorism,", "HP:0000316,Hypertelorism,EyeSpacing", "HP:0000316,x,Nose+1"]
        {
            let error = parse(&format!("id,name,effects\n{line}\n")).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Table);
            assert!(error.to_string().contains("line 2"), "{error}");
        }
    }

    #[test]
    fn shifts_of_one_sign_add_in_quadrature() {
        let term: HpoTerm = "HP:0000316".parse().unwrap();
        let once = joint_shift(&[(term, 1.0)]);
        let twice = joint_shift(&[(term, 1.0), (term, 1.0)]);
        let ratio = twice[Param::EyeSpacing] / once[Param::EyeSpacing];
        assert!((ratio - 2f32.sqrt()).abs() < 1e-5);
    }
}
