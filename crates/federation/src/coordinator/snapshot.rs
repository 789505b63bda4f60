//! What the coordinator keeps over a restart. It resumes at the step under way, with a new attempt.

use std::collections::BTreeMap;

use prost::Message;
use prost::bytes::Bytes;
use secure::SiteIndex;

use super::{Coordinator, CoordinatorSetup, Finished, Phase, kernel};
use crate::action::Action;
use crate::aggregate::Layout;
use crate::plan::Plan;
use crate::refusal::{RefusalKind, Result, refusal, refuse};
use crate::release::{Release, SignedRelease};
use crate::wire;

const VERSION: u32 = 1;
/// Images of the gallery that are taken in at a time.
const IMAGES: usize = 256;

#[derive(Clone, PartialEq, Message)]
struct Snapshot {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint32, tag = "2")]
    phase: u32,
    #[prost(message, optional, tag = "3")]
    plan: Option<wire::Signed>,
    #[prost(uint32, repeated, tag = "4")]
    members: Vec<u32>,
    #[prost(uint32, tag = "5")]
    founder: u32,
    #[prost(uint32, tag = "6")]
    enrolment: u32,
    #[prost(uint32, tag = "7")]
    trained: u32,
    #[prost(uint32, tag = "8")]
    all: u32,
    #[prost(bytes = "vec", tag = "9")]
    syndromes: Vec<u8>,
    #[prost(uint32, tag = "10")]
    stage: u32,
    #[prost(uint32, tag = "11")]
    attempt: u32,
    #[prost(message, repeated, tag = "12")]
    finished: Vec<KeptSum>,
    #[prost(btree_map = "uint32, uint32", tag = "13")]
    confirmed: BTreeMap<u32, u32>,
    #[prost(message, repeated, tag = "14")]
    entries: Vec<KeptEntry>,
    #[prost(message, repeated, tag = "15")]
    sites: Vec<KeptSite>,
    #[prost(message, repeated, tag = "25")]
    withdrawn: Vec<KeptWithdrawal>,
    #[prost(message, repeated, tag = "17")]
    parts: Vec<KeptPart>,
    #[prost(uint32, tag = "18")]
    of: u32,
    #[prost(message, optional, tag = "19")]
    draft: Option<KeptPart>,
    #[prost(bytes = "vec", tag = "20")]
    released: Vec<u8>,
    #[prost(uint32, repeated, tag = "21")]
    joined: Vec<u32>,
    #[prost(string, tag = "22")]
    halted: String,
    #[prost(btree_map = "uint32, uint64", tag = "23")]
    epochs: BTreeMap<u32, u64>,
    /// The vectors of `entries`, end to end.
    #[prost(bytes = "bytes", tag = "24")]
    vectors: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct KeptSum {
    #[prost(uint32, tag = "1")]
    stage: u32,
    #[prost(uint32, tag = "2")]
    attempt: u32,
    #[prost(bytes = "bytes", tag = "3")]
    sum: Bytes,
    #[prost(bool, tag = "4")]
    settled: bool,
    #[prost(uint32, repeated, tag = "5")]
    sites: Vec<u32>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    hashes: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct KeptEntry {
    #[prost(uint32, tag = "1")]
    site: u32,
    #[prost(bytes = "vec", tag = "2")]
    pseudonym: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    token: Vec<u8>,
    #[prost(uint32, tag = "4")]
    galleries: u32,
    #[prost(uint32, tag = "5")]
    number: u32,
}

#[derive(Clone, PartialEq, Message)]
struct KeptWithdrawal {
    #[prost(uint32, tag = "1")]
    site: u32,
    #[prost(bytes = "vec", tag = "2")]
    pseudonym: Vec<u8>,
    #[prost(uint32, tag = "3")]
    number: u32,
}

#[derive(Clone, PartialEq, Message)]
struct KeptSite {
    #[prost(uint32, tag = "1")]
    site: u32,
    #[prost(uint32, optional, tag = "2")]
    total: Option<u32>,
    #[prost(uint32, tag = "3")]
    received: u32,
    #[prost(uint32, repeated, tag = "4")]
    seen: Vec<u32>,
    #[prost(uint32, tag = "5")]
    used: u32,
}

#[derive(Clone, PartialEq, Message)]
struct KeptPart {
    #[prost(uint32, tag = "1")]
    number: u32,
    #[prost(bytes = "bytes", tag = "2")]
    raw: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    bytes: Bytes,
}

fn place(number: u32) -> SiteIndex {
    SiteIndex(u16::try_from(number).unwrap_or(u16::MAX))
}

fn bad<T>(what: &str) -> Result<T> {
    refuse!(Snapshot, "the snapshot has {what}; restore an older one")
}

fn array(bytes: &[u8]) -> Result<[u8; 16]> {
    bytes.try_into().or_else(|_| bad("a name of a wrong length"))
}

impl Coordinator {
    /// All that a restart needs, with the sums that some site may still ask for.
    pub fn snapshot(&self) -> Vec<u8> {
        let finished = self.finished.iter().map(|(&stage, done)| KeptSum {
            stage,
            attempt: done.attempt,
            sum: done.sum.clone(),
            settled: done.settled,
            sites: done.hashes.keys().map(|site| u32::from(site.0)).collect(),
            hashes: done.hashes.values().cloned().collect(),
        });
        let entries = self.gallery.entries.iter().map(|entry| KeptEntry {
            site: u32::from(entry.site.0),
            pseudonym: entry.pseudonym.to_vec(),
            token: entry.token.to_vec(),
            galleries: entry.galleries,
            number: entry.number,
        });
        let sites = self.roster.sites().map(|(site, _, _)| KeptSite {
            site: u32::from(site.0),
            total: self.gallery.totals.get(&site).copied(),
            received: self.gallery.received.get(&site).copied().unwrap_or(0),
            seen: self.gallery.seen.get(&site).into_iter().flatten().copied().collect(),
            used: self.gallery.used.get(&site).copied().unwrap_or(0),
        });
        let parts = self.release.parts.iter().map(|(&number, (raw, bytes))| KeptPart {
            number,
            raw: raw.clone(),
            bytes: bytes.clone(),
        });
        let draft = self.release.draft.as_ref().map(|(raw, release)| KeptPart {
            number: 0,
            raw: raw.clone(),
            bytes: release.encode().into(),
        });
        let withdrawn = self.gallery.withdrawn.iter().map(|(pseudonym, &(site, number))| KeptWithdrawal {
            site: u32::from(site.0),
            pseudonym: pseudonym.to_vec(),
            number,
        });
        let snapshot = Snapshot {
            version: VERSION,
            phase: self.phase as u32,
            plan: self.plan.as_ref().map(|(_, signed)| signed.clone()),
            members: self.members.iter().map(|site| u32::from(site.0)).collect(),
            founder: u32::from(self.founder.0),
            enrolment: self.enrolment,
            trained: self.syndromes.0 as u32,
            all: self.syndromes.1 as u32,
            syndromes: self.syndromes.2.to_vec(),
            stage: self.stage,
            attempt: self.attempt,
            finished: finished.collect(),
            confirmed: self.confirmed.iter().map(|(site, &n)| (u32::from(site.0), n)).collect(),
            entries: entries.collect(),
            vectors: wire::floats_to_bytes(&self.gallery.vectors),
            sites: sites.collect(),
            withdrawn: withdrawn.collect(),
            parts: parts.collect(),
            of: self.parts(),
            draft,
            released: self.release.signed.as_ref().map(SignedRelease::encode).unwrap_or_default(),
            joined: self.release.joined.iter().map(|site| u32::from(site.0)).collect(),
            halted: self.halted.clone().unwrap_or_default(),
            epochs: self
                .answers
                .iter()
                .filter_map(|(site, epoch)| Some((u32::from(site.0), (*epoch)?)))
                .collect(),
        };
        snapshot.encode_to_vec()
    }

    /// The coordinator as it was at a snapshot, and what to do first. Sums that were under way begin
    /// again as a new attempt.
    pub fn restore(setup: CoordinatorSetup, bytes: &[u8]) -> Result<(Self, Vec<Action>)> {
        let kept = Snapshot::decode(bytes).map_err(|e| {
            refusal(
                RefusalKind::Snapshot,
                format!("the snapshot does not decode ({e}); restore an older one"),
            )
        })?;
        if kept.version != VERSION {
            refuse!(UnsupportedVersion, "snapshot version {}; this program reads {VERSION}", kept.version);
        }
        let mut c = Self::new(setup)?;
        if let Some(signed) = kept.plan {
            let plan = Plan::verified(&signed, &c.key.public())?;
            c.plan = Some((plan, signed));
        }
        c.members = kept.members.iter().map(|&n| place(n)).collect();
        c.present = c.members.iter().copied().collect();
        c.founder = place(kept.founder);
        c.enrolment = kept.enrolment;
        c.answers = kept.epochs.iter().map(|(&site, &epoch)| (place(site), Some(epoch))).collect();
        (c.stage, c.attempt) = (kept.stage, kept.attempt);
        let digest = kept.syndromes.as_slice().try_into().or_else(|_| bad("a digest of a wrong length"))?;
        c.syndromes = (kept.trained as usize, kept.all as usize, digest);
        c.phase = *[
            Phase::Idle,
            Phase::Plan,
            Phase::Lists,
            Phase::Agree,
            Phase::Sum,
            Phase::Hashes,
            Phase::Gallery,
            Phase::Publish,
            Phase::Signing,
            Phase::Serving,
        ]
        .get(kept.phase as usize)
        .map_or_else(|| bad("an unknown phase"), Ok)?;
        if c.phase as u32 >= Phase::Sum as u32 {
            c.layout = Some(Layout::new(c.plan()?, c.syndromes.0, c.members.len())?);
        }
        for sum in kept.finished {
            let hashes = sum.sites.iter().map(|&n| place(n)).zip(sum.hashes).collect();
            let done = Finished { attempt: sum.attempt, sum: sum.sum, hashes, settled: sum.settled };
            c.finished.insert(sum.stage, done);
        }
        c.confirmed = kept.confirmed.iter().map(|(&site, &n)| (place(site), n)).collect();
        let vectors = wire::bytes_to_floats(&kept.vectors);
        let width = vectors.len() / kept.entries.len().max(1);
        if vectors.len() != width * kept.entries.len() {
            return bad("vectors that do not fit the images");
        }
        let kernel = c.plan.as_ref().and_then(|(plan, _)| plan.kernel.clone());
        let rows: Vec<&[f32]> = vectors.chunks_exact(width.max(1)).collect();
        for (entries, rows) in kept.entries.chunks(IMAGES).zip(rows.chunks(IMAGES)) {
            let Some(kernel) = kernel.as_ref().filter(|kernel| kernel.width == width) else {
                return bad("images that do not fit the plan");
            };
            let image = |(entry, row): (&KeptEntry, &&[f32])| -> Result<_> {
                let new = kernel::Entry {
                    site: place(entry.site),
                    pseudonym: array(&entry.pseudonym)?,
                    token: array(&entry.token)?,
                    galleries: entry.galleries,
                    number: entry.number,
                };
                Ok((new, row.to_vec()))
            };
            let images = entries.iter().zip(rows).map(image).collect::<Result<_>>()?;
            c.gallery.put(images, kernel);
        }
        for site in kept.sites {
            let at = place(site.site);
            c.gallery.totals.extend(site.total.map(|total| (at, total)));
            c.gallery.received.insert(at, site.received);
            c.gallery.seen.insert(at, site.seen.into_iter().collect());
            c.gallery.used.insert(at, site.used);
        }
        for KeptWithdrawal { site, pseudonym, number } in kept.withdrawn {
            c.gallery.withdrawn.insert(array(&pseudonym)?, (place(site), number));
        }
        c.release.parts = kept.parts.into_iter().map(|part| (part.number, (part.raw, part.bytes))).collect();
        c.set_parts(kept.of);
        if let Some(draft) = kept.draft {
            c.release.draft = Some((draft.raw, Release::decode(&draft.bytes)?));
        }
        if !kept.released.is_empty() {
            c.release.signed = Some(SignedRelease::decode(&kept.released)?);
        }
        c.release.joined = kept.joined.iter().map(|&n| place(n)).collect();
        c.halted = Some(kept.halted).filter(|reason| !reason.is_empty());
        let actions = match c.phase {
            Phase::Idle => Vec::new(),
            _ if c.halted.is_some() => Vec::new(),
            Phase::Serving => {
                let mut actions = vec![Action::Finished];
                actions.extend(c.roster_messages());
                actions
            }
            _ => c.retry()?,
        };
        Ok((c, actions))
    }
}
