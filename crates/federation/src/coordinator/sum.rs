//! Secure sums and the comparison of what came of them.

use prost::bytes::Bytes;
use secure::SiteIndex;
use secure::sum::{
    Advert, Aggregator, Consent, Consented, MaskedInput, Phase as SumPhase, SealedShares,
    Session as SumSession, SumConfig, Unmasking,
};

use super::{Coordinator, Finished, Phase};
use crate::action::Action;
use crate::envelope::{Envelope, Kind, Opened};
use crate::participant::AbstainReason;
use crate::participant::sum_id;
use crate::plan::{Stage, Stopping};
use crate::refusal::{RefusalKind, Result, refusal, refuse};
use crate::release::threshold;
use crate::wire;

impl Coordinator {
    /// Opens an attempt at a stage. The number grows over the whole session, restarts included, so that no
    /// site ever uses a pad twice.
    pub(super) fn begin_sum(&mut self, stage: u32) -> Result<Vec<Action>> {
        let attempt = self.attempt + 1;
        let plan = self.plan()?;
        let members: Vec<u8> = self.members.iter().flat_map(|site| site.0.to_le_bytes()).collect();
        let enrolment = self.enrolment.to_le_bytes();
        let id = sum_id(&plan.session, &plan.digest(), &members, &enrolment, &self.syndromes.2);
        let mut keys = Vec::with_capacity(self.members.len());
        for &site in &self.members {
            match self.roster.site(site) {
                Some(site) => keys.push(site.verifying()?),
                None => refuse!(UnknownSender, "{} has left the roster", self.roster.name(site)),
            }
        }
        let session =
            SumSession { id, purpose: plan.stage(stage).purpose().to_owned(), round: stage, attempt };
        let config = SumConfig::new(session, keys, self.words(stage)?)?;
        if stage != self.stage {
            self.excused.clear();
        }
        self.attempt = attempt;
        self.stage = stage;
        self.aggregator = Some(Aggregator::new(config));
        self.enter(Phase::Sum);
        let mut actions = vec![Action::Save];
        actions.extend(self.send_all(Kind::SumOpen, stage, attempt, Bytes::new()));
        Ok(actions)
    }

    fn member(&self, place: SiteIndex) -> SiteIndex {
        self.members[usize::from(place.0)]
    }

    pub(super) fn sum_takes_adverts(&self) -> bool {
        self.aggregator.as_ref().is_some_and(|a| a.phase() == SumPhase::Adverts)
    }

    pub(super) fn awaited_in_sum(&self) -> Vec<SiteIndex> {
        let Some(aggregator) = &self.aggregator else { return Vec::new() };
        let sites = aggregator.awaited().into_iter().map(|place| self.member(place));
        let adverts = self.sum_takes_adverts();
        sites
            .filter(|site| !adverts || (self.present.contains(site) && !self.excused.contains(site)))
            .collect()
    }

    pub(super) fn on_sum(&mut self, site: SiteIndex, mut envelope: Envelope) -> Result<Vec<Action>> {
        let (stage, attempt) = (envelope.round, envelope.attempt);
        if (stage, attempt) != (self.stage, self.attempt) || self.phase != Phase::Sum {
            if stage < self.stage
                || attempt < self.attempt
                || (stage == self.stage && self.phase != Phase::Sum)
            {
                refuse!(Replayed, "the message is of a sum that is over; stage {} is under way", self.stage);
            }
            refuse!(
                OutOfPhase,
                "that sum has not begun; stage {}, attempt {} is under way",
                self.stage,
                self.attempt
            );
        }
        let Some(place) = self.members.iter().position(|&member| member == site) else {
            refuse!(UnknownSender, "{} has no part in this session", self.roster.name(site));
        };
        let place = SiteIndex(place as u16);
        let Some(aggregator) = &mut self.aggregator else {
            refuse!(Replayed, "this attempt was given up");
        };
        let config = aggregator.config().clone();
        let own = |said: SiteIndex| -> Result<()> {
            if said != place {
                refuse!(UnknownSender, "the message speaks for another site than the one that signed it");
            }
            Ok(())
        };
        let payload = std::mem::take(&mut envelope.payload);
        match envelope.kind {
            Kind::Advert => {
                let advert = Advert::decode(&payload, &config)?;
                own(advert.site())?;
                aggregator.accept_advert(advert)?;
            }
            Kind::Shares => {
                let shares = SealedShares::decode(&payload, &config)?;
                own(shares.site())?;
                aggregator.accept_shares(shares)?;
            }
            Kind::Input => {
                let input = MaskedInput::decode_whole(payload.into(), &config)?;
                own(input.site())?;
                aggregator.accept_input(input)?;
            }
            Kind::Consent => {
                let consent = Consent::decode(&payload, &config)?;
                own(consent.site())?;
                aggregator.accept_consent(consent)?;
            }
            _ => {
                let unmasking = Unmasking::decode(&payload, &config)?;
                own(unmasking.site())?;
                aggregator.accept_unmasking(unmasking)?;
            }
        }
        // The sender counts as here before anybody asks who is awaited.
        self.present.insert(site);
        self.advance()
    }

    /// Goes on when nobody is awaited any more. Too few sites are no fault of the last message: the
    /// deadline will say so.
    fn advance(&mut self) -> Result<Vec<Action>> {
        if !self.awaited_in_sum().is_empty() {
            return Ok(Vec::new());
        }
        match self.close_sum_phase() {
            Ok(actions) => Ok(actions),
            Err(refusal) => Ok(vec![Action::Notice(refusal.to_string())]),
        }
    }

    pub(super) fn close_sum_phase(&mut self) -> Result<Vec<Action>> {
        let result = self.try_close();
        if result.is_err() {
            self.aggregator = None;
        }
        result.map_err(|e| {
            refusal(RefusalKind::TooFewSites, format!("stage {}, attempt {}: {e}", self.stage, self.attempt))
        })
    }

    fn try_close(&mut self) -> Result<Vec<Action>> {
        let (stage, attempt) = (self.stage, self.attempt);
        let Some(aggregator) = &mut self.aggregator else {
            refuse!(TooFewSites, "the attempt was given up; retry when more sites are back");
        };
        match aggregator.phase() {
            SumPhase::Adverts => {
                let adverts = aggregator.close_adverts()?;
                let takers: Vec<SiteIndex> = adverts.iter().map(Advert::site).collect();
                let messages = adverts.iter().map(|advert| advert.encode().into()).collect();
                let payload = wire::encode(&wire::Bundle { messages });
                Ok(self.send_places(&takers, Kind::Adverts, payload))
            }
            SumPhase::Shares => {
                let inboxes = aggregator.close_shares()?;
                let send = |(place, inbox): (SiteIndex, secure::sum::Inbox)| {
                    self.send(self.member(place), Kind::Inbox, stage, attempt, inbox.encode().into())
                };
                Ok(inboxes.into_iter().map(send).collect())
            }
            SumPhase::Inputs => {
                let survivors = aggregator.close_inputs()?;
                Ok(self.send_places(survivors.sites(), Kind::Survivors, survivors.encode().into()))
            }
            SumPhase::Consents => match aggregator.close_consents()? {
                Consented::Agreed(consents) => {
                    let places: Vec<SiteIndex> = consents.sites().collect();
                    Ok(self.send_places(&places, Kind::Consents, consents.encode().into()))
                }
                Consented::Again(survivors) => {
                    Ok(self.send_places(survivors.sites(), Kind::Survivors, survivors.encode().into()))
                }
            },
            SumPhase::Unmaskings => {
                let sum = aggregator.finish()?;
                self.aggregator = None;
                let sum: Bytes = sum.encode().into();
                self.sum_done(sum)
            }
            SumPhase::Finished => Ok(Vec::new()),
        }
    }

    fn send_places(&self, places: &[SiteIndex], kind: Kind, payload: Bytes) -> Vec<Action> {
        let bytes = self.seal(None, kind, self.stage, self.attempt, payload);
        places
            .iter()
            .map(|&place| self.outgoing(self.member(place), kind, self.stage, bytes.clone()))
            .collect()
    }

    fn sum_done(&mut self, sum: Bytes) -> Result<Vec<Action>> {
        let stage = self.stage;
        let done = Finished { attempt: self.attempt, sum, hashes: Default::default(), settled: false };
        self.finished.insert(stage, done);
        let mut actions = Vec::new();
        let compared = stage <= self.plan()?.last_model_stage();
        self.enter(Phase::Hashes);
        actions.push(Action::Save);
        actions.extend(self.send_all(Kind::SumResult, stage, self.attempt, self.result_payload(stage)));
        if !compared {
            actions.extend(self.begin_release()?);
        }
        Ok(actions)
    }

    fn result_payload(&self, stage: u32) -> Bytes {
        let sum = self.finished.get(&stage).map(|done| done.sum.clone()).unwrap_or_default();
        let finished = self.finished.last_key_value().map_or(0, |(&last, _)| last + 1);
        wire::encode(&wire::SumResult { sum, finished })
    }

    /// The sum of a stage and, if they are compared, its hashes, for a site that missed them.
    pub(super) fn result_messages(&self, site: SiteIndex, stage: u32) -> Vec<Action> {
        let Some(done) = self.finished.get(&stage) else { return Vec::new() };
        let mut actions = Vec::new();
        if !done.sum.is_empty() {
            actions.push(self.send(site, Kind::SumResult, stage, done.attempt, self.result_payload(stage)));
        }
        actions.extend(self.hashes_message(site, stage));
        actions
    }

    pub(super) fn hashes_message(&self, site: SiteIndex, stage: u32) -> Option<Action> {
        let done = self.finished.get(&stage).filter(|done| done.settled)?;
        let messages = done.hashes.values().cloned().collect();
        Some(self.send(site, Kind::Hashes, stage, 0, wire::encode(&wire::Bundle { messages })))
    }

    pub(super) fn on_abstain(&mut self, site: SiteIndex, envelope: &Envelope) -> Result<Vec<Action>> {
        let reason: wire::Reason = wire::decode(&envelope.payload)?;
        if envelope.round < self.stage || (self.phase != Phase::Sum && envelope.round == self.stage) {
            refuse!(Replayed, "stage {} is over", envelope.round);
        }
        if self.phase != Phase::Sum || envelope.round != self.stage || !self.sum_takes_adverts() {
            refuse!(OutOfPhase, "stage {} takes no word of that kind now", envelope.round);
        }
        if !self.excused.insert(site) {
            refuse!(Replayed, "{} has said so before", self.roster.name(site));
        }
        let name = self.roster.name(site);
        let mut actions = vec![Action::Notice(format!(
            "{name} sits out stage {}: {}",
            envelope.round,
            AbstainReason::text(reason.code)
        ))];
        self.present.insert(site);
        actions.extend(self.advance()?);
        Ok(actions)
    }

    pub(super) fn on_hash(&mut self, site: SiteIndex, opened: &Opened) -> Result<Vec<Action>> {
        let hash: wire::Hash = wire::decode(&opened.envelope.payload)?;
        let stage = opened.envelope.round;
        if hash.hash.len() != 32 {
            refuse!(Malformed, "a hash of {} bytes", hash.hash.len());
        }
        let compared = stage <= self.plan()?.last_model_stage();
        let Some(done) = self.finished.get_mut(&stage).filter(|_| compared) else {
            refuse!(OutOfPhase, "stage {stage} has no sum to compare");
        };
        let known = self.confirmed.get(&site).copied().unwrap_or(0);
        if done.hashes.contains_key(&site) || known > stage {
            refuse!(Replayed, "{} has confirmed stage {stage} before", self.roster.name(site));
        }
        self.confirmed.insert(site, stage + 1);
        if done.settled {
            // Late, but now this site has it too.
            self.prune();
            return Ok(vec![Action::Save]);
        }
        done.hashes.insert(site, opened.raw.clone());
        self.present.insert(site);
        if self.awaited().is_empty() {
            return match self.close_hashes() {
                Ok(actions) => Ok(actions),
                Err(refusal) => Ok(vec![Action::Notice(refusal.to_string())]),
            };
        }
        Ok(Vec::new())
    }

    pub(super) fn close_hashes(&mut self) -> Result<Vec<Action>> {
        let stage = self.stage;
        let least = threshold(self.members.len());
        let Some(done) = self.finished.get_mut(&stage) else {
            refuse!(OutOfPhase, "stage {stage} has no sum yet");
        };
        if done.hashes.len() < least {
            refuse!(
                TooFewSites,
                "{} sites have confirmed stage {stage}; {least} are needed",
                done.hashes.len()
            );
        }
        done.settled = true;
        let messages: Vec<Bytes> = done.hashes.values().cloned().collect();
        let over = self.rounds_are_over(stage, &messages)?;
        let mut actions = self.send_all(Kind::Hashes, stage, 0, wire::encode(&wire::Bundle { messages }));
        self.prune();
        let (last, kernel) = (self.plan()?.last_model_stage(), self.plan()?.kernel.is_some());
        if stage < last {
            let next = if over { self.plan()?.stage_of(self.plan()?.rounds()) } else { stage } + 1;
            actions.extend(self.begin_sum(next)?);
        } else if kernel {
            self.enter(Phase::Gallery);
            actions.push(Action::Save);
        } else {
            actions.extend(self.begin_release()?);
        }
        Ok(actions)
    }

    /// Whether the sites go on to no further round. They can read the figures that this depends on, and the coordinator cannot.
    fn rounds_are_over(&self, stage: u32, hashes: &[Bytes]) -> Result<bool> {
        let plan = self.plan()?;
        if plan.tuning.stopping == Stopping::Never || plan.stage(stage) != Stage::Round {
            return Ok(false);
        }
        let limits = self.limits();
        for raw in hashes {
            let opened = Envelope::open(raw.clone(), &self.roster, |kind| limits.payload(kind))?;
            let hash: wire::Hash = wire::decode(&opened.envelope.payload)?;
            if !hash.over {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Forgets sums that every member has confirmed. The hashes stay: a site may have missed those.
    fn prune(&mut self) {
        let confirmed =
            self.members.iter().map(|site| self.confirmed.get(site).copied().unwrap_or(0)).min().unwrap_or(0);
        for (&stage, done) in &mut self.finished {
            if stage < confirmed && done.settled {
                done.sum = Bytes::new();
            }
        }
    }
}
