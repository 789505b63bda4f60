//! A site's key for the line: P-384 ECDSA, as the SuperLink knows its nodes by.
//!
//! It says who may connect. What a site says is signed with its Ed25519 key of the roster, inside the messages.

use anyhow::{Context as _, Result};
use base64ct::{Base64, Encoding as _};
use jiff::Timestamp;
use p384::ecdsa::signature::hazmat::PrehashSigner as _;
use p384::ecdsa::{DerSignature, SigningKey};
use p384::pkcs8::{DecodePublicKey as _, EncodePublicKey as _, LineEnding};
use sha2::{Digest as _, Sha256};

/// The secret half.
pub struct LineKey {
    key: SigningKey,
    pem: String,
}

impl LineKey {
    /// The key from its secret scalar: 48 random bytes, kept in the site's store.
    ///
    /// # Errors
    ///
    /// When they are no scalar of P-384; of random bytes one in 2^190 is none.
    pub fn from_secret(secret: &[u8]) -> Result<Self> {
        let key = SigningKey::from_slice(secret).ok().context("these 48 bytes are no key of P-384")?;
        let pem =
            key.verifying_key().to_public_key_pem(LineEnding::LF).context("cannot write a public key")?;
        Ok(Self { key, pem })
    }

    /// The public half, PEM.
    pub fn public_pem(&self) -> &str {
        &self.pem
    }

    /// The headers that prove the key, good for five minutes around `now`.
    ///
    /// # Errors
    ///
    /// When signing fails.
    pub fn headers(&self, now: Timestamp) -> Result<[(&'static str, String); 3]> {
        // As Python's datetime.fromisoformat reads it: microseconds and an offset.
        let stamp = now.strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00").to_string();
        let signature: DerSignature =
            self.key.sign_prehash(&Sha256::digest(stamp.as_bytes())).context("cannot sign")?;
        Ok([
            ("flwr-public-key", Base64::encode_string(self.pem.as_bytes())),
            ("flwr-signature", Base64::encode_string(signature.as_bytes())),
            ("flwr-timestamp", stamp),
        ])
    }
}

/// Checks that a text is a P-384 public key in the form that [`LineKey::public_pem`] has.
///
/// # Errors
///
/// When it is not.
pub fn check_public(pem: &str) -> Result<()> {
    let key = p384::PublicKey::from_public_key_pem(pem).ok().context("no P-384 public key in PEM")?;
    let again = key.to_public_key_pem(LineEnding::LF).context("cannot write a public key")?;
    anyhow::ensure!(again == pem, "a public key that is not written in the usual form");
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use p384::ecdsa::VerifyingKey;
    use p384::ecdsa::signature::hazmat::PrehashVerifier as _;

    #[test]
    fn headers_prove_the_key() {
        let key = LineKey::from_secret(&[7; 48]).unwrap();
        check_public(key.public_pem()).unwrap();
        let [(_, public), (_, signature), (name, stamp)] =
            key.headers("2026-11-23T12:00:00.25Z".parse().unwrap()).unwrap();
        assert_eq!((name, stamp.as_str()), ("flwr-timestamp", "2026-11-23T12:00:00.250000+00:00"));
        assert_eq!(Base64::decode_vec(&public).unwrap(), key.public_pem().as_bytes());
        let signature = DerSignature::from_bytes(&Base64::decode_vec(&signature).unwrap()).unwrap();
        let verifying = VerifyingKey::from_public_key_pem(key.public_pem()).unwrap();
        verifying.verify_prehash(&Sha256::digest(stamp.as_bytes()), &signature).unwrap();
        assert!(verifying.verify_prehash(&Sha256::digest(b"another time"), &signature).is_err());
        assert!(check_public("-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n").is_err());
    }
}
