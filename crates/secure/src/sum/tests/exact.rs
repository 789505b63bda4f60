//! The sum is exact whoever vanishes when, down to the threshold, and refused below it.

use chacha20::ChaCha20Rng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

use crate::ErrorKind;

use super::*;

const WORDS: usize = 5;

fn vectors(n: usize) -> Vec<Vec<u32>> {
    // Extreme values make the wrapping visible.
    let mut vectors: Vec<_> = (0..n).map(|i| update(i, WORDS)).collect();
    for vector in &mut vectors {
        vector[0] = u32::MAX;
        vector[1] = 1 << 31;
    }
    vectors
}

fn check(last: &[Last], blind: bool) {
    let n = last.len();
    // Short words first: those with the extreme values, and another one.
    let shape = Words { short: 3, long: WORDS - 3 };
    let (config, vectors) = (config_of(n, shape, 0), vectors(n));
    let transcript = run(&config, &vectors, last, blind).unwrap();
    let counted = counted(last);
    let key = group_key();
    let opened = transcript.sum.open(&config, blind.then_some(&key)).unwrap();
    assert_eq!(opened.sites, counted, "{last:?}");
    let mut plain = plain_sum(&vectors, &counted);
    shape.clear(&mut plain);
    assert_eq!(opened.sum, plain, "{last:?}");
    // Who is still there opens the same; who was away catches up by the same message.
    for (party, last) in transcript.sites.iter().zip(last).take(8) {
        if *last != Last::Nothing {
            assert_eq!(party.open(&transcript.sum).unwrap(), opened);
        }
    }
}

/// All ways in which at most `spare` of `n` sites vanish.
fn patterns(n: usize, spare: usize) -> Vec<Vec<Last>> {
    let mut all = vec![vec![]];
    for _ in 0..n {
        all = all
            .into_iter()
            .flat_map(|pattern: Vec<Last>| {
                let gone = pattern.iter().filter(|&&l| l != Last::Everything).count();
                let choices = match gone < spare {
                    true => &Last::BEFORE_THE_END[..],
                    false => &[],
                };
                let choices: Vec<Last> =
                    [Last::Everything].into_iter().chain(choices.iter().copied()).collect();
                choices.into_iter().map(move |choice| {
                    let mut longer = pattern.clone();
                    longer.push(choice);
                    longer
                })
            })
            .collect();
    }
    all
}

#[test]
fn every_pattern_of_few_sites() {
    for (n, spare, count) in [(3, 0, 1), (4, 1, 25), (5, 1, 31), (6, 2, 577)] {
        assert_eq!(n - config_of(n, 1, 0).threshold(), spare);
        let patterns = patterns(n, spare);
        assert_eq!(patterns.len(), count);
        patterns.par_iter().enumerate().for_each(|(i, pattern)| check(pattern, i % 2 == 0));
    }
}

/// A pattern in which exactly `gone` sites vanish, each at any time.
fn draw(n: usize, gone: usize, rng: &mut ChaCha20Rng) -> Vec<Last> {
    let mut last = vec![Last::Everything; n];
    let mut left = gone;
    while left > 0 {
        let i = rng.random_range(0..n);
        if last[i] == Last::Everything {
            last[i] = Last::BEFORE_THE_END[rng.random_range(0..6)];
            left -= 1;
        }
    }
    last
}

#[test]
fn sampled_patterns_of_many_sites() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut cases = Vec::new();
    for n in (7..=16).chain([25, 40]) {
        let spare = n - config_of(n, 1, 0).threshold();
        for gone in [0, spare / 2, spare] {
            cases.push(draw(n, gone, &mut rng));
        }
    }
    let spare = 100 - config_of(100, 1, 0).threshold();
    cases.push(draw(100, spare, &mut rng));
    cases.par_iter().for_each(|last| check(last, true));
}

#[test]
fn below_the_threshold_the_sum_is_refused_and_the_missing_are_named() {
    for n in [3, 4, 6, 10] {
        let config = config_of(n, WORDS, 0);
        let gone = n - config.threshold() + 1;
        for when in Last::BEFORE_THE_END {
            let mut last = vec![Last::Everything; n];
            last[..gone].fill(when);
            let Err(error) = run(&config, &vectors(n), &last, true) else {
                panic!("{n} sites less {gone} must be refused");
            };
            assert_eq!(error.kind(), ErrorKind::BelowThreshold);
            let missing: Vec<String> = (0..gone).map(|i| i.to_string()).collect();
            let named = format!("missing: sites {};", missing.join(", "));
            assert!(error.to_string().contains(&named), "{error}");
        }
    }
}

#[test]
fn the_coordinator_may_wait_on_after_it_was_below_the_threshold() {
    let config = config_of(3, WORDS, 0);
    let mut coordinator = Aggregator::new(config.clone());
    for i in 0..2 {
        coordinator.accept_advert(start(&config, i, true).1).unwrap();
    }
    assert!(coordinator.close_adverts().is_err());
    assert_eq!(coordinator.awaited(), [site(2)]);
    coordinator.accept_advert(start(&config, 2, true).1).unwrap();
    assert_eq!(coordinator.close_adverts().unwrap().len(), 3);
}

#[test]
fn thresholds() {
    let thresholds: Vec<usize> = (3..=12).map(|n| config_of(n, 1, 0).threshold()).collect();
    assert_eq!(thresholds, [3, 3, 4, 4, 5, 6, 6, 7, 8, 8]);
}

#[test]
fn fewer_than_three_sites_are_refused() {
    for n in 0..3 {
        let keys = (0..n).map(|i| signing_key(i).verifying_key()).collect();
        let session = config_of(3, 1, 0).session().clone();
        let error = SumConfig::new(session, keys, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooFewSites);
        assert!(error.to_string().contains("wait for more sites"));
    }
}
