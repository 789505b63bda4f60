//! The coordinator's loop: its host on one side, a run of the SuperLink on the other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use federation::{Action, Kind, Outgoing, Party, SiteIndex};
use jiff::Timestamp;

use super::exchange::Exchange;
use super::http::{CallError, Http};
use super::letter::Enclosed;
use super::link::CoordinatorLink;
use super::object::Assembly;
use super::runtime::{Control, Run, RunClient};
use super::superlink::Superlink;
use crate::engine::host::{CoordinatorHost, Event, Standing, Traffic, phase};

mod admission;
mod arrivals;
mod departures;

pub(super) use departures::IDLE;

pub use admission::Admission;

/// Seconds that an instruction lives.
const TTL: f64 = 86_400.0;
/// Between heartbeats of the run; the SuperLink ends it after sixty seconds without.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Between looks at who is online.
const LOOK: Duration = Duration::from_secs(2);
/// Attempts at a stage that are begun anew because a site was restarted; after that the others go on without it.
const REBIRTHS: u32 = 5;
/// How long nothing must be left to say or hear before all is said.
const SETTLE: Duration = Duration::from_secs(3);
/// How long a site that has said farewell is waited for: it leaves when it knows that it was heard.
const LEAVE: Duration = Duration::from_secs(10);
/// The kind of the one message that is the engine's own.
const FAREWELL: &str = "Farewell";
/// Pauses of an idle loop.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(400));

/// How long the coordinator waits for sites before it goes on without them, where the protocol allows that.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a site that is offline.
    pub absent: Duration,
    /// For a site that is online and says nothing: it may be training.
    pub silent: Duration,
}

/// One site as the engine sees it.
#[derive(Debug)]
pub struct Line {
    /// Its name in the roster.
    pub name: String,
    /// Whether its heartbeats arrive.
    pub online: bool,
    /// Bytes of messages from it.
    pub up: u64,
    /// Bytes of messages to it.
    pub down: u64,
    node: u64,
    activated: String,
    link: CoordinatorLink,
    /// Since when it is online or offline.
    since: Instant,
    /// When it said that its part is over.
    left: Option<Instant>,
}

impl Line {
    /// Whether the site has dealt with all that was said to it, or will not for good.
    fn is_done(&self, absent: Duration) -> bool {
        let dealt = self.link.is_heard() && self.link.backlog() == 0;
        match (self.online, self.left) {
            (true, Some(left)) => left.elapsed() > LEAVE,
            (true, None) => dealt,
            (false, left) => left.is_some() || dealt || self.since.elapsed() > absent,
        }
    }
}

/// A site that may connect.
#[derive(Debug, Clone)]
pub struct Seat {
    /// Its place in the roster.
    pub site: SiteIndex,
    /// Its name there.
    pub name: String,
    /// Public key of its line (PEM).
    pub key: String,
    /// It has said farewell to an earlier process of the coordinator.
    pub left: bool,
}

/// A reply whose objects are arriving.
struct Arriving {
    site: SiteIndex,
    ticket: u64,
    /// Its name, where it has objects.
    message: Option<String>,
    assembly: Assembly,
    /// When the object that is due was asked for last, or became due.
    asked: Instant,
}

/// What the loop tells of itself.
pub struct Report<'a> {
    /// What the coordinator is at.
    pub standing: &'a Standing,
    /// The sites by place in the roster; none where a place is retired.
    pub lines: &'a BTreeMap<SiteIndex, Line>,
    /// Whether every site has dealt with all that was said to it, has left, or was offline for too long.
    pub quiet: bool,
}

/// Told what happens.
pub trait Watcher {
    /// Something worth a line.
    fn event(&mut self, event: &Event);
    /// Called a few times a second.
    fn report(&mut self, report: &Report<'_>);
    /// A roster newer than the serial that is in force; asked for now and then while the kernel serves.
    ///
    /// # Errors
    ///
    /// When there is one and it cannot be used.
    fn admitted(&mut self, known: u64) -> Result<Option<Admission>>;
    /// Whether the loop shall end.
    fn stop(&mut self) -> bool;
    /// The number of the run, to be ended by the next process if this one is killed.
    ///
    /// # Errors
    ///
    /// When it cannot be kept.
    fn run_started(&mut self, run: u64) -> Result<()>;
    /// A site's part is over; to be known after a restart.
    ///
    /// # Errors
    ///
    /// When it cannot be kept.
    fn left(&mut self, site: SiteIndex) -> Result<()>;
}

/// Where the SuperLink is.
pub enum Link {
    /// One of our own.
    Own(Box<Superlink>),
    /// One that the operator runs, with the secret of its executors if it has one.
    Foreign(Option<Vec<u8>>),
}

/// The engine at the coordinator.
pub struct Hub<'a, C> {
    host: &'a mut C,
    http: Http,
    exchange: Arc<Exchange>,
    superlink: Link,
    lines: BTreeMap<SiteIndex, Line>,
    patience: Patience,
    run: Option<Run>,
    arriving: Vec<Arriving>,
    queue: VecDeque<Action>,
    traffic: Traffic,
    events: Vec<Event>,
    beaten: Instant,
    looked: Option<Instant>,
    /// When the SuperLink was asked for replies, and how many had been announced that the front did not see.
    pulled: Option<(Instant, u64)>,
    /// Messages that were taken in, and whose objects the SuperLink may drop, with their bytes.
    read: Vec<(String, u64)>,
    /// Instructions whose replies came without the SuperLink being asked for them: it may drop both.
    settled: Vec<String>,
    /// When there was something to do last.
    busy: Instant,
    waiting: (Standing, Instant),
    /// Since when all is said.
    quiet: Option<Instant>,
    /// Too few sites answered: who was missing. A new attempt begins when they are back.
    missing: Option<Vec<SiteIndex>>,
    /// Attempts begun anew for restarted sites, by stage.
    reborn: BTreeMap<u32, u32>,
    /// Sites of a newer roster that are being registered, and what follows.
    admitting: Option<(Vec<Seat>, Vec<Action>)>,
    /// Names this process on the lines.
    process: u64,
}

impl<'a, C: CoordinatorHost> Hub<'a, C> {
    /// An engine for these sites; the `exchange` is that of the front before it. Keys that the SuperLink does not know are
    /// registered with it, those that are no longer in the roster are taken back.
    ///
    /// # Errors
    ///
    /// When the SuperLink cannot be reached or refuses.
    pub fn new(
        host: &'a mut C,
        http: Http,
        exchange: Arc<Exchange>,
        superlink: Link,
        seats: Vec<Seat>,
        patience: Patience,
        process: u64,
    ) -> Result<Self> {
        let control = Control::new(&http, None);
        for node in &control.nodes()? {
            let ours = seats.iter().any(|seat| seat.key.as_bytes() == &node.public_key[..]);
            if !ours && node.status != "unregistered" {
                tracing::warn!(node = node.name, "not in the roster; its registration is taken back");
                control.unregister(node.node_id)?;
            }
        }
        let now = Instant::now();
        let mut hub = Self {
            host,
            http,
            exchange,
            superlink,
            lines: BTreeMap::new(),
            patience,
            run: None,
            arriving: Vec::new(),
            queue: VecDeque::new(),
            traffic: Traffic::default(),
            events: Vec::new(),
            beaten: now,
            looked: None,
            pulled: None,
            read: Vec::new(),
            settled: Vec::new(),
            busy: now,
            waiting: (Standing::default(), now),
            quiet: None,
            missing: None,
            reborn: BTreeMap::new(),
            admitting: None,
            process,
        };
        hub.seat(&seats)?;
        Ok(hub)
    }

    /// Queues what the coordinator does first.
    pub fn submit(&mut self, actions: Vec<Action>) {
        self.queue.extend(actions);
    }

    /// The host.
    pub fn host(&mut self) -> &mut C {
        self.host
    }

    /// What was sent so far.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Runs until the watcher ends it, or the session cannot go on.
    ///
    /// # Errors
    ///
    /// When the session was halted, the SuperLink ends again and again, or a file cannot be written.
    pub fn run(&mut self, watcher: &mut dyn Watcher) -> Result<()> {
        let mut pause = PAUSE.0;
        let mut reported = Instant::now();
        let mut down = false;
        loop {
            self.perform(watcher)?;
            let arrivals = self.exchange.arrivals();
            if let Some(reason) = self.host.standing().halted {
                bail!("the session was halted: {reason}");
            }
            if reported.elapsed() > Duration::from_millis(250) {
                reported = Instant::now();
                let (standing, quiet) = (self.host.standing(), self.is_quiet());
                watcher.report(&Report { standing: &standing, lines: &self.lines, quiet });
                if watcher.stop() {
                    self.close();
                    return Ok(());
                }
            }
            match self.step(watcher) {
                Ok(true) => {
                    pause = PAUSE.0;
                    down = false;
                    continue;
                }
                Ok(false) => down = false,
                Err(error) => match error.downcast::<CallError>() {
                    Ok(call) if call.is_passing() => {
                        if !down {
                            tracing::warn!(%call, "the SuperLink does not answer; waiting for it");
                        }
                        down = true;
                        pause = PAUSE.1;
                    }
                    Ok(call) if call.is_unauthorised() || call.is_of_an_ended_run() => self.lose_run(),
                    Ok(call) => return Err(call.into()),
                    Err(error) => return Err(error),
                },
            }
            match down {
                true => std::thread::sleep(pause),
                false => self.exchange.wait_for_arrivals(arrivals, pause),
            }
            pause = (pause * 5 / 4).min(PAUSE.1);
        }
    }

    fn is_quiet(&mut self) -> bool {
        let done = |line: &Line| line.is_done(self.patience.absent);
        if self.arriving.is_empty() && self.queue.is_empty() && self.lines.values().all(done) {
            self.quiet.get_or_insert_with(Instant::now).elapsed() > SETTLE
        } else {
            self.quiet = None;
            false
        }
    }

    fn close(&self) {
        if let Some(run) = &self.run {
            let _ = RunClient { http: &self.http, run }.finish();
        }
    }

    /// One turn. True when something was done.
    fn step(&mut self, watcher: &mut dyn Watcher) -> Result<bool> {
        if let Link::Own(superlink) = &mut self.superlink
            && superlink.watch()?
        {
            self.looked = None;
            let text = "the SuperLink had ended and was started again".to_owned();
            tell(&mut self.events, watcher, Event::Notice(Party::Coordinator, text));
        }
        self.keep_run(watcher)?;
        self.look(watcher)?;
        let issued = self.issue()?;
        let pulled = self.pull(watcher)?;
        let arrived = self.assemble(watcher)?;
        self.watch_the_clock(watcher)?;
        if issued || pulled || arrived {
            self.busy = Instant::now();
            return Ok(true);
        }
        self.tidy()
    }

    fn keep_run(&mut self, watcher: &mut dyn Watcher) -> Result<()> {
        if let Some(run) = &self.run
            && self.beaten.elapsed() > HEARTBEAT
        {
            let alive = RunClient { http: &self.http, run }.heartbeat()?;
            self.beaten = Instant::now();
            if !alive {
                self.lose_run();
            }
        }
        if self.run.is_none() {
            let secret = match &self.superlink {
                Link::Own(superlink) => Some(superlink.secret()),
                Link::Foreign(secret) => secret.as_deref(),
            };
            let mut nonce = [0; 16];
            getrandom::fill(&mut nonce).ok().context("the system gives no random bytes")?;
            let started = Control::new(&self.http, secret).start(nonce, Timestamp::now());
            let run = started.map_err(|error| match error.downcast_ref::<CallError>() {
                // Not as of a run that has ended: another would be refused too.
                Some(call) if call.is_unauthorised() => anyhow!(
                    "the SuperLink gives this coordinator no run; --superlink-secret must name the file that it was started \
                     with ({call})"
                ),
                _ => error,
            })?;
            watcher.run_started(run.id)?;
            tracing::info!(run = run.id, "a run has begun");
            self.run = Some(run);
            self.beaten = Instant::now();
        }
        Ok(())
    }

    /// The run has ended under us: another will begin, and what was under way is sent again.
    fn lose_run(&mut self) {
        tracing::warn!("the run has ended on the SuperLink; another begins");
        self.run = None;
        self.pulled = None;
        self.read.clear();
        self.settled.clear();
        self.exchange.forget_letters();
        self.arriving.clear();
        self.lines.values_mut().for_each(|line| line.link.give_up_all());
    }

    /// Looks who is online, and who has come back.
    fn look(&mut self, watcher: &mut dyn Watcher) -> Result<()> {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return Ok(());
        }
        self.admit(watcher)?;
        let nodes = Control::new(&self.http, None).nodes()?;
        self.looked = Some(Instant::now());
        for (&site, line) in &mut self.lines {
            let Some(node) = nodes.iter().find(|node| node.node_id == line.node) else { continue };
            let online = node.status == "online";
            if online != line.online {
                line.online = online;
                line.since = Instant::now();
                let text = if online { "is online" } else { "is offline" };
                tell(&mut self.events, watcher, Event::Notice(Party::Site(site), text.to_owned()));
            }
            if online && node.last_activated_at != line.activated {
                if !line.activated.is_empty() {
                    let arriving = &self.arriving;
                    line.link
                        .came_back(|ticket| arriving.iter().any(|a| (a.site, a.ticket) == (site, ticket)));
                }
                line.activated.clone_from(&node.last_activated_at);
            }
        }
        if let Some(missing) = &self.missing
            && missing.iter().all(|site| self.lines.get(site).is_some_and(|line| line.online))
        {
            self.missing = None;
            let actions = self.host.retry()?;
            self.queue.extend(actions);
        }
        Ok(())
    }

    /// Performs what is queued; what follows an action comes before what was queued behind it.
    fn perform(&mut self, watcher: &mut dyn Watcher) -> Result<()> {
        while let Some(action) = self.queue.pop_front() {
            match action {
                Action::Send(message) => self.send(message),
                action => {
                    if let Action::Notice(text) = &action {
                        tell(&mut self.events, watcher, Event::Notice(Party::Coordinator, text.clone()));
                    }
                    let saves = matches!(action, Action::Save | Action::Finished);
                    let more = self.host.perform(action).context("coordinator")?;
                    if saves {
                        self.host.checkpoint(&self.traffic, &self.events)?;
                    }
                    for action in more.into_iter().rev() {
                        self.queue.push_front(action);
                    }
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, message: Outgoing) {
        let Party::Site(site) = message.to else { return };
        let Standing { tuning, moments, .. } = self.host.standing();
        *self.traffic.down.entry((site, phase(&message, tuning, moments))).or_default() +=
            message.bytes.len() as u64;
        if let Some(line) = self.lines.get_mut(&site) {
            line.link.post(enclosed(&message));
        }
    }

    /// Goes on without sites that were waited for long enough.
    fn watch_the_clock(&mut self, watcher: &mut dyn Watcher) -> Result<()> {
        let standing = self.host.standing();
        if standing != self.waiting.0 {
            self.waiting = (standing, Instant::now());
            return Ok(());
        }
        let awaited = &self.waiting.0.awaited;
        let waited = self.waiting.1.elapsed();
        let over = |site: &SiteIndex| match self.lines.get(site) {
            Some(line) if line.online => waited > self.patience.silent,
            Some(line) => waited.min(line.since.elapsed()) > self.patience.absent,
            None => true,
        };
        if awaited.is_empty() || !awaited.iter().all(over) {
            return Ok(());
        }
        let awaited = awaited.clone();
        self.waiting.1 = Instant::now();
        match self.host.deadline() {
            Ok(actions) => {
                tell(&mut self.events, watcher, Event::WentOn(awaited.clone()));
                for site in awaited {
                    if let Some(line) = self.lines.get_mut(&site) {
                        line.link.drop_backlog();
                    }
                }
                self.queue.extend(actions);
            }
            Err(refusal) => {
                tell(
                    &mut self.events,
                    watcher,
                    Event::Notice(Party::Coordinator, format!("{refusal}; waiting")),
                );
                self.missing = Some(awaited);
            }
        }
        Ok(())
    }
}

/// A message as it is enclosed in a letter.
pub(super) fn enclosed(message: &Outgoing) -> Enclosed {
    Enclosed { kind: format!("{:?}", message.kind), bytes: message.bytes.clone() }
}

/// What a site says last, when its part is over: so the coordinator need not wait for it any more.
pub(super) fn farewell() -> Enclosed {
    Enclosed { kind: FAREWELL.to_owned(), bytes: Default::default() }
}

/// Whether a message belongs to an attempt at a sum, which a restarted coordinator begins anew.
pub(super) fn is_of_an_attempt(message: &Enclosed) -> bool {
    [Kind::Advert, Kind::Shares, Kind::Input, Kind::Consent, Kind::Unmasking, Kind::Abstain]
        .iter()
        .any(|kind| format!("{kind:?}") == message.kind)
}

fn tell(events: &mut Vec<Event>, watcher: &mut dyn Watcher, event: Event) {
    tracing::debug!(?event);
    watcher.event(&event);
    events.push(event);
}

/// Seconds since the epoch, for Flower.
pub(super) fn unix() -> f64 {
    Timestamp::now().as_microsecond() as f64 / 1e6
}

/// Seconds on a clock that does not jump.
fn seconds() -> f64 {
    static ZERO: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    ZERO.get_or_init(Instant::now).elapsed().as_secs_f64()
}
