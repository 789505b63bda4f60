//! The messages of the secure sum and their bytes.
//!
//! Every message begins with version (u8), kind (u8) and the first 16 bytes of the configuration's
//! digest; then its fields in the order given here. Sites are u16, lists a u16 count and then
//! ascending elements, all little-endian. `decode` refuses everything that `encode` cannot have made.

use sha2::{Digest, Sha256};

use crate::key::domain;
use crate::{Result, Secret, SiteIndex};

use super::wire::{Kind, Reader, Writer, drain_bytes};
use super::{SumConfig, Words};

/// Length of a sealed share: 32 bytes and the AEAD tag.
pub(crate) const BOX: usize = 48;

/// Round 0: a site's ephemeral public keys, signed with its long-term key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    pub(crate) tag: [u8; 16],
    pub(crate) site: SiteIndex,
    /// X25519 key under which shares are sealed to this site (c^PK in the paper).
    pub(crate) box_key: [u8; 32],
    /// X25519 key from which pairwise masks are agreed (s^PK).
    pub(crate) mask_key: [u8; 32],
    /// Proof of holding the group key, 0 when not blind.
    pub(crate) blind_tag: [u8; 16],
    pub(crate) signature: [u8; 64],
}

impl Advert {
    /// Who advertises.
    pub fn site(&self) -> SiteIndex {
        self.site
    }

    pub(crate) fn statement(&self, config: &SumConfig) -> Vec<u8> {
        let mut out = domain("sum/advert");
        out.extend_from_slice(config.digest());
        out.extend_from_slice(&self.site.0.to_le_bytes());
        out.extend_from_slice(&self.box_key);
        out.extend_from_slice(&self.mask_key);
        out.extend_from_slice(&self.blind_tag);
        out
    }

    pub(crate) fn verify(&self, config: &SumConfig) -> Result<()> {
        config.check_tag(&self.tag)?;
        config.verify(self.site, &self.statement(config), &self.signature, "its keys")
    }

    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(Kind::Advert, &self.tag, 146);
        out.site(self.site)
            .bytes(&self.box_key)
            .bytes(&self.mask_key)
            .bytes(&self.blind_tag)
            .bytes(&self.signature);
        out.finish()
    }

    /// Reads the message; signatures are checked by who accepts it.
    ///
    /// # Errors
    /// `Malformed`, `Version`, `WrongSession`, `UnknownSite`.
    pub fn decode(bytes: &[u8], config: &SumConfig) -> Result<Self> {
        let mut reader = Reader::new(bytes, Kind::Advert, config)?;
        let message = Self {
            tag: config.tag(),
            site: reader.site()?,
            box_key: reader.array()?,
            mask_key: reader.array()?,
            blind_tag: reader.array()?,
            signature: reader.array()?,
        };
        reader.end()?;
        Ok(message)
    }
}

/// Digest of all adverts of a sum: parties with the same digest have seen the same keys.
pub(crate) fn adverts_digest(config: &SumConfig, adverts: &[Advert]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(domain("sum/adverts"));
    hash.update(config.digest());
    hash.update((adverts.len() as u32).to_le_bytes());
    for advert in adverts {
        hash.update(advert.site.0.to_le_bytes());
        hash.update(advert.box_key);
        hash.update(advert.mask_key);
        hash.update(advert.blind_tag);
    }
    hash.finalize().into()
}

/// What a share was promised to be, so that a wrong one is noticed and its sender named.
pub(crate) fn commitment(adverts: &[u8; 32], from: SiteIndex, share: &Secret) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(domain("sum/share"));
    hash.update(adverts);
    hash.update(from.0.to_le_bytes());
    hash.update(share.expose());
    hash.finalize().into()
}

/// One share on its way: its commitment, and its box. A site keeps its own share, so there the box is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SealedShare {
    pub(crate) commitment: [u8; 32],
    pub(crate) sealed: [u8; BOX],
}

impl SealedShare {
    fn write(&self, out: &mut Writer) {
        out.bytes(&self.commitment).bytes(&self.sealed);
    }

    fn read(reader: &mut Reader) -> Result<Self> {
        Ok(Self { commitment: reader.array()?, sealed: reader.array()? })
    }
}

/// Round 1: shares of a site's self-mask seed, one box for each other site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedShares {
    pub(crate) tag: [u8; 16],
    pub(crate) site: SiteIndex,
    /// Commitment to the share that the site keeps itself.
    pub(crate) own: [u8; 32],
    pub(crate) boxes: Vec<(SiteIndex, SealedShare)>,
}

impl SealedShares {
    /// Whose secret is shared.
    pub fn site(&self) -> SiteIndex {
        self.site
    }

    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(Kind::SealedShares, &self.tag, 36 + self.boxes.len() * 82);
        out.site(self.site).bytes(&self.own);
        write_boxes(&mut out, &self.boxes);
        out.finish()
    }

    /// Reads the message.
    ///
    /// # Errors
    /// `Malformed`, `Version`, `WrongSession`, `UnknownSite`.
    pub fn decode(bytes: &[u8], config: &SumConfig) -> Result<Self> {
        let mut reader = Reader::new(bytes, Kind::SealedShares, config)?;
        let message = Self {
            tag: config.tag(),
            site: reader.site()?,
            own: reader.array()?,
            boxes: reader.list(SealedShare::read)?,
        };
        reader.end()?;
        Ok(message)
    }
}

/// Round 1, coordinator to site: the boxes that the others sealed to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbox {
    pub(crate) tag: [u8; 16],
    pub(crate) site: SiteIndex,
    pub(crate) boxes: Vec<(SiteIndex, SealedShare)>,
}

impl Inbox {
    /// Who receives it.
    pub fn site(&self) -> SiteIndex {
        self.site
    }

    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(Kind::Inbox, &self.tag, 4 + self.boxes.len() * 82);
        out.site(self.site);
        write_boxes(&mut out, &self.boxes);
        out.finish()
    }

    /// Reads the message.
    ///
    /// # Errors
    /// `Malformed`, `Version`, `WrongSession`, `UnknownSite`.
    pub fn decode(bytes: &[u8], config: &SumConfig) -> Result<Self> {
        let mut reader = Reader::new(bytes, Kind::Inbox, config)?;
        let message =
            Self { tag: config.tag(), site: reader.site()?, boxes: reader.list(SealedShare::read)? };
        reader.end()?;
        Ok(message)
    }
}

fn write_boxes(out: &mut Writer, boxes: &[(SiteIndex, SealedShare)]) {
    out.count(boxes.len());
    for (site, share) in boxes {
        out.site(*site);
        share.write(out);
    }
}

/// Round 2: a site's vector under all its masks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskedInput {
    pub(crate) tag: [u8; 16],
    pub(crate) site: SiteIndex,
    /// How many of the words are short.
    pub(crate) short: usize,
    pub(crate) words: Vec<u32>,
}

impl MaskedInput {
    /// Whose vector it is.
    pub fn site(&self) -> SiteIndex {
        self.site
    }

    /// The masked words.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// How many bytes the message of a vector has.
    pub fn encoded_len(words: Words) -> usize {
        20 + words.bytes()
    }

    /// The bytes of the message: 20, 3 per short word and 4 per long one.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(Kind::MaskedInput, &self.tag, 2 + self.words.len() * 4);
        out.site(self.site).words(&self.words, self.short);
        out.finish()
    }

    /// Reads the message.
    ///
    /// # Errors
    /// `Malformed`, `Version`, `WrongSession`, `UnknownSite`, `Length`.
    pub fn decode(bytes: &[u8], config: &SumConfig) -> Result<Self> {
        Self::decode_whole(bytes.to_vec(), config)
    }

    /// As [`MaskedInput::decode`]; the bytes are freed as they are read.
    ///
    /// # Errors
    /// As [`MaskedInput::decode`].
    pub fn decode_whole(bytes: Vec<u8>, config: &SumConfig) -> Result<Self> {
        let mut reader = Reader::new(&bytes, Kind::MaskedInput, config)?;
        let site = reader.site()?;
        let shape = reader.vector()?;
        Ok(Self { tag: config.tag(), site, short: shape.short, words: drain_bytes(bytes, shape) })
    }
}

/// Round 3, coordinator to sites: whose vectors are to be in the sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivors {
    pub(crate) tag: [u8; 16],
    pub(crate) sites: Vec<SiteIndex>,
}

impl Survivors {
    /// The sites on the list, ascending.
    pub fn sites(&self) -> &[SiteIndex] {
        &self.sites
    }

    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(Kind::Survivors, &self.tag, 2 + self.sites.len() * 2);
        out.sites(&self.sites);
        out.finish()
    }

    /// Reads the message.
    ///
    /// # Errors
    /// `Malformed`, `Version`, `WrongSession`, `UnknownSite`.
    pub fn decode(bytes: &[u8], config: &SumConfig) -> Result<Self> {
        let mut reader = Reader::new(bytes, Kind::Survivors, config)?;
        let message = Self { tag: config.tag(), sites: reader.sites()? };
        reader.end()?;
        Ok(message)
    }
}

/// What a survivor signs: which sum, which keys, who shared, who survives.
pub(crate) fn consent_statement(
    config: &SumConfig,
    adverts: &[u8; 32],
    blind_tag: &[u8; 16],
    sharers: &[SiteIndex],
    survivors: &[SiteIndex],
) -> Vec<u8> {
    let mut out = domain("sum/consent");
    out.extend_from_slice(config.digest());
    out.extend_from_slice(adverts);
    out.extend_from_slice(blind_tag);
    for list in [sharers, survivors] {
        out.extend_from_slice(&(list.len() as u16).to_le_bytes());
        for site in list {
            out.extend_from_slice(&site.0.to_le_bytes());
        }
    }
    out
}

/// Round 3: a survivor's signature on the list, the opening of its self mask under a veil from each
/// other survivor, its own veils for theirs, and its pairwise seeds towards those who shared keys
/// but do not survive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consent {
    pub(crate) tag: [u8; 16],
    pub(crate) site: SiteIndex,
    pub(crate) signature: [u8; 64],
    pub(crate) veiled: Secret,
    pub(crate) veils: Vec<(SiteIndex, Secret)>,
    pub(crate) seeds: Vec<(SiteIndex, Secret)>,
}

impl Consent {
    /// Who consents.
    pub fn site(&self) -> SiteIndex {
        self.site
    }

    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        let secrets = self.veils.len() + self.seeds.len();
        let mut out = Writer::new(Kind::Consent, &self.tag, 102 + secrets * 34);
        out.site(self.site)
            .bytes(&self.signature)
            .bytes(self.veiled.expose())
            .secrets(&self.veils)
            .secrets(&self.seeds);
        out.finish()
    }

    /// Reads the message; the signature is checked by who accepts it.
    ///
    /// # Errors
    /// `Malformed`, `Version`, `WrongSession`, `UnknownSite`.
    pub fn decode(bytes: &[u8], config: &SumConfig) -> Result<Self> {
        let mut reader = Reader::new(bytes, Kind::Consent, config)?;
        let message = Self {
            tag: config.tag(),
            site: reader.site()?,
            signature: reader.array()?,
            veiled: Secret::from_bytes(reader.array()?),
            veils: reader.secrets()?,
            seeds: reader.secrets()?,
        };
        reader.end()?;
        Ok(message)
    }
}

/// Round 4, coordinator to sites: the signatures of all survivors on their list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consents {
    pub(crate) tag: [u8; 16],
    pub(crate) signatures: Vec<(SiteIndex, [u8; 64])>,
}

impl Consents {
    /// Who consented, ascending.
    pub fn sites(&self) -> impl Iterator<Item = SiteIndex> {
        self.signatures.iter().map(|(site, _)| *site)
    }

    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(Kind::Consents, &self.tag, 2 + self.signatures.len() * 66);
        out.count(self.signatures.len());
        for (site, signature) in &self.signatures {
            out.site(*site).bytes(signature);
        }
        out.finish()
    }

    /// Reads the message; the signatures are checked by who receives it.
    ///
    /// # Errors
    /// `Malformed`, `Version`, `WrongSession`, `UnknownSite`.
    pub fn decode(bytes: &[u8], config: &SumConfig) -> Result<Self> {
        let mut reader = Reader::new(bytes, Kind::Consents, config)?;
        let message = Self { tag: config.tag(), signatures: reader.list(|reader| reader.array())? };
        reader.end()?;
        Ok(message)
    }
}

/// Round 4: a site's shares of the survivors' self-mask seeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmasking {
    pub(crate) tag: [u8; 16],
    pub(crate) site: SiteIndex,
    pub(crate) shares: Vec<(SiteIndex, Secret)>,
}

impl Unmasking {
    /// Who unmasks.
    pub fn site(&self) -> SiteIndex {
        self.site
    }

    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(Kind::Unmasking, &self.tag, 4 + self.shares.len() * 34);
        out.site(self.site).secrets(&self.shares);
        out.finish()
    }

    /// Reads the message.
    ///
    /// # Errors
    /// `Malformed`, `Version`, `WrongSession`, `UnknownSite`.
    pub fn decode(bytes: &[u8], config: &SumConfig) -> Result<Self> {
        let mut reader = Reader::new(bytes, Kind::Unmasking, config)?;
        let message = Self { tag: config.tag(), site: reader.site()?, shares: reader.secrets()? };
        reader.end()?;
        Ok(message)
    }
}
