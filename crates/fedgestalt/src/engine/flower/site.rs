//! A site's loop: its host on one side, the coordinator's front on the other. Outbound HTTPS only.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use federation::{Action, Outgoing, Party};

use super::coordinator::{enclosed, farewell, is_of_an_attempt, unix};
use super::http::{CallError, Http};
use super::key::LineKey;
use super::letter::Letter;
use super::link::SiteLink;
use super::node::{FleetNode, Pulled, Pushed};
use super::object::{Assembly, MAX_BYTES, Packer, Parcel, pack_error};
use super::runtime::SUPERLINK;
use super::wire::{FlowerError, FlowerMessage, Metadata, ObjectTree};
use crate::engine::host::{Event, SiteHost};

/// Between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Pauses between questions for new instructions, while there is something going on and when there is not.
const PAUSE: (Duration, Duration) = (Duration::from_millis(30), Duration::from_millis(1000));
/// What takes so long was no answer given at once.
const WAITED: Duration = Duration::from_millis(100);
/// From when on a site that has nothing to do is idle.
const IDLE: Duration = Duration::from_millis(200);
/// How long nothing must have been going on before the SuperLink is made to drop what was read, and how many instructions with
/// objects are left with it at most.
const TIDY: Duration = super::coordinator::IDLE;
const READ: usize = 16;
/// Pauses before the line is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A line that was up for so long is tried again soon.
const SETTLED: Duration = Duration::from_secs(5);
/// How long an object may be announced and not there.
const ARRIVAL: Duration = Duration::from_secs(240);
/// How long a site that has said farewell waits for a line that is down.
const LINGER: Duration = Duration::from_secs(60);
/// Flower's number for an answer that only says no.
const REFUSED: i64 = 100;

/// What it takes to answer an instruction.
#[derive(Debug, Clone)]
struct Ticket {
    run_id: u64,
    message: String,
    expires: f64,
}

/// What happens at a site besides the federation, and who is told of it.
pub trait Desk<S> {
    /// Called a few times a second: what a person asks of this site now.
    ///
    /// # Errors
    ///
    /// What should end the program.
    fn attend(&mut self, host: &mut S) -> Result<Vec<Action>>;
    /// Something worth a line.
    fn event(&mut self, event: &Event);
    /// The line is up (`None`) or down, and why.
    fn line(&mut self, fault: Option<&str>);
    /// The number of this node, to be known after a restart.
    ///
    /// # Errors
    ///
    /// When it cannot be kept.
    fn activated(&mut self, node: u64) -> Result<()>;
    /// Whether this site's part is over for good: the loop says farewell, and ends when the coordinator has heard it.
    fn done(&mut self, host: &mut S) -> bool;
    /// Whether the loop shall end now.
    fn stop(&mut self, host: &mut S) -> bool;
}

/// The engine at a site.
pub struct Outpost<'a, S> {
    host: &'a mut S,
    http: Http,
    key: Arc<LineKey>,
    link: SiteLink<Ticket>,
    queue: VecDeque<Action>,
    /// An answer that was begun: after a cut it is finished, not begun anew.
    begun: Option<(Letter, Ticket, Parcel)>,
    /// Instructions that were taken in, with their runs, and whose objects the SuperLink may drop.
    read: Vec<(u64, String)>,
    node: Option<u64>,
    woken: bool,
    /// Since when the farewell is on its way.
    leaving: Option<Instant>,
}

/// Why the line broke.
enum Broken {
    /// Worth trying again.
    Line(CallError),
    /// Not.
    Fatal(anyhow::Error),
}

impl From<anyhow::Error> for Broken {
    fn from(error: anyhow::Error) -> Self {
        Self::Fatal(error)
    }
}

impl From<CallError> for Broken {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Certificate { .. } => Self::Fatal(error.into()),
            error => Self::Line(error),
        }
    }
}

impl<'a, S: SiteHost> Outpost<'a, S> {
    /// An engine that has said nothing yet. `process` names this process and is not 0; `node` is the number that
    /// [`Desk::activated`] was told in an earlier one.
    pub fn new(host: &'a mut S, http: Http, key: Arc<LineKey>, process: u64, node: Option<u64>) -> Self {
        let (link, queue) = (SiteLink::new(process), VecDeque::new());
        let read = Vec::new();
        Self { host, http, key, link, queue, begun: None, read, node, woken: false, leaving: None }
    }

    /// Queues what the site does first.
    pub fn submit(&mut self, actions: Vec<Action>) {
        self.queue.extend(actions);
    }

    /// Runs until the desk ends it. A line that is down is tried again and again.
    ///
    /// # Errors
    ///
    /// When the other side's certificate is wrong, or the site's own work fails.
    pub fn run(&mut self, desk: &mut dyn Desk<S>) -> Result<()> {
        let mut pause = BACKOFF.0;
        loop {
            let began = Instant::now();
            match self.connected(desk) {
                Ok(()) => return Ok(()),
                Err(Broken::Fatal(error)) => return Err(error),
                Err(Broken::Line(error)) => {
                    desk.line(Some(&error.to_string()));
                    if began.elapsed() > SETTLED {
                        pause = BACKOFF.0;
                    }
                    let until = Instant::now() + jitter(pause);
                    while Instant::now() < until {
                        thread::sleep(Duration::from_millis(50));
                        if desk.stop(self.host) {
                            return Ok(());
                        }
                        // Of interest to the coordinator only, which may have ended.
                        if self.leaving.is_some_and(|since| since.elapsed() > LINGER) {
                            return Ok(());
                        }
                    }
                    pause = (pause * 2).min(BACKOFF.1);
                }
            }
        }
    }

    fn connected(&mut self, desk: &mut dyn Desk<S>) -> Result<(), Broken> {
        let (http, key) = (self.http.clone(), self.key.clone());
        let node = FleetNode::activate(&http, &key, self.node).map_err(|error| match error {
            CallError::Refused { path, status, detail } if status != 502 => CallError::Refused {
                path,
                status,
                detail: format!(
                    "the coordinator does not let this site in: its key is not registered there (is this site in the \
                     roster?), or it runs elsewhere at the same time ({detail})"
                ),
            },
            error => error,
        })?;
        self.node = Some(node.id());
        desk.activated(node.id())?;
        desk.line(None);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| beat(&node, &done));
            let result = self.talk(&node, desk);
            done.store(true, Ordering::Relaxed);
            if result.is_ok() {
                let _ = node.deactivate();
            }
            result
        })
    }

    fn talk(&mut self, node: &FleetNode<'_>, desk: &mut dyn Desk<S>) -> Result<(), Broken> {
        if !self.woken {
            self.woken = true;
            let actions = self.host.rejoin()?;
            self.queue.extend(actions);
        }
        let mut pause = PAUSE.0;
        let mut busy = Instant::now();
        loop {
            self.perform(desk)?;
            if self.leaving.is_none() && desk.done(self.host) {
                self.leaving = Some(Instant::now());
                self.link.post(farewell());
            }
            let answered = self.answer(node, busy.elapsed() > IDLE)?;
            let heard = self.link.backlog() == 0 && self.begun.is_none();
            if self.leaving.is_some() && heard {
                return Ok(());
            }
            if desk.stop(self.host) {
                self.answer(node, true)?;
                return Ok(());
            }
            let asked = desk.attend(self.host)?;
            let any = !asked.is_empty();
            self.queue.extend(asked);
            if answered || any {
                // Saying it may have taken a while.
                busy = Instant::now();
            }
            if busy.elapsed() > TIDY || self.read.len() > READ {
                self.confirm(node)?;
            }
            let asked = Instant::now();
            let taken = match node.pull_message()? {
                Some((message, tree)) => {
                    self.take(node, &message, &tree, desk)?;
                    true
                }
                None => false,
            };
            if taken {
                busy = Instant::now();
            }
            if answered || any || taken {
                pause = PAUSE.0;
            } else if asked.elapsed() < WAITED {
                // Not with a front that waits for instructions itself.
                thread::sleep(pause);
                pause = (pause * 6 / 5).min(PAUSE.1);
            }
        }
    }

    /// Takes one instruction in. What is none of ours is answered with an error.
    fn take(
        &mut self,
        node: &FleetNode<'_>,
        message: &FlowerMessage,
        tree: &ObjectTree,
        desk: &mut dyn Desk<S>,
    ) -> Result<(), Broken> {
        let Some(metadata) = &message.metadata else { return Ok(()) };
        let ticket = Ticket {
            run_id: metadata.run_id,
            message: metadata.message_id.clone(),
            expires: metadata.created_at + metadata.ttl,
        };
        let letter = match fetch(node, metadata.run_id, message) {
            Ok(Some(letter)) => letter,
            // Of a run that has ended, or given up by the coordinator.
            Ok(None) => return Ok(()),
            Err(Unread::Broken(error)) => return Err(error.into()),
            Err(Unread::Foreign(error)) => return self.refuse(node, &ticket, &format!("{error:#}"), desk),
        };
        // One without objects leaves nothing with the SuperLink that a word of ours could make it drop.
        if !tree.children.is_empty() {
            self.read.push((ticket.run_id, ticket.message.clone()));
        }
        let received = self.link.take(letter, ticket, is_of_an_attempt);
        if received.rejoin {
            let actions = self.host.rejoin()?;
            self.queue.extend(actions);
            self.perform(desk)?;
        }
        for message in received.messages {
            match self.host.handle(message.bytes) {
                Ok(actions) => {
                    self.queue.extend(actions);
                    self.perform(desk)?;
                }
                Err(refusal) => {
                    desk.event(&Event::Refused(Party::Coordinator, format!("{}: {refusal}", message.kind)));
                }
            }
        }
        Ok(())
    }

    /// Lets the SuperLink drop what was taken in.
    fn confirm(&mut self, node: &FleetNode<'_>) -> Result<(), Broken> {
        while let Some((run_id, message)) = self.read.pop() {
            match node.confirm(run_id, &message) {
                Ok(()) | Err(CallError::Refused { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn refuse(
        &mut self,
        node: &FleetNode<'_>,
        ticket: &Ticket,
        what: &str,
        desk: &mut dyn Desk<S>,
    ) -> Result<(), Broken> {
        let what: String = what.chars().filter(|c| !c.is_control()).take(300).collect();
        desk.event(&Event::Refused(Party::Coordinator, format!("not a message of the federation: {what}")));
        self.host.foreign(&what)?;
        let metadata = reply_metadata(node, ticket);
        let reason = format!("this site takes messages of the federation only ({what})");
        let error = Some(FlowerError { code: REFUSED, reason });
        let parcel = pack_error(FlowerMessage { metadata: Some(metadata), content: None, error });
        match node.push(ticket.run_id, &parcel) {
            Ok(_) | Err(CallError::Refused { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Says what there is to say. True when something was.
    fn answer(&mut self, node: &FleetNode<'_>, idle: bool) -> Result<bool, Broken> {
        let mut any = false;
        loop {
            if self.begun.is_none() {
                let Some((ticket, letter)) = self.link.answer(idle) else { return Ok(any) };
                let (header, arrays) = letter.write();
                let metadata = Some(reply_metadata(node, &ticket));
                let message = FlowerMessage { metadata, content: None, error: None };
                let parcel = Packer::default().pack(message, &header, &arrays);
                self.begun = Some((letter, ticket, parcel));
            }
            any = true;
            let Some((letter, ticket, parcel)) = &self.begun else { return Ok(any) };
            match node.push(ticket.run_id, parcel) {
                Ok(Pushed::Whole) => {}
                // After a cut all of it may have arrived, or a part that a SuperLink killed meanwhile does not let be
                // completed. It is said again with another ticket: what had arrived is known by its number.
                Ok(Pushed::Unwanted) => self.link.dead(letter),
                Err(error @ CallError::Refused { .. }) if !error.is_passing() && !error.is_unauthorised() => {
                    tracing::info!(%error, "an answer is not wanted any more");
                    self.link.dead(letter);
                }
                Err(error) => return Err(error.into()),
            }
            self.begun = None;
        }
    }

    /// Performs what is queued; what follows an action comes before what was queued behind it.
    fn perform(&mut self, desk: &mut dyn Desk<S>) -> Result<()> {
        while let Some(action) = self.queue.pop_front() {
            match action {
                Action::Send(message) => self.send(&message)?,
                action => {
                    if let Action::Notice(text) = &action {
                        desk.event(&Event::Notice(Party::Coordinator, text.clone()));
                    }
                    let more = self.host.perform(action)?;
                    for action in more.into_iter().rev() {
                        self.queue.push_front(action);
                    }
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, message: &Outgoing) -> Result<()> {
        self.host.sends(message)?;
        self.link.post(enclosed(message));
        Ok(())
    }
}

/// Why an instruction could not be read.
enum Unread {
    Broken(CallError),
    Foreign(anyhow::Error),
}

/// Fetches an instruction's objects. `None`: it is gone.
fn fetch(node: &FleetNode<'_>, run_id: u64, message: &FlowerMessage) -> Result<Option<Letter>, Unread> {
    let mut assembly = Assembly::new(message, MAX_BYTES).map_err(Unread::Foreign)?;
    let mut since = Instant::now();
    while let Some(id) = assembly.wants().map(str::to_owned) {
        match node.pull_object(run_id, &id) {
            Ok(Pulled::Object(content)) => {
                assembly.take(content).map_err(Unread::Foreign)?;
                since = Instant::now();
            }
            Ok(Pulled::NotYet) if since.elapsed() < ARRIVAL => thread::sleep(Duration::from_millis(40)),
            Ok(Pulled::NotYet | Pulled::Gone) => return Ok(None),
            Err(error @ CallError::Refused { .. }) if !error.is_passing() && !error.is_unauthorised() => {
                tracing::debug!(%error, "an instruction of a run that is over");
                return Ok(None);
            }
            Err(error) => return Err(Unread::Broken(error)),
        }
    }
    let (header, arrays) = assembly.finish().map_err(Unread::Foreign)?;
    Letter::read(header, arrays).map(Some).map_err(Unread::Foreign)
}

fn reply_metadata(node: &FleetNode<'_>, ticket: &Ticket) -> Metadata {
    let now = unix();
    Metadata {
        run_id: ticket.run_id,
        src_node_id: node.id(),
        dst_node_id: SUPERLINK,
        reply_to_message_id: ticket.message.clone(),
        ttl: (ticket.expires - now).max(1.0),
        message_type: "query".to_owned(),
        created_at: now,
        ..Metadata::default()
    }
}

/// Heartbeats while the site works or waits.
fn beat(node: &FleetNode<'_>, done: &AtomicBool) {
    let mut last = Instant::now();
    while !done.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(50));
        if last.elapsed() > HEARTBEAT {
            last = Instant::now();
            if let Err(error) = node.heartbeat() {
                tracing::debug!(%error, "a heartbeat did not arrive");
            }
        }
    }
}

/// A pause between half and all of what is given.
fn jitter(pause: Duration) -> Duration {
    let mut byte = [0; 1];
    let _ = getrandom::fill(&mut byte);
    pause / 2 + pause * u32::from(byte[0]) / 512
}
