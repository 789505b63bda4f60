//! Flower's content-addressed objects.
//!
//! A short message is all in the announcement that the SuperLink stores for it. The arrays of a longer one travel as
//! objects, its `ArrayChunk`s, which the message names in order. (Flower's own apps put everything into a tree of objects,
//! `Message -> RecordDict -> ArrayRecord -> Array -> ArrayChunk`; each object is a call of the SuperLink or two, and a call
//! costs it as much as a megabyte.) An object is the bytes `"<Type> <child ids, comma separated> <body length>\0<body>"`, its
//! id the SHA-256 of them in hexadecimal. The SuperLink keeps each object once, however many messages refer to it: what goes
//! to every site is uploaded once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context as _, Result, bail, ensure};
use prost::Message as _;
use prost::bytes::Bytes;
use sha2::{Digest, Sha256};

use super::wire::{
    ConfigItem, ConfigRecord, ConfigValue, FlowerMessage, Node, ObjectTree, PushObjectRequest, RecordDict,
    RecordItem, Value,
};

/// Bytes of an array in one object, as Flower itself cuts them.
pub const CHUNK: usize = 5 << 20;
/// What an object adds to its body, at most.
const MAX_HEAD: usize = 64;
/// The longest object that is taken in.
pub const MAX_OBJECT: usize = CHUNK + MAX_HEAD;
/// The most bytes of arrays in one message.
pub const MAX_BYTES: usize = 1 << 30;

/// One object.
#[derive(Debug, Clone)]
pub struct Object {
    /// SHA-256 in hexadecimal.
    pub id: String,
    head: Bytes,
    body: Bytes,
}

impl Object {
    fn new(kind: &str, children: &[String], body: Bytes) -> Self {
        let mut head = format!("{kind} {} {}", children.join(","), body.len()).into_bytes();
        head.push(0);
        let mut hash = Sha256::new();
        hash.update(&head);
        hash.update(&body);
        Self { id: hex::encode(hash.finalize()), head: head.into(), body }
    }

    /// Head and body in one piece.
    pub fn content(&self) -> Bytes {
        [&self.head[..], &self.body[..]].concat().into()
    }

    /// Head and body.
    pub fn parts(&self) -> [Bytes; 2] {
        [self.head.clone(), self.body.clone()]
    }

    /// The encoded request that uploads it: its content is copied once.
    pub fn upload(&self, node_id: u64, run_id: u64, session_id: &str) -> Vec<u8> {
        let length = self.head.len() + self.body.len();
        let node = Some(Node { node_id });
        let start = PushObjectRequest { node, run_id, object_id: self.id.clone(), ..Default::default() };
        let end = PushObjectRequest { session_id: session_id.to_owned(), ..Default::default() };
        let mut out = Vec::with_capacity(start.encoded_len() + length + end.encoded_len() + 16);
        start.encode_raw(&mut out);
        prost::encoding::encode_key(4, prost::encoding::WireType::LengthDelimited, &mut out);
        prost::encoding::encode_varint(length as u64, &mut out);
        out.extend_from_slice(&self.head);
        out.extend_from_slice(&self.body);
        end.encode_raw(&mut out);
        out
    }
}

/// The body of a chunk that came in, its hash checked.
fn open(id: &str, content: Bytes) -> Result<Bytes> {
    ensure!(hex::encode(Sha256::digest(&content)) == id, "an object's content does not have its hash");
    body_of(content)
}

fn body_of(content: Bytes) -> Result<Bytes> {
    let end = content.iter().take(MAX_HEAD).position(|&byte| byte == 0);
    let end = end.context("an object without a head")?;
    let head = std::str::from_utf8(&content[..end]).context("an object's head is no text")?;
    let length = head.strip_prefix("ArrayChunk  ").context("an object that is no ArrayChunk")?;
    let body = content.slice(end + 1..);
    ensure!(length.parse() == Ok(body.len()), "an object is not as long as its head says");
    Ok(body)
}

/// What a message of ours holds, as one value of its content: Flower's Python changes the types of others.
#[derive(Clone, PartialEq, prost::Message)]
struct Contents {
    #[prost(message, optional, tag = "1")]
    header: Option<ConfigRecord>,
    #[prost(message, repeated, tag = "2")]
    arrays: Vec<Pieces>,
}

/// A byte string that travels as objects: every one but the last holds [`CHUNK`] bytes of it.
#[derive(Clone, PartialEq, prost::Message)]
struct Pieces {
    #[prost(uint64, tag = "1")]
    length: u64,
    #[prost(string, repeated, tag = "2")]
    chunks: Vec<String>,
}

/// A message with its objects, ready to be sent.
pub struct Parcel {
    /// What is announced.
    pub message: FlowerMessage,
    /// Which object refers to which. The root, the message itself, is never sent: all of it is in `message`.
    pub tree: ObjectTree,
    /// The objects in the order in which they will be read, each once.
    pub objects: Vec<Object>,
}

impl Parcel {
    /// Those of its objects that are lacking, in the order in which they will be read.
    pub fn lacking<'a>(&'a self, wanted: &[String]) -> impl Iterator<Item = &'a Object> {
        let wanted: BTreeSet<String> = wanted.iter().cloned().collect();
        self.objects.iter().filter(move |object| wanted.contains(&object.id))
    }
}

/// The name of the record that says what a message of ours is, and of the value in it.
const HEADER: &str = "fedgestalt";

/// Packs messages; a byte string that goes to several sites is hashed once.
#[derive(Default)]
pub struct Packer {
    /// By where their bodies are, which they hold on to.
    chunks: BTreeMap<(usize, usize), Object>,
}

impl Packer {
    fn chunk(&mut self, body: Bytes) -> Object {
        let place = (body.as_ptr() as usize, body.len());
        self.chunks.entry(place).or_insert_with(|| Object::new("ArrayChunk", &[], body)).clone()
    }

    /// Packs a message: a header, and byte strings that travel as objects. `message` has its metadata without an id.
    pub fn pack(&mut self, message: FlowerMessage, header: &ConfigRecord, arrays: &[Bytes]) -> Parcel {
        let mut objects: Vec<Object> = Vec::new();
        let mut pieces = Vec::new();
        for bytes in arrays {
            let mut chunks = Vec::new();
            for start in (0..bytes.len()).step_by(CHUNK) {
                let object = self.chunk(bytes.slice(start..(start + CHUNK).min(bytes.len())));
                chunks.push(object.id.clone());
                // Equal chunks are one object.
                if objects.iter().all(|other| other.id != object.id) {
                    objects.push(object);
                }
            }
            pieces.push(Pieces { length: bytes.len() as u64, chunks });
        }
        with_contents(message, header, pieces, objects)
    }
}

fn with_contents(
    mut message: FlowerMessage,
    header: &ConfigRecord,
    arrays: Vec<Pieces>,
    objects: Vec<Object>,
) -> Parcel {
    let contents = Contents { header: Some(header.clone()), arrays }.encode_to_vec();
    let value = Some(ConfigValue { value: Some(Value::Bytes(contents.into())) });
    let record = ConfigRecord { items: vec![ConfigItem { key: HEADER.to_owned(), value }] };
    let record = RecordItem { key: HEADER.to_owned(), config_record: Some(record) };
    message.content = Some(RecordDict { items: vec![record] });
    announced(message, objects)
}

/// Packs an error in answer to a message.
pub fn pack_error(message: FlowerMessage) -> Parcel {
    announced(message, Vec::new())
}

fn announced(mut message: FlowerMessage, objects: Vec<Object>) -> Parcel {
    // As Flower names it: by the message without an id.
    let children: Vec<String> = objects.iter().map(|object| object.id.clone()).collect();
    let object_id = Object::new("Message", &children, message.encode_to_vec().into()).id;
    if let Some(metadata) = &mut message.metadata {
        metadata.message_id.clone_from(&object_id);
    }
    let leaf = |object_id| ObjectTree { object_id, children: Vec::new() };
    let tree = ObjectTree { object_id, children: children.into_iter().map(leaf).collect() };
    Parcel { message, tree, objects }
}

/// A message being taken in, object by object.
pub struct Assembly {
    header: ConfigRecord,
    arrays: Vec<Incoming>,
}

struct Incoming {
    length: usize,
    /// Ids of the chunks that are due.
    chunks: VecDeque<String>,
    bytes: Vec<u8>,
}

impl Assembly {
    /// Begins with a message. At most `budget` bytes of arrays are taken.
    ///
    /// # Errors
    ///
    /// When it is none of ours.
    pub fn new(message: &FlowerMessage, budget: usize) -> Result<Self> {
        let mut records = message.content.iter().flat_map(|content| &content.items);
        let record = match (records.next(), records.next()) {
            (Some(RecordItem { key, config_record: Some(record) }), None) if key == HEADER => record,
            _ => bail!("no record {HEADER:?}, or others beside it"),
        };
        let [ConfigItem { value: Some(ConfigValue { value: Some(Value::Bytes(contents)) }), .. }] =
            &record.items[..]
        else {
            bail!("a record that is not one string of bytes");
        };
        let contents = Contents::decode(contents.clone()).context("a record that does not decode")?;
        let mut left = budget;
        let mut arrays = Vec::new();
        for Pieces { length, chunks } in contents.arrays {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            ensure!(length <= left, "{length} bytes where at most {left} are allowed");
            ensure!(chunks.len() == length.div_ceil(CHUNK), "{length} bytes in {} objects", chunks.len());
            left -= length;
            arrays.push(Incoming { length, chunks: chunks.into(), bytes: Vec::new() });
        }
        Ok(Self { header: contents.header.context("a message without a header")?, arrays })
    }

    /// The object that is needed next; none when all are there.
    pub fn wants(&self) -> Option<&str> {
        self.arrays.iter().find_map(|array| array.chunks.front()).map(String::as_str)
    }

    /// Takes the object that was asked for.
    ///
    /// # Errors
    ///
    /// When it is not what it should be; the message is then none of ours, or damaged.
    pub fn take(&mut self, content: Bytes) -> Result<()> {
        let body = open(self.wants().context("no object is due")?, content)?;
        self.append(body)
    }

    /// As [`Assembly::take`], where the SuperLink has compared the content with its hash when it stored it.
    ///
    /// # Errors
    ///
    /// When it is not what it should be.
    pub fn take_stored(&mut self, content: Bytes) -> Result<()> {
        self.append(body_of(content)?)
    }

    fn append(&mut self, body: Bytes) -> Result<()> {
        let due = self.arrays.iter_mut().find(|array| !array.chunks.is_empty());
        let array = due.context("no object is due")?;
        let length = CHUNK.min(array.length - array.bytes.len());
        ensure!(body.len() == length, "a chunk of {} bytes, not {length}", body.len());
        array.bytes.reserve_exact(array.length - array.bytes.len());
        array.bytes.extend_from_slice(&body);
        array.chunks.pop_front();
        Ok(())
    }

    /// The header and the arrays.
    ///
    /// # Errors
    ///
    /// When objects are missing.
    pub fn finish(self) -> Result<(ConfigRecord, Vec<Bytes>)> {
        ensure!(self.wants().is_none(), "objects are missing");
        Ok((self.header, self.arrays.into_iter().map(|array| array.bytes.into()).collect()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::engine::flower::wire::{FlowerError, Metadata};

    fn pack(message: FlowerMessage, header: &ConfigRecord, arrays: &[Bytes]) -> Parcel {
        Packer::default().pack(message, header, arrays)
    }

    fn header() -> ConfigRecord {
        let value = Some(ConfigValue { value: Some(Value::Text("fedgestalt/4".to_owned())) });
        ConfigRecord { items: vec![ConfigItem { key: "protocol".to_owned(), value }] }
    }

    fn message() -> FlowerMessage {
        let metadata = Metadata { run_id: 7, dst_node_id: 9, ttl: 60.0, ..Metadata::default() };
        FlowerMessage { metadata: Some(metadata), content: None, error: None }
    }

    fn assemble(parcel: &Parcel, budget: usize) -> Result<(ConfigRecord, Vec<Bytes>)> {
        let mut assembly = Assembly::new(&parcel.message, budget)?;
        while let Some(id) = assembly.wants() {
            let object = parcel.objects.iter().find(|object| object.id == id).unwrap();
            assembly.take(object.content())?;
        }
        assembly.finish()
    }

    fn refusal(parcel: &Parcel, budget: usize) -> String {
        format!("{:#}", assemble(parcel, budget).unwrap_err())
    }

    #[test]
    fn what_is_packed_comes_out_again() {
        let long: Bytes = (0..2 * CHUNK + 17).map(|i| (i / 1000) as u8).collect();
        let zeros = Bytes::from(vec![0; 2 * CHUNK]);
        let cases = [
            (vec![], 0),
            (vec![Bytes::new()], 0),
            (vec![zeros, Bytes::new(), long.clone()], 4),
            (vec![long.clone(), long], 3),
        ];
        for (arrays, objects) in cases {
            let parcel = pack(message(), &header(), &arrays);
            assert_eq!((parcel.objects.len(), parcel.tree.children.len()), (objects, objects));
            let (head, out) = assemble(&parcel, MAX_BYTES).unwrap();
            assert_eq!((head, out), (header(), arrays));
            assert_eq!(parcel.message.metadata.as_ref().unwrap().message_id, parcel.tree.object_id);
            // Of all that the SuperLink lacks, the message's own object is not sent.
            let mut all: Vec<String> = parcel.objects.iter().map(|object| object.id.clone()).collect();
            all.push(parcel.tree.object_id.clone());
            assert_eq!(parcel.lacking(&all).count(), objects);
            assert_eq!(parcel.lacking(&[]).count(), 0);
        }
    }

    #[test]
    fn what_goes_to_two_sites_is_the_same_objects() {
        let mut packer = Packer::default();
        let sum: Bytes = (0..CHUNK + 17).map(|i| (i / 1000) as u8).collect();
        let [first, second] = [1, 2].map(|node| {
            let metadata = Metadata { dst_node_id: node, ..Metadata::default() };
            let message = FlowerMessage { metadata: Some(metadata), content: None, error: None };
            packer.pack(message, &header(), &[Bytes::from(vec![node as u8; 3]), sum.clone()])
        });
        let ids = |parcel: &Parcel| parcel.objects.iter().map(|o| o.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&first)[1..], ids(&second)[1..]);
        assert_ne!(ids(&first)[0], ids(&second)[0]);
        // As each would be packed by itself.
        assert_eq!(ids(&second), ids(&pack(message(), &header(), &[Bytes::from(vec![2; 3]), sum])));
        assert_eq!(packer.chunks.len(), 4);
    }

    #[test]
    fn ids_are_those_that_flower_computes() {
        // hashlib.sha256(b"ArrayChunk  3\0abc").hexdigest()
        let object = Object::new("ArrayChunk", &[], Bytes::from_static(b"abc"));
        assert_eq!(&object.content()[..], b"ArrayChunk  3\0abc");
        assert_eq!(object.id, hex::encode(Sha256::digest(b"ArrayChunk  3\0abc")));
        let request = PushObjectRequest {
            node: Some(Node { node_id: 4 }),
            run_id: 7,
            object_id: object.id.clone(),
            object_content: object.content(),
            session_id: "s".to_owned(),
        };
        assert_eq!(object.upload(4, 7, "s"), request.encode_to_vec());
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let parcel = pack(message(), &header(), &[Bytes::from_static(b"abc")]);
        assert!(refusal(&parcel, 2).contains("3 bytes where at most 2"));
        // As Flower's own apps send it: what it holds is in objects.
        let mut foreign = pack(message(), &header(), &[]);
        foreign.message.content = Some(RecordDict::default());
        assert!(refusal(&foreign, 9).contains("no record \"fedgestalt\""));
        let error = FlowerError { code: 1, reason: "no".to_owned() };
        let error = pack_error(FlowerMessage { error: Some(error), ..message() });
        assert!(refusal(&error, 9).contains("no record"));
        // Two records, another kind of value, bytes that are nothing.
        let record = parcel.message.content.clone().unwrap().items.remove(0);
        let with = |items| Parcel {
            message: FlowerMessage { content: Some(RecordDict { items }), ..message() },
            tree: ObjectTree::default(),
            objects: Vec::new(),
        };
        assert!(refusal(&with(vec![record.clone(), record.clone()]), 9).contains("others beside it"));
        for value in [Value::Text("fedgestalt/4".to_owned()), Value::Bytes(Bytes::from_static(b"\x0b"))] {
            let item = ConfigItem { key: HEADER.to_owned(), value: Some(ConfigValue { value: Some(value) }) };
            let record = ConfigRecord { items: vec![item] };
            assert!(
                assemble(&with(vec![RecordItem { config_record: Some(record), ..record_of() }]), 9).is_err()
            );
        }
        assert!(open(&parcel.objects[0].id, Bytes::from_static(b"something else")).is_err());
    }

    fn record_of() -> RecordItem {
        RecordItem { key: HEADER.to_owned(), config_record: None }
    }

    #[test]
    fn an_array_is_as_long_as_it_says_and_in_as_many_objects() {
        let of = |length: usize, chunks: &[&Object]| {
            let chunks = chunks.iter().map(|object| object.id.clone()).collect();
            let pieces = Pieces { length: length as u64, chunks };
            let contents = Contents { header: Some(header()), arrays: vec![pieces] }.encode_to_vec();
            let value = Some(ConfigValue { value: Some(Value::Bytes(contents.into())) });
            let record = ConfigRecord { items: vec![ConfigItem { key: HEADER.to_owned(), value }] };
            let items = vec![RecordItem { config_record: Some(record), ..record_of() }];
            FlowerMessage { content: Some(RecordDict { items }), ..message() }
        };
        let chunk = Object::new("ArrayChunk", &[], Bytes::from_static(b"abc"));
        let take = |length| Assembly::new(&of(length, &[&chunk]), 9)?.take(chunk.content());
        take(3).unwrap();
        assert!(take(4).is_err() && take(2).is_err());
        for (length, chunks) in [(3, vec![]), (3, vec![&chunk, &chunk]), (0, vec![&chunk])] {
            assert!(Assembly::new(&of(length, &chunks), 9).is_err(), "{length} bytes in {}", chunks.len());
        }
        // Another kind of object, and one whose head lies about its length.
        for content in [&b"Array  3\0abc"[..], b"ArrayChunk  4\0abc", b"ArrayChunk a 3\0abc", b"abc"] {
            assert!(open(&hex::encode(Sha256::digest(content)), Bytes::copy_from_slice(content)).is_err());
        }
    }
}
