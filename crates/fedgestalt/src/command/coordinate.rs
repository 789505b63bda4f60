//! `coordinate`: the coordinator of a consortium.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use federation::{CoordinatorSetup, Plan, Roster, SiteIndex};
use serde_json::json;

use super::engine;
use crate::Outcome;
use crate::cli::ScheduleArgs;
use crate::config::Config;
use crate::consortium::coordinator::{CoordinatorNode, Resume};
use crate::consortium::federated::plan_of;
use crate::consortium::{peak_rss_mb, secret};
use crate::context::Context;
use crate::engine::flower::coordinator::{Admission, Hub, Line, Link, Patience, Report, Seat, Watcher};
use crate::engine::flower::http::Http;
use crate::engine::flower::proxy::{Limits, Proxy};
use crate::engine::flower::runtime::Control;
use crate::engine::flower::superlink::{self, Superlink};
use crate::engine::flower::tls;
use crate::engine::host::{Event, Standing};
use crate::enrolment::{Consortium, Request, fresh};
use crate::output::Table;
use crate::pipeline::engines::Engines;
use crate::pipeline::ensemble::Blueprint;
use crate::store::Folder;

const RUN: &str = "run.json";
/// The sites whose part is over.
const LEFT: &str = "left.json";

/// Arguments of `coordinate`.
#[derive(Debug, Args)]
#[command(
    long_about = "Run the coordinator of a consortium: start the SuperLink, front it with TLS, wait for the sites, train \
    with them, evaluate, have the release signed, and then rank masked photographs until it is stopped. It holds no \
    photograph, encoding, single update, syndrome's name or (blind mode) model.\n\nWhile the kernel is open, `consortium admit` \
    lets further sites in.\n\nStopped or killed, the same command goes on \
    where it was."
)]
pub struct CoordinateArgs {
    /// Folder of the consortium that `consortium create` made
    #[arg(long, value_name = "DIR", default_value = "consortium")]
    pub store: PathBuf,
    /// Address and port to listen on [default: every address, the port of the invitation]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Virtual environment with the SuperLink; `engine install` makes it
    #[arg(long, value_name = "DIR", default_value = engine::DEFAULT, conflicts_with = "superlink")]
    pub engine: PathBuf,
    /// Use a SuperLink that runs already, at https://HOST:PORT on this machine or network; sites still come through the front
    #[arg(long, value_name = "URL", requires = "superlink_authority")]
    pub superlink: Option<String>,
    /// What vouches for that SuperLink's certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "superlink")]
    pub superlink_authority: Option<PathBuf>,
    /// The secret file that it was started with (--superexec-auth-secret-file)
    #[arg(long, value_name = "FILE", requires = "superlink")]
    pub superlink_secret: Option<PathBuf>,
    /// Frozen face network (ONNX) that sites train on [default: from the configuration, the shipped one]
    #[arg(long, value_name = "FILE")]
    pub trunk: Option<PathBuf>,
    /// How long to train, and the seed.
    #[command(flatten)]
    pub schedule: ScheduleArgs,
    /// Rare galleries that are evaluated
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=30))]
    pub splits: u8,
    /// Seconds to wait for a site that is offline before going on without it
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    pub absent: u64,
    /// Seconds to wait for a site that is online and silent: it may be training
    #[arg(long, value_name = "SECONDS", default_value_t = 14_400)]
    pub silent: u64,
    /// End when the release is signed, instead of serving the kernel
    #[arg(long)]
    pub once: bool,
}

/// Coordinates.
///
/// # Errors
///
/// When the SuperLink does not start, the port is taken, a key does not fit, or the session cannot go on.
pub fn run(args: CoordinateArgs, context: &Context) -> Result<Outcome> {
    let began = Instant::now();
    let mut config = context.config.clone();
    args.schedule.apply(&mut config)?;
    config.check()?;
    let consortium = Consortium::open(&args.store)?;
    if consortium.charter.rehearsal.is_some() {
        context.output.warn("a rehearsal: every secret follows from the seed; nothing is protected");
    }
    let (signed, _, requests) = consortium.roster()?;
    let setup = CoordinatorSetup {
        key: consortium.coordinator_key()?,
        consortium: consortium.public()?,
        roster: signed,
    };
    let (mut node, resumed) =
        CoordinatorNode::open(consortium.subfolder("coordinator")?, setup, Resume::WhereItWas)?;
    let roster = node.coordinator.roster().clone();
    let first = match resumed {
        Some(actions) => {
            context.output.note("going on with the session that was under way");
            actions
        }
        None => {
            let plan = new_plan(&args, &config, &consortium, &roster)?;
            node.coordinator.start(plan)?
        }
    };
    let (http, link) = connect(&args, &consortium)?;
    let front = front(&args, &consortium, &http, &link)?;
    context.progress.say(format_args!(
        "sites reach this coordinator at {}, listening on {}",
        consortium.charter.url,
        front.address()
    ));
    let folder = consortium.subfolder("engine")?;
    end_old_run(&folder, &http, &link);
    let seats = seats(&roster, &requests, &left(&folder)?)?;
    let patience =
        Patience { absent: Duration::from_secs(args.absent), silent: Duration::from_secs(args.silent) };
    let process = u64::from_le_bytes(fresh()?[..8].try_into()?) | 1;
    let before = node.before.bytes();
    // From here on sites may be admitted.
    drop(consortium);
    let mut hub = Hub::new(&mut node, http, front.exchange(), link, seats, patience, process)?;
    hub.submit(first);
    let mut watcher = Console::new(context, &args, &folder, &roster, before)?;
    let ended = hub.run(&mut watcher);
    let lines = watcher.lines.clone();
    ended?;
    summary(context, &node, &front, &lines, began)
}

fn new_plan(
    args: &CoordinateArgs,
    config: &Config,
    consortium: &Consortium,
    roster: &Roster,
) -> Result<Plan> {
    let engines = Engines::new(config, None);
    let blueprint = Blueprint::load(config, args.trunk.as_deref(), &engines)?;
    let session = match consortium.charter.rehearsal {
        Some(seed) => secret(seed, "session"),
        None => fresh()?,
    };
    plan_of(config, &blueprint, roster, args.splits, session[..16].try_into()?)
}

fn connect(args: &CoordinateArgs, consortium: &Consortium) -> Result<(Http, Link)> {
    let Some(url) = &args.superlink else {
        let superlink =
            Superlink::start(&std::path::absolute(&args.engine)?, consortium.subfolder("superlink")?)?;
        let http = Http::new(&superlink.url(), superlink.authority(), false)?;
        return Ok((http, Link::Own(Box::new(superlink))));
    };
    let read =
        |file: &PathBuf| std::fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    let authority = args.superlink_authority.as_ref().context("--superlink needs --superlink-authority")?;
    let authority = String::from_utf8(read(authority)?).context("the authority is not PEM")?;
    let http = Http::new(url, &authority, false)?;
    superlink::check_version(&superlink::running_version(&http)?)?;
    Ok((http, Link::Foreign(args.superlink_secret.as_ref().map(read).transpose()?)))
}

fn front(args: &CoordinateArgs, consortium: &Consortium, http: &Http, link: &Link) -> Result<Proxy> {
    let (chain, key) = consortium.certificate()?;
    let port = |url: &str| url.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    let listen = match args.listen {
        Some(address) => address,
        None => {
            let port = port(&consortium.charter.url).context("the invitation's address has no port")?;
            SocketAddr::new(IpAddr::from([0, 0, 0, 0]), port)
        }
    };
    let upstream = match link {
        Link::Own(superlink) => tls::client(superlink.authority())?,
        Link::Foreign(_) => {
            let authority =
                args.superlink_authority.as_ref().context("--superlink needs --superlink-authority")?;
            tls::client(&std::fs::read_to_string(authority)?)?
        }
    };
    let port = port(http.url()).context("the SuperLink's address has no port")?;
    Proxy::start(listen, tls::server(&chain, &key)?, upstream, port, Limits::default())
}

/// A run that a killed coordinator has left behind holds messages that nobody will fetch.
fn end_old_run(folder: &Folder, http: &Http, link: &Link) {
    let secret = match link {
        Link::Own(superlink) => Some(superlink.secret()),
        Link::Foreign(secret) => secret.as_deref(),
    };
    if let Ok(Some(run)) = folder.read_json::<u64>(RUN) {
        // It may have ended by itself.
        let _ = Control::new(http, secret).stop(run);
    }
}

fn left(folder: &Folder) -> Result<BTreeSet<u16>> {
    Ok(folder.read_json(LEFT)?.unwrap_or_default())
}

/// The sites of the roster with the keys they connect with; each vouched for by the key in the roster.
fn seats(roster: &Roster, requests: &[Request], left: &BTreeSet<u16>) -> Result<Vec<Seat>> {
    roster
        .sites()
        .map(|(site, name, keys)| {
            let Some(request) = requests.iter().find(|request| request.keys == *keys) else {
                bail!("requests.json lacks the request of {name}; admit it again");
            };
            request.check()?;
            let (name, key, left) = (name.to_string(), request.line.clone(), left.contains(&site.0));
            Ok(Seat { site, name, key, left })
        })
        .collect()
}

/// What is shown of the loop, and who is let in.
struct Console<'a> {
    context: &'a Context,
    /// The consortium's folder, and its roster's file when it was looked at last.
    store: PathBuf,
    looked: Option<SystemTime>,
    folder: &'a Folder,
    once: bool,
    stop: Arc<AtomicBool>,
    names: BTreeMap<SiteIndex, String>,
    shown: String,
    at: Instant,
    over: bool,
    /// Bytes that earlier processes moved.
    before: u64,
    lines: Vec<(String, u64, u64)>,
}

impl<'a> Console<'a> {
    fn new(
        context: &'a Context,
        args: &CoordinateArgs,
        folder: &'a Folder,
        roster: &Roster,
        before: u64,
    ) -> Result<Self> {
        let stop = super::stop_flag()?;
        let names = roster.sites().map(|(site, name, _)| (site, name.to_string())).collect();
        let (shown, at) = (String::new(), Instant::now());
        let (once, lines, store) = (args.once, Vec::new(), args.store.clone());
        let looked = None;
        Ok(Self { context, store, looked, folder, once, stop, names, shown, at, over: false, before, lines })
    }

    fn name(&self, site: SiteIndex) -> String {
        self.names.get(&site).cloned().unwrap_or_else(|| format!("site {}", site.0))
    }
}

impl Watcher for Console<'_> {
    fn event(&mut self, event: &Event) {
        self.context.progress.say(super::told(event, |site| self.name(site)));
    }

    fn report(&mut self, report: &Report<'_>) {
        let Standing { stage, starts, rounds, tuning, moments, awaited, serving, .. } = report.standing;
        let online = report.lines.values().filter(|line| line.online).count();
        let bytes: u64 = report.lines.values().map(|line: &Line| line.up + line.down).sum();
        let bytes = self.before + bytes;
        let at = match (stage, serving) {
            (_, true) => "the kernel is open".to_owned(),
            (0, _) => "enrolment".to_owned(),
            (stage, _) if *stage <= *starts => "the members' start".to_owned(),
            (stage, _) if *stage <= starts + rounds => format!("round {} of {rounds}", stage - starts),
            (stage, _) if *stage <= *tuning => "the best round".to_owned(),
            (stage, _) if *stage == tuning + 1 && *moments > 0 => "closed forms".to_owned(),
            (stage, _) if *stage <= tuning + moments => {
                format!("closed forms, step {} of {}", stage - tuning - 1, moments - 1)
            }
            _ => "evaluation and release".to_owned(),
        };
        let awaited: Vec<String> = awaited.iter().map(|&site| self.name(site)).collect();
        let waits =
            if awaited.is_empty() { String::new() } else { format!("; waiting for {}", awaited.join(", ")) };
        let text = format!("{at}: {online} of {} sites online{waits}", report.lines.len());
        if text != self.shown || self.at.elapsed() > Duration::from_secs(300) {
            self.context.progress.say(format_args!("{text}; {:.1} MB so far", bytes as f64 / 1e6));
            self.shown = text;
            self.at = Instant::now();
        }
        self.lines = report.lines.values().map(|line| (line.name.clone(), line.up, line.down)).collect();
        self.over = self.once && *serving && report.quiet;
    }

    fn admitted(&mut self, known: u64) -> Result<Option<Admission>> {
        let written = Consortium::roster_written(&self.store);
        if written == self.looked {
            return Ok(None);
        }
        // Whoever is writing it has the folder's lock.
        let Ok(consortium) = Consortium::open(&self.store) else { return Ok(None) };
        let (signed, roster, requests) = consortium.roster()?;
        drop(consortium);
        self.looked = written;
        if roster.serial() <= known {
            return Ok(None);
        }
        self.names.extend(roster.sites().map(|(site, name, _)| (site, name.to_string())));
        let seats = seats(&roster, &requests, &left(self.folder)?)?;
        Ok(Some(Admission { roster: signed, seats }))
    }

    fn stop(&mut self) -> bool {
        self.over || self.stop.load(Ordering::Relaxed)
    }

    fn run_started(&mut self, run: u64) -> Result<()> {
        Ok(self.folder.write_json(RUN, &run)?)
    }

    fn left(&mut self, site: SiteIndex) -> Result<()> {
        let mut sites = left(self.folder)?;
        sites.insert(site.0);
        Ok(self.folder.write_json(LEFT, &sites)?)
    }
}

fn summary(
    context: &Context,
    node: &CoordinatorNode,
    front: &Proxy,
    lines: &[(String, u64, u64)],
    began: Instant,
) -> Result<Outcome> {
    let release = node.coordinator.released().map(|signed| &signed.release);
    let result = json!({
        "release": release.map(|release| hex::encode(release.digest())),
        "model": release.map(|release| hex::encode(release.model)),
        "metrics": release.map(|release| &release.metrics),
        "serving": node.finished,
        "sites": lines.iter().map(|(name, up, down)| json!({ "site": name, "bytes_up": up, "bytes_down": down })).collect::<Vec<_>>(),
        "front": {
            "requests": front.counts().passed.load(Ordering::Relaxed),
            "refused": front.counts().refused.load(Ordering::Relaxed),
            "bytes_up": front.counts().up.load(Ordering::Relaxed),
            "bytes_down": front.counts().down.load(Ordering::Relaxed),
        },
        "seconds": began.elapsed().as_secs_f64(),
        "peak_rss_mb": peak_rss_mb(),
    });
    context.output.result(&result, |result| {
        let mut table = Table::new(["site", "MB up", "MB down"]);
        for (name, up, down) in lines {
            table.row([
                name.clone(),
                format!("{:.1}", *up as f64 / 1e6),
                format!("{:.1}", *down as f64 / 1e6),
            ]);
        }
        match result["release"].as_str() {
            Some(release) => format!("{table}\nRelease {release}"),
            None => format!("{table}\nNo release yet; the same command goes on."),
        }
    })?;
    Ok(Outcome::Done)
}
