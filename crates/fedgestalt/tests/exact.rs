//! The default ensemble as a user sees it: the same for any number of sites and any draw, and that of pooled data.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/program.rs"]
mod program;

use std::fs;

use fedgestalt::config::DemoCohort;
use fedgestalt::simulate;
use program::{Place, SETTINGS, four, read};
use serde_json::Value;

/// The defaults, but for features that are smaller.
const CONFIG: &str = r#"
[[members]]
name = "form"
kind = "closed-form"

[[members]]
name = "lift"
kind = "closed-form"
lift = 160

[[members]]
name = "joint"
kind = "closed-form"
joint = 48
outputs = 16
refine = 3

[federation]
compare_recipe = false
"#;

fn place() -> Place {
    let place = Place::new();
    let size =
        DemoCohort { frequent_syndromes: 5, rare_syndromes: 3, images: 90, difficulty: 0.8, photo_size: 256 };
    simulate::cohort(&place.path("cohort"), &size, 1, &|| {}).unwrap();
    fs::write(place.path("fedgestalt.toml"), CONFIG).unwrap();
    place
}

fn tables(results: &Value, who: &str) -> Vec<[f64; 4]> {
    SETTINGS.iter().map(|setting| four(&results["settings"][setting][who])).collect()
}

#[test]
fn every_number_of_sites_and_every_draw_gives_the_pooled_members_and_rankings() {
    let place = place();
    let mut first: Option<(Vec<u8>, Vec<[f64; 4]>)> = None;
    let grid = [
        (3, "near-uniform"),
        (4, "dirichlet:0.5"),
        (8, "non-overlapping"),
        (16, "near-uniform"),
        (50, "near-uniform"),
    ];
    for (sites, draw) in grid {
        let out = format!("run-{sites}");
        let results =
            place.json(&format!("federate --cohort cohort --sites {sites} --draw {draw} --out {out}"));
        let weights =
            |folder: &str| fs::read(place.path(&format!("{out}/{folder}/heads.safetensors"))).unwrap();
        assert_eq!(weights("model"), weights("baselines/central"), "{sites} sites, {draw}");
        assert_eq!(tables(&results, "federated"), tables(&results, "central"), "{sites} sites, {draw}");
        assert!(results["bytes_up_per_site"]["moments"].as_u64().unwrap() > 0);
        assert!(results["bytes_up_per_site"].get("rounds").is_none(), "there is nothing to average");
        let found = (weights("model"), tables(&results, "federated"));
        match &first {
            Some(first) => assert!(*first == found, "{sites} sites, {draw}"),
            None => first = Some(found),
        }
        assert_ne!(tables(&results, "local"), tables(&results, "central"));
    }
}

#[test]
fn a_site_that_vanishes_from_the_sum_is_left_out_of_it_and_comes_back() {
    let place = place();
    // From the sums, and from steps that refine.
    for (run, drop) in [("a", "1@1"), ("b", "2@1"), ("d", "1@3"), ("e", "2@2")] {
        place.json(&format!("federate --cohort cohort --sites 4 --drop {drop} --out {run}"));
        // Before its upload the site is not in the sum; after it, too, since nobody could open its mask.
        let weights = |of: &str| fs::read(place.path(&format!("{run}/{of}/heads.safetensors"))).unwrap();
        assert!(weights("model") != weights("baselines/central"), "{drop}");
        let attendance = read(&place.path(&format!("{run}/coordinator/accounts.json")));
        assert!(attendance.to_string().contains("false"), "{attendance}");
    }
    let told = place.failure("federate --cohort cohort --sites 4 --drop 1@5 --out c");
    assert!(told.contains("4 rounds"), "{told}");
}

/// With the members of the paper left as they are, the run says what they would have come to.
#[test]
fn the_papers_recipe_stands_beside_it() {
    let place = place();
    let config = CONFIG.replace("compare_recipe = false", "") + "\n[training]\nepochs = 2\ndraws = 2\n";
    fs::write(place.path("fedgestalt.toml"), config).unwrap();
    let results = place.json("federate --cohort cohort --sites 3 --out run");
    place.json("init --recipe recipe");
    let recipe = fs::read_to_string(place.path("recipe/fedgestalt.toml")).unwrap();
    let recipe = recipe.replace("epochs = 50", "epochs = 2").replace("draws = 8", "draws = 2");
    fs::write(place.path("recipe.toml"), recipe).unwrap();
    let central = place.json("--config recipe.toml train --central --cohort cohort --out central");
    let wanted: Vec<[f64; 4]> =
        SETTINGS.iter().map(|key| four(&central["models"]["central"]["settings"][key])).collect();
    assert_eq!(tables(&results, "recipe"), wanted);
    let page = fs::read_to_string(place.path("run/report.html")).unwrap();
    assert!(page.contains("The paper&#39;s recipe") || page.contains("The paper's recipe"));
    // It is a model like any other.
    place.json("encode --cohort cohort --model run/baselines/recipe --out recipe.safetensors");
    let again = place.json(
        "evaluate --pooling nearest --normalisation none --cohort cohort --encodings recipe.safetensors",
    );
    let again: Vec<[f64; 4]> = SETTINGS.iter().map(|key| four(&again["settings"][key])).collect();
    assert_eq!(again, wanted);
    // Ranked as the federation ranks, which is what its members are compared by.
    let alike = place.json("evaluate --cohort cohort --encodings recipe.safetensors");
    let alike: Vec<[f64; 4]> = SETTINGS.iter().map(|key| four(&alike["settings"][key])).collect();
    assert_eq!(tables(&results, "recipe_ranked_alike"), alike);
    assert_ne!(alike, wanted);
    assert!(page.contains("ranked alike"));
}
