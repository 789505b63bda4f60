//! Masked vectors out, rankings in.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use domain::{ImageId, SyndromeId};
use hmac::{Hmac, KeyInit, Mac};
use prost::bytes::Bytes;
use secure::kernel::{self, Rotation};
use sha2::Sha256;

use super::Participant;
use crate::action::{Action, Answer, GalleryImage, Probe, RankedSyndrome};
use crate::envelope::{Envelope, Kind};
use crate::limits::PART;
use crate::plan::KernelPlan;
use crate::refusal::{Result, refuse};
use crate::wire;

/// Encodings masked at a time.
const BATCH: usize = 256;
/// Rankings asked for in one query; an answer has at most 30 places of about 60 bytes each.
const RANKINGS: usize = 4096;

/// What a site keeps of the kernel.
#[derive(Default)]
pub(super) struct State {
    pub(super) rotation: Option<Arc<Rotation>>,
    tokens: HashMap<[u8; 16], SyndromeId>,
    /// Gallery images sent, by pseudonym.
    pub(super) images: BTreeMap<[u8; 16], ImageId>,
    /// The coordinator said that the gallery stands.
    pub(super) ready: bool,
    /// Numbers the messages of the kernel phase; never used twice.
    pub(super) sequence: u32,
    /// Rankings asked for in all.
    pub(super) asked: u32,
    pending: BTreeMap<u32, Pending>,
    answers: Vec<Answer>,
}

struct Pending {
    payload: Bytes,
    probes: HashMap<[u8; 16], ImageId>,
    rankings: usize,
}

impl Participant {
    fn kernel_plan(&self) -> Result<&KernelPlan> {
        let session = self.session()?;
        let over = session.joined || session.settled > session.plan.last_model_stage();
        match &session.plan.kernel {
            Some(kernel) if over => Ok(kernel),
            Some(_) => refuse!(OutOfPhase, "the kernel opens when training is over"),
            None => refuse!(Rationed, "the plan has no kernel"),
        }
    }

    pub(super) fn kernel_rotation(&mut self) -> Result<Arc<Rotation>> {
        let kernel = self.kernel_plan()?;
        let session = self.session()?;
        if let Some(rotation) = &session.kernel.rotation {
            return Ok(rotation.clone());
        }
        let Some(group) = &self.group else {
            refuse!(GroupKey, "this site has no group key");
        };
        let rotation = Rotation::derive_wide(group.key(), &session.model_label, kernel.dim, kernel.width)?;
        let rotation = Arc::new(rotation);
        self.session_mut()?.kernel.rotation = Some(rotation.clone());
        Ok(rotation)
    }

    /// Takes over a rotation that another site *in the same process* has made for the same kernel: it is
    /// the same at every site, and costs seconds. Refused when it is of another kernel or group key.
    pub fn share_rotation(&mut self, other: &mut Participant) -> Result<()> {
        let same = self.group.as_ref().map(|g| g.key()) == other.group.as_ref().map(|g| g.key())
            && self.session()?.model_label == other.session()?.model_label
            && self.kernel_plan()? == other.kernel_plan()?;
        if !same {
            refuse!(Disagreement, "the two sites are not in the same kernel");
        }
        let rotation = other.kernel_rotation()?;
        self.session_mut()?.kernel.rotation = Some(rotation);
        Ok(())
    }

    /// An image's name outside the site: only this site can link the two.
    pub(super) fn pseudonym(&self, image: &ImageId) -> Result<[u8; 16]> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.key.private()).expect("HMAC takes keys of any length");
        mac.update(b"fedgestalt/pseudonym/v1");
        mac.update(&self.session()?.model_label);
        mac.update(image.as_str().as_bytes());
        let full = mac.finalize().into_bytes();
        Ok(std::array::from_fn(|i| full[i]))
    }

    fn token(&self, syndrome: &SyndromeId) -> Result<[u8; 16]> {
        match &self.group {
            Some(group) => Ok(kernel::token(group.key(), &self.session()?.model_label, syndrome.as_str()).0),
            None => refuse!(GroupKey, "this site has no group key"),
        }
    }

    fn fill_tokens(&mut self) -> Result<()> {
        let session = self.session()?;
        if !session.kernel.tokens.is_empty() {
            return Ok(());
        }
        let known = session.lists.iter().flat_map(|lists| &lists.all).chain(self.holdings.keys());
        let tokens: Result<HashMap<_, _>> = known.map(|id| Ok((self.token(id)?, id.clone()))).collect();
        self.session_mut()?.kernel.tokens = tokens?;
        Ok(())
    }

    /// Masks encodings and hands each to `each` with its place, batch by batch.
    fn mask<'a>(
        &mut self,
        encodings: impl Iterator<Item = (&'a ImageId, &'a [f32])>,
        mut each: impl FnMut(&mut Self, Bytes) -> Result<()>,
    ) -> Result<()> {
        let (dim, width) = {
            let kernel = self.kernel_plan()?;
            (kernel.dim, kernel.width)
        };
        let rotation = self.kernel_rotation()?;
        let mut plain: Vec<f32> = Vec::with_capacity(BATCH * dim);
        let mut flush = |this: &mut Self, plain: &mut Vec<f32>| -> Result<()> {
            for vector in rotation.mask(plain)?.chunks_exact(width) {
                each(this, wire::floats_to_bytes(vector))?;
            }
            plain.clear();
            Ok(())
        };
        for (image, encoding) in encodings {
            if encoding.len() != dim || encoding.iter().any(|x| !x.is_finite()) {
                refuse!(
                    Update,
                    "the encoding of {image} is not {dim} finite numbers; encode the image again"
                );
            }
            plain.extend_from_slice(encoding);
            if plain.len() == BATCH * dim {
                flush(self, &mut plain)?;
            }
        }
        flush(self, &mut plain)
    }

    /// The site's diagnosed images, masked and sent in parts. More may follow later; an image sent again
    /// replaces the one before.
    pub fn submit_gallery(&mut self, gallery: Vec<GalleryImage>) -> Result<Vec<Action>> {
        let width = self.kernel_plan()?.width;
        let total = u32::try_from(gallery.len()).unwrap_or(u32::MAX);
        let mut entries = Vec::with_capacity(gallery.len());
        for image in &gallery {
            entries.push((self.pseudonym(&image.image)?, self.token(&image.syndrome)?, image.galleries));
        }
        let mut vectors = Vec::with_capacity(gallery.len());
        self.mask(gallery.iter().map(|g| (&g.image, g.encoding.as_slice())), |_, vector| {
            vectors.push(vector);
            Ok(())
        })?;
        let part = (PART / (4 * width + 64)).max(1);
        let mut entries: Vec<wire::KernelEntry> = entries
            .into_iter()
            .zip(vectors)
            .map(|((pseudonym, token, galleries), vector)| wire::KernelEntry {
                pseudonym: pseudonym.to_vec(),
                token: token.to_vec(),
                galleries,
                vector,
            })
            .collect();
        for image in gallery {
            let pseudonym = self.pseudonym(&image.image)?;
            self.session_mut()?.kernel.images.insert(pseudonym, image.image);
        }
        let mut actions = vec![Action::Save];
        loop {
            let rest = entries.split_off(part.min(entries.len()));
            let message = wire::KernelUpload { entries, total };
            actions.push(self.send_numbered(Kind::KernelUpload, wire::encode(&message))?);
            entries = rest;
            if entries.is_empty() {
                // The snapshot must know the highest number used before any of them leaves.
                return Ok(actions);
            }
        }
    }

    fn next_number(&mut self) -> Result<u32> {
        let kernel = &mut self.session_mut()?.kernel;
        kernel.sequence += 1;
        Ok(kernel.sequence)
    }

    fn send_numbered(&mut self, kind: Kind, payload: Bytes) -> Result<Action> {
        let number = self.next_number()?;
        Ok(self.send(kind, self.settled(), number, payload))
    }

    pub(super) fn on_gallery_ready(&mut self, _envelope: &Envelope) -> Result<Vec<Action>> {
        self.kernel_plan()?;
        let settled = self.settled();
        let kernel = &mut self.session_mut()?.kernel;
        if !kernel.ready {
            kernel.ready = true;
            return Ok(vec![Action::Save, Action::Ask]);
        }
        let pending: Vec<(u32, Bytes)> =
            kernel.pending.iter().map(|(&n, p)| (n, p.payload.clone())).collect();
        if pending.is_empty() {
            refuse!(Replayed, "the gallery was announced before");
        }
        Ok(pending
            .into_iter()
            .map(|(n, payload)| self.send(Kind::KernelQuery, settled, n, payload))
            .collect())
    }

    /// Asks for rankings. [`Action::Answers`] follows when all of them are in; at once when there are none.
    /// Refused when they would exceed the plan's ration.
    pub fn submit_probes(&mut self, probes: Vec<Probe>) -> Result<Vec<Action>> {
        let kernel = self.kernel_plan()?;
        let (width, ration) = (kernel.width, kernel.answers_per_site);
        let session = self.session()?;
        if !session.kernel.pending.is_empty() {
            refuse!(OutOfPhase, "probes sent before are still unanswered");
        }
        let rankings: usize = probes.iter().map(|p| p.galleries.len()).sum();
        let left = ration.saturating_sub(session.kernel.asked) as usize;
        if rankings > left {
            refuse!(
                Rationed,
                "{rankings} rankings asked for and {left} of {ration} left; ask about fewer probes"
            );
        }
        if rankings == 0 {
            return Ok(vec![Action::Answers(Vec::new())]);
        }
        self.fill_tokens()?;
        let mut ids = Vec::with_capacity(probes.len());
        for probe in &probes {
            ids.push(self.pseudonym(&probe.image)?);
        }
        let mut vectors = Vec::with_capacity(probes.len());
        self.mask(probes.iter().map(|p| (&p.image, p.encoding.as_slice())), |_, vector| {
            vectors.push(vector);
            Ok(())
        })?;
        let mut actions = vec![Action::Save];
        let mut part = wire::KernelQuery { probes: Vec::new() };
        let mut names = HashMap::new();
        let (mut bytes, mut count) = (0, 0);
        let last = probes.len().saturating_sub(1);
        for (i, ((probe, id), vector)) in probes.into_iter().zip(ids).zip(vectors).enumerate() {
            bytes += 4 * width + 64 + 6 * probe.galleries.len();
            count += probe.galleries.len();
            part.probes.push(wire::KernelProbe { id: id.to_vec(), galleries: probe.galleries, vector });
            names.insert(id, probe.image);
            if i == last || bytes + 8 * width > PART || count > RANKINGS {
                let payload = wire::encode(&std::mem::take(&mut part));
                let number = self.next_number()?;
                let pending =
                    Pending { payload: payload.clone(), probes: std::mem::take(&mut names), rankings: count };
                let kernel = &mut self.session_mut()?.kernel;
                kernel.pending.insert(number, pending);
                kernel.asked += count as u32;
                actions.push(self.send(Kind::KernelQuery, self.settled(), number, payload));
                (bytes, count) = (0, 0);
            }
        }
        Ok(actions)
    }

    pub(super) fn on_answer(&mut self, envelope: &Envelope) -> Result<Vec<Action>> {
        let step = self.kernel_plan()?.distance_step;
        let answer: wire::KernelAnswer = wire::decode(&envelope.payload)?;
        let session = self.session()?;
        let Some(pending) = session.kernel.pending.get(&envelope.attempt) else {
            refuse!(Replayed, "no question {} is open at this site", envelope.attempt);
        };
        if answer.rankings.len() != pending.rankings {
            refuse!(
                Malformed,
                "{} rankings for {} that were asked for",
                answer.rankings.len(),
                pending.rankings
            );
        }
        let mut answers = Vec::with_capacity(answer.rankings.len());
        for ranking in answer.rankings {
            let id = <[u8; 16]>::try_from(ranking.probe.as_slice()).ok();
            let Some(image) = id.and_then(|id| pending.probes.get(&id)) else {
                refuse!(Malformed, "a ranking of a probe that was not asked about");
            };
            let mut ranked = Vec::with_capacity(ranking.ranked.len());
            for place in ranking.ranked {
                let token = <[u8; 16]>::try_from(place.token.as_slice());
                let nearest = <[u8; 16]>::try_from(place.nearest.as_slice());
                let (Ok(token), Ok(nearest)) = (token, nearest) else {
                    refuse!(Malformed, "a place in a ranking without token or pseudonym");
                };
                ranked.push(RankedSyndrome {
                    syndrome: session.kernel.tokens.get(&token).cloned(),
                    distance: place.steps as f32 * step,
                    nearest,
                    own: session.kernel.images.get(&nearest).cloned(),
                });
            }
            answers.push(Answer { image: image.clone(), galleries: ranking.galleries, ranked });
        }
        let kernel = &mut self.session_mut()?.kernel;
        kernel.pending.remove(&envelope.attempt);
        kernel.answers.append(&mut answers);
        if kernel.pending.is_empty() {
            return Ok(vec![Action::Answers(std::mem::take(&mut kernel.answers))]);
        }
        Ok(Vec::new())
    }

    /// Takes images out of the gallery for good; they cannot come back under this release.
    pub fn withdraw(&mut self, images: &[ImageId]) -> Result<Vec<Action>> {
        self.kernel_plan()?;
        let mut pseudonyms = Vec::new();
        for image in images {
            let pseudonym = self.pseudonym(image)?;
            self.session_mut()?.kernel.images.remove(&pseudonym);
            pseudonyms.push(pseudonym.to_vec());
        }
        let mut actions = Vec::new();
        for part in pseudonyms.chunks(10_000) {
            let payload = wire::encode(&wire::Withdraw { pseudonyms: part.to_vec() });
            actions.push(self.send_numbered(Kind::Withdraw, payload)?);
        }
        actions.insert(0, Action::Save);
        Ok(actions)
    }
}
