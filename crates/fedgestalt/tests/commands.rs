//! The job's steps one by one, on the cohort of a demo: each agrees with the whole, and says what is wrong with its input.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/program.rs"]
mod program;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use program::{Place, SETTINGS, four, lasting, read};
use serde_json::{Value, json};

/// A working folder with a finished demo in `run`, and its results.
fn demo() -> &'static (Place, Value) {
    static DEMO: OnceLock<(Place, Value)> = OnceLock::new();
    DEMO.get_or_init(|| {
        let place = Place::new();
        let results = place.json("demo --out run");
        (place, results)
    })
}

/// The encodings of the demo's cohort by its centralised model, as `encode` writes them; made once.
fn central_encodings() -> &'static Place {
    static ENCODED: OnceLock<()> = OnceLock::new();
    let (place, _) = demo();
    ENCODED.get_or_init(|| {
        let told =
            place.json("encode --cohort run/cohort --model run/baselines/central --out central.safetensors");
        assert_eq!(told["images"], place.json("cohort check run/cohort")["images"]);
        assert_eq!(told["file"], "central.safetensors");
    });
    place
}

fn copy_folder(from: &Path, to: &Path) {
    for path in program::below(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        if path.is_dir() {
            fs::create_dir_all(target).unwrap();
        } else {
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(path, target).unwrap();
        }
    }
}

/// The cells of a setting, by how the model was trained.
fn cells(results: &Value, how: &str) -> Vec<f64> {
    SETTINGS.iter().flat_map(|setting| four(&results["settings"][*setting][how])).collect()
}

/// The cells of a table of one model.
fn table(results: &Value) -> Vec<f64> {
    SETTINGS.iter().flat_map(|setting| four(&results["settings"][*setting])).collect()
}

#[test]
fn the_demos_cohort_is_sound_and_can_be_handed_out() {
    let (place, _) = demo();
    let report = place.json("cohort check --decode run/cohort");
    assert_eq!(
        (&report["errors"], &report["warnings"], &report["findings"]),
        (&json!(0), &json!(0), &json!([]))
    );
    let sites = place.json("cohort draw run/cohort --sites 3 --draw non-overlapping --out drawn");
    let images = |site: &Value| site["images"].as_u64().unwrap();
    let sites = sites.as_array().unwrap();
    assert_eq!(sites.iter().map(images).sum::<u64>(), report["images"].as_u64().unwrap());
    for (at, site) in sites.iter().enumerate() {
        assert_eq!(place.json(&format!("cohort check drawn/site-{at}"))["images"], site["images"]);
    }
}

#[test]
fn federate_on_the_same_cohort_is_the_same_federation() {
    let (place, demo) = demo();
    let results = place.json("federate --cohort run/cohort --out federated");
    assert!(results.get("newcomer").is_none());
    let mut wanted = lasting(demo);
    wanted.as_object_mut().unwrap().remove("newcomer");
    assert_eq!(lasting(&results), wanted, "the demo does what federate does");
    assert!(place.path("federated/report.html").is_file());
}

#[test]
fn train_gives_the_demos_baselines() {
    let (place, demo) = demo();
    let central = place.json("train --central --cohort run/cohort --out train-central");
    assert_eq!(table(&central["models"]["central"]), cells(demo, "central"));
    let again = place.json("train --central --cohort run/cohort --out train-central");
    assert_eq!(again, central);

    let local = place.json("train --local --cohort run/cohort --out train-local");
    let models: Vec<Vec<f64>> = local["models"].as_object().unwrap().values().map(table).collect();
    assert_eq!(models.len(), 4);
    for (cell, wanted) in cells(demo, "local").into_iter().enumerate() {
        let mean = models.iter().map(|model| model[cell]).sum::<f64>() / models.len() as f64;
        assert!((mean - wanted).abs() < 1e-9, "cell {cell}: mean {mean}, in the demo {wanted}");
    }
    let told = place.failure("train --central --cohort run/cohort --epochs 2 --out train-central");
    assert!(told.contains("config.training.epochs: 3 there, 2 here"), "{told}");
}

#[test]
fn encode_and_evaluate_give_the_table_of_the_run() {
    let (_, demo) = demo();
    let place = central_encodings();
    let central = place.json("evaluate --cohort run/cohort --encodings central.safetensors --out table.json");
    assert_eq!(table(&central), cells(demo, "central"));
    assert_eq!(read(&place.path("table.json")), central);

    place.json("encode --cohort run/cohort --out published.safetensors");
    let published = place.json("evaluate --cohort run/cohort --encodings published.safetensors");
    assert_eq!(table(&published), cells(demo, "published"));

    // The federation ranks masked vectors: products equal the plain ones to 1e-5, so that only probes with two
    // syndromes at the same distance may come out differently. One probe of this cohort is at most 100 / (5 syndromes).
    place.json("encode --cohort run/cohort --model run/model --out federated.safetensors");
    let federated = place.json("evaluate --cohort run/cohort --encodings federated.safetensors");
    for (plain, masked) in table(&federated).into_iter().zip(cells(demo, "federated")) {
        assert!((plain - masked).abs() <= 20.0, "{plain} from encodings, {masked} in the federation");
    }
    let equal =
        table(&federated).iter().zip(cells(demo, "federated")).filter(|(a, b)| (*a - b).abs() < 1e-9).count();
    assert!(equal >= 14, "{equal} of 16 cells are equal: {federated}");
}

#[test]
fn rank_answers_for_images_and_photographs() {
    let place = central_encodings();
    let (image, truth) =
        first_row(&place.path("run/cohort/gmdb_metadata/gmdb_frequent_test_images_v1.0.3.csv"));
    let query = "--cohort run/cohort --encodings central.safetensors --model run/baselines/central";
    let by_id = place.json(&format!("rank --image {image} {query} --top 30"));
    let places = by_id[0]["syndromes"].as_array().unwrap();
    assert_eq!(places.len(), 8, "every syndrome has its place");
    assert!(places.iter().any(|place| place["syndrome"] == truth.as_str()));
    let distances: Vec<f64> = places.iter().map(|place| place["distance"].as_f64().unwrap()).collect();
    assert!(distances.is_sorted(), "{distances:?}");

    // The same picture from its file, with its points, is the same probe.
    let points = fs::read_to_string(place.path("run/cohort/points.csv")).unwrap();
    let points = points.lines().find_map(|line| line.strip_prefix(&format!("{image},"))).unwrap();
    let photo = format!("run/cohort/gmdb_images/{image}.jpg");
    let by_file = place.json(&format!("rank {photo} --points {points} {query} --top 30"));
    assert_eq!(by_file[0]["syndromes"][0]["syndrome"], places[0]["syndrome"]);
    for (a, b) in by_file[0]["syndromes"].as_array().unwrap().iter().zip(&distances) {
        assert!((a["distance"].as_f64().unwrap() - b).abs() < 1e-4, "{a} and {b}");
    }
    assert_eq!(
        place.json(&format!("rank --image {image} {query} --top 3"))[0]["syndromes"]
            .as_array()
            .unwrap()
            .len(),
        3
    );

    let told = place.failure(&format!("rank {photo} {query}"));
    assert!(told.contains("256 x 256") && told.contains("--points") && told.contains(&photo), "{told}");
    let told = place.failure(&format!(
        "rank {photo} --points {points} --cohort run/cohort --encodings central.safetensors"
    ));
    assert!(told.contains("--model"), "another model than that of the encodings: {told}");
    let told = place.failure(&format!("rank --image nobody {query}"));
    assert!(told.contains("nobody"), "{told}");
}

#[test]
fn discover_writes_symmetric_matrices_and_a_dendrogram() {
    let place = central_encodings();
    let found = place.json("discover --cohort run/cohort --encodings central.safetensors --out found");
    assert_eq!(found["syndromes"], json!(8));
    assert_eq!(read(&place.path("found/discover.json")), found);
    for (file, side) in
        [("syndrome_distances.csv", 8), ("image_distances.csv", found["images"].as_u64().unwrap() as usize)]
    {
        let text = fs::read_to_string(place.path(&format!("found/{file}"))).unwrap();
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(rows.len(), side + 1, "{file}");
        for (r, row) in rows.iter().enumerate() {
            assert_eq!(row.len(), side + 1, "{file}, row {r}");
            for (c, cell) in row.iter().enumerate() {
                assert_eq!(*cell, rows[c][r], "{file} is symmetric, labels included");
            }
        }
    }
    let clusters = fs::read_to_string(place.path("found/clusters.csv")).unwrap();
    assert_eq!(clusters.lines().count() as u64, found["images"].as_u64().unwrap() + 1);
    let tree = read(&place.path("found/dendrogram.json"));
    assert_eq!((tree["leaves"].as_array().unwrap().len(), tree["merges"].as_array().unwrap().len()), (8, 7));
    assert!(place.path("found/syndrome_ranks.csv").is_file());

    let (image, _) = first_row(&place.path("run/cohort/gmdb_metadata/gmdb_frequent_test_images_v1.0.3.csv"));
    let told = place.failure(&format!(
        "discover --cohort run/cohort --encodings central.safetensors --images {image},nobody --out found"
    ));
    assert!(told.contains("nobody"), "{told}");
}

/// Image and label of a table's first row.
fn first_row(table: &Path) -> (String, String) {
    let text = fs::read_to_string(table).unwrap();
    let mut cells = text.lines().nth(1).unwrap().split(',');
    (cells.next().unwrap().to_owned(), cells.next().unwrap().to_owned())
}

#[test]
fn a_corrupt_photograph_is_named() {
    let place = Place::new();
    copy_folder(&demo().0.path("run/cohort"), &place.path("cohort"));
    let (image, _) = first_row(&place.path("cohort/gmdb_metadata/gmdb_train_images_v1.0.3.csv"));
    let file = place.path(&format!("cohort/gmdb_images/{image}.jpg"));
    let whole = fs::read(&file).unwrap();
    for bytes in [&b"not a photograph"[..], &whole[..400], &[]] {
        fs::write(&file, bytes).unwrap();
        let told = place.failure("federate --cohort cohort --out run");
        assert!(told.contains(&format!("{image}.jpg")), "{told}");
        // The other photographs are encoded.
        let output = place.run("--json encode --cohort cohort --out e.safetensors");
        assert_eq!(output.status.code(), Some(1));
        let summary = program::document(&output);
        let left_out = summary["left_out"].as_array().unwrap();
        assert!(left_out.len() == 1 && left_out[0]["image"] == image.as_str(), "{summary}");
        assert!(left_out[0]["reason"].as_str().unwrap().contains(&format!("{image}.jpg")), "{summary}");
        let output = place.run("--json cohort check --decode cohort");
        assert_eq!(output.status.code(), Some(1));
        let report = program::document(&output);
        assert_eq!(report["errors"], json!(1), "{report}");
        assert!(
            report["findings"][0]["file"].as_str().unwrap().ends_with(&format!("{image}.jpg")),
            "{report}"
        );
    }
    // With the file in order, the run that failed goes on.
    fs::write(&file, whole).unwrap();
    let results = place.json("federate --cohort cohort --out run");
    assert_eq!(results["release"], demo().1["release"]);
}

#[test]
fn a_damaged_model_is_named() {
    let place = Place::new();
    copy_folder(&demo().0.path("run/model"), &place.path("model"));
    let cohort = demo().0.path("run/cohort");
    let encode = format!("encode --cohort {} --model model --out e.safetensors", cohort.display());
    let file = place.path("model/heads.safetensors");
    let whole = fs::read(&file).unwrap();
    for keep in [0, 5, 1000, whole.len() - 1] {
        fs::write(&file, &whole[..keep]).unwrap();
        let told = place.failure(&encode);
        assert!(told.contains("model/heads.safetensors"), "{keep} bytes: {told}");
    }
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 0x10;
    fs::write(&file, changed).unwrap();
    assert!(place.failure(&encode).contains("model/heads.safetensors"));
    fs::remove_file(place.path("model/model.json")).unwrap();
    let told = place.failure(&encode);
    assert!(told.contains("model.json is not there"), "{told}");
}

#[test]
fn what_is_no_network_no_cohort_or_no_encodings_is_named() {
    let place = central_encodings();
    fs::write(place.path("notes.txt"), "this is not a network\n").unwrap();
    for command in [
        "federate --cohort run/cohort --trunk notes.txt --out nothing",
        "train --central --cohort run/cohort --trunk notes.txt --out nothing",
        "encode --cohort run/cohort --trunk notes.txt --out nothing.safetensors",
        "evaluate --cohort run/cohort --encodings notes.txt",
        "discover --cohort run/cohort --encodings notes.txt --out nothing",
    ] {
        let told = place.failure(command);
        assert!(told.contains("notes.txt"), "{command}: {told}");
    }
    let told = place.failure("evaluate --cohort run/model --encodings central.safetensors");
    assert!(told.contains("run/model"), "{told}");
    let told = place.failure("demo --drop 7@1 --out other");
    assert!(told.contains("7@1") && told.contains("4 sites"), "{told}");
    let told = place.failure("demo --drop 1@9 --out other");
    assert!(told.contains("3 rounds"), "{told}");
}
