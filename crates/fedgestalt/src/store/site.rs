use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use domain::{Case, Cohort, Encoding, ImageId, Part, SubjectId, Syndrome, SyndromeId};
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use rayon::prelude::*;
use rusqlite::{Connection, params};
use sha2::Sha256;
use vision::Crop;
use vision::decode::Limits;

use super::audit::{self, Entry, Head, Sealed};
use super::records::{self, Run, RunId, StoredRelease, StoredRound};
use super::{Error, ErrorKind, Folder, Result, atomic, database};

const CROPS: &str = "crops";
const FEATURES: &str = "features";
const MODELS: &str = "models";
const KEYS: &str = "keys";

/// What a site keeps: `site.db` (cases, encodings, runs, releases, audit log), `keys/`, `crops/`, `features/`,
/// `models/`. One process at a time; within it, threads may share it.
#[derive(Debug)]
pub struct SiteStore {
    folder: Folder,
    database: Mutex<Connection>,
}

/// What a withdrawal removed. Whatever lies elsewhere under these pseudonyms has to be withdrawn there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawn {
    /// The subject's images.
    pub images: Vec<ImageId>,
    /// Pseudonyms of their masked copies, with the release they belong to.
    pub masked: Vec<([u8; 16], [u8; 32])>,
}

impl SiteStore {
    /// Opens a site's folder, making it if needed, and finishes what a killed process left undone.
    ///
    /// # Errors
    ///
    /// As [`Folder::open`]; [`ErrorKind::NewerVersion`] and [`ErrorKind::Corrupt`] for its database.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = Folder::open(path)?;
        for name in [CROPS, FEATURES, MODELS, KEYS] {
            folder.subfolder(name)?;
        }
        let database = database::open(&path.join("site.db"))?;
        let store = Self { folder, database: Mutex::new(database) };
        store.finish_removals()?;
        Ok(store)
    }

    /// The folder itself, for state files of the host.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Where the feature cache of this name lies. All of them are removed when a face is withdrawn or replaced.
    pub fn feature_path(&self, name: &str) -> PathBuf {
        self.folder.path().join(FEATURES).join(name)
    }

    /// Where the model of this name lies.
    pub fn model_path(&self, name: &str) -> PathBuf {
        self.folder.path().join(MODELS).join(name)
    }

    /// Keeps a secret in `keys/`.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn put_key(&self, name: &str, secret: &[u8]) -> Result<()> {
        self.folder.write_secret(&format!("{KEYS}/{name}"), secret)
    }

    /// A secret of `keys/`; `None` if there is none of this name.
    ///
    /// # Errors
    ///
    /// As [`Folder::read_secret`].
    pub fn key(&self, name: &str) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>> {
        self.folder.read_secret(&format!("{KEYS}/{name}"))
    }

    // A thread that panicked while it held the connection has left no transaction open: they roll back when dropped.
    fn database(&self) -> MutexGuard<'_, Connection> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Patients.
impl SiteStore {
    /// Makes this the site's cohort. Images that are not in it any more are removed with their crops and encodings;
    /// those that stay keep theirs.
    ///
    /// # Errors
    ///
    /// When the database refuses; then nothing is changed.
    pub fn put_cohort(&self, cohort: &Cohort) -> Result<()> {
        let mut database = self.database();
        let transaction = database.transaction()?;
        transaction.execute("DELETE FROM parts", [])?;
        let known: Vec<String> = column(&transaction, "SELECT image FROM cases")?;
        let gone: Vec<String> = known
            .into_iter()
            .filter(|image| ImageId::new(image).ok().is_none_or(|image| cohort.case(&image).is_none()))
            .collect();
        forget(&transaction, &gone)?;
        {
            let mut syndrome = transaction.prepare(
                "INSERT INTO syndromes (id, name, mondo, omim, orpha) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET name = excluded.name, mondo = excluded.mondo, omim = excluded.omim, orpha = excluded.orpha",
            )?;
            for s in cohort.syndromes() {
                syndrome.execute(params![s.id.as_str(), s.name, s.mondo, s.omim, s.orpha])?;
            }
            let mut case = transaction.prepare(
                "INSERT INTO cases (image, subject, syndrome) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET subject = excluded.subject, syndrome = excluded.syndrome",
            )?;
            for c in cohort.cases() {
                case.execute(params![c.image.as_str(), c.subject.as_str(), c.syndrome.as_str()])?;
            }
            let mut member =
                transaction.prepare("INSERT INTO parts (part, place, image) VALUES (?1, ?2, ?3)")?;
            for (part, images) in cohort.parts() {
                for (place, image) in images.iter().enumerate() {
                    member.execute(params![part.to_string(), place as i64, image.as_str()])?;
                }
            }
            let listed: Vec<String> = column(&transaction, "SELECT id FROM syndromes")?;
            for id in listed {
                if SyndromeId::new(&id).ok().is_none_or(|id| cohort.syndrome_index(&id).is_none()) {
                    transaction.execute("DELETE FROM syndromes WHERE id = ?1", [id])?;
                }
            }
        }
        transaction.commit()?;
        drop(database);
        self.finish_removals()
    }

    /// The site's cohort.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when the database holds what is no cohort.
    pub fn cohort(&self) -> Result<Cohort> {
        let database = self.database();
        let corrupt = |error: domain::Error| {
            Error::with_source(
                ErrorKind::Corrupt,
                "site.db holds what is no cohort; import the cohort again",
                error,
            )
        };
        let mut select = database.prepare("SELECT id, name, mondo, omim, orpha FROM syndromes")?;
        let mut rows = select.query([])?;
        let mut syndromes = Vec::new();
        while let Some(row) = rows.next()? {
            syndromes.push(Syndrome {
                id: SyndromeId::new(&row.get::<_, String>(0)?).map_err(corrupt)?,
                name: row.get(1)?,
                mondo: row.get(2)?,
                omim: row.get(3)?,
                orpha: row.get(4)?,
            });
        }
        let mut select = database.prepare("SELECT image, subject, syndrome FROM cases")?;
        let mut rows = select.query([])?;
        let mut cases = Vec::new();
        while let Some(row) = rows.next()? {
            cases.push(Case {
                image: ImageId::new(&row.get::<_, String>(0)?).map_err(corrupt)?,
                subject: SubjectId::new(&row.get::<_, String>(1)?).map_err(corrupt)?,
                syndrome: SyndromeId::new(&row.get::<_, String>(2)?).map_err(corrupt)?,
            });
        }
        let mut select = database.prepare("SELECT part, image FROM parts ORDER BY part, place")?;
        let mut rows = select.query([])?;
        let mut parts: BTreeMap<Part, Vec<ImageId>> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let part = row.get::<_, String>(0)?.parse().map_err(corrupt)?;
            parts.entry(part).or_default().push(ImageId::new(&row.get::<_, String>(1)?).map_err(corrupt)?);
        }
        Cohort::new(syndromes, cases, parts).map_err(corrupt)
    }

    /// Keeps aligned faces. A face that differs from the one kept before takes its encodings and all feature caches
    /// with it. `done` is called once per face, from any thread.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Missing`] for an image that is not in the cohort; [`ErrorKind::Io`] when a file cannot be written.
    pub fn put_crops(&self, crops: &[(ImageId, Crop)], done: &(dyn Fn() + Sync)) -> Result<()> {
        let known: std::collections::HashSet<String> =
            column(&self.database(), "SELECT image FROM cases")?.into_iter().collect();
        crops.par_iter().try_for_each(|(image, crop)| {
            if !known.contains(image.as_str()) {
                return Err(Error::new(
                    ErrorKind::Missing,
                    format!("image {image} is not in the site's cohort; import the cohort first"),
                ));
            }
            let path = self.crop_path(image);
            let png = crop.to_png().map_err(|error| {
                Error::with_source(
                    ErrorKind::InvalidArgument,
                    format!("cannot keep the face of image {image}"),
                    error,
                )
            })?;
            match atomic::read(&path)? {
                // The same face from a newer file.
                Some(kept) if kept == png => atomic::touch(&path)?,
                kept => {
                    if kept.is_some() {
                        // First what was made from the old face: a killed process must not leave it beside the new one.
                        self.database()
                            .execute("DELETE FROM encodings WHERE image = ?1", [image.as_str()])?;
                        self.clear_features()?;
                    }
                    atomic::write_cache(&path, &png)?;
                }
            }
            done();
            Ok(())
        })
    }

    /// An aligned face; `None` if none is kept.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when its file is damaged.
    pub fn crop(&self, image: &ImageId) -> Result<Option<Crop>> {
        let path = self.crop_path(image);
        let Some(bytes) = atomic::read(&path)? else { return Ok(None) };
        let crop =
            vision::decode::decode(&bytes, &Limits::default()).and_then(|photo| Crop::from_photo(&photo));
        crop.map(Some).map_err(|error| {
            let message = format!("{} is damaged; remove it and import the image again", path.display());
            Error::with_source(ErrorKind::Corrupt, message, error)
        })
    }

    /// Keeps encodings that `model` (a digest) made.
    ///
    /// # Errors
    ///
    /// When an image is not in the cohort, or the database refuses; then nothing is changed.
    pub fn put_encodings<'a>(
        &self,
        model: &[u8; 32],
        encodings: impl IntoIterator<Item = (&'a ImageId, &'a Encoding)>,
    ) -> Result<()> {
        let mut database = self.database();
        let transaction = database.transaction()?;
        {
            let mut insert = transaction
                .prepare("INSERT OR REPLACE INTO encodings (model, image, vector) VALUES (?1, ?2, ?3)")?;
            for (image, encoding) in encodings {
                let vector: Vec<u8> =
                    encoding.as_slice().iter().flat_map(|value| value.to_le_bytes()).collect();
                insert.execute(params![model, image.as_str(), vector])?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// The encodings that `model` made.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when one of them is damaged; its image is named.
    pub fn encodings(&self, model: &[u8; 32]) -> Result<BTreeMap<ImageId, Encoding>> {
        let database = self.database();
        let mut select = database.prepare("SELECT image, vector FROM encodings WHERE model = ?1")?;
        let mut rows = select.query([model])?;
        let mut encodings = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let image: String = row.get(0)?;
            let vector: Vec<u8> = row.get(1)?;
            let damaged = || {
                Error::new(
                    ErrorKind::Corrupt,
                    format!("the encoding of image {image} is damaged; encode it again"),
                )
            };
            let (values, []) = vector.as_chunks::<4>() else { return Err(damaged()) };
            let encoding =
                Encoding::from_unit(values.iter().map(|value| f32::from_le_bytes(*value)).collect())
                    .map_err(|_| damaged())?;
            encodings.insert(ImageId::new(&image).map_err(|_| damaged())?, encoding);
        }
        Ok(encodings)
    }

    /// Remembers that masked copies of images were given away under pseudonyms, for a release (a digest).
    ///
    /// # Errors
    ///
    /// When an image is not in the cohort, or the database refuses; then nothing is changed.
    pub fn put_masked(&self, release: &[u8; 32], copies: &[(ImageId, [u8; 16])]) -> Result<()> {
        let mut database = self.database();
        let transaction = database.transaction()?;
        for (image, pseudonym) in copies {
            transaction.execute(
                "INSERT OR REPLACE INTO masked (pseudonym, image, release) VALUES (?1, ?2, ?3)",
                params![pseudonym, image.as_str(), release],
            )?;
        }
        Ok(transaction.commit()?)
    }

    /// The cohort without the subjects that were withdrawn: a folder may still have them.
    ///
    /// # Errors
    ///
    /// When the database refuses.
    pub fn without_withdrawn(&self, cohort: &Cohort) -> Result<Cohort> {
        let database = self.database();
        let mut select = database.prepare("SELECT subject FROM withdrawn")?;
        let marks = select.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        let marks: BTreeSet<Vec<u8>> = marks.collect::<rusqlite::Result<_>>()?;
        if marks.is_empty() {
            return Ok(cohort.clone());
        }
        let secret = mark_secret(&database)?;
        Ok(cohort.restrict(&|case| !marks.contains(&mark(&secret, &case.subject)[..])))
    }

    /// When an aligned face was kept, if one is.
    pub fn crop_time(&self, image: &ImageId) -> Option<SystemTime> {
        std::fs::metadata(self.crop_path(image)).and_then(|metadata| metadata.modified()).ok()
    }

    /// Removes a subject: cases, labels, parts, encodings, the marks of masked copies, crops, and every feature cache
    /// (they are made again without it). It is not imported again: a mark stays by which its id is known, and from which it
    /// cannot be told by who has not this store. The audit log notes how many images, not whose.
    ///
    /// # Errors
    ///
    /// When the database refuses: then nothing is changed. When a file cannot be removed: it is tried again when the
    /// store is opened next.
    pub fn withdraw(&self, subject: &SubjectId, at: Timestamp) -> Result<Withdrawn> {
        let mut database = self.database();
        let transaction = database.transaction()?;
        let mut withdrawn = Withdrawn { images: Vec::new(), masked: Vec::new() };
        let mut images: Vec<String> = Vec::new();
        {
            let mut select =
                transaction.prepare("SELECT image FROM cases WHERE subject = ?1 ORDER BY image")?;
            for image in select.query_map([subject.as_str()], |row| row.get::<_, String>(0))? {
                images.push(image?);
            }
            let mut select = transaction.prepare("SELECT pseudonym, release FROM masked WHERE image = ?1")?;
            for image in &images {
                for copy in select.query_map([image], |row| Ok((row.get(0)?, row.get(1)?)))? {
                    withdrawn.masked.push(copy?);
                }
            }
        }
        if images.is_empty() {
            return Ok(withdrawn);
        }
        withdrawn.images = images.iter().filter_map(|image| ImageId::new(image).ok()).collect();
        let mark = mark(&mark_secret(&transaction)?, subject);
        transaction.execute("INSERT OR IGNORE INTO withdrawn (subject) VALUES (?1)", params![mark])?;
        forget(&transaction, &images)?;
        let detail = format!("{} images, {} masked copies", images.len(), withdrawn.masked.len());
        audit::extend(&transaction, &[Entry::internal(at, "withdrawal", detail)])?;
        transaction.commit()?;
        drop(database);
        self.finish_removals()?;
        // What was deleted must not survive in the write-ahead log either.
        self.database().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(withdrawn)
    }

    fn crop_path(&self, image: &ImageId) -> PathBuf {
        self.folder.path().join(crop_name(image.as_str()))
    }

    fn clear_features(&self) -> Result<()> {
        let folder = self.folder.path().join(FEATURES);
        for entry in std::fs::read_dir(&folder).map_err(Error::io("read the folder", &folder))? {
            let path = entry.map_err(Error::io("read the folder", &folder))?.path();
            atomic::remove(&path)?;
        }
        Ok(())
    }

    /// Removes the files of rows that are deleted.
    fn finish_removals(&self) -> Result<()> {
        let due = column(&self.database(), "SELECT path FROM removals")?;
        if due.is_empty() {
            return Ok(());
        }
        self.clear_features()?;
        for path in &due {
            atomic::remove(&self.folder.path().join(path))?;
        }
        self.database().execute("DELETE FROM removals", [])?;
        Ok(())
    }
}

/// Trainings, releases and the audit log.
impl SiteStore {
    /// The run of this kind under this plan that has not ended, or a new one.
    ///
    /// # Errors
    ///
    /// When the database refuses.
    pub fn begin_run(&self, kind: &str, plan: &[u8; 32], at: Timestamp) -> Result<RunId> {
        records::begin_run(&mut self.database(), kind, plan, at)
    }

    /// Notes that a run has ended, and how.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Missing`] when it has ended already.
    pub fn end_run(&self, run: RunId, at: Timestamp, outcome: &str) -> Result<()> {
        records::end_run(&self.database(), run, at, outcome)
    }

    /// All runs, oldest first.
    ///
    /// # Errors
    ///
    /// When the database refuses.
    pub fn runs(&self) -> Result<Vec<Run>> {
        records::runs(&self.database())
    }

    /// Notes that a round is finished; a round that is repeated replaces what was noted.
    ///
    /// # Errors
    ///
    /// When there is no such run.
    pub fn put_round(&self, run: RunId, round: &StoredRound) -> Result<()> {
        records::put_round(&self.database(), run, round)
    }

    /// The finished rounds of a run, in order.
    ///
    /// # Errors
    ///
    /// When the database refuses.
    pub fn rounds(&self, run: RunId) -> Result<Vec<StoredRound>> {
        records::rounds(&self.database(), run)
    }

    /// Keeps a release that the site adopts; one that is kept already stays as it is.
    ///
    /// # Errors
    ///
    /// When the database refuses.
    pub fn put_release(&self, release: &StoredRelease) -> Result<()> {
        records::put_release(&self.database(), release)
    }

    /// All adopted releases, oldest first.
    ///
    /// # Errors
    ///
    /// When the database refuses.
    pub fn releases(&self) -> Result<Vec<StoredRelease>> {
        records::releases(&self.database())
    }

    /// Adds to the audit log: all entries or none. To be called before what they tell of leaves.
    ///
    /// # Errors
    ///
    /// When the database refuses.
    pub fn audit(&self, entries: &[Entry]) -> Result<Head> {
        audit::append(&mut self.database(), entries)
    }

    /// The whole audit log.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] when an entry cannot be read.
    pub fn audit_log(&self) -> Result<Vec<Sealed>> {
        audit::entries(&self.database())
    }

    /// Goes through the audit log; `noted` is an end that was noted earlier, elsewhere. Returns the present end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tampered`] with the number of the first entry that is not what was written.
    pub fn verify_audit(&self, noted: Option<&Head>) -> Result<Head> {
        audit::verify(&self.database(), noted)
    }
}

fn mark_secret(connection: &Connection) -> Result<Vec<u8>> {
    let select = "SELECT secret FROM secrets WHERE name = 'withdrawn'";
    Ok(connection.query_row(select, [], |row| row.get(0))?)
}

/// By which a withdrawn subject is known.
fn mark(secret: &[u8], subject: &SubjectId) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(subject.as_str().as_bytes());
    mac.finalize().into_bytes().into()
}

fn crop_name(image: &str) -> String {
    format!("{CROPS}/{image}.png")
}

/// Deletes cases with all that hangs on them, and notes their crops for removal.
fn forget(connection: &Connection, images: &[String]) -> Result<()> {
    let mut removal = connection.prepare("INSERT OR IGNORE INTO removals (path) VALUES (?1)")?;
    let mut case = connection.prepare("DELETE FROM cases WHERE image = ?1")?;
    for image in images {
        removal.execute([crop_name(image)])?;
        case.execute([image])?;
    }
    Ok(())
}

fn column(connection: &Connection, select: &str) -> Result<Vec<String>> {
    let mut select = connection.prepare(select)?;
    let rows = select.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
