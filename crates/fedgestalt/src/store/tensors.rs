//! Named tensors in a safetensors file.
//!
//! The format is that of huggingface/safetensors, so that a release's weights open anywhere. Files of ours also carry
//! a BLAKE3 digest per tensor in their metadata: the format itself would not notice a flipped bit. (SHA-256 took longer over
//! a gallery than its ranking; files that carry it are still checked.)

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorInfo, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::mapped::Mapped;
use super::{Error, ErrorKind, Result, atomic};

/// The one key of the metadata. One key, since the order of several would differ from run to run.
const METADATA: &str = "fedgestalt";
/// As in the safetensors crate.
const LARGEST_HEADER: usize = 100_000_000;

/// What the metadata says, as JSON.
#[derive(Default, Serialize, Deserialize)]
struct Metadata {
    facts: BTreeMap<String, String>,
    #[serde(default)]
    blake3: BTreeMap<String, String>,
    /// In place of the other in files of earlier versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    sha256: BTreeMap<String, String>,
}

impl Metadata {
    /// The tensors that have a digest.
    fn names(&self) -> impl Iterator<Item = &String> {
        self.blake3.keys().chain(self.sha256.keys())
    }

    /// Whether a tensor is what its digests say, where it has any.
    fn holds(&self, name: &str, raw: &[u8]) -> bool {
        let blake3 = self.blake3.get(name).is_none_or(|digest| *digest == blake3(raw));
        blake3 && self.sha256.get(name).is_none_or(|digest| *digest == hex::encode(Sha256::digest(raw)))
    }
}

fn blake3(raw: &[u8]) -> String {
    blake3::hash(raw).to_hex().to_string()
}

/// A tensor to be saved or as loaded: row-major f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor<'a> {
    /// Lengths of its axes.
    pub shape: Vec<usize>,
    /// As many values as the product of the shape.
    pub values: Cow<'a, [f32]>,
}

impl<'a> Tensor<'a> {
    /// A tensor of borrowed values.
    pub fn new(shape: &[usize], values: &'a [f32]) -> Self {
        Self { shape: shape.to_owned(), values: Cow::Borrowed(values) }
    }
}

/// Saves tensors, and facts about them (names and short values), as a private file. The same tensors and facts give
/// the same bytes.
///
/// # Errors
///
/// [`ErrorKind::InvalidArgument`] when a tensor's values do not fill its shape or are not finite (the tensor is
/// named), [`ErrorKind::Io`] when the file cannot be written.
pub fn save(
    path: &Path,
    tensors: &BTreeMap<String, Tensor<'_>>,
    facts: &BTreeMap<String, String>,
) -> Result<()> {
    let failed = |name: &str, fault: String| {
        Error::new(
            ErrorKind::InvalidArgument,
            format!("cannot save {}: tensor {name} {fault}", path.display()),
        )
    };
    let mut digests = BTreeMap::new();
    let mut bytes: Vec<Cow<'_, [u8]>> = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        if let Some(at) = tensor.values.iter().position(|value| !value.is_finite()) {
            return Err(failed(
                name,
                format!("is {} at index {at}; only finite values are kept", tensor.values[at]),
            ));
        }
        let raw = little_endian(&tensor.values);
        digests.insert(name.clone(), blake3(&raw));
        bytes.push(raw);
    }
    let metadata = Metadata { facts: facts.clone(), blake3: digests, sha256: BTreeMap::new() };
    let metadata = serde_json::to_string(&metadata).expect("maps of strings become JSON");
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, tensor), raw)| {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), raw).map_err(|_| {
                let (values, shape) = (tensor.values.len(), &tensor.shape);
                failed(name, format!("has {values} values, which do not fill its shape {shape:?}"))
            })?;
            Ok((name.as_str(), view))
        })
        .collect::<Result<Vec<_>>>()?;
    let file = safetensors::serialize(views, Some(HashMap::from([(METADATA.to_owned(), metadata)])))
        .map_err(|error| failed("list", format!("cannot be written: {error}")))?;
    atomic::write_private(path, &file)
}

/// The tensors of a file, mapped and checked.
#[derive(Debug)]
pub struct Tensors {
    path: PathBuf,
    bytes: Arc<Mapped>,
    /// Where each tensor's data lies in the file.
    places: BTreeMap<String, (TensorInfo, Range<usize>)>,
    facts: BTreeMap<String, String>,
    /// Whether every tensor has a digest.
    has_digests: bool,
}

impl Tensors {
    /// Opens a file and checks all of it: that it is whole, that its digests hold where it has them, that f32 values
    /// are finite. Files that other programs wrote are welcome.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] when it cannot be opened, [`ErrorKind::Corrupt`] when it is cut short, damaged or not a
    /// safetensors file: file and tensor are named.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = Arc::new(Mapped::open(path)?);
        let corrupt = |fault: String| {
            Error::new(
                ErrorKind::Corrupt,
                format!("{} {fault}; restore it, or remove it to have it made again", path.display()),
            )
        };
        let (header, data) = split(&bytes).map_err(&corrupt)?;
        let header: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(header).map_err(|_| corrupt("has a damaged header".to_owned()))?;
        let (places, facts) = (BTreeMap::new(), BTreeMap::new());
        let mut tensors = Self { path: path.to_owned(), bytes, places, facts, has_digests: false };
        let mut digests = Metadata::default();
        for (name, value) in header {
            if name == "__metadata__" {
                if let Some(text) = value.get(METADATA).and_then(|text| text.as_str()) {
                    digests =
                        serde_json::from_str(text).map_err(|_| corrupt("has damaged metadata".to_owned()))?;
                }
                continue;
            }
            let damaged = || corrupt(format!("describes tensor {name} in a damaged way"));
            let info: TensorInfo = serde_json::from_value(value).map_err(|_| damaged())?;
            let (from, to) = info.data_offsets;
            let size = info
                .shape
                .iter()
                .try_fold(1usize, |size, &length| size.checked_mul(length))
                .and_then(|size| size.checked_mul(info.dtype.bitsize()));
            if to < from || size != (to - from).checked_mul(8) {
                return Err(damaged());
            }
            let place = data.checked_add(from).zip(data.checked_add(to)).ok_or_else(damaged)?;
            tensors.places.insert(name, (info, place.0..place.1));
        }
        tensors.check(&digests).map_err(corrupt)?;
        tensors.has_digests = tensors.places.keys().all(|name| digests.names().any(|other| other == name));
        tensors.facts = digests.facts;
        Ok(tensors)
    }

    fn check(&self, digests: &Metadata) -> std::result::Result<(), String> {
        // The first tensor, in the order of the file, is where a cut happened.
        let mut order: Vec<_> = self.places.iter().collect();
        order.sort_by_key(|(_, (_, place))| place.start);
        for (name, (info, place)) in order {
            let Some(raw) = self.bytes.get(place.clone()) else {
                let missing = place.end - self.bytes.len();
                return Err(format!(
                    "is cut short: tensor {name} and whatever follows miss at least {missing} bytes"
                ));
            };
            if !digests.holds(name, raw) {
                return Err(format!("is damaged: tensor {name} is not what was saved (its digest differs)"));
            }
            if info.dtype == Dtype::F32
                && let Some(at) = infinite(&floats(raw))
            {
                return Err(format!("is damaged: tensor {name} is not finite at index {at}"));
            }
        }
        match digests.names().find(|name| !self.places.contains_key(*name)) {
            Some(name) => Err(format!("is damaged: tensor {name} is gone")),
            None => Ok(()),
        }
    }

    /// SHA-256 of names, shapes, facts and the tensors' own digests, which have been checked: two files of this program have
    /// it in common only if they hold the same. Without digests, of the whole file.
    pub fn digest(&self) -> [u8; 32] {
        let data = self.places.values().map(|(_, place)| place.start).min().unwrap_or(self.bytes.len());
        Sha256::digest(if self.has_digests { &self.bytes[..data] } else { &self.bytes[..] }).into()
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The facts that were saved with the tensors.
    pub fn facts(&self) -> &BTreeMap<String, String> {
        &self.facts
    }

    /// A tensor, without copying where the file allows.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Missing`] when there is none of this name, or it is not f32.
    pub fn get(&self, name: &str) -> Result<Tensor<'_>> {
        let missing = |fault: String| {
            Error::new(
                ErrorKind::Missing,
                format!("{}: {fault}; give the file that this program wrote", self.path.display()),
            )
        };
        let (info, place) =
            self.places.get(name).ok_or_else(|| missing(format!("there is no tensor {name}")))?;
        if info.dtype != Dtype::F32 {
            return Err(missing(format!("tensor {name} is {:?} instead of F32", info.dtype)));
        }
        // `check` has seen that the place is inside the file.
        Ok(Tensor { shape: info.shape.clone(), values: floats(&self.bytes[place.clone()]) })
    }

    /// A tensor of a known shape.
    ///
    /// # Errors
    ///
    /// As [`Tensors::get`], and [`ErrorKind::Missing`] when it has another shape.
    pub fn shaped(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>> {
        let tensor = self.get(name)?;
        if tensor.shape != shape {
            return Err(Error::new(
                ErrorKind::Missing,
                format!(
                    "{}: tensor {name} has shape {:?} instead of {shape:?}; it belongs to another model",
                    self.path.display(),
                    tensor.shape
                ),
            ));
        }
        Ok(tensor.values)
    }

    /// As [`Tensors::shaped`], for those who keep the values longer than this.
    ///
    /// # Errors
    ///
    /// As [`Tensors::shaped`].
    pub fn mapped(&self, name: &str, shape: &[usize]) -> Result<MappedValues> {
        Ok(match self.shaped(name, shape)? {
            Cow::Borrowed(_) => {
                MappedValues::Mapped { file: self.bytes.clone(), place: self.places[name].1.clone() }
            }
            Cow::Owned(values) => MappedValues::Copied(values),
        })
    }
}

/// A tensor's values where they lie in its file, which stays mapped as long as there are such.
#[derive(Debug)]
pub enum MappedValues {
    /// Where they can be read as they are.
    Mapped {
        /// The whole file.
        file: Arc<Mapped>,
        /// The values' bytes.
        place: Range<usize>,
    },
    /// Where they cannot.
    Copied(Vec<f32>),
}

impl AsRef<[f32]> for MappedValues {
    fn as_ref(&self) -> &[f32] {
        match self {
            // `Tensors::mapped` has seen that they lie as numbers do.
            Self::Mapped { file, place } => bytemuck::cast_slice(&file[place.clone()]),
            Self::Copied(values) => values,
        }
    }
}

/// The first value that is not finite.
fn infinite(values: &[f32]) -> Option<usize> {
    const CHUNK: usize = 1 << 16;
    // No early end within a chunk: a loop that may stop at every value is several times slower.
    let suspect = |chunk: &[f32]| !chunk.iter().fold(true, |finite, value| finite & value.is_finite());
    let chunk = values.par_chunks(CHUNK).position_first(suspect)?;
    values[chunk * CHUNK..].iter().position(|value| !value.is_finite()).map(|at| chunk * CHUNK + at)
}

/// The header and where the data begins.
fn split(bytes: &[u8]) -> std::result::Result<(&[u8], usize), String> {
    let cut = || "is cut short within its header".to_owned();
    let length = bytes.first_chunk::<8>().ok_or_else(cut)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok().filter(|&length| length <= LARGEST_HEADER);
    let length = length.ok_or_else(|| "is not a safetensors file".to_owned())?;
    Ok((bytes.get(8..8 + length).ok_or_else(cut)?, 8 + length))
}

fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        Cow::Borrowed(bytemuck::cast_slice(values))
    } else {
        Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }
}

/// The bytes' number is a multiple of 4.
fn floats(bytes: &[u8]) -> Cow<'_, [f32]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(values) if cfg!(target_endian = "little") => Cow::Borrowed(values),
        _ => Cow::Owned(bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn example() -> BTreeMap<String, Tensor<'static>> {
        BTreeMap::from([
            ("bn.weight".to_owned(), Tensor::new(&[3], &[1.0, 2.0, 3.0])),
            ("neck.weight".to_owned(), Tensor::new(&[2, 3], &[0.5, -0.5, 1e-30, 4.0, 5.0, 6.0])),
        ])
    }

    fn saved() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let facts =
            BTreeMap::from([("member".to_owned(), "r50".to_owned()), ("epoch".to_owned(), "5".to_owned())]);
        save(&path, &example(), &facts).unwrap();
        (folder, path)
    }

    #[test]
    fn what_is_saved_loads_bit_for_bit() {
        let (_folder, path) = saved();
        let tensors = Tensors::open(&path).unwrap();
        assert_eq!(tensors.names().collect::<Vec<_>>(), ["bn.weight", "neck.weight"]);
        for (name, tensor) in example() {
            assert_eq!(tensors.get(&name).unwrap(), tensor);
            assert_eq!(tensors.shaped(&name, &tensor.shape).unwrap(), tensor.values);
            assert_eq!(tensors.mapped(&name, &tensor.shape).unwrap().as_ref(), &*tensor.values);
        }
        assert_eq!(tensors.facts()["member"], "r50");
        let bytes = std::fs::read(&path).unwrap();
        let (_again, other) = saved();
        assert_eq!(std::fs::read(other).unwrap(), bytes, "the same tensors give the same bytes");
        assert!(safetensors::SafeTensors::deserialize(&bytes).is_ok(), "others can read it");
    }

    #[test]
    fn a_file_cut_anywhere_is_refused_and_named() {
        let (_folder, path) = saved();
        let bytes = std::fs::read(&path).unwrap();
        let data = bytes.len() - 9 * 4;
        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let error = Tensors::open(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{length}: {error}");
            let text = error.to_string();
            assert!(text.contains("model.safetensors") && text.contains("cut short"), "{length}: {text}");
            let tensor = match length {
                _ if length >= data + 12 => Some("neck.weight"),
                _ if length >= data => Some("bn.weight"),
                _ => None,
            };
            assert!(tensor.is_none_or(|name| text.contains(name)), "{length}: {text}");
        }
    }

    #[test]
    fn a_flipped_bit_is_found_in_its_tensor() {
        let (_folder, path) = saved();
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = Tensors::open(&path).unwrap_err().to_string();
        assert!(error.contains("neck.weight") && error.contains("digest"), "{error}");
    }

    #[test]
    fn digests_of_earlier_versions_are_checked_too() {
        let (_folder, path) = saved();
        let name = "neck.weight";
        let bytes = std::fs::read(&path).unwrap();
        let (header, _) = split(&bytes).unwrap();
        let tensors = Tensors::open(&path).unwrap();
        let raw = bytes[tensors.places[name].1.clone()].to_vec();
        let with = |digest: String| {
            let mut header: serde_json::Value = serde_json::from_slice(header).unwrap();
            header["__metadata__"][METADATA] =
                serde_json::json!({"facts": {}, "sha256": {name: digest}}).to_string().into();
            let header = header.to_string();
            let mut file = (header.len() as u64).to_le_bytes().to_vec();
            file.extend(header.into_bytes());
            file.extend(&bytes[split(&bytes).unwrap().1..]);
            std::fs::write(&path, file).unwrap();
            Tensors::open(&path)
        };
        with(hex::encode(Sha256::digest(&raw))).unwrap();
        let error = with(hex::encode(Sha256::digest(b"something else"))).unwrap_err().to_string();
        assert!(error.contains("tensor neck.weight is not what was saved"), "{error}");
    }

    #[test]
    fn foreign_files_are_read_and_checked_for_what_they_promise() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("foreign.safetensors");
        let write = |values: &[f32], dtype| {
            let raw = little_endian(values);
            let view = TensorView::new(dtype, vec![raw.len() / (dtype.bitsize() / 8)], &raw).unwrap();
            std::fs::write(&path, safetensors::serialize([("w", view)], None).unwrap()).unwrap();
            Tensors::open(&path)
        };
        assert_eq!(*write(&[1.0, 2.0], Dtype::F32).unwrap().get("w").unwrap().values, [1.0, 2.0]);
        let error = write(&[1.0, f32::NAN], Dtype::F32).unwrap_err();
        assert!(error.to_string().contains("tensor w is not finite at index 1"), "{error}");
        let tensors = write(&[1.0], Dtype::F16).unwrap();
        assert!(tensors.get("w").unwrap_err().to_string().contains("F16"));
        assert_eq!(tensors.get("v").unwrap_err().kind(), ErrorKind::Missing);
        for (text, named) in
            [("not tensors at all", "not a safetensors file"), ("\u{2}\0\0\0\0\0\0\0[]", "header")]
        {
            std::fs::write(&path, text).unwrap();
            let error = Tensors::open(&path).unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn another_shape_and_values_that_are_not_finite_are_refused() {
        let (folder, path) = saved();
        let error = Tensors::open(&path).unwrap().shaped("bn.weight", &[4]).unwrap_err();
        assert!(error.to_string().contains("[3] instead of [4]"), "{error}");
        let cases: [(&[usize], &[f32]); 2] = [(&[2], &[1.0, f32::INFINITY]), (&[3], &[1.0])];
        for (shape, values) in cases {
            let tensors = BTreeMap::from([("w".to_owned(), Tensor::new(shape, values))]);
            let error = save(&folder.path().join("bad"), &tensors, &BTreeMap::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains("tensor w"), "{error}");
        }
    }
}
