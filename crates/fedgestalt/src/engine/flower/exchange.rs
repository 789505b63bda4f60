//! What the front and the coordinator's loop, which run in one process, know together.
//!
//! Everything that sites and coordinator say goes through the SuperLink, which stores it before anybody gets it. But a
//! SuperLink asked thousands of times whether there is anything new, and for every object once more by everybody, is busy with
//! little else: any call costs it as much as a megabyte. So the front keeps what has just been stored in memory until it was
//! read, hands on short letters itself, and tells each side when asking is worth while. All of it can be thrown away at any
//! time: what is not here is asked for at the SuperLink.
//!
//! A SuperLink is one Python process: of several calls at a time each takes longer, and all together do too. So they take
//! turns ([`Exchange::turn`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prost::bytes::Bytes;

use super::wire::FlowerMessage;

/// Bytes of objects from sites that are kept; of what is beyond it only that it is stored.
const KEPT: usize = 64 << 20;
/// How long an object that nobody reads is remembered.
const AGE: Duration = Duration::from_secs(120);
/// Between questions to the SuperLink about a node for which nothing was issued.
const ASK: Duration = Duration::from_secs(10);
/// For how long a proof that the SuperLink has taken is taken here; it takes them for five minutes.
const PROOF: Duration = Duration::from_secs(60);

/// Answers of sites that are kept until the coordinator takes them; what is beyond it the SuperLink is asked for.
const ANSWERS: usize = 1024;
/// Long calls of the SuperLink at a time: it stores one object while it reads another (90 MB/s against 66 one by one; four at a
/// time bring no more).
pub(super) const TURNS: usize = 2;

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Here: head and body, or all of it and nothing.
    Here([Bytes; 2]),
    /// Stored, but not here.
    Stored,
    /// Being stored.
    Expected,
    /// Nothing is known of it.
    Unknown,
}

#[derive(Debug)]
struct Kept {
    content: Option<[Bytes; 2]>,
    readers: usize,
    /// It is not stored yet.
    expected: bool,
    since: Instant,
}

/// When the SuperLink had nothing for a node, and how often it had been rung for by then.
#[derive(Debug, Clone, Copy)]
struct Asked {
    rings: u64,
    at: Instant,
}

/// Whom the SuperLink has let in, and as which node it let it ask.
#[derive(Debug, Clone, Copy)]
struct Proven {
    since: Instant,
    node: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    proofs: BTreeMap<[u8; 32], Proven>,
    rings: BTreeMap<u64, u64>,
    asked: BTreeMap<u64, Asked>,
    /// Encoded responses with a letter each, by the node that they are for.
    letters: BTreeMap<u64, VecDeque<Bytes>>,
    answers: Vec<FlowerMessage>,
    replies: u64,
    unseen: u64,
    objects: u64,
    kept: BTreeMap<String, Kept>,
    /// Those from sites, oldest first.
    from_sites: VecDeque<String>,
    bytes: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Exchange {
    state: Mutex<State>,
    changed: Condvar,
    /// Calls of the SuperLink that are under way.
    calls: Mutex<usize>,
    ended: Condvar,
}

/// Leave to call the SuperLink; given back when dropped.
pub struct Turn<'a>(&'a Exchange);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.calls.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_one();
    }
}

impl State {
    fn drop_content(&mut self, id: &str) {
        if let Some(kept) = self.kept.get_mut(id)
            && kept.content.take().is_some_and(|_| kept.readers == 0)
        {
            self.kept.remove(id);
        }
    }

    fn forget_old(&mut self) {
        self.kept.retain(|_, kept| kept.since.elapsed() < AGE);
        self.proofs.retain(|_, proven| proven.since.elapsed() < PROOF);
        let Self { kept, from_sites, bytes, .. } = self;
        from_sites.retain(|id| kept.contains_key(id));
        let length = |id: &String| kept.get(id).map_or(0, |kept| length(&kept.content));
        *bytes = from_sites.iter().map(length).sum();
    }
}

fn length(content: &Option<[Bytes; 2]>) -> usize {
    content.as_ref().map_or(0, |[head, body]| head.len() + body.len())
}

impl Exchange {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The coordinator is about to store objects that so many sites will read. They may hear of them before they are there.
    pub fn expect<'a>(&self, objects: impl Iterator<Item = (&'a str, usize)>) {
        let mut state = self.state();
        state.forget_old();
        for (id, readers) in objects {
            let kept = Kept { content: None, readers, expected: true, since: Instant::now() };
            state.kept.insert(id.to_owned(), kept);
        }
    }

    /// The coordinator has stored one of those. Its memory is the coordinator's own.
    pub fn issued(&self, id: &str, content: [Bytes; 2]) {
        if let Some(kept) = self.state().kept.get_mut(id).filter(|kept| kept.expected) {
            (kept.content, kept.expected, kept.since) = (Some(content), false, Instant::now());
        }
        self.changed.notify_all();
    }

    /// A site has stored an object, which the coordinator will read.
    pub fn stored(&self, id: &str, content: Bytes) {
        let mut state = self.state();
        state.bytes += content.len();
        let content = Some([content, Bytes::new()]);
        let kept = Kept { content, readers: 1, expected: false, since: Instant::now() };
        state.kept.insert(id.to_owned(), kept);
        state.from_sites.push_back(id.to_owned());
        while state.bytes > KEPT
            && let Some(oldest) = state.from_sites.pop_front()
        {
            state.bytes -= state.kept.get(&oldest).map_or(0, |kept| length(&kept.content));
            state.drop_content(&oldest);
        }
        state.objects += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// Reads an object, for one of its readers.
    pub fn read(&self, id: &str) -> Found {
        let mut state = self.state();
        let Some(kept) = state.kept.get_mut(id) else { return Found::Unknown };
        if kept.expected {
            return Found::Expected;
        }
        kept.readers = kept.readers.saturating_sub(1);
        let last = kept.readers == 0;
        let content = kept.content.clone();
        if last {
            state.kept.remove(id);
            if let Some(at) = state.from_sites.iter().position(|other| other == id) {
                state.from_sites.remove(at);
                state.bytes -= length(&content);
            }
        }
        content.map_or(Found::Stored, Found::Here)
    }

    /// Waits while an object is being stored, or until it is late.
    pub fn wait_for_object(&self, id: &str, patience: Duration) {
        let storing = |state: &mut State| state.kept.get(id).is_some_and(|kept| kept.expected);
        drop(self.changed.wait_timeout_while(self.state(), patience, storing));
    }

    /// Something was issued for a node.
    pub fn ring(&self, node: u64) {
        *self.state().rings.entry(node).or_default() += 1;
        self.changed.notify_all();
    }

    /// How often was rung for a node.
    pub fn rings(&self, node: u64) -> u64 {
        self.state().rings.get(&node).copied().unwrap_or(0)
    }

    /// Whether the SuperLink should be asked about a node.
    pub fn is_due(&self, node: u64) -> bool {
        let state = self.state();
        let rings = state.rings.get(&node).copied().unwrap_or(0);
        state.asked.get(&node).is_none_or(|asked| asked.rings != rings || asked.at.elapsed() > ASK)
    }

    /// The SuperLink has something for a node, or had nothing when it had been rung for so often.
    pub fn asked(&self, node: u64, nothing_at: Option<u64>) {
        let mut state = self.state();
        match nothing_at {
            Some(rings) => state.asked.insert(node, Asked { rings, at: Instant::now() }),
            None => state.asked.remove(&node),
        };
    }

    /// Waits until it is rung for a node or a letter is here for it, or it is late.
    pub fn wait_for_ring(&self, node: u64, seen: u64, patience: Duration) {
        let quiet = |state: &mut State| {
            state.rings.get(&node).copied().unwrap_or(0) == seen
                && state.letters.get(&node).is_none_or(VecDeque::is_empty)
        };
        drop(self.changed.wait_timeout_while(self.state(), patience, quiet));
    }

    /// The SuperLink has stored a letter for a node; `response` is how it would hand it out.
    pub fn instructed(&self, node: u64, response: Bytes) {
        self.state().letters.entry(node).or_default().push_back(response);
        self.changed.notify_all();
    }

    /// The next letter for a node, for whoever was let in as that node with this proof.
    pub fn letter(&self, node: u64, proof: &[u8; 32]) -> Option<Bytes> {
        if !self.speaks_for(node, proof) {
            return None;
        }
        self.state().letters.get_mut(&node)?.pop_front()
    }

    /// The run that the letters belong to has ended.
    pub fn forget_letters(&self) {
        let mut state = self.state();
        state.letters.clear();
        state.answers.clear();
    }

    /// A reply was announced, and taken by the SuperLink; this one, where it was seen.
    pub fn replied(&self, answer: Option<FlowerMessage>) {
        let mut state = self.state();
        state.replies += 1;
        match answer {
            Some(answer) if state.answers.iter().any(|other| other.metadata == answer.metadata) => {}
            Some(answer) if state.answers.len() < ANSWERS => state.answers.push(answer),
            _ => state.unseen += 1,
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The replies that were seen since this was asked last.
    pub fn answers(&self) -> Vec<FlowerMessage> {
        std::mem::take(&mut self.state().answers)
    }

    /// How many replies were announced that are not among those.
    pub fn unseen(&self) -> u64 {
        self.state().unseen
    }

    /// Waits for a turn to call the SuperLink. None when it is late.
    pub fn turn(&self, patience: Duration) -> Option<Turn<'_>> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |calls: &mut usize| *calls >= TURNS;
        let waited = self.ended.wait_timeout_while(calls, patience, full);
        let (mut calls, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return None;
        }
        *calls += 1;
        Some(Turn(self))
    }

    /// How many replies were announced, and how many objects came.
    pub fn arrivals(&self) -> (u64, u64) {
        let state = self.state();
        (state.replies, state.objects)
    }

    /// Waits until there are more, or it is late.
    pub fn wait_for_arrivals(&self, seen: (u64, u64), patience: Duration) {
        let quiet = |state: &mut State| (state.replies, state.objects) == seen;
        drop(self.changed.wait_timeout_while(self.state(), patience, quiet));
    }

    /// The SuperLink has let somebody in with this proof, and as this node if it says so.
    pub fn prove(&self, proof: [u8; 32], node: Option<u64>) {
        let mut state = self.state();
        let proven = state.proofs.entry(proof).or_insert(Proven { since: Instant::now(), node: None });
        proven.node = node.or(proven.node);
    }

    /// Whether it has, lately.
    pub fn is_proven(&self, proof: &[u8; 32]) -> bool {
        self.state().proofs.get(proof).is_some_and(|proven| proven.since.elapsed() < PROOF)
    }

    /// Whether it has, lately, as this node.
    pub fn speaks_for(&self, node: u64, proof: &[u8; 32]) -> bool {
        let proven = self.state().proofs.get(proof).copied();
        proven.is_some_and(|proven| proven.node == Some(node) && proven.since.elapsed() < PROOF)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parts(text: &'static str) -> [Bytes; 2] {
        [Bytes::from_static(text.as_bytes()), Bytes::new()]
    }

    #[test]
    fn an_object_is_here_for_each_of_its_readers_and_no_longer() {
        let exchange = Exchange::default();
        exchange.expect([("a", 2)].into_iter());
        assert_eq!(exchange.read("a"), Found::Expected);
        exchange.wait_for_object("a", Duration::from_millis(1));
        exchange.issued("a", parts("sum"));
        exchange.wait_for_object("a", Duration::from_secs(600));
        assert_eq!(exchange.read("a"), Found::Here(parts("sum")));
        // Said twice, it is as it was; what nobody expects is not kept.
        exchange.issued("a", parts("other"));
        exchange.issued("b", parts("other"));
        assert_eq!(exchange.read("a"), Found::Here(parts("sum")));
        assert_eq!((exchange.read("a"), exchange.read("b")), (Found::Unknown, Found::Unknown));
    }

    #[test]
    fn what_is_too_much_is_left_to_the_superlink() {
        let exchange = Exchange::default();
        let large = Bytes::from(vec![0; KEPT / 2]);
        for id in ["a", "b", "c"] {
            exchange.stored(id, large.clone());
        }
        assert_eq!(exchange.read("a"), Found::Stored);
        assert_eq!(exchange.read("b"), Found::Here([large.clone(), Bytes::new()]));
        exchange.stored("d", large.clone());
        assert_eq!(exchange.read("c"), Found::Here([large, Bytes::new()]));
        assert_eq!(exchange.arrivals(), (0, 4));
    }

    #[test]
    fn a_ring_makes_a_question_due() {
        let exchange = Exchange::default();
        assert!(exchange.is_due(7));
        exchange.asked(7, Some(exchange.rings(7)));
        assert!(!exchange.is_due(7) && exchange.is_due(8));
        exchange.ring(7);
        assert!(exchange.is_due(7));
        // What was rung for while the SuperLink was asked is not lost.
        exchange.asked(7, Some(0));
        assert!(exchange.is_due(7));
        exchange.wait_for_ring(7, 0, Duration::from_secs(600));
    }

    #[test]
    fn a_letter_is_for_its_node_alone_and_once() {
        let exchange = Exchange::default();
        let letter = Bytes::from_static(b"shares");
        exchange.instructed(7, letter.clone());
        exchange.wait_for_ring(7, 0, Duration::from_secs(600));
        // Nobody, somebody who was let in but not as that node, and another node.
        exchange.prove([1; 32], None);
        exchange.prove([2; 32], Some(8));
        for proof in [[0; 32], [1; 32], [2; 32]] {
            assert!(!exchange.speaks_for(7, &proof));
            assert_eq!(exchange.letter(7, &proof), None);
        }
        exchange.prove([1; 32], Some(7));
        exchange.prove([1; 32], None);
        assert_eq!(exchange.letter(8, &[1; 32]), None);
        assert_eq!(exchange.letter(7, &[1; 32]), Some(letter));
        assert_eq!(exchange.letter(7, &[1; 32]), None);
    }

    #[test]
    fn an_answer_that_is_said_again_is_one() {
        let exchange = Exchange::default();
        let metadata = |run_id| Some(crate::engine::flower::wire::Metadata { run_id, ..Default::default() });
        for run_id in [1, 2, 1] {
            exchange.replied(Some(FlowerMessage { metadata: metadata(run_id), ..Default::default() }));
        }
        exchange.replied(None);
        assert_eq!(exchange.answers().len(), 2);
        assert!(exchange.answers().is_empty());
        assert_eq!((exchange.arrivals(), exchange.unseen()), ((4, 0), 1));
    }

    #[test]
    fn so_many_call_at_a_time_and_the_next_when_one_has_ended() {
        let exchange = Exchange::default();
        let mut turns: Vec<_> =
            (0..TURNS).map(|_| exchange.turn(Duration::from_secs(600)).unwrap()).collect();
        assert!(exchange.turn(Duration::from_millis(10)).is_none());
        turns.pop();
        assert!(exchange.turn(Duration::from_millis(10)).is_some());
    }
}
