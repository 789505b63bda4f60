//! The cohort's folder while the site serves: what changes in it is brought into the gallery.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};

use crate::cohort_dir::{ALIGNED, CohortDir, METADATA, PHOTOGRAPHS, POINTS_FILE, ROTATED, SYNDROMES_FILE};
use crate::config::Config;
use crate::consortium::Photographs;
use crate::faces::FaceFinder;
use crate::pipeline::ensemble::Blueprint;
use crate::pipeline::features::Variants;
use crate::site::Site;
use crate::site::state::SiteFiles;
use crate::site::tables::Tables;

/// Between looks at the folder. What is the same in two of them is taken to be finished.
const LOOK: Duration = Duration::from_secs(2);

/// Names, lengths and times of what a change of the cohort changes.
type Stamp = Vec<(PathBuf, u64, Option<SystemTime>)>;

/// The cohort as it was read, with faces and features in the site's store.
pub(super) struct Prepared {
    pub(super) cohort: CohortDir,
    pub(super) tables: Tables,
}

/// Watches the folder.
pub(super) struct Patients {
    folder: PathBuf,
    config: Config,
    /// Of what is in the gallery, or could not be brought into it.
    taken: Stamp,
    seen: Stamp,
    looked: Instant,
    /// Faces and features of a change; the site goes on answering meanwhile.
    work: Option<JoinHandle<Result<Prepared>>>,
}

impl Patients {
    /// Watches a folder; `taken` is what it was like before it was read.
    pub(super) fn new(folder: &Path, config: &Config, taken: Stamp) -> Self {
        let (folder, config, seen) = (folder.to_owned(), config.clone(), taken.clone());
        Self { folder, config, taken, seen, looked: Instant::now(), work: None }
    }

    /// What has changed since, once it is ready.
    pub(super) fn changed(&mut self, site: &Site) -> Option<Result<Prepared>> {
        if let Some(work) = self.work.take_if(|work| work.is_finished()) {
            let ended = work.join();
            return Some(ended.unwrap_or_else(|_| Err(anyhow::anyhow!("reading the cohort failed"))));
        }
        if self.work.is_some() || self.looked.elapsed() < LOOK {
            return None;
        }
        self.looked = Instant::now();
        let now = stamp(&self.folder);
        let settled = now == self.seen;
        self.seen = now;
        if settled && self.seen != self.taken {
            self.taken.clone_from(&self.seen);
            let (folder, config) = (self.folder.clone(), self.config.clone());
            let (files, blueprint) = (site.files(), site.blueprint());
            self.work = Some(thread::spawn(move || prepare(&folder, &config, &files, &blueprint)));
        }
        None
    }
}

/// Reads a cohort for a site: without those who were withdrawn, with faces and features in the site's store.
fn prepare(
    folder: &Path,
    config: &Config,
    files: &Arc<SiteFiles>,
    blueprint: &Arc<Blueprint>,
) -> Result<Prepared> {
    let faces = FaceFinder::open(config, None, false, 1)?;
    let cohort = open(folder, faces, files)?;
    let tables = features(config, files, blueprint, &cohort, &|_| {})?;
    Ok(Prepared { cohort, tables })
}

/// Opens a cohort's folder without the subjects that were withdrawn at this site.
pub(super) fn open(folder: &Path, faces: FaceFinder, files: &SiteFiles) -> Result<CohortDir> {
    let mut cohort = CohortDir::open(folder)?.with_faces(faces);
    cohort.cohort = files.store().without_withdrawn(&cohort.cohort)?;
    Ok(cohort)
}

/// Brings faces and features of a cohort into the site's store. `tick` is told of finished images.
pub(super) fn features(
    config: &Config,
    files: &SiteFiles,
    blueprint: &Blueprint,
    cohort: &CohortDir,
    tick: &(dyn Fn(usize) + Sync),
) -> Result<Tables> {
    files.import(&cohort.cohort, &Photographs(cohort), &|| tick(1)).context("cannot import")?;
    let draws = Variants::Draws { count: config.training.draws, seed: config.training.seed };
    Tables::prepare(&files.features(), &[blueprint], &cohort.cohort, files, draws, tick)
        .context("cannot compute features")
}

/// What a cohort's folder is like. A picture that is replaced, by a new file that takes its name, changes its folder's time.
pub(super) fn stamp(folder: &Path) -> Stamp {
    let metadata = folder.join(METADATA);
    let tables = fs::read_dir(if metadata.is_dir() { &metadata } else { folder });
    let tables = tables.into_iter().flatten().flatten().map(|entry| entry.path());
    let csv = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "csv");
    let mut paths: Vec<PathBuf> = tables.filter(csv).collect();
    let others = [SYNDROMES_FILE, POINTS_FILE, ALIGNED, PHOTOGRAPHS, ROTATED];
    paths.extend(others.iter().map(|name| folder.join(name)));
    paths.sort();
    paths.dedup();
    let one = |path: PathBuf| match fs::metadata(&path) {
        Ok(found) => (path, if found.is_dir() { 0 } else { found.len() }, found.modified().ok()),
        Err(_) => (path, 0, None),
    };
    paths.into_iter().map(one).collect()
}
