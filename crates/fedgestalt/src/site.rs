//! A site at work: its patients, its feature tables, its model, and its participant in the federation.

mod adoption;
pub mod asking;
pub mod model;
pub mod ranking;
mod refining;
pub mod server;
pub mod state;
mod sums;
pub mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use domain::cohort::{Cohort, Part};
use domain::evaluate::{Accuracies, HitCounts};
use domain::{Encoding, ImageId, SyndromeId};
use federation::{
    AbstainReason, Action, Answer, Apply, Begin, Bytes, GalleryImage, KernelSetup, Outgoing, Participant,
    Probe, Refusal, RefusalKind, RoundMetrics, SignedRelease, SiteIndex, SiteName,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::model::SiteModel;
use self::ranking::{FREQUENT, RankedProbe, count_hits, gallery_bits, probe_galleries};
use self::refining::Refining;
use self::state::SiteFiles;
use self::tables::{Lessons, RowOf, Tables, pools};
use crate::engine::host::{Host, SiteHost};
use crate::enrolment;
use crate::pipeline::ensemble::Blueprint;
use crate::pipeline::training::{Pool, mean_scores};
use crate::pipeline::weights::Weights;
use crate::store::Scratch;

/// What a site saw of one round, for its own records and the report of a simulation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundRecord {
    /// The round, from 1.
    pub round: u32,
    /// Epochs done when it was over.
    pub epoch: u32,
    /// Mean training loss per member; empty when the site was away.
    pub loss: Vec<f64>,
    /// Share of own validation images that the round's *global* model gets right, per member.
    pub validation_accuracy: Option<Vec<f64>>,
    /// Validation images behind it.
    pub validation_images: usize,
    /// Whose updates were in the sum.
    pub sites: Vec<u16>,
}

/// What the evaluation came to at a site.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Evaluation {
    /// Accuracies of all sites together.
    pub accuracies: Accuracies,
    /// Rankings of the site's own probes.
    pub ranked: Vec<RankedProbe>,
}

/// What a site is made of.
pub struct SiteParts {
    /// Its place in the roster.
    pub index: SiteIndex,
    /// Its name.
    pub name: SiteName,
    /// Its patients.
    pub cohort: Cohort,
    /// Where its patients' features are.
    pub tables: Arc<Tables>,
    /// Its files.
    pub files: SiteFiles,
    /// The ensemble's networks and members.
    pub blueprint: Arc<Blueprint>,
    /// Its side of the federation.
    pub participant: Participant,
}

/// A site at work.
pub struct Site {
    /// Its place in the roster.
    pub index: SiteIndex,
    /// Its name.
    pub name: SiteName,
    /// Its patients.
    pub cohort: Cohort,
    /// Where its patients' features are.
    pub tables: Arc<Tables>,
    /// The rounds so far.
    pub records: Vec<RoundRecord>,
    /// Rankings of its probes in the evaluation.
    pub ranked: Vec<RankedProbe>,
    /// Rankings of its own probes counted up.
    pub own_hits: Option<HitCounts>,
    /// Accuracies of all sites together.
    pub accuracies: Option<Accuracies>,
    /// The release, once signed.
    pub release: Option<SignedRelease>,
    /// The session's work is done.
    pub finished: bool,
    /// Why the session stopped here.
    pub halted: Option<String>,
    /// What was asked about photographs that are not in the cohort, and the answers that are in.
    pub asked: BTreeMap<ImageId, Option<Answer>>,
    /// Sites that ask to be let in, until a person has been told of them.
    pub newcomers: Vec<SiteIndex>,
    /// Keep what a round's training gave until it is applied: a process that is killed after it need not train again.
    pub keeps_updates: bool,
    /// Called after each trained epoch.
    pub tick: Option<Arc<dyn Fn() + Send + Sync>>,
    files: Arc<SiteFiles>,
    /// The vector that waits for its sum.
    waiting: Scratch,
    refining: Refining,
    blueprint: Arc<Blueprint>,
    participant: Participant,
    begin: Option<Begin>,
    lessons: Option<Lessons>,
    model: Option<SiteModel>,
    pending_loss: Vec<f64>,
    probes_open: usize,
    /// Answers to questions after the evaluation.
    late: Vec<RankedProbe>,
}

impl Site {
    /// The model card: what the model is for, and how this site, which publishes it, ran the frozen networks.
    fn card(&self) -> String {
        let networks = self.blueprint.networks.iter();
        let ran: Vec<String> = networks
            .map(|network| format!("{} on {}", &hex::encode(network.trunk.digest())[..8], network.runs))
            .collect();
        format!("{MODEL_CARD} Frozen networks at the publishing site: {}.", ran.join("; "))
    }

    /// A site before a session.
    pub fn new(parts: SiteParts) -> Self {
        Self {
            index: parts.index,
            name: parts.name,
            cohort: parts.cohort,
            tables: parts.tables,
            records: Vec::new(),
            ranked: Vec::new(),
            own_hits: None,
            accuracies: None,
            release: None,
            finished: false,
            halted: None,
            asked: BTreeMap::new(),
            newcomers: Vec::new(),
            keeps_updates: false,
            tick: None,
            files: Arc::new(parts.files),
            waiting: Scratch::default(),
            refining: Refining::default(),
            blueprint: parts.blueprint,
            participant: parts.participant,
            begin: None,
            lessons: None,
            model: None,
            pending_loss: Vec::new(),
            probes_open: 0,
            late: Vec::new(),
        }
    }

    /// Goes on where an earlier process stopped: the participant is restored, the model is read again.
    pub fn resume(&mut self) -> Result<()> {
        let Some(begin) = self.participant.begin() else { return Ok(()) };
        self.start(begin)?;
        self.records = self.files.records()?;
        // Stage 0 is the counts and the last one the metrics: with stage r applied, r + 1 stages are over.
        let plan =
            self.begin.as_ref().map(|begin| begin.plan.clone()).context("the session has not begun here")?;
        let last = plan.last_model_stage();
        let joined = self.participant.has_joined();
        let applied = if joined { last } else { self.participant.applied().saturating_sub(1).min(last) };
        let kept = self.files.last_weights(applied);
        if let Some(weights) = self.files.weights(kept, &self.blueprint)? {
            let server = self.files.server_state(kept)?;
            let model = self.model_mut()?;
            model.restart(weights.heads)?;
            // Only rounds have a state, and only they go on from it.
            if !server.is_empty() {
                model.restart_server(&server)?;
            }
            let solved = !weights.forms.is_empty();
            if solved {
                model.set_forms(weights.forms);
            }
            if !weights.members.is_empty() {
                model.set_member_weights(weights.members);
            }
            if solved && applied < plan.members_stage() {
                self.resume_refining()?;
            }
        }
        self.records.retain(|record| plan.stage_of(record.round) <= applied);
        if let Some(evaluation) = self.files.evaluation()? {
            self.accuracies = Some(evaluation.accuracies);
            self.ranked = evaluation.ranked;
        }
        self.release = self.files.release()?;
        self.finished = self.release.is_some() && (joined || self.accuracies.is_some());
        Ok(())
    }

    /// The participant, for what only a person decides (approving a newcomer, adopting a roster).
    pub fn participant(&mut self) -> &mut Participant {
        &mut self.participant
    }

    /// Its files.
    pub fn files(&self) -> Arc<SiteFiles> {
        self.files.clone()
    }

    /// The ensemble's networks and members.
    pub fn blueprint(&self) -> Arc<Blueprint> {
        self.blueprint.clone()
    }

    /// The trained heads of the last round.
    pub fn heads(&self) -> Option<&[learn::Head]> {
        self.model.as_ref().map(SiteModel::heads)
    }

    /// The weights and the syndromes they were trained on.
    pub fn trained(&self) -> Option<(Weights, &[SyndromeId])> {
        Some((self.model.as_ref()?.weights(), &self.begin.as_ref()?.trained))
    }

    fn model_mut(&mut self) -> Result<&mut SiteModel> {
        self.model.as_mut().context("the session has not begun here")
    }

    fn start(&mut self, begin: Begin) -> Result<()> {
        let tables = &self.tables;
        let draws = tables.draws.iter().flatten().next();
        let draw_row = draws.map(|draws| |image: &str| draws.row_of(image));
        let draw_row = draw_row.as_ref().map(|row| row as RowOf<'_>);
        let view_row = |image: &str| tables.views[0].row_of(image);
        self.lessons = Some(Lessons::new(&self.cohort, &begin.trained, draw_row, &view_row)?);
        self.model = Some(SiteModel::start(&begin, &self.blueprint)?);
        self.begin = Some(begin);
        Ok(())
    }

    fn begin(&mut self, begin: Begin) -> Result<Vec<Action>> {
        self.start(begin)?;
        self.confirm_model()
    }

    fn confirm_model(&mut self) -> Result<Vec<Action>> {
        let model = self.model.as_ref().context("the session has not begun here")?;
        Ok(self.participant.model_applied(&model.tensors())?)
    }

    fn train(&mut self, epochs: std::ops::Range<u32>, pace: f64) -> Result<Vec<Action>> {
        let (Some(model), Some(lessons)) = (&mut self.model, &self.lessons) else {
            anyhow::bail!("the session has not begun here");
        };
        let pools = pools(&self.blueprint, &self.tables, lessons);
        let validation = validation_metrics(model, &pools, lessons)?;
        let round = self.participant.settled();
        let plan = self.begin.as_ref().map(|begin| hex::encode(begin.plan.digest())).unwrap_or_default();
        let kept = if self.keeps_updates { self.files.update(&plan, round, &self.blueprint)? } else { None };
        let tick = self.tick.clone();
        let tick = move || {
            if let Some(tick) = &tick {
                tick();
            }
        };
        let trained = match kept {
            Some(kept) => model.trained_before(&kept.heads, kept.loss, kept.accuracy),
            None => {
                self.files.note_training(round, &epochs, Timestamp::now())?;
                model.train(epochs, pace, &pools, &tick)
            }
        };
        match trained {
            Ok(trained) => {
                if self.keeps_updates && !trained.loss.is_empty() {
                    let heads = model.trained_heads();
                    self.files.save_update(&plan, round, &self.blueprint, heads, &trained)?;
                }
                let images = lessons.training.len() as f64;
                let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
                let metrics = RoundMetrics {
                    loss: mean(&trained.loss) * images,
                    correct: mean(&trained.accuracy) * images,
                    images,
                    ..validation
                };
                self.pending_loss = trained.loss;
                match self.participant.submit_update(trained.deltas, metrics) {
                    Err(refusal) if refusal.kind() == RefusalKind::Update => {
                        tracing::warn!(site = %self.name, %refusal, "this site sits the round out");
                        Ok(self.participant.abstain(AbstainReason::BadUpdate)?)
                    }
                    actions => Ok(actions?),
                }
            }
            Err(error) => {
                // The others go on without this site; the culprit is named to them by the protocol, the detail stays.
                tracing::warn!(site = %self.name, error = format!("{error:#}"), "this site sits the round out");
                Ok(self.participant.abstain(AbstainReason::Failed)?)
            }
        }
    }

    fn apply(&mut self, apply: Apply) -> Result<Vec<Action>> {
        self.model_mut()?.apply(&apply.deltas)?;
        let (Some(model), Some(lessons), Some(begin)) = (&self.model, &self.lessons, &self.begin) else {
            anyhow::bail!("the session has not begun here");
        };
        let pools = pools(&self.blueprint, &self.tables, lessons);
        let validation = model.validate(&pools)?;
        self.records.push(RoundRecord {
            round: apply.round,
            epoch: begin.plan.epochs_of(apply.round).end,
            loss: std::mem::take(&mut self.pending_loss),
            validation_accuracy: validation.map(|scores| scores.into_iter().map(|(_, a)| a).collect()),
            validation_images: lessons.validation.len(),
            sites: apply.sites.iter().map(|site| site.0).collect(),
        });
        let weights = Weights { heads: model.heads().to_vec(), ..Weights::default() };
        let server = model.server_state()?;
        let best = apply.best.map(|round| begin.plan.stage_of(round));
        self.files.save_weights(apply.stage, &self.blueprint, &weights, best)?;
        self.files.save_server_state(apply.stage, server)?;
        self.files.save_records(&self.records)?;
        self.confirm_model()
    }

    /// This site's figures of the model as it stands.
    fn validate(&mut self) -> Result<Vec<Action>> {
        let (Some(model), Some(lessons)) = (&self.model, &self.lessons) else {
            anyhow::bail!("the session has not begun here");
        };
        let pools = pools(&self.blueprint, &self.tables, lessons);
        let metrics = validation_metrics(model, &pools, lessons)?;
        Ok(self.participant.submit_validation(&metrics)?)
    }

    /// The rounds are over: back to the model of the best one.
    fn choose(&mut self, round: u32) -> Result<Vec<Action>> {
        let begin = self.begin.as_ref().context("the session has not begun here")?;
        let (stage, best) = (begin.plan.tuning_stages(), begin.plan.stage_of(round));
        let heads = match self.files.weights(best, &self.blueprint)? {
            Some(weights) => weights.heads,
            None if best == 0 => {
                model::starting_heads(&self.blueprint, begin.trained.len(), begin.plan.seed)?
            }
            None => anyhow::bail!("the weights of round {round} are gone; begin the session anew"),
        };
        let weights = Weights { heads: heads.clone(), ..Weights::default() };
        self.model_mut()?.restart(heads)?;
        self.files.save_weights(stage, &self.blueprint, &weights, Some(best))?;
        self.confirm_model()
    }

    fn gallery(&mut self, setup: &KernelSetup) -> Result<Vec<Action>> {
        let bits = gallery_bits(&self.cohort);
        let images: Vec<ImageId> = bits.keys().cloned().collect();
        let encodings = self.encode(&images)?;
        let gallery = encodings
            .into_iter()
            .map(|(image, encoding)| {
                debug_assert_eq!(encoding.as_slice().len(), setup.dim);
                let syndrome = self.syndrome(&image)?;
                let galleries = bits[&image];
                Ok(GalleryImage { image, syndrome, galleries, encoding: encoding.as_slice().to_vec() })
            })
            .collect::<Result<_>>()?;
        Ok(self.participant.submit_gallery(gallery)?)
    }

    fn ask(&mut self) -> Result<Vec<Action>> {
        if self.participant.has_joined() {
            // The evaluation is over; its ration is for the questions of this site's doctors.
            return Ok(Vec::new());
        }
        let begin = self.begin.as_ref().context("the session has not begun here")?;
        let splits = begin.plan.kernel.as_ref().map_or(0, |kernel| kernel.splits);
        let questions = probe_galleries(&self.cohort, splits);
        self.probes_open = questions.values().map(Vec::len).sum();
        let images: Vec<ImageId> = questions.keys().cloned().collect();
        let probes = self
            .encode(&images)?
            .into_iter()
            .map(|(image, encoding)| Probe {
                galleries: questions[&image].clone(),
                image,
                encoding: encoding.as_slice().to_vec(),
            })
            .collect();
        let mut actions = self.participant.submit_probes(probes)?;
        if self.probes_open == 0 {
            actions.extend(self.count_hits()?);
        }
        Ok(actions)
    }

    /// Asks about the frequent probes against the frequent gallery as it stands now.
    pub fn ask_frequent(&mut self) -> Result<Vec<Action>> {
        self.late.clear();
        let images = self.cohort.part(Part::FrequentTest).to_vec();
        let probes = self
            .encode(&images)?
            .into_iter()
            .map(|(image, encoding)| Probe {
                galleries: vec![FREQUENT],
                image,
                encoding: encoding.as_slice().to_vec(),
            })
            .collect();
        Ok(self.participant.submit_probes(probes)?)
    }

    /// The hits of [`Site::ask_frequent`].
    pub fn late_hits(&self) -> Result<HitCounts> {
        let begin = self.begin.as_ref().context("the session has not begun here")?;
        count_hits(&self.late, &begin.all, 0)
    }

    fn answers(&mut self, answers: Vec<Answer>) -> Result<Vec<Action>> {
        for answer in answers {
            if let Some(slot) = self.asked.get_mut(&answer.image) {
                *slot = Some(answer);
                continue;
            }
            self.probes_open = self.probes_open.saturating_sub(1);
            let truth = self.syndrome(&answer.image)?;
            let ranked = RankedProbe::new(truth, answer);
            if self.own_hits.is_some() || self.finished {
                self.late.push(ranked);
            } else {
                self.ranked.push(ranked);
            }
        }
        if self.finished || self.probes_open > 0 || self.own_hits.is_some() || !self.late.is_empty() {
            return Ok(Vec::new());
        }
        self.count_hits()
    }

    fn count_hits(&mut self) -> Result<Vec<Action>> {
        let begin = self.begin.as_ref().context("the session has not begun here")?;
        let splits = begin.plan.kernel.as_ref().map_or(0, |kernel| usize::from(kernel.splits));
        let hits = count_hits(&self.ranked, &begin.all, splits)?;
        let words = hits.as_words().to_vec();
        self.own_hits = Some(hits);
        Ok(self.participant.submit_metrics(words)?)
    }

    fn metrics(&mut self, words: &[u32]) -> Result<Vec<Action>> {
        let begin = self.begin.as_ref().context("the session has not begun here")?;
        let splits = begin.plan.kernel.as_ref().map_or(0, |kernel| usize::from(kernel.splits));
        let accuracies = HitCounts::from_words(begin.all.len(), splits, words)?.table();
        self.accuracies = Some(accuracies);
        self.files.save_evaluation(&Evaluation { accuracies, ranked: self.ranked.clone() })?;
        Ok(Vec::new())
    }

    /// Encodes own images with the ensemble as it stands.
    pub fn encode(&self, images: &[ImageId]) -> Result<BTreeMap<ImageId, Encoding>> {
        let weights = self.model.as_ref().context("the session has not begun here")?.weights();
        let ensemble = self.blueprint.ensemble(weights)?;
        self.tables.encode(&ensemble, images)
    }

    fn syndrome(&self, image: &ImageId) -> Result<SyndromeId> {
        let case =
            self.cohort.case(image).with_context(|| format!("image {image} is not at site {}", self.name))?;
        Ok(case.syndrome.clone())
    }

    fn save(&mut self) -> Result<()> {
        self.files.save_participant(&self.participant.snapshot())
    }
}

/// Sums over a site's validation images: the mean of its members.
fn validation_metrics(model: &SiteModel, pools: &[Pool<'_>], lessons: &Lessons) -> Result<RoundMetrics> {
    let Some(scores) = model.validate(pools)? else { return Ok(RoundMetrics::default()) };
    let images = lessons.validation.len() as f64;
    let (loss, accuracy) = mean_scores(&scores);
    Ok(RoundMetrics {
        validation_loss: loss * images,
        validation_correct: accuracy * images,
        validation_images: images,
        ..RoundMetrics::default()
    })
}

impl Host for Site {
    fn handle(&mut self, bytes: Bytes) -> Result<Vec<Action>, Refusal> {
        self.participant.handle(bytes)
    }

    fn perform(&mut self, action: Action) -> Result<Vec<Action>> {
        match action {
            Action::Begin(begin) => self.begin(*begin),
            Action::Train { epochs, pace, .. } => self.train(epochs, pace),
            Action::Keep { stage, words } => {
                self.waiting.keep(self.files.store().folder(), stage, &words)?;
                Ok(Vec::new())
            }
            Action::Recall { stage } => Ok(self.participant.recalled(stage, self.waiting.recall(stage)?)?),
            Action::Apply(apply) => {
                self.waiting.forget();
                self.apply(apply)
            }
            Action::Validate => self.validate(),
            Action::Choose { round } => self.choose(round),
            Action::CollectStart => self.collect_start(),
            Action::Start(solve) => self.start_from(solve),
            Action::Collect => self.collect(),
            Action::Solve(solve) => self.solve(solve),
            Action::Gradient { step } => self.gradients(step),
            Action::Refine(refine) => self.refine(refine),
            Action::Compare => self.compare(),
            Action::Weigh(weigh) => self.weigh(weigh),
            Action::Encode(setup) => self.gallery(&setup),
            Action::Ask => self.ask(),
            Action::Answers(answers) => self.answers(answers),
            Action::Metrics(words) => self.metrics(&words),
            Action::Publish => {
                let model = self.model.as_ref().context("the session has not begun here")?;
                Ok(self.participant.publish(&model.tensors(), &self.card())?)
            }
            Action::Released(release) => {
                self.files.save_release(&release)?;
                self.release = Some(*release);
                Ok(Vec::new())
            }
            Action::Adopt(adoption) => self.adopt(&adoption),
            Action::Save => {
                self.save()?;
                Ok(Vec::new())
            }
            Action::Finished => {
                self.finished = true;
                self.files.save_session_end(&self.participant.snapshot())?;
                Ok(Vec::new())
            }
            Action::Halt { reason } => {
                self.halted = Some(reason);
                Ok(Vec::new())
            }
            Action::Roster(roster) => {
                enrolment::pin_roster(self.files.store(), &roster)?;
                Ok(Vec::new())
            }
            // Newcomers are approved by a person, or by who plays one.
            Action::Approve { site } => {
                self.newcomers.push(site);
                Ok(Vec::new())
            }
            Action::Notice(_) | Action::Send(_) => Ok(Vec::new()),
            _ => Ok(Vec::new()),
        }
    }

    fn sends(&mut self, message: &Outgoing) -> Result<()> {
        let plan = self.begin.as_ref().map(|begin| begin.plan.digest());
        self.files.note_sent(message, plan, Timestamp::now())
    }
}

impl SiteHost for Site {
    fn rejoin(&mut self) -> Result<Vec<Action>> {
        match self.participant.rejoin() {
            // Killed before the plan was kept: there is nothing to go on with, and the coordinator offers it again.
            Err(refusal) if refusal.kind() == RefusalKind::OutOfPhase => Ok(Vec::new()),
            actions => Ok(actions?),
        }
    }

    fn foreign(&mut self, what: &str) -> Result<()> {
        self.files.note_foreign(what, Timestamp::now())
    }

    /// The kernel's rotation is the same at every site and takes seconds and memory: one site makes it for all.
    fn before_encoding(sites: &mut [&mut Self]) -> Result<()> {
        let Some((first, others)) = sites.split_first_mut() else { return Ok(()) };
        for other in others {
            other.participant.share_rotation(&mut first.participant)?;
        }
        Ok(())
    }
}

/// What the release says of itself.
const MODEL_CARD: &str = "Face encoder for ranking rare genetic syndromes, trained by a federation of hospitals. Not a \
medical device: a ranking is a hint for a clinician, never a diagnosis. Accuracies are in the release's metrics, per \
setting, macro-averaged over syndromes.";
