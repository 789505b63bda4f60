//! A report as a run would give it: four sites, ten rounds, 60 syndromes, one site that joins later.

use fedgestalt::report::*;
use image::{ImageFormat, Rgb, RgbImage};

pub(crate) const SITES: [&str; 4] = ["Bonn", "İstanbul", "Tübingen", "Århus"];

const FIRST: [&str; 20] = [
    "Noonan",
    "Costello",
    "Kabuki",
    "Cornelia de Lange",
    "Williams-Beuren",
    "Rubinstein-Taybi",
    "Angelman",
    "Sotos",
    "Coffin-Siris",
    "Wiedemann-Steiner",
    "KBG",
    "Nicolaides-Baraitser",
    "Baraitser-Winter",
    "Treacher Collins",
    "CHARGE",
    "Mowat-Wilson",
    "Pitt-Hopkins",
    "Phelan-McDermid",
    "Koolen-de Vries",
    "White-Sutton",
];

/// Numbers that look random and never change.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Evenly between 0 and 1.
    pub(crate) fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A picture that stands for a face.
pub(crate) fn face(seed: u64) -> Picture {
    let mut dice = Dice::new(seed);
    let (skin, back) = (120.0 + 110.0 * dice.roll(), 60.0 + 120.0 * dice.roll());
    let (wide, tall) = (0.30 + 0.08 * dice.roll(), 0.38 + 0.07 * dice.roll());
    let image = RgbImage::from_fn(64, 64, |x, y| {
        let (dx, dy) = (f64::from(x) / 63.0 - 0.5, f64::from(y) / 63.0 - 0.52);
        let inside = (dx / wide).powi(2) + (dy / tall).powi(2);
        let eye = (dx.abs() - 0.13).hypot(dy + 0.08) < 0.035;
        let mouth = (dy - 0.17).abs() < 0.018 && dx.abs() < 0.10;
        if inside > 1.0 {
            Rgb([back as u8, (back * 0.95) as u8, (back * 0.9) as u8])
        } else if eye || mouth {
            Rgb([60, 35, 35])
        } else {
            let tone = skin * (1.0 - 0.25 * inside);
            Rgb([tone as u8, (tone * 0.8) as u8, (tone * 0.68) as u8])
        }
    });
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png).unwrap();
    Picture::from_bytes(png.into_inner()).unwrap()
}

fn names(count: usize) -> Vec<String> {
    (0..count)
        .map(|i| match i / FIRST.len() {
            0 => format!("{} syndrome", FIRST[i]),
            part => format!("{} syndrome, type {}", FIRST[i % FIRST.len()], part + 1),
        })
        .collect()
}

fn row(kind: RowKind, name: &str, note: &str, values: FourSettings) -> AccuracyRow {
    AccuracyRow {
        kind,
        name: name.to_owned(),
        note: (!note.is_empty()).then(|| note.to_owned()),
        values,
        spread: None,
    }
}

fn four(a: [f64; 4], b: [f64; 4], c: [f64; 4], d: [f64; 4]) -> FourSettings {
    FourSettings { frequent_frequent: a, rare_rare: b, frequent_all: c, rare_all: d }
}

fn accuracies() -> AccuracyTable {
    let central = four(
        [52.99, 71.01, 79.19, 89.99],
        [35.98, 53.93, 62.43, 76.56],
        [50.79, 69.17, 76.66, 88.37],
        [24.05, 38.44, 44.53, 57.95],
    );
    let federated = four(
        [47.06, 70.29, 77.47, 86.69],
        [36.44, 52.82, 61.22, 75.33],
        [46.34, 67.93, 74.96, 86.03],
        [23.45, 38.53, 44.33, 57.40],
    );
    let local = four(
        [31.2, 52.4, 61.9, 77.0],
        [28.1, 44.6, 53.0, 69.4],
        [29.0, 50.2, 59.1, 75.1],
        [14.8, 27.9, 34.6, 48.3],
    );
    let untrained = four(
        [24.1, 43.0, 53.8, 70.2],
        [26.3, 42.8, 51.1, 67.9],
        [21.9, 40.7, 51.0, 68.3],
        [12.2, 24.6, 31.0, 45.7],
    );
    let random = FourSettings {
        frequent_frequent: [1.4, 5.2, 9.3, 24.8],
        rare_rare: [2.9, 9.4, 16.0, 40.3],
        ..FourSettings::default()
    };
    AccuracyTable {
        rows: vec![
            row(RowKind::Central, "Centralised", "all data in one place", central),
            row(RowKind::Federated, "Federated", "share of centralised below", federated),
            row(RowKind::Local, "Local only", "mean over 4 sites", local),
            row(RowKind::Baseline, "Trunk untrained", "as published", untrained),
            row(RowKind::Baseline, "Random trunk", "", random),
        ],
        sizes: vec![
            SettingSize { probes: 905, gallery: 5594, syndromes: 204, splits: 1 },
            SettingSize { probes: 224, gallery: 356, syndromes: 118, splits: 10 },
            SettingSize { probes: 905, gallery: 5950, syndromes: 204, splits: 1 },
            SettingSize { probes: 224, gallery: 5950, syndromes: 118, splits: 10 },
        ],
        note: Some(
            "Rare settings are means over 10 splits. A dash stands where nothing was measured.".to_owned(),
        ),
    }
}

fn curve(
    name: &str,
    epochs: impl Iterator<Item = u32>,
    dice: &mut Dice,
    shape: [f64; 3],
    noise: f64,
) -> Series {
    let [start, end, speed] = shape;
    Series {
        name: name.to_owned(),
        points: epochs
            .map(|e| {
                let value = end + (start - end) * (-f64::from(e) / speed).exp();
                (f64::from(e), value + noise * (dice.roll() - 0.5))
            })
            .collect(),
    }
}

fn training() -> Training {
    let mut dice = Dice::new(7);
    let mut member = |name: &str, top: f64| {
        let mut loss = Curves::default();
        let mut accuracy = Curves::default();
        for (i, site) in SITES.iter().enumerate() {
            let off = i as f64 * 0.12;
            loss.sites.push(curve(site, 1..=50, &mut dice, [5.1, 0.5 + off, 12.0 + off], 0.12));
            let shape = [8.0, top - 4.0 - 12.0 * off, 11.0];
            accuracy.sites.push(curve(site, 1..=50, &mut dice, shape, 2.4));
        }
        // The second site was away in rounds 4 and 5.
        for point in &mut loss.sites[1].points[15..25] {
            point.1 = f64::NAN;
        }
        for point in &mut accuracy.sites[1].points[15..25] {
            point.1 = f64::NAN;
        }
        let rounds = || (5..=50).step_by(5);
        loss.global = Some(curve("global model", rounds(), &mut dice, [5.0, 0.9, 13.0], 0.02));
        loss.central = Some(curve("centralised", 1..=50, &mut dice, [5.0, 0.4, 11.0], 0.03));
        accuracy.global = Some(curve("global model", rounds(), &mut dice, [6.0, top, 11.0], 0.6));
        accuracy.central = Some(curve("centralised", 1..=50, &mut dice, [8.0, top + 3.0, 9.0], 0.8));
        MemberCurves { member: name.to_owned(), loss, accuracy }
    };
    Training {
        members: vec![member("r50, tuned", 55.0), member("r100, tuned", 59.0)],
        rounds_at: (1..=10).map(|r| f64::from(r) * 5.0).collect(),
    }
}

fn probes(names: &[String], face: &dyn Fn(u64) -> Picture) -> Vec<Probe> {
    let mut dice = Dice::new(11);
    let mut probe = |number: usize, position: u32| {
        let truth = names[number * 7 % names.len()].clone();
        let mut distance = 0.21 + 0.12 * dice.roll();
        let mut candidates: Vec<Candidate> = (1..=5)
            .map(|place| {
                distance += 0.01 + 0.05 * dice.roll();
                let is_true = place == position;
                let other = names[(number * 7 + place as usize * 3 + 1) % names.len()].clone();
                Candidate {
                    position: place,
                    syndrome: if is_true { truth.clone() } else { other },
                    id: Some(format!("OMIM:{}", 100_000 + 37 * place + number as u32 * 911)),
                    distance,
                    is_true,
                }
            })
            .collect();
        if position > 5 {
            candidates.push(Candidate {
                position,
                syndrome: truth.clone(),
                id: None,
                distance: distance + 0.08,
                is_true: true,
            });
        }
        let nearest = (0..4)
            .map(|i| Neighbour {
                face: Some(face((number * 10 + i + 1) as u64)),
                syndrome: candidates[i].syndrome.clone(),
                site: Some(SITES[(number + i) % 4].to_owned()),
                distance: candidates[i].distance,
                is_true: candidates[i].is_true,
            })
            .collect();
        Probe {
            name: format!("image {}", 4211 + 13 * number),
            site: Some(SITES[number % 4].to_owned()),
            note: Some(if number.is_multiple_of(2) { "frequent" } else { "rare, split 3" }.to_owned()),
            face: Some(face(1000 + number as u64)),
            truth,
            position: Some(position),
            ranked: Some(322),
            candidates,
            nearest,
        }
    };
    [(0, 1), (1, 1), (2, 3), (3, 27)].into_iter().map(|(number, position)| probe(number, position)).collect()
}

/// Distances of points in groups, clustered by average linkage.
pub(crate) fn discovery(count: usize) -> Discovery {
    let mut dice = Dice::new(3);
    let points: Vec<[f64; 3]> = (0..count)
        .map(|i| {
            let group = (i % 9) as f64;
            [
                (group * 1.7).sin() + 0.45 * dice.roll(),
                (group * 2.3).cos() + 0.45 * dice.roll(),
                (group * 0.9).sin() + 0.45 * dice.roll(),
            ]
        })
        .collect();
    let mut distances = vec![0.0; count * count];
    for a in 0..count {
        for b in a + 1..count {
            let square: f64 = (0..3).map(|d| (points[a][d] - points[b][d]).powi(2)).sum();
            let distance = 0.25 + 0.18 * square.sqrt();
            distances[a * count + b] = distance;
            distances[b * count + a] = distance;
        }
        distances[a * count + a] = 0.22 + 0.06 * dice.roll();
    }
    let (merges, order) = average_linkage(&distances, count);
    let cohort = |name: &str, size, mean, p| CohortSimilarity {
        name: name.to_owned(),
        size,
        mean,
        random_mean: 0.52,
        random_low: 0.47,
        random_high: 0.565,
        p,
    };
    Discovery {
        syndromes: names(count),
        distances,
        merges,
        order,
        pairs: Vec::new(),
        cohorts: vec![
            cohort("RASopathies", 31, 0.401, 0.001),
            cohort("Chromatin remodelling", 44, 0.468, 0.041),
            cohort("Unsolved, Bonn", 12, 0.512, 0.37),
        ],
        note: Some(
            "Mean distance between the encodings of two syndromes, over all pairs of their images."
                .to_owned(),
        ),
    }
}

fn average_linkage(distances: &[f64], count: usize) -> (Vec<Merge>, Vec<usize>) {
    let mut clusters: Vec<(usize, Vec<usize>)> = (0..count).map(|i| (i, vec![i])).collect();
    let mut merges = Vec::new();
    let mean = |a: &[usize], b: &[usize]| {
        let sum: f64 = a.iter().flat_map(|&x| b.iter().map(move |&y| distances[x * count + y])).sum();
        sum / (a.len() * b.len()) as f64
    };
    while clusters.len() > 1 {
        let mut best = (f64::MAX, 0, 1);
        for a in 0..clusters.len() {
            for b in a + 1..clusters.len() {
                let height = mean(&clusters[a].1, &clusters[b].1);
                if height < best.0 {
                    best = (height, a, b);
                }
            }
        }
        let (height, a, b) = best;
        let (id_b, leaves_b) = clusters.remove(b);
        let (id_a, leaves_a) = &mut clusters[a];
        merges.push(Merge { a: *id_a, b: id_b, height });
        leaves_a.extend(leaves_b);
        *id_a = count + merges.len() - 1;
    }
    let order = clusters.pop().map_or(Vec::new(), |c| c.1);
    (merges, order)
}

fn attendance() -> Attendance {
    let rounds = (1..=10)
        .map(|round| {
            let mut presence = vec![Presence::Present; 4];
            presence[1] = match round {
                4 => Presence::DroppedBefore,
                5 => Presence::Away,
                6 => Presence::Returned,
                _ => Presence::Present,
            };
            if round == 7 {
                presence[3] = Presence::DroppedAfter;
            }
            if round == 8 {
                presence[3] = Presence::Returned;
                presence[2] = Presence::Abstained;
            }
            RoundAttendance { round, presence }
        })
        .collect();
    Attendance { sites: SITES.map(String::from).into(), rounds }
}

fn costs() -> (Traffic, Vec<PhaseTime>) {
    let phases = ["keys and plan", "class counts", "training rounds", "metrics", "kernel", "release"];
    let mut dice = Dice::new(5);
    let sites = SITES
        .iter()
        .map(|site| {
            let scale = 0.8 + 0.4 * dice.roll();
            let sent = [3_200.0, 5_100.0, 521_000_000.0, 41_000.0, 39_800_000.0 * scale, 1_400.0];
            SiteTraffic {
                site: (*site).to_owned(),
                sent: sent.map(|b| (b * scale) as u64).into(),
                received: sent.map(|b| (b * 1.02) as u64).into(),
            }
        })
        .collect();
    let traffic = Traffic {
        phases: phases.map(String::from).into(),
        sites,
        note: Some("Encoded messages, before transport.".to_owned()),
    };
    let times = [
        ("drawing patients", 9.1, Some("212 images/s")),
        ("trunk features", 71.4, Some("94 images/s")),
        ("centralised training", 22.8, None),
        ("local training", 20.3, None),
        ("federated training", 41.0, Some("10 rounds")),
        ("masking and sums", 3.9, None),
        ("kernel and ranking", 12.2, None),
        ("report", 0.41, None),
    ];
    let times = times
        .into_iter()
        .map(|(phase, seconds, note)| PhaseTime {
            phase: phase.to_owned(),
            seconds,
            note: note.map(str::to_owned),
        })
        .collect();
    (traffic, times)
}

fn newcomer() -> Newcomer {
    let site = |name: &str, shift: f64, note: &str| {
        let values = four(
            [46.0, 69.5, 77.0, 86.0].map(|v| v + shift),
            [36.0, 52.0, 61.0, 75.0].map(|v| v - shift / 2.0),
            [45.0, 67.0, 74.0, 85.5].map(|v| v + shift),
            [23.0, 38.0, 44.0, 57.0].map(|v| v - shift / 2.0),
        );
        row(RowKind::Baseline, name, note, values)
    };
    let names: Vec<AccuracyRow> = SITES
        .iter()
        .zip([1.5, -2.0, 0.4, 3.1])
        .map(|(name, shift)| site(name, shift, "trained"))
        .chain([site("Leuven", -1.1, "joined later")])
        .collect();
    Newcomer {
        site: "Leuven".to_owned(),
        steps: [
            "Leuven took no part in training; the consortium signed a new roster that names it.",
            "Bonn approved it and sealed the group key to Leuven's key; the coordinator passed on a box it cannot open.",
            "Leuven checked the release's signatures and digest and opened the sealed weights.",
            "It masked the encodings of its 61 patients, added them to the gallery and asked about its probes.",
        ]
        .map(String::from)
        .into(),
        facts: vec![
            Fact::new("patients", 61),
            Fact::new("images", 143),
            Fact::new("syndromes", 38),
            Fact::new("of these new to the gallery", 4),
        ],
        rows: names,
        note: None,
    }
}

fn privacy() -> Privacy {
    let disclosure = |what: &str, to: &str, protection: &str, learns: &str| Disclosure {
        what: what.to_owned(),
        to: to.to_owned(),
        protection: protection.to_owned(),
        learns: learns.to_owned(),
    };
    Privacy {
        summary: Some(
            "Photographs, encodings and single sites' updates stay inside each site. The coordinator adds masked \
             numbers and compares masked vectors; it never holds a name, a face or the global model."
                .to_owned(),
        ),
        left: vec![
            disclosure("Model update, each round", "coordinator", "pairwise and self masks, blind mask", "nothing"),
            disclosure("Sum of updates", "all sites", "blind mask, removed by members", "the sum of at least 3 sites"),
            disclosure("Class counts", "all sites", "secure sum", "totals over sites per syndrome"),
            disclosure("Encodings", "coordinator", "secret semi-orthogonal map", "inner products between photographs"),
            disclosure("Syndrome names", "all sites", "box under the group key", "the united list; the coordinator: tokens"),
        ],
        kept: ["photographs", "plain encodings", "a single site's update", "subject identifiers"]
            .map(String::from)
            .into(),
        limits: [
            "Who holds at least 6144 known photographs' encodings and their masked copies can recover the map.",
            "Sums of three sites may be informative when two of them collude.",
        ]
        .map(String::from)
        .into(),
    }
}

/// The whole sample, with `face(seed)` for pictures.
pub(crate) fn sample_with(face: &dyn Fn(u64) -> Picture) -> ReportData {
    let (traffic, times) = costs();
    ReportData {
        title: "Federated GestaltMatcher across four hospitals".to_owned(),
        headline: None,
        date: None,
        generator: "fedgestalt 0.1.0".to_owned(),
        settings: vec![
            Fact::new("sites", "4, one more joins later"),
            Fact::new("draw", "near-uniform by subject"),
            Fact::new("seed", 20250),
            Fact::new("scale", "small: 60 frequent, 40 rare syndromes"),
            Fact::new("epochs", "50, aggregation every 5"),
            Fact::new("aggregation", "sample-weighted, blind"),
            Fact::new("trunk", "gestalt-mini 1 (3f9a…c21e)"),
            Fact::new("peak memory", "1.9 GB"),
        ],
        accuracies: accuracies(),
        training: Some(training()),
        probes: probes(&names(60), face),
        discovery: Some(discovery(60)),
        traffic: Some(traffic),
        times,
        newcomer: Some(newcomer()),
        attendance: Some(attendance()),
        privacy: Some(privacy()),
        release: Some(ReleaseFacts {
            digest: "9f2c4b1e7a60d3589c1f22aa80b7e4d61355cf0d8ea94b72610fd3c4e5a7b890".to_owned(),
            facts: vec![
                Fact::new("plan", "51cc07d2e8b94f6a0d3e1b7749a2c85f6610bd2f9ec3a4785d0e6b1c2f3a4d5e"),
                Fact::new("signed by", "Bonn, İstanbul, Tübingen, Århus"),
                Fact::new("members", "r50 tuned, r100 tuned, r100 as published"),
                Fact::new("kernel", "6144 → 6144, 12 views and members, distance step 0.01"),
            ],
        }),
        configuration: Some(
            "[cohort]\nscale = \"small\"\nsites = 4\ndraw = \"near-uniform\"\n\n[training]\nepochs = 50\ninterval = 5\n\
             rows = \"shared(3)\"\nblind = true\n"
                .to_owned(),
        ),
    }
}

/// The whole sample with drawn faces.
pub(crate) fn sample() -> ReportData {
    sample_with(&face)
}
