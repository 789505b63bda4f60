//! A consortium in one process: a seeded pump moves the messages and loses, doubles, reorders or spoils
//! them; a toy trainer with known updates stands for the sites' hosts.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};

use domain::evaluate::{HitCounts, Setting};
use domain::{ImageId, SyndromeId};
use federation::*;

mod checks;
mod toys;

pub use toys::*;

pub type Model = Tensors;

#[derive(Default, Clone, Copy)]
pub struct Faults {
    pub lose: u64,
    pub double: u64,
    pub spoil: u64,
    pub reorder: bool,
}

pub struct SimSite {
    pub participant: Option<Participant>,
    /// What it keeps for its participant, in place of its memory.
    pub kept: Option<(u32, Vec<u32>)>,
    pub seed: u8,
    pub holdings: BTreeMap<SyndromeId, u32>,
    pub policy: Policy,
    pub model: Model,
    pub saved: (Vec<u8>, Model),
    pub begin: Option<Begin>,
    pub applied: Vec<u32>,
    pub solved: bool,
    /// Steps of refinement that were applied.
    pub refined: u32,
    /// Pairs of images of one syndrome behind the members' weights.
    pub weighed: Option<i64>,
    /// The models after every round, as a host keeps them on disk.
    pub history: BTreeMap<u32, Tensors>,
    pub chosen: Option<u32>,
    /// What learning rates were multiplied by, round by round.
    pub paces: BTreeMap<u32, f64>,
    pub answers: Vec<Answer>,
    pub metrics: Option<Vec<u32>>,
    pub released: Option<SignedRelease>,
    pub adopted: Option<Adoption>,
    /// The newer roster it has taken over.
    pub pinned: Option<SignedRoster>,
    pub halted: Option<String>,
    pub notices: Vec<String>,
    /// Rounds in which the toy update is NaN.
    pub poison: BTreeSet<u32>,
    /// Adds to the model after this round what nobody else adds.
    pub drift: Option<u32>,
    pub starts: u8,
}

pub struct World {
    pub sites: Vec<SimSite>,
    pub coordinator: Option<Coordinator>,
    pub saved: Vec<u8>,
    pub roster: SignedRoster,
    pub plan: Plan,
    pub queue: Vec<Outgoing>,
    pub dice: Dice,
    pub faults: Faults,
    /// Everything the coordinator got to see.
    pub seen: Vec<Bytes>,
    pub sent: Vec<Outgoing>,
    pub refusals: Vec<Refusal>,
    pub notices: Vec<String>,
    pub retries: u32,
    pub halted: Option<String>,
    pub released: Option<SignedRelease>,
    /// Sites that vanish when this round's training is asked of them.
    pub vanish: BTreeSet<(usize, u32)>,
    /// The coordinator is killed and restored when it saves for the n-th time.
    pub kill_coordinator_at: BTreeSet<u32>,
    pub saves: u32,
    /// Whether averages are checked against the plain ones, and messages kept.
    pub check: bool,
    pub record: bool,
    /// Whether a person at site 0 approves whoever asks.
    pub approves: bool,
    /// The test itself answers what the kernel asks of the hosts.
    pub manual_kernel: bool,
    /// Validation loss of the models, from that before the first round on.
    pub losses: Vec<f64>,
}

impl SimSite {
    /// Every other site keeps its vectors outside of its participant, which makes no difference.
    fn starts_as(&mut self, mut participant: Participant) {
        self.kept = None;
        if self.seed % 2 == 1 {
            participant.keep_outside();
        }
        self.participant = Some(participant);
    }

    fn setup(&mut self, roster: &SignedRoster) -> SiteSetup {
        self.starts += 1;
        let mut seed = [self.seed; 32];
        seed[1] = self.starts;
        SiteSetup {
            key: site_key(self.seed),
            consortium: consortium().public(),
            roster: roster.clone(),
            policy: self.policy.clone(),
            holdings: self.holdings.clone(),
            group: None,
            seed,
        }
    }
}

impl World {
    pub fn new(sites: usize, seed: u64, change: impl Fn(&mut Plan)) -> Self {
        let roster = roster(sites);
        let mut plan = toy_plan(&roster);
        change(&mut plan);
        let signed = roster.sign(&consortium());
        let mut world = Self {
            sites: Vec::new(),
            coordinator: None,
            saved: Vec::new(),
            roster: signed,
            plan,
            queue: Vec::new(),
            dice: Dice(seed),
            faults: Faults::default(),
            seen: Vec::new(),
            sent: Vec::new(),
            refusals: Vec::new(),
            notices: Vec::new(),
            retries: 0,
            halted: None,
            released: None,
            vanish: BTreeSet::new(),
            kill_coordinator_at: BTreeSet::new(),
            saves: 0,
            check: true,
            record: true,
            approves: true,
            manual_kernel: false,
            losses: Vec::new(),
        };
        for i in 0..sites {
            world.add_site(i, holdings(i));
        }
        world.coordinator = Some(Coordinator::new(world.setup()).unwrap());
        world
    }

    pub fn add_site(&mut self, place: usize, holdings: BTreeMap<SyndromeId, u32>) {
        let mut site = SimSite {
            participant: None,
            kept: None,
            seed: place as u8,
            holdings,
            policy: Policy { require_blind: false, ..Policy::default() },
            model: Vec::new(),
            saved: (Vec::new(), Vec::new()),
            begin: None,
            applied: Vec::new(),
            solved: false,
            refined: 0,
            weighed: None,
            history: BTreeMap::new(),
            chosen: None,
            paces: BTreeMap::new(),
            answers: Vec::new(),
            metrics: None,
            released: None,
            adopted: None,
            pinned: None,
            halted: None,
            notices: Vec::new(),
            poison: BTreeSet::new(),
            drift: None,
            starts: 0,
        };
        let setup = site.setup(&self.roster);
        site.starts_as(Participant::new(setup).unwrap());
        self.sites.push(site);
    }

    fn setup(&self) -> CoordinatorSetup {
        CoordinatorSetup {
            key: coordinator_key(),
            consortium: consortium().public(),
            roster: self.roster.clone(),
        }
    }

    pub fn start(&mut self) {
        let plan = self.plan.clone();
        let actions = self.coordinator.as_mut().unwrap().start(plan).unwrap();
        self.coordinator_does(actions);
    }

    pub fn run(&mut self) {
        self.start();
        self.pump();
    }

    /// Delivers until everybody who is up has the release, or nothing moves.
    pub fn pump(&mut self) {
        let mut idle = 0;
        for _ in 0..2_000_000 {
            if self.halted.is_some() {
                return;
            }
            if !self.queue.is_empty() {
                self.deliver();
                continue;
            }
            let up = |s: &SimSite| s.participant.is_some() && s.halted.is_none();
            if self.released.is_some()
                && self.sites.iter().all(|s| !up(s) || s.released.is_some() || s.adopted.is_some())
            {
                return;
            }
            idle += 1;
            if idle > 400 || self.sites.iter().filter(|s| up(s)).count() < 3 {
                return;
            }
            self.tick();
        }
        panic!("the session does not end");
    }

    /// Nothing moves: the coordinator's patience ends, and sites look whether they missed something.
    pub fn tick(&mut self) {
        let Some(coordinator) = &mut self.coordinator else { return };
        match coordinator.deadline() {
            Ok(actions) => self.coordinator_does(actions),
            Err(refusal) => {
                self.notices.push(refusal.to_string());
                self.retries += 1;
                if let Ok(actions) = self.coordinator.as_mut().unwrap().retry() {
                    self.coordinator_does(actions);
                }
            }
        }
        if self.released.is_some() {
            for i in 0..self.sites.len() {
                self.site_calls(i, |p| p.rejoin());
            }
        }
    }

    pub fn deliver(&mut self) {
        let at = if self.faults.reorder { self.dice.below(self.queue.len().min(12)) } else { 0 };
        let message = self.queue.remove(at);
        if self.dice.chance(self.faults.lose) {
            return;
        }
        if self.dice.chance(self.faults.double) {
            self.queue.push(message.clone());
        }
        let mut bytes = message.bytes.clone();
        if self.dice.chance(self.faults.spoil) {
            let mut spoiled = bytes.to_vec();
            let place = self.dice.below(spoiled.len());
            spoiled[place] ^= 1 << self.dice.below(8);
            bytes = spoiled.into();
        }
        self.deliver_to(message.to, bytes);
    }

    pub fn deliver_to(&mut self, to: Party, bytes: Bytes) {
        match to {
            Party::Coordinator => {
                if self.record {
                    self.seen.push(bytes.clone());
                }
                let Some(coordinator) = &mut self.coordinator else { return };
                match coordinator.handle(bytes) {
                    Ok(actions) => self.coordinator_does(actions),
                    Err(refusal) => self.refusals.push(refusal),
                }
            }
            Party::Site(site) => self.site_calls(usize::from(site.0), |p| p.handle(bytes)),
        }
    }

    pub fn site_calls(
        &mut self,
        site: usize,
        call: impl FnOnce(&mut Participant) -> Result<Vec<Action>, Refusal>,
    ) {
        let Some(participant) = self.sites[site].participant.as_mut() else { return };
        match call(participant) {
            Ok(actions) => self.site_does(site, actions),
            Err(refusal) => self.refusals.push(refusal),
        }
    }

    pub fn coordinator_does(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(message) => {
                    if self.record {
                        self.sent.push(message.clone());
                    }
                    self.queue.push(message);
                }
                Action::Save => {
                    let coordinator = self.coordinator.as_ref().unwrap();
                    self.saved = coordinator.snapshot();
                    self.saves += 1;
                    if self.kill_coordinator_at.remove(&self.saves) {
                        // Killed right after writing: the other actions are lost.
                        let (restored, first) = Coordinator::restore(self.setup(), &self.saved).unwrap();
                        self.coordinator = Some(restored);
                        return self.coordinator_does(first);
                    }
                }
                Action::Notice(text) => self.notices.push(text),
                Action::Released(release) => self.released = Some(*release),
                Action::Halt { reason } => self.halted = Some(reason),
                Action::Finished => {}
                other => panic!("the coordinator's host cannot do {other:?}"),
            }
        }
    }

    pub fn kill(&mut self, site: usize) {
        self.sites[site].participant = None;
    }

    pub fn revive(&mut self, site: usize) {
        let sim = &mut self.sites[site];
        let setup = sim.setup(&self.roster);
        sim.starts_as(if sim.saved.0.is_empty() {
            Participant::new(setup).unwrap()
        } else {
            Participant::restore(setup, &sim.saved.0).unwrap()
        });
        sim.model = sim.saved.1.clone();
        self.site_calls(site, |p| p.rejoin());
    }

    pub fn site_does(&mut self, site: usize, actions: Vec<Action>) {
        for action in actions {
            if self.sites[site].participant.is_none() {
                return;
            }
            self.site_does_one(site, action);
        }
    }

    fn site_does_one(&mut self, site: usize, action: Action) {
        let sim = &mut self.sites[site];
        match action {
            Action::Send(message) => {
                if self.record {
                    self.sent.push(message.clone());
                }
                self.queue.push(message);
            }
            Action::Save => {
                let snapshot = sim.participant.as_ref().unwrap().snapshot();
                sim.saved = (snapshot, sim.model.clone());
            }
            Action::Begin(begin) => {
                let rows = begin.trained.len();
                sim.model = begin.plan.members.iter().map(|m| zeros(m, rows)).collect();
                let forms = begin.plan.forms.iter();
                sim.model
                    .extend(forms.map(|form| vec![vec![0.0; form.dim], vec![0.0; form.outputs * form.dim]]));
                let weighed = begin.plan.kernel.as_ref().and_then(|kernel| kernel.weighed);
                sim.model.extend(weighed.map(|members| vec![vec![0.0; usize::from(members)]]));
                sim.begin = Some(*begin);
                self.confirm(site);
            }
            Action::Keep { stage, words } => sim.kept = Some((stage, words)),
            Action::Recall { stage } => {
                let (_, words) = sim.kept.clone().filter(|(kept, _)| *kept == stage).unwrap();
                self.site_calls(site, |p| p.recalled(stage, words));
            }
            Action::Train { round, epochs, pace } => {
                assert_eq!(epochs, self.plan.epochs_of(round));
                sim.paces.insert(round, pace);
                if self.vanish.remove(&(site, round)) {
                    return self.kill(site);
                }
                self.train(site, round);
            }
            Action::Apply(apply) => {
                if sim.applied.last() != Some(&apply.round) {
                    sim.applied.push(apply.round);
                }
                if self.check {
                    self.check_average(site, &apply);
                }
                let sim = &mut self.sites[site];
                for (model, delta) in
                    sim.model.iter_mut().flatten().flatten().zip(apply.deltas.iter().flatten().flatten())
                {
                    *model += delta;
                }
                if sim.drift == Some(apply.round) {
                    sim.model[0][0][0] += 1.0;
                }
                sim.history.insert(apply.round, sim.model.clone());
                self.confirm(site);
            }
            Action::Validate => {
                let model = sim.history.last_key_value().map_or(0, |(&round, _)| round);
                let metrics = self.validation(site, model);
                self.site_calls(site, |p| p.submit_validation(&metrics));
            }
            Action::Choose { round } => {
                sim.chosen = Some(round);
                sim.model = match sim.history.get(&round) {
                    Some(model) => model.clone(),
                    None => {
                        sim.model.iter().map(|m| m.iter().map(|t| vec![0.0; t.len()]).collect()).collect()
                    }
                };
                self.confirm(site);
            }
            Action::CollectStart => {
                if self.vanish.remove(&(site, 0)) {
                    return self.kill(site);
                }
                let begin = sim.begin.as_ref().unwrap();
                let sums: Vec<_> =
                    begin.plan.starts.iter().map(|form| start_sums(site, begin, form)).collect();
                self.site_calls(site, |p| p.submit_sums(&sums));
            }
            Action::Start(solve) => {
                self.check_sums(site, &solve, &self.plan.starts, start_sums);
                let sim = &mut self.sites[site];
                let sums = &solve.sums[0];
                let values = sim.model[0].iter_mut().flatten().zip(sums.sums.iter().cycle());
                values.for_each(|(value, &sum)| *value = (sum + sums.lengths) as f32 * 1e-12);
                sim.history.insert(0, sim.model.clone());
                self.confirm(site);
            }
            Action::Compare => {
                let members = self.plan.kernel.as_ref().unwrap().weighed.unwrap();
                self.site_calls(site, |p| p.submit_pairs(&pair_sums(site, usize::from(members))));
            }
            Action::Weigh(weigh) => {
                let sim = &mut self.sites[site];
                let PairSums { same, different } = weigh.sums;
                let weights = sim.model.last_mut().unwrap().iter_mut().flatten();
                let sums = same.sums.iter().zip(&different.sums);
                weights.zip(sums).for_each(|(weight, (same, different))| *weight = (same - different) as f32);
                sim.weighed = Some(same.pairs);
                self.confirm(site);
            }
            Action::Collect => {
                let begin = sim.begin.as_ref().unwrap();
                let sums: Vec<_> = begin.plan.forms.iter().map(|form| form_sums(site, begin, form)).collect();
                self.site_calls(site, |p| p.submit_sums(&sums));
            }
            Action::Solve(solve) => {
                self.check_sums(site, &solve, &self.plan.forms, form_sums);
                let sim = &mut self.sites[site];
                let trained = self.plan.members.len();
                for (form, sums) in sim.model[trained..].iter_mut().zip(&solve.sums) {
                    let values = form.iter_mut().flatten().zip(sums.sums.iter().chain(&sums.scatter).cycle());
                    values.for_each(|(value, &sum)| *value = sum as f32);
                }
                sim.solved = true;
                self.confirm(site);
            }
            Action::Gradient { step } => {
                let begin = sim.begin.as_ref().unwrap();
                let refined = begin.plan.forms.iter().filter(|form| form.steps() > step);
                let gradients: Vec<_> = refined.map(|form| gradient_sums(site, step, begin, form)).collect();
                self.site_calls(site, |p| p.submit_gradients(&gradients));
            }
            Action::Refine(refine) => {
                self.check_gradients(site, &refine);
                let sim = &mut self.sites[site];
                let refined = self.plan.forms.iter().enumerate();
                let refined = refined.filter(|(_, form)| form.steps() > refine.step).map(|(at, _)| at);
                let trained = self.plan.members.len();
                for (at, gradient) in refined.zip(&refine.gradients) {
                    let map = sim.model[trained + at][1].iter_mut();
                    map.zip(&gradient.map).for_each(|(value, &by)| *value = *value * 0.5 + by as f32);
                }
                sim.refined += 1;
                self.confirm(site);
            }
            Action::Encode(_) | Action::Ask if self.manual_kernel => {}
            Action::Encode(setup) => {
                assert_eq!(setup.dim, 8);
                self.upload_gallery(site);
            }
            Action::Ask => self.ask(site),
            Action::Answers(answers) => {
                sim.answers = answers;
                if sim.adopted.is_none() && !self.manual_kernel {
                    let hits = self.hits(site);
                    self.site_calls(site, |p| p.submit_metrics(hits));
                }
            }
            Action::Metrics(words) => sim.metrics = Some(words),
            Action::Publish => {
                let model = sim.model.clone();
                self.site_calls(site, |p| p.publish(&model, "A toy model card."));
            }
            Action::Released(release) => sim.released = Some(*release),
            Action::Adopt(adoption) => sim.adopted = Some(*adoption),
            Action::Roster(roster) => sim.pinned = Some(*roster),
            Action::Approve { site: newcomer } => {
                let name = SiteName::new(&format!("hospital{}", newcomer.0)).unwrap();
                if site == 0 && self.approves {
                    self.site_calls(site, |p| p.approve(&name));
                }
            }
            Action::Notice(text) => sim.notices.push(text),
            Action::Halt { reason } => sim.halted = Some(reason),
            Action::Finished => {}
            other => panic!("a site's host cannot do {other:?}"),
        }
    }

    fn train(&mut self, site: usize, round: u32) {
        let sim = &self.sites[site];
        let mut deltas = sim.model[..self.plan.members.len()].to_vec();
        for (m, member) in deltas.iter_mut().enumerate() {
            for (t, tensor) in member.iter_mut().enumerate() {
                tensor.iter_mut().enumerate().for_each(|(e, x)| *x = delta(site, round, m, t, e));
            }
        }
        let poisoned = sim.poison.contains(&round);
        if poisoned {
            deltas[1][0][2] = f32::NAN;
        }
        let loss = 1.5 * (site + 1) as f64;
        let metrics = RoundMetrics { loss, images: 10.0, ..self.validation(site, round - 1) };
        let refused = self.refusals.len();
        self.site_calls(site, |p| p.submit_update(deltas, metrics));
        if poisoned {
            let refusal = self.refusals[refused].to_string();
            assert!(refusal.contains("member r100, tensor neck.weight: element 2 is NaN"), "{refusal}");
            assert!(refusal.contains(&format!("hospital{site}, round {round}")), "{refusal}");
            self.site_calls(site, |p| p.abstain(AbstainReason::BadUpdate));
        }
    }

    /// A site's figures on its validation images: the mean over all sites is the model's entry in `losses`.
    fn validation(&self, site: usize, model: u32) -> RoundMetrics {
        let images = 2.0 + site as f64;
        let loss = self.losses.get(model as usize).copied().unwrap_or(0.0);
        RoundMetrics { validation_loss: loss * images, validation_images: images, ..RoundMetrics::default() }
    }

    fn confirm(&mut self, site: usize) {
        let model = self.sites[site].model.clone();
        self.site_calls(site, |p| p.model_applied(&model));
    }

    pub fn upload_gallery(&mut self, site: usize) {
        let gallery =
            images(site, &self.sites[site].holdings, false).into_iter().map(|(image, syndrome, encoding)| {
                let galleries = if syndrome == id("900") { 2 } else { 1 };
                GalleryImage { image, syndrome, galleries, encoding }
            });
        let gallery = gallery.collect();
        self.site_calls(site, |p| p.submit_gallery(gallery));
    }

    pub fn ask(&mut self, site: usize) {
        let probes = images(site, &self.sites[site].holdings, true);
        let probes =
            probes.into_iter().map(|(image, _, encoding)| Probe { image, galleries: vec![1, 3], encoding });
        let probes = probes.collect();
        self.site_calls(site, |p| p.submit_probes(probes));
    }

    fn hits(&self, site: usize) -> Vec<u32> {
        let sim = &self.sites[site];
        let begin = sim.participant.as_ref().unwrap().begin().unwrap();
        let mut hits = HitCounts::new(begin.all.len(), 1);
        let truth: BTreeMap<ImageId, SyndromeId> = images(site, &sim.holdings, true)
            .into_iter()
            .map(|(image, syndrome, _)| (image, syndrome))
            .collect();
        for answer in sim.answers.iter().filter(|a| a.galleries == 1) {
            let wanted = &truth[&answer.image];
            let position = answer.ranked.iter().position(|place| place.syndrome.as_ref() == Some(wanted));
            let index = begin.all.iter().position(|s| s == wanted).unwrap();
            hits.record(Setting::FrequentFrequent, 0, index, position);
        }
        hits.as_words().to_vec()
    }
}

fn zeros(member: &MemberPlan, rows: usize) -> Vec<Vec<f32>> {
    let len = |spec: &TensorSpec| {
        let one: usize = spec.shape.iter().product();
        if spec.kind == TensorKind::ClassifierRows { one * rows } else { one }
    };
    member.tensors.iter().map(|spec| vec![0.0; len(spec)]).collect()
}
