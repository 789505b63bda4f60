//! The group key: known to the sites, never to the coordinator.

use std::collections::BTreeSet;
use std::fmt;

use secure::{GroupKey, SiteIndex, boxes};
use zeroize::Zeroizing;

use crate::identity::{Digest, SiteKey, SitePublic};
use crate::refusal::{RefusalKind, Result, refusal, refuse};
use crate::roster::Roster;
use crate::wire;

/// The group key as a site holds it, with what it needs to know before passing it on.
#[derive(Clone)]
pub struct GroupState {
    key: GroupKey,
    epoch: u64,
    /// Signing keys of the sites that may have it.
    entitled: BTreeSet<[u8; 32]>,
}

impl fmt::Debug for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupState(epoch {}, {} sites entitled, key redacted)", self.epoch, self.entitled.len())
    }
}

/// What a gift is bound to: it opens for one site, in one session, under one roster.
pub(crate) struct GiftContext {
    pub(crate) session: [u8; 16],
    pub(crate) roster: Digest,
    pub(crate) epoch: u64,
    pub(crate) from: SiteIndex,
    pub(crate) to: SiteIndex,
}

impl GiftContext {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"fedgestalt/key-gift/v1".to_vec();
        bytes.extend(self.session);
        bytes.extend(self.roster);
        bytes.extend(self.epoch.to_le_bytes());
        bytes.extend(self.from.0.to_le_bytes());
        bytes.extend(self.to.0.to_le_bytes());
        bytes
    }
}

impl GroupState {
    /// A new key for all active sites of a roster.
    pub(crate) fn found(seed: [u8; 32], epoch: u64, roster: &Roster) -> Self {
        let entitled = roster.sites().map(|(_, _, keys)| keys.sign).collect();
        Self { key: GroupKey::from_bytes(seed), epoch, entitled }
    }

    /// The key.
    pub(crate) fn key(&self) -> &GroupKey {
        &self.key
    }

    /// Counts the keys the group has had, from 1.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn entitles(&self, site: &SitePublic) -> bool {
        self.entitled.contains(&site.sign)
    }

    pub(crate) fn entitle(&mut self, site: &SitePublic) {
        self.entitled.insert(site.sign);
    }

    /// The key in a box that only `to` can open.
    pub(crate) fn gift(
        &self,
        to: &SitePublic,
        context: &GiftContext,
        seed: [u8; 32],
    ) -> Result<wire::KeyGift> {
        let public = x25519_dalek::PublicKey::from(to.seal);
        let boxed = boxes::seal_to(&public, &context.bytes(), self.key.expose(), seed)?;
        Ok(wire::KeyGift { epoch: self.epoch, boxed: boxed.into() })
    }

    /// Opens a gift. A key of the same epoch that differs from the one held, or of an older epoch, is refused.
    pub(crate) fn accept(
        held: Option<&GroupState>,
        least_epoch: u64,
        gift: &wire::KeyGift,
        context: &GiftContext,
        key: &SiteKey,
        roster: &Roster,
    ) -> Result<Self> {
        let giver = roster.name(context.from);
        let plain = boxes::open(key.seal(), &context.bytes(), &gift.boxed).map_err(|_| {
            refusal(
                RefusalKind::GroupKey,
                format!(
                    "the group key from {giver} does not open; both sites must have adopted the same roster"
                ),
            )
        })?;
        let plain = Zeroizing::new(plain);
        let Ok(bytes) = <[u8; 32]>::try_from(plain.as_slice()) else {
            refuse!(GroupKey, "the group key from {giver} has {} bytes, not 32", plain.len());
        };
        let new = Self { key: GroupKey::from_bytes(bytes), epoch: gift.epoch, entitled: BTreeSet::new() };
        if gift.epoch < least_epoch {
            refuse!(
                GroupKey,
                "{giver} offers group key {}, and {least_epoch} or later is needed since a site left",
                gift.epoch
            );
        }
        match held {
            Some(held) if held.epoch > new.epoch || (held.epoch == new.epoch && held.key != new.key) => {
                refuse!(GroupKey, "{giver} offers another group key than the one held (epoch {})", held.epoch)
            }
            Some(held) if held.epoch == new.epoch => Ok(held.clone()),
            _ => Ok(Self { entitled: roster.sites().map(|(_, _, keys)| keys.sign).collect(), ..new }),
        }
    }

    /// Seals to everyone who has the key.
    pub(crate) fn seal(&self, label: &str, plain: &[u8], seed: [u8; 32]) -> Result<Vec<u8>> {
        Ok(boxes::group_seal(&self.key, label, plain, seed))
    }

    /// Opens what another holder of the key sealed.
    pub(crate) fn open(&self, label: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        boxes::group_open(&self.key, label, sealed).map_err(|_| {
            refusal(RefusalKind::GroupKey, "a sealed part does not open under the group key held here")
        })
    }

    /// All of it, for the site's own store. Secret.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(40 + 32 * self.entitled.len()));
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(self.key.expose());
        self.entitled.iter().for_each(|key| bytes.extend_from_slice(key));
        bytes
    }

    /// From [`GroupState::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (parts, rest) = bytes.as_chunks::<8>();
        let keys = bytes.get(8..).map(|b| b.as_chunks::<32>());
        match (parts.first(), keys) {
            (Some(epoch), Some(([key, entitled @ ..], []))) => Ok(Self {
                key: GroupKey::from_bytes(*key),
                epoch: u64::from_le_bytes(*epoch),
                entitled: entitled.iter().copied().collect(),
            }),
            _ => refuse!(Snapshot, "a stored group key of {} bytes ({} over)", bytes.len(), rest.len()),
        }
    }
}
