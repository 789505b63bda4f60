//! What those can find out who keep to the protocol and pool what they have, written as the attacks.

use sha2::{Digest, Sha256};

use crate::Secret;
use crate::prg::Pads;
use crate::shamir::{self, Share};
use crate::sum::blind::blind_seed;
use crate::sum::message::consent_statement;
use crate::sum::site::{point, self_mask};

use super::*;

/// Removes from `target`'s upload every mask that the coordinator and the `colluders` together know:
/// the self mask if they hold enough shares and the opening, pairwise masks whose seed a colluder
/// computes or anyone has given up, the blind mask. Also says how many masks were left.
fn strip(view: &Transcript, colluders: &[usize], target: usize) -> (Vec<u32>, usize) {
    strip_knowing(view, colluders, target, None)
}

fn strip_knowing(
    view: &Transcript,
    colluders: &[usize],
    target: usize,
    leaked_opening: Option<Secret>,
) -> (Vec<u32>, usize) {
    let adverts = &view.sum.adverts;
    let target = site(target);
    let mut known = Pads::default();
    let mut unknown = 0;

    let mut shares: Vec<Share> = Vec::new();
    let held = colluders.iter().filter_map(|&i| Some((site(i), view.sites[i].shares.get(&target)?)));
    let given = view.unmaskings.iter().flat_map(|message| {
        let of_target = message.shares.iter().filter(|(owner, _)| *owner == target);
        of_target.map(|(_, share)| (message.site, share))
    });
    for (holder, share) in held.chain(given) {
        if !shares.iter().any(|share| share.x == point(holder)) {
            shares.push(Share { x: point(holder), y: share.clone() });
        }
    }
    let opening = leaked_opening.or_else(|| lift_veils(view, colluders, target));
    match &opening {
        Some(opening) if shares.len() >= view.config.threshold() => {
            let seed = shamir::reconstruct(&shares).unwrap();
            known.subtract(self_mask(&seed, opening, adverts));
        }
        _ => unknown += 1,
    }

    for &peer in view.sum.sharers.iter().filter(|&&peer| peer != target) {
        let from_colluder =
            colluders.iter().find(|&&i| site(i) == peer).map(|&i| view.sites[i].pair_seed(target).unwrap());
        let given_up = view.consents.iter().find_map(|(_, consent)| {
            let other = match consent.site {
                s if s == target => peer,
                s if s == peer => target,
                _ => return None,
            };
            let (_, seed) = consent.seeds.iter().find(|(site, _)| *site == other)?;
            Some(seed.clone())
        });
        match from_colluder.or(given_up) {
            Some(seed) if target < peer => known.subtract(seed),
            Some(seed) => known.add(seed),
            None => unknown += 1,
        }
    }

    let key = group_key();
    known.subtract(blind_seed(&key, &view.config, adverts, target));
    let input = view.inputs.iter().find(|input| input.site == target);
    let mut words = input.unwrap().words.clone();
    known.apply(&mut words);
    (words, unknown)
}

/// The opening of `target`, if for some list that it consented to every veil is known: lifted by a
/// consent to the same list, or computed by a colluder.
fn lift_veils(view: &Transcript, colluders: &[usize], target: SiteIndex) -> Option<Secret> {
    let mut of_target = view.consents.iter().filter(|(_, consent)| consent.site == target);
    of_target.find_map(|(list, consent)| {
        let sum = &view.sum;
        let statement = consent_statement(&view.config, &sum.adverts, &sum.blind_tag, &sum.sharers, list);
        let digest: [u8; 32] = Sha256::digest(&statement).into();
        let mut opening = consent.veiled.clone();
        for &helper in list.iter().filter(|&&helper| helper != target) {
            let colluder = colluders.iter().find(|&&i| site(i) == helper);
            let veil = match colluder {
                Some(&i) => view.sites[i].veil(target, [target, helper], &digest).unwrap(),
                None => {
                    let same = |(other, consent): &&(Vec<SiteIndex>, Consent)| {
                        other == list && consent.site == helper
                    };
                    let (_, consent) = view.consents.iter().find(same)?;
                    consent.veils.iter().find(|(site, _)| *site == target)?.1.clone()
                }
            };
            opening.xor(&veil);
        }
        Some(opening)
    })
}

fn vectors(n: usize) -> Vec<Vec<u32>> {
    (0..n).map(|i| update(i, MANY)).collect()
}

/// Everybody but the honest ones colludes with the coordinator.
fn all_but(n: usize, honest: &[usize]) -> Vec<usize> {
    (0..n).filter(|i| !honest.contains(i)).collect()
}

#[test]
fn all_sites_but_two_and_the_coordinator_learn_only_the_sum_of_the_two() {
    // From 6 sites on, n - 2 sites hold enough shares to reconstruct every shared secret.
    for n in [3, 4, 5, 6, 9, 16] {
        let config = config_of(n, MANY, 0);
        let vectors = vectors(n);
        let honest = [0, n - 1];
        let colluders = all_but(n, &honest);
        let spare = n - config.threshold();
        let mut everyone = vec![vec![Last::Everything; n]];
        for when in Last::BEFORE_THE_END {
            let mut last = vec![Last::Everything; n];
            last[1..][..spare].fill(when);
            everyone.push(last);
        }
        for last in everyone {
            let view = run(&config, &vectors, &last, true).unwrap();
            let (first, masks) = strip(&view, &colluders, honest[0]);
            assert_eq!(masks, 1, "the mask between the two stays");
            assert!(deviation(&first) < UNIFORM, "{n} sites, {last:?}");
            let (second, _) = strip(&view, &colluders, honest[1]);
            assert!(deviation(&second) < UNIFORM, "{n} sites, {last:?}");
            let both: Vec<u32> = first.iter().zip(&second).map(|(a, b)| a.wrapping_add(*b)).collect();
            let pair = honest.map(site);
            assert!(both == plain_sum(&vectors, &pair), "what the sum gives away");
        }
    }
}

#[test]
fn all_sites_but_one_open_the_last_one() {
    for n in [3, 6, 9] {
        let vectors = vectors(n);
        let view = run(&config_of(n, MANY, 0), &vectors, &vec![Last::Everything; n], true).unwrap();
        let (words, masks) = strip(&view, &all_but(n, &[1]), 1);
        assert_eq!(masks, 0);
        assert!(words == vectors[1], "the attack itself works");
    }
}

#[test]
fn a_vector_whose_owner_vanished_after_upload_stays_closed() {
    let n = 9;
    let (config, vectors) = (config_of(n, MANY, 0), vectors(n));
    let mut last = vec![Last::Everything; n];
    last[0] = Last::Upload;
    let view = run(&config, &vectors, &last, true).unwrap();
    let colluders = all_but(n, &[0, 1]);
    assert!(colluders.len() >= config.threshold());
    let (words, masks) = strip(&view, &colluders, 0);
    assert_eq!(masks, 1, "pairwise masks are given up, the self mask stays");
    assert!(deviation(&words) < UNIFORM);

    let opening = view.sites[0].secrets.opening.clone();
    let (words, masks) = strip_knowing(&view, &colluders, 0, Some(opening));
    assert_eq!(masks, 0);
    assert!(words == vectors[0], "with the opening the attack works");
}

/// Site 0 vanishes before any consent, site 1 between two lists.
fn vanishing_one_after_the_other(n: usize) -> (Transcript, Vec<Vec<u32>>) {
    let (config, vectors) = (config_of(n, MANY, 0), vectors(n));
    let mut last = vec![Last::Everything; n];
    last[0] = Last::Upload;
    last[1] = Last::FirstConsent;
    (run(&config, &vectors, &last, true).unwrap(), vectors)
}

#[test]
fn a_consent_to_a_list_that_an_honest_site_let_fall_opens_nothing() {
    let n = 9;
    let (view, _) = vanishing_one_after_the_other(n);
    let colluders = all_but(n, &[0, 1, 2]);
    assert!(colluders.len() >= view.config.threshold());
    for target in [0, 1] {
        let (words, masks) = strip(&view, &colluders, target);
        assert!(masks > 0);
        assert!(deviation(&words) < UNIFORM);
    }
}

/// The limit that the documentation states: those who could have finished the first list, and know the
/// second sum, know who is only in the first.
#[test]
fn a_consent_to_a_list_that_a_colluder_let_fall_opens_its_giver() {
    let n = 9;
    let (view, vectors) = vanishing_one_after_the_other(n);
    let (words, masks) = strip(&view, &all_but(n, &[1, 2]), 1);
    assert_eq!(masks, 0);
    assert!(words == vectors[1]);
}

#[test]
fn the_coordinator_alone_sees_uniform_bytes() {
    let n = 5;
    let (config, vectors) = (config_of(n, MANY, 0), vectors(n));
    assert!(deviation(&vectors[0]) > 100.0, "the plain vectors are not");
    let everyone = vec![Last::Everything; n];
    let view = run(&config, &vectors, &everyone, true).unwrap();
    for input in &view.inputs {
        assert!(deviation(&input.words) < UNIFORM, "{}", input.site);
        // After unmasking it knows the self masks, too.
        let (words, masks) = strip(&view, &[], input.site.get());
        assert_eq!(masks, n - 1);
        assert!(deviation(&words) < UNIFORM, "{}", input.site);
    }
    assert!(deviation(view.sum.words()) < UNIFORM);
    let open = run(&config, &vectors, &everyone, false).unwrap();
    assert!(deviation(open.sum.words()) > 100.0, "the sum shows without blind mode");
}

#[test]
fn short_words_are_as_uniform_and_their_last_byte_never_travels() {
    let n = 5;
    let shape = Words { short: MANY, long: 3 };
    let vectors: Vec<Vec<u32>> = (0..n).map(|i| update(i, shape.count())).collect();
    let config = config_of(n, shape, 0);
    let everyone = vec![Last::Everything; n];
    let view = run(&config, &vectors, &everyone, true).unwrap();
    assert!(deviation_of(&vectors[0][..MANY], 3) > 100.0, "the plain vectors are not");
    for input in &view.inputs {
        assert_eq!(input.encode().len(), 20 + 3 * MANY + 4 * 3);
        assert!(input.words()[..MANY].iter().all(|word| *word < 1 << 24));
        assert!(deviation_of(&input.words()[..MANY], 3) < UNIFORM, "{}", input.site);
    }
    assert!(deviation_of(&view.sum.words()[..MANY], 3) < UNIFORM);
    let open = run(&config, &vectors, &everyone, false).unwrap();
    assert!(deviation_of(&open.sum.words()[..MANY], 3) > 100.0, "the sum shows without blind mode");
}

/// How far the difference of two uploads of one site is from uniform.
fn difference(a: &Transcript, b: &Transcript, i: usize) -> Vec<u32> {
    let words = a.inputs[i].words.iter().zip(&b.inputs[i].words);
    words.map(|(a, b)| b.wrapping_sub(*a)).collect()
}

#[test]
fn a_repeated_attempt_does_not_repeat_a_pad() {
    let n = 3;
    let everyone = [Last::Everything; 3];
    let (before, after) = (vectors(n), vec![vec![0; MANY]; n]);
    let plain: Vec<u32> = before[0].iter().map(|w| w.wrapping_neg()).collect();
    let first = run(&config_of(n, MANY, 0), &before, &everyone, true).unwrap();
    // The same seeds on purpose: the attempt's number alone must make the difference.
    let retry = run(&config_of(n, MANY, 1), &after, &everyone, true).unwrap();
    for i in 0..n {
        assert!(deviation(&difference(&first, &retry, i)) < UNIFORM);
    }
    let blind: Vec<u32> =
        first.sum.words.iter().zip(&retry.sum.words).map(|(a, b)| a.wrapping_sub(*b)).collect();
    assert!(deviation(&blind) < UNIFORM, "nor a blind pad");

    let same = run(&config_of(n, MANY, 0), &after, &everyone, true).unwrap();
    assert!(difference(&first, &same, 0) == plain, "seed and attempt both repeated: the attack works");
}

#[test]
fn other_keys_of_one_site_change_every_blind_pad() {
    let config = config_of(3, MANY, 0);
    let key = group_key();
    let [a, b] = [[1; 32], [2; 32]].map(|adverts| blind_seed(&key, &config, &adverts, site(0)));
    assert_ne!(a, b);
}
