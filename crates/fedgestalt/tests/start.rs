//! Tuned members that start from a closed form, and members that count as their sums say, as a user sees them.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/program.rs"]
mod program;

use std::fs;

use fedgestalt::config::DemoCohort;
use fedgestalt::pipeline::weights::{self, Weights};
use fedgestalt::simulate;
use program::{Place, SETTINGS, four, read};
use serde_json::Value;

const CONFIG: &str = r#"
[[members]]
name = "r50"
kind = "tuned"
start = "closed-form"
neck_lr = 0.0
classifier_lr = 0.0

[[members]]
name = "form"
kind = "closed-form"

[training]
epochs = 1
interval = 1
draws = 1

[federation]
statistics = "pooled"
compare_recipe = false

[kernel]
weights = "fitted"
"#;

fn place() -> Place {
    let place = Place::new();
    let size = DemoCohort {
        frequent_syndromes: 5,
        rare_syndromes: 3,
        images: 300,
        difficulty: 0.8,
        photo_size: 256,
    };
    simulate::cohort(&place.path("cohort"), &size, 1, &|| {}).unwrap();
    fs::write(place.path("fedgestalt.toml"), CONFIG).unwrap();
    place
}

fn model(place: &Place, folder: &str) -> Weights {
    weights::load(&place.path(&format!("{folder}/heads.safetensors"))).unwrap()
}

fn tensor<'a>(weights: &'a Weights, name: &str) -> &'a [f32] {
    weights.heads[0].tensors().into_iter().find(|tensor| tensor.name == name).unwrap().values
}

fn tables(results: &Value, who: &str) -> Vec<[f64; 4]> {
    SETTINGS.iter().map(|setting| four(&results["settings"][setting][who])).collect()
}

/// At learning rates of zero a session ends with what it started from.
#[test]
fn members_start_from_the_closed_form_of_all_images_whatever_the_draw() {
    let place = place();
    let started =
        ["neck.weight", "neck.bias", "bn.weight", "bn.bias", "classifier.weight", "classifier.bias"];
    for (sites, draw) in [(3, "near-uniform"), (5, "non-overlapping")] {
        let out = format!("run-{sites}");
        let results =
            place.json(&format!("federate --cohort cohort --sites {sites} --draw {draw} --out {out}"));
        let federated = model(&place, &format!("{out}/model"));
        let central = model(&place, &format!("{out}/baselines/central"));
        for name in started {
            assert_eq!(tensor(&federated, name), tensor(&central, name), "{sites} sites, {draw}: {name}");
        }
        assert!(results["bytes_up_per_site"]["rounds"].as_u64().unwrap() > 0);
    }
    // Not where the network was published: distances to means have negative biases, and BatchNorm adds nothing.
    let start = model(&place, "run-3/model");
    assert!(tensor(&start, "classifier.bias").iter().all(|&bias| bias < 0.0));
    assert!(tensor(&start, "bn.bias").iter().all(|&bias| bias == 0.0));
}

#[test]
fn members_count_as_the_validation_images_of_all_sites_say_and_that_goes_with_the_model() {
    let place = place();
    let results = place.json("federate --cohort cohort --sites 3 --out run");
    for folder in ["run/model", "run/baselines/central"] {
        let weights = model(&place, folder).members;
        assert!(weights.len() == 2 && (weights.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{weights:?}");
        assert!(weights[0] != weights[1] && weights.iter().all(|&weight| weight >= 0.0), "{weights:?}");
        let told: Vec<f32> =
            serde_json::from_value(read(&place.path(&format!("{folder}/model.json")))["weights"].clone())
                .unwrap();
        assert_eq!(told, weights);
    }
    // Encodings elsewhere are those that the run itself was measured with.
    place.json("encode --cohort cohort --model run/baselines/central --out central.safetensors");
    let again = place.json("evaluate --cohort cohort --encodings central.safetensors");
    let again: Vec<[f64; 4]> = SETTINGS.iter().map(|key| four(&again["settings"][key])).collect();
    assert_eq!(again, tables(&results, "central"));
    let told = place.failure("encode --cohort cohort --model run/model --out run.csv");
    assert!(told.contains("count differently"), "{told}");
}

#[test]
fn a_site_that_vanishes_from_the_start_or_the_weights_is_left_out_and_comes_back() {
    let place = place();
    // Stage 1 is the start, 2 the round, 3 the closed forms, 4 the weights.
    place.json("federate --cohort cohort --sites 5 --drop 1@1 --drop 2@4 --out run");
    let attendance = read(&place.path("run/coordinator/accounts.json"));
    assert!(attendance.to_string().contains("false"), "{attendance}");
    let (federated, central) = (model(&place, "run/model"), model(&place, "run/baselines/central"));
    assert_ne!(tensor(&federated, "classifier.weight"), tensor(&central, "classifier.weight"));
    assert_eq!(federated.forms, central.forms, "everybody was back for the closed forms");
    assert_eq!(federated.members.len(), 2);
    let told = place.failure("federate --cohort cohort --sites 4 --drop 1@5 --out none");
    assert!(told.contains("4 rounds"), "{told}");
}
