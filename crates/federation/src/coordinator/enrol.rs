//! Who takes part, and the syndrome lists it passes on unread.

use prost::bytes::Bytes;
use secure::SiteIndex;

use super::{Coordinator, Phase};
use crate::action::Action;
use crate::aggregate::Layout;
use crate::envelope::{Envelope, Kind, Opened, Party};
use crate::plan::{MAX_SYNDROMES, Plan};
use crate::refusal::{Result, refuse};
use crate::wire;

impl Coordinator {
    /// Offers a plan to every active site of the roster.
    pub fn start(&mut self, plan: Plan) -> Result<Vec<Action>> {
        if self.phase != Phase::Idle {
            refuse!(OutOfPhase, "a session is under way; use a new coordinator for a new session");
        }
        plan.check()?;
        if plan.roster != self.roster.digest() {
            refuse!(PlanInvalid, "the plan is for another roster than serial {}", self.roster.serial());
        }
        let sites = self.roster.sites().count();
        if sites < 3 {
            refuse!(TooFewSites, "{sites} sites in the roster; a secure sum needs at least 3");
        }
        let signed = plan.signed(&self.key);
        self.plan = Some((plan, signed));
        self.enter(Phase::Plan);
        let mut actions = vec![Action::Save];
        let sites: Vec<SiteIndex> = self.roster.sites().map(|(site, _, _)| site).collect();
        actions.extend(sites.into_iter().flat_map(|site| self.offer(site)));
        Ok(actions)
    }

    pub(super) fn offer(&self, site: SiteIndex) -> Vec<Action> {
        let signed = self.plan.as_ref().map(|(_, signed)| wire::encode(signed));
        signed.map(|payload| self.send(site, Kind::PlanOffer, 0, 0, payload)).into_iter().collect()
    }

    pub(super) fn on_plan_answer(&mut self, site: SiteIndex, envelope: &Envelope) -> Result<Vec<Action>> {
        let answer: wire::PlanAnswer = wire::decode(&envelope.payload)?;
        if self.phase != Phase::Plan {
            refuse!(OutOfPhase, "the plan was settled before");
        }
        if self.answers.contains_key(&site) {
            refuse!(Replayed, "{} has answered already", self.roster.name(site));
        }
        if answer.plan != self.plan()?.digest() {
            refuse!(Disagreement, "{} answers to another plan", self.roster.name(site));
        }
        self.answers.insert(site, answer.accepts.then_some(answer.epoch));
        let mut actions = Vec::new();
        if !answer.accepts {
            let reason: String = answer.reason.chars().filter(|c| !c.is_control()).take(500).collect();
            actions.push(Action::Notice(format!("{} does not take part: {reason}", self.roster.name(site))));
        }
        if self.awaited().is_empty() {
            match self.close_plan() {
                Ok(more) => actions.extend(more),
                Err(refusal) => actions.extend(self.halt(refusal.to_string())),
            }
        }
        Ok(actions)
    }

    pub(super) fn close_plan(&mut self) -> Result<Vec<Action>> {
        let members =
            self.answers.iter().filter(|(_, epoch)| epoch.is_some()).map(|(&site, _)| site).collect();
        self.enrol(members)
    }

    /// Names the members. Called again without those who have fallen silent.
    pub(super) fn enrol(&mut self, members: Vec<SiteIndex>) -> Result<Vec<Action>> {
        if members.len() < 3 {
            let names: Vec<String> = members.iter().map(|&site| self.roster.name(site)).collect();
            refuse!(
                TooFewSites,
                "only {} take part ({}); a secure sum needs at least 3",
                members.len(),
                names.join(", ")
            );
        }
        // Who already holds a key gives it; who has shown a list in this session holds one too.
        let epoch = |site: &SiteIndex| {
            let shown = u64::from(self.lists.contains_key(site));
            self.answers.get(site).copied().flatten().unwrap_or(0).max(shown)
        };
        let most = members.iter().map(epoch).max().unwrap_or(0);
        self.founder = members.iter().copied().find(|site| epoch(site) == most).unwrap_or(members[0]);
        self.members = members;
        self.present = self.members.iter().copied().collect();
        self.enrolment += 1;
        self.lists.clear();
        self.ready.clear();
        self.gifts.clear();
        self.enter(Phase::Lists);
        let mut actions = vec![Action::Save];
        for &site in &self.members {
            actions.extend(self.enrolled_messages(site));
        }
        Ok(actions)
    }

    pub(super) fn enrol_without(&mut self, silent: &[SiteIndex]) -> Result<Vec<Action>> {
        let left = self.members.iter().copied().filter(|site| !silent.contains(site)).collect();
        self.enrol(left)
    }

    pub(super) fn enrolled_messages(&self, site: SiteIndex) -> Vec<Action> {
        let enrolled = wire::Enrolled {
            members: self.members.iter().map(|m| u32::from(m.0)).collect(),
            founder: u32::from(self.founder.0),
        };
        let mut actions = vec![self.send(site, Kind::Enrolled, 0, self.enrolment, wire::encode(&enrolled))];
        if let Some(gift) = self.gifts.get(&site) {
            actions.push(self.outgoing(site, Kind::KeyGift, 0, gift.clone()));
        }
        actions
    }

    /// Asks a silent site for its list, and the founder again for that site's key if it never came.
    pub(super) fn list_prompt(&self, site: SiteIndex) -> Vec<Action> {
        let mut actions = self.enrolled_messages(site);
        if site != self.founder && !self.gifts.contains_key(&site) {
            actions.extend(self.enrolled_messages(self.founder));
        }
        actions
    }

    pub(super) fn on_gift(&mut self, from: SiteIndex, opened: &Opened) -> Result<Vec<Action>> {
        let Some(Party::Site(to)) = opened.envelope.recipient else {
            refuse!(WrongRecipient, "a group key goes to one site, never to the coordinator");
        };
        if self.phase == Phase::Serving {
            return self.on_join_gift(to, opened);
        }
        if self.phase != Phase::Lists || from != self.founder || !self.members.contains(&to) {
            refuse!(OutOfPhase, "no group key is due from {}", self.roster.name(from));
        }
        if opened.envelope.attempt != self.enrolment {
            refuse!(Replayed, "the gift is from enrolment {}", opened.envelope.attempt);
        }
        self.gifts.insert(to, opened.raw.clone());
        Ok(vec![self.outgoing(to, Kind::KeyGift, 0, opened.raw.clone())])
    }

    pub(super) fn on_list(&mut self, site: SiteIndex, opened: &Opened) -> Result<Vec<Action>> {
        if opened.envelope.attempt < self.enrolment || self.lists.contains_key(&site) {
            refuse!(Replayed, "a list of enrolment {} came before or is outdated", opened.envelope.attempt);
        }
        if self.phase != Phase::Lists || opened.envelope.attempt != self.enrolment {
            refuse!(OutOfPhase, "no list is due");
        }
        self.lists.insert(site, opened.raw.clone());
        if !self.awaited().is_empty() {
            return Ok(Vec::new());
        }
        self.enter(Phase::Agree);
        Ok(self.send_all(Kind::Lists, 0, self.enrolment, self.lists_bundle()))
    }

    pub(super) fn lists_bundle(&self) -> Bytes {
        wire::encode(&wire::Bundle { messages: self.lists.values().cloned().collect() })
    }

    pub(super) fn on_lists_ready(&mut self, site: SiteIndex, envelope: &Envelope) -> Result<Vec<Action>> {
        let ready: wire::ListsReady = wire::decode(&envelope.payload)?;
        if envelope.attempt < self.enrolment || self.ready.contains_key(&site) {
            refuse!(
                Replayed,
                "{} has said so before, or means enrolment {}",
                self.roster.name(site),
                envelope.attempt
            );
        }
        if self.phase != Phase::Agree {
            refuse!(OutOfPhase, "the lists are not under way");
        }
        let (trained, all) = (ready.trained as usize, ready.all as usize);
        if trained > all || all > MAX_SYNDROMES || ready.digest.len() != 32 {
            refuse!(Malformed, "{trained} trained of {all} syndromes");
        }
        self.ready.insert(site, ready.clone());
        if !self.awaited().is_empty() {
            return Ok(Vec::new());
        }
        let differing: Vec<String> = self
            .ready
            .iter()
            .filter(|(_, other)| **other != ready)
            .map(|(&s, _)| self.roster.name(s))
            .collect();
        if !differing.is_empty() {
            let name = self.roster.name(site);
            return Ok(
                self.halt(format!("{} have united another syndrome list than {name}", differing.join(", ")))
            );
        }
        let layout = match Layout::new(self.plan()?, trained, self.members.len()) {
            Ok(layout) => layout,
            Err(refusal) => return Ok(self.halt(refusal.to_string())),
        };
        self.layout = Some(layout);
        self.syndromes = (trained, all, std::array::from_fn(|i| ready.digest[i]));
        self.begin_sum(0)
    }
}
