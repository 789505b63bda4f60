//! What sites hold, plan and add up in the tests: small, and known by arithmetic.

use std::collections::BTreeMap;

use domain::{ImageId, Normalisation, Pooling, SyndromeId};
use federation::*;

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
