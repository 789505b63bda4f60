//! Tests of the secure sum: a consortium driven through all rounds, with faults.

#![allow(clippy::unwrap_used)]

mod attacks;
mod exact;
mod lies;
mod refusals;

use ed25519_dalek::SigningKey;

use crate::{GroupKey, Result, SiteIndex};

use super::*;

/// The last thing a site does before it vanishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Last {
    Nothing,
    Advert,
    Shares,
    Upload,
    /// Consents to the first list, but not to a shorter one.
    FirstConsent,
    Consent,
    Everything,
}

impl Last {
    const BEFORE_THE_END: [Self; 6] =
        [Self::Nothing, Self::Advert, Self::Shares, Self::Upload, Self::FirstConsent, Self::Consent];
}

/// Whose vectors must be in the sum: those who consent to the last list.
fn counted(last: &[Last]) -> Vec<SiteIndex> {
    let asked_again = last.contains(&Last::Upload);
    let from = if asked_again { Last::Consent } else { Last::FirstConsent };
    (0..last.len()).filter(|&i| last[i] >= from).map(site).collect()
}

fn signing_key(site: usize) -> SigningKey {
    let mut seed = [0x5a; 32];
    seed[0] = site as u8;
    SigningKey::from_bytes(&seed)
}

fn group_key() -> GroupKey {
    GroupKey::from_bytes([0xc3; 32])
}

fn seed(site: usize) -> [u8; 32] {
    let mut seed = [0xa5; 32];
    seed[0] = site as u8;
    seed
}

fn config_of(sites: usize, words: impl Into<Words>, attempt: u32) -> SumConfig {
    let session = Session { id: [4; 16], purpose: "round".into(), round: 7, attempt };
    let keys = (0..sites).map(|i| signing_key(i).verifying_key()).collect();
    SumConfig::new(session, keys, words).unwrap()
}

fn site(i: usize) -> SiteIndex {
    SiteIndex(i as u16)
}

fn start(config: &SumConfig, i: usize, blind: bool) -> (Site, Advert) {
    let key = group_key();
    let blind = blind.then_some(&key);
    Site::start(config.clone(), site(i), &signing_key(i), blind, seed(i)).unwrap()
}

/// A reproducible vector that looks like a small update in fixed point.
fn update(i: usize, words: usize) -> Vec<u32> {
    (0..words as u32)
        .map(|w| (w.wrapping_mul(2_654_435_761) >> 22).wrapping_sub(512 * (i as u32 + 1)))
        .collect()
}

/// Everything that passed through the coordinator, and the sites' own states.
struct Transcript {
    config: SumConfig,
    sites: Vec<Site>,
    inputs: Vec<MaskedInput>,
    /// With the list each is for.
    consents: Vec<(Vec<SiteIndex>, Consent)>,
    unmaskings: Vec<Unmasking>,
    sum: BlindSum,
}

/// Runs a whole sum over the encoded messages; `last` says how far each site goes.
fn run(config: &SumConfig, vectors: &[Vec<u32>], last: &[Last], blind: bool) -> Result<Transcript> {
    let n = vectors.len();
    let goes = |i: &usize, step: Last| last[*i] >= step;
    let mut coordinator = Aggregator::new(config.clone());
    let mut sites = Vec::new();
    for i in 0..n {
        let (party, advert) = start(config, i, blind);
        if goes(&i, Last::Advert) {
            coordinator.accept_advert(Advert::decode(&advert.encode(), config)?)?;
        }
        sites.push(party);
    }
    let adverts = coordinator.close_adverts()?;
    for i in (0..n).filter(|i| goes(i, Last::Advert)) {
        let shares = sites[i].receive_adverts(&adverts)?;
        if goes(&i, Last::Shares) {
            coordinator.accept_shares(SealedShares::decode(&shares.encode(), config)?)?;
        }
    }
    let mut transcript = (Vec::new(), Vec::new(), Vec::new());
    for (to, inbox) in coordinator.close_shares()? {
        let i = to.get();
        sites[i].receive_inbox(&Inbox::decode(&inbox.encode(), config)?)?;
        if goes(&i, Last::Upload) {
            let input = sites[i].upload(vectors[i].clone())?;
            transcript.0.push(input.clone());
            coordinator.accept_input(MaskedInput::decode(&input.encode(), config)?)?;
        }
    }
    let mut survivors = coordinator.close_inputs()?;
    let mut consenting = Last::FirstConsent;
    let consents = loop {
        let list = Survivors::decode(&survivors.encode(), config)?;
        for i in list.sites().iter().map(|s| s.get()) {
            if goes(&i, consenting) {
                let consent = sites[i].receive_survivors(&list)?;
                transcript.1.push((list.sites.clone(), consent.clone()));
                coordinator.accept_consent(Consent::decode(&consent.encode(), config)?)?;
            }
        }
        match coordinator.close_consents()? {
            Consented::Agreed(consents) => break Consents::decode(&consents.encode(), config)?,
            Consented::Again(shorter) => survivors = shorter,
        }
        consenting = Last::Consent;
    };
    for i in consents.sites().map(|s| s.get()) {
        if goes(&i, Last::Everything) {
            let unmasking = sites[i].receive_consents(&consents)?;
            transcript.2.push(unmasking.clone());
            coordinator.accept_unmasking(Unmasking::decode(&unmasking.encode(), config)?)?;
        }
    }
    let sum = coordinator.finish()?;
    assert!(coordinator.awaited().is_empty());
    Ok(Transcript {
        config: config.clone(),
        sites,
        inputs: transcript.0,
        consents: transcript.1,
        unmaskings: transcript.2,
        sum: BlindSum::decode(&sum.encode(), config)?,
    })
}

fn plain_sum(vectors: &[Vec<u32>], sites: &[SiteIndex]) -> Vec<u32> {
    let mut total = vec![0u32; vectors[0].len()];
    for site in sites {
        for (t, w) in total.iter_mut().zip(&vectors[site.get()]) {
            *t = t.wrapping_add(*w);
        }
    }
    total
}

/// Deviation from the expectation of the chi-square statistic of byte values in each of the four
/// byte places of the words, in standard deviations; the largest of the four. For uniform bytes a value
/// above 6 has a probability of about 1e-7 (chi-square with 255 degrees of freedom above 390).
fn deviation(words: &[u32]) -> f64 {
    deviation_of(words, 4)
}

/// As [`deviation`], of the first so many byte places.
fn deviation_of(words: &[u32], places: usize) -> f64 {
    (0..places)
        .map(|place| {
            let mut counts = [0u32; 256];
            for word in words {
                counts[usize::from(word.to_le_bytes()[place])] += 1;
            }
            let expected = words.len() as f64 / 256.0;
            let statistic: f64 =
                counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
            ((statistic - 255.0) / (2.0 * 255f64).sqrt()).abs()
        })
        .fold(0.0, f64::max)
}

/// Words in a vector whose distribution is tested: 64 of each byte value are expected in each place.
const MANY: usize = 1 << 14;
/// Bound on [`deviation`] for what must look random. Seeds are fixed, so a test that passes passes
/// always; with other seeds about one vector in two million would fail.
const UNIFORM: f64 = 6.0;
