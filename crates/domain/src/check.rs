//! Faults of a cohort's tables, all at once, each with file and line.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::gmdb::{Row, Table, TableFile};
use crate::{ImageId, Part, SubjectId, SyndromeId};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Results would be wrong or could not be computed.
    Error,
    /// Results stand, but may not mean what is expected.
    Warning,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FindingKind {
    /// A row's image is not there.
    MissingImage,
    /// An image is twice in one part.
    DuplicateImage,
    /// An image has two labels.
    ConflictingLabel,
    /// An image has two subjects.
    ConflictingSubject,
    /// A patient is trained on and asked about.
    SubjectInTrainAndTest,
    /// A patient is trained on and used to watch the training.
    SubjectInTrainAndValidation,
    /// A patient is in the gallery and asked about (within a split).
    SubjectInGalleryAndTest,
    /// A syndrome is validated but never trained.
    SyndromeOnlyInValidation,
    /// A syndrome is asked about but not in the gallery (of the split).
    TestSyndromeWithoutGallery,
    /// A rare syndrome is trained on.
    RareSyndromeInTrain,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The file it is in.
    pub file: String,
    /// Its line, from 1.
    pub line: Option<u64>,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about.
    pub kind: FindingKind,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Finding {
    /// `file:line: error: message`, which editors turn into a link.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        let severity = if self.severity == Severity::Error { "error" } else { "warning" };
        write!(f, " {severity}: {}", self.message)
    }
}

/// Where something stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    file: &'a str,
    row: &'a Row,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.row.line)
    }
}

impl Place<'_> {
    fn finding(&self, kind: FindingKind, message: String) -> Finding {
        let severity = match kind {
            FindingKind::SubjectInTrainAndValidation | FindingKind::RareSyndromeInTrain => Severity::Warning,
            _ => Severity::Error,
        };
        Finding { file: self.file.to_owned(), line: Some(self.row.line), severity, kind, message }
    }
}

/// Looks for every fault in a cohort's tables; `image_present` says whether an image's file is there. Findings are in
/// the order of the tables given and their lines. A fault that repeats (a subject with ten images in two tables) is
/// reported once per subject or syndrome, at its first row.
pub fn check(tables: &[TableFile], image_present: &dyn Fn(&ImageId) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    images(tables, image_present, &mut findings);
    let parts = by_part(tables);
    subjects(&parts, &mut findings);
    syndromes(&parts, &mut findings);
    let order: HashMap<&str, usize> = tables.iter().map(|t| t.file.as_str()).zip(0..).collect();
    findings.sort_by_key(|finding| (order.get(finding.file.as_str()).copied(), finding.line));
    findings
}

fn rows(tables: &[TableFile]) -> impl Iterator<Item = (Table, Place<'_>)> {
    tables.iter().flat_map(|t| t.rows.iter().map(|row| (t.table, Place { file: &t.file, row })))
}

fn by_part(tables: &[TableFile]) -> BTreeMap<Part, Vec<Place<'_>>> {
    let mut parts: BTreeMap<Part, Vec<Place<'_>>> = BTreeMap::new();
    for (table, place) in rows(tables) {
        parts.entry(table.part(place.row.split.unwrap_or(0))).or_default().push(place);
    }
    parts
}

fn images(tables: &[TableFile], image_present: &dyn Fn(&ImageId) -> bool, findings: &mut Vec<Finding>) {
    let mut first: HashMap<&ImageId, Place<'_>> = HashMap::new();
    let mut in_part: HashMap<(Part, &ImageId), Place<'_>> = HashMap::new();
    for (table, place) in rows(tables) {
        let Row { image, label, subject, .. } = place.row;
        if let Some(earlier) = in_part.insert((table.part(place.row.split.unwrap_or(0)), image), place) {
            findings.push(place.finding(
                FindingKind::DuplicateImage,
                format!("image {image} is already in {earlier}; remove one of the two rows"),
            ));
        }
        let Some(earlier) = first.get(image) else {
            if !image_present(image) {
                findings.push(place.finding(
                    FindingKind::MissingImage,
                    format!("image {image} is not there; add its file or remove its rows"),
                ));
            }
            first.insert(image, place);
            continue;
        };
        if earlier.row.label != *label {
            findings.push(place.finding(
                FindingKind::ConflictingLabel,
                format!(
                    "image {image} has label {label} here and {} in {earlier}; correct one of them",
                    earlier.row.label
                ),
            ));
        }
        if earlier.row.subject != *subject {
            findings.push(place.finding(
                FindingKind::ConflictingSubject,
                format!(
                    "image {image} has subject {subject} here and {} in {earlier}; correct one of them",
                    earlier.row.subject
                ),
            ));
        }
    }
}

fn splits(parts: &BTreeMap<Part, Vec<Place<'_>>>) -> BTreeSet<u8> {
    parts.keys().filter_map(|part| part.split()).collect()
}

fn subjects(parts: &BTreeMap<Part, Vec<Place<'_>>>, findings: &mut Vec<Finding>) {
    let mut reported = HashSet::new();
    let mut overlap =
        |held: Part, asked: Part, kind: FindingKind, message: &dyn Fn(&SubjectId, Place<'_>) -> String| {
            let mut holders: HashMap<&SubjectId, Place<'_>> = HashMap::new();
            for place in parts.get(&held).into_iter().flatten() {
                holders.entry(&place.row.subject).or_insert(*place);
            }
            for place in parts.get(&asked).into_iter().flatten() {
                let subject = &place.row.subject;
                if let Some(holder) = holders.get(subject)
                    && reported.insert((kind, asked, subject.clone()))
                {
                    findings.push(place.finding(kind, message(subject, *holder)));
                }
            }
        };
    let trained = |subject: &SubjectId, at: Place<'_>| {
        format!("subject {subject} is asked about here and trained on in {at}; keep a patient in one of them")
    };
    overlap(Part::Train, Part::FrequentTest, FindingKind::SubjectInTrainAndTest, &trained);
    overlap(Part::Train, Part::Validation, FindingKind::SubjectInTrainAndValidation, &|subject, at| {
        format!(
            "subject {subject} validates here and is trained on in {at}; the validation curve will flatter"
        )
    });
    let shown = |subject: &SubjectId, at: Place<'_>| {
        format!(
            "subject {subject} is asked about here and in the gallery in {at}; keep a patient in one of them"
        )
    };
    overlap(Part::FrequentGallery, Part::FrequentTest, FindingKind::SubjectInGalleryAndTest, &shown);
    for split in splits(parts) {
        overlap(Part::Train, Part::RareTest(split), FindingKind::SubjectInTrainAndTest, &trained);
        overlap(
            Part::RareGallery(split),
            Part::RareTest(split),
            FindingKind::SubjectInGalleryAndTest,
            &shown,
        );
    }
}

fn syndromes(parts: &BTreeMap<Part, Vec<Place<'_>>>, findings: &mut Vec<Finding>) {
    let first_of = |part: Part| {
        let mut first: BTreeMap<&SyndromeId, Place<'_>> = BTreeMap::new();
        for place in parts.get(&part).into_iter().flatten() {
            first.entry(&place.row.label).or_insert(*place);
        }
        first
    };
    let trained = first_of(Part::Train);
    for (label, place) in first_of(Part::Validation) {
        if !trained.contains_key(label) {
            findings.push(place.finding(
                FindingKind::SyndromeOnlyInValidation,
                format!("syndrome {label} is validated here but never trained; move some of its patients to training"),
            ));
        }
    }
    let frequent = first_of(Part::FrequentGallery);
    for (label, place) in first_of(Part::FrequentTest) {
        if !frequent.contains_key(label) {
            findings.push(place.finding(
                FindingKind::TestSyndromeWithoutGallery,
                format!("syndrome {label} is asked about here but not in the frequent gallery, so it can never be found"),
            ));
        }
    }
    let mut reported = HashSet::new();
    for split in splits(parts) {
        let gallery = first_of(Part::RareGallery(split));
        let test = first_of(Part::RareTest(split));
        for (label, place) in &test {
            if !gallery.contains_key(label) {
                findings.push(place.finding(
                    FindingKind::TestSyndromeWithoutGallery,
                    format!("syndrome {label} is asked about here but not in the rare gallery of split {split}, so it can never be found"),
                ));
            }
        }
        for (label, place) in gallery.iter().chain(&test) {
            if let Some(at) = trained.get(*label)
                && reported.insert((*label).clone())
            {
                findings.push(place.finding(
                    FindingKind::RareSyndromeInTrain,
                    format!("syndrome {label} counts as rare here but is trained on in {at}; rare results will flatter"),
                ));
            }
        }
    }
}
