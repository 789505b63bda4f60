//! The layout of the feature cache: trunk features of a fixed number of augmented draws per image, in f16.
//!
//! All integers little-endian:
//!
//! | offset | field |
//! |---|---|
//! | 0 | magic `FGFEAT\0\0` |
//! | 8 | version, u32 (1) |
//! | 12 | features per draw, u32 |
//! | 16 | draws per image, u32 |
//! | 20 | images, u32 |
//! | 24 | seed of the draws, u64 |
//! | 32 | digest of the trunk, 32 bytes |
//! | 64 | length of the ids, u64 |
//! | 72 | the image ids in row order, each a u16 length and UTF-8 |
//! | then | SHA-256 of everything before |
//! | then | zeros to the next multiple of 64 |
//! | then | the features, f16: images x draws x features |
//!
//! The writer puts [`Header::encode`] first and then every draw through [`encode_row`]; the reader gives the (mapped)
//! bytes to [`FeatureTable::parse`].

use std::collections::HashMap;

use half::f16;
use half::slice::HalfFloatSliceExt;
use sha2::{Digest, Sha256};

use crate::error::{Result, TrainError};
use crate::source::FeatureSource;

const MAGIC: &[u8; 8] = b"FGFEAT\0\0";
const VERSION: u32 = 1;
const FIXED: usize = 72;
const DIGEST: usize = 32;
const ALIGN: usize = 64;

/// What a feature table holds, and of which trunk and draws.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    trunk: [u8; 32],
    draw_seed: u64,
    dim: u32,
    draws: u32,
    ids: Vec<String>,
}

impl Header {
    /// The header of a table with `draws` draws of `dim` features for each of `ids`, in this order.
    ///
    /// `trunk` is the trunk's digest and `draw_seed` the seed of the augmentation: together they key the cache.
    /// Refuses zero sizes, ids that repeat or exceed 65,535 bytes, and tables too large to address.
    pub fn new(trunk: [u8; 32], draw_seed: u64, dim: usize, draws: usize, ids: Vec<String>) -> Result<Self> {
        let (Ok(dim), Ok(draws), Ok(_)) =
            (u32::try_from(dim), u32::try_from(draws), u32::try_from(ids.len()))
        else {
            return Err(TrainError::shape(format!(
                "a table of {} images x {draws} draws x {dim} features is too large; split the cohort",
                ids.len()
            )));
        };
        let header = Self { trunk, draw_seed, dim, draws, ids };
        if dim == 0 || draws == 0 {
            return Err(TrainError::shape(
                "a feature table needs at least one feature and one draw; check the trunk and the number of draws",
            ));
        }
        if let Some(row) = header.ids.iter().position(|id| id.len() > usize::from(u16::MAX)) {
            return Err(TrainError::invalid(format!(
                "the image id of row {row} is longer than 65,535 bytes; shorten it"
            )));
        }
        index(&header.ids)?;
        if header.table_bytes().and_then(|table| table.checked_add(header.data_offset())).is_none() {
            return Err(TrainError::shape("the feature table is too large to address; split the cohort"));
        }
        Ok(header)
    }

    /// The digest of the trunk that computed the features.
    pub fn trunk(&self) -> &[u8; 32] {
        &self.trunk
    }

    /// The seed of the augmented draws.
    pub fn draw_seed(&self) -> u64 {
        self.draw_seed
    }

    /// Features per draw.
    pub fn dim(&self) -> usize {
        self.dim as usize
    }

    /// Draws per image.
    pub fn draws(&self) -> usize {
        self.draws as usize
    }

    /// The image ids, in row order.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The bytes to write before the first draw.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.data_offset());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.dim.to_le_bytes());
        out.extend_from_slice(&self.draws.to_le_bytes());
        out.extend_from_slice(&(self.ids.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.draw_seed.to_le_bytes());
        out.extend_from_slice(&self.trunk);
        out.extend_from_slice(&(self.ids_bytes() as u64).to_le_bytes());
        for id in &self.ids {
            out.extend_from_slice(&(id.len() as u16).to_le_bytes());
            out.extend_from_slice(id.as_bytes());
        }
        let digest = Sha256::digest(&out);
        out.extend_from_slice(&digest);
        out.resize(self.data_offset(), 0);
        out
    }

    /// Reads a header from the start of `bytes`; the features begin at [`Header::data_offset`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let fixed = bytes.get(..FIXED).ok_or_else(|| cut("header"))?;
        if &fixed[..8] != MAGIC {
            return Err(TrainError::format("this is not a feature table; compute the features again"));
        }
        let version = u32_at(fixed, 8);
        if version != VERSION {
            return Err(TrainError::format(format!(
                "the feature table has version {version} but this program reads version {VERSION}; compute the features again"
            )));
        }
        let ids_end = usize::try_from(u64_at(fixed, 64))
            .ok()
            .and_then(|length| length.checked_add(FIXED))
            .ok_or_else(|| damaged("length of the ids"))?;
        let digest_end = ids_end.checked_add(DIGEST).ok_or_else(|| damaged("length of the ids"))?;
        let digest = bytes.get(ids_end..digest_end).ok_or_else(|| cut("index of image ids"))?;
        if Sha256::digest(&bytes[..ids_end])[..] != *digest {
            return Err(damaged("header's digest"));
        }
        let mut rest = &bytes[FIXED..ids_end];
        let mut ids = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk() {
            let (id, after) = after
                .split_at_checked(usize::from(u16::from_le_bytes(*length)))
                .ok_or_else(|| damaged("index of image ids"))?;
            let id = std::str::from_utf8(id).map_err(|_| damaged("index of image ids"))?;
            ids.push(id.to_owned());
            rest = after;
        }
        if !rest.is_empty() || ids.len() != u32_at(fixed, 20) as usize {
            return Err(damaged("number of images"));
        }
        let mut trunk = [0; 32];
        trunk.copy_from_slice(&fixed[32..64]);
        let header =
            Self::new(trunk, u64_at(fixed, 24), u32_at(fixed, 12) as usize, u32_at(fixed, 16) as usize, ids)?;
        let offset = header.data_offset();
        let padding = bytes.get(digest_end..offset).ok_or_else(|| cut("header"))?;
        if padding.iter().any(|&byte| byte != 0) {
            return Err(damaged("padding"));
        }
        Ok(header)
    }

    /// Where the features begin, in bytes: a multiple of 64.
    pub fn data_offset(&self) -> usize {
        (FIXED + self.ids_bytes() + DIGEST).next_multiple_of(ALIGN)
    }

    /// The bytes of a complete file.
    pub fn file_bytes(&self) -> usize {
        self.data_offset() + self.table_bytes().unwrap_or(0)
    }

    fn ids_bytes(&self) -> usize {
        self.ids.iter().map(|id| 2 + id.len()).sum()
    }

    /// The bytes of the features, or `None` if they cannot be addressed.
    fn table_bytes(&self) -> Option<usize> {
        self.dim()
            .checked_mul(self.draws())?
            .checked_mul(self.ids.len())?
            .checked_mul(size_of::<f16>())
            .filter(|&bytes| bytes <= isize::MAX as usize / 2)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn cut(what: &str) -> TrainError {
    TrainError::truncated(format!(
        "the feature table ends within its {what}; its writing was interrupted: compute the features again"
    ))
}

fn damaged(what: &str) -> TrainError {
    TrainError::format(format!(
        "the feature table's {what} is damaged; delete the cache and compute the features again"
    ))
}

/// The row of every id; refuses an id that repeats.
fn index(ids: &[String]) -> Result<HashMap<String, usize>> {
    let mut rows = HashMap::with_capacity(ids.len());
    for (row, id) in ids.iter().enumerate() {
        if let Some(first) = rows.insert(id.clone(), row) {
            return Err(TrainError::invalid(format!(
                "rows {first} and {row} of the feature table have the same image id; list every image once"
            )));
        }
    }
    Ok(rows)
}

/// Appends the features of one draw as f16 to `out`.
///
/// Refuses, and appends nothing, if a value is not finite or exceeds f16's range (65,504), naming its index.
pub fn encode_row(features: &[f32], out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    out.reserve(features.len() * size_of::<f16>());
    for (index, &value) in features.iter().enumerate() {
        let half = f16::from_f32(value);
        if !half.is_finite() {
            out.truncate(start);
            return Err(TrainError::non_finite(format!(
                "feature {index} is {value}, which the f16 cache cannot hold; check the image and the trunk"
            )));
        }
        out.extend_from_slice(&half.to_le_bytes());
    }
    Ok(())
}

/// A feature table over bytes that were read or mapped.
#[derive(Debug, Clone)]
pub struct FeatureTable<B> {
    bytes: B,
    header: Header,
    rows: HashMap<String, usize>,
    offset: usize,
}

impl<B: AsRef<[u8]>> FeatureTable<B> {
    /// Checks header and length; never panics, whatever the bytes.
    ///
    /// Refuses what is not a feature table, a damaged header, and a file shorter or longer than the header says.
    pub fn parse(bytes: B) -> Result<Self> {
        let header = Header::parse(bytes.as_ref())?;
        let (expected, got) = (header.file_bytes(), bytes.as_ref().len());
        if got < expected {
            return Err(TrainError::truncated(format!(
                "the feature table has {got} of {expected} bytes; its writing was interrupted: compute the features again"
            )));
        }
        if got > expected {
            return Err(TrainError::format(format!(
                "the feature table has {got} bytes where its header says {expected}; delete the cache and compute the features again"
            )));
        }
        let rows = index(&header.ids)?;
        let offset = header.data_offset();
        Ok(Self { bytes, header, rows, offset })
    }

    /// What the table holds.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The row of an image, if the table has it.
    pub fn row_of(&self, image: &str) -> Option<usize> {
        self.rows.get(image).copied()
    }
}

impl<B: AsRef<[u8]> + Sync> FeatureSource for FeatureTable<B> {
    fn dim(&self) -> usize {
        self.header.dim()
    }

    fn rows(&self) -> usize {
        self.header.ids.len()
    }

    fn draws(&self) -> usize {
        self.header.draws()
    }

    fn copy_row(&self, row: usize, draw: usize, out: &mut [f32]) {
        assert!(row < self.rows() && draw < self.draws(), "row {row} or draw {draw} out of range");
        let length = self.dim() * size_of::<f16>();
        let start = self.offset + (row * self.draws() + draw) * length;
        decode_row(&self.bytes.as_ref()[start..start + length], out);
    }
}

/// Widens little-endian f16; by the processor's own instruction where the bytes happen to be aligned.
fn decode_row(bytes: &[u8], out: &mut [f32]) {
    match bytemuck::try_cast_slice::<u8, f16>(bytes) {
        Ok(halves) if cfg!(target_endian = "little") => halves.convert_to_f32_slice(out),
        _ => {
            for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
            }
        }
    }
}

#[cfg(test)]
mod tests;
