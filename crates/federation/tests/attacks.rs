//! Messages and parties that do not play by the rules: refused by name, without a change of state.

#![allow(clippy::unwrap_used)]

#[path = "harness/world.rs"]
mod world;

use federation::*;
use world::*;

/// Runs a world until a message of this kind is next in the queue.
fn until(world: &mut World, kind: Kind) -> Outgoing {
    for _ in 0..10_000 {
        if let Some(at) = world.queue.iter().position(|m| m.kind == kind) {
            return world.queue.remove(at);
        }
        world.deliver();
    }
    panic!("no {kind:?} is ever sent");
}

fn refused(world: &mut World, message: &Outgoing, bytes: Bytes) -> Refusal {
    let before: Vec<u8> = match message.to {
        Party::Coordinator => world.coordinator.as_ref().unwrap().snapshot(),
        Party::Site(site) => world.sites[usize::from(site.0)].participant.as_ref().unwrap().snapshot(),
    };
    let result = match message.to {
        Party::Coordinator => world.coordinator.as_mut().unwrap().handle(bytes),
        Party::Site(site) => world.sites[usize::from(site.0)].participant.as_mut().unwrap().handle(bytes),
    };
    let refusal = result.unwrap_err();
    let after: Vec<u8> = match message.to {
        Party::Coordinator => world.coordinator.as_ref().unwrap().snapshot(),
        Party::Site(site) => world.sites[usize::from(site.0)].participant.as_ref().unwrap().snapshot(),
    };
    assert_eq!(before, after, "a refused message changed the state: {refusal}");
    refusal
}

#[test]
fn every_message_is_refused_the_second_time_or_changes_nothing() {
    let mut world = World::new(3, 1, |plan| plan.kernel = Some(toy_kernel()));
    world.run();
    assert!(world.released.is_some());
    let mut replays = 0;
    for message in world.sent.clone() {
        let state = |w: &World| -> Vec<Vec<u8>> {
            let mut all: Vec<Vec<u8>> =
                w.sites.iter().map(|s| s.participant.as_ref().unwrap().snapshot()).collect();
            all.push(w.coordinator.as_ref().unwrap().snapshot());
            all
        };
        let before = state(&world);
        world.queue.clear();
        world.deliver_to(message.to, message.bytes);
        assert!(state(&world) == before, "{:?} of stage {} took effect twice", message.kind, message.round);
        replays += 1;
    }
    assert!(replays > 100);
    let kinds: Vec<RefusalKind> = world.refusals.iter().map(Refusal::kind).collect();
    assert!(kinds.iter().filter(|k| **k == RefusalKind::Replayed).count() > 50);
}

#[test]
fn a_message_of_an_earlier_round_is_refused_as_replayed() {
    let mut world = World::new(3, 1, |_| {});
    world.start();
    while world.sites.iter().any(|s| s.applied.len() < 2) {
        world.deliver();
    }
    for kind in [Kind::Input, Kind::Advert, Kind::SumOpen, Kind::SumResult, Kind::Survivors] {
        let old = world.sent.iter().find(|m| m.kind == kind && m.round == 1).unwrap().clone();
        let refusal = refused(&mut world, &old, old.bytes.clone());
        assert_eq!(refusal.kind(), RefusalKind::Replayed, "{refusal}");
        assert!(refusal.to_string().starts_with(&format!("{kind:?} of stage 1")), "{refusal}");
    }
}

#[test]
fn a_stranger_is_refused() {
    let mut world = World::new(3, 1, |_| {});
    world.start();
    let answer = until(&mut world, Kind::PlanAnswer);
    // A consortium of the same shape with another site in place 0.
    let stranger = site_key(90);
    let sites = (0..3).map(|i| {
        let key = if i == 0 { stranger.public() } else { site_key(i).public() };
        (SiteName::new(&format!("hospital{i}")).unwrap(), key)
    });
    let other = Roster::new("toy", 1, coordinator_key().public(), sites.collect()).unwrap();
    let Err(refusal) = Envelope::open(answer.bytes.clone(), &other, |_| 1 << 20) else { panic!("opened") };
    assert_eq!(refusal.kind(), RefusalKind::BadSignature);
    assert!(refusal.to_string().contains("not signed by hospital0"), "{refusal}");
    // A site beyond the roster.
    let mut setup = SiteSetup {
        key: stranger,
        consortium: consortium().public(),
        roster: other.sign(&consortium()),
        policy: Policy::default(),
        holdings: holdings(0),
        group: None,
        seed: [1; 32],
    };
    setup.roster = world.roster.clone();
    let Err(refusal) = Participant::new(setup) else { panic!("a stranger was taken in") };
    assert_eq!(refusal.kind(), RefusalKind::RosterRefused);
}

#[test]
fn every_flipped_byte_of_every_kind_is_refused() {
    let mut world = World::new(3, 1, |plan| plan.kernel = Some(toy_kernel()));
    world.run();
    let roster = world.roster.verify(&consortium().public()).unwrap();
    let mut kinds = std::collections::BTreeMap::new();
    for message in &world.sent {
        kinds.entry(message.kind).or_insert_with(|| message.bytes.clone());
    }
    assert!(kinds.len() >= 26, "{:?}", kinds.keys());
    for (kind, bytes) in kinds {
        assert!(Envelope::open(bytes.clone(), &roster, |_| 1 << 24).is_ok());
        let step = (bytes.len() / 40).max(1);
        for place in (0..bytes.len()).step_by(step) {
            let mut spoiled = bytes.to_vec();
            spoiled[place] ^= 0x10;
            let opened = Envelope::open(spoiled.into(), &roster, |_| 1 << 24);
            assert!(opened.is_err(), "{kind:?} with byte {place} spoiled");
        }
        let cut = bytes.slice(..bytes.len() - 1);
        assert!(Envelope::open(cut, &roster, |_| 1 << 24).is_err());
        let oversized = Envelope::open(bytes.clone(), &roster, |_| 0).map(|_| ());
        if bytes.len() > 200 {
            assert_eq!(oversized.unwrap_err().kind(), RefusalKind::Oversized, "{kind:?}");
        }
    }
}

#[test]
fn wrong_session_recipient_and_phase_are_told_apart() {
    let mut world = World::new(3, 1, |_| {});
    let mut other = World::new(3, 1, |plan| plan.session = [78; 16]);
    world.start();
    other.start();
    let own = until(&mut world, Kind::Advert);
    let foreign = until(&mut other, Kind::Advert);
    assert_eq!(refused(&mut world, &own, foreign.bytes).kind(), RefusalKind::WrongSession);
    world.queue.insert(0, own);

    let inbox = until(&mut world, Kind::Inbox);
    let Party::Site(to) = inbox.to else { panic!() };
    let wrong = Outgoing { to: Party::Site(SiteIndex((to.0 + 1) % 3)), ..inbox.clone() };
    assert_eq!(refused(&mut world, &wrong, inbox.bytes.clone()).kind(), RefusalKind::WrongRecipient);
    world.queue.insert(0, inbox);

    // A site's consent before its vector: the phase is wrong, the state stays.
    let mut ahead = World::new(3, 1, |_| {});
    ahead.start();
    let consent = until(&mut ahead, Kind::Consent);
    let mut late = World::new(3, 1, |_| {});
    late.start();
    let _ = until(&mut late, Kind::Advert);
    let refusal = refused(&mut late, &consent, consent.bytes.clone());
    assert_eq!(refusal.kind(), RefusalKind::SecureSum, "{refusal}");
}

#[test]
fn a_site_does_not_take_a_plan_its_policy_forbids() {
    type Change = fn(&mut Plan, &mut Policy);
    let changes: [(&str, Change); 9] = [
        ("require_blind", |plan, policy| (plan.blind, policy.require_blind) = (false, true)),
        ("minimum_images", |_, policy| policy.minimum_images = 1000),
        ("at least 500 training images", |plan, _| plan.min_cohort = 500),
        ("aggregations", |_, policy| policy.aggregations = vec![Aggregation::EncoderOnly]),
        ("rows_shared_by", |_, policy| policy.rows_shared_by = 3),
        // The classifier stays at the site, but what it starts from shows each syndrome's sums.
        ("rows_shared_by", |plan, policy| {
            plan.aggregation = Aggregation::EncoderOnly;
            policy.rows_shared_by = 3;
            policy.check(plan, 50).unwrap();
            plan.starts = vec![FormPlan { name: "r50".into(), on: None, ..toy_form() }];
        }),
        ("trunks", |_, policy| policy.trunks = vec!["00".repeat(32)]),
        ("maximum_answers", |plan, policy| {
            plan.kernel = Some(toy_kernel());
            policy.maximum_answers = 5;
        }),
        ("minimum_distance_step", |plan, policy| {
            plan.kernel = Some(toy_kernel());
            policy.minimum_distance_step = 0.1;
        }),
    ];
    for (rule, change) in changes {
        let mut plan = toy_plan(&roster(3));
        let mut policy = Policy::default();
        policy.check(&plan, 50).unwrap();
        change(&mut plan, &mut policy);
        let refusal = policy.check(&plan, 50).unwrap_err();
        assert_eq!(refusal.kind(), RefusalKind::PlanRefused);
        assert!(refusal.to_string().contains(rule), "{rule}: {refusal}");
    }
}

#[test]
fn two_sites_are_too_few() {
    let roster = roster(2);
    let setup = CoordinatorSetup {
        key: coordinator_key(),
        consortium: consortium().public(),
        roster: roster.sign(&consortium()),
    };
    let refusal = Coordinator::new(setup).unwrap().start(toy_plan(&roster)).unwrap_err();
    assert_eq!(refusal.kind(), RefusalKind::TooFewSites);
}

#[test]
fn a_site_that_left_the_roster_is_unknown_and_the_key_is_given_up() {
    let mut world = World::new(4, 1, |_| {});
    world.run();
    let old = world.roster.verify(&consortium().public()).unwrap();
    let newer = old.retire(&SiteName::new("hospital3").unwrap()).unwrap().sign(&consortium());
    let participant = world.sites[0].participant.as_mut().unwrap();
    assert_eq!(participant.group().unwrap().epoch(), 1);
    participant.adopt_roster(&newer).unwrap();
    assert!(participant.group().is_none());
    assert!(world.sites[3].participant.as_mut().unwrap().adopt_roster(&newer).is_err());
    let forged =
        old.retire(&SiteName::new("hospital3").unwrap()).unwrap().sign(&ConsortiumKey::from_seed(&[1; 32]));
    let refusal = world.sites[1].participant.as_mut().unwrap().adopt_roster(&forged).unwrap_err();
    assert_eq!(refusal.kind(), RefusalKind::RosterRefused);
}

/// A site that signs otherwise than the sums say whether the rounds are over gets nobody to stop early or to train on: all
/// honest sites halt, name it, and upload nothing more. It remembers another figure of the model of one stage than it was told.
#[test]
fn a_site_that_lies_about_the_end_of_the_rounds_is_named_and_followed_by_nobody() {
    // (stage whose figure is changed, to what, stage at which the lie is told)
    for (stage, figure, told) in [(1, 0.0, 3), (3, 10.0, 5)] {
        for liar in [0, 3] {
            let mut world = World::new(4, 1, |plan| {
                plan.epochs = 20;
                plan.tuning.stopping = "loss:2".parse().unwrap();
            });
            world.losses = vec![9.0, 5.0, 4.0, 4.5, 4.2, 4.1];
            world.start();
            while world.sites.iter().any(|site| site.applied.len() < stage as usize) {
                world.deliver();
            }
            world.kill(liar);
            world.sites[liar].saved.0.extend(another_figure(stage, figure));
            world.revive(liar);
            for _ in 0..10_000 {
                match world.queue.is_empty() {
                    true => break,
                    false => world.deliver(),
                }
            }
            let lie = format!("after stage {told} hospital{liar} and ");
            for site in (0..4).filter(|&site| site != liar) {
                let halted = world.sites[site].halted.as_deref().unwrap_or("did not halt");
                assert!(halted.starts_with(&lie), "hospital{site}: {halted}");
                assert!(halted.contains("whether the rounds are over"), "{halted}");
            }
            let uploads = world.sent.iter().filter(|message| message.kind == Kind::Input);
            assert_eq!(uploads.map(|message| message.round).max(), Some(told));
        }
    }
}

/// What a snapshot is extended by, so that it says another figure for a stage: an entry of `session.scores`, which is merged in.
fn another_figure(stage: u8, figure: f64) -> Vec<u8> {
    let mut entry = vec![0x2a, 14, 0xc2, 0x01, 11, 0x08, stage, 0x11];
    entry.extend(figure.to_le_bytes());
    entry
}

/// Everything that reaches the coordinator in a full run, and everything it keeps, holds no syndrome's
/// name, no image's name, no encoding, no plain update and no part of the group key.
#[test]
fn the_coordinator_sees_no_names_encodings_updates_or_keys() {
    let mut world = World::new(4, 6, |plan| plan.kernel = Some(toy_kernel()));
    world.run();
    assert!(world.released.is_some());
    let mut all: Vec<Bytes> = world.seen.clone();
    all.push(world.coordinator.as_ref().unwrap().snapshot().into());
    let group = world.sites[0].participant.as_ref().unwrap().group().unwrap().to_bytes();
    let mut secrets: Vec<(String, Vec<u8>)> = vec![
        ("the group key".into(), group[8..40].to_vec()),
        ("half of the group key".into(), group[8..24].to_vec()),
        ("a syndrome".into(), b"Secret-Syndrome".to_vec()),
        ("an image".into(), b"gallery-".to_vec()),
        ("a probe".into(), b"probe-".to_vec()),
    ];
    let le = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|x| x.to_le_bytes()).collect() };
    for (s, site) in world.sites.iter().enumerate() {
        for probe in [false, true] {
            for (image, _, encoding) in images(s, &site.holdings, probe) {
                secrets.push((format!("the encoding of {image}"), le(&encoding[..2])));
            }
        }
        for round in 1..=3 {
            let update: Vec<f32> = (0..4).map(|e| delta(s, round, 0, 0, e)).collect();
            secrets.push((format!("the update of site {s}"), le(&update[..2])));
        }
        // The model itself: blind mode keeps it from the coordinator too.
        secrets.push(("the model".into(), le(&site.model[0][0][..2])));
    }
    for (what, secret) in secrets {
        for bytes in &all {
            assert!(!bytes.windows(secret.len()).any(|w| w == secret), "the coordinator got to see {what}");
        }
    }
    // The search itself finds what is there: the plan's member names are in clear.
    assert!(all.iter().any(|bytes| bytes.windows(8).any(|w| w == b"\"r100\",\"")));
}

#[test]
fn secrets_do_not_print() {
    let mut world = World::new(3, 6, |_| {});
    world.run();
    let group = world.sites[0].participant.as_ref().unwrap().group().unwrap();
    let text = format!("{group:?}");
    assert!(text.contains("redacted") && !text.contains(&hex(&group.to_bytes()[8..40])));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
