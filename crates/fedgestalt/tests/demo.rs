//! The main job as a user sees it: what it writes, that it can be repeated, what it leaves where.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/program.rs"]
mod program;

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::OnceLock;

use fedgestalt::cohort_dir::CohortDir;
use fedgestalt::pipeline::encodings::EncodingFile;
use fedgestalt::site::state::TRAINING;
use fedgestalt::store::SiteStore;
use program::{Place, SETTINGS, below, four, lasting, read};
use serde_json::{Value, json};

const SITES: usize = 4;

/// One demo that several tests look at: its working folder and what it wrote to standard output.
fn demo() -> &'static (Place, Value) {
    static DEMO: OnceLock<(Place, Value)> = OnceLock::new();
    DEMO.get_or_init(|| {
        let place = Place::new();
        let results = place.json("--threads 1 demo --out run");
        (place, results)
    })
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn results_have_the_promised_shape() {
    let (place, results) = demo();
    assert_eq!(&read(&place.path("run/results.json")), results, "the file and standard output say the same");
    let promised = BTreeSet::from([
        "settings",
        "sites",
        "draw",
        "seed",
        "seconds",
        "bytes_up_per_site",
        "peak_rss_mb",
        "engines",
        "release",
    ]);
    assert_eq!(keys(results), &promised | &BTreeSet::from(["newcomer", "engines"]));
    assert_eq!(keys(&results["settings"]), BTreeSet::from(SETTINGS));
    for setting in SETTINGS {
        let table = &results["settings"][setting];
        assert_eq!(keys(table), BTreeSet::from(["central", "federated", "local", "published"]));
        for how in keys(table) {
            let accuracies = four(&table[how]);
            assert!(
                accuracies.iter().all(|value| (0.0..=100.0).contains(value)),
                "{setting} {how}: {accuracies:?}"
            );
            assert!(accuracies.is_sorted(), "{setting} {how}: {accuracies:?}");
            // Fewer syndromes than 30: one of the first 30 is the right one.
            assert_eq!(accuracies[3], 100.0, "{setting} {how}");
        }
    }
    assert_eq!(
        (&results["sites"], &results["draw"], &results["seed"]),
        (&json!(4), &json!("near-uniform"), &json!(1))
    );
    for phase in ["features", "central training", "local training", "federation", "newcomer"] {
        assert!(results["seconds"][phase].as_f64().unwrap() > 0.0, "{phase}");
    }
    for phase in ["counts", "rounds", "kernel", "metrics", "release"] {
        assert!(results["bytes_up_per_site"][phase].as_u64().unwrap() > 0, "{phase}");
    }
    assert!(results["peak_rss_mb"].as_f64().unwrap() > 10.0);
    assert_eq!(results["engines"], json!([{ "engine": "rten", "precision": "f32" }]));
    let release = results["release"].as_str().unwrap();
    assert!(release.len() == 64 && release.bytes().all(|byte| byte.is_ascii_hexdigit()), "{release}");
}

#[test]
fn the_newcomer_adopts_the_release_and_ranks_its_probes() {
    let (place, results) = demo();
    let newcomer = &results["newcomer"];
    assert_eq!(newcomer["probes"], json!(5), "one of each frequent syndrome");
    for who in ["newcomer", "others"] {
        assert!(four(&newcomer[who]).is_sorted(), "{newcomer}");
        assert_eq!(four(&newcomer[who])[3], 100.0, "{newcomer}");
    }
    assert_eq!(read(&place.path("run/report.json"))["newcomer"]["site"], "newcomer");
}

#[test]
fn the_report_fetches_nothing() {
    let (place, results) = demo();
    let page = fs::read_to_string(place.path("run/report.html")).unwrap();
    let elsewhere: BTreeSet<&str> = page
        .match_indices("http")
        .map(|(at, _)| page[at..].split(['"', '\'', ' ', '<', '>', ')']).next().unwrap())
        .filter(|word| word.starts_with("http://") || word.starts_with("https://"))
        .collect();
    assert_eq!(elsewhere, BTreeSet::from(["http://www.w3.org/2000/svg"]), "names a space, is not fetched");
    for attribute in ["src=\"", "href=\"", "url("] {
        for (at, _) in page.match_indices(attribute) {
            let target = &page[at + attribute.len()..];
            assert!(
                target.starts_with("data:") || target.starts_with('#'),
                "{}",
                &target[..target.len().min(60)]
            );
        }
    }
    assert!(page.contains(&results["release"].as_str().unwrap()[..16]), "the release is named");
    assert!(page.contains("<svg") && page.contains("newcomer"));
}

#[test]
fn the_same_seed_gives_the_same_result_on_any_number_of_threads() {
    let (first, results) = demo();
    let second = Place::new();
    let again = second.json("--threads 2 demo --out run");
    assert_eq!(lasting(&again), lasting(results));
    for file in [
        "run/model/heads.safetensors",
        "run/baselines/central/heads.safetensors",
        "run/cohort/points.csv",
        "run/cohort/gmdb_images/1000.jpg",
        "run/sites/site-2/crops/1000.png",
    ] {
        // Which site has image 1000 follows from the seed: it is at the same one in both runs, or at neither.
        assert_eq!(fs::read(first.path(file)).ok(), fs::read(second.path(file)).ok(), "{file}");
    }
}

#[test]
fn another_seed_gives_another_result() {
    let (_, results) = demo();
    let other = Place::new().json("demo --seed 2 --out run");
    assert_eq!(other["seed"], json!(2));
    assert_ne!(other["release"], results["release"]);
    assert_ne!(other["settings"], results["settings"]);
}

#[test]
fn sites_that_vanish_are_done_without_and_come_back() {
    let place = Place::new();
    let results = place.json("demo --drop 1@1 --drop 2@2 --out run");
    assert_ne!(results["release"], demo().1["release"], "sums without a site are other sums");
    let attendance = &read(&place.path("run/report.json"))["attendance"];
    let rounds: Vec<Vec<&str>> = attendance["rounds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|round| round["presence"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect())
        .collect();
    assert_eq!(
        rounds,
        [
            ["present", "dropped_before", "present", "present"],
            ["present", "returned", "dropped_after", "present"],
            ["present", "present", "returned", "present"],
        ]
    );
    // What a site recorded of the sums: each is without the site that was away before it was opened, and no other.
    let records = read(&place.path("run/sites/site-0/rounds.json"));
    let in_sum: Vec<&Value> = records.as_array().unwrap().iter().map(|record| &record["sites"]).collect();
    assert_eq!(in_sum, [&json!([0, 2, 3]), &json!([0, 1, 3]), &json!([0, 1, 2, 3])]);
}

#[test]
fn a_site_keeps_its_folder_to_itself() {
    let (place, _) = demo();
    let sites = place.path("run/sites");
    for path in below(&sites) {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        // A lock says which process works here, and nothing else.
        if path.file_name().unwrap() != ".lock" {
            assert_eq!(mode, wanted, "{}: {mode:o}", path.display());
        }
    }
    for name in ["keys/site", "participant.state", "session-end.state", "site.db"] {
        assert!(sites.join("site-0").join(name).is_file(), "{name}");
    }
    let key = |at: usize| fs::read(sites.join(format!("site-{at}/keys/site"))).unwrap();
    assert!((1..SITES).all(|at| key(at) != key(0)), "every site has a key of its own");
}

#[test]
fn the_audit_log_lists_what_left_and_verifies() {
    let (place, results) = demo();
    let mut sent = 0;
    for at in 0..SITES {
        let store = SiteStore::open(&place.path(&format!("run/sites/site-{at}"))).unwrap();
        let head = store.verify_audit(None).unwrap();
        let log = store.audit_log().unwrap();
        assert_eq!(head.seq, log.len() as u64);
        // Beside what left, it says when a training began.
        let (begun, left): (Vec<_>, Vec<_>) = log.iter().partition(|s| s.entry.what == TRAINING);
        assert_eq!(begun.iter().filter_map(|s| s.entry.round).collect::<Vec<_>>(), [1, 2, 3], "site-{at}");
        assert!(begun.iter().all(|s| s.entry.bytes == 0 && s.entry.payload.is_none()));
        assert!(left.iter().all(|s| s.entry.to == "coordinator" && s.entry.payload.is_some()));
        for round in 1..=3 {
            let uploads: Vec<_> =
                log.iter().filter(|s| s.entry.what == "Input" && s.entry.round == Some(round)).collect();
            assert_eq!(uploads.len(), 1, "site-{at}, round {round}");
            assert!(uploads[0].entry.plan.is_some());
        }
        sent += log.iter().map(|sealed| sealed.entry.bytes).sum::<u64>();
    }
    // The log goes on after the session, with what the newcomer's questions made sites send.
    let counted: u64 =
        results["bytes_up_per_site"].as_object().unwrap().values().map(|bytes| bytes.as_u64().unwrap()).sum();
    assert!(
        sent >= counted * SITES as u64,
        "{sent} bytes in the logs, {counted} bytes per site in the results"
    );
}

/// A copy of a cohort with ids that occur nowhere by chance, and all words that must not leave a site: ids of images,
/// subjects and syndromes, and the syndromes' names.
fn marked(from: &Path, to: &Path) -> Vec<String> {
    let mark = |kind: &str, id: &str| format!("{kind}-{id}-xyzzy");
    let mut words = BTreeSet::new();
    let tables = to.join("gmdb_metadata");
    fs::create_dir_all(&tables).unwrap();
    for file in below(&from.join("gmdb_metadata")) {
        let text = fs::read_to_string(&file).unwrap();
        let (head, rows) = text.split_once('\n').unwrap();
        let mut out = format!("{head}\n");
        for row in rows.lines() {
            let mut cells: Vec<String> = row.split(',').map(str::to_owned).collect();
            for (cell, kind) in cells.iter_mut().zip(["image", "label", "subject"]) {
                *cell = mark(kind, cell);
                words.insert(cell.clone());
            }
            out.push_str(&format!("{}\n", cells.join(",")));
        }
        fs::write(tables.join(file.file_name().unwrap()), out).unwrap();
    }
    for (file, kind) in [("points.csv", "image"), ("syndromes.csv", "label")] {
        let text = fs::read_to_string(from.join(file)).unwrap();
        let (head, rows) = text.split_once('\n').unwrap();
        let rows: String = rows
            .lines()
            .map(|row| row.split_once(',').unwrap())
            .map(|(id, rest)| format!("{},{rest}\n", mark(kind, id)))
            .collect();
        fs::write(to.join(file), format!("{head}\n{rows}")).unwrap();
    }
    let images = to.join("gmdb_images");
    fs::create_dir(&images).unwrap();
    for file in below(&from.join("gmdb_images")) {
        let id = file.file_stem().unwrap().to_str().unwrap();
        fs::copy(&file, images.join(format!("{}.jpg", mark("image", id)))).unwrap();
    }
    let names = CohortDir::open(to).unwrap().cohort;
    words.extend(names.syndromes().iter().map(|syndrome| syndrome.name.clone()));
    words.into_iter().collect()
}

fn contains(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

#[test]
fn the_coordinator_holds_no_name_and_no_encoding() {
    let (place, _) = demo();
    let other = Place::new();
    let words = marked(&place.path("run/cohort"), &other.path("cohort"));
    assert!(words.len() > 100 && words.iter().all(|word| word.len() > 5), "{words:?}");
    other.json("federate --cohort cohort --out run");
    let held: Vec<Vec<u8>> = below(&other.path("run/coordinator"))
        .into_iter()
        .filter(|path| path.is_file())
        .map(|path| fs::read(path).unwrap())
        .collect();
    assert!(held.iter().map(Vec::len).sum::<usize>() > 1_000_000, "it holds the sums and the masked gallery");
    // One pass over all windows that begin like a word.
    let starts: HashSet<&[u8]> = words.iter().map(|word| &word.as_bytes()[..5]).collect();
    for bytes in &held {
        for at in 0..bytes.len().saturating_sub(5) {
            if starts.contains(&bytes[at..at + 5]) {
                let found = words.iter().find(|word| bytes[at..].starts_with(word.as_bytes()));
                assert!(found.is_none(), "the coordinator holds {found:?}");
            }
        }
    }
    // The same search finds them where they belong.
    let own = fs::read(other.path("run/sites/site-0/site.db")).unwrap();
    assert!(words.iter().any(|word| word.starts_with("image-") && contains(&own, word)));

    other.json("encode --cohort cohort --model run/model --out encodings.safetensors");
    let encodings = EncodingFile::load(&other.path("encodings.safetensors")).unwrap().encodings().unwrap();
    // Four neighbouring values in their bytes: sixteen bytes that no other data has by chance.
    let plain: HashSet<Vec<u8>> = encodings
        .values()
        .flat_map(|encoding| encoding.as_slice().chunks_exact(4).take(64))
        .filter(|values| values.iter().all(|value| *value != 0.0))
        .map(|values| values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    assert!(plain.len() > 1000);
    let finds = |bytes: &[u8]| bytes.windows(16).any(|window| plain.contains(window));
    assert!(!held.iter().any(|bytes| finds(bytes)), "the coordinator holds a plain encoding");
    assert!(
        finds(&fs::read(other.path("encodings.safetensors")).unwrap()),
        "the search finds them where they are"
    );
}
