//! Reading and writing the bytes of messages: little-endian, no padding, lengths checked exactly.

use crate::{Error, ErrorKind, Result, Secret, SiteIndex};

use super::config::LOW;
use super::{SumConfig, Words};

/// Version of every message of the secure sum.
pub(crate) const VERSION: u8 = 2;

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

/// Writes a vector into the end of `out`, last words first. What is written is freed at once, so that a vector and its message
/// are never both in memory as a whole; `change` comes before it, with the place of its first word.
pub(crate) fn drain_words(
    mut words: Vec<u32>,
    shape: Words,
    out: &mut [u8],
    mut change: impl FnMut(usize, &mut [u32]),
) {
    let start = out.len() - shape.bytes();
    while !words.is_empty() {
        let first = last_part(words.len(), shape);
        change(first, &mut words[first..]);
        let to = start + shape.bytes_before(first)..start + shape.bytes_before(words.len());
        write_part(&words[first..], first < shape.short, &mut out[to]);
        words.truncate(first);
        words.shrink_to_fit();
    }
}

/// Reads a vector from the end of `bytes`, last words first, and frees what is read.
pub(crate) fn drain_bytes(mut bytes: Vec<u8>, shape: Words) -> Vec<u32> {
    let start = bytes.len() - shape.bytes();
    let mut words = vec![0; shape.count()];
    let mut end = words.len();
    while end > 0 {
        let first = last_part(end, shape);
        let from = start + shape.bytes_before(first);
        read_part(&bytes[from..], first < shape.short, &mut words[first..end]);
        bytes.truncate(from);
        bytes.shrink_to_fit();
        end = first;
    }
    words
}

/// Where the last part of the first `end` words begins: at most [`PART`] words, all of one length.
fn last_part(end: usize, shape: Words) -> usize {
    let least = if end > shape.short { shape.short } else { 0 };
    least + (end - least - 1) / PART * PART
}

fn write_part(words: &[u32], short: bool, out: &mut [u8]) {
    if !short {
        for (bytes, word) in out.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        return;
    }
    let (fours, rest) = words.as_chunks::<4>();
    let (twelves, last) = out.as_chunks_mut::<12>();
    for (bytes, &[a, b, c, d]) in twelves.iter_mut().zip(fours) {
        // Four words of 24 bits are three of 32.
        let packed = [a & LOW | b << 24, (b & LOW) >> 8 | c << 16, (c & LOW) >> 16 | d << 8];
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(packed) {
            *bytes = word.to_le_bytes();
        }
    }
    for (bytes, word) in last.as_chunks_mut::<3>().0.iter_mut().zip(rest) {
        bytes.copy_from_slice(&word.to_le_bytes()[..3]);
    }
}

fn read_part(bytes: &[u8], short: bool, out: &mut [u32]) {
    if !short {
        for (word, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        return;
    }
    let (twelves, rest) = bytes.as_chunks::<12>();
    let (fours, last) = out.as_chunks_mut::<4>();
    for (words, bytes) in fours.iter_mut().zip(twelves) {
        let mut packed = [0; 3];
        for (word, bytes) in packed.iter_mut().zip(bytes.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        let [a, b, c] = packed;
        *words = [a & LOW, (a >> 24 | b << 8) & LOW, (b >> 16 | c << 16) & LOW, c >> 8];
    }
    for (word, &[a, b, c]) in last.iter_mut().zip(rest.as_chunks::<3>().0) {
        *word = u32::from_le_bytes([a, b, c, 0]);
    }
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

    /// A vector whose first `short` words are short.
    pub(crate) fn words(&mut self, words: &[u32], short: usize) -> &mut Self {
        let (short, long) = words.split_at(short);
        for (words, is_short) in [(short, true), (long, false)] {
            let start = self.0.len();
            self.0.resize(start + words.len() * if is_short { 3 } else { 4 }, 0);
            write_part(words, is_short, &mut self.0[start..]);
        }
        self
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

    /// The words of the vector that the rest of the message is.
    pub(crate) fn vector(&self) -> Result<Words> {
        let words = self.config.words();
        if self.rest.len() != words.bytes() {
            return Err(Error::new(
                ErrorKind::Length,
                format!(
                    "a {:?} carries a vector of {} bytes where {} has {}",
                    self.kind,
                    self.rest.len(),
                    self.config.name(),
                    words.bytes()
                ),
            ));
        }
        Ok(words)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Words as the format has them, byte by byte.
    fn plain(words: &[u32], short: usize) -> Vec<u8> {
        let bytes = |(at, word): (usize, &u32)| word.to_le_bytes()[..if at < short { 3 } else { 4 }].to_vec();
        words.iter().enumerate().flat_map(bytes).collect()
    }

    #[test]
    fn short_and_long_words_are_written_and_read_alike() {
        let lengths = (0..14).flat_map(|short| (0..3).map(move |long| (short, long))).skip(1);
        for (short, long) in lengths.chain([(PART + 5, PART + 3), (2 * PART, 0), (1, PART)]) {
            let shape = Words { short, long };
            let words: Vec<u32> =
                (0..shape.count() as u32).map(|at| at.wrapping_mul(2_654_435_761) ^ 0xA5).collect();
            let wanted = [b"head".to_vec(), plain(&words, short)].concat();
            assert_eq!(shape.bytes() + 4, wanted.len());

            let mut written = Writer(b"head".to_vec());
            assert!(written.words(&words, short).0 == wanted, "{shape:?}");

            let mut drained = vec![0; wanted.len()];
            drained[..4].copy_from_slice(b"head");
            let mut seen = Vec::new();
            drain_words(words.clone(), shape, &mut drained, |first, part| seen.push((first, part.len())));
            assert!(drained == wanted, "{shape:?}");
            seen.reverse();
            let ends = seen.iter().map(|(first, length)| first + length);
            assert!(
                seen.iter().map(|(first, _)| *first).skip(1).chain([shape.count()]).eq(ends),
                "{shape:?}"
            );

            let mut counts = words;
            shape.clear(&mut counts);
            assert!(drain_bytes(wanted, shape) == counts, "{shape:?}");
        }
    }
}
