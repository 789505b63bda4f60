//! A consortium in one process: a seeded pump moves the messages and loses, doubles, reorders or spoils
//! them; a toy trainer with known updates stands for the sites' hosts.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};

use domain::evaluate::{HitCounts, Setting};
use domain::{ImageId, Normalisation, Pooling, SyndromeId};
use federation::*;

pub type Model = Tensors;

/// SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.draw() % n.max(1) as u64) as usize
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.draw() % 100 < percent
    }
}

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

pub fn id(text: &str) -> SyndromeId {
    SyndromeId::new(text).unwrap()
}

pub fn consortium() -> ConsortiumKey {
    ConsortiumKey::from_seed(&[200; 32])
}

pub fn coordinator_key() -> CoordinatorKey {
    CoordinatorKey::from_seed(&[201; 32])
}

pub fn site_key(seed: u8) -> SiteKey {
    SiteKey::from_seed(&[seed + 1; 32])
}

pub fn roster(sites: usize) -> Roster {
    let sites =
        (0..sites).map(|i| (SiteName::new(&format!("hospital{i}")).unwrap(), site_key(i as u8).public()));
    Roster::new("toy", 1, coordinator_key().public(), sites.collect()).unwrap()
}

pub fn toy_plan(roster: &Roster) -> Plan {
    let spec = |name: &str, shape: &[usize], kind| TensorSpec {
        name: name.into(),
        shape: shape.into(),
        range: 2.0,
        kind,
    };
    let member = |name: &str| MemberPlan {
        name: name.into(),
        recipe: RecipePlan {
            batch: 8,
            neck_lr: 1e-3,
            neck_wd: 0.0,
            classifier_lr: 1e-3,
            classifier_wd: 0.0,
            dropout: 0.5,
            classifier: Classifier::Linear,
        },
        trunk: [3; 32],
        tensors: vec![
            spec("neck.weight", &[4, 5], TensorKind::Encoder),
            spec("bn.running_var", &[4], TensorKind::Statistics),
            spec("classifier.weight", &[4], TensorKind::ClassifierRows),
            spec("classifier.bias", &[], TensorKind::ClassifierRows),
        ],
    };
    Plan {
        session: [77; 16],
        seed: 11,
        roster: roster.digest(),
        members: vec![member("r50"), member("r100")],
        forms: Vec::new(),
        starts: Vec::new(),
        epochs: 6,
        interval: 2,
        aggregation: Aggregation::SampleWeighted,
        tuning: Tuning::default(),
        rows: Rows::All,
        blind: true,
        min_cohort: 1,
        kernel: None,
    }
}

pub fn toy_kernel() -> KernelPlan {
    KernelPlan {
        dim: 8,
        width: 12,
        views: 1,
        splits: 1,
        top: 30,
        pooling: Pooling::Nearest,
        normalisation: Normalisation::None,
        distance_step: 0.001,
        answers_per_site: 40,
        weighed: None,
    }
}

pub fn toy_form() -> FormPlan {
    FormPlan {
        name: "form".into(),
        on: Some("r50".into()),
        trunk: [3; 32],
        basis: Basis::Representation,
        dim: 3,
        outputs: 3,
        ridge: federation::Ridge::Fixed(0.1),
        weighting: federation::Weighting::Power { power: 0.25, floor: 0.0 },
        refinement: None,
    }
}

/// The toy sums of a site: large numbers of both signs.
pub fn form_sums(site: usize, begin: &Begin, form: &FormPlan) -> FormSums {
    let number = |at: usize| (at as i64 * 977 - 1500) * (site as i64 + 1) * 1_000_003;
    let rows = begin.trained.len();
    let hidden = |row: usize| matches!(begin.plan.rows, Rows::Shared(k) if begin.holders[row] < u32::from(k));
    FormSums {
        rows: 40 + site as i64,
        counts: (0..rows).map(|row| if hidden(row) { 0 } else { number(row) }).collect(),
        sums: (0..rows * form.dim).map(|at| if hidden(at / form.dim) { 0 } else { number(at + 7) }).collect(),
        scatter: (0..form.dim * (form.dim + 1) / 2).map(|at| number(at + 31)).collect(),
        lengths: 0,
    }
}

/// The same for what a member starts from.
pub fn start_sums(site: usize, begin: &Begin, form: &FormPlan) -> FormSums {
    FormSums { lengths: 7_000_001 * (site as i64 + 1), ..form_sums(site + 20, begin, form) }
}

/// The toy gradients of a site, others at every step.
pub fn gradient_sums(site: usize, step: u32, begin: &Begin, form: &FormPlan) -> GradientSums {
    let number = |at: usize| (at as i64 * 613 - 900) * (site as i64 + 2) * (i64::from(step) + 1) * 10_007;
    let sums = form_sums(site, begin, form);
    let hidden = |at: usize| sums.counts[at / form.outputs] == 0;
    GradientSums {
        map: (0..form.outputs * form.dim).map(number).collect(),
        shift: (0..form.outputs).map(|at| number(at + 3)).collect(),
        means: (0..begin.trained.len() * form.outputs)
            .map(|at| if hidden(at) { 0 } else { number(at + 5) })
            .collect(),
        loss: number(1),
        rows: 4 * (site as i64 + 1),
    }
}

/// The toy sums of a site over pairs of images; site 1 has none.
pub fn pair_sums(site: usize, members: usize) -> PairSums {
    let number = |at: usize| if site == 1 { 0 } else { (at as i64 * 31 - 40) * (site as i64 + 3) };
    let moments = |from: usize| PairMoments {
        pairs: number(from + 9),
        sums: (0..members).map(|at| number(from + at)).collect(),
        scatter: (0..members * (members + 1) / 2).map(|at| number(from + at + 5)).collect(),
    };
    PairSums { same: moments(0), different: moments(17) }
}

/// Syndromes 0..6: 0 and 1 at every site, the others at some; 900 is in galleries only.
pub fn holdings(site: usize) -> BTreeMap<SyndromeId, u32> {
    let mut held = BTreeMap::from([(id("100"), 3 + site as u32), (id("101"), 1 + (site as u32 * 7) % 5)]);
    if site.is_multiple_of(2) {
        held.insert(id("102"), 4);
    }
    if site == 1 {
        held.insert(id("Secret-Syndrome"), 9);
    }
    if site < 3 {
        held.insert(id("104"), 2 + site as u32);
    }
    held.insert(id("900"), 0);
    held
}

/// The toy update of a site in a round.
pub fn delta(site: usize, round: u32, member: usize, tensor: usize, element: usize) -> f32 {
    let x = site as f32 * 1.7
        + round as f32 * 0.61
        + member as f32 * 2.3
        + tensor as f32 * 0.9
        + element as f32 * 0.37;
    x.sin() * 1.5
}

pub fn encoding(site: usize, image: usize, syndrome: &SyndromeId) -> Vec<f32> {
    let tag = syndrome.as_str().bytes().fold(0u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
    let mut dice = Dice(tag);
    let mut own = Dice(site as u64 * 1000 + image as u64);
    let unit = |d: &mut Dice| (d.draw() % 2001) as f32 / 1000.0 - 1.0;
    let mut v: Vec<f32> = (0..8).map(|_| unit(&mut dice) + 0.6 * unit(&mut own)).collect();
    let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt();
    v.iter_mut().for_each(|x| *x /= norm);
    v
}

/// One gallery image (frequent) and one probe per syndrome and site.
pub fn images(
    site: usize,
    held: &BTreeMap<SyndromeId, u32>,
    probe: bool,
) -> Vec<(ImageId, SyndromeId, Vec<f32>)> {
    let kind = if probe { "probe" } else { "gallery" };
    held.keys()
        .enumerate()
        .map(|(i, syndrome)| {
            let name = ImageId::new(&format!("{kind}-{site}-{i}")).unwrap();
            (name, syndrome.clone(), encoding(site, 2 * i + usize::from(probe), syndrome))
        })
        .collect()
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

    /// What the sites' deltas average to, written out plainly.
    fn check_average(&self, site: usize, apply: &Apply) {
        let begin = self.sites[site].begin.as_ref().unwrap();
        let own = |s: usize| -> Vec<u32> {
            begin.trained.iter().map(|id| self.sites[s].holdings.get(id).copied().unwrap_or(0)).collect()
        };
        let present: Vec<usize> = apply.sites.iter().map(|s| usize::from(s.0)).collect();
        assert_eq!(apply.metrics.images, 10.0 * present.len() as f64);
        let loss: f64 = present.iter().map(|&s| 1.5 * (s + 1) as f64).sum();
        assert!((apply.metrics.loss - loss).abs() < 1e-5);
        for (m, member) in self.plan.members.iter().enumerate() {
            for (t, spec) in member.tensors.iter().enumerate() {
                let width: usize = spec.shape.iter().product();
                for (e, &got) in apply.deltas[m][t].iter().enumerate() {
                    let row = (spec.kind == TensorKind::ClassifierRows).then(|| e / width);
                    let (mut total, mut weight) = (0.0, 0.0);
                    for &s in &present {
                        let own = own(s);
                        let w = match (self.plan.aggregation, row) {
                            (Aggregation::EncoderOnly, Some(_)) => 0.0,
                            (_, Some(r)) if matches!(self.plan.rows, Rows::Shared(k) if begin.holders[r] < u32::from(k)) => {
                                0.0
                            }
                            (Aggregation::Mean, _) => 1.0,
                            (Aggregation::SyndromeRows, Some(r)) => f64::from(own[r]),
                            _ => own.iter().sum::<u32>() as f64,
                        };
                        total += w * f64::from(delta(s, apply.round, m, t, e));
                        weight += w;
                    }
                    let want = if weight > 0.0 { total / weight } else { 0.0 };
                    // Half a fixed-point step (2 x 16 sites / 2^31) per site, over the least weight (about 1 / 200).
                    assert!((f64::from(got) - want).abs() < 5e-5, "round {}: {got} {want}", apply.round);
                }
            }
        }
    }

    /// The sites' gradients, added plainly.
    fn check_gradients(&self, site: usize, refine: &Refine) {
        let begin = self.sites[site].begin.as_ref().unwrap();
        let refined = self.plan.forms.iter().filter(|form| form.steps() > refine.step);
        assert_eq!(refined.clone().count(), refine.gradients.len());
        for (form, got) in refined.zip(&refine.gradients) {
            let all = refine
                .sites
                .iter()
                .map(|other| gradient_sums(usize::from(other.0), refine.step, begin, form));
            let want = all.reduce(|mut sum, other| {
                let add = |to: &mut Vec<i64>, from: &[i64]| {
                    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
                };
                add(&mut sum.map, &other.map);
                add(&mut sum.shift, &other.shift);
                add(&mut sum.means, &other.means);
                GradientSums { loss: sum.loss + other.loss, rows: sum.rows + other.rows, ..sum }
            });
            assert_eq!(Some(got), want.as_ref());
        }
    }

    /// The sites' numbers, added plainly.
    fn check_sums(
        &self,
        site: usize,
        solve: &Solve,
        forms: &[FormPlan],
        of: fn(usize, &Begin, &FormPlan) -> FormSums,
    ) {
        let begin = self.sites[site].begin.as_ref().unwrap();
        assert_eq!(forms.len(), solve.sums.len());
        for (form, got) in forms.iter().zip(&solve.sums) {
            let mut want = of(usize::from(solve.sites[0].0), begin, form);
            for other in &solve.sites[1..] {
                let other = of(usize::from(other.0), begin, form);
                want.rows += other.rows;
                want.lengths += other.lengths;
                let add = |to: &mut Vec<i64>, from: &[i64]| {
                    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
                };
                add(&mut want.counts, &other.counts);
                add(&mut want.sums, &other.sums);
                add(&mut want.scatter, &other.scatter);
            }
            assert_eq!(*got, want);
        }
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
