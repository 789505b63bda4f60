//! `rank`: syndromes for one face.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;
use domain::cohort::Part;
use domain::rank::rank;
use domain::{Encoding, ImageId, SyndromeId};
use serde::Serialize;
use vision::{CROP_SIDE, Crop, Points};

use crate::Outcome;
use crate::cohort_dir::CohortDir;
use crate::consortium::Photographs;
use crate::consortium::show::name;
use crate::context::Context;
use crate::output::Table;
use crate::pipeline::bundle::Loaded;
use crate::pipeline::encodings::EncodingFile;
use crate::pipeline::engines::Faces;
use crate::pipeline::ensemble::Ensemble;

/// Arguments of `rank`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("probe").required(true).multiple(true).args(["photos", "image"]))]
pub struct RankArgs {
    /// Photographs to ask about: aligned 112 x 112 faces, or photographs with --points
    #[arg(value_name = "PHOTO")]
    pub photos: Vec<PathBuf>,
    /// Image of the cohort to ask about; may be given again
    #[arg(long, value_name = "ID")]
    pub image: Vec<ImageId>,
    /// Five facial points of the photograph: x0,y0,...,x4,y4 (left eye, right eye, nose tip, left and right mouth corner, as seen in the picture)
    #[arg(
        long,
        value_name = "X0,Y0,...",
        value_delimiter = ',',
        allow_hyphen_values = true,
        num_args = 1,
        requires = "photos"
    )]
    pub points: Vec<f32>,
    /// Cohort in the GMDB layout whose gallery is compared against
    #[arg(long, value_name = "DIR")]
    pub cohort: PathBuf,
    /// Encodings of the gallery that `encode` wrote
    #[arg(long, value_name = "FILE", default_value = "out/encodings.safetensors")]
    pub encodings: PathBuf,
    /// Folder with trained models that the encodings were made with [default: the networks as published]
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Frozen face network (ONNX) [default: from the configuration, the shipped one]
    #[arg(long, value_name = "FILE")]
    pub trunk: Option<PathBuf>,
    /// Syndromes to show
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub top: u16,
}

/// Ranks.
///
/// # Errors
///
/// When a photograph, the gallery or the models cannot be used.
pub fn run(args: RankArgs, context: &Context) -> anyhow::Result<Outcome> {
    let cohort = CohortDir::open(&args.cohort)?;
    let file = EncodingFile::load(&args.encodings)?;
    let mut probes: Vec<(String, Encoding)> = Vec::new();
    for image in &args.image {
        let encoding = file
            .encodings
            .get(image)
            .with_context(|| format!("{} has no encoding of image {image}", args.encodings.display()))?;
        probes.push((image.to_string(), encoding.clone()));
    }
    if !args.photos.is_empty() {
        let photographs = Photographs(&cohort);
        let faces = Faces::of(&cohort, &photographs);
        let (model, trunk) = (args.model.as_deref(), args.trunk.as_deref());
        let loaded = Loaded::open(&context.config, model, trunk, faces, true)?;
        loaded.blueprint.remarks().iter().for_each(|remark| context.output.note(remark));
        ensure!(
            loaded.name == file.model,
            "{} was made by {} but the model at hand is {}; give the same --model and --trunk as to `encode`",
            args.encodings.display(),
            file.model,
            loaded.name
        );
        let points = points(&args.points, args.photos.len())?;
        for photo in &args.photos {
            let encoding = encode(&loaded, &loaded.ensemble()?, photo, points.as_ref())
                .with_context(|| photo.display().to_string())?;
            probes.push((photo.display().to_string(), encoding));
        }
    }
    let rankings: Vec<Ranking> = probes
        .into_iter()
        .map(|(probe, encoding)| ranking(&cohort, &file, probe, &encoding, usize::from(args.top)))
        .collect::<anyhow::Result<_>>()?;
    context.output.result(&rankings, |rankings| rankings.iter().map(shown).collect::<Vec<_>>().join("\n"))?;
    Ok(Outcome::Done)
}

/// One probe's answer.
#[derive(Debug, Serialize)]
struct Ranking {
    probe: String,
    syndromes: Vec<Place>,
}

/// One place in it.
#[derive(Debug, Serialize)]
struct Place {
    syndrome: SyndromeId,
    name: String,
    distance: f32,
    nearest_image: ImageId,
}

fn points(values: &[f32], photos: usize) -> anyhow::Result<Option<Points>> {
    if values.is_empty() {
        return Ok(None);
    }
    ensure!(values.len() == 10, "--points needs 10 numbers (x and y of five points), not {}", values.len());
    ensure!(photos == 1, "--points belongs to one photograph; {photos} are given");
    Ok(Some(Points(std::array::from_fn(|at| [values[2 * at], values[2 * at + 1]]))))
}

/// A photograph's encoding: decode, align, views, trunk, members.
fn encode(
    loaded: &Loaded,
    ensemble: &Ensemble<'_>,
    file: &Path,
    points: Option<&Points>,
) -> anyhow::Result<Encoding> {
    let bytes = std::fs::read(file).context("cannot read it")?;
    let photo = vision::decode::decode(&bytes, &vision::decode::Limits::default())?;
    let crop = match points {
        Some(points) => vision::align::align(&photo, points)?,
        None => {
            ensure!(
                photo.width() == photo.height() && photo.width() as usize == CROP_SIDE,
                "it is {} x {} pixels and not an aligned face of {CROP_SIDE} x {CROP_SIDE}; give its five facial points \
                 with --points",
                photo.width(),
                photo.height()
            );
            Crop::from_photo(&photo)?
        }
    };
    let views = vision::views::views(&crop);
    let features = loaded
        .blueprint
        .networks
        .iter()
        .map(|network| {
            let mut out = vec![0.0; views.len() * network.trunk.output_len()];
            network.trunk.features(&views, &mut out)?;
            Ok(out)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    ensemble.encode(&features, 1)?.into_iter().next().context("the networks gave no encoding")
}

/// Ranks against every gallery image of the cohort, without the probe itself.
fn ranking(
    cohort: &CohortDir,
    file: &EncodingFile,
    probe: String,
    encoding: &Encoding,
    top: usize,
) -> anyhow::Result<Ranking> {
    let mut images: Vec<&ImageId> = cohort
        .cohort
        .parts()
        .filter(|(part, _)| matches!(part, Part::FrequentGallery | Part::RareGallery(_)))
        .flat_map(|(_, images)| images)
        .filter(|image| image.as_str() != probe)
        .collect();
    images.sort();
    images.dedup();
    let mut similarities = Vec::with_capacity(images.len());
    let mut labels = Vec::with_capacity(images.len());
    for image in &images {
        let other = file
            .encodings
            .get(image)
            .with_context(|| format!("image {image} of the gallery has no encoding; run `encode` again"))?;
        ensure!(
            other.as_slice().len() == encoding.as_slice().len(),
            "the gallery's encodings have {} values and the probe's {}",
            other.as_slice().len(),
            encoding.as_slice().len()
        );
        similarities.push(encoding.similarity(other));
        let case =
            cohort.cohort.case(image).with_context(|| format!("image {image} is not in the cohort"))?;
        labels.push(cohort.cohort.syndrome_index(&case.syndrome).context("a case without a syndrome")?);
    }
    let syndromes = rank(&similarities, &labels)
        .into_iter()
        .take(top)
        .map(|place| {
            let syndrome = cohort.cohort.syndromes()[place.label].id.clone();
            Place {
                name: name(&cohort.cohort, &syndrome),
                syndrome,
                distance: place.distance,
                nearest_image: images[place.gallery_index].clone(),
            }
        })
        .collect();
    Ok(Ranking { probe, syndromes })
}

fn shown(ranking: &Ranking) -> String {
    let mut table = Table::new(["syndrome", "label", "distance", "nearest image"]);
    for place in &ranking.syndromes {
        table.row([
            place.name.clone(),
            place.syndrome.to_string(),
            format!("{:.4}", place.distance),
            place.nearest_image.to_string(),
        ]);
    }
    format!("{}\n{table}", ranking.probe)
}
