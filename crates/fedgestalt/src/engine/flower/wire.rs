//! The SuperLink's messages, as far as they are used here.
//!
//! Written by hand after the descriptors inside the `flwr` wheel ([`super::PINNED`]); fields that neither side needs are
//! left out, and skipped when they arrive. Names and numbers are Flower's.

use prost::bytes::Bytes;
use prost::{Message, Oneof};

/// `node.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct Node {
    /// 1 is the SuperLink itself.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
}

/// `node.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct NodeInfo {
    /// The node.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    /// `registered`, `online`, `offline` or `unregistered`.
    #[prost(string, tag = "4")]
    pub status: String,
    /// Changes whenever the node comes back.
    #[prost(string, tag = "6")]
    pub last_activated_at: String,
    /// Unix seconds until which the node counts as online.
    #[prost(double, tag = "9")]
    pub online_until: f64,
    /// PEM.
    #[prost(bytes = "bytes", tag = "11")]
    pub public_key: Bytes,
    /// What the operator calls it.
    #[prost(string, tag = "13")]
    pub name: String,
}

/// `fleet.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct ActivateNodeRequest {
    /// PEM.
    #[prost(bytes = "bytes", tag = "1")]
    pub public_key: Bytes,
    /// Seconds.
    #[prost(double, tag = "2")]
    pub heartbeat_interval: f64,
}

/// `fleet.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct ActivateNodeResponse {
    /// The node that the key belongs to.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
}

/// `fleet.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct DeactivateNodeRequest {
    /// The node.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
}

/// A response without content that is used: `DeactivateNodeResponse`, `ConfirmMessageReceivedResponse`,
/// `PushTaskOutputResponse`, `StopRunResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct Nothing {}

/// `heartbeat.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct SendNodeHeartbeatRequest {
    /// The node.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// Seconds.
    #[prost(double, tag = "2")]
    pub heartbeat_interval: f64,
}

/// `heartbeat.proto` and `runtime.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct HeartbeatResponse {
    /// Whether the sender is still known.
    #[prost(bool, tag = "1")]
    pub success: bool,
}

/// `message.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct FlowerMessage {
    /// From whom, to whom, in answer to what.
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Metadata>,
    /// What it holds; the SuperLink keeps it with the announcement.
    #[prost(message, optional, tag = "2")]
    pub content: Option<RecordDict>,
    /// Why there is no content.
    #[prost(message, optional, tag = "3")]
    pub error: Option<FlowerError>,
}

/// `error.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct FlowerError {
    /// Flower's number.
    #[prost(sint64, tag = "1")]
    pub code: i64,
    /// For a person.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// `recorddict.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct RecordDict {
    /// Its records.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<RecordItem>,
}

/// `recorddict.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct RecordItem {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The record, where it is one of settings.
    #[prost(message, optional, tag = "4")]
    pub config_record: Option<ConfigRecord>,
}

/// `message.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct Metadata {
    /// The run.
    #[prost(uint64, tag = "1")]
    pub run_id: u64,
    /// The id of the message's object.
    #[prost(string, tag = "2")]
    pub message_id: String,
    /// From.
    #[prost(uint64, tag = "3")]
    pub src_node_id: u64,
    /// To.
    #[prost(uint64, tag = "4")]
    pub dst_node_id: u64,
    /// In answer to; empty in an instruction.
    #[prost(string, tag = "5")]
    pub reply_to_message_id: String,
    /// The sender's own.
    #[prost(string, tag = "6")]
    pub group_id: String,
    /// Seconds.
    #[prost(double, tag = "7")]
    pub ttl: f64,
    /// `query` and others.
    #[prost(string, tag = "8")]
    pub message_type: String,
    /// Unix seconds.
    #[prost(double, tag = "9")]
    pub created_at: f64,
}

/// `message.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct ObjectTree {
    /// The object.
    #[prost(string, tag = "1")]
    pub object_id: String,
    /// What it refers to.
    #[prost(message, repeated, tag = "2")]
    pub children: Vec<ObjectTree>,
}

/// `fleet.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct PullMessagesRequest {
    /// The node.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
}

/// `fleet.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct PullMessagesResponse {
    /// At most one.
    #[prost(message, repeated, tag = "2")]
    pub messages_list: Vec<FlowerMessage>,
    /// One for each message.
    #[prost(message, repeated, tag = "3")]
    pub message_object_trees: Vec<ObjectTree>,
}

/// `fleet.proto`, and `runtime.proto` (which has no `node`).
#[derive(Clone, PartialEq, Message)]
pub struct PushMessagesRequest {
    /// The node; none on the Runtime API.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// The messages.
    #[prost(message, repeated, tag = "2")]
    pub messages_list: Vec<FlowerMessage>,
    /// One for each.
    #[prost(message, repeated, tag = "3")]
    pub message_object_trees: Vec<ObjectTree>,
}

/// `fleet.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct PushMessagesResponse {
    /// Objects that the SuperLink does not have.
    #[prost(string, repeated, tag = "3")]
    pub objects_to_push: Vec<String>,
    /// Goes with each of them.
    #[prost(string, tag = "4")]
    pub session_id: String,
}

/// `runtime.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct PushAppMessagesResponse {
    /// One for each message; empty where it was not taken.
    #[prost(string, repeated, tag = "1")]
    pub message_ids: Vec<String>,
    /// Objects that the SuperLink does not have.
    #[prost(string, repeated, tag = "2")]
    pub objects_to_push: Vec<String>,
    /// Goes with each of them.
    #[prost(string, tag = "3")]
    pub session_id: String,
}

/// `runtime.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct PullAppMessagesRequest {
    /// Instructions whose replies are wanted.
    #[prost(string, repeated, tag = "2")]
    pub message_ids: Vec<String>,
}

/// `runtime.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct PullAppMessagesResponse {
    /// The replies that are there.
    #[prost(message, repeated, tag = "1")]
    pub messages_list: Vec<FlowerMessage>,
}

/// `message.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct PushObjectRequest {
    /// The sender.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// The run.
    #[prost(uint64, tag = "2")]
    pub run_id: u64,
    /// SHA-256 of the content in hexadecimal.
    #[prost(string, tag = "3")]
    pub object_id: String,
    /// Head and body.
    #[prost(bytes = "bytes", tag = "4")]
    pub object_content: Bytes,
    /// From the response that asked for the object.
    #[prost(string, tag = "5")]
    pub session_id: String,
}

/// `message.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct PushObjectResponse {
    /// Whether it is there now.
    #[prost(bool, tag = "1")]
    pub stored: bool,
}

/// `message.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct PullObjectRequest {
    /// Who asks.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// The run.
    #[prost(uint64, tag = "2")]
    pub run_id: u64,
    /// The object.
    #[prost(string, tag = "3")]
    pub object_id: String,
}

/// `message.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct PullObjectResponse {
    /// Whether anybody announced it.
    #[prost(bool, tag = "1")]
    pub object_found: bool,
    /// Whether it is there yet.
    #[prost(bool, tag = "2")]
    pub object_available: bool,
    /// Head and body.
    #[prost(bytes = "bytes", tag = "3")]
    pub object_content: Bytes,
}

/// `message.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct ConfirmMessageReceivedRequest {
    /// Who confirms.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// The run.
    #[prost(uint64, tag = "2")]
    pub run_id: u64,
    /// The message's object; it and what only it refers to are removed.
    #[prost(string, tag = "3")]
    pub message_object_id: String,
}

/// `control.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct RegisterNodeRequest {
    /// PEM.
    #[prost(bytes = "bytes", tag = "1")]
    pub public_key: Bytes,
    /// What the operator calls it.
    #[prost(string, optional, tag = "3")]
    pub name: Option<String>,
}

/// `control.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct RegisterNodeResponse {
    /// The new node.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
}

/// `control.proto`: unregister a node.
#[derive(Clone, PartialEq, Message)]
pub struct UnregisterNodeRequest {
    /// The node.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
}

/// `control.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct ListNodesResponse {
    /// Every node that was not unregistered.
    #[prost(message, repeated, tag = "1")]
    pub nodes_info: Vec<NodeInfo>,
}

/// `fab.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct Fab {
    /// SHA-256 in hexadecimal.
    #[prost(string, tag = "1")]
    pub hash_str: String,
    /// A zip archive.
    #[prost(bytes = "bytes", tag = "2")]
    pub content: Bytes,
}

/// `control.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct StartRunRequest {
    /// The app.
    #[prost(message, optional, tag = "1")]
    pub fab: Option<Fab>,
}

/// `control.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct StartRunResponse {
    /// The run.
    #[prost(uint64, tag = "1")]
    pub run_id: u64,
}

/// `control.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct StopRunRequest {
    /// The run.
    #[prost(uint64, tag = "1")]
    pub run_id: u64,
}

/// `runtime.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct AcquireTaskRequest {
    /// `flwr-serverapp`.
    #[prost(string, repeated, tag = "1")]
    pub supported_task_types: Vec<String>,
}

/// `runtime.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct AcquireTaskResponse {
    /// What is to be done.
    #[prost(message, optional, tag = "1")]
    pub task: Option<Task>,
    /// Authenticates whoever does it.
    #[prost(string, tag = "2")]
    pub token: String,
}

/// `task.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct Task {
    /// The task.
    #[prost(uint64, tag = "1")]
    pub task_id: u64,
    /// Its run.
    #[prost(uint64, tag = "3")]
    pub run_id: u64,
}

/// `runtime.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct PushTaskOutputRequest {
    /// `completed`, `stopped` or `failed`.
    #[prost(string, tag = "2")]
    pub sub_status: String,
    /// For a person.
    #[prost(string, tag = "3")]
    pub details: String,
}

/// `recorddict.proto`: the body of a ConfigRecord's object.
#[derive(Clone, PartialEq, Message)]
pub struct ConfigRecord {
    /// In the order in which they were put.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<ConfigItem>,
}

/// `recorddict.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct ConfigItem {
    /// Name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<ConfigValue>,
}

/// `recorddict.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct ConfigValue {
    /// One of Flower's kinds of value; those not listed are read as none.
    #[prost(oneof = "Value", tags = "2, 3, 4, 5, 6, 23, 25, 26")]
    pub value: Option<Value>,
}

/// `recorddict.proto`.
#[derive(Clone, PartialEq, Oneof)]
pub enum Value {
    /// A signed number: what Flower's own Python makes of any integer that fits.
    #[prost(sint64, tag = "2")]
    Signed(i64),
    /// A number.
    #[prost(uint64, tag = "3")]
    Number(u64),
    /// Yes or no.
    #[prost(bool, tag = "4")]
    Bool(bool),
    /// A text.
    #[prost(string, tag = "5")]
    Text(String),
    /// Bytes.
    #[prost(bytes = "bytes", tag = "6")]
    Bytes(Bytes),
    /// Numbers.
    #[prost(message, tag = "23")]
    Numbers(UintList),
    /// Texts.
    #[prost(message, tag = "25")]
    Texts(StringList),
    /// Several byte strings.
    #[prost(message, tag = "26")]
    BytesList(BytesList),
}

/// `recorddict.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct UintList {
    /// The numbers.
    #[prost(uint64, repeated, tag = "1")]
    pub vals: Vec<u64>,
}

/// `recorddict.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct StringList {
    /// The texts.
    #[prost(string, repeated, tag = "1")]
    pub vals: Vec<String>,
}

/// `recorddict.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct BytesList {
    /// The byte strings.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub vals: Vec<Bytes>,
}
