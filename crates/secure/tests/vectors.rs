//! The crate against vectors that `reference/secure_vectors.py` computed with an implementation of
//! its own.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use secure::ed25519_dalek::SigningKey;
use secure::fixed::{Scale, Word};
use secure::kernel::token;
use secure::shamir::{Share, reconstruct};
use secure::sum::*;
use secure::x25519_dalek::{PublicKey, StaticSecret};
use secure::{GroupKey, Result, Secret, SiteIndex, boxes};
use serde::Deserialize;

#[derive(Deserialize)]
struct Sum {
    session: String,
    purpose: String,
    round: u32,
    attempt: u32,
    short: usize,
    long: usize,
    signing_keys: Vec<String>,
    seeds: Vec<String>,
    group_key: String,
    updates: Vec<Vec<u32>>,
    config_digest: String,
    adverts: Vec<String>,
    sealed_shares: Vec<String>,
    inboxes: Vec<String>,
    masked_inputs: Vec<Option<String>>,
    survivors: String,
    consents: Vec<Option<String>>,
    agreed: String,
    unmaskings: Vec<Option<String>>,
    blind_sum: String,
    opened: OpenedVector,
    bad: Vec<Bad>,
}

#[derive(Deserialize)]
struct OpenedVector {
    sites: Vec<u16>,
    sum: Vec<u32>,
}

#[derive(Deserialize)]
struct Bad {
    name: String,
    message: String,
    bytes: String,
    error: String,
}

fn sum_vectors() -> Sum {
    serde_json::from_str(include_str!("vectors/sum.json")).unwrap()
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}

fn config(v: &Sum) -> SumConfig {
    let keys = v.signing_keys.iter().map(|seed| SigningKey::from_bytes(&array(seed)).verifying_key());
    let session =
        Session { id: array(&v.session), purpose: v.purpose.clone(), round: v.round, attempt: v.attempt };
    SumConfig::new(session, keys.collect(), Words { short: v.short, long: v.long }).unwrap()
}

#[test]
fn every_message_of_a_sum_is_the_reference_s() {
    let v = sum_vectors();
    let config = config(&v);
    assert_eq!(hex::encode(config.digest()), v.config_digest);
    let group_key = GroupKey::from_bytes(array(&v.group_key));
    let mut coordinator = Aggregator::new(config.clone());
    let mut sites = Vec::new();
    for (i, seed) in v.seeds.iter().enumerate() {
        let (site, advert) = Site::start(
            config.clone(),
            SiteIndex(i as u16),
            &SigningKey::from_bytes(&array(&v.signing_keys[i])),
            Some(&group_key),
            array(seed),
        )
        .unwrap();
        assert_eq!(hex::encode(advert.encode()), v.adverts[i]);
        coordinator.accept_advert(advert).unwrap();
        sites.push(site);
    }
    let adverts = coordinator.close_adverts().unwrap();
    for (site, expected) in sites.iter_mut().zip(&v.sealed_shares) {
        let shares = site.receive_adverts(&adverts).unwrap();
        assert_eq!(hex::encode(shares.encode()), *expected);
        coordinator.accept_shares(shares).unwrap();
    }
    for (to, inbox) in coordinator.close_shares().unwrap() {
        let i = to.get();
        assert_eq!(hex::encode(inbox.encode()), v.inboxes[i]);
        sites[i].receive_inbox(&inbox).unwrap();
        if let Some(expected) = &v.masked_inputs[i] {
            let input = sites[i].upload(v.updates[i].clone()).unwrap();
            assert_eq!(hex::encode(input.encode()), *expected);
            coordinator.accept_input(input).unwrap();
        }
    }
    let survivors = coordinator.close_inputs().unwrap();
    assert_eq!(hex::encode(survivors.encode()), v.survivors);
    for site in survivors.sites() {
        let consent = sites[site.get()].receive_survivors(&survivors).unwrap();
        assert_eq!(Some(hex::encode(consent.encode())), v.consents[site.get()]);
        coordinator.accept_consent(consent).unwrap();
    }
    let Consented::Agreed(consents) = coordinator.close_consents().unwrap() else {
        panic!("all consented");
    };
    assert_eq!(hex::encode(consents.encode()), v.agreed);
    for site in survivors.sites() {
        let unmasking = sites[site.get()].receive_consents(&consents).unwrap();
        assert_eq!(Some(hex::encode(unmasking.encode())), v.unmaskings[site.get()]);
        coordinator.accept_unmasking(unmasking).unwrap();
    }
    let sum = coordinator.finish().unwrap();
    assert_eq!(hex::encode(sum.encode()), v.blind_sum);
    let opened = sum.open(&config, Some(&group_key)).unwrap();
    assert_eq!(opened.sites.iter().map(|s| s.0).collect::<Vec<_>>(), v.opened.sites);
    assert_eq!(opened.sum, v.opened.sum);
}

/// What became of a bad message: refused on reading, or by who must accept it.
fn deliver(v: &Sum, config: &SumConfig, kind: &str, bytes: &[u8]) -> Result<()> {
    let good = |text: &Option<String>| text.as_ref().map(|text| hex::decode(text).unwrap());
    let hex = |text: &String| hex::decode(text).unwrap();
    let mut coordinator = Aggregator::new(config.clone());
    if kind == "Advert" {
        return coordinator.accept_advert(Advert::decode(bytes, config)?);
    }
    for advert in &v.adverts {
        coordinator.accept_advert(Advert::decode(&hex(advert), config)?)?;
    }
    coordinator.close_adverts()?;
    if kind == "SealedShares" {
        return coordinator.accept_shares(SealedShares::decode(bytes, config)?);
    }
    for shares in &v.sealed_shares {
        coordinator.accept_shares(SealedShares::decode(&hex(shares), config)?)?;
    }
    coordinator.close_shares()?;
    if kind == "MaskedInput" {
        return coordinator.accept_input(MaskedInput::decode(bytes, config)?);
    }
    for input in v.masked_inputs.iter().filter_map(good) {
        coordinator.accept_input(MaskedInput::decode(&input, config)?)?;
    }
    coordinator.close_inputs()?;
    if kind == "Consent" {
        return coordinator.accept_consent(Consent::decode(bytes, config)?);
    }
    for consent in v.consents.iter().filter_map(good) {
        coordinator.accept_consent(Consent::decode(&consent, config)?)?;
    }
    coordinator.close_consents()?;
    if kind == "Unmasking" {
        return coordinator.accept_unmasking(Unmasking::decode(bytes, config)?);
    }
    let group_key = GroupKey::from_bytes(array(&v.group_key));
    match kind {
        "Inbox" => Inbox::decode(bytes, config).map(|_| ()),
        "Survivors" => Survivors::decode(bytes, config).map(|_| ()),
        "Consents" => Consents::decode(bytes, config).map(|_| ()),
        "BlindSum" => BlindSum::decode(bytes, config)?.open(config, Some(&group_key)).map(|_| ()),
        other => panic!("no message is called {other}"),
    }
}

#[test]
fn every_bad_message_is_refused_for_its_reason() {
    let v = sum_vectors();
    let config = config(&v);
    for bad in &v.bad {
        let bytes = hex::decode(&bad.bytes).unwrap();
        let Err(error) = deliver(&v, &config, &bad.message, &bytes) else {
            panic!("{} of {} was accepted", bad.name, bad.message);
        };
        assert_eq!(format!("{:?}", error.kind()), bad.error, "{} of {}: {error}", bad.name, bad.message);
    }
    let good = [
        ("Advert", &v.adverts[0]),
        ("SealedShares", &v.sealed_shares[0]),
        ("Inbox", &v.inboxes[0]),
        ("MaskedInput", v.masked_inputs[0].as_ref().unwrap()),
        ("Survivors", &v.survivors),
        ("Consent", v.consents[0].as_ref().unwrap()),
        ("Consents", &v.agreed),
        ("Unmasking", v.unmaskings[0].as_ref().unwrap()),
        ("BlindSum", &v.blind_sum),
    ];
    for (kind, text) in good {
        assert!(v.bad.iter().filter(|bad| bad.message == kind).count() >= 7, "{kind}");
        deliver(&v, &config, kind, &hex::decode(text).unwrap()).unwrap();
    }
}

#[derive(Deserialize)]
struct Primitives {
    derive: Derive,
    shamir: Shamir,
    token: TokenVector,
    boxes: Boxes,
    fixed: Vec<Fixed>,
}

#[derive(Deserialize)]
struct Derive {
    key: String,
    label: String,
    context: String,
    derived: String,
}

#[derive(Deserialize)]
struct Shamir {
    secret: String,
    threshold: usize,
    shares: BTreeMap<u8, String>,
}

#[derive(Deserialize)]
struct TokenVector {
    key: String,
    release: String,
    label: String,
    token: String,
}

#[derive(Deserialize)]
struct Boxes {
    seed: String,
    plaintext: String,
    group: GroupBox,
    to: BoxTo,
}

#[derive(Deserialize)]
struct GroupBox {
    key: String,
    label: String,
    sealed: String,
}

#[derive(Deserialize)]
struct BoxTo {
    secret: String,
    context: String,
    sealed: String,
}

#[derive(Deserialize)]
struct Fixed {
    range: f32,
    sites: usize,
    bits: u32,
    mean: bool,
    exponent: i32,
    values: Vec<f32>,
    words: Vec<u32>,
}

fn primitives() -> Primitives {
    serde_json::from_str(include_str!("vectors/primitives.json")).unwrap()
}

#[test]
fn key_derivation_and_tokens() {
    let Primitives { derive: v, token: t, .. } = primitives();
    let key = GroupKey::from_bytes(array(&v.key));
    let derived = key.derive(&v.label, &hex::decode(v.context).unwrap());
    assert_eq!(hex::encode(derived.expose()), v.derived);
    let found = token(&GroupKey::from_bytes(array(&t.key)), &array(&t.release), &t.label);
    assert_eq!(found.to_string(), t.token);
}

#[test]
fn shares_of_the_reference_give_its_secret() {
    let v = primitives().shamir;
    let shares: Vec<Share> =
        v.shares.iter().map(|(x, y)| Share { x: *x, y: Secret::from_bytes(array(y)) }).collect();
    let secret = Secret::from_bytes(array(&v.secret));
    for first in 0..=shares.len() - v.threshold {
        assert_eq!(reconstruct(&shares[first..][..v.threshold]).unwrap(), secret);
    }
    assert_ne!(reconstruct(&shares[..v.threshold - 1]).unwrap(), secret);
}

#[test]
fn boxes_of_the_reference() {
    let v = primitives().boxes;
    let (seed, plaintext) = (array(&v.seed), hex::decode(&v.plaintext).unwrap());
    let key = GroupKey::from_bytes(array(&v.group.key));
    let sealed = boxes::group_seal(&key, &v.group.label, &plaintext, seed);
    assert_eq!(hex::encode(&sealed), v.group.sealed);
    assert_eq!(boxes::group_open(&key, &v.group.label, &sealed).unwrap(), plaintext);

    let secret = StaticSecret::from(array::<32>(&v.to.secret));
    let context = hex::decode(&v.to.context).unwrap();
    let sealed = boxes::seal_to(&PublicKey::from(&secret), &context, &plaintext, seed).unwrap();
    assert_eq!(hex::encode(&sealed), v.to.sealed);
    assert_eq!(boxes::open(&secret, &context, &sealed).unwrap(), plaintext);
}

#[test]
fn fixed_point_of_the_reference() {
    for v in primitives().fixed {
        let word = if v.bits == 24 { Word::Short } else { Word::Long };
        let scale = if v.mean { Scale::for_mean } else { Scale::for_sum };
        let scale = scale(v.range, v.sites, word).unwrap();
        assert_eq!(scale.step(), 2f64.powi(-v.exponent), "range {} of {} sites", v.range, v.sites);
        let mut words = vec![0; v.values.len()];
        scale.encode(&v.values, &mut words).unwrap();
        let counts = words.iter().map(|word| word & (u32::MAX >> (32 - v.bits)));
        assert_eq!(counts.collect::<Vec<u32>>(), v.words);
    }
}
