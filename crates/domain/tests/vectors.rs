//! Ranking, evaluation and discovery against `reference/evaluation_vectors.py` (numpy, scipy).
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use domain::discover::{Distances, cohort_similarity};
use domain::evaluate::{
    HitCounts, Setting, Similarities, comparisons, evaluate, evaluate_scored, evaluate_similarities, needed,
};
use domain::gmdb::{Table, TableFile, assemble};
use domain::rank::{position, rank};
use domain::{Cohort, Encoding, ImageId, Scoring, SyndromeId};
use serde::Deserialize;

#[derive(Deserialize)]
struct RankingCase {
    similarities: Vec<f32>,
    labels: Vec<i64>,
    ranked: Vec<(i64, usize, f32)>,
}

#[test]
fn ranking_is_a_stable_sort_by_nearest_image() {
    let cases: Vec<RankingCase> = serde_json::from_str(include_str!("data/ranking.json")).unwrap();
    for case in cases {
        let ranked = rank(&case.similarities, &case.labels);
        let found: Vec<_> = ranked.iter().map(|r| (r.label, r.gallery_index, r.distance)).collect();
        assert_eq!(found, case.ranked);
        for (place, entry) in ranked.iter().enumerate() {
            assert_eq!(position(&case.similarities, &case.labels, &entry.label), Some(place));
        }
        assert_eq!(position(&case.similarities, &case.labels, &-1), None);
    }
}

#[derive(Deserialize)]
struct Evaluation {
    tables: BTreeMap<String, String>,
    representations: BTreeMap<ImageId, Vec<Vec<f32>>>,
    comparisons: Vec<Expected>,
    accuracies: BTreeMap<String, [f64; 4]>,
}

#[derive(Deserialize)]
struct Expected {
    setting: Setting,
    split: u8,
    gallery: Vec<ImageId>,
    probes: Vec<ImageId>,
    hits: BTreeMap<SyndromeId, [u32; 5]>,
    /// The same at `z:0.5`.
    normalised: BTreeMap<SyndromeId, [u32; 5]>,
    pooled: BTreeMap<SyndromeId, [u32; 5]>,
}

fn evaluation() -> (Evaluation, Cohort, BTreeMap<ImageId, Encoding>) {
    let vectors: Evaluation = serde_json::from_str(include_str!("data/evaluation.json")).unwrap();
    let tables: Vec<TableFile> = Table::ALL
        .into_iter()
        .map(|table| {
            let name = table.file_name("1");
            let key = name.strip_prefix("gmdb_").unwrap().strip_suffix("_images_v1.csv").unwrap();
            TableFile::parse(table, &name, vectors.tables[key].as_bytes()).unwrap()
        })
        .collect();
    let encodings = vectors
        .representations
        .iter()
        .map(|(image, views)| {
            let views: Vec<&[f32]> = views.iter().map(Vec::as_slice).collect();
            (image.clone(), Encoding::from_representations(&views).unwrap())
        })
        .collect();
    let cohort = assemble(&tables, None).unwrap();
    (vectors, cohort, encodings)
}

#[test]
fn the_four_settings_count_as_the_reference_does() {
    let (vectors, cohort, encodings) = evaluation();
    let found = comparisons(&cohort);
    assert_eq!(found.len(), vectors.comparisons.len());
    for (found, expected) in found.iter().zip(&vectors.comparisons) {
        assert_eq!((found.setting, found.split), (expected.setting, expected.split));
        assert_eq!((&found.gallery, &found.probes), (&expected.gallery, &expected.probes));
    }

    let counts = evaluate(&cohort, &encodings).unwrap();
    // The layout, word by word: comparisons in order, syndromes in order, five words each.
    let words = |hits: fn(&Expected) -> &BTreeMap<SyndromeId, [u32; 5]>| -> Vec<u32> {
        let cells = vectors.comparisons.iter().flat_map(|comparison| {
            let of = |syndrome: &domain::Syndrome| hits(comparison).get(&syndrome.id).copied();
            cohort.syndromes().iter().flat_map(move |syndrome| of(syndrome).unwrap_or_default())
        });
        cells.collect()
    };
    assert_eq!(counts.as_words(), words(|comparison| &comparison.hits));
    let scored = |pooling: &str, normalisation: &str| {
        let scoring =
            Scoring { pooling: pooling.parse().unwrap(), normalisation: normalisation.parse().unwrap() };
        evaluate_scored(&cohort, &encodings, scoring).unwrap()
    };
    let normalised = scored("nearest", "z:0.5");
    assert_eq!(normalised.as_words(), words(|comparison| &comparison.normalised));
    let pooled = scored("soft:8", "z:0.75");
    assert_eq!(pooled.as_words(), words(|comparison| &comparison.pooled));
    assert!(normalised != counts && pooled != normalised);

    let table = counts.table();
    for setting in Setting::ALL {
        for (found, expected) in table.get(setting).iter().zip(vectors.accuracies[setting.key()]) {
            assert!((found - expected).abs() < 1e-9, "{setting:?}: {found} instead of {expected}");
        }
    }
}

#[test]
fn similarities_from_elsewhere_are_ranked_alike() {
    let (_, cohort, encodings) = evaluation();
    let (mut probes, mut gallery) = needed(&comparisons(&cohort));
    // Nobody promises an order of rows and columns.
    probes.reverse();
    gallery.rotate_left(17);
    let values = probes
        .iter()
        .flat_map(|p| gallery.iter().map(|g| encodings[p].similarity(&encodings[g])).collect::<Vec<_>>());
    let similarities = Similarities::new(&probes, &gallery, values.collect()).unwrap();
    assert_eq!(
        evaluate_similarities(&cohort, &similarities).unwrap(),
        evaluate(&cohort, &encodings).unwrap()
    );
}

#[test]
fn counts_of_sites_add_up_to_those_of_all() {
    let (_, cohort, encodings) = evaluation();
    let whole = evaluate(&cohort, &encodings).unwrap();
    let similarities = Similarities::from_encodings(&cohort, &encodings).unwrap();
    // Each of three sites asks its own probes against everybody's gallery.
    let sites = domain::draw::draw(&cohort, domain::draw::Draw::NearUniform, 3, 1).unwrap();
    let mut sum = HitCounts::for_cohort(&cohort);
    for site in &sites {
        let parts = cohort.parts().map(|(part, images)| {
            let asks = matches!(part, domain::Part::FrequentTest | domain::Part::RareTest(_));
            let mine = |image: &&ImageId| !asks || site.case(image).is_some();
            (part, images.iter().filter(mine).cloned().collect())
        });
        let view =
            Cohort::new(cohort.syndromes().to_vec(), cohort.cases().to_vec(), parts.collect()).unwrap();
        let counts = evaluate_similarities(&view, &similarities).unwrap();
        assert!(counts.probes(Setting::FrequentAll) < whole.probes(Setting::FrequentAll));
        sum.add(&counts).unwrap();
    }
    assert_eq!(sum, whole);
    assert_eq!(sum.table(), whole.table());
}

#[test]
fn an_image_without_encoding_is_named() {
    let (_, cohort, mut encodings) = evaluation();
    let probe = cohort.part(domain::Part::FrequentTest)[3].clone();
    encodings.remove(&probe);
    let error = evaluate(&cohort, &encodings).unwrap_err();
    assert_eq!(error.kind(), domain::ErrorKind::MissingEncoding);
    assert!(error.to_string().contains(probe.as_str()));

    encodings.insert(probe.clone(), Encoding::from_unit(vec![1.0, 0.0]).unwrap());
    let error = evaluate(&cohort, &encodings).unwrap_err();
    assert_eq!(error.kind(), domain::ErrorKind::Length);
}

#[derive(Deserialize)]
struct Discovery {
    distances: Vec<f64>,
    ranks: Vec<u32>,
    linkage: Vec<(f64, f64, f64, f64)>,
    leaf_order: Vec<usize>,
    flat: Vec<(f64, Vec<usize>)>,
    groups: Vec<usize>,
    between: Vec<Vec<f64>>,
    within: Vec<f64>,
    cohort: Vec<usize>,
    cohort_mean: f64,
    all_groups_mean: f64,
    all_groups_sd: f64,
    all_groups_at_least_as_close: f64,
}

fn discovery() -> (Discovery, Distances) {
    let vectors: Discovery = serde_json::from_str(include_str!("data/discovery.json")).unwrap();
    let distances = Distances::new(14, vectors.distances.clone()).unwrap();
    (vectors, distances)
}

#[test]
fn clusters_are_those_of_scipy() {
    let (vectors, distances) = discovery();
    assert_eq!(distances.ranks(), vectors.ranks);
    let tree = distances.cluster();
    assert_eq!(tree.merges().len(), vectors.linkage.len());
    for (merge, &(left, right, height, size)) in tree.merges().iter().zip(&vectors.linkage) {
        assert_eq!((merge.left as f64, merge.right as f64, merge.size as f64), (left, right, size));
        assert!((merge.height - height).abs() < 1e-12);
    }
    assert_eq!(tree.leaf_order(), vectors.leaf_order);
    for (threshold, expected) in vectors.flat {
        let found = tree.flat(threshold);
        // scipy numbers clusters otherwise: compare which leaves are together.
        for i in 0..found.len() {
            for j in 0..i {
                assert_eq!(
                    found[i] == found[j],
                    expected[i] == expected[j],
                    "leaves {i}, {j} at {threshold}"
                );
            }
        }
        assert_eq!(found[0], 0);
    }
}

#[test]
fn group_distances_are_means_over_pairs() {
    let (vectors, distances) = discovery();
    let between = distances.between_groups(&vectors.groups, 4).unwrap();
    for (row, expected) in vectors.between.iter().enumerate() {
        for (found, expected) in between.row(row).iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12);
        }
    }
    for (found, expected) in distances.within_groups(&vectors.groups, 4).unwrap().iter().zip(vectors.within) {
        assert!((found.unwrap() - expected).abs() < 1e-12);
    }
}

#[test]
fn random_groups_follow_the_distribution_of_all_groups() {
    let (vectors, distances) = discovery();
    let draws = 20_000;
    let found = cohort_similarity(&distances, &vectors.cohort, draws, 11).unwrap();
    assert!((found.mean - vectors.cohort_mean).abs() < 1e-12);
    // Five standard errors of each estimate; all 1001 groups of four are enumerated in the reference.
    let n = (draws as f64).sqrt();
    assert!((found.random_mean - vectors.all_groups_mean).abs() < 5.0 * vectors.all_groups_sd / n);
    assert!((found.random_sd / vectors.all_groups_sd - 1.0).abs() < 0.05);
    let share = vectors.all_groups_at_least_as_close;
    assert!((found.percentile / 100.0 - share).abs() < 5.0 * (share * (1.0 - share)).sqrt() / n, "{found:?}");
    assert!((found.p - (1.0 + found.percentile / 100.0 * 20_000.0) / 20_001.0).abs() < 1e-12);
    assert_eq!(found, cohort_similarity(&distances, &vectors.cohort, draws, 11).unwrap());
}
