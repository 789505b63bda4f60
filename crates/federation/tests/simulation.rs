//! Whole sessions of many sites, with faults from a seed.

#![allow(clippy::unwrap_used)]

#[path = "harness/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};

use federation::*;
use world::*;

fn finished(world: &World) {
    assert!(world.halted.is_none(), "{:?}", world.halted);
    let release = world.released.as_ref().unwrap_or_else(|| {
        panic!("no release; refusals {:#?}, notices {:#?}", world.refusals, world.notices)
    });
    release.verify(&world.roster.verify(&consortium().public()).unwrap()).unwrap();
    let digest = release.release.digest();
    for (i, site) in world.sites.iter().enumerate() {
        assert!(site.halted.is_none(), "site {i}: {:?}", site.halted);
        let members = world.coordinator.as_ref().unwrap().members();
        // A site that stayed silent through the whole enrolment is not a member.
        if site.participant.is_some() && members.contains(&SiteIndex(i as u16)) {
            let held = site.released.as_ref().map(|r| r.release.digest());
            let settled = site.participant.as_ref().map(|p| p.settled());
            let last = world.refusals.iter().rev().take(12).collect::<Vec<_>>();
            assert_eq!(held, Some(digest), "site {i}, settled {settled:?}; {:?} {last:#?}", world.notices);
        }
    }
}

/// Sites that trained from end to end hold the same encoder, bit for bit.
fn same_encoders(world: &World) {
    let encoders: BTreeSet<Vec<u32>> = world
        .sites
        .iter()
        .filter(|site| site.released.is_some())
        .map(|site| {
            site.model
                .iter()
                .flat_map(|m| m[..m.len().min(2)].iter().flatten().map(|x| x.to_bits()))
                .collect()
        })
        .collect();
    assert_eq!(encoders.len(), 1);
}

#[test]
fn every_aggregation_and_row_policy_gives_the_plain_average() {
    for (i, aggregation) in
        ["mean", "sample-weighted", "syndrome-rows", "encoder-only"].into_iter().enumerate()
    {
        for rows in ["all", "shared:3"] {
            let mut world = World::new(4, i as u64, |plan| {
                plan.aggregation = aggregation.parse().unwrap();
                plan.rows = rows.parse().unwrap();
                plan.blind = rows == "all";
            });
            world.run();
            finished(&world);
            same_encoders(&world);
            assert!(world.refusals.is_empty(), "{:#?}", world.refusals);
            assert!(world.sites.iter().all(|site| site.applied == [1, 2, 3]));
            let begin = world.sites[0].begin.as_ref().unwrap();
            assert_eq!(
                begin.trained.iter().map(|s| s.as_str()).collect::<Vec<_>>(),
                ["100", "101", "102", "104", "Secret-Syndrome"]
            );
            assert_eq!(begin.all.len(), 6);
            assert_eq!(begin.holders, [4, 4, 2, 3, 1]);
            assert_eq!(begin.counts, [3 + 4 + 5 + 6, 1 + 3 + 5 + 2, 8, 2 + 3 + 4, 9]);
            assert_eq!(begin.images, 55);
        }
    }
}

#[test]
fn closed_form_members_come_from_the_exact_sums_of_all_sites() {
    for (rows, rounds) in [("all", 2), ("shared:2", 2), ("all", 0)] {
        let mut world = World::new(4, 21, |plan| {
            plan.rows = rows.parse().unwrap();
            plan.kernel = Some(toy_kernel());
            plan.forms = vec![
                toy_form(),
                FormPlan {
                    name: "second".into(),
                    basis: Basis::Lift { seed: 5 },
                    dim: 5,
                    outputs: 2,
                    ..toy_form()
                },
            ];
            if rounds == 0 {
                // Closed forms alone: one sum and no round of training.
                plan.members.clear();
                plan.epochs = 0;
                plan.forms.iter_mut().for_each(|form| form.on = None);
            }
        });
        world.faults = Faults { lose: 1, double: 5, spoil: 0, reorder: true };
        world.run();
        finished(&world);
        same_encoders(&world);
        assert!(world.sites.iter().all(|site| site.solved), "{rows} {rounds}");
        let release = &world.released.as_ref().unwrap().release;
        assert_eq!(release.members.len(), world.plan.members.len() + 2);
        assert_eq!(release.rounds, world.plan.rounds());
    }
}

#[test]
fn closed_forms_are_refined_by_the_exact_gradients_of_all_sites() {
    let refinement = |steps| Some(RefinementPlan { steps, rate: 0.1, scale: 16.0 });
    for rows in ["all", "shared:2"] {
        for faults in [false, true] {
            let mut world = World::new(4, 23, |plan| {
                plan.rows = rows.parse().unwrap();
                plan.kernel = Some(toy_kernel());
                plan.forms = vec![
                    FormPlan { refinement: refinement(4), ..toy_form() },
                    FormPlan { name: "plain".into(), ..toy_form() },
                    FormPlan { name: "short".into(), outputs: 2, refinement: refinement(2), ..toy_form() },
                ];
            });
            if faults {
                world.faults = Faults { lose: 1, double: 5, spoil: 0, reorder: true };
            }
            world.run();
            finished(&world);
            same_encoders(&world);
            assert!(world.sites.iter().all(|site| site.refined == 4), "{rows} {faults}");
            let plain = &world.sites[0].model[world.plan.members.len() + 1];
            assert!(world.sites.iter().all(|site| site.model[world.plan.members.len() + 1] == *plain));
        }
    }
}

/// A session in which a member starts from a closed form, and the members' weights are fitted.
fn started_world(seed: u64, stopping: &str) -> World {
    World::new(5, seed, |plan| {
        plan.epochs = 20;
        plan.tuning.stopping = stopping.parse().unwrap();
        plan.tuning.statistics = Statistics::Pooled;
        plan.starts = vec![FormPlan { name: "r50".into(), on: None, ..toy_form() }];
        plan.forms = vec![toy_form()];
        plan.kernel = Some(KernelPlan { weighed: Some(3), ..toy_kernel() });
    })
}

#[test]
fn members_start_from_and_are_weighed_by_the_exact_sums_of_all_sites() {
    for (stopping, run, chosen) in [("never", 10, None), ("loss:2", 5, Some(2)), ("loss:1", 2, Some(0))] {
        for faults in [false, true] {
            let mut world = started_world(run.into(), stopping);
            world.losses = match chosen {
                Some(0) => vec![1.0, 2.0, 2.0],
                _ => vec![9.0, 5.0, 4.0, 4.5, 4.2, 4.1],
            };
            if faults {
                world.faults = Faults { lose: 1, double: 5, spoil: 0, reorder: true };
                world.kill_coordinator_at.extend([3, 9, 14]);
            }
            world.run();
            finished(&world);
            same_encoders(&world);
            let name = format!("{stopping}, faults {faults}");
            for site in &world.sites {
                assert_eq!(site.applied, (1..=run).collect::<Vec<_>>(), "{name}");
                assert_eq!((site.chosen, site.solved), (chosen, true), "{name}");
                assert!(
                    site.weighed.is_some() && site.model[3][0].iter().all(|weight| *weight != 0.0),
                    "{name}"
                );
                if chosen == Some(0) {
                    assert_eq!(site.model[..2], site.history[&0][..2], "{name}: back to where they started");
                }
            }
            let release = &world.released.as_ref().unwrap().release;
            let weights: Vec<u8> =
                world.sites[0].model[3][0].iter().flat_map(|weight| weight.to_le_bytes()).collect();
            let digest: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(&weights).into();
            assert_eq!(release.kernel.as_ref().unwrap().weights, Some(digest), "{name}");
            assert_eq!(release.rounds, chosen.unwrap_or(10), "{name}");
        }
    }
}

/// What a stage does not ask for is refused there, and changes nothing.
#[test]
fn sums_of_another_stage_are_refused() {
    let mut world = started_world(3, "never");
    world.start();
    let mut refused = BTreeSet::new();
    while world.released.is_none() {
        if world.queue.is_empty() {
            world.tick();
        } else {
            world.deliver();
        }
        let site = &mut world.sites[2];
        let Some(begin) = site.begin.clone() else { continue };
        let participant = site.participant.as_mut().unwrap();
        let stage = participant.settled();
        let last = begin.plan.last_model_stage();
        let before = participant.snapshot();
        let pairs = (stage != last).then(|| participant.submit_pairs(&pair_sums(2, 3)));
        let sums = start_sums(2, &begin, &begin.plan.starts[0]);
        let sums = (stage != 1 && stage + 1 != last).then(|| participant.submit_sums(&[sums]));
        for answer in [pairs, sums].into_iter().flatten() {
            assert_eq!(answer.unwrap_err().kind(), RefusalKind::OutOfPhase, "stage {stage}");
            refused.insert(stage);
        }
        assert_eq!(participant.snapshot(), before);
    }
    world.pump();
    finished(&world);
    assert!(refused.len() > 10, "{refused:?}");
}

/// Starts, and when a site is so far, site 1, which has vanished, is back and site 2 killed and restarted; to the end.
fn end_with_one_back_and_one_restarted(world: &mut World, so_far: impl Fn(&SimSite) -> bool) {
    world.start();
    while !world.sites.iter().any(&so_far) {
        if world.queue.is_empty() {
            world.tick();
        } else {
            world.deliver();
        }
    }
    world.kill(2);
    world.revive(1);
    world.revive(2);
    world.pump();
    finished(world);
    same_encoders(world);
}

#[test]
fn a_site_that_vanishes_or_restarts_before_the_first_round_starts_like_the_others() {
    for seed in 0..4 {
        let mut world = started_world(seed, "never");
        world.vanish.insert((1, 0));
        end_with_one_back_and_one_restarted(&mut world, |site| site.history.contains_key(&0));
        let start = &world.sites[0].history[&0];
        assert!(start[0].iter().flatten().any(|value| *value != 0.0));
        assert!(world.sites.iter().all(|site| &site.history[&0] == start), "seed {seed}");
    }
}

/// Ten rounds are planned; validation says which are worth it.
fn stopping_world(seed: u64, stopping: &str, losses: &[f64]) -> World {
    let mut world = World::new(4, seed, |plan| {
        plan.epochs = 20;
        plan.tuning.stopping = stopping.parse().unwrap();
        plan.kernel = Some(toy_kernel());
        plan.forms = vec![toy_form()];
    });
    world.losses = losses.to_vec();
    world
}

#[test]
fn rounds_end_when_validation_brings_no_gain_and_the_best_rounds_model_is_released() {
    // (patience, losses from the start on, rounds that are run, round that is chosen)
    let cases: [(&str, &[f64], u32, u32); 5] = [
        // Known to be over in round 5, when the model of round 4 has been validated.
        ("loss:2", &[9.0, 5.0, 4.0, 4.5, 4.2, 4.1], 5, 2),
        // The last model is validated too, and may be the best.
        ("loss:2", &[9.0, 5.0, 4.0, 4.5, 4.2, 3.0], 5, 5),
        ("loss:1", &[9.0, 9.5, 1.0, 1.0], 2, 2),
        // Nothing was ever better than the start.
        ("loss:2", &[1.0, 2.0, 2.0, 2.0], 3, 0),
        ("loss:3", &[9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.9], 10, 9),
    ];
    for (case, (stopping, losses, run, chosen)) in cases.into_iter().enumerate() {
        for faults in [false, true] {
            let mut world = stopping_world(case as u64, stopping, losses);
            if faults {
                world.faults = Faults { lose: 1, double: 5, spoil: 0, reorder: true };
                world.kill_coordinator_at.extend([9, 14]);
            }
            world.run();
            finished(&world);
            same_encoders(&world);
            let name = format!("case {case}, faults {faults}");
            for site in &world.sites {
                assert_eq!(site.applied, (1..=run).collect::<Vec<_>>(), "{name}");
                assert_eq!(site.chosen, Some(chosen), "{name}");
                assert!(site.solved, "{name}");
                let want = site.history.get(&chosen).map(|model| model[..2].to_vec());
                assert!(want.is_none_or(|want| want == site.model[..2]), "{name}");
            }
            assert_eq!(world.released.as_ref().unwrap().release.rounds, chosen, "{name}");
            let uploads = world.sent.iter().filter(|m| m.kind == Kind::Input);
            assert!(uploads.map(|m| m.round).all(|round| round <= run || round > 10), "{name}");
        }
    }
}

#[test]
fn sites_that_were_away_or_restarted_end_the_rounds_alike() {
    for seed in 0..4 {
        let mut world = stopping_world(seed, "loss:2", &[9.0, 5.0, 4.0, 4.5, 4.2, 4.1]);
        world.vanish.insert((1, 5));
        end_with_one_back_and_one_restarted(&mut world, |site| site.applied.len() >= 5);
        assert!(world.sites.iter().all(|site| site.chosen == Some(2)), "seed {seed}");
    }
}

/// Learning rates follow a figure that no site knows of another: only the sum is told, and everybody goes by it.
#[test]
fn rates_follow_the_loss_on_everybodys_images_at_every_site_alike() {
    for seed in 0..4 {
        let mut world = World::new(4, seed, |plan| {
            plan.epochs = 16;
            plan.tuning.rates = Rates::Plateau(1);
        });
        world.losses = vec![9.0, 5.0, 6.0, 4.0, 4.0, 4.5, 3.0, 2.0];
        world.vanish.insert((1, 3));
        end_with_one_back_and_one_restarted(&mut world, |site| site.applied.len() >= 4);
        // The loss of the model that a round begins with is told in it, and counts from the next round on.
        let want = [1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.125, 0.125];
        for (at, site) in world.sites.iter().enumerate() {
            assert!(site.paces.len() >= 6, "seed {seed}, site {at}: {:?}", site.paces);
            for (&round, &pace) in &site.paces {
                assert_eq!(pace, want[round as usize - 1], "seed {seed}, site {at}, round {round}");
            }
        }
    }
}

#[test]
fn three_to_sixteen_sites() {
    for sites in [3, 5, 8, 16] {
        let mut world = World::new(sites, sites as u64, |plan| plan.kernel = Some(toy_kernel()));
        world.run();
        finished(&world);
        same_encoders(&world);
        assert!(world.refusals.is_empty(), "{:#?}", world.refusals);
    }
}

#[test]
fn the_same_seed_gives_the_same_messages() {
    let run = || {
        let mut world = World::new(4, 9, |plan| plan.kernel = Some(toy_kernel()));
        world.faults = Faults { lose: 2, double: 5, spoil: 1, reorder: true };
        world.run();
        world.sent
    };
    assert_eq!(run(), run());
}

#[test]
fn lost_doubled_spoiled_and_reordered_messages() {
    for seed in 0..8 {
        let mut world = World::new(3 + seed as usize % 4, seed, |plan| {
            plan.kernel = (seed % 2 == 0).then(toy_kernel);
            plan.blind = seed % 3 != 0;
        });
        world.faults = Faults { lose: 2, double: 8, spoil: 2, reorder: true };
        world.run();
        if world.plan.blind {
            finished(&world);
            same_encoders(&world);
        }
        assert!(
            world
                .refusals
                .iter()
                .any(|r| matches!(r.kind(), RefusalKind::BadSignature | RefusalKind::Malformed)),
            "seed {seed}"
        );
    }
}

#[test]
fn a_site_that_vanishes_comes_back_and_catches_up() {
    let mut world = World::new(5, 3, |plan| plan.kernel = Some(toy_kernel()));
    world.vanish = BTreeSet::from([(2, 1)]);
    world.start();
    // Without site 2 until the last round is under way.
    while world.sites[0].applied.len() < 2 {
        if world.queue.is_empty() {
            let actions = world.coordinator.as_mut().unwrap().deadline().unwrap();
            world.coordinator_does(actions);
        }
        world.deliver();
    }
    assert!(world.sites[2].applied.is_empty());
    world.revive(2);
    world.pump();
    finished(&world);
    same_encoders(&world);
    assert_eq!(world.sites[2].applied, [1, 2, 3]);
    assert!(world.notices.iter().any(|n| n.contains("going on without hospital2")), "{:?}", world.notices);
}

#[test]
fn a_site_away_at_the_end_has_the_release_when_it_is_back() {
    for kernel in [None, Some(toy_kernel())] {
        let mut world = World::new(5, 3, |plan| plan.kernel = kernel.clone());
        world.start();
        while world.sites[2].applied.len() < 2 {
            world.deliver();
        }
        world.kill(2);
        world.pump();
        assert!(world.released.is_some() && world.sites[2].released.is_none());
        world.revive(2);
        world.pump();
        finished(&world);
        assert!(world.sites[2].released.is_some(), "{:?}", world.refusals);
    }
}

#[test]
fn below_the_threshold_the_attempt_is_given_up_and_tried_again() {
    let mut world = World::new(4, 5, |_| {});
    world.vanish = BTreeSet::from([(1, 2), (3, 2)]);
    world.start();
    let error = loop {
        if !world.queue.is_empty() {
            world.deliver();
            continue;
        }
        match world.coordinator.as_mut().unwrap().deadline() {
            Ok(actions) => world.coordinator_does(actions),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), RefusalKind::TooFewSites);
    assert!(error.to_string().starts_with("stage 2, attempt"), "{error}");
    let attempt = world.coordinator.as_ref().unwrap().attempt();
    world.revive(1);
    world.revive(3);
    let actions = world.coordinator.as_mut().unwrap().retry().unwrap();
    assert_eq!(world.coordinator.as_ref().unwrap().attempt(), attempt + 1);
    world.coordinator_does(actions);
    world.pump();
    finished(&world);
    same_encoders(&world);
}

#[test]
fn killed_sites_and_a_killed_coordinator_resume_from_their_snapshots() {
    for seed in 0..6u64 {
        let mut world = World::new(4, seed, |plan| plan.kernel = Some(toy_kernel()));
        world.kill_coordinator_at = BTreeSet::from([2 + seed as u32, 9 + 2 * seed as u32]);
        world.start();
        let mut dice = Dice(1000 + seed);
        let mut kills = 0;
        for _ in 0..400 {
            if world.queue.is_empty() {
                break;
            }
            world.deliver();
            if kills < 6 && dice.chance(4) {
                kills += 1;
                let site = dice.below(4);
                // A process that is killed and comes back at once: what was on its way to it is delivered.
                world.kill(site);
                world.revive(site);
            }
        }
        world.pump();
        finished(&world);
        same_encoders(&world);
    }
}

#[test]
fn the_release_does_not_depend_on_when_a_founder_died() {
    let release = |again: bool| {
        let mut world = World::new(4, 0, |plan| plan.kernel = Some(toy_kernel()));
        if again {
            // Processes that had nothing to save yet: they come back with other randomness.
            for site in 0..4 {
                world.kill(site);
                world.revive(site);
            }
            world.queue.clear();
        }
        world.run();
        world.released.unwrap().release
    };
    assert_eq!(release(false), release(true), "down to the sealed weights, and so the group key");
}

#[test]
fn a_poisoned_update_is_named_and_the_others_go_on() {
    let mut world = World::new(4, 1, |_| {});
    world.sites[3].poison.insert(2);
    world.run();
    finished(&world);
    same_encoders(&world);
    assert!(
        world
            .notices
            .iter()
            .any(|n| n == "hospital3 sits out stage 2: its update was not finite or left the plan's range"),
        "{:?}",
        world.notices
    );
}

#[test]
fn a_refusing_site_is_named_and_the_others_train() {
    let mut world = World::new(4, 1, |plan| plan.blind = false);
    world.sites[1].policy.require_blind = true;
    let policy = world.sites[1].policy.clone();
    world.sites.remove(1);
    let held = holdings(1);
    world.add_site(1, held);
    let mut site = world.sites.pop().unwrap();
    site.policy = policy;
    world.sites.insert(1, site);
    world.kill(1);
    world.revive(1);
    world.start();
    world.pump();
    let said = world.notices.iter().any(|n| n.contains("hospital1 does not take part: policy require_blind"));
    assert!(said, "{:?}", world.notices);
    assert!(world.released.is_some());
    assert_eq!(world.sites[0].begin.as_ref().unwrap().sites.len(), 3);
}

#[test]
fn a_differing_model_halts_with_the_name() {
    let mut world = World::new(4, 1, |_| {});
    world.sites[2].drift = Some(2);
    world.run();
    assert!(world.released.is_none());
    for (i, site) in world.sites.iter().enumerate() {
        let reason = site.halted.as_ref().unwrap();
        assert!(reason.contains("stage 2"), "{reason}");
        if i != 2 {
            assert!(reason.contains("model of hospital2 differs"), "{reason}");
        }
    }
}

#[test]
fn answers_are_the_plain_ranking() {
    let mut world = World::new(4, 2, |plan| plan.kernel = Some(toy_kernel()));
    world.run();
    finished(&world);
    let gallery: Vec<_> = (0..4).flat_map(|s| images(s, &world.sites[s].holdings, false)).collect();
    let mut total = vec![0u32; world.sites[0].metrics.as_ref().unwrap().len()];
    for (s, site) in world.sites.iter().enumerate() {
        assert_eq!(site.answers.len(), 2 * site.holdings.len());
        let probes: BTreeMap<_, _> =
            images(s, &site.holdings, true).into_iter().map(|(i, _, e)| (i, e)).collect();
        for answer in &site.answers {
            let probe = &probes[&answer.image];
            let mut best: BTreeMap<_, f32> = BTreeMap::new();
            for (_, syndrome, encoding) in &gallery {
                if answer.galleries == 1 && *syndrome == id("900") {
                    continue;
                }
                let distance = 1.0 - probe.iter().zip(encoding).map(|(a, b)| a * b).sum::<f32>();
                let slot = best.entry(syndrome.clone()).or_insert(f32::MAX);
                *slot = slot.min(distance);
            }
            let mut want: Vec<_> = best.into_iter().collect();
            want.sort_by(|a, b| a.1.total_cmp(&b.1));
            assert_eq!(answer.ranked.len(), want.len());
            for (got, (syndrome, distance)) in answer.ranked.iter().zip(&want) {
                assert_eq!(got.syndrome.as_ref(), Some(syndrome));
                // Rounded up to a thousandth; the kernel itself is exact to 1e-5.
                assert!(got.distance - distance > -1e-5 && got.distance - distance < 1.01e-3);
            }
        }
        let own = site.answers.iter().flat_map(|a| &a.ranked).filter_map(|r| r.own.as_ref());
        assert!(
            own.clone().count() > 0 && own.clone().all(|i| i.as_str().starts_with(&format!("gallery-{s}-")))
        );
        assert_eq!(site.metrics, world.sites[0].metrics);
    }
    let hits = world.sites[0].metrics.as_ref().unwrap();
    total.copy_from_slice(hits);
    let probes: u32 = total.chunks(5).map(|cell| cell[0]).sum();
    assert_eq!(probes as usize, world.sites.iter().map(|s| s.holdings.len()).sum::<usize>());
    assert!(world.released.as_ref().unwrap().release.metrics.contains_key("frequent_frequent"));
}

#[test]
fn a_newcomer_joins_the_release_and_asks() {
    let weighed = KernelPlan { weighed: Some(3), ..toy_kernel() };
    let mut world = World::new(4, 8, |plan| plan.kernel = Some(weighed.clone()));
    world.run();
    finished(&world);
    let old = world.roster.verify(&consortium().public()).unwrap();
    let newer =
        old.with_site(SiteName::new("hospital4").unwrap(), site_key(4).public()).unwrap().sign(&consortium());
    world.roster = newer.clone();
    world.coordinator.as_mut().unwrap().adopt_roster(&newer).unwrap();
    for site in &mut world.sites {
        site.participant.as_mut().unwrap().adopt_roster(&newer).unwrap();
    }
    world.add_site(4, holdings(4));
    world.site_calls(4, |p| p.join());
    while !world.queue.is_empty() {
        world.deliver();
    }
    let adoption = world.sites[4].adopted.as_ref().expect("adopted");
    assert_eq!(adoption.trained.len(), 5);
    let (weights, members) = adoption.tensors.split_last().unwrap();
    assert_eq!(Some(weights), world.sites[0].model.last());
    assert!(weights[0].iter().all(|weight| *weight != 0.0));
    for (member, own) in members.iter().zip(&world.sites[0].model) {
        assert_eq!(member[0], own[0]);
        assert_eq!(member[1], own[1]);
        assert!(member[2].is_empty() && member[3].is_empty());
    }
    let before = world.coordinator.as_ref().unwrap().gallery_len();
    world.upload_gallery(4);
    while !world.queue.is_empty() {
        world.deliver();
    }
    let site = &world.sites[4];
    assert_eq!(world.coordinator.as_ref().unwrap().gallery_len(), before + site.holdings.len());
    assert_eq!(site.answers.len(), 2 * site.holdings.len());
    assert!(site.answers.iter().all(|a| a.ranked.iter().all(|r| r.syndrome.is_some())));
    // The ration holds for a newcomer too.
    let refused = world.refusals.len();
    for _ in 0..6 {
        world.ask(4);
        while !world.queue.is_empty() {
            world.deliver();
        }
    }
    assert!(world.refusals[refused..].iter().any(|r| r.kind() == RefusalKind::Rationed));
}

#[test]
fn a_withdrawn_image_is_gone_for_good() {
    let mut world = World::new(3, 8, |plan| plan.kernel = Some(toy_kernel()));
    world.run();
    finished(&world);
    let before = world.coordinator.as_ref().unwrap().gallery_len();
    let (image, _, _) = images(1, &world.sites[1].holdings, false).remove(0);
    world.site_calls(1, |p| p.withdraw(&[image]));
    while !world.queue.is_empty() {
        world.deliver();
    }
    assert_eq!(world.coordinator.as_ref().unwrap().gallery_len(), before - 1);
    world.upload_gallery(1);
    while !world.queue.is_empty() {
        world.deliver();
    }
    assert_eq!(world.coordinator.as_ref().unwrap().gallery_len(), before - 1);
}
