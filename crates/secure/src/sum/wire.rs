//! Reading and writing the bytes of messages: little-endian, no padding, lengths checked exactly.

use crate::{Error, ErrorKind, Result, Secret, SiteIndex};

use super::SumConfig;

/// Version of every message of the secure sum.
pub(crate) const VERSION: u8 = 1;

/// Second byte of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Advert = 1,
    SealedShares = 2,
    Inbox = 3,
    MaskedInput = 4,
    Survivors = 5,
    Consent = 6,
    Consents = 7,
    Unmasking = 8,
    BlindSum = 9,
}

/// Words of a long vector that are moved at a time from one form to another: 4 MiB.
const PART: usize = 1 << 20;

/// Writes words into the end of `out`, which is as long as they need, last ones first. What is written is freed at once, so
/// that a vector and its message are never both in memory as a whole; `change` comes before it, with the place of its first word.
pub(crate) fn drain_words(mut words: Vec<u32>, out: &mut [u8], mut change: impl FnMut(usize, &mut [u32])) {
    let start = out.len() - words.len() * 4;
    while !words.is_empty() {
        let first = (words.len() - 1) / PART * PART;
        change(first, &mut words[first..]);
        let to = start + first * 4..start + words.len() * 4;
        for (bytes, word) in out[to].as_chunks_mut().0.iter_mut().zip(&words[first..]) {
            *bytes = word.to_le_bytes();
        }
        words.truncate(first);
        words.shrink_to_fit();
    }
}

/// Reads words from the end of `bytes`, last ones first, and frees what is read.
pub(crate) fn drain_bytes(mut bytes: Vec<u8>, count: usize) -> Vec<u32> {
    let start = bytes.len() - count * 4;
    let mut words = vec![0; count];
    while bytes.len() > start {
        let first = ((bytes.len() - start) / 4 - 1) / PART * PART;
        let from = bytes[start + first * 4..].as_chunks().0;
        for (word, bytes) in words[first..].iter_mut().zip(from) {
            *word = u32::from_le_bytes(*bytes);
        }
        bytes.truncate(start + first * 4);
        bytes.shrink_to_fit();
    }
    words
}

pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(kind: Kind, tag: &[u8; 16], capacity: usize) -> Self {
        let mut out = Vec::with_capacity(18 + capacity);
        out.extend_from_slice(&[VERSION, kind as u8]);
        out.extend_from_slice(tag);
        Self(out)
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn site(&mut self, site: SiteIndex) -> &mut Self {
        self.bytes(&site.0.to_le_bytes())
    }

    /// A count of list elements; never more than the 255 sites of a roster.
    pub(crate) fn count(&mut self, count: usize) -> &mut Self {
        self.bytes(&(count as u16).to_le_bytes())
    }

    pub(crate) fn sites(&mut self, sites: &[SiteIndex]) -> &mut Self {
        self.count(sites.len());
        for site in sites {
            self.site(*site);
        }
        self
    }

    pub(crate) fn secrets(&mut self, secrets: &[(SiteIndex, Secret)]) -> &mut Self {
        self.count(secrets.len());
        for (site, secret) in secrets {
            self.site(*site).bytes(secret.expose());
        }
        self
    }

    pub(crate) fn words(&mut self, words: &[u32]) -> &mut Self {
        if cfg!(target_endian = "little") {
            self.bytes(bytemuck::cast_slice(words))
        } else {
            self.0.extend(words.iter().flat_map(|w| w.to_le_bytes()));
            self
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

pub(crate) struct Reader<'a> {
    config: &'a SumConfig,
    kind: Kind,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Checks version, kind and session tag.
    pub(crate) fn new(bytes: &'a [u8], kind: Kind, config: &'a SumConfig) -> Result<Self> {
        let mut reader = Self { config, kind, rest: bytes };
        let [version, found] = reader.array()?;
        if version != VERSION {
            return Err(Error::new(
                ErrorKind::Version,
                format!(
                    "a {kind:?} of version {version} where this program speaks version {VERSION}: \
                     all sites and the coordinator need matching versions"
                ),
            ));
        }
        if found != kind as u8 {
            return Err(Error::new(
                ErrorKind::Malformed,
                format!("a message of kind {found} where a {kind:?} was expected"),
            ));
        }
        config.check_tag(&reader.array()?)?;
        Ok(reader)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.rest.split_first_chunk() {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(*head)
            }
            None => Err(self.malformed("ends early")),
        }
    }

    /// A site of the roster.
    pub(crate) fn site(&mut self) -> Result<SiteIndex> {
        let site = SiteIndex(u16::from_le_bytes(self.array()?));
        self.config.check_site(site)?;
        Ok(site)
    }

    /// A list of elements keyed by site: ascending, none twice, all in the roster.
    pub(crate) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<(SiteIndex, T)>> {
        let count = usize::from(u16::from_le_bytes(self.array()?));
        if count > self.config.sites().len() {
            return Err(self.malformed("lists more sites than the roster has"));
        }
        let mut out: Vec<(SiteIndex, T)> = Vec::with_capacity(count);
        for _ in 0..count {
            let site = self.site()?;
            if out.last().is_some_and(|(last, _)| *last >= site) {
                return Err(self.malformed("lists sites out of order or twice"));
            }
            let value = item(self)?;
            out.push((site, value));
        }
        Ok(out)
    }

    pub(crate) fn secrets(&mut self) -> Result<Vec<(SiteIndex, Secret)>> {
        self.list(|reader| Ok(Secret::from_bytes(reader.array()?)))
    }

    pub(crate) fn sites(&mut self) -> Result<Vec<SiteIndex>> {
        let list = self.list(|_| Ok(()))?;
        Ok(list.into_iter().map(|(site, ())| site).collect())
    }

    /// How many words the rest of the message has, which must be those of the vector.
    pub(crate) fn count_words(&self) -> Result<usize> {
        if !self.rest.len().is_multiple_of(4) {
            return Err(self.malformed("carries a vector that is not whole words"));
        }
        self.config.check_words(self.rest.len() / 4)?;
        Ok(self.rest.len() / 4)
    }

    pub(crate) fn end(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed("goes on after its end")) }
    }

    fn malformed(&self, problem: &str) -> Error {
        Error::new(
            ErrorKind::Malformed,
            format!(
                "a {:?} for {} {problem}: it was damaged on the way or made by another program",
                self.kind,
                self.config.name()
            ),
        )
    }
}
