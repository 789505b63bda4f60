//! The result of a sum, and how a site opens it.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::prg::Pads;
use crate::{Error, ErrorKind, GroupKey, Result, Secret, SiteIndex};

use super::message::consent_statement;
use super::wire::{Kind, Reader, Writer, drain_bytes};
use super::{MaskedInput, SumConfig};

/// The sum of the survivors' vectors with all their masks but the blind ones removed, and the
/// survivors' signatures on who they are. Any site can open it later, also one that was away.
///
/// The signatures vouch for the list of sites, not for the words: that all sites got the same words
/// must be checked by comparing what came of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlindSum {
    pub(crate) tag: [u8; 16],
    pub(crate) adverts: [u8; 32],
    pub(crate) blind_tag: [u8; 16],
    pub(crate) sharers: Vec<SiteIndex>,
    pub(crate) signatures: Vec<(SiteIndex, [u8; 64])>,
    /// How many of the words are short.
    pub(crate) short: usize,
    pub(crate) words: Vec<u32>,
}

/// An opened sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The wrapping sum of the vectors of `sites`; short words are below 2^24.
    pub sum: Vec<u32>,
    /// Whose vectors are in it, ascending.
    pub sites: Vec<SiteIndex>,
}

impl BlindSum {
    /// Whose vectors are in the sum, ascending.
    pub fn sites(&self) -> Vec<SiteIndex> {
        self.signatures.iter().map(|(site, _)| *site).collect()
    }

    /// The words of the sum, under the blind masks in blind mode.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Checks the survivors' signatures and subtracts their blind masks.
    ///
    /// # Errors
    /// `BelowThreshold`, `Inconsistent` or `Signature` if the list of sites is not one that all on it
    /// have signed; `GroupKey` if the sum was made blind under another key, or not blind although a
    /// key is given.
    pub fn open(&self, config: &SumConfig, blind: Option<&GroupKey>) -> Result<Opened> {
        self.clone().into_opened(config, blind)
    }

    /// As [`BlindSum::open`] without a copy of the words.
    ///
    /// # Errors
    /// As [`BlindSum::open`].
    pub fn into_opened(mut self, config: &SumConfig, blind: Option<&GroupKey>) -> Result<Opened> {
        self.check(config)?;
        check_blind_tag(&self.blind_tag, config, blind, "the blind sum")?;
        let sites = self.sites();
        if let Some(key) = blind {
            let mut pads = Pads::default();
            for &site in &sites {
                pads.subtract(blind_seed(key, config, &self.adverts, site));
            }
            pads.apply(&mut self.words);
            config.words().clear(&mut self.words);
        }
        Ok(Opened { sum: self.words, sites })
    }

    fn check(&self, config: &SumConfig) -> Result<()> {
        config.check_tag(&self.tag)?;
        config.check_words(self.words.len())?;
        let survivors = self.sites();
        config.check_list(&survivors)?;
        config.check_list(&self.sharers)?;
        config.check_threshold(&survivors, &self.sharers, "a blind sum has vectors")?;
        if let Some(site) = survivors.iter().find(|site| !self.sharers.contains(site)) {
            return Err(Error::new(
                ErrorKind::Inconsistent,
                format!("the blind sum counts {site}, which had shared no keys"),
            ));
        }
        let statement = consent_statement(config, &self.adverts, &self.blind_tag, &self.sharers, &survivors);
        for (site, signature) in &self.signatures {
            config.verify(*site, &statement, signature, "the list of survivors")?;
        }
        Ok(())
    }

    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        let fixed = 52 + self.sharers.len() * 2 + self.signatures.len() * 66;
        let mut out = Writer::new(Kind::BlindSum, &self.tag, fixed + self.words.len() * 4);
        out.bytes(&self.adverts).bytes(&self.blind_tag).sites(&self.sharers).count(self.signatures.len());
        for (site, signature) in &self.signatures {
            out.site(*site).bytes(signature);
        }
        out.words(&self.words, self.short);
        out.finish()
    }

    /// Reads the message; the signatures are checked on opening.
    ///
    /// # Errors
    /// `Malformed`, `Version`, `WrongSession`, `UnknownSite`, `Length`.
    pub fn decode(bytes: &[u8], config: &SumConfig) -> Result<Self> {
        Self::decode_whole(bytes.to_vec(), config)
    }

    /// As [`BlindSum::decode`]; the bytes are freed as they are read.
    ///
    /// # Errors
    /// As [`BlindSum::decode`].
    pub fn decode_whole(bytes: Vec<u8>, config: &SumConfig) -> Result<Self> {
        let message = Self::decode_head(&bytes, config)?;
        Ok(Self { words: drain_bytes(bytes, config.words()), ..message })
    }

    /// All but the words, which must be there.
    fn decode_head(bytes: &[u8], config: &SumConfig) -> Result<Self> {
        let mut reader = Reader::new(bytes, Kind::BlindSum, config)?;
        let message = Self {
            tag: config.tag(),
            adverts: reader.array()?,
            blind_tag: reader.array()?,
            sharers: reader.sites()?,
            signatures: reader.list(|reader| reader.array())?,
            short: reader.vector()?.short,
            words: Vec::new(),
        };
        Ok(message)
    }
}

/// The key of a site's blind mask: never the same for two sums, since configuration and ephemeral keys enter.
pub(crate) fn blind_seed(key: &GroupKey, config: &SumConfig, adverts: &[u8; 32], site: SiteIndex) -> Secret {
    let context = [&config.digest()[..], adverts, &site.0.to_le_bytes()].concat();
    key.derive("sum/blind", &context)
}

/// What a site shows to prove that it will mask under the same group key; zeros without one.
pub(crate) fn blind_tag(config: &SumConfig, blind: Option<&GroupKey>) -> [u8; 16] {
    let mut tag = [0; 16];
    if let Some(key) = blind {
        let check = key.derive("sum/blind-check", b"");
        let mut mac = Hmac::<Sha256>::new_from_slice(check.expose()).expect("HMAC takes keys of any length");
        mac.update(config.digest());
        tag.copy_from_slice(&mac.finalize().into_bytes()[..16]);
    }
    tag
}

pub(crate) fn check_blind_tag(
    found: &[u8; 16],
    config: &SumConfig,
    blind: Option<&GroupKey>,
    whose: &str,
) -> Result<()> {
    if bool::from(found.ct_eq(&blind_tag(config, blind))) {
        return Ok(());
    }
    let problem = match (blind, found == &[0; 16]) {
        (None, _) => "is in blind mode, which needs the group key",
        (Some(_), true) => "is not in blind mode, which this site's plan demands",
        (Some(_), false) => "was made under another group key: exchange the current key first",
    };
    Err(Error::new(ErrorKind::GroupKey, format!("{whose} for {} {problem}", config.name())))
}

impl MaskedInput {
    pub(crate) fn check(&self, config: &SumConfig) -> Result<()> {
        config.check_tag(&self.tag)?;
        config.check_site(self.site)?;
        config.check_words(self.words.len())
    }
}
