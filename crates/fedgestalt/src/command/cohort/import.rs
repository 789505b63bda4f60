//! `cohort import`: from GMDB's files, or a folder per syndrome, to a cohort folder.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::Outcome;
use crate::context::Context;

/// Arguments of `cohort import`.
#[derive(Debug, Args)]
#[command(long_about = "Make a cohort folder from GMDB's files, or from a folder per syndrome.\n\n\
    Layout gmdb: gmdb_metadata/gmdb_{train,val,frequent_gallery,frequent_test,rare_gallery,rare_test}_images_vX.csv, \
    gmdb_align/<image_id>_aligned.jpg (or _rot_aligned.jpg), gmdb_images/<image_id>.jpg, syndromes.csv.\n\n\
    Layout folders: every folder in SRC is a syndrome. A folder in it is a subject with its images. Of images that lie \
    directly in it, those whose names begin alike up to the first '_' are one subject (`anna_1.jpg`, `anna_2.jpg`); a \
    name without '_' is a subject of its own. The syndromes are then divided into GMDB's parts by subject.\n\n\
    A face is aligned with its five points where points.csv has them. Without points, aligned images and images of \
    112 x 112 pixels are taken as they are, other sizes only with --as-aligned.")]
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
    /// Five points per photograph: image_id,x0,y0,...,x4,y4 (left eye, right eye, nose tip, left and right mouth corner, as seen in the picture) [default: SRC/points.csv if it is there]
    #[arg(long, value_name = "FILE")]
    pub points: Option<PathBuf>,
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
    /// Exit with status 1 if an image had to be left out
    #[arg(long)]
    pub strict: bool,
}

/// How a folder to import is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// GMDB's tables and folders.
    Gmdb,
    /// A folder per syndrome.
    Folders,
}

/// Imports.
///
/// # Errors
///
/// When SRC is in neither layout, a table is faulty, or the folder cannot be written.
pub fn run(_args: ImportArgs, _context: &Context) -> anyhow::Result<Outcome> {
    anyhow::bail!("`cohort import` is not there yet")
}
