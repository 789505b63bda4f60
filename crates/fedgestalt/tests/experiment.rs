//! A grid as a user sees it: what it writes, that it goes on after a kill, that its cells are what `federate` gives.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/program.rs"]
mod program;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fedgestalt::config::DemoCohort;
use fedgestalt::simulate;
use program::{Place, SETTINGS, document, four, lasting, read};
use serde_json::Value;

const METHODS: &str = r#"
[[methods]]
name = "tuned"
config = "tuned.toml"
[[methods]]
name = "closed-form"
config = "form.toml"
"#;

/// Five frequent and three rare syndromes: of six sites with whole syndromes one has nobody to train on.
const GRID: &str =
    "cohort = \"cohort\"\nsites = [3, 6]\ndraws = [\"near-uniform\", \"non-overlapping\"]\nseeds = [1]\n";

const TUNED: &str = "[training]\nepochs = 2\ninterval = 1\ndraws = 2\nrates = \"cosine\"\nstopping = \"accuracy:1\"\n\n\
                     [federation]\nserver_optimizer = \"adam\"\nserver_rate = 0.02\nproximal = 0.1\n\n\
                     [[members]]\nname = \"r50\"\nkind = \"tuned\"\nbatch = 8\nneck_lr = 0.01\n\n\
                     [[members]]\nname = \"published\"\nkind = \"published\"\n";

const FORM: &str = "[[members]]\nname = \"form\"\nkind = \"closed-form\"\n\n\
                    [[members]]\nname = \"lift\"\nkind = \"closed-form\"\nlift = 200\n\n\
                    [[members]]\nname = \"map\"\nkind = \"closed-form\"\nprojection = 100\nfloor = 0.0\noutputs = 10\n\n\
                    [kernel]\nnormalisation = \"z:0.5\"\n";

fn place(plan: &str) -> Place {
    let place = Place::new();
    let size =
        DemoCohort { frequent_syndromes: 5, rare_syndromes: 3, images: 75, difficulty: 0.8, photo_size: 256 };
    simulate::cohort(&place.path("cohort"), &size, 1, &|| {}).unwrap();
    fs::write(place.path("tuned.toml"), TUNED).unwrap();
    fs::write(place.path("form.toml"), FORM).unwrap();
    write_plan(&place, plan);
    place
}

fn write_plan(place: &Place, plan: &str) {
    fs::write(place.path("plan.toml"), format!("{plan}{METHODS}")).unwrap();
}

fn results_in(cells: &Path) -> usize {
    let Ok(entries) = fs::read_dir(cells) else { return 0 };
    entries.filter(|cell| cell.as_ref().unwrap().path().join("results.json").exists()).count()
}

fn cell<'a>(experiment: &'a Value, name: &str) -> &'a Value {
    let cells = experiment["cells"].as_array().unwrap();
    cells.iter().find(|cell| cell["name"] == name).unwrap_or_else(|| panic!("no cell {name}"))
}

/// What a cell came to, without its times.
fn outcome(experiment: &Value, name: &str) -> Value {
    let cell = cell(experiment, name);
    assert!(cell["error"].is_null(), "{cell}");
    lasting(&cell["results"])
}

#[test]
fn a_killed_grid_goes_on_and_every_cell_is_a_federation_of_its_own() {
    let place = place(GRID);
    let cells = place.path("grid/cells");
    let mut child = place
        .command("experiment plan.toml --out grid --jobs 2")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while results_in(&cells) < 3 && child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(300), "the grid stands still");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let kept: Vec<_> = ["tuned-3-near-uniform-seed1", "tuned-3-non-overlapping-seed1"]
        .map(|name| cells.join(name).join("results.json"))
        .into_iter()
        .filter(|file| file.exists())
        .map(|file| (fs::read(&file).unwrap(), file))
        .collect();
    assert!(!kept.is_empty());

    let experiment = place.json("experiment plan.toml --out grid --jobs 2");
    assert_eq!(experiment, read(&place.path("grid/experiment.json")), "the file and standard output");
    let all = experiment["cells"].as_array().unwrap();
    assert_eq!(all.len(), 8);
    assert!(kept.iter().all(|(bytes, file)| fs::read(file).unwrap() == *bytes), "done cells are left alone");
    for cell in all {
        assert!(cell["error"].is_null(), "{cell}");
        let left: BTreeSet<String> = fs::read_dir(cells.join(cell["name"].as_str().unwrap()))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let wanted = [".lock", "config.toml", "phases.json", "results.json", "run.json"].map(str::to_owned);
        assert_eq!(left, BTreeSet::from(wanted), "keys, stores and weights are gone");
    }
    closed_forms_lose_nothing(&experiment);
    the_table_and_the_page_say_it(&place, &experiment);

    // The configuration beside a cell's results makes `federate` give the same, central baseline and all: nothing
    // depends on who computed the features, and on what ran beside it.
    let name = "tuned-6-non-overlapping-seed1";
    let alone =
        place.json(&format!("--config grid/cells/{name}/config.toml federate --cohort cohort --out alone"));
    assert_eq!(lasting(&alone), outcome(&experiment, name));
}

/// The same accuracies for every number of sites and every draw, and those of the centralised training.
fn closed_forms_lose_nothing(experiment: &Value) {
    let summary = &experiment["summary"].as_array().unwrap()[1];
    assert_eq!(summary["method"], "closed-form");
    for row in summary["rows"].as_array().unwrap() {
        assert_eq!(row["overall"]["lowest"], 100.0, "{row}");
    }
    let cells = experiment["cells"].as_array().unwrap();
    let tables = |method: &str| -> BTreeSet<String> {
        let own = cells.iter().filter(|cell| cell["method"] == method);
        own.map(|cell| {
            SETTINGS.map(|setting| cell["results"]["settings"][setting]["federated"].to_string()).concat()
        })
        .collect()
    };
    assert_eq!(tables("closed-form").len(), 1, "{:?}", tables("closed-form"));
    assert!(tables("tuned").len() > 1, "tuning does depend on sites and draw, or this test could not fail");
    for cell in cells.iter().filter(|cell| cell["method"] == "closed-form") {
        for setting in SETTINGS {
            let table = &cell["results"]["settings"][setting];
            assert_eq!(table["federated"], table["central"], "{} {setting}", cell["name"]);
            assert!(four(&table["local"]).is_sorted(), "{} {setting}", cell["name"]);
        }
    }
}

fn the_table_and_the_page_say_it(place: &Place, experiment: &Value) {
    let table = fs::read_to_string(place.path("grid/table.md")).unwrap();
    let page = fs::read_to_string(place.path("grid/experiment.html")).unwrap();
    let best = experiment["best_central"].as_str().unwrap();
    assert!(table.contains(&format!("best centralised training is that of {best}")));
    let value = experiment["summary"][0]["rows"][0]["overall"]["federated"]["mean"].as_f64().unwrap();
    let value = format!("{value:.2}");
    for text in [&table, &page] {
        assert!(text.contains("closed-form") && text.contains("non-overlapping") && text.contains(&value));
    }
    // Every table of the Markdown has as many cells in each line as in its head.
    let mut width = None;
    for line in table.lines() {
        let cells = line.starts_with('|').then(|| line.matches('|').count());
        if let (Some(width), Some(cells)) = (width, cells) {
            assert_eq!(cells, width, "{line}");
        }
        width = cells.and(width.or(cells));
    }
    assert_eq!(page.matches("<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\"").count(), 4);
    for attribute in ["src=\"", "href=\"", "url("] {
        for (at, _) in page.match_indices(attribute) {
            assert!(page[at + attribute.len()..].starts_with('#'), "the page fetches nothing");
        }
    }
}

#[test]
fn what_changed_or_fails_is_named_and_the_rest_is_done() {
    let plan = "cohort = \"cohort\"\nsites = [3]\ndraws = [\"near-uniform\"]\nseeds = [1]\nlocal = false\n";
    let place = place(plan);
    let first = place.json("experiment plan.toml --out grid --jobs 1");
    // Without what sites reach by themselves, which the table then does not speak of.
    let form = &cell(&first, "closed-form-3-near-uniform-seed1")["results"];
    assert!(form["seconds"]["local training"].is_null() && form["seconds"]["federation"].is_number());
    assert!(form["settings"]["frequent_frequent"]["local"][0].is_null(), "{form}");
    let table = fs::read_to_string(place.path("grid/table.md")).unwrap();
    assert!(table.contains("% of centralised") && !table.contains("local"), "{table}");

    // A method that is another one now; more seeds; and a draw that cannot be.
    fs::write(place.path("tuned.toml"), TUNED.replace("epochs = 2", "epochs = 3")).unwrap();
    write_plan(
        &place,
        "cohort = \"cohort\"\nsites = [3, 9]\ndraws = [\"near-uniform\", \"non-overlapping\"]\nseeds = [1, 2]\n",
    );
    let output = place.run("--json experiment plan.toml --out grid --jobs 3");
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    let second = document(&output);
    assert_eq!(second["cells"].as_array().unwrap().len(), 16);
    for cell in second["cells"].as_array().unwrap() {
        let name = cell["name"].as_str().unwrap();
        let error = cell["error"].as_str().unwrap_or_default();
        if name == "tuned-3-near-uniform-seed1" {
            assert!(error.contains("config.training.epochs: 2 there, 3 here"), "{error}");
        } else if name.starts_with("tuned") && name.ends_with("seed1") {
            assert!(error.contains("other settings") && error.contains("central"), "{name}: {error}");
        } else if name.contains("9-non-overlapping") {
            assert!(error.contains("8 syndromes") && error.contains("9 sites"), "{name}: {error}");
            assert!(told.contains(&format!("{name} failed")), "{told}");
        } else {
            assert!(cell["error"].is_null(), "{name}: {error}");
        }
    }
    let name = "closed-form-3-near-uniform-seed1";
    assert_eq!(outcome(&second, name), outcome(&first, name));
    let row = &second["summary"][1]["rows"][0];
    assert_eq!(row["seeds"], serde_json::json!([1, 2]));
    assert_eq!(row["overall"]["retention"]["spread"], 0.0);
}
