//! What all parties to one sum agree on beforehand.

use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::key::domain;
use crate::prg::MAX_WORDS;
use crate::{Error, ErrorKind, Result, SiteIndex};

/// Fewest sites a sum may have.
const MIN_SITES: usize = 3;
/// Most sites: each needs its own non-zero point in GF(256).
const MAX_SITES: usize = 255;
/// Longest purpose in bytes.
const MAX_PURPOSE: usize = 64;

/// The bits of a short word.
pub(crate) const LOW: u32 = 0xFF_FFFF;

/// The one sum meant, among all that a consortium computes. Every field is bound into every key and
/// signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The training this belongs to.
    pub id: [u8; 16],
    /// What is summed, such as `counts`, `round` or `metrics`: 1 to 64 bytes.
    pub purpose: String,
    /// The round of the training.
    pub round: u32,
    /// Counts repetitions of the same round; a repetition must have a higher number.
    pub attempt: u32,
}

/// The words of a vector. Words of 24 bits come first; they are u32 as the others, of which only the lowest 24 bits count, are
/// summed and travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Words that are summed modulo 2^24.
    pub short: usize,
    /// Words that are summed modulo 2^32.
    pub long: usize,
}

impl Words {
    /// Words in all.
    pub fn count(self) -> usize {
        self.short + self.long
    }

    /// Bytes of the vector in a message.
    pub fn bytes(self) -> usize {
        self.bytes_before(self.count())
    }

    /// Clears the bits that do not count.
    pub(crate) fn clear(self, words: &mut [u32]) {
        words[..self.short].iter_mut().for_each(|word| *word &= LOW);
    }

    /// Bytes of the first `words` of them in a message.
    pub(crate) fn bytes_before(self, words: usize) -> usize {
        let short = words.min(self.short);
        short * 3 + (words - short) * 4
    }
}

/// Words of 32 bits.
impl From<usize> for Words {
    fn from(long: usize) -> Self {
        Self { short: 0, long }
    }
}

/// The facts of one sum: session, signature keys of the sites in roster order, words of the vector.
#[derive(Clone, Debug)]
pub struct SumConfig {
    session: Session,
    sites: Vec<VerifyingKey>,
    words: Words,
    digest: [u8; 32],
}

impl SumConfig {
    /// Checks and fixes the facts. A number for `words` is one of words of 32 bits.
    ///
    /// # Errors
    /// `TooFewSites` below 3 sites; `Parameter` for more than 255 sites, a repeated or weak key, an empty
    /// or over-long purpose, or a vector of no words or more than 2^36.
    pub fn new(session: Session, sites: Vec<VerifyingKey>, words: impl Into<Words>) -> Result<Self> {
        let words = words.into();
        if sites.len() < MIN_SITES {
            return Err(Error::new(
                ErrorKind::TooFewSites,
                format!(
                    "{} sites are too few for a secure sum: with fewer than {MIN_SITES} it would \
                     give single contributions away, so wait for more sites",
                    sites.len()
                ),
            ));
        }
        let parameter = |message: String| Err(Error::new(ErrorKind::Parameter, message));
        if sites.len() > MAX_SITES {
            return parameter(format!("{} sites: a secure sum supports at most {MAX_SITES}", sites.len()));
        }
        for (i, key) in sites.iter().enumerate() {
            if key.is_weak() {
                return parameter(format!("site {i} has a weak signature key in the roster"));
            }
            if let Some(j) = sites[..i].iter().position(|other| other == key) {
                return parameter(format!("sites {j} and {i} have the same signature key in the roster"));
            }
        }
        if session.purpose.is_empty() || session.purpose.len() > MAX_PURPOSE {
            return parameter(format!(
                "the purpose of a sum must have 1 to {MAX_PURPOSE} bytes, not {}",
                session.purpose.len()
            ));
        }
        let count = words.short.saturating_add(words.long);
        if count == 0 || count as u64 > MAX_WORDS {
            return parameter(format!("a secure sum of {count} words is not possible: use 1 to 2^36"));
        }
        let digest = digest(&session, &sites, words);
        Ok(Self { session, sites, words, digest })
    }

    /// Which sum this is.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The sites' signature keys, in roster order.
    pub fn sites(&self) -> &[VerifyingKey] {
        &self.sites
    }

    /// The words of the vector.
    pub fn words(&self) -> Words {
        self.words
    }

    /// Fewest sites with which every step goes on: max(3, ceil(2n/3)) of the roster's n.
    pub fn threshold(&self) -> usize {
        MIN_SITES.max((2 * self.sites.len()).div_ceil(3))
    }

    /// SHA-256 over all facts; two parties with the same digest mean the same sum.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The part of the digest that every message of this sum carries.
    pub(crate) fn tag(&self) -> [u8; 16] {
        let mut tag = [0; 16];
        tag.copy_from_slice(&self.digest[..16]);
        tag
    }

    pub(crate) fn check_site(&self, site: SiteIndex) -> Result<()> {
        if site.get() >= self.sites.len() {
            return Err(Error::new(
                ErrorKind::UnknownSite,
                format!(
                    "{site} is not in the roster of {} sites: check that both sides hold the same roster",
                    self.sites.len()
                ),
            ));
        }
        Ok(())
    }

    pub(crate) fn check_tag(&self, tag: &[u8; 16]) -> Result<()> {
        if tag != &self.tag() {
            return Err(Error::new(
                ErrorKind::WrongSession,
                format!(
                    "the message belongs to another sum than {}: it is late, replayed, or made under another roster",
                    self.name()
                ),
            ));
        }
        Ok(())
    }

    pub(crate) fn check_words(&self, words: usize) -> Result<()> {
        let wanted = self.words.count();
        if words != wanted {
            return Err(Error::new(
                ErrorKind::Length,
                format!("the vector has {words} words where {} has {wanted}", self.name()),
            ));
        }
        Ok(())
    }

    /// A list of sites must be ascending, without repetition, and of known sites.
    pub(crate) fn check_list(&self, sites: &[SiteIndex]) -> Result<()> {
        for site in sites {
            self.check_site(*site)?;
        }
        if !sites.is_sorted_by(|a, b| a < b) {
            return Err(Error::new(
                ErrorKind::Malformed,
                "a list of sites is not in ascending order or names one twice",
            ));
        }
        Ok(())
    }

    /// Refuses if fewer than the threshold are `present`, naming those of `expected` who are not.
    pub(crate) fn check_threshold(
        &self,
        present: &[SiteIndex],
        expected: &[SiteIndex],
        what: &str,
    ) -> Result<()> {
        if present.len() >= self.threshold() {
            return Ok(());
        }
        let missing: Vec<String> =
            expected.iter().filter(|site| !present.contains(site)).map(|site| site.0.to_string()).collect();
        Err(Error::new(
            ErrorKind::BelowThreshold,
            format!(
                "{what} from only {} of {} sites for {}, {} are needed; missing: sites {}; \
                 wait for them or start another attempt",
                present.len(),
                self.sites.len(),
                self.name(),
                self.threshold(),
                missing.join(", ")
            ),
        ))
    }

    pub(crate) fn verify(
        &self,
        site: SiteIndex,
        statement: &[u8],
        signature: &[u8; 64],
        what: &str,
    ) -> Result<()> {
        self.check_site(site)?;
        self.sites[site.get()].verify_strict(statement, &Signature::from_bytes(signature)).map_err(|_| {
            Error::new(
                ErrorKind::Signature,
                format!(
                    "the signature of {site} on {what} for {} does not verify: it was made by another key \
                         or for something else",
                    self.name()
                ),
            )
        })
    }

    /// The sum in words, for messages.
    pub(crate) fn name(&self) -> String {
        let Session { purpose, round, attempt, .. } = &self.session;
        format!("sum '{purpose}' of round {round}, attempt {attempt}")
    }

    pub(crate) fn all(&self) -> Vec<SiteIndex> {
        (0..self.sites.len() as u16).map(SiteIndex).collect()
    }
}

fn digest(session: &Session, sites: &[VerifyingKey], words: Words) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(domain("sum/config"));
    hash.update(session.id);
    hash.update((session.purpose.len() as u32).to_le_bytes());
    hash.update(&session.purpose);
    hash.update(session.round.to_le_bytes());
    hash.update(session.attempt.to_le_bytes());
    hash.update((words.short as u64).to_le_bytes());
    hash.update((words.long as u64).to_le_bytes());
    hash.update((sites.len() as u32).to_le_bytes());
    for site in sites {
        hash.update(site.as_bytes());
    }
    hash.finalize().into()
}
