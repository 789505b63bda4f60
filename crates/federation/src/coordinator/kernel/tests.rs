//! The gallery as it changes while the kernel serves, and sites that would change what is not theirs.
#![allow(clippy::unwrap_used)]
use domain::Pooling;

use super::*;
use crate::coordinator::CoordinatorSetup;
use crate::envelope::{Party, Signer};
use crate::identity::{ConsortiumKey, CoordinatorKey, SiteKey};
use crate::plan::{Aggregation, Basis, FormPlan, Plan, Ridge, Rows, Tuning, Weighting};
use crate::refusal::RefusalKind;
use crate::roster::{Roster, SiteName};

const WIDTH: usize = 4;

fn entry(number: u8, token: u8, galleries: u32) -> Entry {
    Entry { site: SiteIndex(0), pseudonym: [number; 16], token: [token; 16], galleries, number: 1 }
}

fn kernel(normalisation: Normalisation) -> KernelPlan {
    KernelPlan {
        dim: WIDTH,
        width: WIDTH,
        views: 1,
        splits: 1,
        top: 30,
        pooling: Pooling::Nearest,
        normalisation,
        distance_step: 0.001,
        answers_per_site: 40,
        weighed: None,
    }
}

#[test]
fn normalisers_are_of_the_gallery_as_it_stands() {
    let mut gallery = Gallery::default();
    // Two images of token 1 and one of token 2 in the frequent gallery, one of token 3 in the rare one.
    let images = [
        (entry(1, 1, 1), [1.0, 0.0, 0.0, 0.0]),
        (entry(2, 1, 1), [0.8, 0.6, 0.0, 0.0]),
        (entry(3, 2, 1), [0.0, 1.0, 0.0, 0.0]),
        (entry(4, 3, 2), [0.6, 0.0, 0.8, 0.0]),
    ];
    let z = kernel(Normalisation::Z(1.0));
    let taken = |(entry, vector): (Entry, [f32; WIDTH])| (entry, vector.to_vec());
    gallery.put(images.into_iter().map(taken).collect(), &z);
    let probe = |galleries| wire::KernelProbe { id: Vec::new(), galleries, vector: Vec::new().into() };
    gallery.normalise(&kernel(Normalisation::None), &[probe(vec![1])]);
    assert!(gallery.normalisers.is_empty());

    gallery.normalise(&z, &[probe(vec![1, 3])]);
    assert_eq!(gallery.normalisers.keys().copied().collect::<Vec<_>>(), [1, 3]);
    let (columns, labels) = gallery.columns(1);
    let label = |pseudonym: u8| {
        let at = columns.iter().position(|&place| gallery.entries[place].pseudonym == [pseudonym; 16]);
        labels[at.unwrap()]
    };
    // Among the frequent, token 2 has to token 1 the similarity 0.6 and no spread; token 1 to token 2 0 and 0.6.
    let normaliser = &gallery.normalisers[&1];
    assert!((normaliser.apply(0.9, label(3)) - (0.9 - 0.3) / 0.3).abs() < 1e-5);
    assert!(normaliser.apply(0.9, label(1)) > 1e4);

    gallery.put(vec![(entry(5, 4, 1), vec![0.0, 0.0, 0.0, 1.0])], &z);
    assert!(gallery.normalisers.is_empty(), "a new image makes them anew");
    gallery.normalise(&z, &[probe(vec![3])]);
    gallery.remove(&[[5; 16]], &z);
    assert!(gallery.normalisers.is_empty(), "and one that is withdrawn");
}

#[test]
fn normalisers_do_not_depend_on_how_the_gallery_came_to_be_what_it_is() {
    const WIDE: usize = 96;
    let pooling = Pooling::Soft(8.0);
    let kernel = KernelPlan { dim: WIDE, width: WIDE, pooling, ..kernel(Normalisation::Z(0.5)) };
    let mut state = 7u64;
    let mut draw = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut gallery = Gallery::default();
    // Images that come in parts of any size, are replaced, relabelled and withdrawn, some of them twice in a message.
    for round in 0..60 {
        if round % 5 == 4 {
            let gone: Vec<[u8; 16]> = (0..draw(6)).map(|_| [draw(120) as u8; 16]).collect();
            gallery.remove(&gone, &kernel);
            continue;
        }
        let mut image = || {
            let new = entry(draw(120) as u8, draw(9) as u8, [1, 2, 4, 6][draw(4) as usize]);
            (new, (0..WIDE).map(|_| draw(2001) as f32 / 1000.0 - 1.0).collect::<Vec<f32>>())
        };
        let images = (0..1 + round % 7).map(|_| image()).collect();
        gallery.put(images, &kernel);
    }
    let mut order: Vec<usize> = (0..gallery.entries.len()).collect();
    order.sort_by_key(|&place| std::cmp::Reverse(gallery.entries[place].pseudonym));
    let images = order.iter().map(|&place| {
        (gallery.entries[place].clone(), gallery.vectors[place * WIDE..(place + 1) * WIDE].to_vec())
    });
    let mut at_once = Gallery::default();
    at_once.put(images.collect(), &kernel);
    let galleries = vec![1, 2, 3, 5, 6, u32::MAX];
    let probe = wire::KernelProbe { id: Vec::new(), galleries, vector: Vec::new().into() };
    gallery.normalise(&kernel, std::slice::from_ref(&probe));
    at_once.normalise(&kernel, std::slice::from_ref(&probe));
    assert!(gallery.entries.len() > 50 && gallery.normalisers.len() == 6);
    assert_eq!(gallery.normalisers, at_once.normalisers, "to the last bit");
}

fn key(site: u16) -> SiteKey {
    SiteKey::from_seed(&[site as u8 + 1; 32])
}

/// A coordinator of three sites that serves an empty gallery.
fn serving() -> Coordinator {
    let coordinator = CoordinatorKey::from_seed(&[90; 32]);
    let sites = (0..3).map(|at| (SiteName::new(&format!("hospital{at}")).unwrap(), key(at).public()));
    let roster = Roster::new("toy", 1, coordinator.public(), sites.collect()).unwrap();
    let consortium = ConsortiumKey::from_seed(&[91; 32]);
    let form = FormPlan {
        name: "form".into(),
        on: None,
        trunk: [3; 32],
        basis: Basis::Representation,
        dim: WIDTH,
        outputs: WIDTH,
        ridge: Ridge::Fixed(0.1),
        weighting: Weighting::Power { power: 0.25, floor: 0.0 },
        refinement: None,
    };
    let plan = Plan {
        session: [7; 16],
        seed: 1,
        roster: roster.digest(),
        members: Vec::new(),
        forms: vec![form],
        starts: Vec::new(),
        epochs: 0,
        interval: 1,
        aggregation: Aggregation::SampleWeighted,
        tuning: Tuning::default(),
        rows: Rows::All,
        blind: true,
        min_cohort: 0,
        kernel: Some(kernel(Normalisation::None)),
    };
    let setup = CoordinatorSetup {
        consortium: consortium.public(),
        roster: roster.sign(&consortium),
        key: coordinator.clone(),
    };
    let mut made = Coordinator::new(setup).unwrap();
    let signed = plan.signed(&coordinator);
    made.plan = Some((plan, signed));
    made.members = (0..3).map(SiteIndex).collect();
    for &site in &made.members {
        made.gallery.totals.insert(site, 0);
    }
    made.syndromes = (2, 2, [0; 32]);
    made.phase = Phase::Serving;
    made
}

/// A message in the name of a site, under anybody's key.
fn signed_by(signer: u16, site: u16, kind: Kind, number: u32, payload: Bytes) -> Bytes {
    let envelope = Envelope {
        session: [7; 16],
        kind,
        round: 1,
        attempt: number,
        sender: Party::Site(SiteIndex(site)),
        recipient: Some(Party::Coordinator),
        payload,
    };
    envelope.seal(&Signer::Site(&key(signer)))
}

fn upload(site: u16, number: u32, images: &[(u8, f32)]) -> Bytes {
    let entry = |&(pseudonym, value): &(u8, f32)| wire::KernelEntry {
        pseudonym: vec![pseudonym; 16],
        token: vec![9; 16],
        galleries: 1,
        vector: wire::floats_to_bytes(&[value; WIDTH]),
    };
    let total = images.len() as u32;
    let payload = wire::encode(&wire::KernelUpload { entries: images.iter().map(entry).collect(), total });
    signed_by(site, site, Kind::KernelUpload, number, payload)
}

fn withdrawal(site: u16, number: u32, pseudonym: u8) -> Bytes {
    let payload = wire::encode(&wire::Withdraw { pseudonyms: vec![vec![pseudonym; 16]] });
    signed_by(site, site, Kind::Withdraw, number, payload)
}

/// What is refused, and that it changed nothing.
fn refused(coordinator: &mut Coordinator, message: Bytes) -> RefusalKind {
    let before = coordinator.snapshot();
    let kind = coordinator.handle(message).unwrap_err().kind();
    assert!(coordinator.snapshot() == before, "a refused message changed the state");
    kind
}

#[test]
fn an_update_counts_once_and_only_from_its_site() {
    let mut coordinator = serving();
    let first = upload(0, 5, &[(1, 0.5), (2, 0.25)]);
    coordinator.handle(first.clone()).unwrap();
    coordinator.handle(upload(0, 6, &[(1, 0.125)])).unwrap();
    assert_eq!(coordinator.gallery.vectors, [[0.125; WIDTH], [0.25; WIDTH]].concat());
    // The same again, the network's favourite: it would bring the old image back.
    assert_eq!(refused(&mut coordinator, first), RefusalKind::Replayed);
    // A site that signs in another's name.
    let payload = wire::encode(&wire::KernelUpload { entries: Vec::new(), total: 0 });
    let forged = signed_by(1, 0, Kind::KernelUpload, 7, payload);
    assert_eq!(refused(&mut coordinator, forged), RefusalKind::BadSignature);
    // Pseudonyms are in rankings, so other sites know them.
    assert_eq!(refused(&mut coordinator, upload(1, 1, &[(1, 0.5)])), RefusalKind::Malformed);
    assert_eq!(refused(&mut coordinator, withdrawal(1, 1, 1)), RefusalKind::UnknownSender);
    coordinator.handle(withdrawal(0, 8, 1)).unwrap();
    assert_eq!(coordinator.gallery_len(), 1);
    // A name that was given up stays its owner's.
    assert_eq!(refused(&mut coordinator, upload(1, 1, &[(1, 0.5)])), RefusalKind::Malformed);
    assert_eq!(refused(&mut coordinator, withdrawal(1, u32::MAX, 1)), RefusalKind::UnknownSender);
    coordinator.handle(upload(0, 9, &[(1, 0.75)])).unwrap();
    assert_eq!(coordinator.gallery_len(), 2);
}

#[test]
fn what_was_overtaken_by_a_withdrawal_brings_nothing_back() {
    let mut coordinator = serving();
    coordinator.handle(withdrawal(0, 3, 1)).unwrap();
    coordinator.handle(upload(0, 2, &[(1, 0.5), (2, 0.5)])).unwrap();
    let left: Vec<u8> = coordinator.gallery.entries.iter().map(|entry| entry.pseudonym[0]).collect();
    assert_eq!(left, [2]);
    // Nor is a newer image replaced by an older one, also after a restart.
    coordinator.handle(upload(0, 7, &[(2, 0.25)])).unwrap();
    let setup = CoordinatorSetup {
        key: coordinator.key.clone(),
        consortium: coordinator.consortium,
        roster: coordinator.signed_roster.clone(),
    };
    let (mut coordinator, _) = Coordinator::restore(setup, &coordinator.snapshot()).unwrap();
    coordinator.handle(upload(0, 6, &[(1, 0.5), (2, 0.5)])).unwrap();
    assert_eq!(
        coordinator.gallery.vectors,
        [0.25; WIDTH].into_iter().chain([0.5; WIDTH]).collect::<Vec<_>>()
    );
    coordinator.handle(withdrawal(0, 4, 2)).unwrap();
    assert_eq!(coordinator.gallery_len(), 2);
}
