//! What is refused, by whom and why; and that a refusal changes nothing.

use crate::ErrorKind;

use super::*;

const WORDS: usize = 4;

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn a_site_refuses_calls_out_of_order() {
    let config = config_of(3, WORDS, 0);
    let (mut party, _) = start(&config, 0, false);
    assert_eq!(kind(party.upload(vec![0; WORDS])), ErrorKind::OutOfPhase);
    let list = Survivors { tag: config.tag(), sites: config.all() };
    assert_eq!(kind(party.receive_survivors(&list)), ErrorKind::OutOfPhase);
    let adverts: Vec<Advert> = (0..3).map(|i| start(&config, i, false).1).collect();
    party.receive_adverts(&adverts).unwrap();
    assert_eq!(kind(party.receive_adverts(&adverts)), ErrorKind::OutOfPhase);
}

#[test]
fn a_site_uploads_once_and_only_the_agreed_length() {
    let n = 3;
    let config = config_of(n, WORDS, 0);
    let mut coordinator = Aggregator::new(config.clone());
    let (mut parties, adverts): (Vec<_>, Vec<_>) = (0..n).map(|i| start(&config, i, true)).unzip();
    for party in &mut parties {
        let shares = party.receive_adverts(&adverts).unwrap();
        if coordinator.phase() == Phase::Adverts {
            for advert in &adverts {
                coordinator.accept_advert(advert.clone()).unwrap();
            }
            coordinator.close_adverts().unwrap();
        }
        coordinator.accept_shares(shares).unwrap();
    }
    let inboxes = coordinator.close_shares().unwrap();
    assert_eq!(kind(parties[0].receive_inbox(&inboxes[1].1)), ErrorKind::UnknownSite, "another site's inbox");
    let mut bent = inboxes[0].1.clone();
    bent.boxes[0].1.sealed[3] ^= 1;
    assert_eq!(kind(parties[0].receive_inbox(&bent)), ErrorKind::Sealed);
    let mut bent = inboxes[0].1.clone();
    bent.boxes[0].1.commitment[3] ^= 1;
    assert_eq!(kind(parties[0].receive_inbox(&bent)), ErrorKind::Sealed);
    let mut short = inboxes[0].1.clone();
    short.boxes.pop();
    assert_eq!(kind(parties[0].receive_inbox(&short)), ErrorKind::BelowThreshold);
    parties[0].receive_inbox(&inboxes[0].1).unwrap();
    assert_eq!(kind(parties[0].upload(vec![0; WORDS + 1])), ErrorKind::Length);
    parties[0].upload(vec![0; WORDS]).unwrap();
    assert_eq!(kind(parties[0].upload(vec![0; WORDS])), ErrorKind::OutOfPhase);
}

#[test]
fn the_coordinator_refuses_strangers_repeats_and_other_phases() {
    let config = config_of(4, WORDS, 0);
    let mut coordinator = Aggregator::new(config.clone());
    let adverts: Vec<Advert> = (0..4).map(|i| start(&config, i, false).1).collect();
    let mut stranger = adverts[0].clone();
    stranger.site = SiteIndex(4);
    assert_eq!(kind(coordinator.accept_advert(stranger)), ErrorKind::UnknownSite);
    let mut forged = adverts[0].clone();
    forged.mask_key[0] ^= 1;
    assert_eq!(kind(coordinator.accept_advert(forged)), ErrorKind::Signature);
    let late = start(&config_of(4, WORDS, 1), 0, false).1;
    assert_eq!(kind(coordinator.accept_advert(late)), ErrorKind::WrongSession);
    assert_eq!(coordinator.awaited().len(), 4, "nothing was taken");
    for advert in &adverts[..3] {
        coordinator.accept_advert(advert.clone()).unwrap();
    }
    assert_eq!(kind(coordinator.accept_advert(adverts[0].clone())), ErrorKind::Duplicate);
    let input = MaskedInput { tag: config.tag(), site: site(0), short: 0, words: vec![0; WORDS] };
    assert_eq!(kind(coordinator.accept_input(input)), ErrorKind::OutOfPhase);
    assert_eq!(coordinator.awaited(), [site(3)]);
    coordinator.close_adverts().unwrap();
    assert_eq!(kind(coordinator.accept_advert(adverts[3].clone())), ErrorKind::OutOfPhase);
    let shares = SealedShares { tag: config.tag(), site: site(3), own: [0; 32], boxes: vec![] };
    assert_eq!(
        kind(coordinator.accept_shares(shares.clone())),
        ErrorKind::UnknownSite,
        "a site that did not advertise"
    );
    let incomplete = SealedShares { site: site(0), ..shares };
    assert_eq!(kind(coordinator.accept_shares(incomplete)), ErrorKind::Inconsistent);
}

#[test]
fn the_coordinator_names_who_sends_a_wrong_share() {
    let n = 4;
    let config = config_of(n, WORDS, 0);
    let vectors: Vec<Vec<u32>> = (0..n).map(|i| update(i, WORDS)).collect();
    let mut coordinator = Aggregator::new(config.clone());
    let mut parties = Vec::new();
    for i in 0..n {
        let (party, advert) = start(&config, i, false);
        coordinator.accept_advert(advert).unwrap();
        parties.push(party);
    }
    let adverts = coordinator.close_adverts().unwrap();
    for party in &mut parties {
        let shares = party.receive_adverts(&adverts).unwrap();
        coordinator.accept_shares(shares).unwrap();
    }
    for (to, inbox) in coordinator.close_shares().unwrap() {
        let party = &mut parties[to.get()];
        party.receive_inbox(&inbox).unwrap();
        let input = party.upload(vectors[to.get()].clone()).unwrap();
        coordinator.accept_input(input).unwrap();
    }
    let survivors = coordinator.close_inputs().unwrap();
    for party in &mut parties {
        let consent = party.receive_survivors(&survivors).unwrap();
        let mut forged = consent.clone();
        forged.signature[0] ^= 1;
        assert_eq!(kind(coordinator.accept_consent(forged)), ErrorKind::Signature);
        let mut chatty = consent.clone();
        chatty.seeds.push((site(0), crate::Secret::from_bytes([0; 32])));
        assert_eq!(kind(coordinator.accept_consent(chatty)), ErrorKind::Inconsistent);
        coordinator.accept_consent(consent).unwrap();
    }
    let Consented::Agreed(consents) = coordinator.close_consents().unwrap() else {
        panic!("everyone consented");
    };
    for (i, party) in parties.iter_mut().enumerate() {
        let unmasking = party.receive_consents(&consents).unwrap();
        if i == 2 {
            let mut wrong = unmasking.clone();
            wrong.shares[1].1 = crate::Secret::from_bytes([7; 32]);
            let error = coordinator.accept_unmasking(wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Sealed);
            assert!(error.to_string().contains("site 2 gave a share of site 1"));
            let mut partial = unmasking.clone();
            partial.shares.pop();
            assert_eq!(kind(coordinator.accept_unmasking(partial)), ErrorKind::Inconsistent);
            continue;
        }
        coordinator.accept_unmasking(unmasking).unwrap();
    }
    // The threshold of honest shares is enough.
    let sum = coordinator.finish().unwrap();
    let opened = sum.open(&config, None).unwrap();
    assert_eq!(opened.sum, plain_sum(&vectors, &config.all()));
    assert_eq!(kind(coordinator.finish()), ErrorKind::OutOfPhase);
}

#[test]
fn sites_of_different_modes_or_group_keys_do_not_mix() {
    let config = config_of(3, WORDS, 0);
    let other = GroupKey::from_bytes([1; 32]);
    let strange = Site::start(config.clone(), site(2), &signing_key(2), Some(&other), seed(2));
    let strange = strange.unwrap().1;
    let plain = start(&config, 2, false).1;
    for odd in [strange, plain] {
        let adverts = [start(&config, 0, true).1, start(&config, 1, true).1, odd];
        let error = start(&config, 0, true).0.receive_adverts(&adverts).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::GroupKey);
        assert!(error.to_string().contains("site 2"), "{error}");
    }
}

#[test]
fn a_site_starts_only_with_its_own_key() {
    let config = config_of(3, WORDS, 0);
    let wrong = Site::start(config.clone(), site(0), &signing_key(1), None, seed(0));
    assert_eq!(kind(wrong), ErrorKind::Signature);
    let stranger = Site::start(config, SiteIndex(3), &signing_key(3), None, seed(3));
    assert_eq!(kind(stranger), ErrorKind::UnknownSite);
}

#[test]
fn facts_that_cannot_be_are_refused() {
    let good = config_of(3, 1, 0);
    let keys = good.sites().to_vec();
    let with = |purpose: &str, keys: &[_], words| {
        let session = Session { purpose: purpose.into(), ..good.session().clone() };
        kind(SumConfig::new(session, keys.to_vec(), words))
    };
    let twice = [keys[0], keys[1], keys[0]];
    assert_eq!(with("round", &twice, 1), ErrorKind::Parameter);
    assert_eq!(with("", &keys, 1), ErrorKind::Parameter);
    assert_eq!(with(&"x".repeat(65), &keys, 1), ErrorKind::Parameter);
    assert_eq!(with("round", &keys, 0), ErrorKind::Parameter);
    let many: Vec<_> = (0..=255)
        .map(|i| {
            let mut seed = [7; 32];
            seed[0] = i as u8;
            ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key()
        })
        .collect();
    assert_eq!(with("round", &many, 1), ErrorKind::Parameter);
}

#[test]
fn nothing_secret_is_printed() {
    let config = config_of(3, WORDS, 0);
    let vectors = vec![vec![0; WORDS]; 3];
    let view = run(&config, &vectors, &[Last::Everything; 3], true).unwrap();
    let secrets = &view.sites[0].secrets;
    let text = format!("{:?} {:?} {:?}", view.sites[0], view.consents, view.unmaskings);
    for secret in [&secrets.self_seed, &secrets.opening] {
        let bytes = format!("{:?}", secret.expose());
        assert!(!text.contains(&bytes[1..20]));
    }
    let key = format!("{:?}", signing_key(0).to_bytes());
    assert!(!text.contains(&key[1..20]));
    assert!(text.contains("Secret(..)") && text.contains("GroupKey(..)"));
}
