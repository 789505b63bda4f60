//! What comes from the sites.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use federation::{Party, SiteIndex};

use super::{Arriving, Hub, REBIRTHS, Watcher, farewell, seconds, tell};
use crate::engine::flower::exchange::Found;
use crate::engine::flower::letter::Letter;
use crate::engine::flower::node::Pulled;
use crate::engine::flower::object::{Assembly, MAX_BYTES};
use crate::engine::flower::runtime::{RunClient, SUPERLINK};
use crate::engine::flower::wire::FlowerMessage;
use crate::engine::host::{CoordinatorHost, Event};

/// Between questions for replies when none was announced: the SuperLink makes some of its own.
const ASK: Duration = Duration::from_secs(5);
/// How long an object is waited for before the SuperLink is asked for it.
const ARRIVAL: Duration = Duration::from_millis(400);

impl<C: CoordinatorHost> Hub<'_, C> {
    /// Takes the replies to open tickets: those that the front saw, and from time to time all that the SuperLink has. Those
    /// of sites that are offline are not asked for: the SuperLink would take that as a reason to drop them.
    pub(super) fn pull(&mut self, watcher: &mut dyn Watcher) -> Result<bool> {
        let Some(run) = &self.run else { return Ok(false) };
        let mut tickets: BTreeMap<String, (SiteIndex, u64)> = BTreeMap::new();
        for (&site, line) in self.lines.iter().filter(|(_, line)| line.online) {
            for (ticket, message) in line.link.awaited() {
                let here = |a: &Arriving| (a.site, a.ticket) == (site, ticket);
                if !self.arriving.iter().any(here) {
                    tickets.insert(message.to_owned(), (site, ticket));
                }
            }
        }
        let unseen = self.exchange.unseen();
        let mut found = self.exchange.answers();
        // In the name of the site that the ticket was for; the SuperLink has checked that too.
        found.retain(|reply| {
            let Some(metadata) = &reply.metadata else { return false };
            let ticket = tickets.get(&metadata.reply_to_message_id);
            ticket
                .and_then(|(site, _)| self.lines.get(site))
                .is_some_and(|line| line.node == metadata.src_node_id)
        });
        let answered = found.iter().flat_map(|reply| &reply.metadata);
        self.settled.extend(answered.map(|metadata| metadata.reply_to_message_id.clone()));
        let asked = self.pulled.is_some_and(|(at, known)| known == unseen && at.elapsed() < ASK);
        if found.is_empty() && !asked && !tickets.is_empty() {
            found = RunClient { http: &self.http, run }.pull(tickets.keys().cloned().collect())?;
            self.pulled = Some((Instant::now(), unseen));
        }
        let any = !found.is_empty();
        for reply in found {
            let Some(metadata) = &reply.metadata else { continue };
            let Some(&(site, ticket)) = tickets.get(&metadata.reply_to_message_id) else { continue };
            self.reply(site, ticket, &reply, watcher);
        }
        Ok(any)
    }

    /// Takes note of a reply; its objects are fetched as they arrive.
    fn reply(&mut self, site: SiteIndex, ticket: u64, reply: &FlowerMessage, watcher: &mut dyn Watcher) {
        let Some(line) = self.lines.get_mut(&site) else { return };
        let metadata = reply.metadata.clone().unwrap_or_default();
        let fault = match &reply.error {
            Some(error) => error.reason.clone(),
            None => match Assembly::new(reply, MAX_BYTES) {
                Ok(assembly) => {
                    let message = assembly.wants().map(|_| metadata.message_id);
                    self.arriving.push(Arriving { site, ticket, message, assembly, asked: Instant::now() });
                    return;
                }
                Err(error) => format!("{error:#}"),
            },
        };
        line.link.give_up(ticket);
        // The SuperLink's own errors (node away, message expired) are part of life; a site's are not.
        if metadata.src_node_id != SUPERLINK {
            let text: String = fault.chars().filter(|c| !c.is_control()).take(300).collect();
            tell(&mut self.events, watcher, Event::Refused(Party::Site(site), text));
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
                let kept = self.exchange.read(&id);
                let checked = matches!(kept, Found::Here(_));
                let found = match kept {
                    Found::Here([content, _]) => Ok(Pulled::Object(content)),
                    // It was stored before, or in one of the ways in which it cannot be seen from here.
                    Found::Unknown | Found::Expected if arriving.asked.elapsed() < ARRIVAL => break,
                    _ => client.pull_object(&id),
                };
                arriving.asked = Instant::now();
                match found {
                    Ok(Pulled::Object(content)) => {
                        busy = true;
                        let taken = match checked {
                            true => arriving.assembly.take_stored(content),
                            false => arriving.assembly.take(content),
                        };
                        if let Err(error) = taken {
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
            self.arrived(arriving, watcher)?;
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(busy),
        }
    }

    fn arrived(&mut self, arriving: Arriving, watcher: &mut dyn Watcher) -> Result<()> {
        let site = arriving.site;
        let letter = arriving.assembly.finish().and_then(|(header, arrays)| Letter::read(header, arrays));
        let Some(line) = self.lines.get_mut(&site) else { return Ok(()) };
        let messages = match letter {
            Ok(letter) => {
                self.read.extend(arriving.message.map(|message| (message, letter.len())));
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
