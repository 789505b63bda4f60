//! The local engine: coordinator and sites in one process, the same bytes as between hospitals.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context, Result, bail};
use federation::{Action, Kind, Outgoing, Party, SiteIndex};
use rayon::prelude::*;
use tracing::{debug, warn};

use super::host::{CoordinatorHost, Event, Observer, SiteHost, Traffic, phase};

/// When in its round a site vanishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vanish {
    /// After it handed out the shares of its masks, before its update arrives.
    BeforeUpload,
    /// After its update has arrived, before it helped to open the sum.
    AfterUpload,
}

/// A site that vanishes in a round and comes back when the round is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Drop {
    /// The site's place in the roster.
    pub site: SiteIndex,
    /// The round, from 1.
    pub round: u32,
    /// Where in the round.
    pub vanish: Vanish,
}

enum Task {
    Deliver(Outgoing),
    Perform(Party, Box<Action>),
}

/// Coordinator and sites in one process.
pub struct Local<'a, C, S> {
    /// The coordinator.
    pub coordinator: &'a mut C,
    /// The sites by place in the roster.
    pub sites: &'a mut [S],
    /// Who vanishes when.
    pub drops: Vec<Drop>,
    /// Stages of tuned members in the plan: tells counts, rounds and metrics apart in the accounts.
    pub tuning: u32,
    /// Stages after them that closed forms need: one for their sums, and one for each step that refines them.
    pub moments: u32,
    /// Bytes sent so far.
    pub traffic: Traffic,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// Told of each event as it happens.
    pub observer: Option<Observer<'a>>,
    away: BTreeMap<SiteIndex, u32>,
    applied: BTreeSet<u32>,
    queue: VecDeque<Task>,
}

/// Attempts of one stage before the engine gives up: with nobody left to come back, more would fail the same way.
const MAX_RETRIES: u32 = 3;

impl<'a, C: CoordinatorHost, S: SiteHost> Local<'a, C, S> {
    /// An engine with nothing under way.
    pub fn new(coordinator: &'a mut C, sites: &'a mut [S], drops: Vec<Drop>, tuning: u32) -> Self {
        Self {
            coordinator,
            sites,
            drops,
            tuning,
            moments: 0,
            traffic: Traffic::default(),
            events: Vec::new(),
            observer: None,
            away: BTreeMap::new(),
            applied: BTreeSet::new(),
            queue: VecDeque::new(),
        }
    }

    /// Queues a party's actions.
    pub fn submit(&mut self, party: Party, actions: Vec<Action>) {
        self.queue.extend(actions.into_iter().map(|action| Task::Perform(party, Box::new(action))));
    }

    /// Every site says that it is here again: how a session goes on in a new process.
    pub fn wake_everybody(&mut self) -> Result<()> {
        for at in 0..self.sites.len() {
            let actions = self.sites[at].rejoin()?;
            self.submit(Party::Site(SiteIndex(at as u16)), actions);
        }
        Ok(())
    }

    /// Runs until nothing is under way and nobody is awaited, or `finished` says so.
    pub fn run(&mut self, finished: impl Fn(&C, &[S]) -> bool) -> Result<()> {
        let mut retries = 0;
        loop {
            self.drain()?;
            if finished(self.coordinator, self.sites) {
                return Ok(());
            }
            match self.coordinator.deadline() {
                Ok(actions) if !actions.is_empty() => {
                    retries = 0;
                    self.record(Event::WentOn(self.away.keys().copied().collect()));
                    self.submit(Party::Coordinator, actions);
                }
                Ok(_) => bail!("the session stands still: nothing is under way and nobody is awaited"),
                Err(refusal) if retries < MAX_RETRIES => {
                    retries += 1;
                    warn!(%refusal, "trying the stage again");
                    self.return_all()?;
                    let actions = self.coordinator.retry()?;
                    self.submit(Party::Coordinator, actions);
                }
                Err(refusal) => bail!("the session cannot go on: {refusal}"),
            }
        }
    }

    /// Delivers and performs what is under way.
    pub fn settle(&mut self) -> Result<()> {
        self.drain()
    }

    /// Delivers and performs until the queue is empty. Heavy work of several sites runs side by side.
    fn drain(&mut self) -> Result<()> {
        loop {
            let mut heavy: BTreeMap<SiteIndex, Vec<Action>> = BTreeMap::new();
            while let Some(task) = self.queue.pop_front() {
                let (party, action) = match task {
                    Task::Deliver(message) => {
                        self.deliver(message);
                        continue;
                    }
                    Task::Perform(party, action) => (party, *action),
                };
                match (party, action) {
                    (Party::Site(site), action) if self.away.contains_key(&site) => {
                        debug!(site = site.0, ?action, "away");
                    }
                    (party, Action::Send(message)) => self.send(party, message)?,
                    (Party::Site(site), action) => {
                        self.note(Party::Site(site), &action);
                        // What follows heavy work at a site waits for it.
                        if is_heavy(&action) || heavy.contains_key(&site) {
                            heavy.entry(site).or_default().push(action);
                        } else {
                            let more = perform_at(&mut self.sites[usize::from(site.0)], site, action)?;
                            self.follow(Party::Site(site), more);
                        }
                    }
                    (Party::Coordinator, action) => {
                        self.note(Party::Coordinator, &action);
                        let saves = matches!(action, Action::Save | Action::Finished);
                        let more = self.coordinator.perform(action).context("coordinator")?;
                        if saves {
                            self.coordinator.checkpoint(&self.traffic, &self.events)?;
                        }
                        self.follow(Party::Coordinator, more);
                    }
                }
            }
            // Before the others go on with the next round, so that who was away for one has its part in the next.
            let back = self.bring_back()?;
            if heavy.is_empty() {
                if back {
                    continue;
                }
                return Ok(());
            }
            let mut work: Vec<(SiteIndex, &mut S, Vec<Action>)> = self
                .sites
                .iter_mut()
                .enumerate()
                .filter_map(|(index, site)| {
                    let index = SiteIndex(index as u16);
                    Some((index, site, heavy.remove(&index)?))
                })
                .collect();
            let mut encoding: Vec<&mut S> = work
                .iter_mut()
                .filter(|(_, _, actions)| actions.iter().any(|action| matches!(action, Action::Encode(_))))
                .map(|(_, site, _)| &mut **site)
                .collect();
            if encoding.len() > 1 {
                S::before_encoding(&mut encoding)?;
            }
            let results: Vec<Result<(SiteIndex, Vec<Action>)>> = work
                .into_par_iter()
                .map(|(index, site, actions)| {
                    let mut more = Vec::new();
                    for action in actions {
                        match action {
                            Action::Send(_) => more.push(action),
                            action => more.extend(perform_at(site, index, action)?),
                        }
                    }
                    Ok((index, more))
                })
                .collect();
            for result in results {
                let (site, more) = result?;
                self.submit(Party::Site(site), more);
            }
        }
    }

    /// What follows an action comes before what was queued behind it.
    fn follow(&mut self, party: Party, actions: Vec<Action>) {
        for action in actions.into_iter().rev() {
            self.queue.push_front(Task::Perform(party, Box::new(action)));
        }
    }

    fn record(&mut self, event: Event) {
        debug!(?event);
        if let Some(observer) = &self.observer {
            observer(&event);
        }
        self.events.push(event);
    }

    fn note(&mut self, party: Party, action: &Action) {
        match action {
            Action::Apply(apply) => {
                self.applied.insert(apply.stage);
            }
            // The last model's validation comes after the rounds.
            Action::Choose { .. } => {
                self.applied.insert(self.tuning);
            }
            Action::Start(solve) | Action::Solve(solve) => {
                self.applied.insert(solve.stage);
            }
            Action::Refine(refine) => {
                self.applied.insert(refine.stage);
            }
            Action::Weigh(weigh) => {
                self.applied.insert(weigh.stage);
            }
            Action::Notice(text) => self.record(Event::Notice(party, text.clone())),
            _ => {}
        }
    }

    fn send(&mut self, from: Party, message: Outgoing) -> Result<()> {
        if let Party::Site(site) = from {
            let upload = message.kind == Kind::Input;
            let drop = self.drops.iter().position(|drop| {
                drop.site == site && drop.round == message.round && (upload || message.kind == Kind::Consent)
            });
            if let Some(at) = drop {
                let drop = self.drops[at];
                let vanishes = match drop.vanish {
                    Vanish::BeforeUpload => upload,
                    Vanish::AfterUpload => !upload,
                };
                if vanishes {
                    self.drops.remove(at);
                    self.away.insert(site, drop.round);
                    self.record(Event::Vanished(site, drop.round));
                    return Ok(());
                }
            }
            self.sites[usize::from(site.0)].sends(&message)?;
            let phase = phase(&message, self.tuning, self.moments);
            *self.traffic.up.entry((site, phase)).or_default() += message.bytes.len() as u64;
        }
        self.queue.push_back(Task::Deliver(message));
        Ok(())
    }

    fn deliver(&mut self, message: Outgoing) {
        let to = message.to;
        let actions = match to {
            Party::Site(site) if self.away.contains_key(&site) => return,
            Party::Site(site) => {
                let phase = phase(&message, self.tuning, self.moments);
                *self.traffic.down.entry((site, phase)).or_default() += message.bytes.len() as u64;
                self.sites[usize::from(site.0)].handle(message.bytes)
            }
            Party::Coordinator => self.coordinator.handle(message.bytes),
        };
        match actions {
            Ok(actions) => self.submit(to, actions),
            Err(refusal) => {
                self.record(Event::Refused(to, refusal.to_string()));
            }
        }
    }

    /// Sites whose round is over come back.
    fn bring_back(&mut self) -> Result<bool> {
        let back: Vec<SiteIndex> = self
            .away
            .iter()
            .filter(|(_, round)| self.applied.contains(round))
            .map(|(&site, _)| site)
            .collect();
        self.wake(&back)?;
        Ok(!back.is_empty())
    }

    fn return_all(&mut self) -> Result<()> {
        let all: Vec<SiteIndex> = self.away.keys().copied().collect();
        self.wake(&all)
    }

    fn wake(&mut self, sites: &[SiteIndex]) -> Result<()> {
        for &site in sites {
            if let Some(round) = self.away.remove(&site) {
                self.record(Event::Returned(site, round));
                let actions = self.sites[usize::from(site.0)].rejoin()?;
                self.submit(Party::Site(site), actions);
            }
        }
        Ok(())
    }
}

/// Work worth doing for several sites at once.
fn is_heavy(action: &Action) -> bool {
    matches!(
        action,
        Action::Begin(_)
            | Action::Train { .. }
            | Action::Apply(_)
            | Action::Validate
            | Action::Choose { .. }
            | Action::CollectStart
            | Action::Start(_)
            | Action::Collect
            | Action::Solve(_)
            | Action::Gradient { .. }
            | Action::Refine(_)
            | Action::Compare
            | Action::Encode(_)
            | Action::Ask
    )
}

fn perform_at<S: SiteHost>(site: &mut S, index: SiteIndex, action: Action) -> Result<Vec<Action>> {
    site.perform(action).with_context(|| format!("site {}", index.0))
}
