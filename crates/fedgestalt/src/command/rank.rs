//! `rank`: syndromes for one face.

mod probes;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::Args;
use domain::cohort::Cohort;
use domain::normalise::Normaliser;
use domain::rank::rank_by;
use domain::{Encoding, ImageId, Normalisation, Pooling, Scoring, SyndromeId};
use serde::Serialize;
use vision::Points;

use crate::Outcome;
use crate::cohort_dir::CohortDir;
use crate::consortium::show::name;
use crate::context::Context;
use crate::faces::{failure, reason};
use crate::output::Table;
use crate::pipeline::encodings::{EncodingFile, gallery};
use probes::{Encoded, Probe};

/// Arguments of `rank`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("probe").required(true).multiple(true).args(["photos", "image"]))]
pub struct RankArgs {
    /// Photographs to ask about, or aligned 112 x 112 faces
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
    /// Face detector (ONNX: YuNet, SCRFD, RetinaFace) for photographs without points [default: from the configuration]
    #[arg(long, value_name = "FILE", requires = "photos")]
    pub detector: Option<PathBuf>,
    /// Refuse photographs with several faces instead of taking the largest central one
    #[arg(long, requires = "photos")]
    pub strict: bool,
    /// Cohort in the GMDB layout whose gallery is compared against
    #[arg(long, value_name = "DIR")]
    pub cohort: PathBuf,
    /// Encodings of the gallery that `encode` wrote, or GestaltMatcher's all_encodings.csv
    #[arg(long, value_name = "FILE", default_value = "out/encodings.safetensors")]
    pub encodings: PathBuf,
    /// Folder with trained models that the encodings were made with [default: the networks as published]
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Frozen face network (ONNX) [default: from the configuration, the shipped one]
    #[arg(long, value_name = "FILE")]
    pub trunk: Option<PathBuf>,
    /// How the similarities to a syndrome's images become one: nearest, or soft:SHARPNESS [default: from the configuration]
    #[arg(long, value_name = "HOW")]
    pub pooling: Option<Pooling>,
    /// How that is normalised: none, or z:STRENGTH [default: from the configuration]
    #[arg(long, value_name = "HOW")]
    pub normalisation: Option<Normalisation>,
    /// Syndromes to show
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub top: u16,
    /// Say where the time goes
    #[arg(long)]
    pub timing: bool,
}

/// Ranks. A photograph that cannot be used does not hold up the others.
///
/// # Errors
///
/// When the gallery or the models cannot be used, or the only probe.
pub fn run(args: RankArgs, context: &Context) -> anyhow::Result<Outcome> {
    let points = points(&args.points, args.photos.len())?;
    let scoring = Scoring {
        pooling: args.pooling.unwrap_or(context.config.kernel.pooling),
        normalisation: args.normalisation.unwrap_or(context.config.kernel.normalisation),
    };
    // The gallery is read while the photographs are encoded.
    let (gallery, encoded) = std::thread::scope(|scope| {
        let gallery = scope.spawn(|| Gallery::open(&args.cohort, &args.encodings, scoring));
        let encoded = (!args.photos.is_empty()).then(|| Encoded::new(&args, points.as_ref(), context));
        let gallery = gallery.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (gallery, encoded)
    });
    let gallery = gallery?;
    let top = usize::from(args.top);
    let mut rankings = Vec::new();
    for image in &args.image {
        let encoding = gallery
            .file
            .encoding(image)
            .with_context(|| format!("cannot use {}", args.encodings.display()))?;
        rankings.push(gallery.ranking(image.to_string(), &encoding, None, top, Seconds::default())?);
    }
    let mut failures = 0;
    if let Some(encoded) = encoded.transpose()? {
        encoded.check(&gallery.file, &args.encodings, context)?;
        for (photo, probe) in args.photos.iter().zip(encoded.probes) {
            let name = photo.display().to_string();
            rankings.push(match probe {
                Ok(Probe { encoding, faces, seconds }) => {
                    gallery.ranking(name, &encoding, faces, top, seconds)?
                }
                Err(error) if args.photos.len() + args.image.len() == 1 => return Err(error.context(name)),
                Err(error) => {
                    failures += 1;
                    Ranking { error: Some(reason(&error)), ..Ranking::of(name) }
                }
            });
        }
    }
    if args.timing {
        let total = context.began.elapsed().as_secs_f64();
        for ranking in &mut rankings {
            if let Some(seconds) = &mut ranking.seconds {
                seconds.total = total;
            }
        }
    } else {
        rankings.iter_mut().for_each(|ranking| ranking.seconds = None);
    }
    context.output.result(&rankings, |rankings| rankings.iter().map(shown).collect::<Vec<_>>().join("\n"))?;
    Ok(if failures == 0 { Outcome::Done } else { Outcome::Unclean })
}

/// What it gives, and the seconds it took.
fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, f64)> {
    let began = Instant::now();
    Ok((work()?, began.elapsed().as_secs_f64()))
}

/// Where the time went, in seconds. Cohort, gallery, detector and model are read once for all probes. Cohort and gallery are
/// read beside all that follows but ranking, the faces are found while the model is loaded, and a network that is loaded runs
/// while others still are.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Seconds {
    /// Reading the cohort's tables.
    cohort: f64,
    /// Reading the encodings.
    gallery: f64,
    /// Loading networks and heads.
    model: f64,
    /// Loading the detector.
    detector: f64,
    decode: f64,
    detect: f64,
    align: f64,
    /// Running the networks.
    trunk: f64,
    neck: f64,
    rank: f64,
    /// From the start of the program to its answer, over all probes.
    total: f64,
}

/// One probe's answer.
#[derive(Debug, Serialize)]
struct Ranking {
    probe: String,
    /// Faces that the detector saw, if there were several: the largest central one was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    faces: Option<usize>,
    /// Why there is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    syndromes: Vec<Place>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<Seconds>,
}

impl Ranking {
    fn of(probe: String) -> Self {
        Self { probe, faces: None, error: None, syndromes: Vec::new(), seconds: None }
    }
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

/// What is compared against.
struct Gallery {
    cohort: Cohort,
    file: EncodingFile,
    /// The images of all galleries of the cohort, sorted, and their syndromes' indexes.
    images: Vec<(ImageId, usize)>,
    scoring: Scoring,
    normaliser: Option<Normaliser>,
    /// Of reading the cohort's tables and the encodings.
    seconds: [f64; 2],
}

impl Gallery {
    fn open(cohort: &Path, encodings: &Path, scoring: Scoring) -> anyhow::Result<Self> {
        let (cohort, of_cohort) = timed(|| Ok(CohortDir::open(cohort)?.cohort))?;
        let ((file, images, normaliser), of_file) = timed(|| {
            let file = EncodingFile::load(encodings)?;
            let images = gallery(&cohort)?;
            let normaliser = file
                .normaliser(scoring, &images)
                .with_context(|| format!("cannot use {}; run `encode` again", encodings.display()))?;
            Ok((file, images, normaliser))
        })?;
        Ok(Self { cohort, file, images, scoring, normaliser, seconds: [of_cohort, of_file] })
    }

    /// Ranks against every gallery image, without the probe itself.
    fn ranking(
        &self,
        probe: String,
        encoding: &Encoding,
        faces: Option<usize>,
        top: usize,
        seconds: Seconds,
    ) -> anyhow::Result<Ranking> {
        let (syndromes, took) = timed(|| {
            let images: Vec<&(ImageId, usize)> =
                self.images.iter().filter(|(image, _)| image.as_str() != probe).collect();
            let rows = images
                .iter()
                .map(|(image, _)| {
                    self.file.get(image).with_context(|| {
                        format!("image {image} of the gallery has no encoding; run `encode` again")
                    })
                })
                .collect::<anyhow::Result<Vec<&[f32]>>>()?;
            let labels: Vec<u32> = images.iter().map(|(_, label)| *label as u32).collect();
            let similarities = encoding.similarities(&rows);
            let near = similarities.iter().copied();
            let scores = self.scoring.scores(self.normaliser.as_ref(), near, &labels);
            let places = rank_by(&scores, &similarities, &labels).into_iter().take(top);
            Ok(places
                .map(|place| {
                    let syndrome = self.cohort.syndromes()[place.label as usize].id.clone();
                    Place {
                        name: name(&self.cohort, &syndrome),
                        syndrome,
                        distance: place.distance,
                        nearest_image: images[place.gallery_index].0.clone(),
                    }
                })
                .collect())
        })?;
        let [cohort, gallery] = self.seconds;
        let seconds = Some(Seconds { cohort, gallery, rank: took, ..seconds });
        Ok(Ranking { faces, syndromes, seconds, ..Ranking::of(probe) })
    }
}

fn shown(ranking: &Ranking) -> String {
    if let Some(error) = &ranking.error {
        return format!("{}\n", failure(Path::new(&ranking.probe), error));
    }
    let mut text = format!("{}\n", ranking.probe);
    if let Some(faces) = ranking.faces {
        text.push_str(&format!("{faces} faces; took the largest central one\n"));
    }
    let mut table = Table::new(["syndrome", "label", "distance", "nearest image"]);
    for place in &ranking.syndromes {
        table.row([
            place.name.clone(),
            place.syndrome.to_string(),
            format!("{:.4}", place.distance),
            place.nearest_image.to_string(),
        ]);
    }
    text.push_str(&table.to_string());
    if let Some(Seconds {
        cohort,
        gallery,
        model,
        detector,
        decode,
        detect,
        align,
        trunk,
        neck,
        rank,
        total,
    }) = &ranking.seconds
    {
        let mut table = Table::new(["step", "seconds"]);
        for (step, seconds) in [
            ("cohort, beside the rest", cohort),
            ("gallery, beside the rest", gallery),
            ("model, beside detector to trunk", model),
            ("detector", detector),
            ("decode", decode),
            ("detect", detect),
            ("align", align),
            ("trunk", trunk),
            ("neck", neck),
            ("rank", rank),
            ("total, with all probes", total),
        ] {
            table.row([step.to_owned(), format!("{seconds:.3}")]);
        }
        text.push_str(&format!("\n{table}"));
    }
    text
}
