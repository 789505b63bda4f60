//! What of a model the sites must hold alike, as digests.

use sha2::{Digest as _, Sha256};

use super::{Counts, Layout};
use crate::identity::{Digest, digest};
use crate::plan::TensorKind;
use crate::refusal::Result;

impl Layout {
    /// Digests of a model: per member over what the release publishes, and of everything that the sites
    /// must hold alike (rows that stay local are left out).
    pub(crate) fn digests<T: AsRef<[f32]>>(&self, model: &[Vec<T>], counts: &Counts) -> Result<ModelDigests> {
        self.check_shape(model, self.lengths.len(), "a model")?;
        let mut published: Vec<Sha256> = self.lengths.iter().map(|_| Sha256::new()).collect();
        let mut shared = Sha256::new();
        for segment in &self.segments {
            let values = model[segment.member][segment.tensor].as_ref();
            let width = segment.row.unwrap_or(segment.len).max(1);
            for (row, values) in values.chunks(width).enumerate() {
                match segment.kind {
                    TensorKind::ClassifierRows if !self.travels(counts, row) => {}
                    TensorKind::ClassifierRows => hash_values(&mut shared, values),
                    _ => hash_values(&mut published[segment.member], values),
                }
            }
        }
        for (hash, form) in published.iter_mut().zip(model).skip(self.trained_members()) {
            form.iter().for_each(|tensor| hash_values(hash, tensor.as_ref()));
        }
        let members: Vec<Digest> = published.into_iter().map(|hash| hash.finalize().into()).collect();
        let shared: Digest = shared.finalize().into();
        let mut parts: Vec<&[u8]> = members.iter().map(|d| d.as_slice()).collect();
        parts.push(&shared);
        Ok(ModelDigests { whole: digest("fedgestalt/model/v1", &parts), members })
    }

    /// Digest of a member's published tensors, given in plan order.
    pub(crate) fn published_digest<'a>(tensors: impl Iterator<Item = &'a [f32]>) -> Digest {
        let mut hash = Sha256::new();
        tensors.for_each(|values| hash_values(&mut hash, values));
        hash.finalize().into()
    }
}

/// Hashes f32 values little-endian, in blocks so that nothing is copied whole.
fn hash_values(hash: &mut Sha256, values: &[f32]) {
    let mut block = [0u8; 4096];
    for values in values.chunks(1024) {
        for (to, value) in block.chunks_exact_mut(4).zip(values) {
            to.copy_from_slice(&value.to_le_bytes());
        }
        hash.update(&block[..4 * values.len()]);
    }
}

/// See [`Layout::digests`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ModelDigests {
    pub(crate) whole: Digest,
    pub(crate) members: Vec<Digest>,
}
