//! The encoded shapes of the messages (Protocol Buffers, without a schema compiler).

use prost::bytes::Bytes;

use crate::refusal::{RefusalKind, Result, refusal};

/// Decodes a payload and refuses bytes that the shape does not account for.
pub(crate) fn decode<M: prost::Message + Default>(payload: &Bytes) -> Result<M> {
    let message = M::decode(payload.clone())
        .map_err(|e| refusal(RefusalKind::Malformed, format!("the payload does not decode: {e}")))?;
    if message.encoded_len() != payload.len() {
        return Err(refusal(
            RefusalKind::Malformed,
            "the payload has fields that the protocol does not have",
        ));
    }
    Ok(message)
}

/// Encodes a payload.
pub(crate) fn encode<M: prost::Message>(message: &M) -> Bytes {
    message.encode_to_vec().into()
}

/// f32 values as little-endian bytes.
pub(crate) fn floats_to_bytes(values: &[f32]) -> Bytes {
    let mut bytes = vec![0; 4 * values.len()];
    for (to, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *to = value.to_le_bytes();
    }
    bytes.into()
}

/// Little-endian bytes as f32 values; a rest that is no whole value is left out.
pub(crate) fn bytes_to_floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Envelope {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) session: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pub(crate) kind: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) round: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) attempt: u32,
    #[prost(uint32, tag = "6")]
    pub(crate) sender: u32,
    #[prost(uint32, tag = "7")]
    pub(crate) recipient: u32,
    #[prost(bytes = "bytes", tag = "8")]
    pub(crate) payload: Bytes,
    #[prost(bytes = "vec", tag = "9")]
    pub(crate) signature: Vec<u8>,
}

/// A document and the signature under its digest.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Signed {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) document: Bytes,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) signature: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PlanAnswer {
    #[prost(bool, tag = "1")]
    pub(crate) accepts: bool,
    #[prost(string, tag = "2")]
    pub(crate) reason: String,
    /// Epoch of the group key that the site holds; 0 for none.
    #[prost(uint64, tag = "3")]
    pub(crate) epoch: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) plan: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Enrolled {
    #[prost(uint32, repeated, tag = "1")]
    pub(crate) members: Vec<u32>,
    #[prost(uint32, tag = "2")]
    pub(crate) founder: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct KeyGift {
    #[prost(uint64, tag = "1")]
    pub(crate) epoch: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) boxed: Bytes,
}

/// Bytes sealed under the group key.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Sealed {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) boxed: Bytes,
}

/// What a site puts in its sealed list.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SyndromeList {
    #[prost(string, repeated, tag = "1")]
    pub(crate) trained: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) gallery: Vec<String>,
}

/// Messages of others, as they came.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Bundle {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) messages: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ListsReady {
    #[prost(uint32, tag = "1")]
    pub(crate) trained: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) all: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) digest: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SumResult {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) sum: Bytes,
    /// Stages whose sums the coordinator has finished.
    #[prost(uint32, tag = "2")]
    pub(crate) finished: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Reason {
    #[prost(uint32, tag = "1")]
    pub(crate) code: u32,
    #[prost(string, tag = "2")]
    pub(crate) text: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Hash {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) hash: Vec<u8>,
    /// Of a model: no further round is worth it.
    #[prost(bool, tag = "2")]
    pub(crate) over: bool,
}

/// Stages are sent plus one, so that 0 says "none yet".
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Hello {
    /// Stages whose result is applied.
    #[prost(uint32, tag = "1")]
    pub(crate) applied: u32,
    /// Stages whose hashes are compared.
    #[prost(uint32, tag = "2")]
    pub(crate) settled: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct KernelUpload {
    #[prost(message, repeated, tag = "1")]
    pub(crate) entries: Vec<KernelEntry>,
    /// Entries in all parts of this upload.
    #[prost(uint32, tag = "2")]
    pub(crate) total: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct KernelEntry {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) pseudonym: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) token: Vec<u8>,
    /// Bit 0: frequent gallery; bit 1 + s: rare gallery of split s.
    #[prost(uint32, tag = "3")]
    pub(crate) galleries: u32,
    /// The masked vector, f32 little-endian.
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) vector: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct KernelQuery {
    #[prost(message, repeated, tag = "1")]
    pub(crate) probes: Vec<KernelProbe>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct KernelProbe {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) id: Vec<u8>,
    /// One ranking is asked for each entry; a gallery image takes part when it shares a bit.
    #[prost(uint32, repeated, tag = "2")]
    pub(crate) galleries: Vec<u32>,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) vector: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct KernelAnswer {
    #[prost(message, repeated, tag = "1")]
    pub(crate) rankings: Vec<Ranking>,
    /// Answers left to the site.
    #[prost(uint32, tag = "2")]
    pub(crate) left: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Ranking {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) probe: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(crate) galleries: u32,
    #[prost(message, repeated, tag = "3")]
    pub(crate) ranked: Vec<Ranked>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Ranked {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) token: Vec<u8>,
    /// Distance in steps of the plan's `distance_step`, rounded up.
    #[prost(uint32, tag = "2")]
    pub(crate) steps: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) nearest: Vec<u8>,
}

/// What the coordinator holds of a site's gallery, so that the site can make up for what was lost with a process.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Holding {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(crate) pseudonyms: Vec<Vec<u8>>,
    /// Number of the message that brought each.
    #[prost(uint32, repeated, tag = "2")]
    pub(crate) numbers: Vec<u32>,
    /// Tells a gallery without images from a message that says nothing of it.
    #[prost(bool, tag = "3")]
    pub(crate) told: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Withdraw {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(crate) pseudonyms: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct BlobPart {
    #[prost(uint32, tag = "1")]
    pub(crate) number: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) of: u32,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) bytes: Bytes,
}

/// The sealed weights and lists inside the blob.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Weights {
    #[prost(message, repeated, tag = "1")]
    pub(crate) tensors: Vec<Weight>,
    #[prost(message, optional, tag = "2")]
    pub(crate) syndromes: Option<SyndromeList>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Weight {
    #[prost(uint32, tag = "1")]
    pub(crate) member: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) tensor: u32,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) values: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct JoinPackage {
    #[prost(message, optional, tag = "1")]
    pub(crate) plan: Option<Signed>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) release: Bytes,
    #[prost(uint32, tag = "3")]
    pub(crate) parts: u32,
}
