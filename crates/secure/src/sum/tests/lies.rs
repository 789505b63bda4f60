//! A coordinator that does not keep to the protocol.

use chacha20::ChaCha20Rng;
use ed25519_dalek::Signer;
use rand::{RngExt, SeedableRng};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::ErrorKind;
use crate::sum::message::{adverts_digest, consent_statement};

use super::*;

const WORDS: usize = 4;

/// All sites after their upload.
fn uploaded(config: &SumConfig) -> (Aggregator, Vec<Site>) {
    let n = config.sites().len();
    let mut coordinator = Aggregator::new(config.clone());
    let mut sites = Vec::new();
    for i in 0..n {
        let (party, advert) = start(config, i, true);
        coordinator.accept_advert(advert).unwrap();
        sites.push(party);
    }
    let adverts = coordinator.close_adverts().unwrap();
    for party in &mut sites {
        let shares = party.receive_adverts(&adverts).unwrap();
        coordinator.accept_shares(shares).unwrap();
    }
    for (to, inbox) in coordinator.close_shares().unwrap() {
        let party = &mut sites[to.get()];
        party.receive_inbox(&inbox).unwrap();
        let input = party.upload(update(to.get(), WORDS)).unwrap();
        coordinator.accept_input(input).unwrap();
    }
    (coordinator, sites)
}

fn list(config: &SumConfig, sites: impl IntoIterator<Item = usize>) -> Survivors {
    Survivors { tag: config.tag(), sites: sites.into_iter().map(site).collect() }
}

#[test]
fn different_lists_of_survivors_are_found_out() {
    let n = 6;
    let config = config_of(n, WORDS, 0);
    let (_, mut sites) = uploaded(&config);
    // Site 5 is shown a list without site 0, the others one with everybody.
    let mut signatures = Vec::new();
    for (i, party) in sites.iter_mut().enumerate() {
        let shown = list(&config, if i == 5 { 1..n } else { 0..n });
        let consent = party.receive_survivors(&shown).unwrap();
        signatures.push((site(i), consent.signature));
    }
    let consents = Consents { tag: config.tag(), signatures };
    for party in &mut sites[..5] {
        let error = party.receive_consents(&consents).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Signature);
        assert!(error.to_string().contains("site 5"), "{error}");
    }
    let error = sites[5].receive_consents(&consents).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inconsistent);
    let fewer = Consents { tag: config.tag(), signatures: consents.signatures[1..].to_vec() };
    let error = sites[5].receive_consents(&fewer).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Signature);
}

#[test]
fn lists_that_no_honest_coordinator_makes_are_refused() {
    let n = 6;
    let config = config_of(n, WORDS, 0);
    let (_, mut sites) = uploaded(&config);
    let party = &mut sites[2];
    let kind = |party: &mut Site, list: &Survivors| party.receive_survivors(list).unwrap_err().kind();
    assert_eq!(
        kind(party, &list(&config, [0, 1, 3, 4, 5])),
        ErrorKind::Inconsistent,
        "without the site itself"
    );
    assert_eq!(kind(party, &list(&config, [0, 1, 2])), ErrorKind::BelowThreshold);
    assert_eq!(kind(party, &list(&config, [0, 1, 2, 2])), ErrorKind::Malformed);
    assert_eq!(kind(party, &list(&config, [0, 1, 2, 6])), ErrorKind::UnknownSite);
    party.receive_survivors(&list(&config, [0, 1, 2, 3, 4])).unwrap();
    let error = party.receive_survivors(&list(&config, 0..n)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inconsistent);
    assert!(error.to_string().contains("site 5"), "{error}");
    party.receive_survivors(&list(&config, [0, 1, 2, 3])).unwrap();
}

#[test]
fn survivors_that_shared_no_keys_are_refused() {
    let n = 6;
    let config = config_of(n, WORDS, 0);
    let (parties, adverts): (Vec<_>, Vec<_>) = (0..n).map(|i| start(&config, i, true)).unzip();
    let mut coordinator = Aggregator::new(config.clone());
    for advert in adverts {
        coordinator.accept_advert(advert).unwrap();
    }
    let adverts = coordinator.close_adverts().unwrap();
    let mut parties = parties;
    for party in &mut parties[..5] {
        let shares = party.receive_adverts(&adverts).unwrap();
        coordinator.accept_shares(shares).unwrap();
    }
    let inboxes = coordinator.close_shares().unwrap();
    parties[0].receive_inbox(&inboxes[0].1).unwrap();
    parties[0].upload(vec![0; WORDS]).unwrap();
    let error = parties[0].receive_survivors(&list(&config, 0..n)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inconsistent);
}

#[test]
fn keys_put_in_by_someone_in_the_middle_are_refused() {
    let n = 3;
    let config = config_of(n, WORDS, 0);
    let adverts: Vec<Advert> = (0..n).map(|i| start(&config, i, true).1).collect();
    let stolen = PublicKey::from(&StaticSecret::from([1; 32])).to_bytes();

    let mut swapped = adverts.clone();
    swapped[1].mask_key = stolen;
    let mut resigned = swapped.clone();
    let statement = resigned[1].statement(&config);
    resigned[1].signature = signing_key(9).sign(&statement).to_bytes();
    let mut moved = adverts.clone();
    moved[1].signature = moved[2].signature;
    let mut replayed = adverts.clone();
    replayed[1] = start(&config_of(n, WORDS, 1), 1, true).1;
    let mut relabelled = replayed.clone();
    relabelled[1].tag = config.tag();
    let mut own_changed = adverts.clone();
    own_changed[0].box_key = stolen;
    let lacking = adverts[1..].to_vec();

    for (case, adverts, kind) in [
        ("swapped key", swapped, ErrorKind::Signature),
        ("swapped key, own signature", resigned, ErrorKind::Signature),
        ("signature of another site", moved, ErrorKind::Signature),
        ("advert of another attempt", replayed, ErrorKind::WrongSession),
        ("the same, relabelled", relabelled, ErrorKind::Signature),
        ("the site's own advert changed", own_changed, ErrorKind::Inconsistent),
        ("too few", lacking, ErrorKind::BelowThreshold),
    ] {
        let mut party = start(&config, 0, true).0;
        let error = party.receive_adverts(&adverts).unwrap_err();
        assert_eq!(error.kind(), kind, "{case}: {error}");
        let good: Vec<Advert> = (0..n).map(|i| start(&config, i, true).1).collect();
        party.receive_adverts(&good).expect("a refusal changes nothing");
    }
}

#[test]
fn a_degenerate_key_is_refused_even_if_signed() {
    let config = config_of(3, WORDS, 0);
    let mut adverts: Vec<Advert> = (0..3).map(|i| start(&config, i, true).1).collect();
    adverts[1].box_key = [0; 32];
    adverts[1].signature = signing_key(1).sign(&adverts[1].statement(&config)).to_bytes();
    let error = start(&config, 0, true).0.receive_adverts(&adverts).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inconsistent);
    assert!(error.to_string().contains("site 1"), "{error}");
}

#[test]
fn different_adverts_to_different_sites_are_found_out() {
    let n = 6;
    let config = config_of(n, WORDS, 0);
    let (mut parties, adverts): (Vec<_>, Vec<_>) = (0..n).map(|i| start(&config, i, true)).unzip();
    // Site 0 is shown only the first five sites.
    let boxes: Vec<SealedShares> = parties
        .iter_mut()
        .enumerate()
        .take(5)
        .map(|(i, party)| {
            let shown = if i == 0 { &adverts[..5] } else { &adverts[..] };
            party.receive_adverts(shown).unwrap()
        })
        .collect();
    let (_, share) = &boxes[0].boxes[0];
    let mut inbox = vec![(site(0), share.clone())];
    for message in &boxes[2..] {
        let (_, share) = message.boxes.iter().find(|(to, _)| *to == site(1)).unwrap();
        inbox.push((message.site, share.clone()));
    }
    let inbox = Inbox { tag: config.tag(), site: site(1), boxes: inbox };
    let error = parties[1].receive_inbox(&inbox).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Sealed);
    assert!(error.to_string().contains("different keys"), "{error}");
}

/// The strongest coordinator: it also signs for every other site. Whatever lists and consents it
/// sends, of no peer does the site give out both its pairwise seed and its share.
#[test]
fn a_site_never_gives_both_secrets_of_a_peer() {
    let n = 7;
    let config = config_of(n, WORDS, 0);
    let adverts: Vec<Advert> = (0..n).map(|i| start(&config, i, true).1).collect();
    let digest = adverts_digest(&config, &adverts);
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let (mut unmasked, mut shrunk) = (0, 0);
    for _ in 0..30 {
        let (_, mut sites) = uploaded(&config);
        let party = &mut sites[0];
        let (mut seeds, mut shares) = (Vec::new(), Vec::new());
        for _ in 0..12 {
            let shown: Vec<usize> = (0..n).filter(|_| rng.random_bool(0.85)).collect();
            let shown = list(&config, shown);
            if let Ok(consent) = party.receive_survivors(&shown) {
                seeds.extend(consent.seeds.into_iter().map(|(peer, _)| peer));
            }
            let signed = match rng.random_bool(0.5) {
                true => shown.sites.clone(),
                false => (0..n).filter(|_| rng.random_bool(0.85)).map(site).collect(),
            };
            let statement =
                consent_statement(&config, &digest, &adverts[0].blind_tag, &config.all(), &signed);
            let signatures =
                signed.iter().map(|s| (*s, signing_key(s.get()).sign(&statement).to_bytes())).collect();
            let consents = Consents { tag: config.tag(), signatures };
            if rng.random_bool(0.3)
                && let Ok(unmasking) = party.receive_consents(&consents)
            {
                unmasked += 1;
                shares.extend(unmasking.shares.into_iter().map(|(peer, _)| peer));
            }
        }
        shrunk += usize::from(!seeds.is_empty());
        assert!(seeds.iter().all(|peer| !shares.contains(peer)));
    }
    assert!(unmasked > 10 && shrunk > 10, "{unmasked}, {shrunk}");
}

#[test]
fn a_blind_sum_over_other_sites_than_signed_is_refused() {
    let n = 6;
    let config = config_of(n, WORDS, 0);
    let vectors: Vec<Vec<u32>> = (0..n).map(|i| update(i, WORDS)).collect();
    let everyone = vec![Last::Everything; n];
    let view = run(&config, &vectors, &everyone, true).unwrap();
    let key = group_key();

    let mut fewer = view.sum.clone();
    fewer.signatures.pop();
    let error = fewer.open(&config, Some(&key)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Signature);
    let error = view.sites[0].open(&fewer).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inconsistent);

    let mut other_keys = view.sum.clone();
    other_keys.adverts[0] ^= 1;
    let error = other_keys.open(&config, Some(&key)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Signature);

    let mut few = view.sum.clone();
    few.signatures.truncate(2);
    let error = few.open(&config, Some(&key)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BelowThreshold);

    let other = GroupKey::from_bytes([1; 32]);
    for key in [None, Some(&other)] {
        let error = view.sum.open(&config, key).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::GroupKey);
    }
}
