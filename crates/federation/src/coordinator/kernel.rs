//! Ranking masked vectors by tokens.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use domain::normalise::Normaliser;
use domain::{Normalisation, rank};
use prost::bytes::Bytes;
use rayon::prelude::*;
use secure::SiteIndex;
use secure::kernel::gram;

use self::comparisons::Comparisons;
use super::{Coordinator, Phase};
use crate::action::Action;
use crate::envelope::{Envelope, Kind};
use crate::plan::KernelPlan;
use crate::refusal::{Result, refuse};
use crate::wire;

mod comparisons;

/// Probes multiplied with the gallery at a time: bounds the memory for inner products.
const BATCH: usize = 64;
/// Answers kept per site in case one is lost on the way.
const KEPT: usize = 32;
/// Images a site may hold in the gallery.
const MAX_IMAGES: u32 = 1 << 20;
/// Galleries, or unions of them, whose normalisers are kept.
const NORMALISERS: usize = 4096;
/// Withdrawn images of a site that are remembered.
const WITHDRAWALS: usize = 1 << 20;

/// One gallery image, as far as the coordinator knows it.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) site: SiteIndex,
    pub(super) pseudonym: [u8; 16],
    pub(super) token: [u8; 16],
    pub(super) galleries: u32,
    /// Number of the site's message that brought it.
    pub(super) number: u32,
}

/// The masked gallery of all sites.
#[derive(Default)]
pub(super) struct Gallery {
    pub(super) entries: Vec<Entry>,
    /// Row after row, as long as `entries`.
    pub(super) vectors: Vec<f32>,
    places: HashMap<[u8; 16], usize>,
    pub(super) totals: BTreeMap<SiteIndex, u32>,
    pub(super) received: BTreeMap<SiteIndex, u32>,
    /// What was taken out, by whom, and the number of the message that did it: nothing that was sent before it brings an
    /// image back.
    pub(super) withdrawn: BTreeMap<[u8; 16], (SiteIndex, u32)>,
    /// Numbers of the messages taken from each site.
    pub(super) seen: BTreeMap<SiteIndex, BTreeSet<u32>>,
    /// Rankings given to each site.
    pub(super) used: BTreeMap<SiteIndex, u32>,
    answers: BTreeMap<SiteIndex, BTreeMap<u32, Bytes>>,
    /// Nothing in it without a normalisation.
    comparisons: Comparisons,
    /// Per gallery that was asked for what its similarities are normalised by, until an image comes or goes.
    normalisers: BTreeMap<u32, Normaliser>,
}

impl Gallery {
    /// Whether all images that the site announced are here.
    pub(super) fn complete(&self, site: SiteIndex) -> bool {
        let received = self.received.get(&site).copied().unwrap_or(0);
        self.totals.get(&site).is_some_and(|&total| received >= total)
    }

    /// Takes images in; one whose pseudonym is there takes its place. With a normalisation they are compared with all others
    /// now, so that no question waits for it.
    pub(super) fn put(&mut self, images: Vec<(Entry, Vec<f32>)>, kernel: &KernelPlan) {
        let (mut places, mut stale) = (BTreeSet::new(), BTreeSet::new());
        for (entry, vector) in images {
            self.withdrawn.remove(&entry.pseudonym);
            match self.places.get(&entry.pseudonym) {
                Some(&place) => {
                    if !places.contains(&place) && kernel.normalisation != Normalisation::None {
                        stale.insert((self.entries[place].token, self.entries[place].galleries));
                        self.comparisons.changes(&self.entries[place]);
                    }
                    self.vectors[place * vector.len()..(place + 1) * vector.len()].copy_from_slice(&vector);
                    self.entries[place] = entry;
                    places.insert(place);
                }
                None => {
                    places.insert(self.entries.len());
                    self.places.insert(entry.pseudonym, self.entries.len());
                    self.vectors.extend_from_slice(&vector);
                    self.entries.push(entry);
                }
            }
        }
        self.normalisers.clear();
        if kernel.normalisation != Normalisation::None {
            let places: Vec<usize> = places.into_iter().collect();
            self.comparisons.came(kernel, &places, &self.entries, &self.vectors);
            self.comparisons.lost(kernel, &stale, &self.entries, &self.vectors);
        }
    }

    /// Whose image a pseudonym stands for, or stood for.
    fn owner(&self, pseudonym: &[u8; 16]) -> Option<SiteIndex> {
        let here = self.places.get(pseudonym).map(|&place| self.entries[place].site);
        here.or_else(|| self.withdrawn.get(pseudonym).map(|&(site, _)| site))
    }

    /// The number of the message that said the last word on a pseudonym.
    fn settled(&self, pseudonym: &[u8; 16]) -> u32 {
        let here = self.places.get(pseudonym).map(|&place| self.entries[place].number);
        here.or_else(|| self.withdrawn.get(pseudonym).map(|&(_, number)| number)).unwrap_or(0)
    }

    /// What is held of a site.
    fn holding(&self, site: SiteIndex) -> wire::Holding {
        let own = self.entries.iter().filter(|entry| entry.site == site);
        let (pseudonyms, numbers) = own.map(|entry| (entry.pseudonym.to_vec(), entry.number)).unzip();
        wire::Holding { pseudonyms, numbers, told: true }
    }

    /// Removes images and their vectors; the last ones take their places.
    fn remove(&mut self, pseudonyms: &[[u8; 16]], kernel: &KernelPlan) {
        let width = kernel.width;
        let mut stale = BTreeSet::new();
        for pseudonym in pseudonyms {
            let Some(place) = self.places.remove(pseudonym) else { continue };
            let last = self.entries.len() - 1;
            self.vectors.copy_within(last * width..(last + 1) * width, place * width);
            self.vectors.truncate(last * width);
            let gone = self.entries.swap_remove(place);
            if let Some(moved) = self.entries.get(place) {
                self.places.insert(moved.pseudonym, place);
            }
            if kernel.normalisation != Normalisation::None {
                self.comparisons.leaves(&gone, place);
                stale.insert((gone.token, gone.galleries));
            }
        }
        self.normalisers.clear();
        self.comparisons.lost(kernel, &stale, &self.entries, &self.vectors);
    }

    /// Makes the normalisers that these probes' rankings need.
    fn normalise(&mut self, kernel: &KernelPlan, probes: &[wire::KernelProbe]) {
        if self.normalisers.len() > NORMALISERS {
            self.normalisers.clear();
        }
        for &galleries in probes.iter().flat_map(|probe| &probe.galleries) {
            if kernel.normalisation == Normalisation::None || self.normalisers.contains_key(&galleries) {
                continue;
            }
            let (places, labels) = self.columns(galleries);
            let comparisons = &self.comparisons;
            let made = comparisons.normaliser(kernel.scoring(), galleries, &self.entries, &places, &labels);
            self.normalisers.extend(made.map(|normaliser| (galleries, normaliser)));
        }
    }

    /// Columns of a gallery, in an order that does not depend on who was first to send, and for each a
    /// number that stands for its token.
    fn columns(&self, galleries: u32) -> (Vec<usize>, Vec<u32>) {
        let fits = |place: &usize| self.entries[*place].galleries & galleries != 0;
        let mut columns: Vec<usize> = (0..self.entries.len()).filter(fits).collect();
        columns.sort_by_key(|&place| (self.entries[place].site, self.entries[place].pseudonym));
        let mut numbers: HashMap<[u8; 16], u32> = HashMap::new();
        let mut labels = Vec::with_capacity(columns.len());
        for &place in &columns {
            let next = numbers.len() as u32;
            labels.push(*numbers.entry(self.entries[place].token).or_insert(next));
        }
        (columns, labels)
    }
}

fn array(bytes: &[u8]) -> Result<[u8; 16]> {
    match bytes.try_into() {
        Ok(array) => Ok(array),
        Err(_) => refuse!(Malformed, "a pseudonym or token of {} bytes; they have 16", bytes.len()),
    }
}

fn vector(bytes: &[u8], width: usize) -> Result<Vec<f32>> {
    if bytes.len() != 4 * width {
        refuse!(Malformed, "a masked vector of {} bytes; {width} numbers are due", bytes.len());
    }
    let vector = wire::bytes_to_floats(bytes);
    if vector.iter().any(|x| !x.is_finite()) {
        refuse!(Malformed, "a masked vector that is not finite");
    }
    Ok(vector)
}

impl Coordinator {
    fn kernel(&self) -> Result<&KernelPlan> {
        let open = matches!(self.phase, Phase::Gallery | Phase::Publish | Phase::Signing | Phase::Serving)
            || self.stage > self.plan()?.last_model_stage();
        match &self.plan()?.kernel {
            Some(kernel) if open => Ok(kernel),
            Some(_) => refuse!(OutOfPhase, "the kernel opens when training is over"),
            None => refuse!(Rationed, "the plan has no kernel"),
        }
    }

    fn check_number(&self, site: SiteIndex, number: u32) -> Result<()> {
        if self.gallery.seen.get(&site).is_some_and(|seen| seen.contains(&number)) {
            refuse!(Replayed, "message {number} of {} was taken before", self.roster.name(site));
        }
        Ok(())
    }

    pub(super) fn on_upload(&mut self, site: SiteIndex, envelope: &Envelope) -> Result<Vec<Action>> {
        let kernel = self.kernel()?.clone();
        self.check_number(site, envelope.attempt)?;
        let upload: wire::KernelUpload = wire::decode(&envelope.payload)?;
        if upload.total > MAX_IMAGES {
            refuse!(Oversized, "{} images in one gallery; at most {MAX_IMAGES}", upload.total);
        }
        let mut entries = Vec::with_capacity(upload.entries.len());
        for entry in &upload.entries {
            let pseudonym = array(&entry.pseudonym)?;
            if let Some(owner) = self.gallery.owner(&pseudonym).filter(|&owner| owner != site) {
                refuse!(Malformed, "a pseudonym that belongs to {}", self.roster.name(owner));
            }
            let (token, galleries, number) = (array(&entry.token)?, entry.galleries, envelope.attempt);
            let new = Entry { site, pseudonym, token, galleries, number };
            entries.push((new, vector(&entry.vector, kernel.width)?));
        }
        let count = entries.len() as u32;
        entries.retain(|(entry, _)| entry.number > self.gallery.settled(&entry.pseudonym));
        self.gallery.put(entries, &kernel);
        self.gallery.seen.entry(site).or_default().insert(envelope.attempt);
        if self.phase == Phase::Serving && self.gallery.complete(site) {
            // A change while the kernel serves: nobody waits for the rest of it.
            return Ok(vec![Action::Save]);
        }
        if self.gallery.complete(site) {
            // A further upload, announced anew.
            self.gallery.totals.remove(&site);
            self.gallery.received.remove(&site);
        }
        self.gallery.totals.insert(site, upload.total);
        *self.gallery.received.entry(site).or_default() += count;
        let mut actions = Vec::new();
        if self.phase == Phase::Serving || self.gallery.complete(site) {
            // While the kernel serves, every part: a site takes a part for granted once it was taken in.
            actions.push(Action::Save);
        }
        if self.gallery.complete(site) {
            self.present.insert(site);
        }
        if self.phase == Phase::Gallery && self.awaited().is_empty() {
            actions.extend(self.close_gallery()?);
        } else if self.phase != Phase::Gallery && self.gallery.complete(site) && !self.members.contains(&site)
        {
            actions.push(self.send(site, Kind::GalleryReady, self.stage, 0, Bytes::new()));
        }
        Ok(actions)
    }

    pub(super) fn close_gallery(&mut self) -> Result<Vec<Action>> {
        let stage = self.plan()?.last_model_stage() + 1;
        let mut actions = self.send_all(Kind::GalleryReady, stage, 0, Bytes::new());
        actions.extend(self.begin_sum(stage)?);
        Ok(actions)
    }

    /// What a site needs that is late with its gallery or waits for answers.
    pub(super) fn gallery_prompt(&self, site: SiteIndex) -> Vec<Action> {
        let mut actions = Vec::new();
        let joined = self.release.joined.contains(&site);
        if !joined && !self.gallery.complete(site) {
            let last = self.plan().map_or(0, crate::Plan::last_model_stage);
            actions.extend(self.hashes_message(site, last));
        }
        if self.phase != Phase::Gallery {
            let tells = self.phase == Phase::Serving && (joined || self.gallery.complete(site));
            let payload = if tells { wire::encode(&self.gallery.holding(site)) } else { Bytes::new() };
            actions.push(self.send(site, Kind::GalleryReady, self.stage, 0, payload));
            let answers = self.gallery.answers.get(&site).into_iter().flatten();
            actions.extend(
                answers.map(|(_, bytes)| self.outgoing(site, Kind::KernelAnswer, self.stage, bytes.clone())),
            );
        }
        actions
    }

    pub(super) fn on_query(&mut self, site: SiteIndex, envelope: &Envelope) -> Result<Vec<Action>> {
        let kernel = self.kernel()?.clone();
        if self.phase == Phase::Gallery {
            refuse!(OutOfPhase, "the gallery is not complete yet");
        }
        self.check_number(site, envelope.attempt)?;
        let query: wire::KernelQuery = wire::decode(&envelope.payload)?;
        let name = self.roster.name(site);
        let asked: usize = query.probes.iter().map(|p| p.galleries.len()).sum();
        let used = self.gallery.used.get(&site).copied().unwrap_or(0);
        let left = kernel.answers_per_site.saturating_sub(used);
        if asked > left as usize {
            refuse!(
                Rationed,
                "{name} asks for {asked} rankings and has {left} of {} left",
                kernel.answers_per_site
            );
        }
        let mut flat = Vec::with_capacity(query.probes.len() * kernel.width);
        for probe in &query.probes {
            array(&probe.id)?;
            flat.extend(vector(&probe.vector, kernel.width)?);
        }
        self.gallery.normalise(&kernel, &query.probes);
        let rankings = self.rank(&kernel, &query.probes, &flat)?;
        self.gallery.seen.entry(site).or_default().insert(envelope.attempt);
        self.gallery.used.insert(site, used + asked as u32);
        let payload = wire::encode(&wire::KernelAnswer { rankings, left: left - asked as u32 });
        let bytes = self.seal(Some(site), Kind::KernelAnswer, self.stage, envelope.attempt, payload);
        let kept = self.gallery.answers.entry(site).or_default();
        kept.insert(envelope.attempt, bytes.clone());
        while kept.len() > KEPT {
            kept.pop_first();
        }
        // No save: the snapshot carries the gallery, and a crash costs no more than the count of this query.
        Ok(vec![self.outgoing(site, Kind::KernelAnswer, self.stage, bytes)])
    }

    fn rank(
        &self,
        kernel: &KernelPlan,
        probes: &[wire::KernelProbe],
        flat: &[f32],
    ) -> Result<Vec<wire::Ranking>> {
        let wanted: BTreeSet<u32> = probes.iter().flat_map(|p| p.galleries.iter().copied()).collect();
        let columns: BTreeMap<u32, (Vec<usize>, Vec<u32>)> =
            wanted.into_iter().map(|galleries| (galleries, self.gallery.columns(galleries))).collect();
        let size = self.gallery.entries.len();
        let mut rankings = Vec::new();
        for (probes, flat) in probes.chunks(BATCH).zip(flat.chunks(BATCH * kernel.width)) {
            let products =
                if size == 0 { Vec::new() } else { gram(flat, &self.gallery.vectors, kernel.width)? };
            let of_probe = |(i, probe): (usize, &wire::KernelProbe)| -> Vec<wire::Ranking> {
                let row = products.get(i * size..(i + 1) * size).unwrap_or_default();
                let each = probe.galleries.iter().map(|galleries| {
                    let (columns, labels) = &columns[galleries];
                    let similarities: Vec<f32> = columns.iter().map(|&place| row[place]).collect();
                    let normaliser = self.gallery.normalisers.get(galleries);
                    let scores = kernel.scoring().scores(normaliser, similarities.iter().copied(), labels);
                    let ranked = rank::rank_by(&scores, &similarities, labels);
                    let ranked = ranked.into_iter().take(usize::from(kernel.top));
                    let ranked = ranked.map(|place| {
                        let nearest = &self.gallery.entries[columns[place.gallery_index]];
                        wire::Ranked {
                            token: nearest.token.to_vec(),
                            steps: (place.distance.max(0.0) / kernel.distance_step).ceil() as u32,
                            nearest: nearest.pseudonym.to_vec(),
                        }
                    });
                    wire::Ranking { probe: probe.id.clone(), galleries: *galleries, ranked: ranked.collect() }
                });
                each.collect()
            };
            let batch: Vec<Vec<wire::Ranking>> = probes.par_iter().enumerate().map(of_probe).collect();
            rankings.extend(batch.into_iter().flatten());
        }
        Ok(rankings)
    }

    pub(super) fn on_withdraw(&mut self, site: SiteIndex, envelope: &Envelope) -> Result<Vec<Action>> {
        let kernel = self.kernel()?.clone();
        self.check_number(site, envelope.attempt)?;
        let message: wire::Withdraw = wire::decode(&envelope.payload)?;
        let mut pseudonyms = Vec::with_capacity(message.pseudonyms.len());
        for pseudonym in &message.pseudonyms {
            let pseudonym = array(pseudonym)?;
            if self.gallery.owner(&pseudonym).is_some_and(|owner| owner != site) {
                refuse!(UnknownSender, "{} withdraws an image of another site", self.roster.name(site));
            }
            pseudonyms.push(pseudonym);
        }
        let before = self.gallery.withdrawn.values().filter(|(owner, _)| *owner == site).count();
        if before + pseudonyms.len() > WITHDRAWALS {
            refuse!(Oversized, "{} withdraws more than {WITHDRAWALS} images", self.roster.name(site));
        }
        pseudonyms.retain(|pseudonym| envelope.attempt > self.gallery.settled(pseudonym));
        self.gallery.remove(&pseudonyms, &kernel);
        let taken = pseudonyms.into_iter().map(|pseudonym| (pseudonym, (site, envelope.attempt)));
        self.gallery.withdrawn.extend(taken);
        self.gallery.seen.entry(site).or_default().insert(envelope.attempt);
        Ok(vec![Action::Save])
    }

    /// Images in the gallery.
    pub fn gallery_len(&self) -> usize {
        self.gallery.entries.len()
    }
}

#[cfg(test)]
mod tests;
