//! Masked vectors out, rankings in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use domain::{ImageId, SyndromeId};
use hmac::{Hmac, KeyInit, Mac};
use prost::bytes::Bytes;
use secure::kernel::{self, Rotation};
use sha2::Sha256;

use super::Participant;
use crate::action::{Action, Answer, GalleryImage, Probe, RankedSyndrome};
use crate::envelope::{Envelope, Kind};
use crate::identity::{Digest, digest};
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
    pub(super) images: BTreeMap<[u8; 16], SentImage>,
    /// Pseudonyms of images that were withdrawn for good.
    pub(super) withdrawn: BTreeSet<[u8; 16]>,
    /// The coordinator said that the gallery stands.
    pub(super) ready: bool,
    /// Numbers the messages of the kernel phase; never used twice.
    pub(super) sequence: u32,
    /// Rankings asked for in all.
    pub(super) asked: u32,
    pending: BTreeMap<u32, Pending>,
    answers: Vec<Answer>,
}

/// A gallery image as the coordinator was sent it.
pub(super) struct SentImage {
    pub(super) image: ImageId,
    /// Number of the message that carried it; 0 when the coordinator turned out not to have it.
    pub(super) number: u32,
    /// Of label, galleries and encoding: an image is sent again when one of them has changed.
    pub(super) print: Digest,
}

/// Names what is sent of an image; it stays at the site.
fn print(image: &GalleryImage) -> Digest {
    let encoding = wire::floats_to_bytes(&image.encoding);
    let parts: [&[u8]; 3] = [image.syndrome.as_str().as_bytes(), &image.galleries.to_le_bytes(), &encoding];
    digest("fedgestalt/gallery-image/v1", &parts)
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

    /// The site's patients have changed: their syndromes are known from now on, if the session's training is over.
    pub fn update_holdings(&mut self, holdings: BTreeMap<SyndromeId, u32>) -> Result<()> {
        self.kernel_plan()?;
        self.holdings = holdings;
        self.session_mut()?.kernel.tokens.clear();
        Ok(())
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

    /// The site's diagnosed images as they stand, masked and sent in parts. Called again, only what has changed since goes out:
    /// images that are new or differ are sent, and those that are not among them any more are withdrawn. An image that
    /// was withdrawn for good is left out, and so is every image where the site's policy has come to forbid the kernel.
    pub fn submit_gallery(&mut self, mut gallery: Vec<GalleryImage>) -> Result<Vec<Action>> {
        let width = self.kernel_plan()?.width;
        if !self.policy.kernel {
            gallery.clear();
        }
        let first = self.session()?.kernel.images.is_empty();
        let (mut gone, mut entries, mut changed) = (BTreeSet::new(), Vec::new(), Vec::new());
        gone.extend(self.session()?.kernel.images.keys().copied());
        for image in gallery {
            let pseudonym = self.pseudonym(&image.image)?;
            let kernel = &self.session()?.kernel;
            if kernel.withdrawn.contains(&pseudonym) {
                continue;
            }
            gone.remove(&pseudonym);
            let print = print(&image);
            let same = |sent: &SentImage| sent.print == print && sent.number > 0;
            if !kernel.images.get(&pseudonym).is_some_and(same) {
                entries.push((pseudonym, self.token(&image.syndrome)?, image.galleries, print));
                changed.push(image);
            }
        }
        if !first && gone.is_empty() && changed.is_empty() {
            return Ok(Vec::new());
        }
        let mut vectors = Vec::with_capacity(changed.len());
        self.mask(changed.iter().map(|g| (&g.image, g.encoding.as_slice())), |_, vector| {
            vectors.push(vector);
            Ok(())
        })?;
        let mut actions = vec![Action::Save];
        actions.extend(self.take_back(gone.into_iter().collect())?);
        if !first && changed.is_empty() {
            return Ok(actions);
        }
        let total = u32::try_from(changed.len()).unwrap_or(u32::MAX);
        let part = (PART / (4 * width + 64)).max(1);
        let mut images = changed.into_iter().zip(entries).zip(vectors);
        loop {
            let number = self.next_number()?;
            let mut message = wire::KernelUpload { entries: Vec::new(), total };
            for ((image, (pseudonym, token, galleries, print)), vector) in images.by_ref().take(part) {
                let (name, token) = (pseudonym.to_vec(), token.to_vec());
                message.entries.push(wire::KernelEntry { pseudonym: name, token, galleries, vector });
                let sent = SentImage { image: image.image, number, print };
                self.session_mut()?.kernel.images.insert(pseudonym, sent);
            }
            actions.push(self.send(Kind::KernelUpload, self.settled(), number, wire::encode(&message)));
            if images.len() == 0 {
                // The snapshot must know the highest number used before any of them leaves.
                return Ok(actions);
            }
        }
    }

    /// Messages that take images out of the gallery.
    fn take_back(&mut self, pseudonyms: Vec<[u8; 16]>) -> Result<Vec<Action>> {
        let kernel = &mut self.session_mut()?.kernel;
        kernel.images.retain(|pseudonym, _| pseudonyms.binary_search(pseudonym).is_err());
        let mut actions = Vec::new();
        for part in pseudonyms.chunks(10_000) {
            let pseudonyms = part.iter().map(|pseudonym| pseudonym.to_vec()).collect();
            let payload = wire::encode(&wire::Withdraw { pseudonyms });
            actions.push(self.send_numbered(Kind::Withdraw, payload)?);
        }
        Ok(actions)
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

    pub(super) fn on_gallery_ready(&mut self, envelope: &Envelope) -> Result<Vec<Action>> {
        self.kernel_plan()?;
        let holding: wire::Holding = wire::decode(&envelope.payload)?;
        let mut actions = self.make_up_for(&holding)?;
        let settled = self.settled();
        let kernel = &mut self.session_mut()?.kernel;
        if !kernel.ready {
            kernel.ready = true;
            actions.extend([Action::Save, Action::Ask]);
            return Ok(actions);
        }
        let pending: Vec<(u32, Bytes)> =
            kernel.pending.iter().map(|(&n, p)| (n, p.payload.clone())).collect();
        if pending.is_empty() && !holding.told {
            refuse!(Replayed, "the gallery was announced before");
        }
        let again = pending.into_iter().map(|(n, payload)| self.send(Kind::KernelQuery, settled, n, payload));
        actions.extend(again);
        Ok(actions)
    }

    /// Compares what the coordinator holds of this site with what it was sent: a process that was killed may have taken
    /// messages with it, and a coordinator may have been set back to an older state.
    fn make_up_for(&mut self, holding: &wire::Holding) -> Result<Vec<Action>> {
        if !holding.told {
            return Ok(Vec::new());
        }
        if holding.pseudonyms.len() != holding.numbers.len() {
            refuse!(Malformed, "{} images and {} numbers", holding.pseudonyms.len(), holding.numbers.len());
        }
        let mut held = BTreeMap::new();
        for (pseudonym, &number) in holding.pseudonyms.iter().zip(&holding.numbers) {
            let Ok(pseudonym) = <[u8; 16]>::try_from(pseudonym.as_slice()) else {
                refuse!(Malformed, "a pseudonym of {} bytes; they have 16", pseudonym.len());
            };
            held.insert(pseudonym, number);
        }
        let kernel = &mut self.session_mut()?.kernel;
        let strays: Vec<[u8; 16]> =
            held.keys().filter(|pseudonym| !kernel.images.contains_key(*pseudonym)).copied().collect();
        let mut lacks = false;
        for (pseudonym, sent) in &mut kernel.images {
            if held.get(pseudonym) != Some(&sent.number) {
                sent.number = 0;
                lacks = true;
            }
        }
        let mut actions = Vec::new();
        if !strays.is_empty() {
            actions.push(Action::Save);
            actions.extend(self.take_back(strays)?);
        }
        if lacks {
            actions.extend(self.encode_action());
        }
        Ok(actions)
    }

    /// Asks for rankings. [`Action::Answers`] follows when all of them are in; at once when there are none.
    /// Refused when they would exceed the plan's ration.
    pub fn submit_probes(&mut self, probes: Vec<Probe>) -> Result<Vec<Action>> {
        let kernel = self.kernel_plan()?;
        let (width, ration) = (kernel.width, kernel.answers_per_site);
        if !self.policy.kernel && !probes.is_empty() {
            refuse!(PlanRefused, "policy kernel: nothing of this site goes to the kernel");
        }
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
                    own: session.kernel.images.get(&nearest).map(|sent| sent.image.clone()),
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
        let pseudonyms: BTreeSet<[u8; 16]> =
            images.iter().map(|image| self.pseudonym(image)).collect::<Result<_>>()?;
        self.session_mut()?.kernel.withdrawn.extend(&pseudonyms);
        let mut actions = vec![Action::Save];
        actions.extend(self.take_back(pseudonyms.into_iter().collect())?);
        Ok(actions)
    }
}
