//! A whole consortium on one machine: sites and coordinator, each with its own key and folder, around one engine; and
//! the baselines that a federation is measured against. `demo` and `federate` are thin over it.

pub mod coordinator;
pub mod federated;
pub mod job;
pub mod newcomer;
pub mod pooled;
pub mod results;
pub mod show;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use domain::cohort::Cohort;
use domain::draw::{Draw, draw};
use domain::{ImageId, SyndromeId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vision::Crop;

use self::coordinator::Resume;
use self::pooled::Patients;
use crate::cohort_dir::CohortDir;
use crate::config::Config;
use crate::context::Context;
use crate::engine::local::{Drop, Vanish};
use crate::faces::FaceFinder;
use crate::pipeline::bundle::Model;
use crate::pipeline::engines::{CalibrationFaces, Engines};
use crate::pipeline::ensemble::Blueprint;
use crate::pipeline::features::{Crops, Variants};
use crate::site::state::SiteFiles;
use crate::site::tables::Tables;
use crate::store::Folder;

/// What decides the results. It is written into the run's folder: the same command goes on there, another is refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Digest of the cohort's tables.
    pub cohort: String,
    /// Digests of the networks.
    pub trunks: Vec<String>,
    /// Engine and precision of each: features differ in their last digits between engines, and more between precisions.
    #[serde(default)]
    pub engines: Vec<String>,
    /// Sites that train together.
    pub sites: u16,
    /// How patients were handed to them.
    pub draw: Draw,
    /// Who vanishes when.
    pub drops: Vec<(u16, u32)>,
    /// The configuration with the command line's changes.
    pub config: Config,
}

/// Seconds per phase, kept across processes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Phases(BTreeMap<String, f64>);

impl Phases {
    /// Seconds per phase, in the order of the phases' names.
    pub fn seconds(&self) -> &BTreeMap<String, f64> {
        &self.0
    }

    fn add(&mut self, phase: &str, began: Instant) {
        *self.0.entry(phase.to_owned()).or_default() += began.elapsed().as_secs_f64();
    }
}

/// One site's part before it starts.
pub struct Member {
    /// Its name in the roster.
    pub name: String,
    /// Its patients.
    pub cohort: Cohort,
    /// Where its patients' features are.
    pub tables: Arc<Tables>,
    /// Its store.
    pub files: SiteFiles,
}

impl Member {
    /// Its patients with their features.
    pub fn patients(&self) -> Patients<'_> {
        Patients { cohort: &self.cohort, tables: &self.tables }
    }
}

/// A run in its folder.
pub struct Run<'a> {
    /// Configuration, output, progress.
    pub context: &'a Context,
    /// What decides the results.
    pub settings: Settings,
    /// The run's folder.
    pub folder: Folder,
    /// The cohort of all sites.
    pub cohort: Arc<CohortDir>,
    /// Networks and members.
    pub blueprint: Arc<Blueprint>,
    /// The paper's recipe, where it is compared with.
    recipe: Option<Recipe>,
    /// Seconds per phase.
    pub phases: Phases,
    trunk: Option<PathBuf>,
}

/// Members and how they are trained and compared.
#[derive(Clone, Copy)]
pub struct Method<'a> {
    /// Networks and members.
    pub blueprint: &'a Blueprint,
    /// Training and kernel.
    pub config: &'a Config,
}

/// The paper's recipe on a run's networks.
struct Recipe {
    blueprint: Blueprint,
    config: Config,
}

/// How a cohort is handed out and trained on.
pub struct Order {
    /// The run's folder.
    pub out: PathBuf,
    /// The cohort's folder.
    pub cohort: PathBuf,
    /// A trunk that takes the place of the configured one.
    pub trunk: Option<PathBuf>,
    /// The configuration with the command line's changes.
    pub config: Config,
    /// Who vanishes when: site and round.
    pub drops: Vec<(u16, u32)>,
}

const SETTINGS: &str = "run.json";
const PHASES: &str = "phases.json";

impl<'a> Run<'a> {
    /// Opens the run's folder: a new run, or one that goes on. A folder with another run in it is refused.
    pub fn open(context: &'a Context, order: &Order) -> Result<Self> {
        let faces = FaceFinder::open(&order.config, None, false, 1)?;
        let cohort = Arc::new(CohortDir::open(&order.cohort)?.with_faces(faces));
        let blueprint = networks(context, &order.config, order.trunk.as_deref(), &cohort)?;
        Self::open_with(context, order, cohort, blueprint)
    }

    /// As [`Run::open`], with the order's cohort and networks opened before: many runs share them.
    pub fn open_with(
        context: &'a Context,
        order: &Order,
        cohort: Arc<CohortDir>,
        blueprint: Arc<Blueprint>,
    ) -> Result<Self> {
        let folder = Folder::open(&order.out)?;
        let config = &order.config;
        let settings = Settings {
            cohort: cohort_digest(&cohort.cohort),
            trunks: blueprint.networks.iter().map(|n| hex::encode(n.trunk.digest())).collect(),
            engines: blueprint.networks.iter().map(|n| n.runs.kind()).collect(),
            sites: config.federation.sites,
            draw: config.federation.draw,
            drops: order.drops.clone(),
            config: config.clone(),
        };
        check_drops(&settings)?;
        match folder.read_json::<Settings>(SETTINGS)? {
            Some(found) => {
                let difference = difference(&found, &settings);
                if !difference.is_empty() {
                    bail!(
                        "{} holds a run with other settings ({difference}); give another --out, or delete that folder",
                        order.out.display()
                    );
                }
                context.output.note(format_args!("going on with the run in {}", order.out.display()));
            }
            None => folder.write_json(SETTINGS, &settings)?,
        }
        let phases = folder.read_json(PHASES)?.unwrap_or_default();
        Ok(Self {
            context,
            settings,
            folder,
            cohort,
            blueprint,
            recipe: None,
            phases,
            trunk: order.trunk.clone(),
        })
    }

    /// The run's own members.
    pub fn method(&self) -> Method<'_> {
        Method { blueprint: &self.blueprint, config: &self.settings.config }
    }

    /// The paper's recipe, if it is compared with.
    pub fn recipe(&self) -> Option<Method<'_>> {
        let recipe = self.recipe.as_ref();
        recipe.map(|Recipe { blueprint, config }| Method { blueprint, config })
    }

    /// Compares with the paper's recipe from now on, unless something is tuned anyway or the configuration is against it.
    pub fn compare_with_recipe(&mut self) {
        let config = &self.settings.config;
        self.recipe = (config.federation.compare_recipe && self.blueprint.tuned().count() == 0)
            .then(|| Recipe { blueprint: self.blueprint.recipe(), config: config.as_recipe() });
    }

    /// All members that features are needed for.
    fn blueprints(&self) -> Vec<&Blueprint> {
        std::iter::once(&*self.blueprint).chain(self.recipe().map(|recipe| recipe.blueprint)).collect()
    }

    /// Runs one phase and adds its time to the account.
    pub fn phase<T>(&mut self, name: &str, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let result = work(self);
        self.phases.add(name, began);
        self.folder.write_json(PHASES, &self.phases)?;
        result
    }

    /// What a model of this run says of itself.
    pub fn model(
        &self,
        method: Method<'_>,
        how: &str,
        syndromes: Vec<SyndromeId>,
        release: Option<String>,
    ) -> Model {
        Model {
            how: how.to_owned(),
            trunks: method.blueprint.used().map(|n| hex::encode(n.trunk.digest())).collect(),
            engines: method.blueprint.used().map(|n| n.runs.clone()).collect(),
            syndromes,
            trunk: self.trunk.clone(),
            config: method.config.clone(),
            release,
            weights: Vec::new(),
        }
    }

    /// Hands the cohort to the sites and prepares each one's feature tables in its own folder.
    pub fn members(&mut self) -> Result<Vec<Member>> {
        let parts = self.parts()?;
        let total: usize =
            parts.iter().map(|part| part.cases().len() + Tables::steps(&self.blueprints(), part)).sum();
        let stage = self.context.progress.stage("Import and trunk features", total as u64);
        let mut members = Vec::new();
        for (at, part) in parts.into_iter().enumerate() {
            let name = site_name(at);
            stage.note(name.clone());
            members.push(self.member(&name, part, &self.cohort, &|images| stage.advance(images as u64))?);
        }
        stage.finish(format_args!("{} images at {} sites", self.cohort.cohort.cases().len(), members.len()));
        Ok(members)
    }

    fn parts(&self) -> Result<Vec<Cohort>> {
        let Settings { draw: kind, sites, config, .. } = &self.settings;
        Ok(draw(&self.cohort.cohort, *kind, usize::from(*sites), config.training.seed)?)
    }

    /// Hands the cohort to sites that find their patients' rows in tables of the whole cohort: in a simulation of many
    /// runs nothing is computed or copied again.
    pub fn members_on(&self, tables: &Arc<Tables>) -> Result<Vec<Member>> {
        let sites = self.folder.subfolder("sites")?;
        let member = |(at, cohort): (usize, Cohort)| {
            let name = site_name(at);
            let files =
                SiteFiles::open(&sites.join(&name), Resume::AtSessionEnd).with_context(|| name.clone())?;
            files.store().put_cohort(&cohort).with_context(|| name.clone())?;
            Ok(Member { name, cohort, tables: tables.clone(), files })
        };
        self.parts()?.into_iter().enumerate().map(member).collect()
    }

    /// One site with its patients in its own folder: labels, aligned faces, feature tables.
    pub fn member(
        &self,
        name: &str,
        part: Cohort,
        from: &CohortDir,
        tick: &(dyn Fn(usize) + Sync),
    ) -> Result<Member> {
        let sites = self.folder.subfolder("sites")?;
        let files =
            SiteFiles::open(&sites.join(name), Resume::AtSessionEnd).with_context(|| name.to_owned())?;
        files
            .import(&part, &Photographs(from), &|| tick(1))
            .with_context(|| format!("{name}: cannot import"))?;
        let training = &self.settings.config.training;
        let draws = Variants::Draws { count: training.draws, seed: training.seed };
        let tables = Tables::prepare(&files.features(), &self.blueprints(), &part, &files, draws, tick)
            .with_context(|| format!("{name}: cannot compute features"))?;
        Ok(Member { name: name.to_owned(), cohort: part, tables: Arc::new(tables), files })
    }
}

/// The networks of a configuration, on engines that are compared on the cohort's own faces.
pub fn networks(
    context: &Context,
    config: &Config,
    trunk: Option<&Path>,
    cohort: &CohortDir,
) -> Result<Arc<Blueprint>> {
    let photographs = Photographs(cohort);
    let engines = Engines::new(config, Some(CalibrationFaces::of(cohort, &photographs)));
    let blueprint = Blueprint::load(config, trunk, &engines)?;
    blueprint.remarks().iter().for_each(|remark| context.output.note(remark));
    Ok(Arc::new(blueprint))
}

/// The name of a simulated site.
pub fn site_name(at: usize) -> String {
    format!("site-{at}")
}

/// Aligned faces straight from a cohort's folder.
pub struct Photographs<'a>(pub &'a CohortDir);

impl Crops for Photographs<'_> {
    fn crop(&self, image: &ImageId) -> Result<Crop> {
        self.0.crop(image)
    }

    fn modified(&self, image: &ImageId) -> Option<SystemTime> {
        let files = &self.0.images;
        let file = files.aligned(image).or_else(|| files.photograph(image))?;
        std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
    }
}

/// The drops as the engine takes them: odd sites vanish before their upload, even ones after it, so that a run with
/// several shows both.
pub fn engine_drops(drops: &[(u16, u32)]) -> Vec<Drop> {
    drops
        .iter()
        .map(|&(site, round)| Drop {
            site: federation::SiteIndex(site),
            round,
            vanish: if site % 2 == 0 { Vanish::AfterUpload } else { Vanish::BeforeUpload },
        })
        .collect()
}

fn check_drops(settings: &Settings) -> Result<()> {
    let rounds = settings.config.rounds();
    for &(site, round) in &settings.drops {
        if site >= settings.sites {
            bail!("--drop {site}@{round}: there are {} sites, numbered from 0", settings.sites);
        }
        if round == 0 || round > rounds {
            bail!("--drop {site}@{round}: there are {rounds} rounds, numbered from 1");
        }
    }
    Ok(())
}

/// A digest of who is in which part with which syndrome.
pub(crate) fn cohort_digest(cohort: &Cohort) -> String {
    let mut hash = Sha256::new();
    let mut field = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    for case in cohort.cases() {
        field(case.image.as_str());
        field(case.subject.as_str());
        field(case.syndrome.as_str());
    }
    for (part, images) in cohort.parts() {
        field(&format!("{part:?}"));
        for image in images {
            field(image.as_str());
        }
    }
    hex::encode(hash.finalize())
}

/// The names of the settings that differ.
fn difference(found: &Settings, wanted: &Settings) -> String {
    let (Ok(found), Ok(wanted)) = (serde_json::to_value(found), serde_json::to_value(wanted)) else {
        return "unknown".to_owned();
    };
    let mut names = Vec::new();
    differing("", &found, &wanted, &mut names);
    names.join(", ")
}

fn differing(at: &str, found: &serde_json::Value, wanted: &serde_json::Value, names: &mut Vec<String>) {
    match (found, wanted) {
        (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let place = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                let null = serde_json::Value::Null;
                differing(&place, a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null), names);
            }
        }
        (a, b) if a != b => names.push(format!("{at}: {a} there, {b} here")),
        _ => {}
    }
}

/// A seed for one secret of the simulation. In a real consortium these come from the operating system; here they
/// follow from the run's seed, so that a run can be repeated bit for bit.
pub fn secret(seed: u64, what: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"fedgestalt/simulation/v1");
    hash.update(seed.to_le_bytes());
    hash.update(what);
    hash.finalize().into()
}

/// Peak resident memory of this process in MB; 0 where the system does not tell.
pub fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok())
        .map_or(0.0, |kb| kb / 1024.0)
}

/// The file of this name in a run's folder.
pub fn file(run: &Run<'_>, name: &str) -> PathBuf {
    Path::new(run.folder.path()).join(name)
}
