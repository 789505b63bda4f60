//! What a site keeps over a restart. It resumes at the last stage that is over.

use std::collections::BTreeMap;

use domain::{ImageId, SyndromeId};
use prost::Message;
use secure::SiteIndex;

use super::kernel::SentImage;
use super::{Lists, Participant, Session, SiteSetup};
use crate::aggregate::{Counts, Layout, ModelDigests};
use crate::group::GroupState;
use crate::identity::Digest;
use crate::plan::Plan;
use crate::refusal::{RefusalKind, Result, refusal, refuse};
use crate::release::SignedRelease;
use crate::wire;

const VERSION: u32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Snapshot {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "vec", tag = "2")]
    group: Vec<u8>,
    #[prost(uint64, tag = "3")]
    least_epoch: u64,
    #[prost(uint32, repeated, tag = "4")]
    approved: Vec<u32>,
    #[prost(message, optional, tag = "5")]
    session: Option<Kept>,
    #[prost(string, tag = "6")]
    halted: String,
    /// It has asked to join a release.
    #[prost(bool, tag = "7")]
    joining: bool,
}

#[derive(Clone, PartialEq, Message)]
struct KeptImage {
    #[prost(string, tag = "1")]
    image: String,
    #[prost(uint32, tag = "2")]
    number: u32,
    #[prost(bytes = "vec", tag = "3")]
    print: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Kept {
    #[prost(message, optional, tag = "1")]
    plan: Option<wire::Signed>,
    #[prost(uint32, repeated, tag = "2")]
    members: Vec<u32>,
    #[prost(uint32, tag = "3")]
    founder: u32,
    #[prost(uint32, tag = "4")]
    enrolment: u32,
    #[prost(message, optional, tag = "5")]
    lists: Option<wire::SyndromeList>,
    #[prost(uint32, repeated, tag = "6")]
    rows: Vec<u32>,
    #[prost(uint32, repeated, tag = "7")]
    holders: Vec<u32>,
    #[prost(uint64, tag = "8")]
    images: u64,
    #[prost(uint32, tag = "9")]
    applied: u32,
    #[prost(uint32, tag = "10")]
    settled: u32,
    #[prost(bytes = "vec", tag = "11")]
    whole: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "12")]
    digests: Vec<Vec<u8>>,
    #[prost(uint32, tag = "13")]
    last_attempt: u32,
    #[prost(uint32, optional, tag = "14")]
    unmasked: Option<u32>,
    #[prost(uint32, repeated, tag = "15")]
    hits: Vec<u32>,
    #[prost(bytes = "vec", tag = "16")]
    label: Vec<u8>,
    #[prost(message, repeated, tag = "25")]
    gallery: Vec<KeptImage>,
    #[prost(bytes = "vec", repeated, tag = "26")]
    withdrawn: Vec<Vec<u8>>,
    #[prost(bool, tag = "18")]
    ready: bool,
    #[prost(uint32, tag = "19")]
    sequence: u32,
    #[prost(uint32, tag = "20")]
    asked: u32,
    #[prost(bytes = "bytes", tag = "21")]
    draft: prost::bytes::Bytes,
    #[prost(bytes = "vec", tag = "22")]
    released: Vec<u8>,
    #[prost(bool, tag = "23")]
    joined: bool,
    #[prost(btree_map = "uint32, double", tag = "24")]
    scores: BTreeMap<u32, f64>,
    #[prost(btree_map = "uint32, double", tag = "27")]
    losses: BTreeMap<u32, f64>,
}

fn place(number: u32) -> SiteIndex {
    SiteIndex(u16::try_from(number).unwrap_or(u16::MAX))
}

fn kept_image(sent: &SentImage) -> KeptImage {
    KeptImage { image: sent.image.as_str().to_owned(), number: sent.number, print: sent.print.to_vec() }
}

fn array(bytes: &[u8]) -> Result<Digest> {
    match bytes.try_into() {
        Ok(array) => Ok(array),
        Err(_) => refuse!(Snapshot, "a digest of {} bytes; restore an older snapshot", bytes.len()),
    }
}

fn ids(names: &[String]) -> Result<Vec<SyndromeId>> {
    let ids = names.iter().map(|name| SyndromeId::new(name));
    ids.collect::<std::result::Result<_, _>>()
        .map_err(|_| refusal(RefusalKind::Snapshot, "an impossible syndrome id; restore an older snapshot"))
}

impl Participant {
    /// All that a restart needs. Holds the group key: keep it as secret as the site's own key.
    pub fn snapshot(&self) -> Vec<u8> {
        let session = self.session.as_ref().map(|s| Kept {
            plan: Some(s.signed_plan.clone()),
            members: s.members.iter().map(|site| u32::from(site.0)).collect(),
            founder: u32::from(s.founder.0),
            enrolment: s.enrolment,
            lists: s.lists.as_ref().map(|lists| wire::SyndromeList {
                trained: lists.trained.iter().map(|id| id.as_str().to_owned()).collect(),
                gallery: lists.all.iter().map(|id| id.as_str().to_owned()).collect(),
            }),
            rows: s.counts.rows.clone(),
            holders: s.counts.holders.clone(),
            images: s.counts.images,
            // A sum that the host has not applied yet is asked for again.
            applied: if s.awaits_model { s.settled } else { s.applied },
            settled: s.settled,
            whole: s.digests.whole.to_vec(),
            digests: s.digests.members.iter().map(|d| d.to_vec()).collect(),
            last_attempt: s.last_attempt,
            unmasked: s.unmasked,
            hits: s.hits.clone().unwrap_or_default(),
            label: s.model_label.to_vec(),
            gallery: s.kernel.images.values().map(kept_image).collect(),
            withdrawn: s.kernel.withdrawn.iter().map(|pseudonym| pseudonym.to_vec()).collect(),
            ready: s.kernel.ready,
            sequence: s.kernel.sequence,
            asked: s.kernel.asked,
            draft: s.draft.clone().unwrap_or_default(),
            released: s.released.as_ref().map(SignedRelease::encode).unwrap_or_default(),
            joined: s.joined,
            scores: s.scores.clone(),
            losses: s.losses.clone(),
        });
        let snapshot = Snapshot {
            version: VERSION,
            group: self.group.as_ref().map(|g| g.to_bytes().to_vec()).unwrap_or_default(),
            least_epoch: self.least_epoch,
            approved: self.approved.iter().map(|site| u32::from(site.0)).collect(),
            session,
            halted: self.halted.clone().unwrap_or_default(),
            joining: self.joining.is_some(),
        };
        snapshot.encode_to_vec()
    }

    /// A site as it was at a snapshot; `setup` has a fresh seed. Call [`Participant::rejoin`] next.
    pub fn restore(setup: SiteSetup, bytes: &[u8]) -> Result<Self> {
        let snapshot = Snapshot::decode(bytes).map_err(|e| {
            refusal(
                RefusalKind::Snapshot,
                format!("the snapshot does not decode ({e}); restore an older one"),
            )
        })?;
        if snapshot.version != VERSION {
            refuse!(
                UnsupportedVersion,
                "snapshot version {}; this program reads {VERSION}",
                snapshot.version
            );
        }
        let mut site = Self::new(setup)?;
        if !snapshot.group.is_empty() {
            site.group = Some(GroupState::from_bytes(&snapshot.group)?);
        }
        site.least_epoch = snapshot.least_epoch;
        site.approved = snapshot.approved.iter().map(|&n| place(n)).collect();
        site.halted = Some(snapshot.halted).filter(|reason| !reason.is_empty());
        site.joining = snapshot.joining.then(Default::default);
        if let Some(kept) = snapshot.session {
            site.restore_session(kept)?;
        }
        Ok(site)
    }

    fn restore_session(&mut self, kept: Kept) -> Result<()> {
        let Some(signed) = kept.plan else {
            refuse!(Snapshot, "a session without a plan; restore an older snapshot");
        };
        let plan = Plan::verified(&signed, &self.roster.coordinator())?;
        let mut session = Session::new(signed, plan);
        session.members = kept.members.iter().map(|&n| place(n)).collect();
        session.founder = place(kept.founder);
        session.enrolment = kept.enrolment;
        session.counts = Counts { rows: kept.rows, holders: kept.holders, images: kept.images };
        (session.applied, session.settled) = (kept.applied, kept.settled);
        let members: Result<Vec<Digest>> = kept.digests.iter().map(|d| array(d)).collect();
        session.digests = ModelDigests { whole: array(&kept.whole)?, members: members? };
        session.last_attempt = kept.last_attempt;
        session.unmasked = kept.unmasked;
        session.hits = Some(kept.hits).filter(|hits| !hits.is_empty());
        session.model_label = array(&kept.label)?;
        // Questions under way are lost with the process: let the host ask again.
        session.kernel.ready =
            kept.ready && (kept.joined || kept.settled > session.plan.last_model_stage() + 1);
        session.kernel.sequence = kept.sequence;
        session.kernel.asked = kept.asked;
        session.draft = Some(kept.draft).filter(|draft| !draft.is_empty());
        session.joined = kept.joined;
        session.scores = kept.scores;
        session.losses = kept.losses;
        if !kept.released.is_empty() {
            session.released = Some(SignedRelease::decode(&kept.released)?);
        }
        self.session = Some(session);
        if let Some(list) = kept.lists {
            let lists: Lists = self.unite(ids(&list.trained)?, ids(&list.gallery)?)?;
            let own = lists.trained.iter().map(|id| self.holdings.get(id).copied().unwrap_or(0)).collect();
            let session = self.session_mut()?;
            session.layout =
                Some(Layout::new(&session.plan, lists.trained.len(), session.members.len().max(1))?);
            session.own = own;
            session.lists = Some(lists);
        }
        for KeptImage { image, number, print } in kept.gallery {
            let image = ImageId::new(&image).map_err(|_| {
                refusal(RefusalKind::Snapshot, "an impossible image id; restore an older snapshot")
            })?;
            let pseudonym = self.pseudonym(&image)?;
            let sent = SentImage { image, number, print: array(&print)? };
            self.session_mut()?.kernel.images.insert(pseudonym, sent);
        }
        for pseudonym in &kept.withdrawn {
            let Ok(pseudonym) = <[u8; 16]>::try_from(pseudonym.as_slice()) else {
                refuse!(Snapshot, "a pseudonym of {} bytes; restore an older snapshot", pseudonym.len());
            };
            self.session_mut()?.kernel.withdrawn.insert(pseudonym);
        }
        Ok(())
    }
}
