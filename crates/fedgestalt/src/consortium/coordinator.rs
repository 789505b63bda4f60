//! The coordinator at work: its state machine and its folder.

use anyhow::Result;
use federation::{
    Action, Bytes, Coordinator, CoordinatorSetup, Outgoing, Refusal, SignedRelease, SignedRoster,
};
use serde::{Deserialize, Serialize};

use crate::engine::host::{CoordinatorHost, Event, Host, Standing, Traffic};
use crate::store::Folder;

const SNAPSHOT: &str = "coordinator.state";
/// The state at the end of the session; what comes later (a site that joins) begins from there.
const SESSION_END: &str = "session-end.state";
const ACCOUNTS: &str = "accounts.json";
/// The roster in force: that of the session until its release is signed, then the newest.
const ROSTER: &str = "roster.signed";

/// Where a party goes on whose session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// At the end of the session: a simulation plays again what comes after it.
    AtSessionEnd,
    /// Where it was: a kernel that serves has galleries and sites that came later.
    WhereItWas,
}

/// What the engine counted up to a save, so that a resumed session's accounts are whole.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Accounts {
    /// Site, phase, bytes.
    pub up: Vec<(u16, String, u64)>,
    /// Site, phase, bytes.
    pub down: Vec<(u16, String, u64)>,
    /// Round, site, whether it vanished (else it returned).
    pub attendance: Vec<(u32, u16, bool)>,
}

impl Accounts {
    /// All bytes, up and down.
    pub fn bytes(&self) -> u64 {
        self.up.iter().chain(&self.down).map(|(_, _, bytes)| bytes).sum()
    }

    /// Adds what an engine counted.
    pub fn add(&mut self, traffic: &Traffic, events: &[Event]) {
        add_bytes(&mut self.up, &traffic.up);
        add_bytes(&mut self.down, &traffic.down);
        for event in events {
            match event {
                Event::Vanished(site, round) => self.attendance.push((*round, site.0, true)),
                Event::Returned(site, round) => self.attendance.push((*round, site.0, false)),
                _ => {}
            }
        }
    }
}

fn add_bytes(
    to: &mut Vec<(u16, String, u64)>,
    from: &std::collections::BTreeMap<(federation::SiteIndex, &'static str), u64>,
) {
    for (&(site, phase), &bytes) in from {
        match to.iter_mut().find(|(s, p, _)| *s == site.0 && p == phase) {
            Some((_, _, sum)) => *sum += bytes,
            None => to.push((site.0, phase.to_owned(), bytes)),
        }
    }
}

/// The coordinator in its folder.
pub struct CoordinatorNode {
    /// Its state machine.
    pub coordinator: Coordinator,
    /// The release, once signed.
    pub release: Option<SignedRelease>,
    /// The session's work is done.
    pub finished: bool,
    /// Why the session cannot go on.
    pub halted: Option<String>,
    /// Accounts of earlier processes.
    pub before: Accounts,
    folder: Folder,
    resume: Resume,
}

impl CoordinatorNode {
    /// A coordinator that begins (`None`), or goes on from its folder with what it says first.
    ///
    /// One that serves goes on with the roster that was in force; a newer one is for [`CoordinatorHost::adopt_roster`].
    pub fn open(
        folder: Folder,
        mut setup: CoordinatorSetup,
        resume: Resume,
    ) -> Result<(Self, Option<Vec<Action>>)> {
        let before = folder.read_json(ACCOUNTS)?.unwrap_or_default();
        let (first, second) = match resume {
            Resume::AtSessionEnd => (SESSION_END, SNAPSHOT),
            Resume::WhereItWas => (SNAPSHOT, SESSION_END),
        };
        let snapshot = match folder.read(first)? {
            Some(found) => Some(found),
            None => folder.read(second)?,
        };
        if resume == Resume::WhereItWas {
            match folder.read(ROSTER)?.filter(|_| snapshot.is_some()) {
                Some(bytes) => setup.roster = SignedRoster::decode(&bytes)?,
                None => folder.write(ROSTER, &setup.roster.encode())?,
            }
        }
        let (coordinator, resumed) = match snapshot {
            Some(bytes) => {
                let (coordinator, actions) = Coordinator::restore(setup, &bytes)?;
                (coordinator, Some(actions))
            }
            None => (Coordinator::new(setup)?, None),
        };
        let finished = folder.read(SESSION_END)?.is_some();
        Ok((Self { coordinator, release: None, finished, halted: None, before, folder, resume }, resumed))
    }

    /// Writes the accounts of this process on top of those before.
    pub fn account(&mut self, traffic: &Traffic, events: &[Event]) -> Result<()> {
        let mut accounts = self.before.clone();
        accounts.add(traffic, events);
        Ok(self.folder.write_json(ACCOUNTS, &accounts)?)
    }
}

impl Host for CoordinatorNode {
    fn handle(&mut self, bytes: Bytes) -> Result<Vec<Action>, Refusal> {
        self.coordinator.handle(bytes)
    }

    fn perform(&mut self, action: Action) -> Result<Vec<Action>> {
        match action {
            Action::Save => self.folder.write(SNAPSHOT, &self.coordinator.snapshot())?,
            Action::Released(release) => self.release = Some(*release),
            Action::Halt { reason } => self.halted = Some(reason),
            Action::Finished => {
                if self.resume == Resume::AtSessionEnd {
                    self.folder.write(SESSION_END, &self.coordinator.snapshot())?;
                }
                self.finished = true;
            }
            _ => {}
        }
        Ok(Vec::new())
    }

    fn sends(&mut self, _: &Outgoing) -> Result<()> {
        Ok(())
    }
}

impl CoordinatorHost for CoordinatorNode {
    fn deadline(&mut self) -> Result<Vec<Action>, Refusal> {
        self.coordinator.deadline()
    }

    fn retry(&mut self) -> Result<Vec<Action>> {
        Ok(self.coordinator.retry()?)
    }

    fn standing(&self) -> Standing {
        let plan = self.coordinator.accepted_plan();
        Standing {
            stage: self.coordinator.stage(),
            attempt: self.coordinator.attempt(),
            rounds: plan.map_or(0, |plan| plan.rounds()),
            starts: plan.map_or(0, |plan| plan.start_stages()),
            tuning: plan.map_or(0, |plan| plan.tuning_stages()),
            moments: plan.map_or(0, |plan| plan.members_stage() - plan.tuning_stages()),
            awaited: self.coordinator.awaited(),
            summing: self.coordinator.is_summing(),
            serving: self.finished,
            halted: self.halted.clone(),
        }
    }

    fn roster(&self) -> u64 {
        self.coordinator.roster().serial()
    }

    fn adopt_roster(&mut self, signed: &SignedRoster) -> Result<Result<Vec<Action>, Refusal>> {
        let adopted = self.coordinator.adopt_roster(signed);
        if adopted.is_ok() {
            self.folder.write(ROSTER, &signed.encode())?;
        }
        Ok(adopted)
    }

    fn checkpoint(&mut self, traffic: &Traffic, events: &[Event]) -> Result<()> {
        self.account(traffic, events)
    }
}
