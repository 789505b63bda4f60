//! Files of encodings: GestaltMatcher's own give GestaltMatcher's figures, and every format serves every command.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/pictures.rs"]
mod pictures;
#[path = "common/program.rs"]
mod program;

use std::fs;
use std::path::{Path, PathBuf};

use pictures::face;
use program::{Place, read};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gestaltmatcher").join(name)
}

/// The four accuracies at the end of a printed line.
fn printed(table: &str, line: &str) -> Vec<String> {
    let line = table.lines().find(|text| text.starts_with(line)).unwrap_or_else(|| panic!("{line}: {table}"));
    let cells: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    cells[cells.len() - 4..].to_vec()
}

/// `reference/gestaltmatcher_evaluation.py` wrote the files and computed the figures, in numpy.
#[test]
fn all_encodings_csv_gives_gestaltmatchers_figures_to_the_last_digit() {
    let place = Place::new();
    let expected = read(&data("expected.json"));
    let files = format!(
        "evaluate --encodings {} --metadata {}",
        data("all_encodings.csv").display(),
        data("gmdb_metadata").display()
    );
    let run = |args: &str| String::from_utf8(place.run(args).stdout).unwrap();
    let table = run(&files);
    for (line, key) in [
        ("frequent -> frequent ", "frequent_frequent"),
        ("rare -> rare ", "rare_rare"),
        ("frequent -> frequent + rare", "frequent_all"),
        ("rare -> frequent + rare", "rare_all"),
    ] {
        let wanted: Vec<&str> =
            expected[key].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
        assert_eq!(printed(&table, line), wanted, "{line}: {table}");
    }
    let table = run(&format!("{files} --leave-one-out"));
    let wanted: Vec<&str> =
        expected["leave_one_out"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    assert_eq!(printed(&table, "each against all others, 18 syndromes"), wanted, "{table}");
}

/// Four syndromes of four aligned faces each.
fn cohort(place: &Place) {
    for number in 0..16 {
        let file = place.path(&format!("src/syndrome {}/p{number}.png", number / 4));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, face(number).to_png().unwrap()).unwrap();
    }
    place.json("cohort import src --out cohort --frequent-subjects 4");
}

#[test]
fn every_format_serves_every_command() {
    let place = Place::new();
    cohort(&place);
    let names = ["e.safetensors", "e.csv", "e.npz"];
    for name in names {
        place.json(&format!("encode --cohort cohort --out {name}"));
    }
    // 16 images x 3 members x 4 views, and the header.
    let csv = fs::read_to_string(place.path("e.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 16 * 12);
    let order: Vec<&str> =
        csv.lines().skip(1).take(12).map(|line| line.split_once(".jpg;").unwrap().1).collect();
    let order: Vec<&str> = order.iter().map(|row| row.split_once(";[0];[").unwrap().0).collect();
    assert_eq!(
        order[..5],
        ["m0;0;0", "m0;0;1", "m0;1;0", "m0;1;1", "m1;0;0"],
        "gray changes faster than flip"
    );

    let tables: Vec<_> = names
        .iter()
        .map(|name| place.json(&format!("evaluate --cohort cohort --encodings {name}")))
        .collect();
    for table in &tables[1..] {
        assert_eq!(table["settings"], tables[0]["settings"]);
    }
    let image = "syndrome 1_p5";
    let rank = |name: &str| {
        let mut command =
            place.command(&format!("--json rank --cohort cohort --encodings {name} --top 4 --image"));
        let output = command.arg(image).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        program::document(&output)[0]["syndromes"].as_array().unwrap().clone()
    };
    // What rankings are normalised by comes from the file where that was written with normalisation, and from its
    // encodings where not.
    fs::write(place.path("z.toml"), program::CONFIG.replace("\"none\"", "\"z:1\"")).unwrap();
    place.json("--config z.toml encode --cohort cohort --out z.safetensors");
    let facts = fs::read(place.path("z.safetensors")).unwrap();
    assert!(String::from_utf8_lossy(&facts).contains("\\\"spreads\\\""));
    let normalised = |name: &str| rank(&format!("{name} --normalisation z:1"));
    assert_eq!(normalised("z.safetensors"), normalised("e.safetensors"));
    assert_ne!(normalised("z.safetensors"), rank("z.safetensors"));
    let config = fs::read_to_string(place.path("z.toml")).unwrap();
    assert!(config.contains("z:1"));
    let own = rank(names[0]);
    for name in &names[1..] {
        for (a, b) in rank(name).iter().zip(&own) {
            assert_eq!(
                (&a["syndrome"], &a["nearest_image"]),
                (&b["syndrome"], &b["nearest_image"]),
                "{name}"
            );
            assert!(
                (a["distance"].as_f64().unwrap() - b["distance"].as_f64().unwrap()).abs() < 1e-6,
                "{name}"
            );
        }
    }
    let found: Vec<_> = names
        .iter()
        .map(|name| place.json(&format!("discover --cohort cohort --encodings {name} --out found")))
        .collect();
    assert!(found.iter().all(|one| one["leaf_order"] == found[0]["leaf_order"] && one["images"] == 16));

    // The same photograph through the networks: only a CSV does not say what computed it, and that is told of.
    let gallery =
        fs::read_to_string(place.path("cohort/gmdb_metadata/gmdb_frequent_gallery_images_v1.0.0.csv"))
            .unwrap();
    let image = gallery.lines().nth(1).unwrap().split_once(',').unwrap().0;
    fs::copy(place.path(&format!("src/{}.png", image.replace("_", "/"))), place.path("probe.png")).unwrap();
    for name in names {
        let output = place.run(&format!("--json rank probe.png --cohort cohort --encodings {name} --timing"));
        let answer = program::document(&output);
        assert_eq!(answer[0]["syndromes"][0]["nearest_image"], image, "{name}");
        assert!(answer[0]["syndromes"][0]["distance"].as_f64().unwrap() < 1e-3, "{name}");
        let seconds = answer[0]["seconds"].as_object().unwrap();
        let steps =
            ["cohort", "gallery", "model", "decode", "detect", "align", "trunk", "neck", "rank", "total"];
        assert!(steps.iter().all(|step| seconds[*step].as_f64().unwrap() >= 0.0), "{seconds:?}");
        let told = String::from_utf8_lossy(&output.stderr).contains("does not say which model");
        assert_eq!(told, name.ends_with("csv"), "{name}");
    }
}

#[test]
fn a_name_without_a_format_and_another_length_are_refused() {
    let place = Place::new();
    cohort(&place);
    let told = place.failure("encode --cohort cohort --out encodings.txt");
    assert!(told.contains("encodings.txt") && told.contains("--format"), "{told}");
    place.json("encode --cohort cohort --out encodings.txt --format csv");
    assert!(
        fs::read_to_string(place.path("encodings.txt")).unwrap().starts_with("img_name;model;flip;gray;")
    );
    fs::copy(place.path("src/syndrome 1/p5.png"), place.path("p5.png")).unwrap();
    let told = place.failure(&format!(
        "rank p5.png --cohort {} --encodings {}",
        data("gmdb_metadata").display(),
        data("all_encodings.csv").display()
    ));
    assert!(told.contains("52 values"), "{told}");
}
