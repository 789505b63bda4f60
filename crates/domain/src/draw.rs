//! Handing a cohort to sites. A subject is never split: all of a patient's images, in all their parts, go together.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::random::Random;
use crate::{Cohort, Error, ErrorKind, Part, Result, SubjectId, SyndromeId};

/// How patients fall to sites.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Draw {
    /// Every syndrome's subjects are dealt evenly: the sites' numbers of subjects differ by at most one, in all and
    /// per syndrome, and within a syndrome per role (training, validation, test, rare).
    NearUniform,
    /// Every syndrome is at one site only, and the sites' numbers of images are close.
    NonOverlapping,
    /// Every syndrome's subjects fall to the sites by shares from a symmetric Dirichlet distribution with this
    /// concentration: large is even, small gives each syndrome to few sites.
    Dirichlet(f64),
}

impl fmt::Display for Draw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NearUniform => f.write_str("near-uniform"),
            Self::NonOverlapping => f.write_str("non-overlapping"),
            Self::Dirichlet(alpha) => write!(f, "dirichlet:{alpha}"),
        }
    }
}

impl FromStr for Draw {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "near-uniform" => return Ok(Self::NearUniform),
            "non-overlapping" => return Ok(Self::NonOverlapping),
            _ => {}
        }
        let alpha = text.strip_prefix("dirichlet:").and_then(|alpha| alpha.parse().ok());
        alpha.filter(|&alpha| valid(alpha)).map(Self::Dirichlet).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                "unknown draw; choose near-uniform, non-overlapping, or dirichlet:ALPHA with ALPHA from 0.001 to 1000000",
            )
        })
    }
}

impl TryFrom<String> for Draw {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Draw> for String {
    fn from(draw: Draw) -> String {
        draw.to_string()
    }
}

fn valid(alpha: f64) -> bool {
    (1e-3..=1e6).contains(&alpha)
}

/// What a draw keeps even within a syndrome: a subject's role is that of its first part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Train,
    Validation,
    Gallery,
    Test,
    Rare,
    None,
}

/// One patient: what the draws look at.
struct Patient<'a> {
    subject: &'a SubjectId,
    role: Role,
    images: usize,
}

/// Hands a cohort to `sites` sites; each part of it is a cohort with the whole syndrome list. A subject with several
/// syndromes counts under the first of them, and ties these to one site in the non-overlapping draw. Depends on the
/// cohort and the seed only.
///
/// Refused for 0 sites, for more sites than there are subjects (syndromes in the non-overlapping draw), and when a
/// Dirichlet draw leaves a site without a patient, or without one to train on, a hundred times in a row.
pub fn draw(cohort: &Cohort, draw: Draw, sites: usize, seed: u64) -> Result<Vec<Cohort>> {
    if sites == 0 {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "a cohort cannot be drawn to 0 sites; ask for at least one",
        ));
    }
    let patients = patients(cohort);
    let subjects: usize = patients.values().map(Vec::len).sum();
    if subjects < sites {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{subjects} subjects cannot fill {sites} sites; ask for fewer sites"),
        ));
    }
    let site_of = match draw {
        Draw::NearUniform => near_uniform(patients, sites, seed),
        Draw::NonOverlapping => non_overlapping(cohort, &patients, sites, seed)?,
        Draw::Dirichlet(alpha) => dirichlet(&patients, alpha, sites, seed)?,
    };
    Ok((0..sites).map(|site| cohort.restrict(&|case| site_of[&case.subject] == site)).collect())
}

type BySyndrome<'a> = BTreeMap<&'a SyndromeId, Vec<Patient<'a>>>;

/// Subjects under their first syndrome, sorted by id.
fn patients(cohort: &Cohort) -> BySyndrome<'_> {
    let mut roles: HashMap<&SubjectId, Role> = HashMap::new();
    for (part, images) in cohort.parts() {
        let role = match part {
            Part::Train => Role::Train,
            Part::Validation => Role::Validation,
            Part::FrequentGallery => Role::Gallery,
            Part::FrequentTest => Role::Test,
            Part::RareGallery(_) | Part::RareTest(_) => Role::Rare,
        };
        for case in images.iter().filter_map(|image| cohort.case(image)) {
            let known = roles.entry(&case.subject).or_insert(role);
            *known = role.min(*known);
        }
    }
    let mut first: BTreeMap<&SubjectId, (&SyndromeId, usize)> = BTreeMap::new();
    for case in cohort.cases() {
        let (syndrome, images) = first.entry(&case.subject).or_insert((&case.syndrome, 0));
        *syndrome = (&case.syndrome).min(*syndrome);
        *images += 1;
    }
    let mut by_syndrome: BySyndrome<'_> = BTreeMap::new();
    for (subject, (syndrome, images)) in first {
        let role = roles.get(subject).copied().unwrap_or(Role::None);
        by_syndrome.entry(syndrome).or_default().push(Patient { subject, role, images });
    }
    by_syndrome
}

/// Deals each syndrome's shuffled subjects round the sites, one role after the other. Each syndrome has its own order
/// of sites: those with fewer subjects so far first, which keeps the totals even, and among equals those with fewer
/// test, validation and rare subjects at the places that get more of these.
fn near_uniform<'a>(patients: BySyndrome<'a>, sites: usize, seed: u64) -> HashMap<&'a SubjectId, usize> {
    const SCARCE_FIRST: [Role; 3] = [Role::Test, Role::Validation, Role::Rare];
    let mut random = Random::new("draw near-uniform", seed, 0);
    let mut held = vec![(0, [0; SCARCE_FIRST.len()]); sites];
    let mut site_of = HashMap::new();
    for (_, mut patients) in patients {
        random.shuffle(&mut patients);
        patients.sort_by_key(|patient| patient.role);
        let roles = |place: usize| {
            let here = || patients.iter().skip(place).step_by(sites);
            SCARCE_FIRST.map(|role| here().filter(|patient| patient.role == role).count())
        };

        let mut order: Vec<usize> = (0..sites).collect();
        random.shuffle(&mut order);
        order.sort_by_key(|&site| held[site]);
        let fewest = order.partition_point(|&site| held[site].0 == held[order[0]].0);
        let mut site_at = vec![0; sites];
        for block in [0..fewest, fewest..sites] {
            let mut places: Vec<usize> = block.clone().collect();
            places.sort_by_key(|&place| std::cmp::Reverse(roles(place)));
            for (place, site) in places.into_iter().zip(&order[block]) {
                site_at[place] = *site;
            }
        }
        for (patient, &site) in patients.iter().zip(site_at.iter().cycle()) {
            site_of.insert(patient.subject, site);
            held[site].0 += 1;
            if let Some(role) = SCARCE_FIRST.iter().position(|role| *role == patient.role) {
                held[site].1[role] += 1;
            }
        }
    }
    site_of
}

/// Syndromes, the large ones first, each to the site with the fewest images so far: two sites then differ by at most
/// one syndrome's images. Those trained on come before the rare ones, so that both are balanced. Sizes are blurred by a
/// quarter for the order, or every seed would give nearly the same draw.
fn non_overlapping<'a>(
    cohort: &'a Cohort,
    patients: &BySyndrome<'a>,
    sites: usize,
    seed: u64,
) -> Result<HashMap<&'a SubjectId, usize>> {
    let mut random = Random::new("draw non-overlapping", seed, 0);
    let mut groups = tied_syndromes(cohort);
    if groups.len() < sites {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "{} syndromes without common patients cannot be given to {sites} sites whole; ask for fewer sites",
                groups.len()
            ),
        ));
    }
    random.shuffle(&mut groups);
    let mut blocks: Vec<(bool, f64, usize, Vec<&SubjectId>)> = groups
        .into_iter()
        .map(|group| {
            let members: Vec<&Patient<'_>> =
                group.iter().filter_map(|syndrome| patients.get(syndrome)).flatten().collect();
            let images = members.iter().map(|patient| patient.images).sum::<usize>();
            let rare = members.iter().all(|patient| patient.role == Role::Rare);
            let blurred = images as f64 * (1.0 + 0.25 * (2.0 * random.unit() - 1.0));
            (rare, blurred, images, members.iter().map(|patient| patient.subject).collect())
        })
        .collect();
    blocks.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let mut order: Vec<usize> = (0..sites).collect();
    random.shuffle(&mut order);
    let mut load = vec![0; sites];
    let mut site_of = HashMap::new();
    for (_, _, images, members) in blocks {
        let least = (0..sites).min_by_key(|&site| load[site]).unwrap_or(0);
        load[least] += images;
        site_of.extend(members.into_iter().map(|subject| (subject, order[least])));
    }
    Ok(site_of)
}

/// The syndromes of a cohort, grouped so that no patient has syndromes of two groups.
fn tied_syndromes(cohort: &Cohort) -> Vec<Vec<&SyndromeId>> {
    fn root(parent: &[usize], mut at: usize) -> usize {
        while parent[at] != at {
            at = parent[at];
        }
        at
    }
    let present: Vec<&SyndromeId> = cohort
        .cases()
        .iter()
        .map(|case| &case.syndrome)
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    let mut parent: Vec<usize> = (0..present.len()).collect();
    let mut first: HashMap<&SubjectId, usize> = HashMap::new();
    for case in cohort.cases() {
        if let Ok(index) = present.binary_search(&&case.syndrome) {
            let other = *first.entry(&case.subject).or_insert(index);
            let (a, b) = (root(&parent, index), root(&parent, other));
            parent[a.max(b)] = a.min(b);
        }
    }
    let mut groups: BTreeMap<usize, Vec<&SyndromeId>> = BTreeMap::new();
    for (index, syndrome) in present.into_iter().enumerate() {
        groups.entry(root(&parent, index)).or_default().push(syndrome);
    }
    groups.into_values().collect()
}

const DIRICHLET_ATTEMPTS: u64 = 100;

/// Cuts each syndrome's shuffled subjects at the running sums of its shares.
fn dirichlet<'a>(
    patients: &BySyndrome<'a>,
    alpha: f64,
    sites: usize,
    seed: u64,
) -> Result<HashMap<&'a SubjectId, usize>> {
    if !valid(alpha) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("the concentration {alpha} is not within 0.001 and 1000000"),
        ));
    }
    let anyone_trains = patients.values().flatten().any(|patient| patient.role == Role::Train);
    for attempt in 0..DIRICHLET_ATTEMPTS {
        let mut random = Random::new("draw dirichlet", seed, attempt);
        let mut site_of = HashMap::new();
        let mut usable = vec![false; sites];
        for patients in patients.values() {
            let shares = random.dirichlet(alpha, sites);
            let mut order: Vec<&Patient<'_>> = patients.iter().collect();
            random.shuffle(&mut order);
            let (mut site, mut reached) = (0, shares[0]);
            for (place, patient) in order.iter().enumerate() {
                // The middle of the subject's slot, so that shares round to whole subjects without favour.
                let slot = (place as f64 + 0.5) / order.len() as f64;
                while slot > reached && site + 1 < sites {
                    site += 1;
                    reached += shares[site];
                }
                site_of.insert(patient.subject, site);
                usable[site] |= patient.role == Role::Train || !anyone_trains;
            }
        }
        if usable.iter().all(|usable| *usable) {
            return Ok(site_of);
        }
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!(
            "dirichlet:{alpha} leaves one of {sites} sites without patients to train on; raise alpha or ask for fewer sites"
        ),
    ))
}
