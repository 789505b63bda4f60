//! Who is in a cohort, and which part each photograph plays.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, ImageId, Result, SubjectId, SyndromeId};

/// What is ranked, with its names in the outside world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syndrome {
    /// The id that cases refer to.
    pub id: SyndromeId,
    /// The name shown to a person.
    pub name: String,
    /// `MONDO:0007043`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mondo: Option<String>,
    /// `OMIM:101600`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omim: Option<String>,
    /// `ORPHA:58`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orpha: Option<String>,
}

impl Syndrome {
    /// A syndrome known by its id alone.
    pub fn unnamed(id: SyndromeId) -> Self {
        Self { name: id.to_string(), id, mondo: None, omim: None, orpha: None }
    }
}

/// One photograph of one patient with one diagnosis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// The photograph.
    pub image: ImageId,
    /// Whose it is.
    pub subject: SubjectId,
    /// What the patient has.
    pub syndrome: SyndromeId,
}

/// The part an image plays in training or evaluation, as GMDB's files lay it out. An image can play several:
/// GMDB's frequent gallery is its training and validation images, and a rare image is gallery in some splits and test
/// in others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Part {
    /// Trained on.
    Train,
    /// Held out of training to watch it.
    Validation,
    /// Compared against, frequent syndromes.
    FrequentGallery,
    /// Asked about, frequent syndromes.
    FrequentTest,
    /// Compared against, rare syndromes, in split 0..=9.
    RareGallery(u8),
    /// Asked about, rare syndromes, in split 0..=9.
    RareTest(u8),
}

impl Part {
    /// The split of a rare part.
    pub fn split(self) -> Option<u8> {
        match self {
            Self::RareGallery(split) | Self::RareTest(split) => Some(split),
            _ => None,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Train => f.write_str("train"),
            Self::Validation => f.write_str("validation"),
            Self::FrequentGallery => f.write_str("frequent_gallery"),
            Self::FrequentTest => f.write_str("frequent_test"),
            Self::RareGallery(split) => write!(f, "rare_gallery_{split}"),
            Self::RareTest(split) => write!(f, "rare_test_{split}"),
        }
    }
}

impl FromStr for Part {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let rare = |prefix: &str| text.strip_prefix(prefix).and_then(|split| split.parse().ok());
        match text {
            "train" => Ok(Self::Train),
            "validation" => Ok(Self::Validation),
            "frequent_gallery" => Ok(Self::FrequentGallery),
            "frequent_test" => Ok(Self::FrequentTest),
            _ => rare("rare_gallery_")
                .map(Self::RareGallery)
                .or_else(|| rare("rare_test_").map(Self::RareTest))
                .ok_or_else(|| {
                    Error::new(
                        ErrorKind::Syntax,
                        "a part of a cohort has an unknown name; was the file written by another version?",
                    )
                }),
        }
    }
}

impl TryFrom<String> for Part {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Part> for String {
    fn from(part: Part) -> String {
        part.to_string()
    }
}

/// Syndromes, cases, and the parts the cases play; always consistent (see [`Cohort::new`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct Cohort {
    syndromes: Vec<Syndrome>,
    cases: Vec<Case>,
    parts: BTreeMap<Part, Vec<ImageId>>,
}

/// [`Cohort`] as it is serialised: unchecked.
#[derive(Serialize, Deserialize)]
struct Fields {
    syndromes: Vec<Syndrome>,
    cases: Vec<Case>,
    parts: BTreeMap<Part, Vec<ImageId>>,
}

impl TryFrom<Fields> for Cohort {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self> {
        Self::new(fields.syndromes, fields.cases, fields.parts)
    }
}

impl From<Cohort> for Fields {
    fn from(cohort: Cohort) -> Self {
        Self { syndromes: cohort.syndromes, cases: cohort.cases, parts: cohort.parts }
    }
}

impl Cohort {
    /// Puts a cohort together and checks it: no syndrome and no image twice, every case's syndrome listed, every image
    /// of a part a case, none twice in one part. Syndromes and cases are sorted; parts keep the order given, which
    /// decides ties in a ranking. Cases without a part, and a subject with more than one syndrome, are allowed.
    pub fn new(
        mut syndromes: Vec<Syndrome>,
        mut cases: Vec<Case>,
        mut parts: BTreeMap<Part, Vec<ImageId>>,
    ) -> Result<Self> {
        syndromes.sort_by(|a, b| a.id.cmp(&b.id));
        if let Some(pair) = syndromes.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(Error::new(
                ErrorKind::Duplicate,
                format!("syndrome {} is listed twice; keep one of the two entries", pair[0].id),
            ));
        }
        cases.sort_by(|a, b| a.image.cmp(&b.image));
        if let Some(pair) = cases.windows(2).find(|pair| pair[0].image == pair[1].image) {
            let (kind, fault) = if pair[0] == pair[1] {
                (ErrorKind::Duplicate, "is given twice")
            } else {
                (ErrorKind::Conflict, "is given twice, with different subjects or syndromes")
            };
            return Err(Error::new(
                kind,
                format!("image {} {fault}; give every image one id and one case", pair[0].image),
            ));
        }
        let known: HashSet<&SyndromeId> = syndromes.iter().map(|s| &s.id).collect();
        if let Some(case) = cases.iter().find(|case| !known.contains(&case.syndrome)) {
            return Err(Error::new(
                ErrorKind::Unknown,
                format!(
                    "image {} has syndrome {}, which is not listed; add it to the syndromes",
                    case.image, case.syndrome
                ),
            ));
        }
        let images: HashSet<&ImageId> = cases.iter().map(|case| &case.image).collect();
        for (part, members) in &parts {
            let mut seen = HashSet::with_capacity(members.len());
            for image in members {
                if !images.contains(image) {
                    return Err(Error::new(
                        ErrorKind::Unknown,
                        format!("part {part} names image {image}, which is not a case"),
                    ));
                }
                if !seen.insert(image) {
                    return Err(Error::new(
                        ErrorKind::Duplicate,
                        format!("part {part} names image {image} twice; remove one of the two"),
                    ));
                }
            }
        }
        parts.retain(|_, members| !members.is_empty());
        Ok(Self { syndromes, cases, parts })
    }

    /// All syndromes, sorted by id. A restricted cohort keeps the whole list, so that indexes into it agree between
    /// sites.
    pub fn syndromes(&self) -> &[Syndrome] {
        &self.syndromes
    }

    /// The place of a syndrome in [`Cohort::syndromes`].
    pub fn syndrome_index(&self, id: &SyndromeId) -> Option<usize> {
        self.syndromes.binary_search_by(|s| s.id.cmp(id)).ok()
    }

    /// All cases, sorted by image id.
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// The case of an image.
    pub fn case(&self, image: &ImageId) -> Option<&Case> {
        let at = self.cases.binary_search_by(|case| case.image.cmp(image)).ok()?;
        Some(&self.cases[at])
    }

    /// The images of one part, in the order of its file; empty where the cohort has none.
    pub fn part(&self, part: Part) -> &[ImageId] {
        self.parts.get(&part).map_or(&[], Vec::as_slice)
    }

    /// The parts that have images, in the order of [`Part`].
    pub fn parts(&self) -> impl Iterator<Item = (Part, &[ImageId])> {
        self.parts.iter().map(|(part, members)| (*part, members.as_slice()))
    }

    /// The splits of the rare parts, ascending.
    pub fn splits(&self) -> Vec<u8> {
        self.parts.keys().filter_map(|part| part.split()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Every patient.
    pub fn subjects(&self) -> BTreeSet<SubjectId> {
        self.cases.iter().map(|case| case.subject.clone()).collect()
    }

    /// The syndromes of [`Part::Train`], sorted: row `i` of a classifier is the `i`-th of them.
    pub fn trained_syndromes(&self) -> Vec<SyndromeId> {
        self.counts(Part::Train).into_keys().collect()
    }

    /// Images per syndrome in one part; syndromes without any are left out.
    pub fn counts(&self, part: Part) -> BTreeMap<SyndromeId, u32> {
        let mut counts: HashMap<&SyndromeId, u32> = HashMap::new();
        for case in self.part(part).iter().filter_map(|image| self.case(image)) {
            *counts.entry(&case.syndrome).or_default() += 1;
        }
        counts.into_iter().map(|(id, count)| (id.clone(), count)).collect()
    }

    /// The cohort of the cases that `keep` accepts: parts shrink and keep their order, the syndrome list stays whole.
    pub fn restrict(&self, keep: &dyn Fn(&Case) -> bool) -> Cohort {
        let cases: Vec<Case> = self.cases.iter().filter(|case| keep(case)).cloned().collect();
        let kept: HashSet<&ImageId> = cases.iter().map(|case| &case.image).collect();
        let parts = self
            .parts
            .iter()
            .map(|(part, members)| {
                (*part, members.iter().filter(|image| kept.contains(image)).cloned().collect::<Vec<_>>())
            })
            .filter(|(_, members)| !members.is_empty())
            .collect();
        Cohort { syndromes: self.syndromes.clone(), parts, cases }
    }

    /// Cohorts put together: syndromes united, cases and parts laid end to end. Refused when an image is in two of
    /// them, or when they describe one syndrome differently.
    pub fn merge(cohorts: &[&Cohort]) -> Result<Cohort> {
        let mut syndromes: BTreeMap<&SyndromeId, &Syndrome> = BTreeMap::new();
        let mut cases = Vec::new();
        let mut parts: BTreeMap<Part, Vec<ImageId>> = BTreeMap::new();
        for cohort in cohorts {
            for syndrome in &cohort.syndromes {
                if *syndromes.entry(&syndrome.id).or_insert(syndrome) != syndrome {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        format!(
                            "syndrome {} has different names in two cohorts; make their lists agree",
                            syndrome.id
                        ),
                    ));
                }
            }
            cases.extend(cohort.cases.iter().cloned());
            for (part, members) in &cohort.parts {
                parts.entry(*part).or_default().extend(members.iter().cloned());
            }
        }
        Cohort::new(syndromes.into_values().cloned().collect(), cases, parts)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn case(image: &str, subject: &str, syndrome: &str) -> Case {
        Case {
            image: ImageId::new(image).unwrap(),
            subject: SubjectId::new(subject).unwrap(),
            syndrome: SyndromeId::new(syndrome).unwrap(),
        }
    }

    fn syndromes(ids: &[&str]) -> Vec<Syndrome> {
        ids.iter().map(|id| Syndrome::unnamed(SyndromeId::new(id).unwrap())).collect()
    }

    fn part(part: Part, images: &[&str]) -> BTreeMap<Part, Vec<ImageId>> {
        BTreeMap::from([(part, images.iter().map(|id| ImageId::new(id).unwrap()).collect())])
    }

    #[test]
    fn inconsistent_cohorts_are_refused_by_name() {
        let one = || vec![case("7", "a", "1")];
        for (cohort, kind, name) in [
            (Cohort::new(syndromes(&["1", "1"]), one(), BTreeMap::new()), ErrorKind::Duplicate, "syndrome 1"),
            (Cohort::new(syndromes(&["2"]), one(), BTreeMap::new()), ErrorKind::Unknown, "syndrome 1"),
            (
                Cohort::new(
                    syndromes(&["1"]),
                    vec![case("7", "a", "1"), case("7", "b", "1")],
                    BTreeMap::new(),
                ),
                ErrorKind::Conflict,
                "image 7",
            ),
            (
                Cohort::new(syndromes(&["1"]), [one(), one()].concat(), BTreeMap::new()),
                ErrorKind::Duplicate,
                "image 7",
            ),
            (Cohort::new(syndromes(&["1"]), one(), part(Part::Train, &["8"])), ErrorKind::Unknown, "image 8"),
            (
                Cohort::new(syndromes(&["1"]), one(), part(Part::RareTest(3), &["7", "7"])),
                ErrorKind::Duplicate,
                "rare_test_3",
            ),
        ] {
            let error = cohort.unwrap_err();
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_cohort_that_joins_must_agree() {
        let a = Cohort::new(syndromes(&["1"]), vec![case("7", "a", "1")], part(Part::Train, &["7"])).unwrap();
        let b = Cohort::new(syndromes(&["2"]), vec![case("5", "b", "2")], part(Part::Train, &["5"])).unwrap();
        let both = Cohort::merge(&[&a, &b]).unwrap();
        assert_eq!(both.part(Part::Train).iter().map(ImageId::as_str).collect::<Vec<_>>(), ["7", "5"]);
        assert_eq!(both.syndromes().len(), 2);
        assert_eq!(
            both.restrict(&|case| case.subject.as_str() == "a").part(Part::Train),
            a.part(Part::Train)
        );
        assert_eq!(Cohort::merge(&[&a, &a]).unwrap_err().kind(), ErrorKind::Duplicate);
        let mut renamed = syndromes(&["1"]);
        renamed[0].name = "Kabuki".into();
        let other = Cohort::new(renamed, Vec::new(), BTreeMap::new()).unwrap();
        assert_eq!(Cohort::merge(&[&a, &other]).unwrap_err().kind(), ErrorKind::Conflict);
    }

    #[test]
    fn parts_are_named() {
        for part in [
            Part::Train,
            Part::Validation,
            Part::FrequentGallery,
            Part::FrequentTest,
            Part::RareGallery(0),
            Part::RareTest(9),
        ] {
            assert_eq!(part.to_string().parse::<Part>().unwrap(), part);
        }
        for text in ["", "rare_test", "rare_test_", "rare_test_256", "Train"] {
            assert!(text.parse::<Part>().is_err(), "{text}");
        }
    }
}
