//! What every draw and the partition promise, over random cohorts.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use domain::draw::{Draw, draw};
use domain::split::{MIN_FREQUENT_SUBJECTS, partition};
use domain::{Case, Cohort, ErrorKind, ImageId, Part, SubjectId, Syndrome, SyndromeId};
use proptest::prelude::*;

/// A flat cohort: `subjects[i]` patients of syndrome `i`, one to three images each.
fn flat(subjects: &[usize]) -> (Vec<Case>, Vec<Syndrome>) {
    let mut cases = Vec::new();
    let mut subject = 0;
    for (label, &count) in subjects.iter().enumerate() {
        for _ in 0..count {
            subject += 1;
            for photograph in 0..1 + subject % 3 {
                cases.push(Case {
                    image: ImageId::new(&format!("{subject}-{photograph}")).unwrap(),
                    subject: SubjectId::new(&subject.to_string()).unwrap(),
                    syndrome: SyndromeId::new(&label.to_string()).unwrap(),
                });
            }
        }
    }
    let syndromes =
        (0..subjects.len()).map(|l| Syndrome::unnamed(SyndromeId::new(&l.to_string()).unwrap())).collect();
    (cases, syndromes)
}

fn cohort(subjects: &[usize], seed: u64) -> Cohort {
    let (cases, syndromes) = flat(subjects);
    partition(cases, syndromes, MIN_FREQUENT_SUBJECTS, 10, seed).unwrap()
}

fn subjects_by_syndrome(cohort: &Cohort) -> BTreeMap<&SyndromeId, BTreeSet<&SubjectId>> {
    let mut map: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for case in cohort.cases() {
        map.entry(&case.syndrome).or_default().insert(&case.subject);
    }
    map
}

fn subjects_of(cohort: &Cohort, part: Part) -> BTreeSet<&SubjectId> {
    cohort.part(part).iter().map(|image| &cohort.case(image).unwrap().subject).collect()
}

/// A partition of the cohort by subject, with nothing lost and nothing new.
fn assert_partitions(whole: &Cohort, sites: &[Cohort]) {
    let merged = Cohort::merge(&sites.iter().collect::<Vec<_>>()).unwrap();
    assert_eq!(merged.cases(), whole.cases());
    assert_eq!(merged.syndromes(), whole.syndromes());
    let sorted = |cohort: &Cohort| -> BTreeMap<Part, BTreeSet<ImageId>> {
        cohort.parts().map(|(part, images)| (part, images.iter().cloned().collect())).collect()
    };
    assert_eq!(sorted(&merged), sorted(whole));
    let mut seen = BTreeSet::new();
    for site in sites {
        assert_eq!(site.syndromes(), whole.syndromes());
        for subject in site.subjects() {
            assert!(seen.insert(subject.clone()), "subject {subject} is at two sites");
        }
        for (part, images) in site.parts() {
            let place = |image: &ImageId| whole.part(part).iter().position(|i| i == image).unwrap();
            assert!(images.is_sorted_by_key(place), "{part} lost its order");
        }
    }
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1usize..30, 4..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_draw_partitions_by_subject(sizes in sizes(), sites in 1usize..5, seed: u64, alpha in 0.3f64..50.0) {
        let whole = cohort(&sizes, seed);
        for kind in [Draw::NearUniform, Draw::NonOverlapping, Draw::Dirichlet(alpha)] {
            match draw(&whole, kind, sites, seed) {
                Ok(drawn) => {
                    prop_assert_eq!(drawn.len(), sites);
                    assert_partitions(&whole, &drawn);
                    prop_assert_eq!(&drawn, &draw(&whole, kind, sites, seed).unwrap());
                }
                // Only a site without patients to train on may be a reason.
                Err(error) => {
                    prop_assert_eq!(error.kind(), ErrorKind::InvalidArgument);
                    prop_assert!(sites > 1);
                }
            }
        }
    }

    #[test]
    fn near_uniform_is_even_in_all_and_per_syndrome(sizes in sizes(), sites in 1usize..5, seed: u64) {
        let whole = cohort(&sizes, seed);
        let drawn = draw(&whole, Draw::NearUniform, sites, seed).unwrap();
        let spread = |counts: Vec<usize>| counts.iter().max().unwrap() - counts.iter().min().unwrap();
        prop_assert!(spread(drawn.iter().map(|site| site.subjects().len()).collect()) <= 1);
        for syndrome in subjects_by_syndrome(&whole).keys() {
            let held = |site: &Cohort| subjects_by_syndrome(site).get(syndrome).map_or(0, BTreeSet::len);
            prop_assert!(spread(drawn.iter().map(held).collect()) <= 1);
            for part in [Part::Train, Part::Validation, Part::FrequentTest] {
                let held = |site: &Cohort| {
                    let here = subjects_of(site, part);
                    subjects_by_syndrome(site).get(syndrome).map_or(0, |all| all.intersection(&here).count())
                };
                prop_assert!(spread(drawn.iter().map(held).collect()) <= 1, "{}", part);
            }
        }
    }

    #[test]
    fn non_overlapping_gives_each_syndrome_to_one_site(sizes in sizes(), sites in 1usize..5, seed: u64) {
        let whole = cohort(&sizes, seed);
        let drawn = draw(&whole, Draw::NonOverlapping, sites, seed).unwrap();
        let mut images: BTreeMap<&SyndromeId, usize> = BTreeMap::new();
        for case in whole.cases() {
            *images.entry(&case.syndrome).or_default() += 1;
        }
        for syndrome in images.keys() {
            let holders = drawn.iter().filter(|site| subjects_by_syndrome(site).contains_key(*syndrome)).count();
            prop_assert_eq!(holders, 1);
        }
        let totals: Vec<usize> = drawn.iter().map(|site| site.cases().len()).collect();
        let spread = totals.iter().max().unwrap() - totals.iter().min().unwrap();
        prop_assert!(spread <= *images.values().max().unwrap(), "{:?}", totals);
    }

    #[test]
    fn partition_keeps_patients_apart(sizes in sizes(), seed: u64) {
        let whole = cohort(&sizes, seed);
        let train = subjects_of(&whole, Part::Train);
        let validation = subjects_of(&whole, Part::Validation);
        let test = subjects_of(&whole, Part::FrequentTest);
        prop_assert!(train.is_disjoint(&validation) && train.is_disjoint(&test) && validation.is_disjoint(&test));
        let gallery: BTreeSet<_> = whole.part(Part::FrequentGallery).iter().collect();
        let trained: BTreeSet<_> = whole.part(Part::Train).iter().chain(whole.part(Part::Validation)).collect();
        prop_assert_eq!(gallery, trained);

        for (syndrome, subjects) in subjects_by_syndrome(&whole) {
            let held = |part| subjects_of(&whole, part).intersection(&subjects).count();
            let count = subjects.len();
            if count >= MIN_FREQUENT_SUBJECTS {
                let tenth = (count as f64 / 10.0).round().max(1.0) as usize;
                prop_assert_eq!(held(Part::FrequentTest), tenth);
                prop_assert_eq!(held(Part::Validation), tenth);
                prop_assert_eq!(held(Part::Train), count - 2 * tenth);
                prop_assert!(!whole.counts(Part::RareGallery(0)).contains_key(syndrome));
            } else {
                for split in 0..10 {
                    prop_assert_eq!(held(Part::RareTest(split)), usize::from(count > 1));
                    prop_assert_eq!(held(Part::RareGallery(split)), count - usize::from(count > 1));
                }
                let mut asked = BTreeSet::new();
                for split in 0..10 {
                    let test = subjects_of(&whole, Part::RareTest(split));
                    prop_assert!(test.is_disjoint(&subjects_of(&whole, Part::RareGallery(split))));
                    asked.extend(test.intersection(&subjects).copied());
                }
                prop_assert!(count == 1 || asked == subjects, "every subject takes its turn");
            }
        }
        // Every image has a part, and the order of the cases does not matter.
        let placed: BTreeSet<_> = whole.parts().flat_map(|(_, images)| images).collect();
        prop_assert_eq!(placed.len(), whole.cases().len());
        let (mut cases, syndromes) = flat(&sizes);
        cases.reverse();
        prop_assert_eq!(partition(cases, syndromes, MIN_FREQUENT_SUBJECTS, 10, seed).unwrap(), whole);
    }
}

#[test]
fn seeds_make_different_draws() {
    let whole = cohort(&[20; 12], 1);
    for kind in [Draw::NearUniform, Draw::NonOverlapping, Draw::Dirichlet(1.0)] {
        assert_ne!(draw(&whole, kind, 4, 1).unwrap(), draw(&whole, kind, 4, 2).unwrap(), "{kind}");
    }
}

/// The largest of 4 symmetric Dirichlet shares has a known mean for alpha = 1 (broken stick): 25/48. Large alpha tends
/// to even shares, small alpha to a single holder.
#[test]
fn dirichlet_shares_follow_alpha() {
    let whole = cohort(&[40; 300], 1);
    let mean_largest = |alpha| {
        let drawn = draw(&whole, Draw::Dirichlet(alpha), 4, 5).unwrap();
        let sites: Vec<_> = drawn.iter().map(subjects_by_syndrome).collect();
        let all = subjects_by_syndrome(&whole);
        let largest = |syndrome: &SyndromeId| {
            sites.iter().map(|site| site.get(syndrome).map_or(0, BTreeSet::len)).max().unwrap() as f64 / 40.0
        };
        all.keys().map(|syndrome| largest(syndrome)).sum::<f64>() / all.len() as f64
    };
    // Rounding to fortieths adds less than 0.01; the standard error over 300 syndromes is about 0.008.
    assert!((mean_largest(1.0) - 25.0 / 48.0).abs() < 0.04, "{}", mean_largest(1.0));
    assert!(mean_largest(1e5) < 0.29);
    assert!(mean_largest(0.01) > 0.95);
}

#[test]
fn impossible_draws_say_why() {
    let whole = cohort(&[8, 8, 3], 1);
    for (kind, sites, word) in [
        (Draw::NearUniform, 0, "0 sites"),
        (Draw::NearUniform, 20, "19 subjects"),
        (Draw::NonOverlapping, 4, "3 syndromes"),
        (Draw::Dirichlet(0.001), 16, "raise alpha"),
        (Draw::Dirichlet(f64::NAN), 2, "concentration"),
    ] {
        let error = draw(&whole, kind, sites, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_patient_with_two_syndromes_stays_whole() {
    let (mut cases, syndromes) = flat(&[4, 4, 4, 4]);
    cases[0].syndrome = SyndromeId::new("3").unwrap();
    let split = cases[0].subject.clone();
    let twice = cases.iter().filter(|case| case.subject == split).count() > 1;
    assert!(twice, "the patient needs images of both syndromes");
    let whole = Cohort::new(syndromes.clone(), cases.clone(), BTreeMap::new()).unwrap();
    for kind in [Draw::NearUniform, Draw::NonOverlapping, Draw::Dirichlet(1.0)] {
        assert_partitions(&whole, &draw(&whole, kind, 3, 1).unwrap());
    }
    let drawn = draw(&whole, Draw::NonOverlapping, 3, 1).unwrap();
    let site = drawn.iter().find(|site| site.subjects().contains(&split)).unwrap();
    let held = subjects_by_syndrome(site);
    for label in ["0", "3"] {
        assert!(
            held.contains_key(&SyndromeId::new(label).unwrap()),
            "both syndromes are where the patient is"
        );
    }
    // But it cannot be kept out of both training and test.
    assert_eq!(partition(cases, syndromes, 7, 10, 1).unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn draws_are_named() {
    for (text, kind) in [
        ("near-uniform", Draw::NearUniform),
        ("non-overlapping", Draw::NonOverlapping),
        ("dirichlet:0.5", Draw::Dirichlet(0.5)),
    ] {
        assert_eq!(text.parse::<Draw>().unwrap(), kind);
        assert_eq!(kind.to_string(), text);
        assert_eq!(serde_json::from_str::<Draw>(&serde_json::to_string(&kind).unwrap()).unwrap(), kind);
    }
    for text in [
        "",
        "dirichlet",
        "dirichlet:",
        "dirichlet:0",
        "dirichlet:-1",
        "dirichlet:inf",
        "dirichlet:nan",
        "uniform",
    ] {
        assert!(text.parse::<Draw>().is_err(), "{text}");
    }
}
