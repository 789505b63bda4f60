//! What an engine costs by itself: whole sessions of the federation in which training takes no time.
//!
//! `reference/bench_flower.py` runs it: the local engine in one process, or coordinator and sites as processes over a
//! stock SuperLink. Every message is a real one; what stands in for the model is a vector of any length.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use domain::evaluate::HitCounts;
use domain::{ImageId, Normalisation, Pooling, SyndromeId};
use federation::*;
use fedgestalt::consortium::coordinator::{CoordinatorNode, Resume};
use fedgestalt::consortium::peak_rss_mb;
use fedgestalt::engine::flower::coordinator::{Admission, Hub, Link, Patience, Report, Seat, Watcher};
use fedgestalt::engine::flower::http::Http;
use fedgestalt::engine::flower::key::LineKey;
use fedgestalt::engine::flower::proxy::{Limits, Proxy};
use fedgestalt::engine::flower::site::{Desk, Outpost};
use fedgestalt::engine::flower::superlink::Superlink;
use fedgestalt::engine::flower::tls;
use fedgestalt::engine::host::{CoordinatorHost, Event, Host, SiteHost, Standing, Traffic};
use fedgestalt::engine::local::Local;
use fedgestalt::store::{Folder, Scratch};
use jiff::Timestamp;
use serde_json::json;

const SYNDROMES: usize = 322;

#[derive(Debug, Clone, Parser)]
struct Args {
    #[command(subcommand)]
    part: Part,
    #[arg(long, global = true, default_value_t = 4)]
    sites: usize,
    /// Parameters of the model
    #[arg(long, global = true, default_value_t = 13_000_000)]
    parameters: usize,
    #[arg(long, global = true, default_value_t = 5, value_parser = clap::value_parser!(u32).range(3..))]
    rounds: u32,
    /// Images in the gallery of all sites together; 0 for no kernel
    #[arg(long, global = true, default_value_t = 0)]
    gallery: usize,
    /// Length of an encoding: by default that of the default ensemble; the paper's has 6144
    #[arg(long, global = true, default_value_t = 1536)]
    dim: usize,
    /// Where coordinator and sites find each other
    #[arg(long, global = true, default_value = "bench")]
    folder: PathBuf,
    /// Virtual environment with the SuperLink
    #[arg(long, global = true, default_value = "engine")]
    engine: PathBuf,
}

#[derive(Debug, Clone, Subcommand)]
enum Part {
    /// Everybody in this process
    Local,
    /// The coordinator; ends when the last round begins, or with a gallery when it is told to
    Coordinator,
    /// One site
    Site { at: usize },
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.part {
        Part::Local => local(&args),
        Part::Coordinator => coordinator(&args),
        Part::Site { at } => site(&args, at),
    }
}

fn seed(what: u8, at: usize) -> [u8; 32] {
    let mut seed = [what; 32];
    seed[0] = at as u8;
    seed
}

fn roster(sites: usize) -> Roster {
    let site =
        |at| (SiteName::new(&format!("site-{at}")).unwrap(), SiteKey::from_seed(&seed(1, at)).public());
    let coordinator = CoordinatorKey::from_seed(&seed(2, 0)).public();
    Roster::new("bench", 1, coordinator, (0..sites).map(site).collect()).unwrap()
}

fn consortium() -> ConsortiumKey {
    ConsortiumKey::from_seed(&seed(3, 0))
}

fn line_key(at: usize) -> LineKey {
    LineKey::from_secret(&[at as u8 + 1; 48]).unwrap()
}

fn plan(args: &Args) -> Plan {
    let spec =
        |name: &str, shape: Vec<usize>, kind| TensorSpec { name: name.into(), shape, range: 2.0, kind };
    let recipe = RecipePlan {
        batch: 8,
        neck_lr: 1e-3,
        neck_wd: 0.0,
        classifier_lr: 1e-3,
        classifier_wd: 0.0,
        dropout: 0.5,
        classifier: federation::Classifier::Linear,
    };
    let tensors = vec![
        spec("neck.weight", vec![args.parameters - SYNDROMES], TensorKind::Encoder),
        spec("classifier.bias", vec![], TensorKind::ClassifierRows),
    ];
    let kernel = KernelPlan {
        dim: args.dim,
        width: args.dim,
        views: 1,
        splits: 1,
        top: 30,
        pooling: Pooling::Soft(8.0),
        normalisation: Normalisation::Z(0.75),
        distance_step: 0.001,
        answers_per_site: 1000,
        weighed: None,
    };
    Plan {
        session: [77; 16],
        seed: 11,
        roster: roster(args.sites).digest(),
        members: vec![MemberPlan { name: "model".into(), recipe, trunk: [3; 32], tensors }],
        forms: Vec::new(),
        starts: Vec::new(),
        epochs: args.rounds,
        interval: 1,
        aggregation: Aggregation::SampleWeighted,
        tuning: federation::Tuning::default(),
        rows: Rows::All,
        blind: true,
        min_cohort: 1,
        kernel: (args.gallery > 0).then_some(kernel),
    }
}

/// A site whose training takes no time.
struct BenchSite {
    participant: Participant,
    at: usize,
    gallery: usize,
    dim: usize,
    sites: usize,
    model: Tensors,
    begin: Option<Begin>,
    folder: Folder,
    scratch: Scratch,
    asked: Option<Instant>,
    answers: Vec<f64>,
    serving: bool,
}

/// A vector of unit length, another for every number.
fn encoding(number: usize, dim: usize) -> Vec<f32> {
    let mut state = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut values: Vec<f32> = (0..dim).map(|_| draw()).collect();
    let norm = values.iter().map(|x| x * x).sum::<f32>().sqrt();
    values.iter_mut().for_each(|x| *x /= norm);
    values
}

fn syndrome(at: usize) -> SyndromeId {
    SyndromeId::new(&format!("{}", 100 + at % SYNDROMES)).unwrap()
}

impl BenchSite {
    fn new(args: &Args, at: usize) -> Result<Self> {
        let folder = Folder::open(&args.folder.join(format!("site-{at}")))?;
        let setup = SiteSetup {
            key: SiteKey::from_seed(&seed(1, at)),
            consortium: consortium().public(),
            roster: roster(args.sites).sign(&consortium()),
            policy: Policy::default(),
            holdings: (0..SYNDROMES).map(|n| (syndrome(n), 2)).collect::<BTreeMap<_, _>>(),
            group: None,
            seed: seed(4, at),
        };
        Ok(Self {
            participant: Participant::new(setup)?,
            at,
            gallery: args.gallery,
            dim: args.dim,
            sites: args.sites,
            model: Vec::new(),
            begin: None,
            folder,
            scratch: Scratch::default(),
            asked: None,
            answers: Vec::new(),
            serving: false,
        })
    }

    fn question(&mut self) -> Result<Vec<Action>> {
        self.asked = Some(Instant::now());
        let number = 1_000_000 + 1000 * self.at + self.answers.len();
        let image = ImageId::new(&format!("question-{number}"))?;
        Ok(self.participant.submit_probes(vec![Probe {
            image,
            galleries: vec![1],
            encoding: encoding(number, self.dim),
        }])?)
    }
}

impl Host for BenchSite {
    fn handle(&mut self, bytes: Bytes) -> Result<Vec<Action>, Refusal> {
        self.participant.handle(bytes)
    }

    fn perform(&mut self, action: Action) -> Result<Vec<Action>> {
        Ok(match action {
            Action::Begin(begin) => {
                let tensors = begin.plan.members[0].tensors.iter();
                let length = |spec: &TensorSpec| match spec.kind {
                    TensorKind::ClassifierRows => begin.trained.len(),
                    _ => spec.shape.iter().product(),
                };
                self.model = vec![tensors.map(|spec| vec![0.0; length(spec)]).collect()];
                self.begin = Some(*begin);
                self.participant.model_applied(&self.model)?
            }
            Action::Train { round, .. } => {
                // Others at every site and in every round, so that no piece travels twice.
                let first = round as usize * 7 + self.at;
                let values = || (0..1000).cycle().skip(first).map(|number| number as f32 * 1e-5);
                let tensor = |tensor: &Vec<f32>| values().take(tensor.len()).collect();
                let deltas = vec![self.model[0].iter().map(tensor).collect()];
                self.participant
                    .submit_update(deltas, RoundMetrics { images: 10.0, ..RoundMetrics::default() })?
            }
            Action::Keep { stage, words } => {
                self.scratch.keep(&self.folder, stage, &words)?;
                Vec::new()
            }
            Action::Recall { stage } => self.participant.recalled(stage, self.scratch.recall(stage)?)?,
            Action::Apply(apply) => {
                for (values, deltas) in self.model[0].iter_mut().zip(&apply.deltas[0]) {
                    values.iter_mut().zip(deltas).for_each(|(value, delta)| *value += delta);
                }
                self.participant.model_applied(&self.model)?
            }
            Action::Encode(_) => {
                let own = (0..self.gallery).filter(|n| n % self.sites == self.at);
                let image = |n| {
                    let image = ImageId::new(&format!("image-{n}")).unwrap();
                    GalleryImage {
                        image,
                        syndrome: syndrome(n),
                        galleries: 1,
                        encoding: encoding(n, self.dim),
                    }
                };
                self.participant.submit_gallery(own.map(image).collect())?
            }
            Action::Ask => {
                let mut actions = self.participant.submit_probes(Vec::new())?;
                let all = self.begin.as_ref().context("no session")?.all.len();
                actions.extend(self.participant.submit_metrics(HitCounts::new(all, 1).as_words().to_vec())?);
                actions
            }
            Action::Answers(_) => {
                if let Some(asked) = self.asked.take() {
                    self.answers.push(asked.elapsed().as_secs_f64());
                }
                Vec::new()
            }
            Action::Publish => self.participant.publish(&self.model, "A vector.")?,
            Action::Save => {
                self.folder.write("participant.state", &self.participant.snapshot())?;
                Vec::new()
            }
            Action::Finished => {
                self.serving = true;
                Vec::new()
            }
            Action::Halt { reason } => bail!(reason),
            _ => Vec::new(),
        })
    }

    fn sends(&mut self, _: &Outgoing) -> Result<()> {
        Ok(())
    }
}

impl SiteHost for BenchSite {
    fn rejoin(&mut self) -> Result<Vec<Action>> {
        match self.participant.rejoin() {
            Err(refusal) if refusal.kind() == RefusalKind::OutOfPhase => Ok(Vec::new()),
            actions => Ok(actions?),
        }
    }

    fn before_encoding(_: &mut [&mut Self]) -> Result<()> {
        Ok(())
    }

    fn foreign(&mut self, _: &str) -> Result<()> {
        Ok(())
    }
}

/// The coordinator, which notes when each stage began.
struct Timed {
    node: CoordinatorNode,
    began: BTreeMap<u32, Instant>,
}

impl Timed {
    fn open(args: &Args) -> Result<(Self, Vec<Action>)> {
        let setup = CoordinatorSetup {
            key: CoordinatorKey::from_seed(&seed(2, 0)),
            consortium: consortium().public(),
            roster: roster(args.sites).sign(&consortium()),
        };
        let folder = Folder::open(&args.folder.join("coordinator"))?;
        let (mut node, _) = CoordinatorNode::open(folder, setup, Resume::WhereItWas)?;
        let actions = node.coordinator.start(plan(args))?;
        Ok((Self { node, began: BTreeMap::new() }, actions))
    }

    /// Mean seconds from the begin of one round to that of the next, without the first one, in which files and memory grow.
    fn seconds_per_round(&self, rounds: u32) -> Option<f64> {
        let all = self.began.get(&rounds)?.duration_since(*self.began.get(&2)?);
        Some(all.as_secs_f64() / f64::from(rounds - 2))
    }
}

impl Host for Timed {
    fn handle(&mut self, bytes: Bytes) -> Result<Vec<Action>, Refusal> {
        let actions = self.node.handle(bytes);
        self.began.entry(self.node.coordinator.stage()).or_insert_with(Instant::now);
        actions
    }

    fn perform(&mut self, action: Action) -> Result<Vec<Action>> {
        self.node.perform(action)
    }

    fn sends(&mut self, message: &Outgoing) -> Result<()> {
        self.node.sends(message)
    }
}

impl CoordinatorHost for Timed {
    fn deadline(&mut self) -> Result<Vec<Action>, Refusal> {
        self.node.deadline()
    }

    fn retry(&mut self) -> Result<Vec<Action>> {
        self.node.retry()
    }

    fn standing(&self) -> Standing {
        self.node.standing()
    }

    fn roster(&self) -> u64 {
        self.node.roster()
    }

    fn adopt_roster(&mut self, signed: &SignedRoster) -> Result<Result<Vec<Action>, Refusal>> {
        self.node.adopt_roster(signed)
    }

    fn checkpoint(&mut self, traffic: &Traffic, events: &[Event]) -> Result<()> {
        self.node.checkpoint(traffic, events)
    }
}

fn local(args: &Args) -> Result<()> {
    let (mut coordinator, actions) = Timed::open(args)?;
    let mut sites = (0..args.sites).map(|at| BenchSite::new(args, at)).collect::<Result<Vec<_>>>()?;
    let mut engine = Local::new(&mut coordinator, &mut sites, Vec::new(), args.rounds);
    engine.submit(Party::Coordinator, actions);
    engine.run(|coordinator, _| coordinator.node.finished)?;
    let up: u64 = engine.traffic.up.values().sum();
    drop(engine);
    let result = json!({
        "seconds_per_round": coordinator.seconds_per_round(args.rounds),
        "bytes_up": up,
        "peak_rss_mb": peak_rss_mb(),
    });
    println!("{result}");
    Ok(())
}

struct Quiet {
    folder: PathBuf,
    rounds: u32,
    kernel: bool,
    traffic: (u64, u64),
}

impl Watcher for Quiet {
    fn event(&mut self, event: &Event) {
        eprintln!("{event}");
    }

    fn report(&mut self, report: &Report<'_>) {
        let lines = report.lines.values();
        self.traffic = lines.fold((0, 0), |(up, down), line| (up + line.up, down + line.down));
        let over = if self.kernel { report.standing.serving } else { report.standing.stage >= self.rounds };
        if over {
            let _ = fs::write(self.folder.join("over"), "");
        }
    }

    fn admitted(&mut self, _: u64) -> Result<Option<Admission>> {
        Ok(None)
    }

    fn stop(&mut self) -> bool {
        self.folder.join(if self.kernel { "enough" } else { "over" }).exists()
    }

    fn run_started(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn left(&mut self, _: SiteIndex) -> Result<()> {
        Ok(())
    }
}

fn coordinator(args: &Args) -> Result<()> {
    let (mut host, actions) = Timed::open(args)?;
    let folder = Folder::open(&args.folder.join("superlink"))?;
    let superlink = Superlink::start(&std::path::absolute(&args.engine)?, folder)?;
    let http = Http::new(&superlink.url(), superlink.authority(), false)?;
    let identity = tls::make(&["127.0.0.1".to_owned()], "bench", Timestamp::now())?;
    let front = Proxy::start(
        "127.0.0.1:0".parse()?,
        tls::server(&identity.chain, &identity.key)?,
        tls::client(superlink.authority())?,
        superlink.port(),
        Limits::default(),
    )?;
    fs::write(args.folder.join("authority.pem"), &identity.authority)?;
    fs::write(args.folder.join("url"), format!("https://{}", front.address()))?;
    let seat = |at: usize| Seat {
        site: SiteIndex(at as u16),
        name: format!("site-{at}"),
        key: line_key(at).public_pem().to_owned(),
        left: false,
    };
    let patience = Patience { absent: Duration::from_secs(900), silent: Duration::from_secs(900) };
    let seats = (0..args.sites).map(seat).collect();
    let mut hub =
        Hub::new(&mut host, http, front.exchange(), Link::Own(Box::new(superlink)), seats, patience, 1)?;
    hub.submit(actions);
    let mut watcher =
        Quiet { folder: args.folder.clone(), rounds: args.rounds, kernel: args.gallery > 0, traffic: (0, 0) };
    hub.run(&mut watcher)?;
    let counts = front.counts();
    let result = json!({
        "seconds_per_round": host.seconds_per_round(args.rounds),
        "bytes_up": watcher.traffic.0,
        "bytes_down": watcher.traffic.1,
        "front_up": counts.up.load(Ordering::Relaxed),
        "front_down": counts.down.load(Ordering::Relaxed),
        "peak_rss_mb": peak_rss_mb(),
    });
    println!("{result}");
    Ok(())
}

struct Bench<'a> {
    folder: &'a Path,
    questions: usize,
}

impl Desk<BenchSite> for Bench<'_> {
    fn attend(&mut self, host: &mut BenchSite) -> Result<Vec<Action>> {
        if host.serving && host.asked.is_none() && host.answers.len() < self.questions {
            return host.question();
        }
        Ok(Vec::new())
    }

    fn event(&mut self, event: &Event) {
        eprintln!("{event}");
    }

    fn line(&mut self, _: Option<&str>) {}

    fn activated(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn done(&mut self, _: &mut BenchSite) -> bool {
        false
    }

    fn stop(&mut self, host: &mut BenchSite) -> bool {
        if self.questions > 0 && host.answers.len() == self.questions {
            let _ = fs::write(self.folder.join("enough"), "");
            return true;
        }
        let end = if host.gallery > 0 { "enough" } else { "over" };
        self.folder.join(end).exists()
    }
}

fn site(args: &Args, at: usize) -> Result<()> {
    let file = |name: &str| args.folder.join(name);
    while !file("url").exists() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let http =
        Http::new(&fs::read_to_string(file("url"))?, &fs::read_to_string(file("authority.pem"))?, false)?;
    let mut host = BenchSite::new(args, at)?;
    // As `site run` does.
    host.participant.keep_outside();
    let questions = if args.gallery > 0 && at == 0 { 5 } else { 0 };
    let mut desk = Bench { folder: &args.folder, questions };
    let at_rest = peak_rss_mb();
    Outpost::new(&mut host, http, Arc::new(line_key(at)), at as u64 + 2, None).run(&mut desk)?;
    println!("{}", json!({ "answers": host.answers, "peak_rss_mb": peak_rss_mb(), "at_rest_mb": at_rest }));
    Ok(())
}
