//! Masking of one site's update, and the coordinator's unmasking of the sum.

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use secure::ed25519_dalek::SigningKey;
use secure::sum::{Aggregator, Consented, Session, Site, SumConfig};
use secure::{GroupKey, SiteIndex};

/// The coordinator and all sites of one sum, ready to upload.
fn ready(sites: u16, words: usize) -> (Aggregator, Vec<Site>) {
    let keys: Vec<SigningKey> = (1..=sites).map(|i| SigningKey::from_bytes(&[i as u8; 32])).collect();
    let session = Session { id: [0; 16], purpose: "bench".into(), round: 0, attempt: 0 };
    let roster = keys.iter().map(SigningKey::verifying_key).collect();
    let config = SumConfig::new(session, roster, words).expect("the facts are valid");
    let group_key = GroupKey::from_bytes([9; 32]);
    let mut aggregator = Aggregator::new(config.clone());
    let mut parties = Vec::new();
    for (i, key) in (0..sites).zip(&keys) {
        let start = Site::start(config.clone(), SiteIndex(i), key, Some(&group_key), [i as u8; 32]);
        let (site, advert) = start.expect("a site starts");
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
    (aggregator, parties)
}

/// The coordinator, ready to finish.
fn summed(sites: u16, words: usize) -> Aggregator {
    let (mut aggregator, mut parties) = ready(sites, words);
    for site in &mut parties {
        let input = site.upload(vec![1; words]).expect("an upload");
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
    aggregator
}

fn masking(c: &mut Criterion) {
    let mut group = c.benchmark_group("masking");
    group.sample_size(10).warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(3));
    for (sites, words) in [(4, 100_000), (16, 1_000_000), (16, 13_000_000)] {
        group.throughput(Throughput::Bytes(words as u64 * 4));
        let name = format!("{sites} sites x {words} words");
        group.bench_function(BenchmarkId::new("site", &name), |b| {
            b.iter_batched(
                || (ready(sites, words).1.swap_remove(0), vec![1; words]),
                |(mut site, update)| site.upload(update),
                BatchSize::PerIteration,
            );
        });
        if words > 1_000_000 {
            continue;
        }
        group.bench_function(BenchmarkId::new("coordinator", &name), |b| {
            b.iter_batched(
                || summed(sites, words),
                |mut aggregator| aggregator.finish(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, masking);
criterion_main!(benches);
