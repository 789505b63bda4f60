//! `align`: photographs to aligned faces and a table of their points.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, ensure};
use clap::Args;
use rayon::prelude::*;
use serde::Serialize;
use vision::Crop;

use crate::Outcome as Done;
use crate::cohort_dir::{FACE_COORDS_FILE, Face, PointsTable, aligned_crop, is_picture, photograph_crop};
use crate::context::Context;
use crate::faces::{FaceFinder, Job, Outcome, Place, batch, failure};
use crate::store::{Folder, atomic, make_folder, write_cache};

/// Quality of the crops' JPEG files, that of OpenCV and so of FaceCropper.
const QUALITY: u8 = 95;
/// The file that notes on which photographs several faces were seen, so that later runs say it too.
const SEVERAL_FILE: &str = "several_faces.csv";
/// Photographs after which the table of points is written: what a killed process does again.
const WAVE: usize = 64;

/// Arguments of `align`.
#[derive(Debug, Args)]
#[command(
    long_about = "Cut the faces out of photographs: find the face and its five points, align it to 112 x 112.\n\n\
    A photograph DIR/a/b.png becomes OUT/a/b_aligned.jpg, so that OUT can be imported like DIR. Its points are noted in \
    OUT/face_coords.csv (that of GestaltEngine-FaceCropper: whose align_pipe.py reads this file, as `align --points` \
    and `cohort import --points` read FaceCropper's). Crops that are there already are kept.\n\n\
    Exit status 1 if a photograph gave no crop; the others are done nevertheless."
)]
pub struct AlignArgs {
    /// Photographs, or folders with photographs at any depth
    #[arg(value_name = "DIR|PHOTO", required = true)]
    pub photos: Vec<PathBuf>,
    /// Folder for the crops and face_coords.csv
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Face detector (ONNX: YuNet, SCRFD, RetinaFace) [default: from the configuration]
    #[arg(long, value_name = "FILE")]
    pub detector: Option<PathBuf>,
    /// Points that are known: a face_coords.csv or points.csv by the photographs' names; the others are detected
    #[arg(long, value_name = "FILE")]
    pub points: Option<PathBuf>,
    /// Refuse photographs with several faces instead of taking the largest central one
    #[arg(long)]
    pub strict: bool,
    /// Write crops as PNG, which loses nothing, instead of JPEG
    #[arg(long)]
    pub png: bool,
    /// Make crops anew that are there already
    #[arg(long)]
    pub force: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Summary {
    out: PathBuf,
    /// `face_coords.csv`.
    coords: PathBuf,
    detector: Option<Detector>,
    photographs: usize,
    /// Crops made by this run.
    made: usize,
    /// Crops that were there.
    kept: usize,
    /// Photographs on which the detector saw several faces; the largest central one was taken.
    several_faces: Vec<Several>,
    failed: Vec<Failed>,
}

#[derive(Debug, Serialize)]
struct Detector {
    file: PathBuf,
    kind: String,
    sha256: String,
}

#[derive(Debug, Serialize)]
struct Several {
    file: PathBuf,
    faces: usize,
}

#[derive(Debug, Serialize)]
struct Failed {
    file: PathBuf,
    reason: String,
}

/// Aligns.
///
/// # Errors
///
/// When the photographs cannot be listed, the detector or the points cannot be read, or OUT cannot be written.
pub fn run(args: AlignArgs, context: &Context) -> anyhow::Result<Done> {
    let given = match &args.points {
        Some(file) => {
            let bytes = atomic::read(file)?
                .with_context(|| format!("the points file {} is not there", file.display()))?;
            PointsTable::parse(&file.display().to_string(), &bytes)?
        }
        None => PointsTable::default(),
    };
    let folder = Folder::open(&args.out)?;
    let mut failed = Vec::new();
    let photographs = list(&args.photos, &args.out, &mut failed)?;
    ensure!(
        !photographs.is_empty() || !failed.is_empty(),
        "there are no photographs in {}",
        args.photos[0].display()
    );
    let faces = FaceFinder::open(&context.config, args.detector.as_deref(), args.strict, photographs.len())?;
    faces.note().into_iter().for_each(|note| context.output.note(note));
    let coords = folder.path().join(FACE_COORDS_FILE);
    let mut table = PointsTable::read_if_there(&coords)?;

    // A file of its own: FaceCropper takes the last ten columns of face_coords.csv for the points.
    let several_file = folder.path().join(SEVERAL_FILE);
    let mut several = read_several(&several_file)?;

    let extension = if args.png { "png" } else { "jpg" };
    let mut jobs = Vec::with_capacity(photographs.len());
    for (name, file) in &photographs {
        let out = folder.path().join(format!("{name}_aligned.{extension}"));
        if let Some(parent) = out.parent() {
            make_folder(parent)?;
        }
        let given = given.named(name);
        jobs.push(Align { file, given, faces: &faces, out, force: args.force, crop: OnceLock::new() });
    }

    let stage = context.progress.stage("Align", photographs.len() as u64);
    let (mut made, mut kept, mut several_faces) = (0, 0, Vec::new());
    for (wave, names) in jobs.chunks(WAVE).zip(photographs.keys().collect::<Vec<_>>().chunks(WAVE)) {
        let outcomes = batch(wave, &stage)?;
        for ((job, name), outcome) in wave.iter().zip(names).zip(outcomes) {
            let file = job.file.to_owned();
            match outcome {
                Outcome::Kept => {
                    kept += 1;
                    if let Some(&faces) = several.get(*name) {
                        several_faces.push(Several { file, faces });
                    }
                }
                Outcome::Failed(reason) => failed.push(Failed { file, reason }),
                Outcome::Made(place) => {
                    made += 1;
                    several.remove(*name);
                    if place.others() > 0 {
                        several.insert((*name).clone(), place.others() + 1);
                        several_faces.push(Several { file, faces: place.others() + 1 });
                    }
                    if let Some(&points) = place.points() {
                        let bbox = match place {
                            Place::Found(found) => Some(found.face.bbox),
                            _ => job.given.and_then(|face| face.bbox),
                        };
                        table.insert((*name).clone(), Face { points, bbox });
                    }
                }
            }
        }
        write_several(&several_file, &several)?;
        // Points before crops: a crop that is there is never without its points.
        write_cache(&coords, table.write_face_coords().as_bytes())?;
        wave.par_iter().try_for_each(Align::save)?;
    }
    stage.finish(format_args!("{} crops, {} photographs without", made + kept, failed.len()));
    failed.sort_by(|a, b| a.file.cmp(&b.file));
    let summary = Summary {
        out: args.out,
        coords,
        detector: faces.detector().map(|(file, detector)| Detector {
            file: file.to_owned(),
            kind: detector.kind().to_string(),
            sha256: hex::encode(detector.digest()),
        }),
        photographs: photographs.len(),
        made,
        kept,
        several_faces,
        failed,
    };
    context.output.result(&summary, shown)?;
    Ok(if summary.failed.is_empty() { Done::Done } else { Done::Unclean })
}

/// The photographs with several faces by their names, and how many each has; none if the file is not there.
fn read_several(file: &Path) -> anyhow::Result<BTreeMap<String, usize>> {
    let bytes = atomic::read(file)?.unwrap_or_default();
    let mut reader = csv::ReaderBuilder::new().from_reader(bytes.as_slice());
    reader.deserialize().collect::<Result<_, _>>().with_context(|| {
        format!("{} is damaged; remove it, or make the crops anew with --force", file.display())
    })
}

fn write_several(file: &Path, several: &BTreeMap<String, usize>) -> anyhow::Result<()> {
    if several.is_empty() && !file.exists() {
        return Ok(());
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["img", "faces"])?;
    several.iter().try_for_each(|row| writer.serialize(row))?;
    Ok(write_cache(file, &writer.into_inner()?)?)
}

/// One photograph.
struct Align<'a> {
    file: &'a Path,
    given: Option<&'a Face>,
    faces: &'a FaceFinder,
    out: PathBuf,
    force: bool,
    /// The crop between its making and its saving.
    crop: OnceLock<Crop>,
}

impl Align<'_> {
    fn save(&self) -> anyhow::Result<()> {
        let Some(crop) = self.crop.get() else { return Ok(()) };
        let png = self.out.extension().is_some_and(|extension| extension == "png");
        let bytes = if png { crop.to_png()? } else { crop.to_jpeg(QUALITY)? };
        Ok(write_cache(&self.out, &bytes)?)
    }
}

impl Job for Align<'_> {
    fn out(&self) -> &Path {
        &self.out
    }

    fn face(&self) -> anyhow::Result<(Crop, Place)> {
        photograph_crop(self.file, self.given.map(|face| &face.points), self.faces)
    }

    fn is_done(&self) -> bool {
        !self.force && aligned_crop(&self.out).is_ok()
    }

    fn write(&self, crop: &Crop) -> anyhow::Result<()> {
        // A job is done once.
        let _ = self.crop.set(crop.clone());
        Ok(())
    }
}

/// The photographs by their names: the path below the folder that was given, without extension. Crops of an earlier run
/// that lie among them are passed over.
fn list(
    given: &[PathBuf],
    out: &Path,
    failed: &mut Vec<Failed>,
) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let out = std::fs::canonicalize(out).with_context(|| format!("cannot find {}", out.display()))?;
    let mut found = Vec::new();
    for root in given {
        if root.is_dir() {
            walk(root, root, &out, &mut found)?;
        } else {
            let name =
                root.file_name().map(Path::new).with_context(|| format!("{} is no file", root.display()))?;
            found.push((name.to_owned(), root.clone()));
        }
    }
    let mut photographs: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (below, file) in found {
        let Some(name) =
            below.with_extension("").to_str().map(|name| name.replace(std::path::MAIN_SEPARATOR, "/"))
        else {
            let reason = "its name is not Unicode; rename it".to_owned();
            failed.push(Failed { file, reason });
            continue;
        };
        match photographs.get(&name) {
            Some(other) if *other != file => {
                let reason = format!(
                    "its crop would have the name of that of {}; rename one of the two",
                    other.display()
                );
                failed.push(Failed { file, reason });
            }
            _ => {
                photographs.insert(name, file);
            }
        }
    }
    Ok(photographs)
}

fn walk(root: &Path, folder: &Path, out: &Path, found: &mut Vec<(PathBuf, PathBuf)>) -> anyhow::Result<()> {
    let failed = || format!("cannot read the folder {}", folder.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if std::fs::canonicalize(&path).is_ok_and(|path| path != *out) {
                walk(root, &path, out, found)?;
            }
        } else if is_picture(&path) {
            found.push((path.strip_prefix(root).unwrap_or(&path).to_owned(), path));
        }
    }
    Ok(())
}

fn shown(summary: &Summary) -> String {
    let mut text = format!(
        "{} of {} photographs aligned ({} crops were there already); crops are in {}, points in {}\n",
        summary.made + summary.kept,
        summary.photographs,
        summary.kept,
        summary.out.display(),
        summary.coords.display()
    );
    for Several { file, faces } in &summary.several_faces {
        text.push_str(&format!("{}: {faces} faces; took the largest central one\n", file.display()));
    }
    if !summary.failed.is_empty() {
        text.push_str(&format!("{} without a crop:\n", summary.failed.len()));
        for Failed { file, reason } in &summary.failed {
            text.push_str(&format!("  {}\n", failure(file, reason)));
        }
    }
    text
}
