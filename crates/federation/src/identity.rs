use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hkdf::Hkdf;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::refusal::{RefusalKind, Result, refusal};

const LINE_LABEL: &str = "fedgestalt/line-key/v1";

/// A SHA-256 digest.
pub(crate) type Digest = [u8; 32];

/// SHA-256 over a domain label and length-prefixed parts, so that no two lists of parts collide.
pub(crate) fn digest(label: &str, parts: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new();
    for part in std::iter::once(label.as_bytes()).chain(parts.iter().copied()) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// HKDF-SHA256 of a seed: 32 bytes under a label and a counter.
pub(crate) fn expand(seed: &[u8], label: &str, counter: u64) -> [u8; 32] {
    let mut out = [0; 32];
    let info = [b"fedgestalt/federation/v1/", label.as_bytes(), b"/", &counter.to_le_bytes()].concat();
    Hkdf::<Sha256>::new(None, seed).expand(&info, &mut out).expect("32 bytes are within HKDF's limit");
    out
}

fn signing(seed: &[u8; 32], role: &str) -> SigningKey {
    let mut bytes = expand(seed, role, 0);
    let key = SigningKey::from_bytes(&bytes);
    bytes.zeroize();
    key
}

fn verify(key: &[u8; 32], message: &[u8], signature: &[u8]) -> Result<()> {
    let bad = || refusal(RefusalKind::BadSignature, "the signature does not fit the key and the content");
    let key = VerifyingKey::from_bytes(key).map_err(|_| bad())?;
    let signature = Signature::from_slice(signature).map_err(|_| bad())?;
    key.verify_strict(message, &signature).map_err(|_| bad())
}

/// Serialises byte arrays as lower-case hexadecimal.
pub(crate) mod hexed {
    use super::*;

    pub(crate) fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub(crate) fn deserialize<'a, D: Deserializer<'a>, const N: usize>(from: D) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(from)?;
        let mut bytes = [0; N];
        hex::decode_to_slice(&text, &mut bytes)
            .map_err(|_| serde::de::Error::custom(format!("{N} bytes in hexadecimal expected")))?;
        Ok(bytes)
    }
}

/// As [`hexed`], for a field that is left out where there is none.
pub(crate) mod hexed_option {
    use super::*;

    pub(crate) fn serialize<S: Serializer, const N: usize>(
        bytes: &Option<[u8; N]>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => hexed::serialize(bytes, to),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'a, D: Deserializer<'a>, const N: usize>(
        from: D,
    ) -> Result<Option<[u8; N]>, D::Error> {
        hexed::deserialize(from).map(Some)
    }
}

/// A site's long-term secret: an Ed25519 signing key and an X25519 key for sealed boxes, from one seed.
#[derive(Clone)]
pub struct SiteKey {
    signing: SigningKey,
    seal: x25519_dalek::StaticSecret,
    private: Zeroizing<[u8; 32]>,
}

impl SiteKey {
    /// Derives the key from 32 secret random bytes. The same seed gives the same key.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let mut secret = expand(seed, "site seal", 0);
        let seal = x25519_dalek::StaticSecret::from(secret);
        secret.zeroize();
        Self {
            signing: signing(seed, "site sign"),
            seal,
            private: Zeroizing::new(expand(seed, "site private", 0)),
        }
    }

    /// The public half, as it stands in the roster.
    pub fn public(&self) -> SitePublic {
        SitePublic {
            sign: self.signing.verifying_key().to_bytes(),
            seal: x25519_dalek::PublicKey::from(&self.seal).to_bytes(),
        }
    }

    /// Vouches for the public key that this site's engine connects with (its transport's own form).
    pub fn vouch(&self, line_key: &[u8]) -> [u8; 64] {
        self.sign(&digest(LINE_LABEL, &[line_key]))
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }

    pub(crate) fn signing(&self) -> &SigningKey {
        &self.signing
    }

    pub(crate) fn seal(&self) -> &x25519_dalek::StaticSecret {
        &self.seal
    }

    /// The secret of a group that this site founds in a context: the same after a restart, unrelated in another context.
    pub(crate) fn found(&self, context: &[u8]) -> [u8; 32] {
        expand(self.private.as_slice(), &format!("group key {}", hex::encode(context)), 0)
    }

    /// A secret nobody else holds, for the site's own pseudonyms.
    pub(crate) fn private(&self) -> &[u8; 32] {
        &self.private
    }
}

impl fmt::Debug for SiteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteKey({:?}, secret redacted)", self.public())
    }
}

/// A site's public keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SitePublic {
    /// Ed25519 verifying key.
    #[serde(with = "hexed")]
    pub sign: [u8; 32],
    /// X25519 key to which boxes for this site are sealed.
    #[serde(with = "hexed")]
    pub seal: [u8; 32],
}

impl SitePublic {
    /// Checks that the site of these keys has vouched for the key that an engine connects with. Refused with
    /// [`RefusalKind::BadSignature`].
    pub fn vouched(&self, line_key: &[u8], signature: &[u8]) -> Result<()> {
        self.verify(&digest(LINE_LABEL, &[line_key]), signature)
    }

    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<()> {
        verify(&self.sign, message, signature)
    }

    pub(crate) fn verifying(&self) -> Result<VerifyingKey> {
        VerifyingKey::from_bytes(&self.sign).map_err(|_| {
            refusal(RefusalKind::RosterRefused, "a site's signing key is not a point of Ed25519")
        })
    }
}

macro_rules! role {
    ($key:ident, $public:ident, $label:literal, $what:literal) => {
        #[doc = concat!("The secret Ed25519 key of ", $what, ".")]
        #[derive(Clone, ZeroizeOnDrop)]
        pub struct $key {
            signing: SigningKey,
        }

        impl $key {
            /// Derives the key from 32 secret random bytes. The same seed gives the same key.
            pub fn from_seed(seed: &[u8; 32]) -> Self {
                Self { signing: signing(seed, $label) }
            }

            /// The public half.
            pub fn public(&self) -> $public {
                $public(self.signing.verifying_key().to_bytes())
            }

            pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
                self.signing.sign(message).to_bytes()
            }
        }

        impl fmt::Debug for $key {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?}, secret redacted)", stringify!($key), self.public())
            }
        }

        #[doc = concat!("The public Ed25519 key of ", $what, ".")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $public(#[serde(with = "hexed")] pub [u8; 32]);

        impl $public {
            pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<()> {
                verify(&self.0, message, signature)
            }
        }
    };
}

role!(CoordinatorKey, CoordinatorPublic, "coordinator sign", "the coordinator");
role!(
    ConsortiumKey,
    ConsortiumPublic,
    "consortium sign",
    "the consortium, which signs rosters and nothing else"
);

/// Fresh secrets from the host's seed: one per label and use.
pub(crate) struct Seeds {
    seed: Zeroizing<[u8; 32]>,
    used: u64,
}

impl Seeds {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { seed: Zeroizing::new(seed), used: 0 }
    }

    pub(crate) fn draw(&mut self, label: &str) -> [u8; 32] {
        self.used += 1;
        expand(self.seed.as_slice(), label, self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_print_redacted_and_roles_differ() {
        let seed = [7; 32];
        let site = SiteKey::from_seed(&seed);
        let coordinator = CoordinatorKey::from_seed(&seed);
        let consortium = ConsortiumKey::from_seed(&seed);
        assert_ne!(site.public().sign, coordinator.public().0);
        assert_ne!(coordinator.public().0, consortium.public().0);
        for text in [format!("{site:?}"), format!("{coordinator:?}"), format!("{consortium:?}")] {
            assert!(text.contains("redacted"), "{text}");
        }
        assert!(!format!("{site:?}").contains(&format!("{:?}", site.private())));
    }

    #[test]
    fn a_line_key_is_vouched_for_by_its_own_site_alone() {
        let (site, other) = (SiteKey::from_seed(&[1; 32]), SiteKey::from_seed(&[2; 32]));
        let signature = site.vouch(b"key");
        assert!(site.public().vouched(b"key", &signature).is_ok());
        assert!(site.public().vouched(b"another", &signature).is_err());
        assert!(other.public().vouched(b"key", &signature).is_err());
    }

    #[test]
    fn digest_parts_do_not_run_together() {
        assert_ne!(digest("a", &[b"bc", b"d"]), digest("a", &[b"b", b"cd"]));
    }
}
