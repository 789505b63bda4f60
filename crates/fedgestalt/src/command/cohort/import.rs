//! `cohort import`: from GMDB's files, or a folder per syndrome, to a cohort folder.

mod sources;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use domain::{Cohort, ImageId, split};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vision::Crop;

use self::sources::{Layouted, Source};
use crate::Outcome as Done;
use crate::cohort_dir::{
    self, ALIGNED, METADATA, POINTS_FILE, PointsTable, Tables, aligned_crop, photograph_crop,
};
use crate::context::Context;
use crate::faces::{FaceFinder, Job, Outcome, Place, batch, failure};
use crate::output::Table;
use crate::pipeline::engines::WORTH_AN_ENGINE;
use crate::store::{Folder, atomic};

/// What is being imported into a folder, and how: a second import of something else must not mix with it.
const STATE: &str = "import.json";
/// The version in the tables' names where the source has none.
const VERSION: &str = "1.0.0";

/// Arguments of `cohort import`.
#[derive(Debug, Args)]
#[command(long_about = "Make a cohort folder from GMDB's files, or from a folder per syndrome.\n\n\
    Layout gmdb: gmdb_metadata/gmdb_{train,val,frequent_gallery,frequent_test,rare_gallery,rare_test}_images_vX.csv, \
    gmdb_align/<image_id>_aligned.jpg (or _rot_aligned.jpg), gmdb_images/<image_id>.jpg, syndromes.csv.\n\n\
    Layout folders: every folder in SRC is a syndrome. A folder in it is a subject with its images. Of images that lie \
    directly in it, those whose names begin alike up to the first '_' are one subject (`anna_1.jpg`, `anna_2.jpg`); a \
    name without '_' is a subject of its own. The syndromes are then divided into GMDB's parts by subject.\n\n\
    A face is aligned with its five points where the points file has them. Without points, aligned images and images of \
    112 x 112 pixels are taken as they are; on photographs the face is found by the detector, or, with --as-aligned, they \
    are taken for aligned faces.")]
pub struct ImportArgs {
    /// Folder to import
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// Cohort folder to make
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// How SRC is laid out [default: gmdb if it has GMDB's tables, else folders]
    #[arg(long, value_enum)]
    pub layout: Option<Layout>,
    /// Five points per photograph: image_id,x0,y0,...,x4,y4 (left eye, right eye, nose tip, left and right mouth corner, as seen in the picture), or the face_coords.csv of `align` or FaceCropper (whose turned pictures lie in SRC/gmdb_rot) [default: SRC/points.csv if it is there]
    #[arg(long, value_name = "FILE")]
    pub points: Option<PathBuf>,
    /// Face detector (ONNX: YuNet, SCRFD, RetinaFace) for photographs without points [default: from the configuration]
    #[arg(long, value_name = "FILE")]
    pub detector: Option<PathBuf>,
    /// Take images without points as aligned faces, whatever their size: their central square is resized
    #[arg(long)]
    pub as_aligned: bool,
    /// Layout folders: subjects that make a syndrome frequent
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(3..))]
    pub frequent_subjects: u16,
    /// Layout folders: splits of the rare syndromes
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=10))]
    pub splits: u8,
    /// Layout folders: seed of the division into parts [default: from the configuration, 1]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Leave out photographs with several faces, and exit with status 1 if an image had to be left out
    #[arg(long)]
    pub strict: bool,
}

/// How a folder to import is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// GMDB's tables and folders.
    Gmdb,
    /// A folder per syndrome.
    Folders,
}

/// What decides the result of an import.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    source: PathBuf,
    layout: Layout,
    points: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detector: Option<String>,
    as_aligned: bool,
    frequent_subjects: u16,
    splits: u8,
    seed: u64,
}

/// A file that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct LeftOut {
    file: PathBuf,
    reason: String,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Summary {
    out: PathBuf,
    layout: Layout,
    images: usize,
    subjects: usize,
    syndromes: usize,
    /// Images per part.
    parts: BTreeMap<String, usize>,
    /// Faces that an earlier, interrupted import had done already.
    done_before: usize,
    /// Photographs on which the detector saw several faces; the largest central one was taken.
    several_faces: Vec<Several>,
    left_out: Vec<LeftOut>,
}

/// A photograph with several faces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Several {
    file: PathBuf,
    faces: usize,
}

/// Imports.
///
/// # Errors
///
/// When SRC is in neither layout, a table is faulty, OUT holds another import, or nothing could be imported.
pub fn run(args: ImportArgs, context: &Context) -> anyhow::Result<Done> {
    let source = std::fs::canonicalize(&args.source)
        .with_context(|| format!("cannot find the folder {}", args.source.display()))?;
    ensure!(source.is_dir(), "{} is not a folder", args.source.display());
    let layout = args.layout.unwrap_or(if Tables::are_in(&source) { Layout::Gmdb } else { Layout::Folders });
    let points = read_points(&args)?;
    let faces = FaceFinder::open(&context.config, args.detector.as_deref(), args.strict, WORTH_AN_ENGINE)?;
    faces.note().into_iter().for_each(|note| context.output.note(note));
    let order = Order {
        source,
        layout,
        points: points.as_ref().map(|(_, digest)| digest.clone()),
        detector: faces.key(),
        as_aligned: args.as_aligned,
        frequent_subjects: args.frequent_subjects,
        splits: args.splits,
        seed: args.seed.unwrap_or(context.config.training.seed),
    };
    let found = match layout {
        Layout::Gmdb => sources::gmdb(&args.source)?,
        Layout::Folders => sources::folders(&args.source)?,
    };
    let folder = open_out(&args.out, &order)?;
    let points = points.map(|(table, _)| table).unwrap_or_default();
    let with = With { points: &points, as_aligned: args.as_aligned, faces: &faces };
    let imported = import_faces(&folder, &found, &with, context)?;
    if !points.is_empty() && imported.given == 0 && imported.done_before == 0 {
        context.output.warn(
            "the points are of none of these photographs; rows are found by image id, by the path below SRC, or as \
             <image_id>_rot.jpg in SRC/gmdb_rot",
        );
    }
    let mut left_out = found.left_out.clone();
    left_out.extend(imported.left_out);
    left_out.sort_by(|a, b| a.file.cmp(&b.file));
    let cohort = arrange(&found, &imported.good, &order)?;
    ensure!(
        !cohort.cases().is_empty(),
        "no image could be imported from {}{}",
        args.source.display(),
        left_out
            .first()
            .map(|first| format!("; the first: {}", failure(&first.file, &first.reason)))
            .unwrap_or_default()
    );
    cohort_dir::write_tables(folder.path(), &cohort, found.version.as_deref().unwrap_or(VERSION))?;
    let summary = Summary {
        out: args.out,
        layout,
        images: cohort.cases().len(),
        subjects: cohort.subjects().len(),
        syndromes: cohort.cases().iter().map(|case| &case.syndrome).collect::<HashSet<_>>().len(),
        parts: cohort.parts().map(|(part, images)| (part.to_string(), images.len())).collect(),
        done_before: imported.done_before,
        several_faces: imported.several_faces,
        left_out,
    };
    context.output.result(&summary, describe)?;
    if cohort.trained_syndromes().is_empty() {
        context.output.warn("no syndrome has enough subjects to train on; see --frequent-subjects");
    }
    Ok(if args.strict && !summary.left_out.is_empty() { Done::Unclean } else { Done::Done })
}

/// The points and a digest of their file.
fn read_points(args: &ImportArgs) -> anyhow::Result<Option<(PointsTable, String)>> {
    let file = args.points.clone().unwrap_or_else(|| args.source.join(POINTS_FILE));
    match atomic::read(&file)? {
        Some(bytes) => {
            let table = PointsTable::parse(&file.display().to_string(), &bytes)?;
            Ok(Some((table, hex::encode(Sha256::digest(&bytes)))))
        }
        None if args.points.is_some() => bail!("the points file {} is not there", file.display()),
        None => Ok(None),
    }
}

fn open_out(out: &Path, order: &Order) -> anyhow::Result<Folder> {
    let folder = Folder::open(out)?;
    let inside = std::fs::canonicalize(out).is_ok_and(|out| out.starts_with(&order.source));
    ensure!(!inside, "{} lies in the folder to import; give another --out", out.display());
    let whole = out.join(METADATA).exists();
    match folder.read_json::<Order>(STATE)? {
        Some(before) if before == *order => {}
        Some(_) if whole => bail!(
            "{} holds an import of something else, or with other options ({}); give another --out, or remove that folder",
            out.display(),
            out.join(STATE).display()
        ),
        None if whole => {
            bail!("{} holds a cohort that was not imported here; give another --out", out.display())
        }
        Some(_) => {
            // An import with other options that never came to its end: nobody can have used it.
            let aligned = out.join(ALIGNED);
            std::fs::remove_dir_all(&aligned)
                .or_else(|error| if aligned.exists() { Err(error) } else { Ok(()) })
                .with_context(|| format!("cannot remove {}", aligned.display()))?;
            folder.write_json(STATE, order)?;
        }
        None => folder.write_json(STATE, order)?,
    }
    folder.subfolder(ALIGNED)?;
    Ok(folder)
}

struct Imported {
    good: HashSet<ImageId>,
    done_before: usize,
    /// Faces cut out by points that were given.
    given: usize,
    several_faces: Vec<Several>,
    left_out: Vec<LeftOut>,
}

/// What faces are found with.
struct With<'a> {
    points: &'a PointsTable,
    as_aligned: bool,
    faces: &'a FaceFinder,
}

/// One face of an import.
struct Import<'a> {
    image: &'a ImageId,
    source: &'a Source,
    out: PathBuf,
    with: &'a With<'a>,
}

impl Job for Import<'_> {
    fn out(&self) -> &Path {
        &self.out
    }

    fn face(&self) -> anyhow::Result<(Crop, Place)> {
        let With { points, as_aligned, faces } = *self.with;
        let aligned = |file: &Path| Ok((aligned_crop(file)?, Place::Aligned));
        let Source::Pictures { aligned: face, photograph, rotated, name } = self.source else {
            bail!("the file is not there; add it or remove its rows");
        };
        // Points are the better witness where there is a picture to use them on.
        let given = points.get(self.image).or_else(|| points.named(name).map(|face| &face.points));
        if let (Some(photograph), Some(given)) = (photograph, given) {
            return photograph_crop(photograph, Some(given), faces);
        }
        if let Some((file, name)) = rotated
            && let Some(given) = points.named(name)
        {
            return photograph_crop(file, Some(&given.points), faces);
        }
        match (face, photograph) {
            (Some(face), _) => aligned(face),
            (None, Some(photograph)) if as_aligned => aligned(photograph),
            (None, Some(photograph)) => photograph_crop(photograph, None, faces),
            (None, None) => bail!("its points are not given; name the file that has them with --points"),
        }
    }
}

/// Aligns every face and writes it as PNG: no pixel is lost, and no metadata comes along.
fn import_faces(
    folder: &Folder,
    found: &Layouted,
    with: &With<'_>,
    context: &Context,
) -> anyhow::Result<Imported> {
    let stage = context.progress.stage("Import", found.cases.len() as u64);
    let jobs: Vec<Import<'_>> = found
        .cases
        .iter()
        .map(|(case, source)| {
            let out = folder.path().join(ALIGNED).join(format!("{}_aligned.png", case.image));
            Import { image: &case.image, source, out, with }
        })
        .collect();
    let mut imported = Imported {
        good: HashSet::new(),
        done_before: 0,
        given: 0,
        several_faces: Vec::new(),
        left_out: Vec::new(),
    };
    for (job, outcome) in jobs.iter().zip(batch(&jobs, &stage)?) {
        let file = job.source.file().to_owned();
        match outcome {
            Outcome::Failed(reason) => {
                imported.left_out.push(LeftOut { file, reason });
                continue;
            }
            Outcome::Kept => imported.done_before += 1,
            Outcome::Made(place) if place.others() > 0 => {
                imported.several_faces.push(Several { file, faces: place.others() + 1 });
            }
            Outcome::Made(Place::Given(_)) => imported.given += 1,
            Outcome::Made(_) => {}
        }
        imported.good.insert(job.image.clone());
    }
    stage.finish(format_args!("{} images, {} left out", imported.good.len(), imported.left_out.len()));
    Ok(imported)
}

/// The cohort of the images that are good.
fn arrange(found: &Layouted, good: &HashSet<ImageId>, order: &Order) -> anyhow::Result<Cohort> {
    if let Some(cohort) = &found.cohort {
        return Ok(cohort.restrict(&|case| good.contains(&case.image)));
    }
    let cases =
        found.cases.iter().map(|(case, _)| case.clone()).filter(|case| good.contains(&case.image)).collect();
    Ok(split::partition(
        cases,
        found.syndromes.clone(),
        usize::from(order.frequent_subjects),
        order.splits,
        order.seed,
    )?)
}

fn describe(summary: &Summary) -> String {
    let mut table = Table::new(["part", "images"]);
    for (part, images) in &summary.parts {
        table.row([part.clone(), images.to_string()]);
    }
    let mut text = format!(
        "{}: {} images of {} subjects with {} syndromes\n{table}",
        summary.out.display(),
        summary.images,
        summary.subjects,
        summary.syndromes
    );
    if !summary.several_faces.is_empty() {
        text.push_str(&format!(
            "{} photographs with several faces, of which the largest central one was taken:\n",
            summary.several_faces.len()
        ));
        for Several { file, faces } in &summary.several_faces {
            text.push_str(&format!("  {}: {faces} faces\n", file.display()));
        }
    }
    if !summary.left_out.is_empty() {
        text.push_str(&format!("{} left out:\n", summary.left_out.len()));
        for LeftOut { file, reason } in &summary.left_out {
            text.push_str(&format!("  {}\n", failure(file, reason)));
        }
    }
    text
}
