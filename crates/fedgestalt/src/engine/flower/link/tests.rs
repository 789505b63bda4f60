#![allow(clippy::unwrap_used)]
use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::*;

fn enclosed(number: u32) -> Enclosed {
    Enclosed { kind: "Input".to_owned(), bytes: number.to_le_bytes().to_vec().into() }
}

fn number(message: &Enclosed) -> u32 {
    u32::from_le_bytes(message.bytes[..].try_into().unwrap())
}

/// Flower as it is: instructions are pulled in order, once; a reply is taken once, if its instruction is still there.
#[derive(Default)]
struct Superlink {
    instructions: VecDeque<(String, Letter)>,
    pulled: BTreeSet<String>,
    answered: BTreeSet<String>,
    replies: BTreeMap<String, Letter>,
}

struct World {
    random: ChaCha8Rng,
    flower: Superlink,
    /// Whether it hands some instructions out more than once.
    twice: bool,
    coordinator: CoordinatorLink,
    site: SiteLink<String>,
    processes: u64,
    now: f64,
    ids: u64,
    at_site: Vec<u32>,
    at_coordinator: Vec<u32>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            flower: Superlink::default(),
            twice: false,
            coordinator: CoordinatorLink::new(1),
            site: SiteLink::new(2),
            processes: 2,
            now: 0.0,
            ids: 0,
            at_site: Vec::new(),
            at_coordinator: Vec::new(),
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    /// One round of both loops; `faults` in percent.
    fn step(&mut self, faults: u32) {
        self.now += 4.0;
        if self.coordinator.is_due(self.now) {
            let draft = self.coordinator.draft();
            self.ids += 1;
            let id = format!("m{}", self.ids);
            self.coordinator.issued(&draft, id.clone(), self.now);
            self.flower.instructions.push_back((id, draft));
        }
        if let Some((id, letter)) = self.flower.instructions.pop_front() {
            // Marked as delivered whether or not the response arrives.
            if !self.flower.answered.contains(&id) {
                self.flower.pulled.insert(id.clone());
            }
            // Handed out by the front, and by Flower once more later on.
            if self.twice && self.chance(faults / 2) {
                self.flower.instructions.push_back((id.clone(), letter.clone()));
            }
            if !self.chance(faults) {
                let received = self.site.take(letter, id, |_| false);
                self.at_site.extend(received.messages.iter().map(number));
            }
        }
        while let Some((id, letter)) = self.site.answer(true) {
            match self.random.random_range(0..100) {
                // The answer is on its way and lost: the line was cut before it was whole.
                n if n < faults / 2 => {
                    self.flower.pulled.remove(&id);
                    self.coordinator.give_up(letter.ticket);
                }
                n if n < faults => {
                    self.site.failed(&letter, id);
                    break;
                }
                _ if self.flower.pulled.contains(&id) => {
                    self.flower.pulled.remove(&id);
                    self.flower.answered.insert(id.clone());
                    self.flower.replies.insert(id, letter.clone());
                    // It arrived, and the site cannot know.
                    if self.chance(faults / 4) {
                        self.site.dead(&letter);
                    }
                }
                _ => self.site.dead(&letter),
            }
        }
        let awaited: Vec<(u64, String)> =
            self.coordinator.awaited().map(|(ticket, id)| (ticket, id.to_owned())).collect();
        for (ticket, id) in awaited {
            if let Some(letter) = self.flower.replies.remove(&id) {
                let messages = self.coordinator.answered(ticket, letter, self.now);
                self.at_coordinator.extend(messages.iter().map(number));
            }
        }
    }

    fn end_run(&mut self) {
        self.flower = Superlink::default();
        self.coordinator.give_up_all();
    }
}

#[test]
fn an_idle_line_is_quiet() {
    let mut world = World::new(1);
    (0..200).for_each(|_| world.step(0));
    // A first ticket, and one more every five minutes to see whether the site still has it.
    assert!(world.ids <= 2 + 200 * 4 / 300, "{} tickets", world.ids);
}

#[test]
fn a_ticket_that_was_answered_is_not_taken_again() {
    let mut world = World::new(1);
    world.coordinator.post(enclosed(1));
    let draft = world.coordinator.draft();
    world.coordinator.issued(&draft, "m1".to_owned(), 0.0);
    assert_eq!(world.site.take(draft.clone(), "m1".to_owned(), |_| false).messages.len(), 1);
    // In hand still: it is the same one.
    assert!(world.site.take(draft.clone(), "m1".to_owned(), |_| false).messages.is_empty());
    world.site.post(enclosed(2));
    let (id, answer) = world.site.answer(false).unwrap();
    assert_eq!((id.as_str(), answer.messages.len()), ("m1", 1));
    // Answered: with nothing in hand, what is said next waits for another ticket.
    world.site.take(draft, "m1".to_owned(), |_| false);
    world.site.post(enclosed(3));
    assert!(world.site.answer(true).is_none());
}

#[test]
fn messages_arrive_once_and_in_order_over_a_bad_line() {
    for seed in 0..400 {
        let mut world = World::new(seed);
        world.twice = seed % 2 == 0;
        for n in 0..60 {
            if world.chance(50) {
                world.coordinator.post(enclosed(n));
            } else {
                world.coordinator.post(enclosed(n));
                world.site.post(enclosed(n));
            }
            world.step(30);
            if world.chance(3) {
                world.end_run();
            }
        }
        let sent_by_site = world.site.out.last as usize;
        (0..400).for_each(|_| world.step(20));
        (0..400).for_each(|_| world.step(0));
        assert_eq!(world.at_site, (0..60).collect::<Vec<_>>(), "seed {seed}");
        assert!(world.at_coordinator.is_sorted_by(|a, b| a < b), "seed {seed}: {:?}", world.at_coordinator);
        assert_eq!(world.at_coordinator.len(), sent_by_site, "seed {seed}");
        assert!(world.coordinator.backlog() <= MAX_MESSAGES);
    }
}

#[test]
fn what_a_dead_site_did_not_acknowledge_reaches_the_next_process() {
    for seed in 0..100 {
        let mut world = World::new(seed);
        for n in 0..20 {
            world.coordinator.post(enclosed(n));
        }
        (0..seed % 5).for_each(|_| world.step(20));
        let owed = world.coordinator.backlog() as u32;
        world.processes += 1;
        world.site = SiteLink::new(world.processes);
        world.at_site.clear();
        // The engine sees that the node was activated anew.
        world.coordinator.give_up_all();
        world.site.post(enclosed(77));
        (0..120).for_each(|_| world.step(10));
        (0..200).for_each(|_| world.step(0));
        assert_eq!(world.at_coordinator, [77], "seed {seed}");
        assert_eq!(world.at_site, (20 - owed..20).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn a_restarted_coordinator_is_told_where_the_site_stands() {
    let mut world = World::new(5);
    world.site.post(enclosed(1));
    (0..4).for_each(|_| world.step(0));
    assert_eq!(world.at_coordinator, [1]);
    world.site.post(enclosed(2));
    let stale = enclosed(3);
    world.site.post(stale.clone());
    world.flower = Superlink::default();
    world.coordinator = CoordinatorLink::new(9);
    let draft = world.coordinator.draft();
    world.coordinator.issued(&draft, "new".to_owned(), 0.0);
    let received = world.site.take(draft, "new".to_owned(), |message| *message == stale);
    assert!(received.rejoin);
    let (id, letter) = world.site.answer(true).unwrap();
    assert_eq!((id.as_str(), letter.to), ("new", 9));
    // What was acknowledged is not repeated; the unacknowledged is, but for what a new attempt makes void.
    let numbers: Vec<u32> = world.coordinator.answered(1, letter, 0.0).iter().map(number).collect();
    assert_eq!(numbers.last(), Some(&2));
    assert!(!numbers.contains(&3));
}

#[test]
fn a_dropped_backlog_makes_the_site_say_where_it_stands() {
    let mut world = World::new(6);
    world.coordinator.post(enclosed(0));
    (0..3).for_each(|_| world.step(0));
    world.coordinator.post(enclosed(1));
    world.coordinator.post(enclosed(2));
    world.coordinator.drop_backlog();
    world.coordinator.post(enclosed(3));
    let draft = world.coordinator.draft();
    assert!(draft.hello);
    world.coordinator.issued(&draft, "x".to_owned(), world.now);
    let received = world.site.take(draft, "x".to_owned(), |_| false);
    assert!(received.rejoin);
    assert_eq!(received.messages.iter().map(number).collect::<Vec<_>>(), [3]);
}

#[test]
fn answers_of_strangers_change_nothing() {
    let mut link = CoordinatorLink::new(1);
    let draft = link.draft();
    link.issued(&draft, "a".to_owned(), 0.0);
    let letter = |from, to, ticket| Letter {
        from,
        to,
        ticket,
        first: 1,
        messages: vec![enclosed(1)],
        ..Letter::default()
    };
    assert!(link.answered(7, letter(2, 1, 7), 0.0).is_empty());
    // Meant for a coordinator that is no more.
    assert!(link.answered(1, letter(2, 8, 1), 0.0).is_empty());
    let draft = link.draft();
    link.issued(&draft, "b".to_owned(), 0.0);
    assert_eq!(link.answered(2, letter(2, 1, 2), 0.0).len(), 1);
}
