//! Private kernel, first form: a coordinator computes inner products of encodings that it cannot read.
//!
//! As in FLAKE (arXiv 2306.02677), a site multiplies each encoding with a secret semi-orthogonal
//! matrix Q, and since Q Q^T = I the inner products of masked encodings are those of the encodings.
//! Here all sites derive Q from the group key, fresh for each release, and names become tokens.
//!
//! What the coordinator does learn: all inner products, hence how alike any two images are, and
//! which images carry the same token. And Q hides only from those who know no encoding: whoever
//! holds as many linearly independent pairs (encoding, masked encoding) as encodings have dimensions
//! recovers Q and with it every encoding; a test shows the attack.

mod gram;
mod rotation;
#[cfg(test)]
mod tests;

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::GroupKey;

pub use gram::gram;
pub use rotation::Rotation;

/// What stands for a name towards the coordinator: equal names have equal tokens within a release.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub [u8; 16]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({self})")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// HMAC-SHA256 of `label` under a key for this release, cut to 16 bytes. Without the group key nobody
/// can test whether a token stands for a guessed name. Names of different sorts (syndromes, images)
/// need different prefixes in `label`.
pub fn token(key: &GroupKey, release: &[u8; 32], label: &str) -> Token {
    let key = key.derive("kernel/token", release);
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes keys of any length");
    mac.update(label.as_bytes());
    let mut out = [0; 16];
    out.copy_from_slice(&mac.finalize().into_bytes()[..16]);
    Token(out)
}
