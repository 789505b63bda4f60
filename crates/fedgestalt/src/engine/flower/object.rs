//! Flower's content-addressed objects.
//!
//! A message is a tree of objects: `Message -> ArrayRecord -> Array -> ArrayChunk`; a short one is its `Message` alone, which
//! holds the header. (Flower's own apps put a `RecordDict` and a `ConfigRecord` between; to the SuperLink it is all one, and
//! each object costs it four calls.) An object is the bytes `"<Type> <child ids, comma separated> <body length>\0<body>"`, its
//! id the SHA-256 of them in hexadecimal. The SuperLink keeps each object once, however many messages refer to it: what goes
//! to every site is uploaded once.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use prost::Message as _;
use prost::bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::wire::{ConfigRecord, FlowerMessage, ObjectTree, RecordDict, RecordItem};

/// Bytes of an array in one object, as Flower itself cuts them.
pub const CHUNK: usize = 5 << 20;
/// What an object adds to its body, at most: the head of an array with as many chunks as [`MAX_BYTES`] needs.
const MAX_HEAD: usize = 64 << 10;
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
}

/// An object that came in, its hash checked.
pub struct Opened {
    kind: String,
    children: Vec<String>,
    body: Bytes,
}

impl Opened {
    /// Takes an object apart.
    ///
    /// # Errors
    ///
    /// When the content is not what the id names, or no object.
    pub fn open(id: &str, content: Bytes) -> Result<Self> {
        ensure!(hex::encode(Sha256::digest(&content)) == id, "an object's content does not have its hash");
        let end = content.iter().take(MAX_HEAD).position(|&byte| byte == 0);
        let end = end.context("an object without a head")?;
        let head = std::str::from_utf8(&content[..end]).context("an object's head is no text")?;
        let parts: Vec<&str> = head.split(' ').collect();
        let [kind, children, length] = parts[..] else { bail!("an object's head has not three parts") };
        let body = content.slice(end + 1..);
        ensure!(length.parse() == Ok(body.len()), "an object is not as long as its head says");
        let children = children.split(',').filter(|child| !child.is_empty()).map(str::to_owned).collect();
        Ok(Self { kind: kind.to_owned(), children, body })
    }

    fn expect(&self, kind: &str) -> Result<()> {
        ensure!(self.kind == kind, "a {} where a {kind} is due", self.kind);
        Ok(())
    }

    fn names(&self, kind: &str) -> Result<BTreeMap<String, String>> {
        self.expect(kind)?;
        serde_json::from_slice(&self.body).with_context(|| format!("a {kind} without names"))
    }
}

/// The body of an Array's object.
#[derive(Serialize, Deserialize)]
struct ArrayBody {
    dtype: String,
    shape: Vec<usize>,
    stype: String,
    arraychunk_ids: Vec<usize>,
}

/// A message with its objects, ready to be sent.
pub struct Parcel {
    /// What is announced.
    pub message: FlowerMessage,
    /// Which object refers to which.
    pub tree: ObjectTree,
    /// The objects by id.
    pub objects: BTreeMap<String, Object>,
}

impl Parcel {
    /// Those of its objects that are lacking, in the order in which they will be read.
    pub fn lacking<'a>(&'a self, wanted: &[String]) -> Vec<&'a Object> {
        let mut left: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
        let mut lacking = Vec::new();
        let mut due = vec![&self.tree];
        while let Some(tree) = due.pop() {
            if left.remove(tree.object_id.as_str()) {
                lacking.extend(self.objects.get(&tree.object_id));
            }
            due.extend(tree.children.iter().rev());
        }
        lacking
    }
}

struct Packer(BTreeMap<String, Object>);

impl Packer {
    fn put(&mut self, kind: &str, children: Vec<ObjectTree>, body: Bytes) -> ObjectTree {
        let ids: Vec<String> = children.iter().map(|child| child.object_id.clone()).collect();
        let object = Object::new(kind, &ids, body);
        let tree = ObjectTree { object_id: object.id.clone(), children };
        self.0.insert(object.id.clone(), object);
        tree
    }

    fn array(&mut self, bytes: &Bytes) -> Result<ObjectTree> {
        let mut children: Vec<ObjectTree> = Vec::new();
        let mut order = Vec::new();
        for start in (0..bytes.len()).step_by(CHUNK) {
            let chunk = bytes.slice(start..(start + CHUNK).min(bytes.len()));
            let tree = self.put("ArrayChunk", Vec::new(), chunk);
            // Equal chunks are one object, and an object has each child once.
            order.push(children.iter().position(|child| *child == tree).unwrap_or_else(|| {
                children.push(tree);
                children.len() - 1
            }));
        }
        let body = ArrayBody {
            dtype: "uint8".to_owned(),
            shape: vec![bytes.len()],
            stype: "fedgestalt.bytes".to_owned(),
            arraychunk_ids: order,
        };
        Ok(self.put("Array", children, serde_json::to_vec(&body)?.into()))
    }

    fn named(&mut self, kind: &str, children: Vec<(String, ObjectTree)>) -> Result<ObjectTree> {
        let names: BTreeMap<&str, &str> =
            children.iter().map(|(name, tree)| (name.as_str(), tree.object_id.as_str())).collect();
        let body = serde_json::to_vec(&names)?.into();
        let mut unique: Vec<ObjectTree> = Vec::new();
        for (_, tree) in children {
            if !unique.contains(&tree) {
                unique.push(tree);
            }
        }
        Ok(self.put(kind, unique, body))
    }
}

/// The name of the record that says what a message of ours is.
const HEADER: &str = "fedgestalt";

/// Packs a message: a header, and byte strings that travel as arrays. `message` has its metadata without an id.
///
/// # Errors
///
/// When it cannot be encoded.
pub fn pack(mut message: FlowerMessage, header: &ConfigRecord, arrays: &[Bytes]) -> Result<Parcel> {
    let mut packer = Packer(BTreeMap::new());
    let mut records = Vec::new();
    if !arrays.is_empty() {
        let mut children = Vec::new();
        for (at, bytes) in arrays.iter().enumerate() {
            children.push((format!("{at:04}"), packer.array(bytes)?));
        }
        records.push(packer.named("ArrayRecord", children)?);
    }
    // The message's own object has no id; what is announced has one, and an empty content.
    let header = RecordItem { key: HEADER.to_owned(), config_record: Some(header.clone()) };
    message.content = Some(RecordDict { items: vec![header] });
    let tree = packer.put("Message", records, message.encode_to_vec().into());
    message.content = Some(RecordDict::default());
    Ok(announced(message, tree, packer.0))
}

/// Packs an error in answer to a message.
pub fn pack_error(message: FlowerMessage) -> Parcel {
    let mut packer = Packer(BTreeMap::new());
    let tree = packer.put("Message", Vec::new(), message.encode_to_vec().into());
    announced(message, tree, packer.0)
}

fn announced(mut message: FlowerMessage, tree: ObjectTree, objects: BTreeMap<String, Object>) -> Parcel {
    if let Some(metadata) = &mut message.metadata {
        metadata.message_id.clone_from(&tree.object_id);
    }
    Parcel { message, tree, objects }
}

/// A message being taken in, object by object.
pub struct Assembly {
    /// What is due next, last first: an object and what it should be.
    due: Vec<(String, Due)>,
    header: Option<ConfigRecord>,
    arrays: Vec<Vec<u8>>,
    budget: usize,
}

#[derive(Clone, Copy)]
enum Due {
    Message,
    Arrays,
    Array,
    Chunk,
}

impl Assembly {
    /// Begins with a message's tree. At most `budget` bytes of arrays are taken.
    pub fn new(tree: &ObjectTree, budget: usize) -> Self {
        let due = vec![(tree.object_id.clone(), Due::Message)];
        Self { due, header: None, arrays: Vec::new(), budget }
    }

    /// The object that is needed next; none when all are there.
    pub fn wants(&self) -> Option<&str> {
        self.due.last().map(|(id, _)| id.as_str())
    }

    /// Takes the object that was asked for.
    ///
    /// # Errors
    ///
    /// When it is not what it should be; the message is then none of ours, or damaged.
    pub fn take(&mut self, content: Bytes) -> Result<()> {
        let (id, due) = self.due.pop().context("no object is due")?;
        let object = Opened::open(&id, content)?;
        match due {
            Due::Message => {
                object.expect("Message")?;
                let message = FlowerMessage::decode(object.body).context("a Message that is none")?;
                let mut records = message.content.unwrap_or_default().items;
                let header = match records.pop() {
                    Some(RecordItem { key, config_record: Some(header) }) if key == HEADER => header,
                    _ => bail!("no record {HEADER:?}"),
                };
                ensure!(records.is_empty(), "{} records besides {HEADER:?}", records.len());
                self.header = Some(header);
                match &object.children[..] {
                    [] => {}
                    [arrays] => self.due.push((arrays.clone(), Due::Arrays)),
                    more => bail!("a message with {} contents", more.len()),
                }
            }
            Due::Arrays => {
                let names = object.names("ArrayRecord")?;
                self.due.extend(names.into_values().rev().map(|id| (id, Due::Array)));
            }
            Due::Array => {
                object.expect("Array")?;
                let body: ArrayBody =
                    serde_json::from_slice(&object.body).context("an Array without a description")?;
                let [length] = body.shape[..] else { bail!("an Array that is no string of bytes") };
                ensure!(length <= self.budget, "{length} bytes where at most {} are allowed", self.budget);
                self.budget -= length;
                let mut chunks = Vec::new();
                for at in body.arraychunk_ids.iter().rev() {
                    let id = object.children.get(*at).context("an Array that names a chunk it has not")?;
                    chunks.push((id.clone(), Due::Chunk));
                }
                ensure!(
                    chunks.len() <= length.div_ceil(CHUNK / 8) + 1,
                    "an Array of {} chunks",
                    chunks.len()
                );
                self.due.extend(chunks);
                self.arrays.push(Vec::with_capacity(length));
            }
            Due::Chunk => {
                object.expect("ArrayChunk")?;
                let array = self.arrays.last_mut().context("a chunk without an array")?;
                ensure!(array.len() + object.body.len() <= array.capacity(), "an Array longer than it says");
                array.extend_from_slice(&object.body);
            }
        }
        Ok(())
    }

    /// The header and the arrays.
    ///
    /// # Errors
    ///
    /// When objects are missing.
    pub fn finish(self) -> Result<(ConfigRecord, Vec<Bytes>)> {
        ensure!(self.due.is_empty(), "{} objects are missing", self.due.len());
        let header = self.header.context("a message without a header")?;
        Ok((header, self.arrays.into_iter().map(Bytes::from).collect()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::engine::flower::wire::{ConfigItem, ConfigValue, FlowerError, Metadata, Value};

    fn header() -> ConfigRecord {
        let value = Some(ConfigValue { value: Some(Value::Text("fedgestalt/2".to_owned())) });
        ConfigRecord { items: vec![ConfigItem { key: "protocol".to_owned(), value }] }
    }

    fn message() -> FlowerMessage {
        let metadata = Metadata { run_id: 7, dst_node_id: 9, ttl: 60.0, ..Metadata::default() };
        FlowerMessage { metadata: Some(metadata), content: None, error: None }
    }

    fn assemble(parcel: &Parcel, budget: usize) -> Result<(ConfigRecord, Vec<Bytes>)> {
        let mut assembly = Assembly::new(&parcel.tree, budget);
        while let Some(id) = assembly.wants() {
            let content = parcel.objects[id].content();
            assembly.take(content)?;
        }
        assembly.finish()
    }

    #[test]
    fn what_is_packed_comes_out_again() {
        let long: Bytes = (0..2 * CHUNK + 17).map(|i| (i / 1000) as u8).collect();
        let zeros = Bytes::from(vec![0; 2 * CHUNK]);
        for arrays in [vec![], vec![Bytes::new()], vec![zeros, long.clone()], vec![long.clone(), long]] {
            let parcel = pack(message(), &header(), &arrays).unwrap();
            let (head, out) = assemble(&parcel, MAX_BYTES).unwrap();
            assert_eq!((head, out), (header(), arrays));
            assert_eq!(parcel.message.metadata.as_ref().unwrap().message_id, parcel.tree.object_id);
            assert_eq!(parcel.message.content, Some(RecordDict::default()));
            let all: Vec<String> = parcel.objects.keys().cloned().collect();
            let order = parcel.lacking(&all);
            assert_eq!((order.len(), &order[0].id), (all.len(), &parcel.tree.object_id));
        }
    }

    #[test]
    fn ids_are_those_that_flower_computes() {
        // hashlib.sha256(b"ArrayChunk  3\0abc").hexdigest()
        let object = Object::new("ArrayChunk", &[], Bytes::from_static(b"abc"));
        assert_eq!(&object.content()[..], b"ArrayChunk  3\0abc");
        assert_eq!(object.id, hex::encode(Sha256::digest(b"ArrayChunk  3\0abc")));
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let parcel = pack(message(), &header(), &[Bytes::from_static(b"abc")]).unwrap();
        let error = format!("{:#}", assemble(&parcel, 2).unwrap_err());
        assert!(error.contains("3 bytes where at most 2"), "{error}");
        let mut packer = Packer(BTreeMap::new());
        let records = packer.named("RecordDict", vec![]).unwrap();
        let tree = packer.put("Message", vec![records], Bytes::new());
        let foreign = Parcel { message: message(), tree, objects: packer.0 };
        let error = format!("{:#}", assemble(&foreign, 9).unwrap_err());
        assert!(error.contains("no record \"fedgestalt\""), "{error}");
        let refusal = FlowerError { code: 1, reason: "no".to_owned() };
        let error = pack_error(FlowerMessage { error: Some(refusal), ..message() });
        assert!(assemble(&error, 9).is_err());
        let id = parcel.objects.keys().next().unwrap();
        assert!(Opened::open(id, Bytes::from_static(b"something else")).is_err());
    }
}
