//! What a site keeps between processes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result};
use domain::ImageId;
use domain::cohort::Cohort;
use federation::{Outgoing, Party, SignedRelease};
use jiff::Timestamp;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::model::Trained;
use super::{Evaluation, RoundRecord};
use crate::consortium::coordinator::Resume;
use crate::pipeline::ensemble::Blueprint;
use crate::pipeline::features::Crops;
use crate::pipeline::weights::{self, Weights};
use crate::store::audit::Entry;
use crate::store::tensors::{self, Tensor, Tensors};
use crate::store::{Folder, SiteStore};

/// What the audit log calls the begin of a round's training.
pub const TRAINING: &str = "training begun";
/// The participant's snapshot in a site's folder.
pub(crate) const PARTICIPANT: &str = "participant.state";
/// The participant's snapshot at the end of the session.
pub(crate) const SESSION_END: &str = "session-end.state";
const RECORDS: &str = "rounds.json";
const RELEASE: &str = "release.signed";
const EVALUATION: &str = "evaluation.json";
const KEY: &str = "site";
const STARTS: &str = "starts.json";
const UPDATE: &str = "update.json";
const UPDATE_HEADS: &str = "update.safetensors";
const MEANS: &str = "means.safetensors";

/// What belongs to heads that wait for their round to be added up.
#[derive(Serialize, Deserialize)]
struct KeptUpdate {
    /// Digest of the plan.
    plan: String,
    round: u32,
    /// SHA-256 of the file with the heads.
    heads: String,
    loss: Vec<f64>,
    accuracy: Vec<f64>,
}

/// A site's store as the federation's host uses it.
pub struct SiteFiles {
    store: SiteStore,
    resume: Resume,
}

/// A round's training as an earlier process kept it, per tuned member.
#[derive(Debug)]
pub struct Update {
    /// The trained heads.
    pub heads: Vec<learn::Head>,
    /// Mean training loss of the last epoch.
    pub loss: Vec<f64>,
    /// Share of training images classified right in it.
    pub accuracy: Vec<f64>,
}

impl SiteFiles {
    /// Opens the site's folder; one process at a time.
    pub fn open(path: &Path, resume: Resume) -> Result<Self> {
        Ok(Self { store: SiteStore::open(path)?, resume })
    }

    /// The store itself: cohort, crops, encodings, audit log.
    pub fn store(&self) -> &SiteStore {
        &self.store
    }

    fn folder(&self) -> &Folder {
        self.store.folder()
    }

    /// Takes the site's patients in: labels into the database, aligned faces into the crops. Faces that are there
    /// already are not aligned again. `tick` is called once per image.
    pub fn import(&self, cohort: &Cohort, crops: &dyn Crops, tick: &(dyn Fn() + Sync)) -> Result<()> {
        self.store.put_cohort(cohort)?;
        let is_kept = |image: &ImageId| -> Result<bool> {
            // A photograph that was replaced since is aligned anew.
            let times = crops.modified(image).zip(self.store.crop_time(image));
            Ok(times.is_none_or(|(photo, crop)| photo <= crop) && self.store.crop(image)?.is_some())
        };
        let cases = cohort.cases().par_iter();
        let kept = cases.map(|case| is_kept(&case.image)).collect::<Result<Vec<bool>>>()?;
        let missing: Vec<ImageId> = cohort
            .cases()
            .iter()
            .zip(kept)
            .filter(|(_, kept)| !kept)
            .map(|(case, _)| case.image.clone())
            .collect();
        (missing.len()..cohort.cases().len()).for_each(|_| tick());
        for chunk in missing.chunks(256) {
            let faces = chunk
                .par_iter()
                .map(|image| {
                    Ok((image.clone(), crops.crop(image).with_context(|| format!("image {image}"))?))
                })
                .collect::<Result<Vec<_>>>()?;
            self.store.put_crops(&faces, tick)?;
        }
        Ok(())
    }

    /// Notes in the audit log what leaves the site, before it leaves.
    pub fn note_sent(&self, message: &Outgoing, plan: Option<[u8; 32]>, at: Timestamp) -> Result<()> {
        let entry = Entry {
            at,
            what: format!("{:?}", message.kind),
            to: match message.to {
                Party::Coordinator => "coordinator".to_owned(),
                Party::Site(site) => format!("site {}", site.0),
            },
            plan,
            round: Some(message.round),
            bytes: message.bytes.len() as u64,
            payload: Some(Sha256::digest(&message.bytes).into()),
            detail: String::new(),
        };
        self.store.audit(&[entry])?;
        Ok(())
    }

    /// Notes in the audit log that a round's training begins, which a round whose update was kept spares.
    pub fn note_training(&self, round: u32, epochs: &Range<u32>, at: Timestamp) -> Result<()> {
        let entry = Entry::internal(at, TRAINING, format!("epochs {} to {}", epochs.start + 1, epochs.end));
        self.store.audit(&[Entry { round: Some(round), ..entry }])?;
        Ok(())
    }

    /// Notes in the audit log a message that is none of the federation's. Nothing left the site but the refusal.
    pub fn note_foreign(&self, what: &str, at: Timestamp) -> Result<()> {
        self.store.audit(&[Entry::internal(at, "foreign message refused", what)])?;
        Ok(())
    }

    /// Keeps the site's long-term key; a key that is there already must be this one.
    pub fn keep_key(&self, key: &[u8; 32]) -> Result<()> {
        match self.store.key(KEY)? {
            Some(found) if found[..] == key[..] => Ok(()),
            Some(_) => anyhow::bail!(
                "{} belongs to a site of another consortium; give another folder",
                self.folder().path().display()
            ),
            None => Ok(self.store.put_key(KEY, key)?),
        }
    }

    /// The number of this start: no two starts of a site share their secrets.
    pub fn count_start(&self) -> Result<u64> {
        let start = self.folder().read_json::<u64>(STARTS)?.unwrap_or(0) + 1;
        self.folder().write_json(STARTS, &start)?;
        Ok(start)
    }

    /// The participant's snapshot to go on from.
    pub fn participant(&self) -> Result<Option<Vec<u8>>> {
        let (first, second) = match self.resume {
            Resume::AtSessionEnd => (SESSION_END, PARTICIPANT),
            Resume::WhereItWas => (PARTICIPANT, SESSION_END),
        };
        match self.folder().read(first)? {
            Some(found) => Ok(Some(found)),
            None => Ok(self.folder().read(second)?),
        }
    }

    /// Keeps the participant's snapshot at the end of the session, where it is gone back to.
    pub fn save_session_end(&self, snapshot: &[u8]) -> Result<()> {
        match self.resume {
            Resume::AtSessionEnd => Ok(self.folder().write_secret(SESSION_END, snapshot)?),
            Resume::WhereItWas => self.save_participant(snapshot),
        }
    }

    /// Keeps the participant's snapshot.
    pub fn save_participant(&self, snapshot: &[u8]) -> Result<()> {
        Ok(self.folder().write_secret(PARTICIPANT, snapshot)?)
    }

    /// The records of the rounds so far.
    pub fn records(&self) -> Result<Vec<RoundRecord>> {
        Ok(self.folder().read_json(RECORDS)?.unwrap_or_default())
    }

    /// Keeps the records.
    pub fn save_records(&self, records: &[RoundRecord]) -> Result<()> {
        Ok(self.folder().write_json(RECORDS, &records)?)
    }

    /// What the evaluation came to, once the session is over.
    pub fn evaluation(&self) -> Result<Option<Evaluation>> {
        Ok(self.folder().read_json(EVALUATION)?)
    }

    /// Keeps what the evaluation came to.
    pub fn save_evaluation(&self, evaluation: &Evaluation) -> Result<()> {
        Ok(self.folder().write_json(EVALUATION, evaluation)?)
    }

    /// The weights after a stage, if they were kept. After stage 0 there are none: they follow from the plan.
    pub fn weights(&self, round: u32, blueprint: &Blueprint) -> Result<Option<Weights>> {
        let path = self.model(round);
        if round == 0 || !path.exists() {
            return Ok(None);
        }
        let weights = weights::load(&path)?;
        let members = blueprint.tuned().count();
        anyhow::ensure!(
            weights.heads.len() == members,
            "{} holds {} members instead of {members}",
            path.display(),
            weights.heads.len()
        );
        Ok(Some(weights))
    }

    /// The last stage up to this one whose weights were kept: rounds that were left out have none.
    pub fn last_weights(&self, stage: u32) -> u32 {
        (1..=stage).rev().find(|&stage| self.model(stage).exists()).unwrap_or(0)
    }

    /// Keeps the weights after a stage. Those of the stage before stay too: a process killed before the participant is
    /// saved goes on from them; and those of the round `best`, which may be asked for again. Closed-form members are kept once
    /// they are solved.
    pub fn save_weights(
        &self,
        stage: u32,
        blueprint: &Blueprint,
        weights: &Weights,
        best: Option<u32>,
    ) -> Result<()> {
        let forms = if weights.forms.is_empty() { Vec::new() } else { blueprint.form_names() };
        weights::save(&self.model(stage), &blueprint.tuned_names(), &forms, weights)?;
        let before = self.last_weights(stage.saturating_sub(1));
        for old in (1..before).filter(|&old| Some(old) != best) {
            remove(&self.model(old))?;
        }
        (1..before).try_for_each(|old| remove(&self.server(old)))
    }

    /// What the server's step remembered after a round; nothing where it was not kept.
    pub fn server_state(&self, round: u32) -> Result<Vec<learn::Head>> {
        let path = self.server(round);
        Ok(if path.exists() { weights::load(&path)?.heads } else { Vec::new() })
    }

    /// Keeps what the server's step remembers after a round, if anything.
    pub fn save_server_state(&self, round: u32, state: Vec<learn::Head>) -> Result<()> {
        if state.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = (0..state.len()).map(|at| format!("moments-{at}")).collect();
        weights::save(&self.server(round), &names, &[], &Weights { heads: state, ..Weights::default() })
    }

    /// Keeps the syndromes' means that closed forms are refined by, one list for each.
    pub fn save_means(&self, means: &[Vec<f32>]) -> Result<()> {
        if means.is_empty() {
            return Ok(());
        }
        let tensors = means.iter().enumerate();
        let tensors =
            tensors.map(|(at, means)| (format!("means-{at}"), Tensor::new(&[means.len()], means))).collect();
        Ok(tensors::save(&self.store.model_path(MEANS), &tensors, &BTreeMap::new())?)
    }

    /// What [`SiteFiles::save_means`] kept of so many closed forms.
    pub fn means(&self, forms: usize) -> Result<Vec<Vec<f32>>> {
        if forms == 0 {
            return Ok(Vec::new());
        }
        let file = Tensors::open(&self.store.model_path(MEANS))?;
        (0..forms).map(|at| Ok(file.get(&format!("means-{at}"))?.values.to_vec())).collect()
    }

    /// What an earlier process kept of a round's training.
    pub fn update(&self, plan: &str, round: u32, blueprint: &Blueprint) -> Result<Option<Update>> {
        let Some(kept) = self.folder().read_json::<KeptUpdate>(UPDATE)? else { return Ok(None) };
        let path = self.store.model_path(UPDATE_HEADS);
        if kept.plan != plan || kept.round != round || !path.exists() {
            return Ok(None);
        }
        let weights = weights::load(&path)?;
        let fits = hex::encode(Sha256::digest(std::fs::read(&path)?)) == kept.heads
            && weights.heads.len() == blueprint.tuned().count();
        Ok(fits.then_some(Update { heads: weights.heads, loss: kept.loss, accuracy: kept.accuracy }))
    }

    /// Keeps what a round's training gave; the one before is replaced.
    pub fn save_update(
        &self,
        plan: &str,
        round: u32,
        blueprint: &Blueprint,
        heads: Vec<learn::Head>,
        trained: &Trained,
    ) -> Result<()> {
        let path = self.store.model_path(UPDATE_HEADS);
        weights::save(&path, &blueprint.tuned_names(), &[], &Weights { heads, ..Weights::default() })?;
        let heads = hex::encode(Sha256::digest(std::fs::read(&path)?));
        let (loss, accuracy) = (trained.loss.clone(), trained.accuracy.clone());
        Ok(self
            .folder()
            .write_json(UPDATE, &KeptUpdate { plan: plan.to_owned(), round, heads, loss, accuracy })?)
    }

    /// Keeps the signed release.
    pub fn save_release(&self, release: &SignedRelease) -> Result<()> {
        Ok(self.folder().write(RELEASE, &release.encode())?)
    }

    /// The signed release, if there is one.
    pub fn release(&self) -> Result<Option<SignedRelease>> {
        let Some(bytes) = self.folder().read(RELEASE)? else { return Ok(None) };
        Ok(Some(SignedRelease::decode(&bytes)?))
    }

    /// Where feature tables lie.
    pub fn features(&self) -> std::path::PathBuf {
        self.store.feature_path("")
    }

    fn model(&self, round: u32) -> std::path::PathBuf {
        self.store.model_path(&format!("round-{round}.safetensors"))
    }

    fn server(&self, round: u32) -> std::path::PathBuf {
        self.store.model_path(&format!("server-{round}.safetensors"))
    }
}

fn remove(path: &Path) -> Result<()> {
    if path.exists() {
        std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

impl Crops for SiteFiles {
    fn crop(&self, image: &ImageId) -> Result<vision::Crop> {
        self.store
            .crop(image)?
            .with_context(|| format!("the face of image {image} is gone; run the same command again"))
    }
}
