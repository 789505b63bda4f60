//! `cohort draw`: a cohort handed to sites.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;
use domain::draw::{self, Draw};
use domain::{Cohort, Part};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Outcome;
use crate::cohort_dir::{self, ALIGNED, CohortDir, PHOTOGRAPHS, POINTS_FILE};
use crate::context::Context;
use crate::output::Table;
use crate::store::{self, Folder};

/// What was drawn into a folder: a second draw of something else must not mix with it.
const STATE: &str = "draw.json";

/// Arguments of `cohort draw`.
#[derive(Debug, Args)]
#[command(
    long_about = "Hand a cohort to N sites; a subject is never split. Each site becomes a cohort folder of its \
    own (OUT/site-0, OUT/site-1, ...), its images hard links where the file system allows.\n\n\
    near-uniform: subjects at random, evenly. non-overlapping: every syndrome at one site only. dirichlet:ALPHA: each \
    syndrome's subjects by shares from a Dirichlet distribution; the smaller ALPHA, the more uneven."
)]
pub struct DrawArgs {
    /// Cohort folder
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Sites [default: from the configuration, 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub sites: Option<u16>,
    /// How: near-uniform, non-overlapping or dirichlet:ALPHA [default: from the configuration, near-uniform]
    #[arg(long, value_name = "KIND")]
    pub draw: Option<Draw>,
    /// Seed [default: from the configuration, 1]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Folder that gets a cohort folder per site
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// What decides the result of a draw.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    /// SHA-256 digest of the cohort.
    cohort: String,
    sites: u16,
    draw: Draw,
    seed: u64,
}

/// One site of the summary.
#[derive(Debug, Serialize)]
struct Site {
    site: String,
    dir: PathBuf,
    subjects: usize,
    images: usize,
    syndromes: usize,
    train: usize,
    trained_syndromes: usize,
    validation: usize,
    gallery: usize,
    test: usize,
}

/// Draws.
///
/// # Errors
///
/// When the cohort cannot be used, is too small for so many sites, an image is missing, OUT holds another draw, or the
/// folders cannot be written.
pub fn run(args: DrawArgs, context: &Context) -> anyhow::Result<Outcome> {
    let source = CohortDir::open(&args.dir)?;
    let settings = &context.config.federation;
    let order = Order {
        cohort: hex::encode(Sha256::digest(serde_json::to_vec(&source.cohort)?)),
        sites: args.sites.unwrap_or(settings.sites),
        draw: args.draw.unwrap_or(settings.draw),
        seed: args.seed.unwrap_or(context.config.training.seed),
    };
    let parts = draw::draw(&source.cohort, order.draw, usize::from(order.sites), order.seed)?;
    let out = Folder::open(&args.out)?;
    match out.read_json::<Order>(STATE)? {
        Some(before) => ensure!(
            before == order,
            "{} holds another draw ({} sites, {}, seed {}); give another --out, or remove that folder",
            args.out.display(),
            before.sites,
            before.draw,
            before.seed
        ),
        None => out.write_json(STATE, &order)?,
    }
    let stage = context.progress.stage("Hand out", source.cohort.cases().len() as u64);
    let mut sites = Vec::with_capacity(parts.len());
    for (at, part) in parts.iter().enumerate() {
        let name = format!("site-{at}");
        let dir = out.subfolder(&name)?;
        hand_out(&source, part, &dir, &|| stage.advance(1))
            .with_context(|| format!("cannot make {}", dir.display()))?;
        sites.push(Site::of(name, args.out.join(format!("site-{at}")), part));
    }
    stage.finish(format_args!("{} sites", sites.len()));
    context.output.result(&sites, |sites| describe(sites))?;
    Ok(Outcome::Done)
}

/// Makes a site's cohort folder: pictures first, tables last.
fn hand_out(source: &CohortDir, part: &Cohort, dir: &Path, done: &dyn Fn()) -> anyhow::Result<()> {
    store::make_folder(&dir.join(ALIGNED))?;
    let mut photographs = Vec::new();
    for case in part.cases() {
        let image = &case.image;
        if let Some(file) = source.images.aligned(image) {
            link(file, &dir.join(ALIGNED))?;
        } else {
            let file = source.images.photograph(image).with_context(|| {
                format!("image {image} is not there; `fedgestalt cohort check` lists all that are missing")
            })?;
            if photographs.is_empty() {
                store::make_folder(&dir.join(PHOTOGRAPHS))?;
            }
            link(file, &dir.join(PHOTOGRAPHS))?;
            photographs.push(image);
        }
        done();
    }
    if !photographs.is_empty() {
        store::write_private(&dir.join(POINTS_FILE), source.points.write(photographs).as_bytes())?;
    }
    cohort_dir::write_tables(dir, part, &source.version)
}

/// A hard link, or a copy where the file system has none.
fn link(file: &Path, folder: &Path) -> anyhow::Result<()> {
    let name = file.file_name().with_context(|| format!("{} is not a file", file.display()))?;
    let to = folder.join(name);
    match fs::hard_link(file, &to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) => {
            let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            Ok(store::write_cache(&to, &bytes)?)
        }
    }
}

impl Site {
    fn of(site: String, dir: PathBuf, cohort: &Cohort) -> Self {
        let count = |wanted: &dyn Fn(Part) -> bool| {
            let images = cohort.parts().filter(|(part, _)| wanted(*part)).flat_map(|(_, images)| images);
            images.collect::<HashSet<_>>().len()
        };
        Self {
            site,
            dir,
            subjects: cohort.subjects().len(),
            images: cohort.cases().len(),
            syndromes: cohort.cases().iter().map(|case| &case.syndrome).collect::<HashSet<_>>().len(),
            train: count(&|part| part == Part::Train),
            trained_syndromes: cohort.trained_syndromes().len(),
            validation: count(&|part| part == Part::Validation),
            gallery: count(&|part| matches!(part, Part::FrequentGallery | Part::RareGallery(_))),
            test: count(&|part| matches!(part, Part::FrequentTest | Part::RareTest(_))),
        }
    }
}

fn describe(sites: &[Site]) -> String {
    let mut table = Table::new([
        "site",
        "subjects",
        "images",
        "syndromes",
        "train",
        "(syndromes)",
        "validation",
        "gallery",
        "test",
    ]);
    for site in sites {
        let numbers = [
            site.subjects,
            site.images,
            site.syndromes,
            site.train,
            site.trained_syndromes,
            site.validation,
            site.gallery,
            site.test,
        ];
        let mut row = vec![site.site.clone()];
        row.extend(numbers.map(|number| number.to_string()));
        table.row(row);
    }
    table.to_string()
}
