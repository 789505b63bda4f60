//! What comes from the sites.

use std::time::{Duration, Instant};

use anyhow::Result;
use federation::{Party, SiteIndex};

use super::{Arriving, Hub, REBIRTHS, Watcher, farewell, seconds, tell};
use crate::engine::flower::exchange::Found;
use crate::engine::flower::letter::Letter;
use crate::engine::flower::node::Pulled;
use crate::engine::flower::object::{Assembly, MAX_BYTES};
use crate::engine::flower::runtime::{RunClient, SUPERLINK};
use crate::engine::flower::wire::{FlowerMessage, ObjectTree};
use crate::engine::host::{CoordinatorHost, Event};

/// How long an object is waited for before the SuperLink is asked for it.
const ARRIVAL: Duration = Duration::from_millis(400);

impl<C: CoordinatorHost> Hub<'_, C> {
    /// Takes note of a reply; its objects are fetched as they arrive.
    pub(super) fn reply(
        &mut self,
        site: SiteIndex,
        ticket: u64,
        reply: &FlowerMessage,
        tree: &ObjectTree,
        watcher: &mut dyn Watcher,
    ) {
        let Some(line) = self.lines.get_mut(&site) else { return };
        let fault = match &reply.error {
            Some(error) => Some(error.reason.clone()),
            None => {
                let message = tree.object_id.clone();
                let assembly = Assembly::new(tree, MAX_BYTES);
                self.arriving.push(Arriving { site, ticket, message, assembly, asked: Instant::now() });
                None
            }
        };
        if let Some(fault) = fault {
            line.link.give_up(ticket);
            // The SuperLink's own errors (node away, message expired) are part of life; a site's are not.
            if reply.metadata.as_ref().is_some_and(|metadata| metadata.src_node_id != SUPERLINK) {
                let text: String = fault.chars().filter(|c| !c.is_control()).take(300).collect();
                tell(&mut self.events, watcher, Event::Refused(Party::Site(site), text));
            }
        }
    }

    /// Takes in what has arrived of the replies under way.
    pub(super) fn assemble(&mut self, watcher: &mut dyn Watcher) -> Result<bool> {
        let Some(run) = self.run.clone() else { return Ok(false) };
        let http = self.http.clone();
        let client = RunClient { http: &http, run: &run };
        let (mut busy, mut whole, mut rest) = (false, Vec::new(), Vec::new());
        let mut failed = None;
        for mut arriving in std::mem::take(&mut self.arriving) {
            let site = arriving.site;
            let mut gone = None;
            while let (Some(id), None) = (arriving.assembly.wants().map(str::to_owned), &failed) {
                let found = match self.exchange.read(&id) {
                    Found::Here([content, _]) => Ok(Pulled::Object(content)),
                    // It was stored before, or in one of the ways in which it cannot be seen from here.
                    Found::Unknown if arriving.asked.elapsed() < ARRIVAL => break,
                    Found::Stored | Found::Unknown => client.pull_object(&id),
                };
                arriving.asked = Instant::now();
                match found {
                    Ok(Pulled::Object(content)) => {
                        busy = true;
                        if let Err(error) = arriving.assembly.take(content) {
                            gone = Some(format!("{error:#}"));
                            break;
                        }
                    }
                    Ok(Pulled::NotYet) => break,
                    Ok(Pulled::Gone) => {
                        gone = Some("its upload was not finished".to_owned());
                        break;
                    }
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(reason) = gone {
                tell(&mut self.events, watcher, Event::Refused(Party::Coordinator, reason));
                if let Some(line) = self.lines.get_mut(&site) {
                    line.link.give_up(arriving.ticket);
                }
            } else if arriving.assembly.wants().is_none() {
                whole.push(arriving);
            } else {
                rest.push(arriving);
            }
        }
        self.arriving = rest;
        for arriving in whole {
            self.read.push(arriving.message.clone());
            self.arrived(arriving, watcher)?;
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(busy),
        }
    }

    /// Lets the SuperLink drop what was taken in, when there is nothing better to do.
    pub(super) fn confirm(&mut self) -> Result<()> {
        let Some(run) = &self.run else { return Ok(()) };
        while let Some(message) = self.read.pop() {
            RunClient { http: &self.http, run }.confirm(&message)?;
        }
        Ok(())
    }

    fn arrived(&mut self, arriving: Arriving, watcher: &mut dyn Watcher) -> Result<()> {
        let site = arriving.site;
        let letter = arriving.assembly.finish().and_then(|(header, arrays)| Letter::read(header, arrays));
        let Some(line) = self.lines.get_mut(&site) else { return Ok(()) };
        let messages = match letter {
            Ok(letter) => {
                line.up += letter.len();
                line.link.answered(arriving.ticket, letter, seconds())
            }
            Err(error) => {
                line.link.give_up(arriving.ticket);
                tell(&mut self.events, watcher, Event::Refused(Party::Coordinator, format!("{error:#}")));
                return Ok(());
            }
        };
        for message in messages {
            if message == farewell() {
                if let Some(line) = self.lines.get_mut(&site) {
                    line.left = Some(Instant::now());
                    line.link.acknowledge_now();
                }
                watcher.left(site)?;
                continue;
            }
            let size = message.bytes.len() as u64;
            *self.traffic.up.entry((site, "all")).or_default() += size;
            match self.host.handle(message.bytes) {
                Ok(actions) => {
                    self.queue.extend(actions);
                    self.perform(watcher)?;
                }
                Err(refusal) => {
                    tell(&mut self.events, watcher, Event::Refused(Party::Coordinator, refusal.to_string()));
                }
            }
        }
        let reborn = self.lines.get_mut(&site).is_some_and(|line| line.link.was_reborn());
        let standing = self.host.standing();
        let times = self.reborn.entry(standing.stage).or_default();
        if reborn && standing.summing && *times < REBIRTHS {
            *times += 1;
            let text = "was restarted in the middle of a sum; it begins anew".to_owned();
            tell(&mut self.events, watcher, Event::Notice(Party::Site(site), text));
            let actions = self.host.retry()?;
            self.queue.extend(actions);
        }
        Ok(())
    }
}
