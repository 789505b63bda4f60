//! The coordinator's side of the protocol. It holds no group key: none of its fields can.

use std::collections::{BTreeMap, BTreeSet};

use prost::bytes::Bytes;
use secure::SiteIndex;
use secure::sum::{Aggregator, Words};

use crate::action::{Action, Outgoing};
use crate::aggregate::{Layout, stage_words};
use crate::envelope::{Envelope, Kind, Opened, Party, Signer};
use crate::identity::{ConsortiumPublic, CoordinatorKey, Digest};
use crate::limits::Limits;
use crate::plan::Plan;
use crate::refusal::{Result, refuse};
use crate::release::SignedRelease;
use crate::roster::{Roster, SignedRoster};
use crate::wire;

mod enrol;
mod kernel;
mod release;
mod snapshot;
mod sum;

/// Times a silent site is asked again before the others go on without it, where asking again helps.
const PROMPTS: u32 = 2;

/// What the coordinator is made of.
pub struct CoordinatorSetup {
    /// Its key.
    pub key: CoordinatorKey,
    /// The key of the consortium.
    pub consortium: ConsortiumPublic,
    /// The roster.
    pub roster: SignedRoster,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle = 0,
    Plan = 1,
    Lists = 2,
    Agree = 3,
    Sum = 4,
    Hashes = 5,
    Gallery = 6,
    Publish = 7,
    Signing = 8,
    Serving = 9,
}

/// A sum that is done, kept until every member has confirmed what came of it.
struct Finished {
    attempt: u32,
    sum: Bytes,
    hashes: BTreeMap<SiteIndex, Bytes>,
    settled: bool,
}

/// The coordinator of one session: passes messages on, adds what it cannot read, ranks what it cannot name.
pub struct Coordinator {
    key: CoordinatorKey,
    consortium: ConsortiumPublic,
    roster: Roster,
    signed_roster: SignedRoster,
    phase: Phase,
    plan: Option<(Plan, wire::Signed)>,
    answers: BTreeMap<SiteIndex, Option<u64>>,
    members: Vec<SiteIndex>,
    founder: SiteIndex,
    enrolment: u32,
    gifts: BTreeMap<SiteIndex, Bytes>,
    lists: BTreeMap<SiteIndex, Bytes>,
    ready: BTreeMap<SiteIndex, wire::ListsReady>,
    /// Numbers of trained and of all syndromes, and the digest of their list.
    syndromes: (usize, usize, Digest),
    layout: Option<Layout>,
    stage: u32,
    attempt: u32,
    aggregator: Option<Aggregator>,
    excused: BTreeSet<SiteIndex>,
    present: BTreeSet<SiteIndex>,
    finished: BTreeMap<u32, Finished>,
    confirmed: BTreeMap<SiteIndex, u32>,
    prompts: u32,
    gallery: kernel::Gallery,
    release: release::State,
    halted: Option<String>,
}

impl Coordinator {
    /// A coordinator that waits for [`Coordinator::start`].
    pub fn new(setup: CoordinatorSetup) -> Result<Self> {
        let roster = setup.roster.verify(&setup.consortium)?;
        if roster.coordinator() != setup.key.public() {
            refuse!(RosterRefused, "roster {} names another coordinator key", roster.serial());
        }
        Ok(Self {
            key: setup.key,
            consortium: setup.consortium,
            roster,
            signed_roster: setup.roster,
            phase: Phase::Idle,
            plan: None,
            answers: BTreeMap::new(),
            members: Vec::new(),
            founder: SiteIndex(0),
            enrolment: 0,
            gifts: BTreeMap::new(),
            lists: BTreeMap::new(),
            ready: BTreeMap::new(),
            syndromes: (0, 0, [0; 32]),
            layout: None,
            stage: 0,
            attempt: 0,
            aggregator: None,
            excused: BTreeSet::new(),
            present: BTreeSet::new(),
            finished: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            prompts: 0,
            gallery: kernel::Gallery::default(),
            release: release::State::default(),
            halted: None,
        })
    }

    /// The roster in use.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The sites that take part, once enrolment is over.
    pub fn members(&self) -> &[SiteIndex] {
        &self.members
    }

    /// The plan of the session, once it has begun.
    pub fn accepted_plan(&self) -> Option<&Plan> {
        self.plan.as_ref().map(|(plan, _)| plan)
    }

    /// The stage under way: 0 counts, 1.. rounds, then metrics.
    pub fn stage(&self) -> u32 {
        self.stage
    }

    /// Whether a secure sum is under way. A site whose process was restarted in it has lost its keys for this attempt and
    /// cannot go on in it: [`Coordinator::retry`] begins another.
    pub fn is_summing(&self) -> bool {
        self.phase == Phase::Sum
    }

    /// The attempt under way; grows over the whole session.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The release, once it is signed.
    pub fn released(&self) -> Option<&SignedRelease> {
        self.release.signed.as_ref()
    }

    /// Takes a newer roster: between sessions, or when the release is signed, so that sites may join; then it may only add
    /// sites, and all are told.
    pub fn adopt_roster(&mut self, signed: &SignedRoster) -> Result<Vec<Action>> {
        if !matches!(self.phase, Phase::Idle | Phase::Serving) {
            refuse!(OutOfPhase, "a session is under way; adopt the roster when its release is signed");
        }
        let roster = signed.verify(&self.consortium)?;
        roster.succeeds(&self.roster)?;
        if roster.coordinator() != self.key.public() {
            refuse!(RosterRefused, "roster {} names another coordinator key", roster.serial());
        }
        if self.phase == Phase::Serving {
            roster.only_adds_to(&self.roster)?;
        }
        self.roster = roster;
        self.signed_roster = signed.clone();
        Ok(if self.phase == Phase::Serving { self.roster_messages() } else { Vec::new() })
    }

    /// Takes one message. An error is a refusal: the state is as it was before.
    pub fn handle(&mut self, bytes: impl Into<Bytes>) -> Result<Vec<Action>> {
        if let Some(reason) = &self.halted {
            refuse!(OutOfPhase, "the session was halted: {reason}");
        }
        let limits = self.limits();
        let opened = Envelope::open(bytes.into(), &self.roster, |kind| limits.payload(kind))?;
        let place = opened.envelope.place(&self.roster);
        self.dispatch(opened).map_err(|e| e.at(place))
    }

    fn dispatch(&mut self, opened: Opened) -> Result<Vec<Action>> {
        let envelope = &opened.envelope;
        let Party::Site(site) = envelope.sender else {
            refuse!(UnknownSender, "the coordinator does not write to itself");
        };
        let kind = envelope.kind;
        let passed_on = matches!(
            kind,
            Kind::KeyGift | Kind::SyndromeList | Kind::ModelHash | Kind::ReleaseBlob | Kind::ReleaseDraft
        );
        if !passed_on && envelope.recipient != Some(Party::Coordinator) {
            refuse!(WrongRecipient, "{kind:?} must be addressed to the coordinator");
        }
        if kind == Kind::JoinRequest {
            return self.on_join(site, &opened);
        }
        let session = self.plan()?.session;
        if envelope.session != session {
            refuse!(WrongSession, "the message belongs to session {}", hex::encode(envelope.session));
        }
        let serving = matches!(kind, Kind::KernelUpload | Kind::KernelQuery | Kind::Withdraw | Kind::Hello);
        let member = self.phase == Phase::Plan || self.members.contains(&site);
        let newcomer = serving && self.release.joined.contains(&site);
        if !member && !newcomer {
            refuse!(UnknownSender, "{} has no part in this session", self.roster.name(site));
        }
        let actions = match kind {
            Kind::PlanAnswer => self.on_plan_answer(site, envelope),
            Kind::KeyGift => self.on_gift(site, &opened),
            Kind::SyndromeList => self.on_list(site, &opened),
            Kind::ListsReady => self.on_lists_ready(site, envelope),
            Kind::Advert | Kind::Shares | Kind::Input | Kind::Consent | Kind::Unmasking => {
                let Opened { envelope, raw } = opened;
                drop(raw);
                self.on_sum(site, envelope)
            }
            Kind::Abstain => self.on_abstain(site, envelope),
            Kind::ModelHash => self.on_hash(site, &opened),
            Kind::Hello => self.on_hello(site, envelope),
            Kind::Halted => self.on_halted(site, envelope),
            Kind::KernelUpload => self.on_upload(site, envelope),
            Kind::KernelQuery => self.on_query(site, envelope),
            Kind::Withdraw => self.on_withdraw(site, envelope),
            Kind::ReleaseBlob => self.on_blob(site, &opened),
            Kind::ReleaseDraft => self.on_draft(site, &opened),
            Kind::ReleaseSignature => self.on_signature(site, envelope),
            kind => refuse!(OutOfPhase, "{kind:?} goes to a site, not to the coordinator"),
        }?;
        if kind != Kind::Halted && self.members.contains(&site) {
            self.present.insert(site);
        }
        Ok(actions)
    }

    /// The sites whose word the session waits for; empty when nothing is to come.
    pub fn awaited(&self) -> Vec<SiteIndex> {
        let here = |site: &&SiteIndex| self.present.contains(site);
        match self.phase {
            Phase::Idle | Phase::Serving => Vec::new(),
            Phase::Plan => self
                .roster
                .sites()
                .map(|(site, _, _)| site)
                .filter(|site| !self.answers.contains_key(site))
                .collect(),
            Phase::Lists => {
                self.members.iter().filter(|site| !self.lists.contains_key(site)).copied().collect()
            }
            Phase::Agree => {
                self.members.iter().filter(|site| !self.ready.contains_key(site)).copied().collect()
            }
            Phase::Sum => self.awaited_in_sum(),
            Phase::Hashes => {
                let hashed = |site: &&SiteIndex| {
                    self.finished.get(&self.stage).is_some_and(|f| f.hashes.contains_key(site))
                };
                self.members.iter().filter(here).filter(|site| !hashed(site)).copied().collect()
            }
            Phase::Gallery => self
                .members
                .iter()
                .filter(here)
                .filter(|&&site| !self.gallery.complete(site))
                .copied()
                .collect(),
            Phase::Publish => self.release.publisher.into_iter().collect(),
            Phase::Signing => {
                let signed = |site: &&SiteIndex| self.release.signatures.contains_key(site);
                self.members.iter().filter(here).filter(|site| !signed(site)).copied().collect()
            }
        }
    }

    /// The host has waited long enough: asks the silent sites again where that helps, then goes on
    /// without them. An error says who is missing when the rest are too few; call [`Coordinator::retry`]
    /// once they may be back.
    pub fn deadline(&mut self) -> Result<Vec<Action>> {
        if let Some(reason) = &self.halted {
            refuse!(OutOfPhase, "the session was halted: {reason}");
        }
        let awaited = self.awaited();
        let again = match self.phase {
            Phase::Idle | Phase::Serving => return Ok(Vec::new()),
            Phase::Sum => self.sum_takes_adverts(),
            _ => true,
        };
        if again && self.prompts < PROMPTS && !awaited.is_empty() {
            self.prompts += 1;
            return Ok(awaited.into_iter().flat_map(|site| self.prompt(site)).collect());
        }
        let names: Vec<String> = awaited.iter().map(|&site| self.roster.name(site)).collect();
        let mut actions = Vec::new();
        if !names.is_empty() {
            actions.push(Action::Notice(format!(
                "stage {}: going on without {}",
                self.stage,
                names.join(", ")
            )));
        }
        self.present.retain(|site| !awaited.contains(site));
        actions.extend(match self.phase {
            Phase::Plan => self.close_plan(),
            Phase::Lists | Phase::Agree => self.enrol_without(&awaited),
            Phase::Sum => self.close_sum_phase(),
            Phase::Hashes => self.close_hashes(),
            Phase::Gallery => self.close_gallery(),
            Phase::Publish => self.next_publisher(),
            Phase::Signing => self.close_signing(),
            Phase::Idle | Phase::Serving => Ok(Vec::new()),
        }?);
        Ok(actions)
    }

    /// Begins the step under way again with everyone: a sum gets a new attempt with new keys.
    pub fn retry(&mut self) -> Result<Vec<Action>> {
        if let Some(reason) = &self.halted {
            refuse!(OutOfPhase, "the session was halted: {reason}");
        }
        self.prompts = 0;
        self.present = self.members.iter().copied().collect();
        match self.phase {
            Phase::Lists | Phase::Agree => self.enrol(self.members.clone()),
            Phase::Sum => {
                let stage = self.stage;
                let mut actions = self.begin_sum(stage)?;
                if self.plan()?.kernel.is_some() && stage > self.plan()?.last_model_stage() {
                    actions.extend(self.send_all(Kind::GalleryReady, stage, 0, Bytes::new()));
                }
                Ok(actions)
            }
            Phase::Publish => self.next_publisher(),
            _ => Ok(self.awaited().into_iter().flat_map(|site| self.prompt(site)).collect()),
        }
    }

    /// What a site needs to hear in order to take part in the step under way.
    fn prompt(&self, site: SiteIndex) -> Vec<Action> {
        let Ok(plan) = self.plan() else { return Vec::new() };
        let trained = plan.last_model_stage();
        match self.phase {
            Phase::Idle => Vec::new(),
            Phase::Plan => self.offer(site),
            Phase::Lists => self.list_prompt(site),
            Phase::Agree => vec![self.send(site, Kind::Lists, 0, self.enrolment, self.lists_bundle())],
            Phase::Sum if self.stage > trained => {
                let mut actions = self.gallery_prompt(site);
                actions.push(self.send(site, Kind::SumOpen, self.stage, self.attempt, Bytes::new()));
                actions
            }
            Phase::Sum => vec![self.send(site, Kind::SumOpen, self.stage, self.attempt, Bytes::new())],
            Phase::Hashes => self.result_messages(site, self.stage),
            Phase::Gallery => self.gallery_prompt(site),
            Phase::Publish => match self.release.publisher {
                Some(publisher) if publisher == site => {
                    vec![self.send(site, Kind::PublishRequest, self.stage, 0, Bytes::new())]
                }
                _ => Vec::new(),
            },
            Phase::Signing => self.draft_message(site),
            Phase::Serving => self.released_message(site),
        }
    }

    fn on_hello(&mut self, site: SiteIndex, envelope: &Envelope) -> Result<Vec<Action>> {
        let hello: wire::Hello = wire::decode(&envelope.payload)?;
        if hello.settled > hello.applied || hello.applied > hello.settled + 1 {
            refuse!(Malformed, "applied {} and settled {} do not fit together", hello.applied, hello.settled);
        }
        let joined = self.release.joined.contains(&site);
        if joined || matches!(self.phase, Phase::Plan | Phase::Lists | Phase::Agree) {
            return Ok(self.prompt(site));
        }
        if hello.applied > hello.settled {
            return Ok(self.hashes_message(site, hello.settled).into_iter().collect());
        }
        if self.finished.get(&hello.applied).is_some_and(|done| !done.sum.is_empty()) {
            let mut actions = self.result_messages(site, hello.applied);
            if self.phase == Phase::Serving && hello.applied == self.stage {
                actions.extend(self.released_message(site));
            }
            return Ok(actions);
        }
        if hello.applied < self.stage && self.phase != Phase::Serving {
            let name = self.roster.name(site);
            return Ok(vec![Action::Notice(format!(
                "{name} asks for stage {}, which it had confirmed; its store is older than it should be",
                hello.applied
            ))]);
        }
        Ok(self.prompt(site))
    }

    fn on_halted(&mut self, site: SiteIndex, envelope: &Envelope) -> Result<Vec<Action>> {
        let reason: wire::Reason = wire::decode(&envelope.payload)?;
        let text: String = reason.text.chars().filter(|c| !c.is_control()).take(500).collect();
        self.present.remove(&site);
        self.excused.insert(site);
        Ok(vec![Action::Notice(format!("{} has halted: {text}", self.roster.name(site)))])
    }

    fn halt(&mut self, reason: String) -> Vec<Action> {
        self.halted = Some(reason.clone());
        vec![Action::Save, Action::Halt { reason }]
    }

    fn plan(&self) -> Result<&Plan> {
        match &self.plan {
            Some((plan, _)) => Ok(plan),
            None => refuse!(OutOfPhase, "no session has begun; start one with a plan"),
        }
    }

    fn words(&self, stage: u32) -> Result<Words> {
        match &self.layout {
            Some(layout) => Ok(stage_words(self.plan()?, layout, self.syndromes.0, self.syndromes.1, stage)),
            None => refuse!(OutOfPhase, "the syndrome lists are not united yet"),
        }
    }

    fn limits(&self) -> Limits {
        let stages = self.plan().into_iter().flat_map(|plan| plan.kinds_of_stages());
        let vectors = stages.filter_map(|stage| self.words(stage).ok()).map(Words::bytes);
        Limits { sites: self.roster.len(), vector: vectors.max().unwrap_or(0) }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.prompts = 0;
    }

    fn seal(&self, to: Option<SiteIndex>, kind: Kind, round: u32, attempt: u32, payload: Bytes) -> Bytes {
        let session = self.plan.as_ref().map_or([0; 16], |(plan, _)| plan.session);
        let recipient = to.map(Party::Site);
        let envelope =
            Envelope { session, kind, round, attempt, sender: Party::Coordinator, recipient, payload };
        envelope.seal(&Signer::Coordinator(&self.key))
    }

    fn outgoing(&self, site: SiteIndex, kind: Kind, round: u32, bytes: Bytes) -> Action {
        Action::Send(Outgoing { from: Party::Coordinator, to: Party::Site(site), kind, round, bytes })
    }

    fn send(&self, site: SiteIndex, kind: Kind, round: u32, attempt: u32, payload: Bytes) -> Action {
        let bytes = self.seal(Some(site), kind, round, attempt, payload);
        self.outgoing(site, kind, round, bytes)
    }

    /// The same message to every member, sealed once.
    fn send_all(&self, kind: Kind, round: u32, attempt: u32, payload: Bytes) -> Vec<Action> {
        let bytes = self.seal(None, kind, round, attempt, payload);
        self.members.iter().map(|&site| self.outgoing(site, kind, round, bytes.clone())).collect()
    }
}
