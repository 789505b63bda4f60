//! A flat set of labelled photographs laid out as GMDB lays out its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::gmdb::MAX_SPLITS;
use crate::random::Random;
use crate::{Case, Cohort, Error, ErrorKind, ImageId, Part, Result, SubjectId, Syndrome, SyndromeId};

/// From how many subjects GMDB calls a syndrome frequent.
pub const MIN_FREQUENT_SUBJECTS: usize = 7;

/// Gives every case its parts, by subject:
///
/// * a syndrome with at least `min_frequent_subjects` subjects is frequent: a tenth of them (rounded, at least one) are
///   test, another tenth validation, the others train; the frequent gallery is train and validation images;
/// * a syndrome with two or more is rare: in each of `splits` splits one subject is test and the others gallery; over
///   the splits every subject takes its turn as test;
/// * a syndrome with a single subject cannot be asked about; it is in the rare gallery of every split, as a distractor.
///
/// Depends on `seed` and the ids only, not on the order of `cases`. Refused when a subject has more than one syndrome
/// (it could not be kept out of both training and test), when `min_frequent_subjects` is under 3, or when `splits` is
/// over 10.
pub fn partition(
    cases: Vec<Case>,
    syndromes: Vec<Syndrome>,
    min_frequent_subjects: usize,
    splits: u8,
    seed: u64,
) -> Result<Cohort> {
    if min_frequent_subjects < 3 {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "{min_frequent_subjects} subjects cannot be train, validation and test; call syndromes frequent from 3 subjects or more"
            ),
        ));
    }
    if splits > MAX_SPLITS {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{splits} splits asked for; choose 0 to {MAX_SPLITS}"),
        ));
    }
    let cohort = Cohort::new(syndromes, cases, BTreeMap::new())?;
    let mut roles: HashMap<&SubjectId, Role> = HashMap::new();
    for (index, (_, subjects)) in subjects_by_syndrome(cohort.cases())?.into_iter().enumerate() {
        let mut order: Vec<&SubjectId> = subjects.into_iter().collect();
        Random::new("partition", seed, index as u64).shuffle(&mut order);
        let count = order.len();
        let tenth = ((count + 5) / 10).max(1);
        for (place, subject) in order.into_iter().enumerate() {
            let role = if count < min_frequent_subjects {
                Role::Rare { turn: place, of: count }
            } else if place < tenth {
                Role::Frequent(Part::FrequentTest)
            } else if place < 2 * tenth {
                Role::Frequent(Part::Validation)
            } else {
                Role::Frequent(Part::Train)
            };
            roles.insert(subject, role);
        }
    }
    let mut parts: BTreeMap<Part, Vec<ImageId>> = BTreeMap::new();
    let mut put = |part: Part, image: &ImageId| parts.entry(part).or_default().push(image.clone());
    for case in cohort.cases() {
        match roles[&case.subject] {
            Role::Frequent(part) => {
                put(part, &case.image);
                if part != Part::FrequentTest {
                    put(Part::FrequentGallery, &case.image);
                }
            }
            Role::Rare { turn, of } => {
                for split in 0..splits {
                    let asked = of > 1 && usize::from(split) % of == turn;
                    put(if asked { Part::RareTest(split) } else { Part::RareGallery(split) }, &case.image);
                }
            }
        }
    }
    Cohort::new(cohort.syndromes().to_vec(), cohort.cases().to_vec(), parts)
}

#[derive(Clone, Copy)]
enum Role {
    Frequent(Part),
    /// Test in the splits `turn`, `turn + of`, ..
    Rare {
        turn: usize,
        of: usize,
    },
}

fn subjects_by_syndrome(cases: &[Case]) -> Result<BTreeMap<&SyndromeId, BTreeSet<&SubjectId>>> {
    let mut by_syndrome: BTreeMap<&SyndromeId, BTreeSet<&SubjectId>> = BTreeMap::new();
    let mut syndrome_of: HashMap<&SubjectId, &SyndromeId> = HashMap::new();
    for case in cases {
        if *syndrome_of.entry(&case.subject).or_insert(&case.syndrome) != &case.syndrome {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "subject {} has images of two syndromes; give each patient one, or an id that is unique over all folders",
                    case.subject
                ),
            ));
        }
        by_syndrome.entry(&case.syndrome).or_default().insert(&case.subject);
    }
    Ok(by_syndrome)
}
