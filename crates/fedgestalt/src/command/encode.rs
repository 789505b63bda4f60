//! `encode`: photographs to encodings.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::Outcome;
use crate::cohort_dir::CohortDir;
use crate::consortium::Photographs;
use crate::context::Context;
use crate::pipeline::bundle::Loaded;
use crate::pipeline::encodings::EncodingFile;
use crate::pipeline::engines::{Faces, Runs};
use crate::pipeline::features::{Variants, table};
use crate::site::tables::Tables;
use crate::store;

/// Arguments of `encode`.
#[derive(Debug, Args)]
pub struct EncodeArgs {
    /// Cohort in the GMDB layout; `cohort import` makes one
    #[arg(long, value_name = "DIR")]
    pub cohort: PathBuf,
    /// Folder with trained models, as `train` and `federate` write it [default: the networks as published]
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Frozen face network (ONNX) [default: from the configuration, the shipped one]
    #[arg(long, value_name = "FILE")]
    pub trunk: Option<PathBuf>,
    /// File for the encodings (safetensors)
    #[arg(long, value_name = "FILE", default_value = "out/encodings.safetensors")]
    pub out: PathBuf,
}

/// Encodes.
///
/// # Errors
///
/// When cohort, models or trunk cannot be used.
pub fn run(args: EncodeArgs, context: &Context) -> anyhow::Result<Outcome> {
    let cohort = CohortDir::open(&args.cohort)?;
    let photographs = Photographs(&cohort);
    let faces = Faces::of(&cohort, &photographs);
    let (model, trunk) = (args.model.as_deref(), args.trunk.as_deref());
    let loaded = Loaded::open(&context.config, model, trunk, faces, false)?;
    loaded.blueprint.remarks().iter().for_each(|remark| context.output.note(remark));
    if let Some(parent) = args.out.parent() {
        store::make_folder(parent)?;
    }
    // Features are kept beside the encodings: the same command goes on, and another model on the same trunk is quick.
    let features = args.out.with_extension("features");
    store::make_folder(&features)?;
    let images: Vec<_> = cohort.cohort.cases().iter().map(|case| case.image.clone()).collect();
    let networks = loaded.blueprint.networks.len();
    let stage = context.progress.stage("Trunk features", (images.len() * networks) as u64);
    let mut views = Vec::new();
    for network in &loaded.blueprint.networks {
        let tick = |done: usize| stage.advance(done as u64);
        let trunk = network.trunk.as_ref();
        views.push(table(&features, trunk, &images, &photographs, Variants::Views, &tick)?);
    }
    stage.finish("");
    let tables = Tables { draws: Vec::new(), views };
    let encodings = tables.encode(&loaded.ensemble()?, &images)?;
    let file = EncodingFile { model: loaded.name.clone(), encodings };
    file.save(&args.out)?;
    let summary = Summary {
        images: images.len(),
        values: loaded.blueprint.dim(),
        engines: loaded.blueprint.runs(),
        model: loaded.name,
        file: args.out.display().to_string(),
    };
    context.output.result(&summary, |s| {
        format!("{} images encoded to {} values each by {}: {}", s.images, s.values, s.model, s.file)
    })?;
    Ok(Outcome::Done)
}

/// What was written.
#[derive(Debug, Serialize)]
struct Summary {
    images: usize,
    values: usize,
    model: String,
    engines: Vec<Runs>,
    file: String,
}
