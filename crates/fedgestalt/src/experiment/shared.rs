//! What the cells of one method and seed share: networks, features, the centralised training.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use domain::draw::Draw;
use domain::evaluate::Accuracies;
use serde::{Deserialize, Serialize};

use super::{GridPlan, subfolder};
use crate::cohort_dir::CohortDir;
use crate::consortium::pooled::{Patients, accuracies, baseline};
use crate::consortium::{Order, Photographs, Run, networks};
use crate::context::Context;
use crate::pipeline::ensemble::Blueprint;
use crate::pipeline::features::Variants;
use crate::site::tables::Tables;
use crate::store::Folder;

/// What the cells of one method and seed stand on.
pub(super) struct Ground {
    /// The method's place in the plan.
    pub(super) method: usize,
    /// The seed.
    pub(super) seed: u64,
    /// The patients.
    pub(super) cohort: Arc<CohortDir>,
    /// The method's networks and members.
    pub(super) blueprint: Arc<Blueprint>,
    /// The whole cohort's features.
    pub(super) tables: Arc<Tables>,
}

/// What cells are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Baselines {
    /// One training on everybody's images.
    pub central: Accuracies,
    /// The networks as published.
    pub published: Accuracies,
}

const BASELINES: &str = "baselines.json";

/// Loads the networks and computes the features that are missing: by trunk, and for augmented draws by seed.
pub(super) fn prepare(
    context: &Context,
    plan: &GridPlan,
    folder: &Folder,
    cohort: &Arc<CohortDir>,
) -> Result<Vec<Ground>> {
    let features = folder.subfolder("features")?;
    let blueprints = plan.methods.iter().map(|method| {
        networks(context, &method.config, plan.trunk.as_deref(), cohort)
            .with_context(|| format!("[[methods]] {:?}", method.name))
    });
    let blueprints: Vec<Arc<Blueprint>> = blueprints.collect::<Result<_>>()?;
    let steps: usize = blueprints.iter().map(|blueprint| Tables::steps(&[blueprint], &cohort.cohort)).sum();
    let stage = context.progress.stage("Trunk features", (steps * plan.seeds.len()) as u64);
    let mut grounds = Vec::new();
    for (method, blueprint) in blueprints.into_iter().enumerate() {
        stage.note(plan.methods[method].name.clone());
        for &seed in &plan.seeds {
            let draws = Variants::Draws { count: plan.methods[method].config.training.draws, seed };
            let crops = Photographs(cohort);
            let tick = |images: usize| stage.advance(images as u64);
            let tables = Tables::prepare(&features, &[&blueprint], &cohort.cohort, &crops, draws, &tick)?;
            let (blueprint, cohort) = (blueprint.clone(), cohort.clone());
            grounds.push(Ground { method, seed, cohort, blueprint, tables: Arc::new(tables) });
        }
    }
    stage.finish(format_args!("{} images", cohort.cohort.cases().len()));
    Ok(grounds)
}

/// The training on everybody's images, and the networks as published; and how many seconds they took.
pub(super) fn central(
    context: &Context,
    plan: &GridPlan,
    folder: &Folder,
    ground: &Ground,
) -> Result<(Baselines, f64)> {
    let method = &plan.methods[ground.method];
    let mut config = method.config.clone();
    // Whatever sites and draws the plan has, the training is the same.
    (config.federation.sites, config.federation.draw) = (1, Draw::NearUniform);
    config.training.seed = ground.seed;
    let order = Order {
        out: subfolder(folder, ["central", &format!("{}-seed{}", method.name, ground.seed)])?,
        cohort: plan.cohort.clone(),
        trunk: plan.trunk.clone(),
        config,
        drops: Vec::new(),
    };
    let mut run = Run::open_with(context, &order, ground.cohort.clone(), ground.blueprint.clone())?;
    let baselines = match run.folder.read_json(BASELINES)? {
        Some(kept) => kept,
        None => {
            let baselines = run.phase("central training", |run| {
                let everybody = [Patients { cohort: &ground.cohort.cohort, tables: &ground.tables }];
                let published =
                    accuracies(run.method(), &run.cohort.cohort, &run.blueprint.with(None)?, &everybody)?;
                let central =
                    baseline(run, run.method(), "central", &everybody, &everybody, &|| {})?.accuracies;
                Ok(Baselines { central, published })
            })?;
            run.folder.write_json(BASELINES, &baselines)?;
            baselines
        }
    };
    Ok((baselines, run.phases.seconds().values().sum()))
}
