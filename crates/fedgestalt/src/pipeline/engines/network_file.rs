//! A network's file: parsed once, then known again by its path, size and times. Parsing hundreds of megabytes, and above all
//! taking their digest, costs more than a photograph's ranking.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use learn::{NeckInit, Values};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vision::onnx::{Cut, TrunkFacts, TrunkFile};
use vision::{ErrorKind, NeckWeights, RtenTrunk, WinogradTrunk};

use crate::store;
use crate::store::mapped::Mapped;
use crate::store::tensors::{self, Tensor, Tensors};

/// Files below this are parsed in no time.
const WORTH_KEEPING: u64 = 16 << 20;
/// A file that was altered less than this ago may be altered again without its time showing it.
const SETTLED: Duration = Duration::from_secs(2);

/// A network's file, parsed or known from before.
pub struct NetworkFile {
    /// What is known of it.
    pub facts: TrunkFacts,
    /// The neck that it ends in, if it does.
    pub neck: Option<Neck>,
    source: Source,
}

enum Source {
    Parsed { file: Box<TrunkFile>, kept: Option<Kept> },
    Known { kept: Kept },
}

/// The neck of a network.
#[derive(Debug, Clone)]
pub enum Neck {
    /// Its weights.
    Read(NeckInit),
    /// Where they are kept: few of those who ask about a network need them.
    Kept {
        /// The file.
        file: PathBuf,
        /// Length of the trunk's features.
        input: usize,
        /// Length of a representation.
        output: usize,
        /// Added to BatchNorm's variance.
        bn_eps: f32,
    },
}

/// What is kept of a network in the cache folder, in files of their own: facts, cut network, neck.
#[derive(Debug, Clone)]
struct Kept {
    folder: PathBuf,
    /// Stands for the network's path and cut.
    key: String,
    /// The network's own file.
    path: PathBuf,
    cut: Cut,
}

/// By which a file is known again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stamp {
    path: PathBuf,
    len: u64,
    modified: SystemTime,
    /// Changes with every alteration of the file and cannot be set: device, inode, and the time of the last change.
    #[serde(default)]
    inode: (u64, u64, i64, i64),
}

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    stamp: Stamp,
    digest: String,
    input: String,
    cut: String,
    output_len: Option<usize>,
    /// Lengths in and out, and BatchNorm's epsilon.
    neck: Option<(usize, usize, f32)>,
}

const VERSION: u32 = 1;

impl Stamp {
    fn of(path: &Path, meta: &Metadata) -> Option<Self> {
        #[cfg(unix)]
        let inode = {
            use std::os::unix::fs::MetadataExt as _;
            (meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec())
        };
        #[cfg(not(unix))]
        let inode = (0, 0, 0, 0);
        let path = path.canonicalize().ok()?;
        Some(Self { path, len: meta.len(), modified: meta.modified().ok()?, inode })
    }

    fn is_settled(&self) -> bool {
        self.modified.elapsed().is_ok_and(|age| age >= SETTLED)
    }
}

impl NetworkFile {
    /// A network in memory.
    ///
    /// # Errors
    /// As [`TrunkFile::parse`].
    pub fn from_bytes(bytes: Vec<u8>, cut: Cut) -> Result<Self> {
        Ok(Self::parsed(TrunkFile::parse_owned(bytes, cut)?, None))
    }

    /// A network's file. What is found out is kept in `cache`, where it is worth it.
    ///
    /// # Errors
    /// When it cannot be read; as [`TrunkFile::parse`].
    pub fn open(path: &Path, cut: Cut, cache: Option<&Path>) -> Result<Self> {
        let meta = std::fs::metadata(path).context("cannot read it")?;
        let stamp = Stamp::of(path, &meta).filter(|stamp| stamp.len >= WORTH_KEEPING);
        let kept = cache.zip(stamp.as_ref()).map(|(folder, stamp)| Kept::new(folder, path, stamp, &cut));
        if let (Some(kept), Some(stamp)) = (&kept, &stamp)
            && let Some((facts, neck)) = kept.known(stamp)
        {
            return Ok(Self { facts, neck, source: Source::Known { kept: kept.clone() } });
        }
        let bytes = std::fs::read(path).context("cannot read it")?;
        let file = TrunkFile::parse_owned(bytes, cut)?;
        if let (Some(kept), Some(stamp)) = (&kept, stamp.filter(Stamp::is_settled)) {
            kept.keep(stamp, &file);
        }
        Ok(Self::parsed(file, kept))
    }

    fn parsed(mut file: TrunkFile, kept: Option<Kept>) -> Self {
        let neck = file.neck.take().map(|neck| Neck::Read(init(neck)));
        Self { facts: file.facts(), neck, source: Source::Parsed { file: Box::new(file), kept } }
    }

    /// The cut network.
    ///
    /// # Errors
    /// When its file cannot be read or is not what it was.
    pub fn trunk_file(&self) -> Result<TrunkFile> {
        match &self.source {
            Source::Parsed { file, .. } => Ok(TrunkFile::clone(file)),
            Source::Known { kept } => {
                if let Ok(model) = std::fs::read(kept.file("onnx")) {
                    return Ok(TrunkFile::known(self.facts.clone(), None, model));
                }
                let file = TrunkFile::parse_owned(std::fs::read(&kept.path)?, kept.cut.clone())?;
                // What is known would be said of another network.
                ensure!(file.facts() == self.facts, "it was altered while it was read; start again");
                kept.write("onnx", file.model());
                Ok(file)
            }
        }
    }

    /// The cut network on rten. What is known is not tried again.
    ///
    /// # Errors
    /// As [`NetworkFile::trunk_file`], and when rten cannot load or run it.
    pub fn on_rten(&self) -> Result<RtenTrunk> {
        if let Source::Known { kept } = &self.source {
            let file = kept.file("onnx");
            if let Ok(trunk) = RtenTrunk::from_file(&file, &self.facts, rayon::current_num_threads()) {
                return Ok(trunk);
            }
            // Damaged or gone: it is made again.
            let _ = std::fs::remove_file(file);
        }
        Ok(RtenTrunk::new(self.trunk_file()?)?)
    }

    /// The cut network on the engine for residual networks, which reads weights where they lie.
    ///
    /// # Errors
    /// As [`NetworkFile::trunk_file`], and when it is not such a network.
    pub fn on_winograd(&self) -> Result<WinogradTrunk> {
        if let Source::Known { kept } = &self.source
            && let Ok(model) = Mapped::open(&kept.file("onnx"))
        {
            match WinogradTrunk::new(&TrunkFile::known(self.facts.clone(), None, model)) {
                // Damaged: it is made again.
                Err(error) if error.kind() == ErrorKind::Model => {
                    let _ = std::fs::remove_file(kept.file("onnx"));
                }
                loaded => return Ok(loaded?),
            }
        }
        Ok(WinogradTrunk::new(&self.trunk_file()?)?)
    }

    /// Whether it is large enough to be kept, and not kept yet: it was altered a moment ago.
    pub fn is_unsettled(&self) -> bool {
        matches!(&self.source, Source::Parsed { kept: Some(kept), .. } if !kept.file("json").exists())
    }

    /// As the next process will know it, without its neck; `None` where it is not kept.
    pub fn as_known(&self) -> Option<Self> {
        let (Source::Parsed { kept: Some(kept), .. } | Source::Known { kept }) = &self.source else {
            return None;
        };
        if let Source::Parsed { file, .. } = &self.source {
            kept.write("onnx", file.model());
        }
        Some(Self { facts: self.facts.clone(), neck: None, source: Source::Known { kept: kept.clone() } })
    }

    /// The cut network in a file, for batches of one size. `None` where nothing is kept of it.
    pub fn with_batch(&self, batch: usize) -> Option<PathBuf> {
        let (Source::Parsed { kept: Some(kept), .. } | Source::Known { kept }) = &self.source else {
            return None;
        };
        let extension = format!("{batch}.{}.onnx", hex::encode(&self.facts.digest[..8]));
        let path = kept.file(&extension);
        if !path.exists() {
            kept.write(&extension, &self.trunk_file().ok()?.with_batch(batch).ok()?);
        }
        path.exists().then_some(path)
    }
}

impl Neck {
    /// Length of the trunk's features.
    pub fn input(&self) -> usize {
        match self {
            Self::Read(neck) => neck.input,
            Self::Kept { input, .. } => *input,
        }
    }

    /// Length of a representation.
    pub fn output(&self) -> usize {
        match self {
            Self::Read(neck) => neck.output,
            Self::Kept { output, .. } => *output,
        }
    }

    /// What heads start from. The weight of a neck that is kept stays in its file.
    ///
    /// # Errors
    /// When the file that keeps it is damaged; it is named.
    pub fn init(&self) -> Result<NeckInit> {
        let (file, input, output, bn_eps) = match self {
            Self::Read(neck) => return Ok(neck.clone()),
            Self::Kept { file, input, output, bn_eps } => (file, *input, *output, *bn_eps),
        };
        let tensors = Tensors::open(file)?;
        let vector = |name: &str| Ok::<_, anyhow::Error>(tensors.shaped(name, &[output])?.into_owned());
        Ok(NeckInit {
            input,
            output,
            weight: Values::new(tensors.mapped("weight", &[output, input])?),
            bias: vector("bias")?,
            bn_weight: vector("bn_weight")?,
            bn_bias: vector("bn_bias")?,
            bn_mean: vector("bn_mean")?,
            bn_var: vector("bn_var")?,
            bn_eps,
        })
    }
}

impl Kept {
    fn new(folder: &Path, path: &Path, stamp: &Stamp, cut: &Cut) -> Self {
        let digest = Sha256::digest(format!("{}\0{cut:?}", stamp.path.display()));
        let key = hex::encode(&digest[..12]);
        Self { folder: folder.to_owned(), key, path: path.to_owned(), cut: cut.clone() }
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.folder.join(format!("network-{}.{extension}", self.key))
    }

    /// Keeps bytes; where that fails they are made again.
    fn write(&self, extension: &str, bytes: &[u8]) {
        let _ = store::write_cache(&self.file(extension), bytes);
    }

    /// What was found out about the file that has this stamp.
    fn known(&self, stamp: &Stamp) -> Option<(TrunkFacts, Option<Neck>)> {
        let record: Record = store::read_json(&self.file("json")).ok()??;
        if record.version != VERSION || record.stamp != *stamp {
            return None;
        }
        let neck = record.neck.map(|(input, output, bn_eps)| Neck::Kept {
            file: self.file("neck.safetensors"),
            input,
            output,
            bn_eps,
        });
        if let Some(Neck::Kept { file, .. }) = &neck
            && !file.exists()
        {
            return None;
        }
        let digest = hex::decode(record.digest).ok()?.try_into().ok()?;
        let facts =
            TrunkFacts { digest, input: record.input, cut: record.cut, output_len: record.output_len };
        Some((facts, neck))
    }

    /// Keeps what was found out. What belonged to another file at that path goes first, and the record is written last.
    fn keep(&self, stamp: Stamp, file: &TrunkFile) {
        let prefix = format!("network-{}.", self.key);
        let old = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for entry in old.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
            let _ = std::fs::remove_file(entry.path());
        }
        if let Some(neck) = &file.neck
            && save_neck(&self.file("neck.safetensors"), neck).is_err()
        {
            return;
        }
        let facts = file.facts();
        let record = Record {
            version: VERSION,
            stamp,
            digest: hex::encode(facts.digest),
            input: facts.input,
            cut: facts.cut,
            output_len: facts.output_len,
            neck: file.neck.as_ref().map(|neck| (neck.input, neck.output, neck.bn_eps)),
        };
        let _ = store::write_json(&self.file("json"), &record);
    }
}

fn init(neck: NeckWeights) -> NeckInit {
    let NeckWeights { input, output, weight, bias, bn_weight, bn_bias, bn_mean, bn_var, bn_eps } = neck;
    NeckInit { input, output, weight: weight.into(), bias, bn_weight, bn_bias, bn_mean, bn_var, bn_eps }
}

fn save_neck(path: &Path, neck: &NeckWeights) -> Result<()> {
    let vectors = [
        ("bias", &neck.bias),
        ("bn_weight", &neck.bn_weight),
        ("bn_bias", &neck.bn_bias),
        ("bn_mean", &neck.bn_mean),
        ("bn_var", &neck.bn_var),
    ];
    let mut all: BTreeMap<String, Tensor<'_>> =
        vectors.map(|(name, values)| (name.to_owned(), Tensor::new(&[neck.output], values))).into();
    all.insert("weight".to_owned(), Tensor::new(&[neck.output, neck.input], &neck.weight));
    Ok(tensors::save(path, &all, &BTreeMap::new())?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The shipped trunk, made large enough to be kept by a field that ONNX does not know.
    fn network(folder: &Path, name: &str, filler: u8) -> PathBuf {
        let mut bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/trunk.onnx")).unwrap();
        // Field 1000 with 17 MB: a tag of two bytes and a length of four.
        let len = 17u32 << 20;
        bytes.extend([0xc2, 0x3e]);
        let length = [len & 0x7f | 0x80, len >> 7 & 0x7f | 0x80, len >> 14 & 0x7f | 0x80, len >> 21];
        bytes.extend(length.map(|byte| byte as u8));
        bytes.resize(bytes.len() + len as usize, filler);
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        let old = SystemTime::now() - Duration::from_secs(60);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        path
    }

    #[test]
    fn a_file_is_known_again_until_it_is_altered() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        store::make_folder(&cache).unwrap();
        let path = network(folder.path(), "a.onnx", 1);
        let first = NetworkFile::open(&path, Cut::Auto, Some(&cache)).unwrap();
        assert!(matches!(first.source, Source::Parsed { .. }));
        let soon = first.as_known().unwrap();
        let again = NetworkFile::open(&path, Cut::Auto, Some(&cache)).unwrap();
        assert_eq!(again.trunk_file().unwrap().model(), soon.trunk_file().unwrap().model());
        assert!(matches!(again.source, Source::Known { .. }));
        assert_eq!(again.facts, first.facts);
        let [first_neck, neck] = [&first, &again].map(|file| file.neck.as_ref().unwrap().init().unwrap());
        assert!(neck == first_neck);
        assert_eq!(again.trunk_file().unwrap().model(), first.trunk_file().unwrap().model());
        let batch = again.with_batch(2).unwrap();
        let fixed = TrunkFile::parse(&std::fs::read(batch).unwrap(), Cut::End);
        // A network for two crops at a time is no trunk for any number of them.
        assert!(fixed.unwrap_err().to_string().contains("batch"));

        // Same path, same length, same time of modification.
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        let Source::Known { kept } = &again.source else { panic!("it is known") };
        std::fs::remove_file(kept.file("onnx")).unwrap();
        network(folder.path(), "a.onnx", 2);
        let error = again.trunk_file().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("altered while it was read"), "{error}");
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        let altered = NetworkFile::open(&path, Cut::Auto, Some(&cache)).unwrap();
        assert!(matches!(altered.source, Source::Parsed { .. }));
        assert_ne!(altered.facts.digest, first.facts.digest);
        // Another cut is another network.
        let cut = NetworkFile::open(&path, Cut::End, Some(&cache)).unwrap();
        assert!(matches!(cut.source, Source::Parsed { .. }) && cut.neck.is_none());
    }

    #[test]
    fn a_kept_network_that_is_damaged_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        store::make_folder(&cache).unwrap();
        let path = network(folder.path(), "a.onnx", 1);
        let open = || NetworkFile::open(&path, Cut::Auto, Some(&cache)).unwrap();
        open();
        let known = open();
        let Source::Known { kept, .. } = &known.source else { panic!("it is known") };
        let file = kept.file("onnx");
        for load in [
            |known: NetworkFile| known.on_winograd().map(|_| ()),
            |known: NetworkFile| known.on_rten().map(|_| ()),
        ] {
            std::fs::write(&file, b"damaged").unwrap();
            load(open()).unwrap();
            assert!(std::fs::read(&file).unwrap().len() > 7, "it is kept anew");
        }
    }

    #[test]
    fn a_file_that_was_just_written_or_is_small_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        store::make_folder(&cache).unwrap();
        let path = network(folder.path(), "a.onnx", 1);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now()).unwrap();
        let small = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/trunk.onnx");
        for path in [path.as_path(), Path::new(small)] {
            for _ in 0..2 {
                let file = NetworkFile::open(path, Cut::Auto, Some(&cache)).unwrap();
                assert!(matches!(file.source, Source::Parsed { .. }));
            }
        }
    }
}
