//! `site run`: the site at work.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use domain::cohort::Cohort;
use federation::{Action, SiteSetup};
use serde_json::json;

use super::ask::Counter;
use super::patients::{self, Patients, Prepared};
use crate::Outcome;
use crate::cohort_dir::CohortDir;
use crate::consortium::coordinator::Resume;
use crate::consortium::federated::{holdings, open_site};
use crate::consortium::{Member, networks, peak_rss_mb, secret};
use crate::context::Context;
use crate::engine::flower::http::Http;
use crate::engine::flower::site::{Desk, Outpost};
use crate::engine::host::Event;
use crate::enrolment::{SiteKeys, enrolled, fresh};
use crate::faces::FaceFinder;
use crate::site::Site;
use crate::site::asking::GalleryChange;
use crate::site::state::SiteFiles;
use crate::site::tables::Tables;
use crate::store::Folder;

const NODE: &str = "node.json";

/// Arguments of `site run`.
#[derive(Debug, Args)]
#[command(
    long_about = "Take part in the consortium: train with the other sites on this site's cohort, bring the masked gallery, \
    and answer `site ask` until it is stopped. While it serves, a change of the cohort's folder changes the gallery. Where \
    the others have trained already, it asks to take over their release. It connects to the coordinator by HTTPS and listens to nobody; it takes the \
    federation's signed messages and nothing else.\n\nStopped or killed, the same command goes on where it was."
)]
pub struct RunArgs {
    /// This site's folder
    #[arg(long, value_name = "DIR", default_value = "site")]
    pub store: PathBuf,
    /// This site's cohort in the GMDB layout; `cohort import` makes one
    #[arg(long, value_name = "DIR")]
    pub cohort: PathBuf,
    /// Frozen face network (ONNX) of the consortium's plan [default: from the configuration, the shipped one]
    #[arg(long, value_name = "FILE")]
    pub trunk: Option<PathBuf>,
    /// Reach the coordinator at another address than the invitation's; its certificate must be the same
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// End when the release is signed, instead of staying for questions
    #[arg(long)]
    pub once: bool,
}

/// Runs the site.
///
/// # Errors
///
/// When it is not enrolled, its cohort or networks cannot be used, the coordinator's certificate is not the pinned one, or
/// its own work fails.
pub fn run(args: RunArgs, context: &Context) -> Result<Outcome> {
    let began = Instant::now();
    let files = SiteFiles::open(&args.store, Resume::WhereItWas)?;
    let keys = SiteKeys::open(files.store())?;
    let Some(invitation) = enrolled(files.store())? else {
        bail!("this site is not enrolled; `fedgestalt site enrol` pins the consortium's invitation");
    };
    if keys.identity.rehearsal.is_some() {
        context.output.warn("a rehearsal: every secret follows from the seed; nothing is protected");
    }
    let (signed, roster) = invitation.roster()?;
    let index = roster.find_keys(&keys.key.public()).context("the pinned roster does not have this site")?;
    let http = Http::new(args.url.as_ref().unwrap_or(&invitation.url), &invitation.authority, true)?;
    let folder = Folder::open(&args.store.join("line"))?;

    let faces = FaceFinder::open(&context.config, None, false, 1)?;
    let before = patients::stamp(&args.cohort);
    let cohort = patients::open(&args.cohort, faces, &files)?;
    let blueprint = networks(context, &context.config, args.trunk.as_deref(), &cohort)?;
    let name = keys.identity.name.as_str().to_owned();
    let tables = prepare(context, &files, &blueprint, &cohort)?;
    let start = files.count_start()?;
    let seed = match keys.identity.rehearsal {
        Some(seed) => secret(seed, &format!("{name} start {start}")),
        None => fresh()?,
    };
    let setup = SiteSetup {
        key: keys.key.clone(),
        consortium: invitation.consortium,
        roster: signed,
        policy: context.config.policy.clone(),
        holdings: holdings(&cohort.cohort),
        group: None,
        seed,
    };
    let patients: Cohort = cohort.cohort.clone();
    let member = Member { name: name.clone(), cohort: patients, tables: Arc::new(tables), files };
    let mut site = open_site(setup, member, index, blueprint).with_context(|| name.clone())?;
    site.keeps_updates = true;
    site.participant().keep_outside();
    let counter = Counter::open(&args.store, cohort)?;
    let watched = Patients::new(&args.cohort, &context.config, before);
    let mut office = Office::new(context, &args, &folder, counter, watched)?;
    office.unsure = site.finished;
    let process = u64::from_le_bytes(fresh()?[..8].try_into()?) | 1;
    let node = folder.read_json(NODE)?;
    Outpost::new(&mut site, http, Arc::new(keys.line), process, node).run(&mut office)?;
    if let Some(reason) = &site.halted {
        bail!("{name} stopped: {reason}");
    }
    let release = site.release.as_ref().map(|signed| hex::encode(signed.release.digest()));
    let result = json!({
        "site": name,
        "release": release,
        "model": site.release.as_ref().map(|signed| hex::encode(signed.release.model)),
        "accuracies": site.accuracies,
        "rounds": site.records,
        "seconds": began.elapsed().as_secs_f64(),
        "peak_rss_mb": peak_rss_mb(),
    });
    context.output.result(&result, |_| match &release {
        Some(release) => format!("{name} holds release {release}"),
        None => format!("{name} was stopped; the same command goes on"),
    })?;
    Ok(Outcome::Done)
}

fn prepare(
    context: &Context,
    files: &SiteFiles,
    blueprint: &crate::pipeline::ensemble::Blueprint,
    cohort: &CohortDir,
) -> Result<Tables> {
    let total = cohort.cohort.cases().len() + Tables::steps(&[blueprint], &cohort.cohort);
    let stage = context.progress.stage("Import and trunk features", total as u64);
    let tick = |images| stage.advance(images as u64);
    let tables = patients::features(&context.config, files, blueprint, cohort, &tick)?;
    stage.finish(format_args!("{} images", cohort.cohort.cases().len()));
    Ok(tables)
}

/// The site's own affairs while it runs.
struct Office<'a> {
    context: &'a Context,
    folder: &'a Folder,
    counter: Counter,
    patients: Patients,
    /// An earlier process may not have brought the gallery up to date.
    unsure: bool,
    once: bool,
    store: PathBuf,
    stop: Arc<AtomicBool>,
    /// What was said last of the line.
    fault: Option<String>,
    up: bool,
    rounds: usize,
}

impl<'a> Office<'a> {
    fn new(
        context: &'a Context,
        args: &RunArgs,
        folder: &'a Folder,
        counter: Counter,
        patients: Patients,
    ) -> Result<Self> {
        let stop = crate::command::stop_flag()?;
        let (once, store) = (args.once, args.store.clone());
        let (fault, up, rounds, unsure) = (None, false, 0, false);
        Ok(Self { context, folder, counter, patients, unsure, once, store, stop, fault, up, rounds })
    }

    /// Brings the gallery up to date when the cohort's folder has changed.
    fn renew(&mut self, site: &mut Site) -> Result<Vec<Action>> {
        let progress = &self.context.progress;
        if std::mem::take(&mut self.unsure) {
            let (actions, change) = site.refresh()?;
            if !actions.is_empty() {
                progress.say(told(change));
            }
            return Ok(actions);
        }
        match self.patients.changed(site) {
            None => Ok(Vec::new()),
            Some(Ok(Prepared { cohort, tables })) => {
                let (actions, change) = site.renew(cohort.cohort.clone(), Arc::new(tables))?;
                self.counter.renew(cohort);
                progress.say(told(change));
                Ok(actions)
            }
            Some(Err(error)) => {
                progress.say(format_args!(
                    "the cohort has changed and cannot be used, so the gallery stays as it was: {error:#}"
                ));
                Ok(Vec::new())
            }
        }
    }

    fn tell_of_newcomers(&self, site: &mut Site) {
        for newcomer in std::mem::take(&mut site.newcomers) {
            let (name, store) = (site.participant().roster().name(newcomer), self.store.display());
            self.context.progress.say(format_args!(
                "{name}, which the consortium has admitted, asks for the group key; if it shall have it from this site: \
                 fedgestalt site approve --store {store} {name}"
            ));
        }
    }
}

fn told(GalleryChange { images, new, withdrawn }: GalleryChange) -> String {
    format!("this site's gallery has {images} images now ({new} new, {withdrawn} withdrawn)")
}

impl Desk<Site> for Office<'_> {
    fn attend(&mut self, site: &mut Site) -> Result<Vec<Action>> {
        if site.records.len() > self.rounds {
            self.rounds = site.records.len();
            self.context.progress.say(format_args!("round {} is in the model", self.rounds));
        }
        self.tell_of_newcomers(site);
        let mut actions = self.counter.attend(site)?;
        if site.finished {
            actions.extend(self.renew(site)?);
        }
        Ok(actions)
    }

    fn event(&mut self, event: &Event) {
        self.context.progress.say(crate::command::told(event, |site| format!("site {}", site.0)));
    }

    fn line(&mut self, fault: Option<&str>) {
        match fault {
            None if !self.up => self.context.progress.say("connected to the coordinator"),
            Some(fault) if self.fault.as_deref() != Some(fault) => {
                self.context.progress.say(format_args!("{fault}; trying again"));
            }
            _ => {}
        }
        self.up = fault.is_none();
        self.fault = fault.map(str::to_owned);
    }

    fn activated(&mut self, node: u64) -> Result<()> {
        Ok(self.folder.write_json(NODE, &node)?)
    }

    fn done(&mut self, site: &mut Site) -> bool {
        self.once && site.finished
    }

    fn stop(&mut self, site: &mut Site) -> bool {
        site.halted.is_some() || self.stop.load(Ordering::Relaxed)
    }
}
