//! Feature tables: the frozen trunk's output for every image, computed once and memory-mapped.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use domain::ImageId;
use learn::FeatureSource;
use learn::cache::{FeatureTable, Header, encode_row};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use vision::augment::augment;
use vision::views::{VIEWS, views};
use vision::{Crop, Precision, Trunk};

use crate::store::mapped::Mapped;

/// Images whose features are computed and written together, at least.
const CHUNK: usize = 32;
/// Crops that a thread should have of a chunk, so that none waits long for the others.
const CROPS_PER_THREAD: usize = 16;

/// Where aligned faces come from.
pub trait Crops: Sync {
    /// The aligned face of an image.
    fn crop(&self, image: &ImageId) -> Result<Crop>;

    /// When what it is made from was written last, where that is known.
    fn modified(&self, _image: &ImageId) -> Option<SystemTime> {
        None
    }
}

/// Which variants of an image a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variants {
    /// The four test-time views.
    Views,
    /// So many augmented draws from this seed.
    Draws {
        /// Draws per image.
        count: usize,
        /// Seed; each image and draw has its own stream below it.
        seed: u64,
    },
}

impl Variants {
    fn count(self) -> usize {
        match self {
            Self::Views => VIEWS,
            Self::Draws { count, .. } => count,
        }
    }

    fn seed(self) -> u64 {
        match self {
            Self::Views => 0,
            Self::Draws { seed, .. } => seed,
        }
    }

    fn of(self, image: &ImageId, crop: &Crop) -> Vec<Crop> {
        match self {
            Self::Views => views(crop).to_vec(),
            Self::Draws { count, seed } => {
                (0..count).map(|draw| augment(crop, draw_seed(seed, image, draw))).collect()
            }
        }
    }

    /// The table's file name: what keys the cache is in it.
    fn file_name(self, source: &[u8; 32]) -> String {
        let trunk = hex::encode(&source[..8]);
        match self {
            Self::Views => format!("views-{trunk}.features"),
            Self::Draws { count, seed } => format!("draws-{trunk}-{count}x{seed}.features"),
        }
    }
}

/// The augmentation's seed of one draw of one image. It depends on the image's id and on nothing that differs between
/// sites, so an image's draws are the same wherever it lies.
fn draw_seed(seed: u64, image: &ImageId, draw: usize) -> u64 {
    let mut hash = Sha256::new();
    hash.update(b"fedgestalt/draw/v1");
    hash.update(seed.to_le_bytes());
    hash.update((draw as u64).to_le_bytes());
    hash.update(image.as_str());
    let digest = hash.finalize();
    u64::from_le_bytes(std::array::from_fn(|i| digest[i]))
}

/// What a table's features come from: the trunk's digest where rten computes it, else a digest of it with engine and
/// precision. A table made in bf16 is another table than one made in f32.
fn source(trunk: &dyn Trunk) -> [u8; 32] {
    if (trunk.engine(), trunk.precision()) == ("rten", Precision::F32) {
        return trunk.digest();
    }
    let mut hash = Sha256::new();
    hash.update(b"fedgestalt/features/v1\0");
    hash.update(trunk.digest());
    hash.update(format!("{} {}", trunk.engine(), trunk.precision()));
    hash.finalize().into()
}

/// A feature table on disk.
pub type Table = FeatureTable<Mapped>;

/// Opens the table of `images` in `folder`, computing what is missing.
///
/// Rows are appended to `<name>.partial` as they are ready and the file gets its name when it is whole, so a killed
/// process goes on where it was. While the trunk computes one chunk of images, the next is read, decoded and varied. Rows of
/// a table of another cohort are copied for the images that it has. `done` is told how many images each step finished.
pub fn table(
    folder: &Path,
    trunk: &dyn Trunk,
    images: &[ImageId],
    crops: &dyn Crops,
    variants: Variants,
    done: &(dyn Fn(usize) + Sync),
) -> Result<Table> {
    let source = source(trunk);
    let path = folder.join(variants.file_name(&source));
    let header = Header::new(
        source,
        variants.seed(),
        trunk.output_len(),
        variants.count(),
        images.iter().map(|image| image.as_str().to_owned()).collect(),
    )?;
    let mut known = None;
    if path.exists() {
        let table = open(&path)?;
        if *table.header() == header {
            done(images.len());
            return Ok(table);
        }
        // The cohort changed since. A face that was replaced or withdrawn has taken the table with it.
        known = Some(table).filter(|table| is_alike(table.header(), &header));
    }
    let known = known.as_ref();
    let partial = path.with_extension("features.partial");
    let (mut file, finished) = resume(&partial, &header)?;
    done(finished);
    let row_bytes = header.dim() * header.draws() * 2;
    let chunk = CHUNK.max((rayon::current_num_threads() * CROPS_PER_THREAD).div_ceil(variants.count()));
    std::thread::scope(|scope| {
        // One chunk waits while one is computed and one is made: memory stays bounded.
        let (ready, chunks) = sync_channel(1);
        scope.spawn(move || {
            for chunk in images[finished..].chunks(chunk) {
                let missing: Vec<ImageId> =
                    chunk.iter().filter(|image| row_in(known, image).is_none()).cloned().collect();
                let inputs = inputs(&missing, crops, variants);
                let failed = inputs.is_err();
                if ready.send((chunk, inputs)).is_err() || failed {
                    return;
                }
            }
        });
        for (chunk, inputs) in chunks {
            let bytes = rows(trunk, chunk, known, &inputs?, variants)?;
            debug_assert_eq!(bytes.len(), chunk.len() * row_bytes);
            file.write_all(&bytes).with_context(|| format!("cannot write {}", partial.display()))?;
            done(chunk.len());
        }
        Ok::<(), anyhow::Error>(())
    })?;
    file.sync_all().with_context(|| format!("cannot write {}", partial.display()))?;
    drop(file);
    std::fs::rename(&partial, &path).with_context(|| format!("cannot name {}", path.display()))?;
    open(&path)
}

/// Whether two tables differ in their images alone.
fn is_alike(a: &Header, b: &Header) -> bool {
    let shape = |header: &Header| (*header.trunk(), header.draw_seed(), header.dim(), header.draws());
    shape(a) == shape(b)
}

fn row_in(known: Option<&Table>, image: &ImageId) -> Option<usize> {
    known?.row_of(image.as_str())
}

fn open(path: &Path) -> Result<Table> {
    let mapped = Mapped::open(path)?;
    FeatureTable::parse(mapped).with_context(|| format!("cannot use {}", path.display()))
}

/// Opens the partial file behind its last whole row, or starts it. Returns the file and the rows it holds.
fn resume(partial: &Path, header: &Header) -> Result<(File, usize)> {
    let start = header.encode();
    let row_bytes = header.dim() * header.draws() * 2;
    let found = std::fs::metadata(partial).map(|meta| meta.len() as usize).unwrap_or(0);
    let same = found >= start.len() && {
        let mapped = Mapped::open(partial)?;
        mapped.as_ref()[..start.len()] == start[..]
    };
    let rows = if same { ((found - start.len()) / row_bytes).min(header.ids().len()) } else { 0 };
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(partial)
        .with_context(|| format!("cannot write {}", partial.display()))?;
    let place = if same { start.len() + rows * row_bytes } else { 0 };
    file.set_len(place as u64)?;
    file.seek(SeekFrom::Start(place as u64))?;
    if !same {
        file.write_all(&start)?;
    }
    Ok((file, rows))
}

/// The variants of some images, in order.
fn inputs(images: &[ImageId], crops: &dyn Crops, variants: Variants) -> Result<Vec<Crop>> {
    let made = images.par_iter().map(|image| {
        let crop = crops.crop(image).with_context(|| format!("image {image}"))?;
        Ok(variants.of(image, &crop))
    });
    Ok(made.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// The f16 rows of some images, in order: those that are known, the others from their variants.
fn rows(
    trunk: &dyn Trunk,
    images: &[ImageId],
    known: Option<&Table>,
    inputs: &[Crop],
    variants: Variants,
) -> Result<Vec<u8>> {
    let mut features = vec![0.0; inputs.len() * trunk.output_len()];
    if !inputs.is_empty() {
        trunk.features(inputs, &mut features).context("the trunk failed")?;
    }
    let mut computed = features.chunks_exact(trunk.output_len() * variants.count());
    let mut bytes = Vec::with_capacity(images.len() * trunk.output_len() * variants.count() * 2);
    let mut copied = vec![0.0; trunk.output_len()];
    for image in images {
        match known.and_then(|table| Some((table, table.row_of(image.as_str())?))) {
            Some((table, row)) => {
                for draw in 0..variants.count() {
                    table.copy_row(row, draw, &mut copied);
                    encode_row(&copied, &mut bytes).with_context(|| format!("image {image}"))?;
                }
            }
            None => {
                let row = computed.next().context("the trunk gave too few features")?;
                encode_row(row, &mut bytes).with_context(|| format!("image {image}"))?;
            }
        }
    }
    Ok(bytes)
}

/// Several tables as one: the simulation's central baseline reads every site's table through it.
pub struct Union<'a> {
    tables: Vec<&'a Table>,
    starts: Vec<usize>,
}

impl<'a> Union<'a> {
    /// Lays tables of equal width and draws end to end.
    pub fn new(tables: Vec<&'a Table>) -> Result<Self> {
        let Some(first) = tables.first() else { bail!("no feature table to read") };
        if tables.iter().any(|t| t.dim() != first.dim() || t.draws() != first.draws()) {
            bail!(
                "the sites' feature tables come from different trunks or draws; compute them with the same ones"
            );
        }
        let mut starts = vec![0];
        for table in &tables {
            starts.push(starts[starts.len() - 1] + table.rows());
        }
        Ok(Self { tables, starts })
    }

    /// The row of an image.
    pub fn row_of(&self, image: &str) -> Option<usize> {
        self.tables.iter().zip(&self.starts).find_map(|(table, start)| Some(start + table.row_of(image)?))
    }
}

impl FeatureSource for Union<'_> {
    fn dim(&self) -> usize {
        self.tables[0].dim()
    }

    fn rows(&self) -> usize {
        self.starts[self.tables.len()]
    }

    fn draws(&self) -> usize {
        self.tables[0].draws()
    }

    fn copy_row(&self, row: usize, draw: usize, out: &mut [f32]) {
        let table = self.starts.partition_point(|&start| start <= row) - 1;
        self.tables[table].copy_row(row - self.starts[table], draw, out);
    }
}

/// The views' features of one image: views x features.
pub fn view_features(table: &dyn FeatureSource, row: usize) -> Vec<f32> {
    let dim = table.dim();
    let mut out = vec![0.0; VIEWS * dim];
    for (view, out) in out.chunks_exact_mut(dim).enumerate() {
        table.copy_row(row, view, out);
    }
    out
}
