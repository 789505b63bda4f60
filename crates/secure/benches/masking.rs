//! Masking of one site's update, and the coordinator's unmasking of the sum.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use secure::ed25519_dalek::SigningKey;
use secure::sum::{Aggregator, Consented, Session, Site, SumConfig};
use secure::{GroupKey, SiteIndex};

/// One sum over `sites` vectors of `words` words: time of the first site's masking, and of unmasking.
fn sum(sites: u16, words: usize, attempt: u32) -> (Duration, Duration) {
    let keys: Vec<SigningKey> = (0..sites).map(|i| SigningKey::from_bytes(&[i as u8 + 1; 32])).collect();
    let session = Session { id: [0; 16], purpose: "bench".into(), round: 0, attempt };
    let roster = keys.iter().map(SigningKey::verifying_key).collect();
    let config = SumConfig::new(session, roster, words).expect("the facts are valid");
    let group_key = GroupKey::from_bytes([9; 32]);
    let mut aggregator = Aggregator::new(config.clone());
    let mut parties = Vec::new();
    for (i, key) in (0..sites).zip(&keys) {
        let seed = [i as u8; 32];
        let (site, advert) =
            Site::start(config.clone(), SiteIndex(i), key, Some(&group_key), seed).expect("a site starts");
        aggregator.accept_advert(advert).expect("an advert");
        parties.push(site);
    }
    let adverts = aggregator.close_adverts().expect("everyone advertised");
    for site in &mut parties {
        let shares = site.receive_adverts(&adverts).expect("good adverts");
        aggregator.accept_shares(shares).expect("good shares");
    }
    for (to, inbox) in aggregator.close_shares().expect("everyone shared") {
        parties[to.get()].receive_inbox(&inbox).expect("a good inbox");
    }
    let mut masking = Duration::ZERO;
    for site in &mut parties {
        let update = vec![1; words];
        let start = Instant::now();
        let input = site.upload(update).expect("an upload");
        if site.index() == SiteIndex(0) {
            masking = start.elapsed();
        }
        aggregator.accept_input(input).expect("a good input");
    }
    let survivors = aggregator.close_inputs().expect("everyone uploaded");
    for site in &mut parties {
        let consent = site.receive_survivors(&survivors).expect("a good list");
        aggregator.accept_consent(consent).expect("a good consent");
    }
    let Ok(Consented::Agreed(consents)) = aggregator.close_consents() else {
        panic!("everyone consents");
    };
    for site in &mut parties {
        let unmasking = site.receive_consents(&consents).expect("good consents");
        aggregator.accept_unmasking(unmasking).expect("good shares");
    }
    let start = Instant::now();
    aggregator.finish().expect("a sum");
    (masking, start.elapsed())
}

fn masking(c: &mut Criterion) {
    let mut group = c.benchmark_group("masking");
    group.sample_size(10).warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_millis(1));
    for (sites, words) in [(4, 100_000), (16, 1_000_000), (16, 13_000_000)] {
        group.throughput(Throughput::Bytes(words as u64 * 4));
        let id = format!("{sites} sites x {words}");
        let times = |unmask: bool| {
            move |b: &mut criterion::Bencher, _: &()| {
                b.iter_custom(|rounds| {
                    (0..rounds)
                        .map(|round| {
                            let (mask, open) = sum(sites, words, round as u32);
                            if unmask { open } else { mask }
                        })
                        .sum()
                });
            }
        };
        group.bench_with_input(BenchmarkId::new("site", &id), &(), times(false));
        group.bench_with_input(BenchmarkId::new("coordinator", &id), &(), times(true));
    }
    group.finish();
}

criterion_group!(benches, masking);
criterion_main!(benches);
