//! What the front and the coordinator's loop, which run in one process, know together.
//!
//! Everything that sites and coordinator say goes through the SuperLink. But a SuperLink asked thousands of times whether
//! there is anything new, and for every object once more by everybody, is busy with little else. So the front keeps what has
//! just been stored in memory until it was read, and tells each side when asking is worth while. It can be thrown away at
//! any time: what is not here is asked for at the SuperLink.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prost::bytes::Bytes;

/// Bytes of objects from sites that are kept; of what is beyond it only that it is stored.
const KEPT: usize = 64 << 20;
/// How long an object that nobody reads is remembered.
const AGE: Duration = Duration::from_secs(120);
/// Between questions to the SuperLink about a node for which nothing was issued.
const ASK: Duration = Duration::from_secs(10);
/// For how long a proof that the SuperLink has taken is taken here; it takes them for five minutes.
const PROOF: Duration = Duration::from_secs(60);

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Here: head and body, or all of it and nothing.
    Here([Bytes; 2]),
    /// Stored, but not here.
    Stored,
    /// Nothing is known of it.
    Unknown,
}

#[derive(Debug)]
struct Kept {
    content: Option<[Bytes; 2]>,
    readers: usize,
    since: Instant,
}

/// When the SuperLink had nothing for a node, and how often it had been rung for by then.
#[derive(Debug, Clone, Copy)]
struct Asked {
    rings: u64,
    at: Instant,
}

#[derive(Debug, Default)]
struct State {
    proofs: BTreeMap<[u8; 32], Instant>,
    rings: BTreeMap<u64, u64>,
    asked: BTreeMap<u64, Asked>,
    replies: u64,
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
        self.proofs.retain(|_, at| at.elapsed() < PROOF);
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

    /// The coordinator has stored objects that so many sites will read. Their memory is the coordinator's own.
    pub fn issued<'a>(&self, objects: impl Iterator<Item = (&'a str, [Bytes; 2], usize)>) {
        let mut state = self.state();
        state.forget_old();
        for (id, content, readers) in objects {
            let kept = Kept { content: Some(content), readers, since: Instant::now() };
            state.kept.insert(id.to_owned(), kept);
        }
    }

    /// A site has stored an object, which the coordinator will read.
    pub fn stored(&self, id: &str, content: Bytes) {
        let mut state = self.state();
        state.bytes += content.len();
        let content = Some([content, Bytes::new()]);
        state.kept.insert(id.to_owned(), Kept { content, readers: 1, since: Instant::now() });
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

    /// Waits until it is rung for a node, or it is late.
    pub fn wait_for_ring(&self, node: u64, seen: u64, patience: Duration) {
        let quiet = |state: &mut State| state.rings.get(&node).copied().unwrap_or(0) == seen;
        drop(self.changed.wait_timeout_while(self.state(), patience, quiet));
    }

    /// A reply was announced.
    pub fn replied(&self) {
        self.state().replies += 1;
        self.changed.notify_all();
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

    /// The SuperLink has let somebody in with this proof.
    pub fn prove(&self, proof: [u8; 32]) {
        self.state().proofs.entry(proof).or_insert_with(Instant::now);
    }

    /// Whether it has, lately.
    pub fn is_proven(&self, proof: &[u8; 32]) -> bool {
        self.state().proofs.get(proof).is_some_and(|at| at.elapsed() < PROOF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &'static str) -> [Bytes; 2] {
        [Bytes::from_static(text.as_bytes()), Bytes::new()]
    }

    #[test]
    fn an_object_is_here_for_each_of_its_readers_and_no_longer() {
        let exchange = Exchange::default();
        exchange.issued([("a", parts("sum"), 2)].into_iter());
        assert_eq!(exchange.read("a"), Found::Here(parts("sum")));
        assert_eq!(exchange.read("a"), Found::Here(parts("sum")));
        assert_eq!(exchange.read("a"), Found::Unknown);
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
}
