//! Authenticated boxes: sealed to one X25519 key, or to everyone who holds the group key.
//!
//! Every box has its own key, derived with HKDF-SHA256 from fresh material that travels with it,
//! and is sealed with ChaCha20-Poly1305 under a zero nonce. The fresh material also depends on the
//! content, so even a repeated seed never puts two contents under one key.

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::key::derive;
use crate::{Error, ErrorKind, GroupKey, Result, Secret};

/// First byte of every box.
const VERSION: u8 = 1;
/// Version, ephemeral key or salt, AEAD tag.
const OVERHEAD: usize = 1 + 32 + 16;

/// Seals `plaintext` to the holder of `to`'s secret; it opens only under the same `context`. The
/// sender is anonymous: sign the box where it matters who sealed it. `seed` must be fresh and secret.
///
/// # Errors
/// `Inconsistent` if `to` is a degenerate key.
pub fn seal_to(to: &PublicKey, context: &[u8], plaintext: &[u8], seed: [u8; 32]) -> Result<Vec<u8>> {
    let secret = StaticSecret::from(*fresh(seed, "box/ephemeral", plaintext).expose());
    let ephemeral = PublicKey::from(&secret).to_bytes();
    let key = agreed_key(&secret, to, &ephemeral, to, context)?;
    Ok(seal(&key, &ephemeral, plaintext))
}

/// Opens a box made by [`seal_to`] for the public key of `secret` under the same `context`.
///
/// # Errors
/// `Malformed` if it is too short to be a box, `Version`, `Sealed` if it does not open.
pub fn open(secret: &StaticSecret, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
    let (ephemeral, body) = split(sealed)?;
    let key = agreed_key(secret, &PublicKey::from(*ephemeral), ephemeral, &PublicKey::from(secret), context)?;
    unseal(&key, body)
}

/// Seals `plaintext` to everyone who holds `key`; it opens only under the same `label`.
pub fn group_seal(key: &GroupKey, label: &str, plaintext: &[u8], seed: [u8; 32]) -> Vec<u8> {
    let salt = fresh(seed, "box/salt", plaintext);
    seal(&group_box_key(key, label, salt.expose()), salt.expose(), plaintext)
}

/// Opens a box made by [`group_seal`] under the same `key` and `label`.
///
/// # Errors
/// `Malformed` if it is too short to be a box, `Version`, `Sealed` if it does not open.
pub fn group_open(key: &GroupKey, label: &str, sealed: &[u8]) -> Result<Vec<u8>> {
    let (salt, body) = split(sealed)?;
    unseal(&group_box_key(key, label, salt), body)
}

fn fresh(seed: [u8; 32], label: &str, plaintext: &[u8]) -> Secret {
    let seed = Secret::from_bytes(seed);
    derive(seed.expose(), b"", label, &Sha256::digest(plaintext))
}

fn agreed_key(
    secret: &StaticSecret,
    theirs: &PublicKey,
    ephemeral: &[u8; 32],
    to: &PublicKey,
    context: &[u8],
) -> Result<Secret> {
    let shared = secret.diffie_hellman(theirs);
    if !shared.was_contributory() {
        return Err(Error::new(
            ErrorKind::Inconsistent,
            "a box cannot be sealed to or by a degenerate key: check the roster",
        ));
    }
    let salt = [*ephemeral, to.to_bytes()].concat();
    Ok(derive(shared.as_bytes(), &salt, "box/to", context))
}

fn group_box_key(key: &GroupKey, label: &str, salt: &[u8; 32]) -> Secret {
    key.derive("box/group", &[&salt[..], label.as_bytes()].concat())
}

fn seal(key: &Secret, head: &[u8; 32], plaintext: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plaintext.len() + OVERHEAD);
    out.push(VERSION);
    out.extend_from_slice(head);
    out.extend_from_slice(plaintext);
    let tag = ChaCha20Poly1305::new(key.expose().into())
        .encrypt_inout_detached(&[0; 12].into(), &[VERSION], out[33..].as_mut().into())
        .expect("contents are far below the cipher's limit of 256 GiB");
    out.extend_from_slice(&tag);
    out
}

fn split(sealed: &[u8]) -> Result<(&[u8; 32], &[u8])> {
    let malformed =
        || Error::new(ErrorKind::Malformed, format!("{} bytes are too few for a sealed box", sealed.len()));
    if sealed.len() < OVERHEAD {
        return Err(malformed());
    }
    if sealed[0] != VERSION {
        return Err(Error::new(
            ErrorKind::Version,
            format!("a sealed box of version {} where this program speaks version {VERSION}", sealed[0]),
        ));
    }
    sealed[1..].split_first_chunk().ok_or_else(malformed)
}

fn unseal(key: &Secret, body: &[u8]) -> Result<Vec<u8>> {
    let refused = || {
        Error::new(
            ErrorKind::Sealed,
            "a sealed box does not open: it was altered, or is for another key or purpose",
        )
    };
    let (content, tag) = body.split_last_chunk::<16>().ok_or_else(refused)?;
    let mut content = content.to_vec();
    ChaCha20Poly1305::new(key.expose().into())
        .decrypt_inout_detached(&[0; 12].into(), &[VERSION], content.as_mut_slice().into(), tag.into())
        .map_err(|_| refused())?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn keys() -> (StaticSecret, PublicKey) {
        let secret = StaticSecret::from([5; 32]);
        let public = PublicKey::from(&secret);
        (secret, public)
    }

    #[test]
    fn a_box_opens_for_its_key_and_context_only() {
        let (secret, public) = keys();
        let sealed = seal_to(&public, b"group key", b"content", [1; 32]).unwrap();
        assert_eq!(open(&secret, b"group key", &sealed).unwrap(), b"content");
        let kind = |result: Result<Vec<u8>>| result.unwrap_err().kind();
        assert_eq!(kind(open(&secret, b"other", &sealed)), ErrorKind::Sealed);
        let stranger = StaticSecret::from([6; 32]);
        assert_eq!(kind(open(&stranger, b"group key", &sealed)), ErrorKind::Sealed);
    }

    #[test]
    fn a_group_box_opens_for_its_key_and_label_only() {
        let key = GroupKey::from_bytes([1; 32]);
        let sealed = group_seal(&key, "syndromes", b"content", [2; 32]);
        assert_eq!(group_open(&key, "syndromes", &sealed).unwrap(), b"content");
        let kind = |result: Result<Vec<u8>>| result.unwrap_err().kind();
        assert_eq!(kind(group_open(&key, "weights", &sealed)), ErrorKind::Sealed);
        let other = GroupKey::from_bytes([2; 32]);
        assert_eq!(kind(group_open(&other, "syndromes", &sealed)), ErrorKind::Sealed);
    }

    #[test]
    fn every_damaged_or_cut_box_is_refused() {
        let (secret, public) = keys();
        let key = GroupKey::from_bytes([1; 32]);
        let to = seal_to(&public, b"", b"0123", [1; 32]).unwrap();
        let group = group_seal(&key, "", b"0123", [1; 32]);
        for place in 0..to.len() {
            for (sealed, is_to) in [(&to, true), (&group, false)] {
                let attempt = |bytes: &[u8]| match is_to {
                    true => open(&secret, b"", bytes),
                    false => group_open(&key, "", bytes),
                };
                let mut bent = sealed.clone();
                bent[place] ^= 1;
                assert!(attempt(&bent).is_err(), "bit flipped at {place}");
                assert!(attempt(&sealed[..place]).is_err(), "cut at {place}");
                let mut long = sealed.clone();
                long.push(0);
                assert!(attempt(&long).is_err());
            }
        }
    }

    #[test]
    fn a_repeated_seed_does_not_repeat_a_key() {
        let key = GroupKey::from_bytes([1; 32]);
        let (a, b) = (group_seal(&key, "x", b"aaaa", [7; 32]), group_seal(&key, "x", b"bbbb", [7; 32]));
        assert_ne!(a[1..33], b[1..33]);
    }

    #[test]
    fn a_degenerate_key_is_refused() {
        let zero = PublicKey::from([0; 32]);
        let error = seal_to(&zero, b"", b"x", [1; 32]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Inconsistent);
    }
}
