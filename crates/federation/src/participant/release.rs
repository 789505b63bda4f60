//! Publishing, signing and joining a release.

use std::collections::BTreeMap;

use domain::SyndromeId;
use prost::bytes::Bytes;
use secure::SiteIndex;

use super::{Participant, Session};
use crate::action::{Action, Adoption, KernelSetup, Tensors};
use crate::aggregate::{Counts, Layout};
use crate::envelope::{Envelope, Kind, Party};
use crate::identity::{Digest, digest};
use crate::limits::PART;
use crate::participant::enrol::lists_digest;
use crate::plan::Plan;
use crate::refusal::{RefusalKind, Result, refusal, refuse};
use crate::release::{KernelRelease, MemberRelease, Release, SignedRelease, metrics};
use crate::roster::{SignedRoster, SiteName};
use crate::wire;

/// What a newcomer has received so far.
#[derive(Default)]
pub(super) struct Joining {
    package: Option<(Plan, wire::Signed, SignedRelease)>,
    parts: BTreeMap<u32, Bytes>,
    of: Option<u32>,
}

/// Digest of the sealed weights, by which a release names them.
pub(crate) fn weights_digest(sealed: &[u8]) -> Digest {
    digest("fedgestalt/weights/v1", &[sealed])
}

fn weights_label(session: &[u8; 16]) -> String {
    format!("weights/{}", hex::encode(session))
}

impl Participant {
    pub(super) fn on_publish_request(&mut self) -> Result<Vec<Action>> {
        let session = self.session()?;
        if session.released.is_some() {
            refuse!(Replayed, "the release is signed already");
        }
        if !self.may_release()? {
            return self.hello();
        }
        Ok(vec![Action::Publish])
    }

    /// Whether this site has gone through every stage of the plan.
    fn may_release(&self) -> Result<bool> {
        let session = self.session()?;
        let stages = session.plan.last_model_stage() + u32::from(session.plan.kernel.is_some());
        Ok(session.settled > stages)
    }

    /// What the release must say as far as this site knows.
    fn expected(&self, weights: Digest, card: String) -> Result<Release> {
        let session = self.session()?;
        let Some(lists) = &session.lists else {
            refuse!(OutOfPhase, "the syndrome lists are not united yet");
        };
        let mut sites = Vec::new();
        for &site in &session.members {
            sites.push(SiteName::new(&self.roster.name(site))?);
        }
        let plan = &session.plan;
        let names = plan.members.iter().map(|m| (&m.name, m.trunk));
        let names = names.chain(plan.forms.iter().map(|form| (&form.name, form.trunk)));
        let members = names.zip(&session.digests.members);
        let members =
            members.map(|((name, trunk), &tensors)| MemberRelease { name: name.clone(), trunk, tensors });
        let table = match (&plan.kernel, &session.hits) {
            (Some(kernel), Some(words)) => metrics(words, lists.all.len(), usize::from(kernel.splits))?,
            _ => BTreeMap::new(),
        };
        Ok(Release {
            version: Release::VERSION,
            session: plan.session,
            plan: session.plan_digest,
            roster: plan.roster,
            sites,
            rounds: session.rounds_in_model(),
            model: session.digests.whole,
            members: members.collect(),
            syndromes: lists.digest,
            kernel: plan.kernel.as_ref().map(|k| KernelRelease {
                dim: k.dim,
                width: k.width,
                views: k.views,
                label: session.model_label,
                weights: k.weighed.and(session.digests.members.last().copied()),
            }),
            metrics: table,
            weights,
            card,
        })
    }

    /// Publishes: the final model, `[member][tensor]` in plan order, and a model card. The encoder's
    /// tensors are sealed under the group key; the classifier stays where it is. The model must be the one
    /// whose hash was compared.
    pub fn publish<T: AsRef<[f32]>>(&mut self, model: &[Vec<T>], card: &str) -> Result<Vec<Action>> {
        if !self.may_release()? {
            refuse!(OutOfPhase, "the session is not over yet");
        }
        let session = self.session()?;
        let (Some(layout), Some(lists), Some(group)) = (&session.layout, &session.lists, &self.group) else {
            refuse!(OutOfPhase, "this site holds no model to publish");
        };
        if layout.digests(model, &session.counts)? != session.digests {
            refuse!(Disagreement, "the model given is not the one that the sites compared; publish that one");
        }
        let tensors = layout.published().map(|(member, tensor, _)| wire::Weight {
            member: member as u32,
            tensor: tensor as u32,
            values: wire::floats_to_bytes(model[member][tensor].as_ref()),
        });
        let names = |ids: &[SyndromeId]| ids.iter().map(|id| id.as_str().to_owned()).collect();
        let syndromes = wire::SyndromeList { trained: names(&lists.trained), gallery: names(&lists.all) };
        let plain = wire::encode(&wire::Weights { tensors: tensors.collect(), syndromes: Some(syndromes) });
        let label = weights_label(&session.plan.session);
        let group = group.clone();
        // Derived from what is sealed: the same weights give the same box and so the same release at every site and after
        // every restart, and the same nonce never meets other content.
        let seed = *group.key().derive("weights", &digest("fedgestalt/weights/v1", &[&plain])).expose();
        let sealed: Bytes = group.seal(&label, &plain, seed)?.into();
        drop(plain);
        let release = self.expected(weights_digest(&sealed), card.to_owned())?;
        let draft: Bytes = release.encode().into();
        if draft.len() > 4 << 20 {
            refuse!(Oversized, "the model card is too long; keep it under a megabyte");
        }
        let of = sealed.len().div_ceil(PART) as u32;
        let settled = self.settled();
        let mut actions = Vec::new();
        for number in 0..of {
            let start = number as usize * PART;
            let bytes = sealed.slice(start..(start + PART).min(sealed.len()));
            let part = wire::BlobPart { number, of, bytes };
            actions.push(self.send_to(None, Kind::ReleaseBlob, settled, number, wire::encode(&part)));
        }
        actions.push(self.send_to(None, Kind::ReleaseDraft, settled, 0, draft));
        Ok(actions)
    }

    pub(super) fn on_draft(&mut self, envelope: &Envelope) -> Result<Vec<Action>> {
        let session = self.session()?;
        if session.joined {
            refuse!(OutOfPhase, "a site that joined later does not sign the release");
        }
        if session.released.is_some() {
            refuse!(Replayed, "the release is signed already");
        }
        if !matches!(envelope.sender, Party::Site(site) if session.members.contains(&site)) {
            refuse!(UnknownSender, "the publisher has no part in this session");
        }
        if !self.may_release()? {
            return self.hello();
        }
        let draft = Release::decode(&envelope.payload)?;
        let expected = self.expected(draft.weights, draft.card.clone())?;
        if draft != expected {
            refuse!(Disagreement, "the release does not say what this site knows; it is not signed here");
        }
        if session.draft.as_ref().is_some_and(|d| *d != envelope.payload) {
            refuse!(Disagreement, "another draft of the release was signed here before");
        }
        let signature = self.key.sign(&draft.digest());
        self.session_mut()?.draft = Some(envelope.payload.clone());
        let payload = wire::encode(&wire::Hash { hash: signature.to_vec(), over: false });
        Ok(vec![Action::Save, self.send(Kind::ReleaseSignature, self.settled(), 0, payload)])
    }

    pub(super) fn on_released(&mut self, envelope: &Envelope) -> Result<Vec<Action>> {
        let signed = SignedRelease::decode(&envelope.payload)?;
        let session = self.session()?;
        if session.released.is_some() {
            refuse!(Replayed, "the release arrived before");
        }
        if session.joined {
            refuse!(OutOfPhase, "this site has joined by a release already");
        }
        if !self.may_release()? {
            return self.hello();
        }
        signed.verify(&self.roster)?;
        if signed.release != self.expected(signed.release.weights, signed.release.card.clone())? {
            refuse!(Disagreement, "the release does not say what this site knows");
        }
        self.session_mut()?.released = Some(signed.clone());
        Ok(vec![Action::Save, Action::Released(Box::new(signed)), Action::Finished])
    }

    /// Nothing to say for a release that came in before a restart.
    pub(super) fn resume_release(&self) -> Vec<Action> {
        match self.released() {
            Some(signed) => vec![Action::Released(Box::new(signed.clone())), Action::Finished],
            None => Vec::new(),
        }
    }

    /// Asks to take over a finished release: for a site that stands in a newer roster and took no part in
    /// training. [`Action::Adopt`] follows when a member has approved it.
    pub fn join(&mut self) -> Result<Vec<Action>> {
        if self.session.is_some() {
            refuse!(OutOfPhase, "this site is in a session already");
        }
        self.joining.get_or_insert_default();
        Ok(vec![self.send(Kind::JoinRequest, 0, 0, Bytes::new())])
    }

    /// The coordinator serves a release under this roster. A newer one takes the place of the pinned one, if it adds sites and
    /// nothing else; anything else is for a person to pin. A site in no session asks to join.
    pub(super) fn on_roster(&mut self, envelope: &Envelope) -> Result<Vec<Action>> {
        let signed = SignedRoster::decode(&envelope.payload)?;
        let roster = signed.verify(&self.consortium)?;
        let mut actions = Vec::new();
        if roster != self.roster {
            roster.only_adds_to(&self.roster)?;
            self.adopt_roster(&signed)?;
            actions.extend([Action::Save, Action::Roster(Box::new(signed))]);
        }
        if self.session.is_none() {
            let asked = self.join()?;
            actions.push(Action::Save);
            actions.extend(asked);
        }
        Ok(actions)
    }

    pub(super) fn on_join_notice(&mut self, envelope: &Envelope) -> Result<Vec<Action>> {
        let bundle: wire::Bundle = wire::decode(&envelope.payload)?;
        let [request] = bundle.messages.as_slice() else {
            refuse!(Malformed, "a notice has one request, not {}", bundle.messages.len());
        };
        let limits = self.limits();
        let request = Envelope::open(request.clone(), &self.roster, |kind| limits.payload(kind)).map_err(
            |e| match e.kind() {
                RefusalKind::UnknownSender => e.at("a site asks to join; adopt the newer roster first"),
                _ => e,
            },
        )?;
        let Party::Site(site) = request.envelope.sender else {
            refuse!(UnknownSender, "the coordinator does not join");
        };
        if request.envelope.kind != Kind::JoinRequest {
            refuse!(Malformed, "{:?} is no request to join", request.envelope.kind);
        }
        if self.approved.contains(&site) {
            return Ok(vec![self.gift(site)?]);
        }
        Ok(vec![Action::Approve { site }])
    }

    fn joining(&mut self) -> Result<&mut Joining> {
        match &mut self.joining {
            Some(joining) => Ok(joining),
            None => refuse!(OutOfPhase, "this site is not joining a release"),
        }
    }

    pub(super) fn on_package(&mut self, envelope: &Envelope) -> Result<Vec<Action>> {
        self.joining()?;
        let package: wire::JoinPackage = wire::decode(&envelope.payload)?;
        let Some(signed_plan) = package.plan else {
            refuse!(Malformed, "a package without a plan");
        };
        let plan = Plan::verified(&signed_plan, &self.roster.coordinator())?;
        let release = SignedRelease::decode(&package.release)?;
        release.verify(&self.roster)?;
        if release.release.plan != plan.digest() || release.release.session != envelope.session {
            refuse!(Disagreement, "the release was not made under this plan");
        }
        if package.parts == 0 || package.parts > 1024 {
            refuse!(Malformed, "weights in {} parts", package.parts);
        }
        let joining = self.joining()?;
        joining.of = Some(package.parts);
        joining.package = Some((plan, signed_plan, release));
        self.try_adopt()
    }

    pub(super) fn on_blob(&mut self, envelope: &Envelope) -> Result<Vec<Action>> {
        let part: wire::BlobPart = wire::decode(&envelope.payload)?;
        let joining = self.joining()?;
        if joining.of.is_some_and(|of| of != part.of) || part.number >= part.of || part.of > 1024 {
            refuse!(Malformed, "part {} of {} does not fit the package", part.number, part.of);
        }
        joining.parts.insert(part.number, part.bytes);
        self.try_adopt()
    }

    /// Takes the release over once key, package and all parts are here.
    pub(super) fn try_adopt(&mut self) -> Result<Vec<Action>> {
        let (Some(joining), Some(group)) = (&self.joining, &self.group) else { return Ok(Vec::new()) };
        let Some((plan, signed_plan, signed)) = &joining.package else { return Ok(Vec::new()) };
        if joining.of != Some(joining.parts.len() as u32) {
            return Ok(Vec::new());
        }
        let release = &signed.release;
        let mut sealed = Vec::with_capacity(joining.parts.values().map(Bytes::len).sum());
        joining.parts.values().for_each(|part| sealed.extend_from_slice(part));
        if weights_digest(&sealed) != release.weights {
            refuse!(Disagreement, "the weights are not those that the release names; join again");
        }
        let images =
            self.holdings.values().map(|&n| u64::from(n)).sum::<u64>().max(u64::from(plan.min_cohort));
        self.policy.check(plan, images.max(u64::from(self.policy.minimum_images)))?;
        let plain = group.open(&weights_label(&release.session), &sealed)?;
        drop(sealed);
        let weights: wire::Weights = wire::decode(&plain.into())?;
        let list = weights.syndromes.unwrap_or_default();
        let read = |ids: &[String]| -> Result<Vec<SyndromeId>> {
            let ids = ids.iter().map(|id| SyndromeId::new(id));
            ids.collect::<std::result::Result<_, _>>().map_err(|_| {
                refusal(RefusalKind::Malformed, "the release lists a syndrome with an impossible id")
            })
        };
        let (trained, all) = (read(&list.trained)?, read(&list.gallery)?);
        if lists_digest(&trained, &all) != release.syndromes {
            refuse!(Disagreement, "the syndrome list is not the one that the release names");
        }
        let layout = Layout::new(plan, trained.len(), release.sites.len())?;
        let mut tensors: Tensors = layout.lengths().iter().map(|m| vec![Vec::new(); m.len()]).collect();
        for ((member, tensor, len), weight) in layout.published().zip(&weights.tensors) {
            if (weight.member, weight.tensor) != (member as u32, tensor as u32)
                || weight.values.len() != 4 * len
            {
                refuse!(Malformed, "the weights do not follow the plan");
            }
            tensors[member][tensor] = wire::bytes_to_floats(&weight.values);
        }
        drop(weights.tensors);
        let named = release.members.iter().map(|member| (member.name.as_str(), member.tensors));
        let weights = release.kernel.as_ref().and_then(|kernel| kernel.weights);
        let named: Vec<_> = named.chain(weights.map(|weights| ("the members", weights))).collect();
        if named.len() != tensors.len() {
            refuse!(Malformed, "the release names {} parts of the model, not {}", named.len(), tensors.len());
        }
        for (tensors, (name, digest)) in tensors.iter().zip(named) {
            let published = tensors.iter().filter(|t| !t.is_empty()).map(Vec::as_slice);
            if Layout::published_digest(published) != digest {
                refuse!(Disagreement, "the weights of {name} are not those that the release names");
            }
        }
        let mut session = Session::new(signed_plan.clone(), plan.clone());
        session.joined = true;
        session.members =
            release.sites.iter().map(|name| self.roster.find(name).unwrap_or(SiteIndex(u16::MAX))).collect();
        session.model_label = release.kernel.as_ref().map_or([0; 32], |k| k.label);
        session.counts = Counts::default();
        session.released = Some(signed.clone());
        let adoption = Adoption {
            plan: plan.clone(),
            release: release.clone(),
            tensors,
            trained: trained.clone(),
            all: all.clone(),
            kernel: release.kernel.as_ref().map(|k| KernelSetup { dim: k.dim, label: k.label }),
        };
        self.session = Some(session);
        let lists = self.unite(trained, all)?;
        self.session_mut()?.lists = Some(lists);
        self.joining = None;
        // The host has the weights before this is saved: killed in between, it joins again.
        Ok(vec![Action::Adopt(Box::new(adoption)), Action::Save])
    }
}

#[cfg(test)]
mod tests;
