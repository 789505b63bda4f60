//! Our messages as one Flower message carries them.
//!
//! A letter is a header (a ConfigRecord) and the federation's encoded messages, byte for byte as on the local engine:
//! together up to [`INLINE`] bytes in the header, beyond that as arrays, one for each.

use anyhow::{Context as _, Result, ensure};
use prost::bytes::Bytes;

use super::wire::{BytesList, ConfigItem, ConfigRecord, ConfigValue, StringList, UintList, Value};

/// What a letter says it is.
const PROTOCOL: &str = "fedgestalt/4";
/// Messages up to this many bytes in all travel in the header, without objects of their own.
pub const INLINE: usize = 256 << 10;
/// The most messages in one letter.
pub const MAX_MESSAGES: usize = 256;

/// A message in a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enclosed {
    /// What it is, for logs; the signed envelope inside says what counts.
    pub kind: String,
    /// The message.
    pub bytes: Bytes,
}

/// What one side tells the other in one Flower message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Letter {
    /// Names the sender's process: its numbers count from 1 anew in each.
    pub from: u64,
    /// The receiver's process as the sender knows it; 0 before it does.
    pub to: u64,
    /// The ticket: every instruction is one, and is answered once.
    pub ticket: u64,
    /// The highest number of the receiver's messages that the sender has dealt with.
    pub ack: u64,
    /// Number of the first message enclosed.
    pub first: u64,
    /// Tickets that will not be answered (from the coordinator), or were never seen (from a site).
    pub lost: Vec<u64>,
    /// From the coordinator: messages were dropped, say where you stand.
    pub hello: bool,
    /// The messages.
    pub messages: Vec<Enclosed>,
}

impl Letter {
    /// As a header and arrays.
    pub fn write(&self) -> (ConfigRecord, Vec<Bytes>) {
        let total: usize = self.messages.iter().map(|message| message.bytes.len()).sum();
        let kinds = self.messages.iter().map(|message| message.kind.clone()).collect();
        let bytes: Vec<Bytes> = self.messages.iter().map(|message| message.bytes.clone()).collect();
        let (inline, arrays) = if total <= INLINE { (bytes, Vec::new()) } else { (Vec::new(), bytes) };
        let values = [
            ("protocol", Value::Text(PROTOCOL.to_owned())),
            ("from", Value::Number(self.from)),
            ("to", Value::Number(self.to)),
            ("ticket", Value::Number(self.ticket)),
            ("ack", Value::Number(self.ack)),
            ("first", Value::Number(self.first)),
            ("lost", Value::Numbers(UintList { vals: self.lost.clone() })),
            ("hello", Value::Bool(self.hello)),
            ("kinds", Value::Texts(StringList { vals: kinds })),
            ("inline", Value::BytesList(BytesList { vals: inline })),
        ];
        let item = |(key, value): (&str, Value)| ConfigItem {
            key: key.to_owned(),
            value: Some(ConfigValue { value: Some(value) }),
        };
        (ConfigRecord { items: values.into_iter().map(item).collect() }, arrays)
    }

    /// From a header and arrays.
    ///
    /// # Errors
    ///
    /// When it is no letter of ours.
    pub fn read(header: ConfigRecord, arrays: Vec<Bytes>) -> Result<Self> {
        let mut letter = Self::default();
        let (mut protocol, mut kinds, mut inline) = (String::new(), Vec::new(), Vec::new());
        for item in header.items {
            let value = item.value.and_then(|value| value.value);
            match (item.key.as_str(), value) {
                ("protocol", Some(Value::Text(text))) => protocol = text,
                ("from", Some(Value::Number(number))) => letter.from = number,
                ("to", Some(Value::Number(number))) => letter.to = number,
                ("ticket", Some(Value::Number(number))) => letter.ticket = number,
                ("ack", Some(Value::Number(number))) => letter.ack = number,
                ("first", Some(Value::Number(number))) => letter.first = number,
                ("lost", Some(Value::Numbers(list))) => letter.lost = list.vals,
                ("hello", Some(Value::Bool(hello))) => letter.hello = hello,
                ("kinds", Some(Value::Texts(list))) => kinds = list.vals,
                ("inline", Some(Value::BytesList(list))) => inline = list.vals,
                (key, _) => anyhow::bail!("a header with {:?}", key.chars().take(40).collect::<String>()),
            }
        }
        ensure!(!protocol.is_empty(), "a header without a protocol");
        let said: String = protocol.chars().take(40).collect();
        ensure!(protocol == PROTOCOL, "protocol {said:?}; this program speaks {PROTOCOL}");
        ensure!(letter.from != 0 && letter.ticket != 0, "a header without sender or ticket");
        ensure!(inline.is_empty() || arrays.is_empty(), "messages in two places");
        let bytes = if arrays.is_empty() { inline } else { arrays };
        ensure!(kinds.len() == bytes.len(), "{} messages and {} kinds", bytes.len(), kinds.len());
        ensure!(bytes.len() <= MAX_MESSAGES, "{} messages in one letter", bytes.len());
        ensure!(bytes.is_empty() || letter.first != 0, "messages without numbers");
        letter.messages =
            kinds.into_iter().zip(bytes).map(|(kind, bytes)| Enclosed { kind, bytes }).collect();
        letter.first.checked_add(letter.messages.len() as u64).context("numbers without end")?;
        Ok(letter)
    }

    /// Bytes of the messages.
    pub fn len(&self) -> u64 {
        self.messages.iter().map(|message| message.bytes.len() as u64).sum()
    }

    /// Whether it has no messages.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn letters_read_as_they_were_written() {
        let enclosed = |n: usize| Enclosed { kind: "Input".to_owned(), bytes: vec![n as u8; n].into() };
        for messages in [vec![], vec![enclosed(3), enclosed(0)], vec![enclosed(INLINE), enclosed(1)]] {
            let letter =
                Letter { from: 1, ticket: 2, first: 3, lost: vec![4, 5], messages, ..Letter::default() };
            let (header, arrays) = letter.write();
            assert_eq!(arrays.is_empty(), letter.len() <= INLINE as u64);
            assert_eq!(Letter::read(header, arrays).unwrap(), letter);
        }
    }

    #[test]
    fn other_headers_are_refused() {
        let letter = Letter { from: 1, ticket: 2, ..Letter::default() };
        let good = letter.write().0;
        let change = |key: &str, value: Option<Value>| {
            let mut header = good.clone();
            match value {
                Some(value) => {
                    let item = header.items.iter_mut().find(|item| item.key == key).unwrap();
                    item.value = Some(ConfigValue { value: Some(value) });
                }
                None => header.items.retain(|item| item.key != key),
            }
            format!("{:#}", Letter::read(header, Vec::new()).unwrap_err())
        };
        assert!(change("protocol", Some(Value::Text("fedgestalt/9".to_owned()))).contains("fedgestalt/9"));
        assert!(change("protocol", None).contains("without a protocol"));
        assert!(change("from", Some(Value::Text("me".to_owned()))).contains("\"from\""));
        assert!(change("ticket", None).contains("ticket"));
        let one = StringList { vals: vec!["Input".to_owned()] };
        assert!(change("kinds", Some(Value::Texts(one))).contains("0 messages and 1 kinds"));
    }
}
