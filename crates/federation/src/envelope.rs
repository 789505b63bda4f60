use std::fmt;

use prost::Message;
use prost::bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};
use secure::SiteIndex;
use sha2::{Digest as _, Sha256};

use crate::identity::{CoordinatorKey, Digest, SiteKey};
use crate::refusal::{RefusalKind, Result, refusal, refuse};
use crate::roster::Roster;
use crate::wire;

/// The version every envelope carries.
pub(crate) const VERSION: u32 = 1;
const LABEL: &[u8] = b"fedgestalt/envelope/v1";
/// What an envelope adds to its payload, at most.
pub(crate) const OVERHEAD: usize = 160;

/// Who sends or receives a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// The coordinator.
    Coordinator,
    /// One site, by its place in the roster.
    Site(SiteIndex),
}

impl Party {
    fn to_wire(self) -> u32 {
        match self {
            Party::Coordinator => 0,
            Party::Site(site) => u32::from(site.0) + 1,
        }
    }

    fn from_wire(code: u32) -> Option<Self> {
        match code {
            0 => Some(Party::Coordinator),
            code => u16::try_from(code - 1).ok().map(|i| Party::Site(SiteIndex(i))),
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Party::Coordinator => f.write_str("the coordinator"),
            Party::Site(site) => write!(f, "site {}", site.0),
        }
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $phase:literal;)*) => {
        /// What a message is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[$doc])* $name = $code,)* }

        impl Kind {
            /// Every kind there is.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            fn from_wire(code: u32) -> Option<Self> {
                match code { $($code => Some(Kind::$name),)* _ => None }
            }

            /// The part of a session the message belongs to, for accounting:
            /// `enrol`, `sum`, `model`, `kernel`, `release` or `control`.
            pub fn phase(self) -> &'static str {
                match self { $(Kind::$name => $phase,)* }
            }
        }
    };
}

kinds! {
    /// Coordinator to site: the signed plan.
    PlanOffer = 1, "enrol";
    /// Site to coordinator: takes part, or not and why.
    PlanAnswer = 2, "enrol";
    /// Coordinator to site: who takes part and who founds the group key.
    Enrolled = 3, "enrol";
    /// Site to site: the group key in a sealed box.
    KeyGift = 4, "enrol";
    /// Site to all sites: its syndrome list, sealed under the group key.
    SyndromeList = 5, "enrol";
    /// Coordinator to site: the lists of all members.
    Lists = 6, "enrol";
    /// Site to coordinator: length and digest of the united list.
    ListsReady = 7, "enrol";
    /// Coordinator to site: a secure sum begins.
    SumOpen = 10, "sum";
    /// Site to coordinator: the sum's ephemeral keys.
    Advert = 11, "sum";
    /// Coordinator to site: all adverts.
    Adverts = 12, "sum";
    /// Site to coordinator: sealed shares for the others.
    Shares = 13, "sum";
    /// Coordinator to site: the shares meant for it.
    Inbox = 14, "sum";
    /// Site to coordinator: the masked vector.
    Input = 15, "sum";
    /// Coordinator to site: whose vectors arrived.
    Survivors = 16, "sum";
    /// Site to coordinator: signed agreement to the survivors.
    Consent = 17, "sum";
    /// Coordinator to site: all agreements.
    Consents = 18, "sum";
    /// Site to coordinator: the shares that remove the masks.
    Unmasking = 19, "sum";
    /// Coordinator to site: the (blind) sum.
    SumResult = 20, "sum";
    /// Site to coordinator: it sits this stage out, and why.
    Abstain = 21, "sum";
    /// Site to all sites: the hash of its model.
    ModelHash = 30, "model";
    /// Coordinator to site: the hashes of all.
    Hashes = 31, "model";
    /// Site to coordinator: here (again), and up to which stage.
    Hello = 40, "control";
    /// Site to coordinator: it stops for a stated reason.
    Halted = 41, "control";
    /// Site to coordinator: gallery images, masked.
    KernelUpload = 50, "kernel";
    /// Coordinator to site: the gallery stands.
    GalleryReady = 51, "kernel";
    /// Site to coordinator: probes, masked.
    KernelQuery = 52, "kernel";
    /// Coordinator to site: rankings.
    KernelAnswer = 53, "kernel";
    /// Site to coordinator: takes images out of the gallery.
    Withdraw = 54, "kernel";
    /// Coordinator to site: it is this site's turn to publish.
    PublishRequest = 60, "release";
    /// Site to coordinator, passed on: a part of the sealed weights.
    ReleaseBlob = 61, "release";
    /// Site to coordinator, passed on: the release to be signed.
    ReleaseDraft = 62, "release";
    /// Site to coordinator: its signature under the release.
    ReleaseSignature = 63, "release";
    /// Coordinator to site: the release with its signatures.
    Released = 64, "release";
    /// Newcomer to coordinator: wants to adopt the release.
    JoinRequest = 65, "release";
    /// Coordinator to member: this newcomer wants to join.
    JoinNotice = 66, "release";
    /// Coordinator to newcomer: plan, release and what it needs to check them.
    JoinPackage = 67, "release";
    /// Coordinator to site, while it serves: the roster in force. A site that is in no session may ask to join.
    Roster = 68, "release";
}

/// A signed message before encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The session it belongs to; zeros only in a request to join.
    pub session: [u8; 16],
    /// What it is.
    pub kind: Kind,
    /// Stage: 0 for counts, 1.. for rounds, then metrics.
    pub round: u32,
    /// Attempt at the stage, or the sender's own counter in the kernel phase.
    pub attempt: u32,
    /// Who signs.
    pub sender: Party,
    /// For whom; nobody means everyone.
    pub recipient: Option<Party>,
    /// The encoded content.
    pub payload: Bytes,
}

/// Who signs an envelope.
pub(crate) enum Signer<'a> {
    Coordinator(&'a CoordinatorKey),
    Site(&'a SiteKey),
}

impl Signer<'_> {
    fn sign(&self, digest: &Digest) -> Vec<u8> {
        match self {
            Signer::Coordinator(key) => key.sign(digest).to_vec(),
            Signer::Site(key) => key.sign(digest).to_vec(),
        }
    }
}

const EVERYONE: u32 = u32::MAX;

impl Envelope {
    fn digest(&self) -> Digest {
        self.digest_with(&self.payload)
    }

    fn digest_with(&self, payload: &[u8]) -> Digest {
        let mut hash = Sha256::new();
        hash.update(LABEL);
        hash.update(self.session);
        let recipient = self.recipient.map_or(EVERYONE, Party::to_wire);
        for field in [VERSION, self.kind as u32, self.round, self.attempt, self.sender.to_wire(), recipient] {
            hash.update(field.to_le_bytes());
        }
        hash.update((payload.len() as u64).to_le_bytes());
        hash.update(payload);
        hash.finalize().into()
    }

    /// Where a message belongs, for the beginning of an error.
    pub(crate) fn place(&self, roster: &Roster) -> String {
        let from = match self.sender {
            Party::Coordinator => "the coordinator".to_owned(),
            Party::Site(site) => roster.name(site),
        };
        format!("{:?} of stage {}, attempt {}, from {from}", self.kind, self.round, self.attempt)
    }

    /// Signs and encodes. The payload is copied once.
    pub(crate) fn seal(self, signer: &Signer<'_>) -> Bytes {
        let signature = signer.sign(&self.digest());
        wire::Envelope { payload: self.payload.clone(), signature, ..self.head() }.encode_to_vec().into()
    }

    /// Signs and encodes with a payload of so many bytes, at least one, that `write` appends to what it is given. The payload is
    /// nowhere else.
    pub(crate) fn seal_written(
        self,
        signer: &Signer<'_>,
        length: usize,
        write: impl FnOnce(Vec<u8>) -> Result<Vec<u8>>,
    ) -> Result<Bytes> {
        let mut head = self.head().encode_to_vec();
        encode_key(8, WireType::LengthDelimited, &mut head);
        encode_varint(length as u64, &mut head);
        let start = head.len();
        let mut message = write(head)?;
        debug_assert_eq!(message.len(), start + length);
        let signature = signer.sign(&self.digest_with(&message[start..]));
        let tail = wire::Envelope { signature, ..wire::Envelope::default() }.encode_to_vec();
        message.reserve_exact(tail.len());
        message.extend_from_slice(&tail);
        Ok(message.into())
    }

    /// All but payload and signature.
    fn head(&self) -> wire::Envelope {
        wire::Envelope {
            version: VERSION,
            session: self.session.to_vec(),
            kind: self.kind as u32,
            round: self.round,
            attempt: self.attempt,
            sender: self.sender.to_wire(),
            recipient: self.recipient.map_or(EVERYONE, Party::to_wire),
            ..wire::Envelope::default()
        }
    }

    /// Decodes and checks version, size, sender and signature; the payload stays where it is in `bytes`.
    ///
    /// `max_len` gives the greatest payload for a kind. Session, recipient and phase are the receiver's to check.
    pub fn open(bytes: Bytes, roster: &Roster, max_len: impl Fn(Kind) -> usize) -> Result<Opened> {
        let total = bytes.len();
        let largest = Kind::ALL.iter().map(|&kind| max_len(kind)).max().unwrap_or(0) + OVERHEAD;
        if total > largest {
            refuse!(Oversized, "a message of {total} bytes; the plan allows at most {largest}");
        }
        let raw = bytes.clone();
        let wire = wire::Envelope::decode(bytes)
            .map_err(|e| refusal(RefusalKind::Malformed, format!("not an envelope: {e}")))?;
        if wire.version != VERSION {
            refuse!(
                UnsupportedVersion,
                "the message speaks protocol version {}, this program speaks {VERSION}; bring both to the same release",
                wire.version
            );
        }
        // One message has one encoding: unknown, repeated, reordered or over-long fields are refused. The
        // payload need not be copied for that; it is a part of `raw`.
        let head =
            wire::Envelope { payload: Bytes::new(), signature: Vec::new(), ..wire.clone() }.encode_to_vec();
        let tail =
            wire::Envelope { signature: wire.signature.clone(), ..wire::Envelope::default() }.encode_to_vec();
        if wire.encoded_len() != total || !raw.starts_with(&head) || !raw.ends_with(&tail) {
            refuse!(Malformed, "an envelope with fields that the protocol does not have");
        }
        let Some(kind) = Kind::from_wire(wire.kind) else {
            refuse!(Malformed, "message kind {} does not exist", wire.kind);
        };
        let Some(sender) = Party::from_wire(wire.sender) else {
            refuse!(UnknownSender, "sender number {} is not in the roster", wire.sender);
        };
        let recipient = match wire.recipient {
            EVERYONE => None,
            code => match Party::from_wire(code) {
                Some(party) => Some(party),
                None => refuse!(Malformed, "recipient number {code} does not exist"),
            },
        };
        let Ok(session) = <[u8; 16]>::try_from(wire.session.as_slice()) else {
            refuse!(Malformed, "a session id has 16 bytes, not {}", wire.session.len());
        };
        if wire.payload.len() > max_len(kind) {
            refuse!(
                Oversized,
                "{kind:?} of {} bytes from {sender}; the plan allows {}",
                wire.payload.len(),
                max_len(kind)
            );
        }
        let envelope = Envelope {
            session,
            kind,
            round: wire.round,
            attempt: wire.attempt,
            sender,
            recipient,
            payload: wire.payload,
        };
        let digest = envelope.digest();
        let verified = match sender {
            Party::Coordinator => roster.coordinator().verify(&digest, &wire.signature),
            Party::Site(site) => match roster.site(site) {
                Some(keys) => keys.verify(&digest, &wire.signature),
                None => refuse!(
                    UnknownSender,
                    "{} is not an active site of roster {}",
                    roster.name(site),
                    roster.serial()
                ),
            },
        };
        verified.map_err(|_| {
            let name = match sender {
                Party::Coordinator => "the coordinator".to_owned(),
                Party::Site(site) => roster.name(site),
            };
            refusal(
                RefusalKind::BadSignature,
                format!(
                    "{kind:?} of stage {} is not signed by {name}, whom it names as its sender",
                    envelope.round
                ),
            )
        })?;
        Ok(Opened { envelope, raw })
    }
}

/// An envelope whose signature was checked, and its bytes, to be passed on as they are.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The content.
    pub envelope: Envelope,
    /// The bytes as they came.
    pub raw: Bytes,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::roster::SiteName;

    fn roster() -> Roster {
        let sites = (0..3)
            .map(|i| (SiteName::new(&format!("s{i}")).unwrap(), SiteKey::from_seed(&[i + 1; 32]).public()));
        Roster::new("t", 1, CoordinatorKey::from_seed(&[9; 32]).public(), sites.collect()).unwrap()
    }

    fn party() -> impl Strategy<Value = Party> {
        prop_oneof![Just(Party::Coordinator), (0u16..3).prop_map(|i| Party::Site(SiteIndex(i)))]
    }

    fn envelope() -> impl Strategy<Value = Envelope> {
        let payload = prop::collection::vec(any::<u8>(), 0..300);
        let fields = (any::<[u8; 16]>(), 0..Kind::ALL.len(), any::<u32>(), any::<u32>());
        (fields, party(), prop::option::of(party()), payload).prop_map(
            |((session, kind, round, attempt), sender, recipient, payload)| Envelope {
                session,
                kind: Kind::ALL[kind],
                round,
                attempt,
                sender,
                recipient,
                payload: payload.into(),
            },
        )
    }

    fn seal(envelope: &Envelope) -> Bytes {
        match envelope.sender {
            Party::Coordinator => {
                envelope.clone().seal(&Signer::Coordinator(&CoordinatorKey::from_seed(&[9; 32])))
            }
            Party::Site(site) => {
                envelope.clone().seal(&Signer::Site(&SiteKey::from_seed(&[site.0 as u8 + 1; 32])))
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(envelope in envelope()) {
            let bytes = seal(&envelope);
            prop_assert!(bytes.len() <= envelope.payload.len() + OVERHEAD);
            let opened = Envelope::open(bytes.clone(), &roster(), |_| 300).unwrap();
            prop_assert_eq!(opened.envelope, envelope);
            prop_assert_eq!(opened.raw, bytes);
        }

        #[test]
        fn a_payload_that_is_written_in_place_is_sealed_alike(envelope in envelope()) {
            let payload = [&[1], &envelope.payload[..]].concat();
            let envelope = Envelope { sender: Party::Coordinator, payload: payload.clone().into(), ..envelope };
            let key = CoordinatorKey::from_seed(&[9; 32]);
            let whole = seal(&envelope);
            let head = Envelope { payload: Bytes::new(), ..envelope };
            let write = |mut out: Vec<u8>| {
                out.extend_from_slice(&payload);
                Ok(out)
            };
            prop_assert_eq!(head.seal_written(&Signer::Coordinator(&key), payload.len(), write).unwrap(), whole);
        }

        #[test]
        fn no_other_bytes_open(envelope in envelope(), place in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = seal(&envelope).to_vec();
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            prop_assert!(Envelope::open(bytes.into(), &roster(), |_| 300).is_err());
        }

        #[test]
        fn noise_is_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Envelope::open(bytes.into(), &roster(), |_| 300).is_err());
        }
    }
}
