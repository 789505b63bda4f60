//! Gathering signatures under a release, and handing it to sites that join.

use std::collections::{BTreeMap, BTreeSet};

use prost::bytes::Bytes;
use secure::SiteIndex;

use super::{Coordinator, Phase};
use crate::action::{Action, Outgoing};
use crate::envelope::{Envelope, Kind, Opened, Party};
use crate::participant::weights_digest;
use crate::refusal::{Result, refuse};
use crate::release::{Release, SignedRelease};
use crate::roster::SiteName;
use crate::wire;

/// How far the release is.
#[derive(Default)]
pub(super) struct State {
    pub(super) publisher: Option<SiteIndex>,
    /// Sites that had their turn and did not publish.
    passed: BTreeSet<SiteIndex>,
    /// The parts of the sealed weights: the messages as they came, and the bytes.
    pub(super) parts: BTreeMap<u32, (Bytes, Bytes)>,
    of: u32,
    /// The draft: the message as it came, and the release.
    pub(super) draft: Option<(Bytes, Release)>,
    pub(super) signatures: BTreeMap<SiteIndex, [u8; 64]>,
    pub(super) signed: Option<SignedRelease>,
    pub(super) joined: BTreeSet<SiteIndex>,
    asked: BTreeSet<SiteIndex>,
}

impl Coordinator {
    pub(super) fn begin_release(&mut self) -> Result<Vec<Action>> {
        self.stage = self.plan()?.last_model_stage() + 1;
        self.enter(Phase::Publish);
        self.next_publisher()
    }

    /// Asks the first site that is here and has not had its turn.
    pub(super) fn next_publisher(&mut self) -> Result<Vec<Action>> {
        self.release.passed.extend(self.release.publisher);
        let free = |site: &&SiteIndex| !self.release.passed.contains(site) && self.present.contains(site);
        let next = self.members.iter().find(free).copied();
        self.release.publisher = next;
        self.release.parts.clear();
        self.release.draft = None;
        self.prompts = 0;
        let Some(site) = next else {
            self.release.passed.clear();
            refuse!(TooFewSites, "no site is here to publish the release; retry when some are back");
        };
        Ok(vec![Action::Save, self.send(site, Kind::PublishRequest, self.stage, 0, Bytes::new())])
    }

    pub(super) fn on_blob(&mut self, site: SiteIndex, opened: &Opened) -> Result<Vec<Action>> {
        let part: wire::BlobPart = wire::decode(&opened.envelope.payload)?;
        self.check_publisher(site)?;
        if part.of == 0 || part.of > 1024 || part.number >= part.of {
            refuse!(Malformed, "part {} of {}", part.number, part.of);
        }
        if part.number == 0 || part.of != self.release.of {
            // A new publication begins.
            self.release.of = part.of;
            self.release.parts.retain(|&number, _| number < part.of);
        }
        self.release.parts.insert(part.number, (opened.raw.clone(), part.bytes));
        self.try_signing()
    }

    fn check_publisher(&self, site: SiteIndex) -> Result<()> {
        if self.phase != Phase::Publish || self.release.publisher != Some(site) {
            refuse!(OutOfPhase, "it is not the turn of {} to publish", self.roster.name(site));
        }
        Ok(())
    }

    pub(super) fn on_draft(&mut self, site: SiteIndex, opened: &Opened) -> Result<Vec<Action>> {
        self.check_publisher(site)?;
        let release = Release::decode(&opened.envelope.payload)?;
        let names: Vec<String> = self.members.iter().map(|&m| self.roster.name(m)).collect();
        let plan = self.plan()?;
        if release.session != plan.session
            || release.plan != plan.digest()
            || release.syndromes != self.syndromes.2
            || !release.sites.iter().map(SiteName::as_str).eq(names.iter().map(String::as_str))
        {
            refuse!(Disagreement, "the release is not of this session");
        }
        self.release.draft = Some((opened.raw.clone(), release));
        self.try_signing()
    }

    /// Passes the draft on once the weights that it names are here in full.
    fn try_signing(&mut self) -> Result<Vec<Action>> {
        let Some((_, release)) = &self.release.draft else { return Ok(Vec::new()) };
        if self.release.of == 0 || self.release.parts.len() != self.release.of as usize {
            return Ok(Vec::new());
        }
        let sealed: Vec<u8> =
            self.release.parts.values().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        if weights_digest(&sealed) != release.weights {
            return Ok(Vec::new());
        }
        self.release.signatures.clear();
        self.enter(Phase::Signing);
        let mut actions = vec![Action::Save];
        for &site in &self.members {
            actions.extend(self.draft_message(site));
        }
        Ok(actions)
    }

    pub(super) fn draft_message(&self, site: SiteIndex) -> Vec<Action> {
        let draft = self.release.draft.as_ref();
        draft
            .map(|(raw, _)| self.outgoing(site, Kind::ReleaseDraft, self.stage, raw.clone()))
            .into_iter()
            .collect()
    }

    pub(super) fn on_signature(&mut self, site: SiteIndex, envelope: &Envelope) -> Result<Vec<Action>> {
        let message: wire::Hash = wire::decode(&envelope.payload)?;
        if self.release.signatures.contains_key(&site) {
            refuse!(Replayed, "{} has signed before", self.roster.name(site));
        }
        let (Phase::Signing, Some((_, release))) = (self.phase, &self.release.draft) else {
            refuse!(OutOfPhase, "no release is to be signed now");
        };
        let (Some(keys), Ok(signature)) =
            (self.roster.site(site), <[u8; 64]>::try_from(message.hash.as_slice()))
        else {
            refuse!(Malformed, "a signature of {} bytes", message.hash.len());
        };
        keys.verify(&release.digest(), &signature)?;
        self.release.signatures.insert(site, signature);
        self.present.insert(site);
        if self.awaited().is_empty() {
            return match self.close_signing() {
                Ok(actions) => Ok(actions),
                Err(refusal) => Ok(vec![Action::Notice(refusal.to_string())]),
            };
        }
        Ok(Vec::new())
    }

    pub(super) fn close_signing(&mut self) -> Result<Vec<Action>> {
        let Some((_, release)) = &self.release.draft else {
            refuse!(OutOfPhase, "there is no draft of a release");
        };
        let mut signatures = Vec::new();
        for (&site, &signature) in &self.release.signatures {
            signatures.push((SiteName::new(&self.roster.name(site))?, signature));
        }
        let signed = SignedRelease::new(release.clone(), signatures);
        signed.verify(&self.roster)?;
        self.release.signed = Some(signed.clone());
        self.enter(Phase::Serving);
        let mut actions = vec![Action::Save];
        actions.extend(self.send_all(Kind::Released, self.stage, 0, signed.encode().into()));
        actions.push(Action::Released(Box::new(signed)));
        actions.push(Action::Finished);
        actions.extend(self.roster_messages());
        Ok(actions)
    }

    /// Whether the roster in force is another than that of the session.
    fn has_newer_roster(&self) -> bool {
        self.plan().is_ok_and(|plan| plan.roster != self.roster.digest())
    }

    fn roster_message(&self, site: SiteIndex) -> Action {
        self.send(site, Kind::Roster, self.stage, 0, self.signed_roster.encode().into())
    }

    /// The roster in force, for all who may not have it, and for who is in it and not in the session: it may join.
    pub(super) fn roster_messages(&self) -> Vec<Action> {
        let newer = self.has_newer_roster();
        let outside = |site: &SiteIndex| !self.members.contains(site) && !self.release.joined.contains(site);
        let sites = self.roster.sites().map(|(site, _, _)| site).filter(|site| newer || outside(site));
        sites.map(|site| self.roster_message(site)).collect()
    }

    pub(super) fn released_message(&self, site: SiteIndex) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(signed) = self.release.signed.as_ref().filter(|_| self.members.contains(&site)) {
            actions.push(self.send(site, Kind::Released, self.stage, 0, signed.encode().into()));
        }
        if self.has_newer_roster() {
            actions.push(self.roster_message(site));
        }
        if self.plan().is_ok_and(|plan| plan.kernel.is_some()) {
            actions.extend(self.gallery_prompt(site));
        }
        actions
    }

    pub(super) fn on_join(&mut self, site: SiteIndex, opened: &Opened) -> Result<Vec<Action>> {
        if self.phase != Phase::Serving {
            refuse!(OutOfPhase, "there is no release to join yet");
        }
        if self.members.contains(&site) {
            refuse!(Replayed, "{} is in already", self.roster.name(site));
        }
        // Who was let in before may ask again: it may have been killed before it had everything.
        self.release.asked.insert(site);
        let payload = wire::encode(&wire::Bundle { messages: vec![opened.raw.clone()] });
        let mut actions = vec![Action::Notice(format!("{} asks to join", self.roster.name(site)))];
        let active: Vec<SiteIndex> =
            self.members.iter().copied().filter(|&m| self.roster.site(m).is_some()).collect();
        for member in active {
            actions.push(self.send(member, Kind::JoinNotice, self.stage, 0, payload.clone()));
        }
        Ok(actions)
    }

    /// A member has approved a newcomer: passes the key on, and everything else it needs.
    pub(super) fn on_join_gift(&mut self, to: SiteIndex, opened: &Opened) -> Result<Vec<Action>> {
        if !self.release.asked.contains(&to) {
            refuse!(OutOfPhase, "{} has not asked to join, or was let in before", self.roster.name(to));
        }
        let (Some((_, plan)), Some(signed)) = (&self.plan, &self.release.signed) else {
            refuse!(OutOfPhase, "there is no release to join yet");
        };
        let package = wire::JoinPackage {
            plan: Some(plan.clone()),
            release: signed.encode().into(),
            parts: self.release.of,
        };
        let pass = |kind: Kind, bytes: Bytes| {
            let (from, to) = (opened.envelope.sender, Party::Site(to));
            Action::Send(Outgoing { from, to, kind, round: self.stage, bytes })
        };
        let mut actions = vec![
            pass(Kind::KeyGift, opened.raw.clone()),
            self.send(to, Kind::JoinPackage, self.stage, 0, wire::encode(&package)),
        ];
        actions.extend(self.release.parts.values().map(|(raw, _)| pass(Kind::ReleaseBlob, raw.clone())));
        self.release.asked.remove(&to);
        self.release.joined.insert(to);
        actions.insert(0, Action::Save);
        Ok(actions)
    }

    pub(super) fn set_parts(&mut self, of: u32) {
        self.release.of = of;
    }

    pub(super) fn parts(&self) -> u32 {
        self.release.of
    }
}
