//! Secrets of 32 bytes and how keys are derived from them.

use std::fmt;

use hkdf::Hkdf;
use rand::CryptoRng;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// First part of every domain separation of this crate; the last component is the version.
const DOMAIN: &str = "fedgestalt/secure/1/";

/// A secret of 32 bytes: redacted when printed, compared in constant time, wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes the bytes as they are.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes themselves: the caller keeps them out of logs and messages.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn xor(&mut self, other: &Self) {
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a ^= b;
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

/// The key that all sites of a consortium hold and the coordinator never does.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupKey(Secret);

impl GroupKey {
    /// Draws a key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        Self::from_bytes(bytes)
    }

    /// Takes the bytes of an existing key.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Secret(bytes))
    }

    /// The bytes themselves, for sealing the key to a new site.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// HKDF-SHA256 of the group key: one independent key for each (`label`, `context`).
    pub fn derive(&self, label: &str, context: &[u8]) -> Secret {
        derive(self.0.expose(), b"group", label, context)
    }
}

impl fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupKey(..)")
    }
}

/// HKDF-SHA256 (RFC 5869) with `info` = domain, length of label, label, context.
pub(crate) fn derive(ikm: &[u8], salt: &[u8], label: &str, context: &[u8]) -> Secret {
    let mut okm = Secret([0; 32]);
    let info = [DOMAIN.as_bytes(), &(label.len() as u32).to_le_bytes(), label.as_bytes(), context];
    Hkdf::<Sha256>::new(Some(salt), ikm)
        .expand_multi_info(&info, &mut okm.0)
        .expect("32 bytes are fewer than HKDF's limit of 8160");
    okm
}

/// The domain-separated beginning of a hash or signature input.
pub(crate) fn domain(label: &str) -> Vec<u8> {
    let mut out = DOMAIN.as_bytes().to_vec();
    out.extend_from_slice(&(label.len() as u32).to_le_bytes());
    out.extend_from_slice(label.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_print_redacted() {
        let key = GroupKey::from_bytes([0xab; 32]);
        let text = format!("{key:?} {:?}", key.derive("x", b""));
        assert_eq!(text, "GroupKey(..) Secret(..)");
    }

    #[test]
    fn labels_and_contexts_separate() {
        let key = GroupKey::from_bytes([1; 32]);
        assert_ne!(key.derive("ab", b"c"), key.derive("a", b"bc"));
        assert_ne!(key.derive("a", b"b"), key.derive("a", b"c"));
        assert_eq!(key.derive("a", b"b"), key.derive("a", b"b"));
    }
}
