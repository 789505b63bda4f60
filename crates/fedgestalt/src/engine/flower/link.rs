//! What makes letters arrive once and in order, whatever is lost between coordinator and site.
//!
//! A node of Flower can only answer: one reply to each instruction. So the coordinator keeps every site supplied with
//! *tickets*, instructions that the site may answer at any time, hours later if it must train first. A ticket carries
//! messages or none; so does its answer. Flower may lose either (a site that is killed with an instruction in hand, a cut
//! line, a reply to an instruction that has expired, a run that ended), and tells nobody. Both sides therefore number
//! their messages from 1, keep them until they are acknowledged and name the tickets that are lost. A process that was
//! restarted has another number ([`Letter::from`]) and counts anew.
//!
//! Nothing here knows clocks or sockets: times are arguments, in seconds from any zero.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::letter::{Enclosed, Letter, MAX_MESSAGES};

/// A letter takes further messages until it has this many bytes.
const BATCH: usize = 1 << 20;
/// Seconds after which a second ticket asks for the fate of one that carried messages; then twice as long, and so on.
const PROBE: f64 = 15.0;
/// The same for one that carried none.
const IDLE_PROBE: f64 = 300.0;
/// Seconds without an open ticket after which the site gets one that says nothing; until then something to say may come.
const GRACE: f64 = 1.0;
/// A gap in the tickets' numbers that is believed.
const MAX_GAP: u64 = 1000;

/// Messages that are kept until the other side has dealt with them.
#[derive(Debug, Default)]
struct Outbox {
    kept: VecDeque<(u64, Enclosed)>,
    /// Number of the last message.
    last: u64,
    /// Number of the last message that is on its way.
    sent: u64,
}

impl Outbox {
    fn post(&mut self, message: Enclosed) {
        self.last += 1;
        self.kept.push_back((self.last, message));
    }

    fn acknowledge(&mut self, ack: u64) {
        while self.kept.front().is_some_and(|(number, _)| *number <= ack.min(self.last)) {
            self.kept.pop_front();
        }
        self.sent = self.sent.max(ack.min(self.last));
    }

    fn unsent(&self) -> bool {
        self.kept.back().is_some_and(|(number, _)| *number > self.sent)
    }

    /// The next messages for one letter, and the number of the first.
    fn batch(&self) -> (u64, Vec<Enclosed>) {
        let mut bytes = 0;
        let mut messages = Vec::new();
        for (_, message) in self.kept.iter().filter(|(number, _)| *number > self.sent) {
            if !messages.is_empty() && (bytes + message.bytes.len() > BATCH || messages.len() == MAX_MESSAGES)
            {
                break;
            }
            bytes += message.bytes.len();
            messages.push(message.clone());
        }
        (self.sent + 1, messages)
    }

    /// What was sent from this number on must be sent again.
    fn again(&mut self, first: u64) {
        if first > 0 {
            // What is acknowledged is not kept and not sent again.
            let kept = self.kept.front().map_or(self.last, |(number, _)| number - 1);
            self.sent = self.sent.min(kept.max(first - 1));
        }
    }

    /// Counts anew for a receiver that has seen nothing.
    fn renumber(&mut self) {
        self.sent = 0;
        self.last = 0;
        for (number, _) in &mut self.kept {
            self.last += 1;
            *number = self.last;
        }
    }
}

/// Takes the messages that are new and in order. The second value is false when some were missing before them.
fn accept(handled: &mut u64, first: u64, messages: Vec<Enclosed>) -> (Vec<Enclosed>, bool) {
    let mut fresh = Vec::new();
    for (number, message) in (first..).zip(messages) {
        if number > *handled + 1 {
            return (fresh, false);
        }
        if number == *handled + 1 {
            *handled = number;
            fresh.push(message);
        }
    }
    (fresh, true)
}

/// A ticket that the site has not answered.
#[derive(Debug)]
struct Open {
    /// The Flower message it is.
    message: String,
    /// Number of its first message; 0 for none.
    first: u64,
    lost: Vec<u64>,
    hello: bool,
    at: f64,
}

/// The coordinator's end of the line to one site.
#[derive(Debug)]
pub struct CoordinatorLink {
    me: u64,
    peer: u64,
    out: Outbox,
    received: u64,
    open: BTreeMap<u64, Open>,
    /// When the last ticket was answered.
    answered: f64,
    lost: BTreeSet<u64>,
    tickets: u64,
    hello: bool,
    /// Give the site a ticket whatever is open.
    back: bool,
    /// Another process answers than before.
    reborn: bool,
}

impl CoordinatorLink {
    /// A line on which nothing was said. `me` names this process and is not 0.
    pub fn new(me: u64) -> Self {
        Self {
            me,
            peer: 0,
            out: Outbox::default(),
            received: 0,
            open: BTreeMap::new(),
            answered: f64::NEG_INFINITY,
            lost: BTreeSet::new(),
            tickets: 0,
            hello: false,
            back: false,
            reborn: false,
        }
    }

    /// Leaves a message for the site.
    pub fn post(&mut self, message: Enclosed) {
        self.out.post(message);
    }

    /// Messages that the site has not dealt with.
    pub fn backlog(&self) -> usize {
        self.out.kept.len()
    }

    /// Whether the site has said anything to this process.
    pub fn is_heard(&self) -> bool {
        self.peer != 0
    }

    /// Tells the site at once what has arrived, whatever tickets are open.
    pub fn acknowledge_now(&mut self) {
        self.back = true;
    }

    /// Gives up what the site has not dealt with; it will be asked to say where it stands.
    pub fn drop_backlog(&mut self) {
        if !self.out.kept.is_empty() {
            self.out.kept.clear();
            self.out.sent = self.out.last;
            self.hello = true;
        }
    }

    /// Whether a ticket should be issued now.
    pub fn is_due(&self, now: f64) -> bool {
        let told = |lost: &u64| self.open.values().any(|open| open.lost.contains(lost));
        (self.open.is_empty() && now - self.answered > GRACE)
            || self.back
            || self.out.unsent()
            || !self.lost.iter().all(told)
            || (self.hello && !self.open.values().any(|open| open.hello))
            || self.open.last_key_value().is_some_and(|(_, newest)| now - newest.at > self.patience())
    }

    /// How long an open ticket is left alone before another asks for its fate; a site at work answers none.
    fn patience(&self) -> f64 {
        if self.open.values().any(|open| open.first > 0 || open.hello) {
            PROBE * f64::from(1u32 << (self.open.len() - 1).min(6))
        } else {
            IDLE_PROBE
        }
    }

    /// The next ticket. Nothing changes before [`CoordinatorLink::issued`].
    pub fn draft(&self) -> Letter {
        let (first, messages) = self.out.batch();
        Letter {
            from: self.me,
            to: self.peer,
            ticket: self.tickets + 1,
            ack: self.received,
            first,
            lost: self.lost.iter().copied().collect(),
            hello: self.hello,
            messages,
        }
    }

    /// The draft is on its way as this Flower message.
    pub fn issued(&mut self, draft: &Letter, message: String, now: f64) {
        self.tickets = draft.ticket;
        self.back = false;
        self.out.sent += draft.messages.len() as u64;
        let first = if draft.messages.is_empty() { 0 } else { draft.first };
        let open = Open { message, first, lost: draft.lost.clone(), hello: draft.hello, at: now };
        self.open.insert(draft.ticket, open);
    }

    /// The Flower messages whose replies are awaited, with their tickets.
    pub fn awaited(&self) -> impl Iterator<Item = (u64, &str)> {
        self.open.iter().map(|(&ticket, open)| (ticket, open.message.as_str()))
    }

    /// Whether another process of the site has answered since this was asked last.
    pub fn was_reborn(&mut self) -> bool {
        std::mem::take(&mut self.reborn)
    }

    /// No answer to this ticket will come. What it carried is sent again.
    pub fn give_up(&mut self, ticket: u64) {
        if let Some(open) = self.open.remove(&ticket) {
            self.lost.insert(ticket);
            self.out.again(open.first);
        }
    }

    /// The site has come back, perhaps as another process. Tickets but those whose answer is arriving are given up.
    pub fn came_back(&mut self, arriving: impl Fn(u64) -> bool) {
        let gone: Vec<u64> = self.open.keys().copied().filter(|&ticket| !arriving(ticket)).collect();
        gone.into_iter().for_each(|ticket| self.give_up(ticket));
        self.back = true;
    }

    /// No answer to any ticket will come: the run has ended.
    pub fn give_up_all(&mut self) {
        while let Some((&ticket, _)) = self.open.first_key_value() {
            self.give_up(ticket);
        }
    }

    /// Takes the answer to a ticket and returns the messages in it that are new.
    pub fn answered(&mut self, ticket: u64, letter: Letter, now: f64) -> Vec<Enclosed> {
        let Some(open) = self.open.remove(&ticket) else { return Vec::new() };
        self.answered = now;
        if letter.from != self.peer {
            // Another process: whatever was with the one before is gone.
            let older: Vec<u64> = self.open.range(..ticket).map(|(&older, _)| older).collect();
            older.into_iter().for_each(|older| self.give_up(older));
            if self.peer != 0 {
                self.out.renumber();
                self.open.values_mut().for_each(|open| open.first = 0);
                self.reborn = true;
            }
            self.peer = letter.from;
            self.received = 0;
        }
        self.lost.retain(|lost| !open.lost.contains(lost));
        self.hello &= !open.hello;
        if letter.to != self.me {
            self.out.again(open.first);
            return Vec::new();
        }
        self.out.acknowledge(letter.ack);
        let tickets = self.tickets;
        for lost in letter.lost.into_iter().filter(|lost| *lost <= tickets) {
            self.give_up(lost);
            // The site asks until it is told that the coordinator knows.
            self.lost.insert(lost);
        }
        let (fresh, whole) = accept(&mut self.received, letter.first, letter.messages);
        if !whole {
            self.lost.insert(ticket);
        }
        fresh
    }
}

/// What came with a ticket.
#[derive(Debug, Default)]
pub struct Received {
    /// New messages, in order.
    pub messages: Vec<Enclosed>,
    /// The coordinator has lost sight of this site, or is another process: say where you stand.
    pub rejoin: bool,
}

/// A site's end of the line. `T` is what it takes to answer a ticket.
#[derive(Debug)]
pub struct SiteLink<T> {
    me: u64,
    peer: u64,
    out: Outbox,
    handled: u64,
    /// As far as the coordinator was told.
    acked: u64,
    /// Tickets in hand.
    hand: BTreeMap<u64, T>,
    /// Answers under way: ticket, numbers of the first and the last message.
    flights: BTreeMap<u64, (u64, u64)>,
    /// The highest ticket seen.
    seen: u64,
    missing: BTreeSet<u64>,
}

impl<T: Clone> SiteLink<T> {
    /// A line on which nothing was said. `me` names this process and is not 0.
    pub fn new(me: u64) -> Self {
        Self {
            me,
            peer: 0,
            out: Outbox::default(),
            handled: 0,
            acked: 0,
            hand: BTreeMap::new(),
            flights: BTreeMap::new(),
            seen: 0,
            missing: BTreeSet::new(),
        }
    }

    /// Leaves a message for the coordinator.
    pub fn post(&mut self, message: Enclosed) {
        self.out.post(message);
    }

    /// Messages that the coordinator has not dealt with.
    pub fn backlog(&self) -> usize {
        self.out.kept.len()
    }

    /// Takes a ticket. `stale` says which messages mean nothing to a coordinator that was restarted.
    pub fn take(&mut self, letter: Letter, ticket: T, stale: impl Fn(&Enclosed) -> bool) -> Received {
        let mut received = Received::default();
        if letter.from != self.peer {
            received.rejoin = self.peer != 0;
            if self.peer != 0 {
                self.out.kept.retain(|(_, message)| !stale(message));
            }
            self.out.renumber();
            self.peer = letter.from;
            (self.handled, self.acked) = (0, 0);
            self.hand.clear();
            self.flights.clear();
            self.missing.clear();
            self.seen = 0;
        }
        // Flower hands some out again, in hand or answered: nothing in them is new, and a ticket answered twice would forget
        // what its first answer carried.
        if letter.ticket <= self.seen && !self.missing.contains(&letter.ticket) {
            return received;
        }
        if self.seen != 0 && letter.ticket > self.seen && letter.ticket - self.seen < MAX_GAP {
            self.missing.extend(self.seen + 1..letter.ticket);
        }
        self.missing.remove(&letter.ticket);
        self.seen = self.seen.max(letter.ticket);
        for lost in &letter.lost {
            self.missing.remove(lost);
            self.hand.remove(lost);
            if let Some((first, _)) = self.flights.remove(lost) {
                self.out.again(first);
            }
        }
        if letter.to == self.me {
            self.out.acknowledge(letter.ack);
            let kept = self.out.kept.front().map_or(u64::MAX, |(number, _)| *number);
            self.flights.retain(|_, (_, last)| *last >= kept);
        }
        if letter.to == self.me || letter.to == 0 {
            if letter.hello {
                received.rejoin = true;
                self.handled = self.handled.max(letter.first.saturating_sub(1));
            }
            let (fresh, whole) = accept(&mut self.handled, letter.first, letter.messages);
            received.messages = fresh;
            if !whole {
                // Known to the coordinator as lost, it is sent again behind what is missing.
                self.missing.insert(letter.ticket);
                return received;
            }
        }
        self.hand.insert(letter.ticket, ticket);
        received
    }

    /// The next answer, if there is something to say and a ticket to say it with. An `idle` site acknowledges what it has
    /// dealt with, even if it has nothing else to say.
    pub fn answer(&mut self, idle: bool) -> Option<(T, Letter)> {
        let says = self.out.unsent()
            || self.hand.len() > 1
            || !self.missing.is_empty()
            || (idle && self.handled > self.acked);
        if !says {
            return None;
        }
        let (number, ticket) = self.hand.pop_first()?;
        let (first, messages) = self.out.batch();
        self.out.sent += messages.len() as u64;
        self.acked = self.handled;
        if !messages.is_empty() {
            self.flights.insert(number, (first, self.out.sent));
        }
        let letter = Letter {
            from: self.me,
            to: self.peer,
            ticket: number,
            ack: self.handled,
            first,
            lost: self.missing.iter().copied().collect(),
            hello: false,
            messages,
        };
        Some((ticket, letter))
    }

    /// The answer could not be sent; the ticket may be tried again.
    pub fn failed(&mut self, letter: &Letter, ticket: T) {
        self.dead(letter);
        self.hand.insert(letter.ticket, ticket);
    }

    /// The SuperLink does not take an answer to this ticket any more.
    pub fn dead(&mut self, letter: &Letter) {
        self.acked = 0;
        if let Some((first, _)) = self.flights.remove(&letter.ticket) {
            self.out.again(first);
        }
    }
}

#[cfg(test)]
mod tests;
