//! Plan, group key, united syndrome list.

use std::collections::{BTreeMap, BTreeSet};

use domain::SyndromeId;
use secure::SiteIndex;
use secure::sum::Words;

use super::{Lists, Participant, Session};
use crate::action::Action;
use crate::aggregate::{Layout, stage_words};
use crate::envelope::{Envelope, Kind, Opened, Party};
use crate::group::{GiftContext, GroupState};
use crate::identity::digest;
use crate::plan::{MAX_SYNDROMES, Plan};
use crate::refusal::{RefusalKind, Result, refusal, refuse};
use crate::wire;

impl Session {
    /// Bytes of the largest vector of the session; 0 before the lists are united.
    pub(super) fn largest_vector(&self) -> usize {
        let words = self.plan.kinds_of_stages().filter_map(|stage| self.words(stage).ok());
        words.map(Words::bytes).max().unwrap_or(0)
    }

    pub(super) fn words(&self, stage: u32) -> Result<Words> {
        match (&self.lists, &self.layout) {
            (Some(lists), Some(layout)) => {
                Ok(stage_words(&self.plan, layout, lists.trained.len(), lists.all.len(), stage))
            }
            _ => refuse!(OutOfPhase, "the syndrome lists are not united yet"),
        }
    }

    fn list_label(&self, site: SiteIndex) -> String {
        format!("syndromes/{}/{}/{}", hex::encode(self.plan.session), self.enrolment, site.0)
    }
}

impl Participant {
    pub(super) fn on_plan(&mut self, envelope: &Envelope) -> Result<Vec<Action>> {
        let signed: wire::Signed = wire::decode(&envelope.payload)?;
        let plan = Plan::verified(&signed, &self.roster.coordinator())?;
        if plan.session != envelope.session {
            refuse!(WrongSession, "the plan names another session than the message");
        }
        if plan.roster != self.roster.digest() {
            refuse!(
                PlanRefused,
                "the plan was made for another roster than serial {}, which is pinned here",
                self.roster.serial()
            );
        }
        if self.session.as_ref().is_some_and(|s| s.plan != plan) {
            refuse!(PlanRefused, "another plan was accepted for this session; plans do not change");
        }
        let images = self.holdings.values().map(|&n| u64::from(n)).sum();
        let verdict = self.policy.check(&plan, images);
        let answer = wire::PlanAnswer {
            accepts: verdict.is_ok(),
            reason: verdict.as_ref().err().map(ToString::to_string).unwrap_or_default(),
            epoch: self.group.as_ref().map_or(0, GroupState::epoch),
            plan: plan.digest().to_vec(),
        };
        let accepted = answer.accepts;
        if self.session.is_none() {
            // A refusing site must still be able to sign its answer for this session.
            self.session = Some(Session::new(signed, plan));
            self.joining = None;
        }
        let mut actions = vec![Action::Save, self.send(Kind::PlanAnswer, 0, 0, wire::encode(&answer))];
        if !accepted {
            self.session = None;
            actions.push(Action::Notice(format!("plan refused: {}", answer.reason)));
        }
        Ok(actions)
    }

    pub(super) fn on_enrolled(&mut self, envelope: &Envelope) -> Result<Vec<Action>> {
        let message: wire::Enrolled = wire::decode(&envelope.payload)?;
        let session = self.session()?;
        if envelope.attempt < session.enrolment {
            refuse!(Replayed, "enrolment {} is over; {} is under way", envelope.attempt, session.enrolment);
        }
        if session.applied > 0 || session.last_attempt > 0 {
            refuse!(OutOfPhase, "enrolment is over; the session is at stage {}", session.applied);
        }
        let mut members = Vec::new();
        for &number in &message.members {
            let site = SiteIndex(u16::try_from(number).unwrap_or(u16::MAX));
            if self.roster.site(site).is_none() || members.last().is_some_and(|&last| last >= site) {
                refuse!(
                    Malformed,
                    "the list of members is not in order or names a stranger (number {number})"
                );
            }
            members.push(site);
        }
        let founder = SiteIndex(u16::try_from(message.founder).unwrap_or(u16::MAX));
        if !members.contains(&self.me) || !members.contains(&founder) {
            refuse!(Malformed, "the list of members lacks this site or the founder");
        }
        self.policy.check_members(members.len())?;
        let repeated = envelope.attempt == session.enrolment;
        if repeated && (session.members != members || session.founder != founder) {
            refuse!(Disagreement, "the coordinator names other members than before for the same enrolment");
        }
        let session = self.session_mut()?;
        if !repeated {
            session.lists = None;
            session.layout = None;
        }
        (session.members, session.founder, session.enrolment) = (members.clone(), founder, envelope.attempt);
        let mut actions = Vec::new();
        if founder == self.me {
            if self.group.is_none() {
                // From the founder's own secret, so that a founder which dies before it could save founds the same key again.
                let context = GiftContext {
                    session: self.session()?.plan.session,
                    roster: self.roster.digest(),
                    epoch: self.least_epoch,
                    from: self.me,
                    to: self.me,
                };
                let seed = self.key.found(&context.bytes());
                self.group = Some(GroupState::found(seed, self.least_epoch, &self.roster));
            }
            actions.push(Action::Save);
            let me = self.me;
            for &site in members.iter().filter(|&&site| site != me) {
                let keys = self.roster.site(site).copied().expect("members were checked against the roster");
                let entitled =
                    self.group.as_ref().is_some_and(|g| g.entitles(&keys)) || self.approved.contains(&site);
                actions.push(if entitled { self.gift(site)? } else { Action::Approve { site } });
            }
        }
        if self.group.is_some() {
            actions.push(self.list_message()?);
        }
        Ok(actions)
    }

    pub(super) fn gift(&mut self, to: SiteIndex) -> Result<Action> {
        let seed = self.seeds.draw("key gift");
        let session = self.session()?;
        let Some(group) = &self.group else {
            refuse!(GroupKey, "this site holds no group key to give");
        };
        let context = GiftContext {
            session: session.plan.session,
            roster: self.roster.digest(),
            epoch: group.epoch(),
            from: self.me,
            to,
        };
        let keys = self.roster.site(to).expect("the receiver was looked up in the roster");
        let gift = group.gift(keys, &context, seed)?;
        Ok(self.send_to(Some(Party::Site(to)), Kind::KeyGift, 0, session.enrolment, wire::encode(&gift)))
    }

    pub(super) fn on_gift(&mut self, envelope: &Envelope) -> Result<Vec<Action>> {
        let gift: wire::KeyGift = wire::decode(&envelope.payload)?;
        let Party::Site(from) = envelope.sender else {
            refuse!(UnknownSender, "the coordinator has no group key to give");
        };
        if self.joining.is_none() {
            let session = self.session()?;
            if from != session.founder || session.enrolment == 0 {
                refuse!(GroupKey, "{} is not the founder of this session", self.roster.name(from));
            }
        }
        let context = GiftContext {
            session: envelope.session,
            roster: self.roster.digest(),
            epoch: gift.epoch,
            from,
            to: self.me,
        };
        let new = GroupState::accept(
            self.group.as_ref(),
            self.least_epoch,
            &gift,
            &context,
            &self.key,
            &self.roster,
        )?;
        let had = self.group.replace(new).is_some();
        if self.joining.is_some() {
            let mut actions = vec![Action::Save];
            actions.extend(self.try_adopt()?);
            return Ok(actions);
        }
        if had || self.session()?.lists.is_some() {
            return Ok(Vec::new());
        }
        Ok(vec![Action::Save, self.list_message()?])
    }

    /// This site's syndromes, sealed under the group key, for all members.
    fn list_message(&mut self) -> Result<Action> {
        let seed = self.seeds.draw("syndrome list");
        let names = |trained: bool| -> Vec<String> {
            let wanted = self.holdings.iter().filter(|&(_, &n)| (n > 0) == trained);
            wanted.map(|(id, _)| id.as_str().to_owned()).collect()
        };
        let list = wire::SyndromeList { trained: names(true), gallery: names(false) };
        let session = self.session()?;
        let Some(group) = &self.group else {
            refuse!(GroupKey, "this site waits for the group key");
        };
        let boxed = group.seal(&session.list_label(self.me), &wire::encode(&list), seed)?;
        let payload = wire::encode(&wire::Sealed { boxed: boxed.into() });
        Ok(self.send_to(None, Kind::SyndromeList, 0, session.enrolment, payload))
    }

    /// Opens messages of others that the coordinator passed on: each signed by a member, for this stage,
    /// and no member twice.
    pub(super) fn open_bundle(
        &self,
        envelope: &Envelope,
        kind: Kind,
        attempt: Option<u32>,
    ) -> Result<BTreeMap<SiteIndex, Opened>> {
        let bundle: wire::Bundle = wire::decode(&envelope.payload)?;
        let session = self.session()?;
        let limits = self.limits();
        let mut messages = BTreeMap::new();
        for bytes in bundle.messages {
            let opened = Envelope::open(bytes, &self.roster, |kind| limits.payload(kind))?;
            let inner = &opened.envelope;
            let Party::Site(site) = inner.sender else {
                refuse!(UnknownSender, "the coordinator's word stands where a site's should");
            };
            if !session.members.contains(&site) {
                refuse!(UnknownSender, "{} has no part in this session", self.roster.name(site));
            }
            if inner.session != session.plan.session {
                refuse!(WrongSession, "{}'s word is from another session", self.roster.name(site));
            }
            if inner.kind != kind
                || inner.round != envelope.round
                || attempt.is_some_and(|a| a != inner.attempt)
            {
                refuse!(Replayed, "{}'s word is from another stage, attempt or kind", self.roster.name(site));
            }
            if messages.insert(site, opened).is_some() {
                refuse!(Malformed, "{} speaks twice", self.roster.name(site));
            }
        }
        Ok(messages)
    }

    pub(super) fn on_lists(&mut self, envelope: &Envelope) -> Result<Vec<Action>> {
        let session = self.session()?;
        if envelope.attempt != session.enrolment || session.enrolment == 0 {
            refuse!(
                Replayed,
                "the lists are from enrolment {}; {} is under way",
                envelope.attempt,
                session.enrolment
            );
        }
        let Some(group) = &self.group else {
            refuse!(GroupKey, "the group key has not arrived yet");
        };
        let messages = self.open_bundle(envelope, Kind::SyndromeList, Some(envelope.attempt))?;
        if !messages.keys().eq(session.members.iter()) {
            refuse!(Malformed, "{} lists for {} members", messages.len(), session.members.len());
        }
        let (mut trained, mut all) = (BTreeSet::new(), BTreeSet::new());
        for (site, opened) in &messages {
            let name = self.roster.name(*site);
            let sealed: wire::Sealed = wire::decode(&opened.envelope.payload)?;
            let plain = group
                .open(&session.list_label(*site), &sealed.boxed)
                .map_err(|e| e.at(format!("list of {name}")))?;
            let list: wire::SyndromeList = wire::decode(&plain.into())?;
            let mut take = |ids: &[String], also: Option<&mut BTreeSet<SyndromeId>>| -> Result<()> {
                let ids = ids.iter().map(|id| {
                    SyndromeId::new(id).map_err(|_| {
                        refusal(
                            RefusalKind::Malformed,
                            format!("{name} lists a syndrome with an impossible id"),
                        )
                    })
                });
                let ids: Vec<SyndromeId> = ids.collect::<Result<_>>()?;
                if let Some(also) = also {
                    also.extend(ids.iter().cloned());
                }
                all.extend(ids);
                Ok(())
            };
            take(&list.trained, Some(&mut trained))?;
            take(&list.gallery, None)?;
        }
        if all.len() > MAX_SYNDROMES {
            refuse!(Malformed, "{} syndromes; at most {MAX_SYNDROMES} are supported", all.len());
        }
        let lists = self.unite(trained.into_iter().collect(), all.into_iter().collect())?;
        let session = self.session()?;
        let ready = wire::ListsReady {
            trained: lists.trained.len() as u32,
            all: lists.all.len() as u32,
            digest: lists.digest.to_vec(),
        };
        let layout = Layout::new(&session.plan, lists.trained.len(), session.members.len())?;
        let own = lists.trained.iter().map(|id| self.holdings.get(id).copied().unwrap_or(0)).collect();
        let enrolment = session.enrolment;
        let session = self.session_mut()?;
        session.layout = Some(layout);
        session.own = own;
        session.lists = Some(lists);
        Ok(vec![Action::Save, self.send(Kind::ListsReady, 0, enrolment, wire::encode(&ready))])
    }

    pub(super) fn unite(&self, trained: Vec<SyndromeId>, all: Vec<SyndromeId>) -> Result<Lists> {
        let session = self.session()?;
        let digest = lists_digest(&trained, &all);
        let members: Vec<u8> = session.members.iter().flat_map(|site| site.0.to_le_bytes()).collect();
        let enrolment = session.enrolment.to_le_bytes();
        let id = sum_id(&session.plan.session, &session.plan_digest, &members, &enrolment, &digest);
        Ok(Lists { trained, all, digest, sum_id: id })
    }
}

/// Digest of the united lists.
pub(super) fn lists_digest(trained: &[SyndromeId], all: &[SyndromeId]) -> [u8; 32] {
    let count = (trained.len() as u64).to_le_bytes();
    let mut parts: Vec<&[u8]> = vec![&count];
    parts.extend(trained.iter().chain(all).map(|id| id.as_str().as_bytes()));
    digest("fedgestalt/syndromes/v1", &parts)
}

/// Names the secure sums of a session: binds plan, members and lists, so that sites who were told
/// different things cannot end up in one sum.
pub(crate) fn sum_id(
    session: &[u8],
    plan: &[u8],
    members: &[u8],
    enrolment: &[u8],
    lists: &[u8],
) -> [u8; 16] {
    let full = digest("fedgestalt/sum-session/v1", &[session, plan, members, enrolment, lists]);
    std::array::from_fn(|i| full[i])
}
