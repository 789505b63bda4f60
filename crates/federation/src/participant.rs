//! A site's side of the protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::{ImageId, SyndromeId};
use prost::bytes::Bytes;
use secure::SiteIndex;
use secure::kernel::Rotation;

use crate::action::{Action, Begin, Outgoing};
use crate::aggregate::{Counts, Layout, ModelDigests};
use crate::envelope::{Envelope, Kind, Opened, Party, Signer};
use crate::group::GroupState;
use crate::identity::{ConsortiumPublic, Digest, Seeds, SiteKey};
use crate::limits::Limits;
use crate::plan::Plan;
use crate::policy::Policy;
use crate::refusal::{Result, refuse};
use crate::release::SignedRelease;
use crate::roster::{Roster, SignedRoster, SiteName};
use crate::wire;

mod enrol;
mod kernel;
mod model;
mod release;
mod snapshot;
mod sum;

pub(crate) use enrol::sum_id;
pub(crate) use release::weights_digest;
pub use sum::AbstainReason;

/// What a site brings to a session.
pub struct SiteSetup {
    /// The site's long-term key.
    pub key: SiteKey,
    /// The pinned key of the consortium.
    pub consortium: ConsortiumPublic,
    /// The pinned roster.
    pub roster: SignedRoster,
    /// What the site allows.
    pub policy: Policy,
    /// Training images by syndrome; 0 for a syndrome that the site has in its gallery only.
    pub holdings: BTreeMap<SyndromeId, u32>,
    /// The group key, if the site has one from before.
    pub group: Option<GroupState>,
    /// 32 fresh secret random bytes, new at every start and every restore.
    pub seed: [u8; 32],
}

/// A site in a session: takes messages and the host's results, gives actions.
pub struct Participant {
    key: SiteKey,
    me: SiteIndex,
    consortium: ConsortiumPublic,
    roster: Roster,
    policy: Policy,
    holdings: BTreeMap<SyndromeId, u32>,
    group: Option<GroupState>,
    /// The oldest group key that may still be used.
    least_epoch: u64,
    approved: BTreeSet<SiteIndex>,
    seeds: Seeds,
    session: Option<Session>,
    joining: Option<release::Joining>,
    halted: Option<String>,
    /// The host keeps long vectors while they wait for their sum.
    keeps_outside: bool,
}

/// What a site knows of the session it is in.
struct Session {
    signed_plan: wire::Signed,
    plan: Plan,
    plan_digest: Digest,
    members: Vec<SiteIndex>,
    founder: SiteIndex,
    enrolment: u32,
    lists: Option<Lists>,
    /// Own training images by classifier row.
    own: Vec<u32>,
    layout: Option<Layout>,
    counts: Counts,
    /// Stages whose result is opened.
    applied: u32,
    /// Stages that are over: model taken over and hashes compared.
    settled: u32,
    /// The host owes the model for the stage last applied.
    awaits_model: bool,
    digests: ModelDigests,
    /// Hashes that came before the host had applied the sum.
    early_hashes: Option<Opened>,
    /// More stages are known to be waiting at the coordinator.
    catching_up: bool,
    open: Option<(u32, u32)>,
    last_attempt: u32,
    trained_for: Option<u32>,
    abstained: Option<(u32, AbstainReason)>,
    /// A stage whose masks this site has helped to remove.
    unmasked: Option<u32>,
    work: Option<sum::Work>,
    run: Option<sum::Run>,
    hits: Option<Vec<u32>>,
    /// Figures of the models so far on all sites' validation images, by the stage that told them: that of a round is the model's
    /// that it began with.
    scores: BTreeMap<u32, f64>,
    /// The same models' losses, where learning rates follow them.
    losses: BTreeMap<u32, f64>,
    kernel: kernel::State,
    draft: Option<Bytes>,
    released: Option<SignedRelease>,
    /// Came in by a release, not by training.
    joined: bool,
    model_label: Digest,
}

/// The united syndrome lists.
struct Lists {
    trained: Vec<SyndromeId>,
    all: Vec<SyndromeId>,
    digest: Digest,
    sum_id: [u8; 16],
}

impl Session {
    fn new(signed_plan: wire::Signed, plan: Plan) -> Self {
        Self {
            plan_digest: plan.digest(),
            signed_plan,
            plan,
            members: Vec::new(),
            founder: SiteIndex(0),
            enrolment: 0,
            lists: None,
            own: Vec::new(),
            layout: None,
            counts: Counts::default(),
            applied: 0,
            settled: 0,
            awaits_model: false,
            digests: ModelDigests::default(),
            early_hashes: None,
            catching_up: false,
            open: None,
            last_attempt: 0,
            trained_for: None,
            abstained: None,
            unmasked: None,
            work: None,
            run: None,
            hits: None,
            scores: BTreeMap::new(),
            losses: BTreeMap::new(),
            kernel: kernel::State::default(),
            draft: None,
            released: None,
            joined: false,
            model_label: [0; 32],
        }
    }
}

impl Participant {
    /// A site that waits for a plan. Refused when the roster is not signed by the pinned consortium or
    /// does not have this site's key.
    pub fn new(setup: SiteSetup) -> Result<Self> {
        let roster = setup.roster.verify(&setup.consortium)?;
        let Some(me) = roster.find_keys(&setup.key.public()) else {
            refuse!(
                RosterRefused,
                "roster {} does not have this site's key; ask the consortium to add it",
                roster.serial()
            );
        };
        Ok(Self {
            key: setup.key,
            me,
            consortium: setup.consortium,
            roster,
            policy: setup.policy,
            holdings: setup.holdings,
            group: setup.group,
            least_epoch: 1,
            approved: BTreeSet::new(),
            seeds: Seeds::new(setup.seed),
            session: None,
            joining: None,
            halted: None,
            keeps_outside: false,
        })
    }

    /// From now on long vectors are given to the host while they wait for their sum ([`Action::Keep`]), so that they take no
    /// memory meanwhile.
    pub fn keep_outside(&mut self) {
        self.keeps_outside = true;
    }

    /// This site's place in the roster.
    pub fn site(&self) -> SiteIndex {
        self.me
    }

    /// The roster now pinned.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The group key, for the site's own store.
    pub fn group(&self) -> Option<&GroupState> {
        self.group.as_ref()
    }

    /// The plan that was accepted.
    pub fn plan(&self) -> Option<&Plan> {
        self.session.as_ref().map(|s| &s.plan)
    }

    /// Stages that are over here: 0 before the counts, 1 when training may begin, and so on.
    pub fn settled(&self) -> u32 {
        self.session.as_ref().map_or(0, |s| s.settled)
    }

    /// Stages whose sum the host has taken into its model: one more than the round whose weights a restarted host must
    /// have. At least [`Participant::settled`].
    pub fn applied(&self) -> u32 {
        self.session.as_ref().map_or(0, |s| if s.awaits_model { s.settled } else { s.applied })
    }

    /// The release, once it is signed.
    pub fn released(&self) -> Option<&SignedRelease> {
        self.session.as_ref().and_then(|s| s.released.as_ref())
    }

    /// Whether this site came in by a release and not by training.
    pub fn has_joined(&self) -> bool {
        self.session.as_ref().is_some_and(|s| s.joined)
    }

    /// What [`Action::Begin`] said, for a host that was restarted. A site that joined by a release trained nothing: images
    /// and holders of each syndrome stay with those who did.
    pub fn begin(&self) -> Option<Begin> {
        let session = self.session.as_ref().filter(|s| s.applied > 0 || s.joined)?;
        let lists = session.lists.as_ref()?;
        if session.joined {
            let rows = lists.trained.len();
            return Some(Begin {
                plan: session.plan.clone(),
                trained: lists.trained.clone(),
                all: lists.all.clone(),
                counts: vec![1; rows],
                holders: vec![0; rows],
                images: 0,
                sites: Vec::new(),
            });
        }
        Some(Begin {
            plan: session.plan.clone(),
            trained: lists.trained.clone(),
            all: lists.all.clone(),
            counts: session.counts.rows.clone(),
            holders: session.counts.holders.clone(),
            images: session.counts.images,
            sites: session.members.clone(),
        })
    }

    /// Takes one message. An error is a refusal: the state is as it was before.
    pub fn handle(&mut self, bytes: impl Into<Bytes>) -> Result<Vec<Action>> {
        if let Some(reason) = &self.halted {
            refuse!(OutOfPhase, "this site has halted: {reason}");
        }
        let limits = self.limits();
        let opened = Envelope::open(bytes.into(), &self.roster, |kind| limits.payload(kind))?;
        let place = opened.envelope.place(&self.roster);
        self.dispatch(opened).map_err(|e| e.at(place))
    }

    fn dispatch(&mut self, opened: Opened) -> Result<Vec<Action>> {
        let envelope = &opened.envelope;
        if envelope.recipient.is_some_and(|to| to != Party::Site(self.me)) {
            refuse!(
                WrongRecipient,
                "the message is for {}",
                envelope.recipient.unwrap_or(Party::Coordinator)
            );
        }
        let relayed = matches!(envelope.kind, Kind::KeyGift | Kind::ReleaseDraft | Kind::ReleaseBlob);
        if relayed != matches!(envelope.sender, Party::Site(_)) {
            refuse!(UnknownSender, "{} does not send this kind of message to a site", envelope.sender);
        }
        let joins = self.joining.is_some()
            && matches!(envelope.kind, Kind::KeyGift | Kind::JoinPackage | Kind::ReleaseBlob);
        match &self.session {
            Some(session) if session.plan.session != envelope.session => {
                refuse!(WrongSession, "the message belongs to session {}", hex::encode(envelope.session))
            }
            None if !matches!(envelope.kind, Kind::PlanOffer | Kind::Roster) && !joins => {
                refuse!(WrongSession, "this site is in no session; it waits for a plan")
            }
            _ => {}
        }
        match envelope.kind {
            Kind::PlanOffer => self.on_plan(envelope),
            Kind::Enrolled => self.on_enrolled(envelope),
            Kind::KeyGift => self.on_gift(envelope),
            Kind::Lists => self.on_lists(envelope),
            Kind::SumOpen => self.on_open(envelope),
            Kind::Adverts => self.on_adverts(envelope),
            Kind::Inbox => self.on_inbox(envelope),
            Kind::Survivors => self.on_survivors(envelope),
            Kind::Consents => self.on_consents(envelope),
            Kind::SumResult => {
                let Opened { envelope, raw } = opened;
                drop(raw);
                self.on_result(envelope)
            }
            Kind::Hashes => self.on_hashes(opened),
            Kind::GalleryReady => self.on_gallery_ready(envelope),
            Kind::KernelAnswer => self.on_answer(envelope),
            Kind::PublishRequest => self.on_publish_request(),
            Kind::ReleaseDraft => self.on_draft(envelope),
            Kind::Released => self.on_released(envelope),
            Kind::ReleaseBlob => self.on_blob(envelope),
            Kind::JoinNotice => self.on_join_notice(envelope),
            Kind::JoinPackage => self.on_package(envelope),
            Kind::Roster => self.on_roster(envelope),
            kind => refuse!(OutOfPhase, "{kind:?} goes to the coordinator, not to a site"),
        }
    }

    /// Replaces the pinned roster by a newer one. When a site has left, the group key is given up, and the
    /// next session founds a new one. Not while a session is in training.
    pub fn adopt_roster(&mut self, signed: &SignedRoster) -> Result<()> {
        if self.session.as_ref().is_some_and(|s| s.released.is_none()) {
            refuse!(OutOfPhase, "a session is under way; adopt the roster when its release is signed");
        }
        let roster = signed.verify(&self.consortium)?;
        roster.succeeds(&self.roster)?;
        if roster.find_keys(&self.key.public()) != Some(self.me) {
            refuse!(
                RosterRefused,
                "roster {} retires this site; it can take no further part",
                roster.serial()
            );
        }
        if roster.removes_from(&self.roster) {
            self.least_epoch = self.group.as_ref().map_or(self.least_epoch, |g| g.epoch() + 1);
            self.group = None;
        }
        self.roster = roster;
        Ok(())
    }

    /// Lets a newcomer have the group key. Only for a site of the pinned roster.
    pub fn approve(&mut self, newcomer: &SiteName) -> Result<Vec<Action>> {
        let Some(site) = self.roster.find(newcomer) else {
            refuse!(
                UnknownSender,
                "{newcomer} is not in roster {}; adopt the newer roster first",
                self.roster.serial()
            );
        };
        let keys = *self.roster.site(site).expect("an active site has keys");
        if let Some(group) = &mut self.group {
            group.entitle(&keys);
        }
        self.approved.insert(site);
        let mut actions = vec![Action::Save];
        if self.session.is_some() && self.group.is_some() {
            actions.push(self.gift(site)?);
        }
        Ok(actions)
    }

    /// Says that this site is here again after an absence or a restart. The coordinator answers with
    /// whatever the site has missed.
    pub fn rejoin(&mut self) -> Result<Vec<Action>> {
        if self.session.is_none() && self.joining.is_some() {
            return self.join();
        }
        let mut actions = self.hello()?;
        actions.extend(self.resume_release());
        Ok(actions)
    }

    fn hello(&self) -> Result<Vec<Action>> {
        let session = self.session()?;
        let payload = wire::encode(&wire::Hello { applied: session.applied, settled: session.settled });
        let mut actions = vec![self.send(Kind::Hello, session.settled, 0, payload)];
        if session.applied > session.settled && !session.awaits_model {
            actions.push(self.hash_message());
        }
        Ok(actions)
    }

    fn halt(&mut self, reason: String) -> Vec<Action> {
        let payload = wire::encode(&wire::Reason { code: 0, text: reason.clone() });
        let round = self.settled();
        let actions =
            vec![self.send(Kind::Halted, round, 0, payload), Action::Halt { reason: reason.clone() }];
        self.halted = Some(reason);
        actions
    }

    fn session(&self) -> Result<&Session> {
        match &self.session {
            Some(session) => Ok(session),
            None => refuse!(OutOfPhase, "this site is in no session; it waits for a plan"),
        }
    }

    fn session_mut(&mut self) -> Result<&mut Session> {
        match &mut self.session {
            Some(session) => Ok(session),
            None => refuse!(OutOfPhase, "this site is in no session; it waits for a plan"),
        }
    }

    fn limits(&self) -> Limits {
        let vector = self.session.as_ref().map_or(0, |s| s.largest_vector());
        Limits { sites: self.roster.len(), vector }
    }

    /// A message to the coordinator.
    fn send(&self, kind: Kind, round: u32, attempt: u32, payload: Bytes) -> Action {
        self.send_to(Some(Party::Coordinator), kind, round, attempt, payload)
    }

    /// A message to somebody, which the coordinator passes on.
    fn send_to(&self, to: Option<Party>, kind: Kind, round: u32, attempt: u32, payload: Bytes) -> Action {
        let envelope = Envelope { payload, recipient: to, ..self.envelope(kind, round, attempt) };
        self.outgoing(kind, round, envelope.seal(&Signer::Site(&self.key)))
    }

    /// An envelope to the coordinator without its payload.
    fn envelope(&self, kind: Kind, round: u32, attempt: u32) -> Envelope {
        let session = self.session.as_ref().map_or([0; 16], |s| s.plan.session);
        let (sender, recipient) = (Party::Site(self.me), Some(Party::Coordinator));
        Envelope { session, kind, round, attempt, sender, recipient, payload: Bytes::new() }
    }

    fn outgoing(&self, kind: Kind, round: u32, bytes: Bytes) -> Action {
        Action::Send(Outgoing { from: Party::Site(self.me), to: Party::Coordinator, kind, round, bytes })
    }

    /// The rotation of the session's kernel; made on first use, which takes seconds at full size.
    pub fn rotation(&mut self) -> Result<Arc<Rotation>> {
        self.kernel_rotation()
    }

    /// Images of this site in the gallery.
    pub fn uploaded(&self) -> Vec<ImageId> {
        let images = |s: &Session| s.kernel.images.values().map(|sent| sent.image.clone()).collect();
        self.session.as_ref().map_or_else(Vec::new, images)
    }
}
