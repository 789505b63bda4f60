//! What goes to the sites, and what the SuperLink need not keep any more.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use prost::Message as _;

use super::{Hub, TTL, seconds, unix};
use crate::engine::flower::letter::Letter;
use crate::engine::flower::object::{Object, Packer, Parcel};
use crate::engine::flower::runtime::{Run, RunClient, SUPERLINK};
use crate::engine::flower::wire::{FlowerMessage, Metadata, PullMessagesResponse};
use crate::engine::host::CoordinatorHost;

/// How long nothing must have been going on before the SuperLink is made to drop what was read: while sites train, as a
/// rule. Dropping an object costs it as much as storing it (SQLite overwrites it first).
pub(in crate::engine::flower) const IDLE: Duration = Duration::from_secs(2);
/// Answered instructions that are left with the SuperLink before it is made to drop them anyway.
const SETTLED: usize = 256;
/// Bytes that were read and are left with it.
const READ: u64 = 2 << 30;

impl<C: CoordinatorHost> Hub<'_, C> {
    /// Issues the tickets that are due, all in one call: what goes to everyone is uploaded once.
    pub(super) fn issue(&mut self) -> Result<bool> {
        let Some(run) = &self.run else { return Ok(false) };
        let now = seconds();
        let (mut drafts, mut parcels) = (Vec::new(), Vec::new());
        let mut packer = Packer::default();
        for (&site, line) in &self.lines {
            if line.online && line.link.is_due(now) {
                let letter = line.link.draft();
                parcels.push(parcel(&mut packer, run, line.node, &letter));
                drafts.push((site, letter));
            }
        }
        if drafts.is_empty() {
            return Ok(false);
        }
        let mut readers: BTreeMap<&str, usize> = BTreeMap::new();
        for object in parcels.iter().flat_map(|parcel| &parcel.objects) {
            *readers.entry(&object.id).or_default() += 1;
        }
        self.exchange.expect(readers.into_iter());
        let stored = |object: &Object| self.exchange.issued(&object.id, object.parts());
        let taken = RunClient { http: &self.http, run }.push(&parcels, &stored)?;
        // Those too that the SuperLink had before.
        parcels.iter().flat_map(|parcel| &parcel.objects).for_each(stored);
        for (((site, letter), parcel), taken) in drafts.into_iter().zip(&parcels).zip(taken) {
            match self.lines.get_mut(&site) {
                Some(line) if taken => {
                    line.link.issued(&letter, parcel.tree.object_id.clone(), now);
                    line.down += letter.len();
                    match parcel.objects.is_empty() {
                        true => self.exchange.instructed(line.node, handed_out(parcel).into()),
                        // With objects, it is the SuperLink that must know who has it: it drops them when all have.
                        false => self.exchange.ring(line.node),
                    }
                }
                _ => tracing::warn!(site = site.0, "the SuperLink did not take a message; trying again"),
            }
        }
        Ok(true)
    }

    /// Lets the SuperLink drop what was taken in, when there is nothing better to do. True when there is more that cannot wait.
    pub(super) fn tidy(&mut self) -> Result<bool> {
        let Some(run) = &self.run else { return Ok(false) };
        let client = RunClient { http: &self.http, run };
        let idle = self.busy.elapsed() > IDLE;
        if (idle && !self.settled.is_empty()) || self.settled.len() > SETTLED {
            // Whoever asks for replies gets them once, and then they are gone.
            client.pull(std::mem::take(&mut self.settled))?;
            return Ok(!idle);
        }
        let waiting: u64 = self.read.iter().map(|(_, bytes)| bytes).sum();
        if (idle || waiting > READ)
            && let Some((message, _)) = self.read.pop()
        {
            client.confirm(&message)?;
            return Ok(!idle);
        }
        Ok(false)
    }
}

fn parcel(packer: &mut Packer, run: &Run, node: u64, letter: &Letter) -> Parcel {
    let (header, arrays) = letter.write();
    let metadata = Metadata {
        run_id: run.id,
        src_node_id: SUPERLINK,
        dst_node_id: node,
        ttl: TTL,
        message_type: "query".to_owned(),
        created_at: unix(),
        ..Metadata::default()
    };
    packer.pack(FlowerMessage { metadata: Some(metadata), content: None, error: None }, &header, &arrays)
}

/// An instruction as the SuperLink hands it out.
fn handed_out(parcel: &Parcel) -> Vec<u8> {
    let response = PullMessagesResponse {
        messages_list: vec![parcel.message.clone()],
        message_object_trees: vec![parcel.tree.clone()],
    };
    response.encode_to_vec()
}
