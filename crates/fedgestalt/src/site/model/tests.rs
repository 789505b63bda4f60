//! What becomes of running statistics over the sites.
#![allow(clippy::unwrap_used)]

use federation::{MemberPlan, Tuning};
use learn::{Example, MemoryFeatures};

use super::*;

const DIM: usize = 3;
/// Images of three sites that have no syndrome in common.
const SITES: [usize; 3] = [90, 150, 240];

fn plan(statistics: Statistics) -> Plan {
    let recipe = Recipe { batch: 512, neck_lr: 0.0, classifier_lr: 0.0, ..Recipe::r50() };
    Plan {
        session: [1; 16],
        seed: 1,
        roster: [2; 32],
        members: vec![MemberPlan {
            name: "r50".to_owned(),
            recipe: recipe_plan(&recipe),
            trunk: [3; 32],
            tensors: tensor_specs(&StartingNeck::Identity(DIM), statistics),
        }],
        forms: Vec::new(),
        starts: Vec::new(),
        epochs: 100,
        interval: 100,
        aggregation: Aggregation::SampleWeighted,
        tuning: Tuning { statistics, ..Tuning::default() },
        rows: Rows::All,
        blind: true,
        min_cohort: 0,
        kernel: None,
    }
}

fn model(statistics: Statistics) -> SiteModel {
    let plan = plan(statistics);
    let base = vec![Head::identity(DIM, SITES.len(), 1).unwrap()];
    let server = Server::new(&plan.tuning.server, &base, &[&plan.members[0].tensors]);
    let mut model = SiteModel {
        plan,
        shared_rows: vec![true; SITES.len()],
        weights: vec![1.0; SITES.len()],
        base: Vec::new(),
        trainers: Vec::new(),
        server,
        forms: Vec::new(),
        member_weights: Vec::new(),
    };
    model.restart(base).unwrap();
    model
}

/// Images of a site: about a middle of its own, with a spread of its own.
fn images(site: usize) -> Vec<f32> {
    let noise = |at: usize| ((at as f64 * 12.9898 + site as f64).sin() * 43758.5453).fract() as f32;
    let middle = [3.0, -1.0, 0.2];
    (0..SITES[site] * DIM)
        .map(|at| middle[at % DIM] * site as f32 + (1.0 + 0.3 * site as f32) * noise(at))
        .collect()
}

/// Running statistics after a round in which every site saw its images often: by member's tensor, all sites averaged as the
/// protocol averages them.
fn after_a_round(statistics: Statistics) -> SiteModel {
    let total = SITES.iter().sum::<usize>() as f64;
    let mut average: Vec<Vec<f64>> = Vec::new();
    for (site, &count) in SITES.iter().enumerate() {
        let features = MemoryFeatures::new(DIM, 1, images(site)).unwrap();
        let examples: Vec<Example> = (0..count).map(|row| Example { row, label: site as u32 }).collect();
        let pool = Pool { draws: &features, views: &features, training: &examples, validation: &[] };
        let trained = model(statistics).train(0..100, 1.0, &[pool], &|| {}).unwrap();
        let deltas = &trained.deltas[0];
        average.resize(deltas.len(), Vec::new());
        for (sum, delta) in average.iter_mut().zip(deltas) {
            sum.resize(delta.len(), 0.0);
            sum.iter_mut().zip(delta).for_each(|(sum, x)| *sum += f64::from(*x) * count as f64 / total);
        }
    }
    let average: Vec<Vec<f32>> =
        average.into_iter().map(|tensor| tensor.into_iter().map(|x| x as f32).collect()).collect();
    let mut model = model(statistics);
    model.apply(&[average]).unwrap();
    model
}

#[test]
fn pooled_statistics_are_those_of_all_images_and_averaged_ones_are_not() {
    let all: Vec<f32> = (0..SITES.len()).flat_map(images).collect();
    let column = |j: usize| all.iter().skip(j).step_by(DIM).map(|&x| f64::from(x));
    let count = (all.len() / DIM) as f64;
    for statistics in [Statistics::Pooled, Statistics::Averaged] {
        let model = after_a_round(statistics);
        let head = model.heads()[0].tensors();
        for j in 0..DIM {
            let mean = column(j).sum::<f64>() / count;
            let variance = column(j).map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
            assert!((f64::from(head[MEAN].values[j]) - mean).abs() < 1e-3 * variance.sqrt());
            // Training keeps unbiased variances: 90 / 89 at the smallest site.
            let off = (f64::from(head[VARIANCE].values[j]) / variance - 1.0).abs();
            match statistics {
                Statistics::Pooled => assert!(off < 0.012, "value {j}: off by {off}"),
                Statistics::Averaged if j < 2 => assert!(off > 0.3, "value {j}: off by {off}"),
                // The middles hardly differ along the last value.
                Statistics::Averaged => assert!(off > 0.012, "value {j}: off by {off}"),
            }
        }
    }
}

#[test]
fn a_site_that_lies_about_its_second_moment_makes_no_negative_variance() {
    let mut model = model(Statistics::Pooled);
    let mut deltas: Vec<Vec<f32>> =
        model.heads()[0].tensors().iter().map(|tensor| vec![0.0; tensor.values.len()]).collect();
    deltas[VARIANCE] = vec![-7.0, 0.5, 0.0];
    model.apply(&[deltas]).unwrap();
    assert_eq!(model.heads()[0].tensors()[VARIANCE].values, [0.0, 1.5, 1.0]);
}
