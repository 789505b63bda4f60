//! What an engine asks of the parties, and what it tells.

use std::collections::BTreeMap;

use anyhow::Result;
use federation::{Action, Bytes, Outgoing, Party, Refusal, SignedRoster, SiteIndex};

/// One party as the engine sees it.
pub trait Host: Send {
    /// Takes a message in. An error is a refusal: the party is as it was.
    fn handle(&mut self, bytes: Bytes) -> Result<Vec<Action>, Refusal>;

    /// Does what an action asks for and returns what follows. Never gets [`Action::Send`].
    fn perform(&mut self, action: Action) -> Result<Vec<Action>>;

    /// Told of each message before it leaves.
    fn sends(&mut self, message: &Outgoing) -> Result<()>;
}

/// The site's side: it can come back.
pub trait SiteHost: Host {
    /// The first messages of a site that was away.
    fn rejoin(&mut self) -> Result<Vec<Action>>;

    /// Told before several sites of this process encode their galleries: what is the same at each of them need not be
    /// computed by each.
    fn before_encoding(sites: &mut [&mut Self]) -> Result<()>
    where
        Self: Sized;

    /// Told of a message that is none of the federation's, which the engine answers with an error.
    fn foreign(&mut self, what: &str) -> Result<()>;
}

/// The coordinator's side: it decides to go on without somebody.
pub trait CoordinatorHost: Host {
    /// Goes on without those it waits for, or says why that is not possible.
    fn deadline(&mut self) -> Result<Vec<Action>, Refusal>;

    /// Begins the attempt anew.
    fn retry(&mut self) -> Result<Vec<Action>>;

    /// What it is at.
    fn standing(&self) -> Standing;

    /// Serial of the roster in force.
    fn roster(&self) -> u64;

    /// Takes a newer roster over while it serves.
    fn adopt_roster(&mut self, signed: &SignedRoster) -> Result<Result<Vec<Action>, Refusal>>;

    /// Keeps the engine's accounts; called whenever the coordinator saves.
    fn checkpoint(&mut self, traffic: &Traffic, events: &[Event]) -> Result<()>;
}

/// What the coordinator is at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The stage: 0 counts, what tuned members start from, rounds, then sums and metrics.
    pub stage: u32,
    /// The attempt at it.
    pub attempt: u32,
    /// Rounds of the plan; 0 before there is one.
    pub rounds: u32,
    /// Stages between the counts and the first round.
    pub starts: u32,
    /// The last stage of tuned members.
    pub tuning: u32,
    /// Stages after them that closed forms need: one for their sums, and one for each step that refines them.
    pub moments: u32,
    /// The sites whose word is waited for.
    pub awaited: Vec<SiteIndex>,
    /// A secure sum is under way, which a site that was restarted cannot go on in.
    pub summing: bool,
    /// The session's work is done; the kernel is open.
    pub serving: bool,
    /// Why the session cannot go on.
    pub halted: Option<String>,
}

/// Bytes sent, by sender and part of the session.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// Bytes up, per site and phase.
    pub up: BTreeMap<(SiteIndex, &'static str), u64>,
    /// Bytes down, per site and phase.
    pub down: BTreeMap<(SiteIndex, &'static str), u64>,
}

/// Something worth telling a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A site went away in a round.
    Vanished(SiteIndex, u32),
    /// A site came back after a round.
    Returned(SiteIndex, u32),
    /// The coordinator went on without somebody.
    WentOn(Vec<SiteIndex>),
    /// A message was refused by a party.
    Refused(Party, String),
    /// A notice of a party.
    Notice(Party, String),
}

/// Told of events as they happen.
pub type Observer<'a> = Box<dyn Fn(&Event) + 'a>;

/// The part of the session a message belongs to, with the secure sums told apart by what they add.
pub(crate) fn phase(message: &Outgoing, tuning: u32, moments: u32) -> &'static str {
    match message.kind.phase() {
        "sum" if message.round == 0 => "counts",
        "sum" if message.round > tuning + moments => "metrics",
        "sum" if message.round > tuning => "moments",
        "sum" => "rounds",
        other => other,
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let party = |party: &Party| match party {
            Party::Coordinator => "the coordinator".to_owned(),
            Party::Site(site) => format!("site-{}", site.0),
        };
        match self {
            Self::Vanished(site, round) => write!(f, "site-{} vanished in round {round}", site.0),
            Self::Returned(site, round) => write!(f, "site-{} is back after round {round}", site.0),
            Self::WentOn(sites) if sites.is_empty() => f.write_str("going on without an answer"),
            Self::WentOn(sites) => {
                let names: Vec<String> = sites.iter().map(|site| format!("site-{}", site.0)).collect();
                write!(f, "going on without {}", names.join(", "))
            }
            Self::Refused(by, why) => write!(f, "{} refused a message: {why}", party(by)),
            Self::Notice(from, text) => write!(f, "{}: {text}", party(from)),
        }
    }
}
