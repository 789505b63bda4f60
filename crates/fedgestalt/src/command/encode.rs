//! `encode`: photographs to encodings.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use domain::{ImageId, Normalisation, Scoring};
use serde::Serialize;
use sha2::{Digest, Sha256};
use vision::Crop;

use crate::Outcome as Done;
use crate::cohort_dir::{CohortDir, aligned_crop};
use crate::context::Context;
use crate::faces::{FaceFinder, Job, Outcome, Place, batch, failure};
use crate::pipeline::bundle::Loaded;
use crate::pipeline::encodings::{EncodingFile, Format, GallerySpreads, gallery, layout};
use crate::pipeline::engines::{CalibrationFaces, Runs};
use crate::pipeline::features::{Crops, Variants, table};
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
    /// Face detector (ONNX: YuNet, SCRFD, RetinaFace) for photographs without points [default: from the configuration]
    #[arg(long, value_name = "FILE")]
    pub detector: Option<PathBuf>,
    /// Leave out photographs with several faces instead of taking the largest central one
    #[arg(long)]
    pub strict: bool,
    /// File for the encodings: .safetensors, .csv (GestaltMatcher's all_encodings.csv) or .npz (NumPy)
    #[arg(long, value_name = "FILE", default_value = "out/encodings.safetensors")]
    pub out: PathBuf,
    /// Its format [default: as its name says]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
}

/// Encodes. Images whose face cannot be had are left out, and told of.
///
/// # Errors
///
/// When cohort, models, detector or trunk cannot be used, or no image has a face.
pub fn run(args: EncodeArgs, context: &Context) -> anyhow::Result<Done> {
    let format = args.format.map_or_else(|| Format::of(&args.out), Ok)?;
    let cohort = CohortDir::open(&args.cohort)?;
    let images = cohort.cohort.cases().len();
    let faces = FaceFinder::open(&context.config, args.detector.as_deref(), args.strict, images)?;
    faces.note().into_iter().for_each(|note| context.output.note(note));
    let cohort = cohort.with_faces(faces);
    if let Some(parent) = args.out.parent() {
        store::make_folder(parent)?;
    }
    // Features are kept beside the encodings: the same command goes on, and another model on the same trunk is quick.
    let features = args.out.with_extension("features");
    store::make_folder(&features)?;
    let aligned = align(&cohort, &features, context)?;
    let images: Vec<ImageId> = aligned.files.iter().map(|(image, _)| image.clone()).collect();
    if let (true, Some(first)) = (images.is_empty(), aligned.left_out.first()) {
        bail!(
            "no image of {} has a face; the first: {}",
            args.cohort.display(),
            failure(&first.file, &first.reason)
        );
    }
    let crops = Files(aligned.files.into_iter().collect());
    let calibration = CalibrationFaces { crops: &crops, images: images.clone() };
    let (model, trunk) = (args.model.as_deref(), args.trunk.as_deref());
    let Loaded { blueprint, weights, name } = Loaded::open(&context.config, model, trunk, Some(calibration))?;
    blueprint.remarks().iter().for_each(|remark| context.output.note(remark));
    let weighed = weights.as_ref().is_some_and(|weights| !weights.members.is_empty());
    if weighed && format == Format::Csv {
        bail!(
            "the members of this model count differently, which a table of their representations cannot say; \
             write .safetensors or .npz"
        );
    }
    let networks = blueprint.networks.len();
    let stage = context.progress.stage("Trunk features", (images.len() * networks) as u64);
    let mut views = Vec::new();
    for network in &blueprint.networks {
        let tick = |done: usize| stage.advance(done as u64);
        let trunk = network.trunk.as_ref();
        views.push(table(&features, trunk, &images, &crops, Variants::Views, &tick)?);
    }
    stage.finish("");
    let tables = Tables { draws: Vec::new(), views };
    let encodings = tables.encode(&blueprint.with(weights)?, &images)?;
    let mut file = EncodingFile::new(Some(name.clone()), layout(&blueprint), &encodings)?;
    let Scoring { pooling, normalisation } = context.config.kernel.scoring();
    if normalisation != Normalisation::None && aligned.left_out.is_empty() {
        file.spreads = Some(GallerySpreads::new(pooling, &file, &gallery(&cohort.cohort)?)?);
    }
    file.save(&args.out, format)?;
    let summary = Summary {
        images: images.len(),
        values: blueprint.dim(),
        engines: blueprint.runs(),
        model: name,
        file: args.out.display().to_string(),
        several_faces: cohort
            .several_faces()
            .into_iter()
            .map(|(image, faces)| Several { image, faces })
            .collect(),
        left_out: aligned.left_out,
    };
    context.output.result(&summary, shown)?;
    Ok(if summary.left_out.is_empty() { Done::Done } else { Done::Unclean })
}

/// What was written.
#[derive(Debug, Serialize)]
struct Summary {
    images: usize,
    values: usize,
    model: String,
    engines: Vec<Runs>,
    file: String,
    several_faces: Vec<Several>,
    left_out: Vec<LeftOut>,
}

/// A photograph with several faces, of which the largest central one was taken.
#[derive(Debug, Serialize)]
struct Several {
    image: ImageId,
    faces: usize,
}

/// An image without an encoding.
#[derive(Debug, Serialize)]
struct LeftOut {
    image: ImageId,
    file: PathBuf,
    reason: String,
}

struct Aligned {
    /// The aligned face of every image that has one.
    files: Vec<(ImageId, PathBuf)>,
    left_out: Vec<LeftOut>,
}

/// One image: its aligned face if the cohort has it, else a crop kept beside the features.
struct Image<'a> {
    image: &'a ImageId,
    cohort: &'a CohortDir,
    out: PathBuf,
}

impl Job for Image<'_> {
    fn out(&self) -> &Path {
        &self.out
    }

    fn face(&self) -> anyhow::Result<(Crop, Place)> {
        Ok((self.cohort.crop(self.image)?, Place::Aligned))
    }
}

/// Sees to it that every image has an aligned face in a file.
fn align(cohort: &CohortDir, features: &Path, context: &Context) -> anyhow::Result<Aligned> {
    // Other points or another detector make other crops.
    let key = format!("{:?} {:?}", cohort.faces().key(), cohort.points);
    let folder = features.join(format!("faces-{}", hex::encode(&Sha256::digest(key)[..8])));
    let cases = cohort.cohort.cases();
    let jobs: Vec<Image<'_>> = cases
        .iter()
        .map(|case| {
            let kept = || folder.join(format!("{}_aligned.png", case.image));
            let out = cohort.images.aligned(&case.image).map_or_else(kept, Path::to_owned);
            Image { image: &case.image, cohort, out }
        })
        .collect();
    if jobs.iter().any(|job| job.out.starts_with(&folder)) {
        store::make_folder(&folder)?;
    }
    let stage = context.progress.stage("Faces", jobs.len() as u64);
    let outcomes = batch(&jobs, &stage)?;
    let mut aligned = Aligned { files: Vec::new(), left_out: Vec::new() };
    for (job, outcome) in jobs.into_iter().zip(outcomes) {
        let image = job.image.clone();
        match outcome {
            Outcome::Failed(reason) => {
                let file = cohort.images.aligned(&image).or(cohort.images.photograph(&image));
                let file = file.map_or_else(PathBuf::new, Path::to_owned);
                aligned.left_out.push(LeftOut { image, file, reason });
            }
            Outcome::Kept | Outcome::Made(_) => aligned.files.push((image, job.out)),
        }
    }
    stage.finish(format_args!("{} images, {} left out", aligned.files.len(), aligned.left_out.len()));
    Ok(aligned)
}

/// Aligned faces in files.
struct Files(HashMap<ImageId, PathBuf>);

impl Crops for Files {
    fn crop(&self, image: &ImageId) -> anyhow::Result<Crop> {
        aligned_crop(self.0.get(image).with_context(|| format!("image {image} has no aligned face"))?)
    }
}

fn shown(summary: &Summary) -> String {
    let mut text = format!(
        "{} images encoded to {} values each by {}: {}\n",
        summary.images, summary.values, summary.model, summary.file
    );
    for Several { image, faces } in &summary.several_faces {
        text.push_str(&format!("image {image}: {faces} faces; took the largest central one\n"));
    }
    if !summary.left_out.is_empty() {
        text.push_str(&format!("{} left out:\n", summary.left_out.len()));
        for LeftOut { file, reason, .. } in &summary.left_out {
            text.push_str(&format!("  {}\n", failure(file, reason)));
        }
    }
    text
}
