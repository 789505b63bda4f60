//! Who may connect: the sites of the roster, and those that the consortium admits while the kernel serves.

use std::time::Instant;

use anyhow::{Context as _, Result};
use federation::{Party, SignedRoster};

use super::{Hub, Line, Seat, Watcher, tell};
use crate::engine::flower::link::CoordinatorLink;
use crate::engine::flower::runtime::Control;
use crate::engine::flower::wire::NodeInfo;
use crate::engine::host::{CoordinatorHost, Event};

/// A newer roster, with everybody who may connect under it.
pub struct Admission {
    /// Signed by the consortium.
    pub roster: SignedRoster,
    /// All of its sites.
    pub seats: Vec<Seat>,
}

impl<C: CoordinatorHost> Hub<'_, C> {
    /// Gives lines to sites that have none; their keys are made known to the SuperLink.
    pub(super) fn seat(&mut self, seats: &[Seat]) -> Result<()> {
        let control = Control::new(&self.http, None);
        let known = control.nodes()?;
        for Seat { site, name, key, left } in seats {
            if self.lines.contains_key(site) {
                continue;
            }
            let live = |node: &&NodeInfo| node.public_key == key.as_bytes() && node.status != "unregistered";
            let node = match known.iter().find(live) {
                Some(node) => node.node_id,
                None => control.register(key, name).with_context(|| format!("cannot register {name}"))?,
            };
            let line = Line {
                name: name.clone(),
                online: false,
                up: 0,
                down: 0,
                node,
                activated: String::new(),
                link: CoordinatorLink::new(self.process),
                since: Instant::now(),
                left: left.then(Instant::now),
            };
            self.lines.insert(*site, line);
        }
        Ok(())
    }

    /// Lets in whom the consortium has admitted, while the kernel serves.
    pub(super) fn admit(&mut self, watcher: &mut dyn Watcher) -> Result<()> {
        if self.admitting.is_none() && self.host.standing().serving {
            let adopted = match watcher.admitted(self.host.roster()) {
                Ok(None) => return Ok(()),
                Ok(Some(Admission { roster, seats })) => match self.host.adopt_roster(&roster)? {
                    Ok(actions) => Ok((seats, actions)),
                    Err(refusal) => Err(refusal.into()),
                },
                Err(error) => Err(error),
            };
            let text = match adopted {
                Ok(admitting) => {
                    self.admitting = Some(admitting);
                    format!("roster {} is in force", self.host.roster())
                }
                Err(error) => format!("the newer roster is not taken over: {error:#}"),
            };
            tell(&mut self.events, watcher, Event::Notice(Party::Coordinator, text));
        }
        // Before anything is sent, those it goes to need lines; a SuperLink that is away is asked again.
        if let Some((seats, _)) = &self.admitting {
            let seats = seats.clone();
            self.seat(&seats)?;
        }
        self.queue.extend(self.admitting.take().into_iter().flat_map(|(_, actions)| actions));
        Ok(())
    }
}
