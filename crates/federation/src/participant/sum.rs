//! A site's part in a secure sum.

use secure::sum::{
    Advert, BlindSum, Consents, Inbox, MaskedInput, Session as SumSession, Site, SumConfig, Survivors,
};
use secure::{GroupKey, SiteIndex};

use super::Participant;
use crate::action::{
    Action, Apply, FormSums, GradientSums, PairSums, Refine, RoundMetrics, Solve, Tensors, Weigh,
};
use crate::aggregate::{Counts, Layout, SumsOf, Update};
use crate::envelope::{Envelope, Kind, Signer};
use crate::plan::{Rates, Stage, Stopping};
use crate::refusal::{Result, refuse};
use crate::wire;

/// Why a site sits a stage out; the coordinator learns this much and no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum AbstainReason {
    /// Training failed at the site.
    Failed = 1,
    /// The update held NaN or an infinity, or left the plan's range.
    BadUpdate = 2,
    /// The site has nothing to contribute.
    NoData = 3,
    /// The site has already helped to open this stage's sum and will not open a second one over other sites.
    Opened = 4,
}

impl AbstainReason {
    pub(crate) fn text(code: u32) -> &'static str {
        match code {
            1 => "training failed",
            2 => "its update was not finite or left the plan's range",
            3 => "it has nothing to contribute",
            4 => "it has opened a sum of this stage before",
            _ => "it gave no known reason",
        }
    }
}

/// A vector that waits for its sum, kept until the sum is done since an attempt may fail.
pub(super) struct Work {
    pub(super) stage: u32,
    /// None where the host keeps it.
    pub(super) words: Option<Vec<u32>>,
}

/// One attempt under way.
pub(super) struct Run {
    stage: u32,
    attempt: u32,
    config: SumConfig,
    site: Site,
    advert: prost::bytes::Bytes,
}

impl Participant {
    fn blind_key(&self) -> Result<Option<GroupKey>> {
        let blind = self.session()?.plan.blind;
        match (&self.group, blind) {
            (Some(group), true) => Ok(Some(group.key().clone())),
            (None, true) => refuse!(GroupKey, "this site has no group key; rejoin the session"),
            (_, false) => Ok(None),
        }
    }

    fn sum_config(&self, stage: u32, attempt: u32) -> Result<SumConfig> {
        let session = self.session()?;
        let Some(lists) = &session.lists else {
            refuse!(OutOfPhase, "the syndrome lists are not united yet");
        };
        let mut keys = Vec::with_capacity(session.members.len());
        for &site in &session.members {
            match self.roster.site(site) {
                Some(site) => keys.push(site.verifying()?),
                None => refuse!(
                    UnknownSender,
                    "{} has left the roster; start a new session",
                    self.roster.name(site)
                ),
            }
        }
        let purpose = session.plan.stage(stage).purpose().to_owned();
        let sum = SumSession { id: lists.sum_id, purpose, round: stage, attempt };
        Ok(SumConfig::new(sum, keys, session.words(stage)?)?)
    }

    pub(super) fn on_open(&mut self, envelope: &Envelope) -> Result<Vec<Action>> {
        let (stage, attempt) = (envelope.round, envelope.attempt);
        let session = self.session()?;
        if session.lists.is_none() || session.joined {
            refuse!(OutOfPhase, "this site is not ready for a sum");
        }
        let last = session.plan.last_model_stage() + u32::from(session.plan.kernel.is_some());
        if stage > last {
            refuse!(Malformed, "stage {stage} does not exist; the plan ends with {last}");
        }
        if stage < session.settled || stage < session.applied {
            refuse!(Replayed, "stage {stage} is over at this site; it is at {}", session.settled);
        }
        if let Some(run) = session.run.as_ref().filter(|run| (run.stage, run.attempt) == (stage, attempt)) {
            return Ok(vec![self.send(Kind::Advert, stage, attempt, run.advert.clone())]);
        }
        if attempt <= session.last_attempt {
            refuse!(
                Replayed,
                "attempt {attempt} is over; this site has taken part in attempt {}",
                session.last_attempt
            );
        }
        if session.open.is_some_and(|(s, a)| (s, a) > (stage, attempt)) {
            refuse!(Replayed, "stage {stage}, attempt {attempt} has been superseded");
        }
        let behind = stage > session.settled;
        let session = self.session_mut()?;
        session.open = Some((stage, attempt));
        session.run = None;
        if behind { self.hello() } else { self.proceed() }
    }

    /// Does what the stage now open asks for: train, or bring in the vector that is ready.
    pub(super) fn proceed(&mut self) -> Result<Vec<Action>> {
        let session = self.session()?;
        let Some((stage, attempt)) = session.open else { return Ok(Vec::new()) };
        if stage != session.settled || session.applied != session.settled || session.run.is_some() {
            return Ok(Vec::new());
        }
        if let Some((_, reason)) = session.abstained.filter(|&(s, _)| s == stage) {
            return Ok(vec![self.abstain_message(stage, attempt, reason)]);
        }
        if session.unmasked == Some(stage) && !session.plan.blind {
            return Ok(vec![self.abstain_message(stage, attempt, AbstainReason::Opened)]);
        }
        if session.work.as_ref().is_some_and(|work| work.stage == stage) {
            return self.advertise(stage, attempt);
        }
        if stage == 0 {
            let words = Some(Counts::words(&session.own)?);
            self.session_mut()?.work = Some(Work { stage, words });
            return self.advertise(stage, attempt);
        }
        let ask = match session.plan.stage(stage) {
            Stage::Start => Action::CollectStart,
            Stage::Round => {
                let round = stage - session.plan.start_stages();
                Action::Train { round, epochs: session.plan.epochs_of(round), pace: session.pace() }
            }
            Stage::Validation => Action::Validate,
            Stage::Moments => Action::Collect,
            Stage::Gradient => Action::Gradient { step: session.plan.step_of(stage) },
            Stage::Pairs => Action::Compare,
            Stage::Counts | Stage::Metrics => return Ok(Vec::new()),
        };
        if session.trained_for == Some(stage) {
            return Ok(Vec::new());
        }
        self.session_mut()?.trained_for = Some(stage);
        Ok(vec![ask])
    }

    /// Goes on with a vector for the stage.
    fn bring(&mut self, stage: u32, words: Vec<u32>) -> Result<Vec<Action>> {
        if !self.keeps_outside {
            self.session_mut()?.work = Some(Work { stage, words: Some(words) });
            return self.proceed();
        }
        self.session_mut()?.work = Some(Work { stage, words: None });
        let mut actions = vec![Action::Keep { stage, words }];
        actions.extend(self.proceed()?);
        Ok(actions)
    }

    fn advertise(&mut self, stage: u32, attempt: u32) -> Result<Vec<Action>> {
        let config = self.sum_config(stage, attempt)?;
        let blind = self.blind_key()?;
        let session = self.session()?;
        let place = session.members.iter().position(|&site| site == self.me).unwrap_or(usize::MAX);
        let me = SiteIndex(u16::try_from(place).unwrap_or(u16::MAX));
        let seed = self.seeds.draw("sum");
        let (site, advert) = Site::start(config.clone(), me, self.key.signing(), blind.as_ref(), seed)?;
        let advert: prost::bytes::Bytes = advert.encode().into();
        let session = self.session_mut()?;
        session.last_attempt = attempt;
        session.run = Some(Run { stage, attempt, config, site, advert: advert.clone() });
        Ok(vec![Action::Save, self.send(Kind::Advert, stage, attempt, advert)])
    }

    /// The round's update: deltas of every member's tensors against the model as it was when the round
    /// began, `[member][tensor][element]` in plan order.
    ///
    /// An update that is not finite or leaves the plan's range is refused with member and tensor named, and
    /// the site sits the round out: call [`Participant::abstain`] with [`AbstainReason::BadUpdate`], or
    /// submit a mended update.
    pub fn submit_update(&mut self, deltas: Tensors, metrics: RoundMetrics) -> Result<Vec<Action>> {
        let session = self.session()?;
        let stage = session.settled;
        if session.applied != stage
            || session.plan.stage(stage) != Stage::Round
            || session.trained_for != Some(stage)
        {
            refuse!(OutOfPhase, "no update is asked for at stage {stage}");
        }
        if session.work.is_some() {
            refuse!(OutOfPhase, "the update of stage {stage} was submitted before");
        }
        let Some(layout) = &session.layout else {
            refuse!(OutOfPhase, "the syndrome lists are not united yet");
        };
        let (name, round) = (self.roster.name(self.me), stage - session.plan.start_stages());
        let words = layout
            .encode(Update { deltas, metrics }, &session.own, &session.counts)
            .map_err(|e| e.at(format!("update of {name}, round {round}")))?;
        self.bring(stage, words)
    }

    /// The figures of the last round's model on this site's validation images.
    pub fn submit_validation(&mut self, metrics: &RoundMetrics) -> Result<Vec<Action>> {
        let session = self.session()?;
        let stage = session.settled;
        let asked = session.plan.stage(stage) == Stage::Validation && session.trained_for == Some(stage);
        if session.applied != stage || !asked || session.work.is_some() {
            refuse!(OutOfPhase, "no validation is asked for at stage {stage}");
        }
        let Some(layout) = &session.layout else {
            refuse!(OutOfPhase, "the syndrome lists are not united yet");
        };
        let words = layout.encode_metrics(metrics)?;
        self.bring(stage, words)
    }

    /// The sums that closed-form members are computed from, one for each of the plan's forms, over this site's training
    /// images; or those that trained members start from, one for each of the plan's starts. Numbers too large to be added, and sums of a syndrome whose rows do not travel, are refused: abstain then.
    pub fn submit_sums(&mut self, sums: &[FormSums]) -> Result<Vec<Action>> {
        let session = self.session()?;
        let stage = session.settled;
        let of = match session.plan.stage(stage) {
            Stage::Moments => Some(SumsOf::Forms),
            Stage::Start => Some(SumsOf::Starts),
            _ => None,
        };
        let Some(of) = of.filter(|_| session.is_asked(stage)) else {
            refuse!(OutOfPhase, "no sums are asked for at stage {stage}");
        };
        self.encode_and_bring(stage, "sums", |layout, counts| layout.encode_sums(of, sums, counts))
    }

    /// The gradients of the step under way, one for each of the plan's forms that it refines, over this site's training images.
    /// Numbers too large to be added, and what shows a syndrome whose rows do not travel, are refused: abstain then.
    pub fn submit_gradients(&mut self, gradients: &[GradientSums]) -> Result<Vec<Action>> {
        let session = self.session()?;
        let stage = session.settled;
        if session.plan.stage(stage) != Stage::Gradient || !session.is_asked(stage) {
            refuse!(OutOfPhase, "no gradients are asked for at stage {stage}");
        }
        let step = session.plan.step_of(stage);
        self.encode_and_bring(stage, "gradients", |layout, counts| {
            layout.encode_gradients(step, gradients, counts)
        })
    }

    /// The sums that the members' weights are computed from, over pairs of this site's images: of zeros where it has too few.
    pub fn submit_pairs(&mut self, sums: &PairSums) -> Result<Vec<Action>> {
        let session = self.session()?;
        let stage = session.settled;
        if session.plan.stage(stage) != Stage::Pairs || !session.is_asked(stage) {
            refuse!(OutOfPhase, "no pairs of images are asked for at stage {stage}");
        }
        self.encode_and_bring(stage, "pairs", |layout, _| layout.encode_pairs(sums))
    }

    fn encode_and_bring(
        &mut self,
        stage: u32,
        what: &str,
        encode: impl FnOnce(&Layout, &Counts) -> Result<Vec<u32>>,
    ) -> Result<Vec<Action>> {
        let session = self.session()?;
        let Some(layout) = &session.layout else {
            refuse!(OutOfPhase, "the syndrome lists are not united yet");
        };
        let name = self.roster.name(self.me);
        let words =
            encode(layout, &session.counts).map_err(|e| e.at(format!("{what} of {name}, stage {stage}")))?;
        self.bring(stage, words)
    }

    /// Sits out the stage under way; the others go on where their number allows.
    pub fn abstain(&mut self, reason: AbstainReason) -> Result<Vec<Action>> {
        let session = self.session_mut()?;
        let stage = session.settled;
        if session.run.is_some() {
            refuse!(
                OutOfPhase,
                "the secure sum of stage {stage} has begun with this site; it cannot be left"
            );
        }
        session.abstained = Some((stage, reason));
        session.work = None;
        let attempt = session.open.map_or(0, |(_, attempt)| attempt);
        Ok(vec![self.abstain_message(stage, attempt, reason)])
    }

    fn abstain_message(&self, stage: u32, attempt: u32, reason: AbstainReason) -> Action {
        let payload = wire::encode(&wire::Reason { code: reason as u32, text: String::new() });
        self.send(Kind::Abstain, stage, attempt, payload)
    }

    /// This site's hits in the evaluation, as words of [`domain::evaluate::HitCounts`] over the united list
    /// and the plan's splits; added to the others' by secure sum.
    pub fn submit_metrics(&mut self, words: Vec<u32>) -> Result<Vec<Action>> {
        let session = self.session()?;
        let stage = session.plan.last_model_stage() + 1;
        if session.settled != stage
            || session.plan.kernel.is_none()
            || session.hits.is_some()
            || session.work.is_some()
        {
            refuse!(OutOfPhase, "no metrics are asked for now");
        }
        if session.joined {
            refuse!(
                OutOfPhase,
                "metrics are added while the session trains; a site that joined later keeps its own"
            );
        }
        let wanted = session.words(stage)?.count();
        if words.len() != wanted {
            refuse!(
                Update,
                "metrics of {} words; {wanted} are wanted: count over all syndromes of the united list and the plan's splits",
                words.len()
            );
        }
        self.bring(stage, words)
    }

    /// The run a message belongs to, or why there is none.
    fn run(&mut self, envelope: &Envelope) -> Result<&mut Run> {
        let session = self.session_mut()?;
        let (stage, attempt) = (envelope.round, envelope.attempt);
        if stage < session.settled || stage < session.applied {
            refuse!(Replayed, "stage {stage} is over at this site");
        }
        if attempt < session.last_attempt {
            refuse!(
                Replayed,
                "attempt {attempt} is over; this site takes part in attempt {}",
                session.last_attempt
            );
        }
        match &mut session.run {
            Some(run) if (run.stage, run.attempt) == (stage, attempt) => Ok(run),
            _ => refuse!(OutOfPhase, "this site takes no part in this attempt"),
        }
    }

    pub(super) fn on_adverts(&mut self, envelope: &Envelope) -> Result<Vec<Action>> {
        let bundle: wire::Bundle = wire::decode(&envelope.payload)?;
        let run = self.run(envelope)?;
        let adverts = bundle.messages.iter().map(|bytes| Advert::decode(bytes, &run.config));
        let adverts: Vec<Advert> = adverts.collect::<secure::Result<_>>()?;
        let shares = run.site.receive_adverts(&adverts)?.encode();
        Ok(vec![self.send(Kind::Shares, envelope.round, envelope.attempt, shares.into())])
    }

    pub(super) fn on_inbox(&mut self, envelope: &Envelope) -> Result<Vec<Action>> {
        let run = self.run(envelope)?;
        let inbox = Inbox::decode(&envelope.payload, &run.config)?;
        run.site.receive_inbox(&inbox)?;
        let Some(work) = &self.session()?.work else {
            refuse!(OutOfPhase, "this site has no vector for this stage");
        };
        match &work.words {
            // The plain words stay for a further attempt.
            Some(words) => self.upload(words.clone()),
            None => Ok(vec![Action::Recall { stage: envelope.round }]),
        }
    }

    /// The vector of a stage that [`Action::Recall`] asked for.
    pub fn recalled(&mut self, stage: u32, words: Vec<u32>) -> Result<Vec<Action>> {
        let session = self.session()?;
        if session.run.as_ref().is_none_or(|run| run.stage != stage) {
            refuse!(OutOfPhase, "no vector of stage {stage} is asked for");
        }
        self.upload(words)
    }

    /// Masks the vector into its message. The words, the upload and the signed message are never in memory side by side.
    fn upload(&mut self, words: Vec<u32>) -> Result<Vec<Action>> {
        let Some(mut run) = self.session_mut()?.run.take() else {
            refuse!(OutOfPhase, "this site takes no part in this attempt");
        };
        let (kind, stage, attempt) = (Kind::Input, run.stage, run.attempt);
        let length = MaskedInput::encoded_len(run.config.words());
        let write = |out| Ok(run.site.upload_into(words, out)?);
        let envelope = self.envelope(kind, stage, attempt);
        let sealed = envelope.seal_written(&Signer::Site(&self.key), length, write);
        self.session_mut()?.run = Some(run);
        Ok(vec![self.outgoing(kind, stage, sealed?)])
    }

    pub(super) fn on_survivors(&mut self, envelope: &Envelope) -> Result<Vec<Action>> {
        let run = self.run(envelope)?;
        let survivors = Survivors::decode(&envelope.payload, &run.config)?;
        let consent = run.site.receive_survivors(&survivors)?.encode();
        Ok(vec![self.send(Kind::Consent, envelope.round, envelope.attempt, consent.into())])
    }

    pub(super) fn on_consents(&mut self, envelope: &Envelope) -> Result<Vec<Action>> {
        let run = self.run(envelope)?;
        let consents = Consents::decode(&envelope.payload, &run.config)?;
        let unmasking = run.site.receive_consents(&consents)?.encode();
        self.session_mut()?.unmasked = Some(envelope.round);
        let send = self.send(Kind::Unmasking, envelope.round, envelope.attempt, unmasking.into());
        Ok(vec![Action::Save, send])
    }

    pub(super) fn on_result(&mut self, envelope: Envelope) -> Result<Vec<Action>> {
        let (stage, attempt) = (envelope.round, envelope.attempt);
        let result: wire::SumResult = wire::decode(&envelope.payload)?;
        drop(envelope);
        let session = self.session()?;
        if stage < session.applied {
            // The coordinator asks again because it misses this site's hash.
            if stage == session.settled && !session.awaits_model {
                return Ok(vec![self.hash_message()]);
            }
            refuse!(Replayed, "the sum of stage {stage} was opened before");
        }
        if session.joined || session.lists.is_none() {
            refuse!(OutOfPhase, "this site waits for no sum");
        }
        if stage > session.applied || session.applied != session.settled {
            // Behind: ask for what comes first.
            return self.hello();
        }
        let config = self.sum_config(stage, attempt)?;
        let blind = self.blind_key()?;
        let finished = result.finished;
        // What follows frees each form of the sum as it makes the next.
        let sum = BlindSum::decode_whole(result.sum.into(), &config)?;
        let session = self.session()?;
        let opened = match session.run.as_ref().filter(|run| (run.stage, run.attempt) == (stage, attempt)) {
            Some(run) => run.site.open_whole(sum)?,
            None => sum.into_opened(&config, blind.as_ref())?,
        };
        let sites: Vec<SiteIndex> =
            opened.sites.iter().map(|site| session.members[usize::from(site.0)]).collect();
        let rows = session.lists.as_ref().map_or(0, |lists| lists.trained.len());
        let mut actions = Vec::new();
        let Some(layout) = &session.layout else {
            refuse!(OutOfPhase, "the syndrome lists are not united yet");
        };
        match session.plan.stage(stage) {
            Stage::Counts => {
                let counts = Counts::from_sum(&opened.sum, rows)?;
                self.take_result(stage, finished)?.counts = counts;
                actions.extend(self.begin().map(|begin| Action::Begin(Box::new(begin))));
            }
            Stage::Round => {
                let (deltas, metrics) = layout.decode(opened.sum, &session.counts)?;
                let best = self.take_result(stage, finished)?.note_scores(stage, &metrics);
                let round = stage - self.session()?.plan.start_stages();
                actions.push(Action::Apply(Apply { round, stage, deltas, metrics, sites, best }));
            }
            Stage::Validation => {
                let metrics = layout.decode_metrics(&opened.sum)?;
                let best = self.take_result(stage, finished)?.note_scores(stage, &metrics);
                actions.push(Action::Choose { round: best.unwrap_or(0) });
            }
            Stage::Start => {
                let sums = layout.decode_sums(SumsOf::Starts, &opened.sum, &session.counts)?;
                self.take_result(stage, finished)?;
                actions.push(Action::Start(Solve { stage, sums, sites }));
            }
            Stage::Moments => {
                let sums = layout.decode_sums(SumsOf::Forms, &opened.sum, &session.counts)?;
                self.take_result(stage, finished)?;
                actions.push(Action::Solve(Solve { stage, sums, sites }));
            }
            Stage::Gradient => {
                let step = session.plan.step_of(stage);
                let gradients = layout.decode_gradients(step, &opened.sum)?;
                self.take_result(stage, finished)?;
                actions.push(Action::Refine(Refine { stage, step, gradients, sites }));
            }
            Stage::Pairs => {
                let sums = layout.decode_pairs(&opened.sum)?;
                self.take_result(stage, finished)?;
                actions.push(Action::Weigh(Weigh { stage, sums }));
            }
            Stage::Metrics => {
                let session = self.take_result(stage, finished)?;
                session.hits = Some(opened.sum.clone());
                session.awaits_model = false;
                session.settled = stage + 1;
                actions.push(Action::Metrics(opened.sum));
                actions.push(Action::Save);
            }
        }
        Ok(actions)
    }

    fn take_result(&mut self, stage: u32, finished: u32) -> Result<&mut super::Session> {
        let session = self.session_mut()?;
        session.run = None;
        session.work = None;
        session.abstained = None;
        session.applied = stage + 1;
        session.awaits_model = true;
        session.catching_up = finished > stage + 1;
        if session.open.is_some_and(|(open, _)| open <= stage) {
            session.open = None;
        }
        Ok(session)
    }
}

impl super::Session {
    /// Whether the host was asked for what a stage sums, and has not brought it.
    fn is_asked(&self, stage: u32) -> bool {
        self.applied == stage && self.trained_for == Some(stage) && self.work.is_none()
    }

    /// Takes in the validation of the model that a stage began with. The best round so far, where one is chosen.
    fn note_scores(&mut self, stage: u32, metrics: &RoundMetrics) -> Option<u32> {
        if let Rates::Plateau(_) = self.plan.tuning.rates {
            self.losses.insert(stage, Stopping::Loss(1).score(metrics));
        }
        let stopping = self.plan.tuning.stopping;
        if stopping == Stopping::Never {
            return None;
        }
        self.scores.insert(stage, stopping.score(metrics));
        Some(self.best_round())
    }

    /// What the next round's learning rates are multiplied by.
    fn pace(&self) -> f64 {
        let losses: Vec<f64> = self.losses.values().copied().collect();
        self.plan.tuning.rates.pace(&losses)
    }

    fn best_round(&self) -> u32 {
        let scores: Vec<f64> = self.scores.values().copied().collect();
        Stopping::best(&scores) as u32
    }

    /// Rounds that are in the model at the end.
    pub(super) fn rounds_in_model(&self) -> u32 {
        match self.plan.tuning.stopping {
            Stopping::Never => self.plan.rounds(),
            _ => self.best_round(),
        }
    }

    /// Whether the sites go on to no further round after this one.
    pub(super) fn rounds_are_over(&self, stage: u32) -> bool {
        let scores: Vec<f64> = self.scores.values().copied().collect();
        self.plan.stage(stage) == Stage::Round && self.plan.tuning.stopping.is_over(&scores)
    }
}
