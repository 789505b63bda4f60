//! The Fleet API: how a site is a node of the SuperLink.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use prost::bytes::Bytes;

use super::http::{CallError, Http};
use super::key::LineKey;
use super::object::Parcel;
use super::wire::{
    ActivateNodeRequest, ActivateNodeResponse, ConfirmMessageReceivedRequest, DeactivateNodeRequest,
    FlowerMessage, HeartbeatResponse, Node, Nothing, ObjectTree, PullMessagesRequest, PullMessagesResponse,
    PullObjectRequest, PullObjectResponse, PushMessagesRequest, PushMessagesResponse, PushObjectResponse,
    SendNodeHeartbeatRequest,
};

/// Seconds between heartbeats that the SuperLink is told of; a node without any for twice as long is offline.
pub const HEARTBEAT: f64 = 30.0;

/// How long a proof is used: for questions, by which a front gets to know it, and for everything else.
const PROOF: (Duration, Duration) = (Duration::from_secs(25), Duration::from_secs(50));

type Proof = [(&'static str, String); 3];
type Result<T> = std::result::Result<T, CallError>;

/// An object that was asked for.
pub enum Pulled {
    /// Here it is.
    Object(Bytes),
    /// It was announced and is not there yet.
    NotYet,
    /// Nobody has announced it, or it was given up.
    Gone,
}

impl From<PullObjectResponse> for Pulled {
    fn from(response: PullObjectResponse) -> Self {
        match (response.object_found, response.object_available) {
            (true, true) => Self::Object(response.object_content),
            (true, false) => Self::NotYet,
            _ => Self::Gone,
        }
    }
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is there, whole.
    Whole,
    /// The SuperLink does not take it: what it answers is gone.
    Unwanted,
}

/// A node that is active.
pub struct FleetNode<'a> {
    http: &'a Http,
    key: &'a LineKey,
    id: u64,
    /// The proof in use, and since when.
    proof: Mutex<Option<(Proof, Instant)>>,
}

impl<'a> FleetNode<'a> {
    /// Activates the node that the key is registered as. A node that was left active by a killed process is deactivated
    /// first, so that the coordinator sees it come back.
    ///
    /// # Errors
    ///
    /// [`CallError::is_unauthorised`] or status 404 and 409 when the key is not registered, or the node is still active and
    /// `before` is unknown.
    pub fn activate(http: &'a Http, key: &'a LineKey, before: Option<u64>) -> Result<Self> {
        if let Some(id) = before {
            let node = Self { http, key, id, proof: Mutex::default() };
            match node.call::<Nothing>("deactivate-node", &DeactivateNodeRequest { node_id: id }) {
                Ok(_) | Err(CallError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let mut node = Self { http, key, id: 0, proof: Mutex::default() };
        let public_key = Bytes::copy_from_slice(key.public_pem().as_bytes());
        let request = ActivateNodeRequest { public_key, heartbeat_interval: HEARTBEAT };
        node.id = node.call::<ActivateNodeResponse>("activate-node", &request)?.node_id;
        Ok(node)
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    fn node(&self) -> Option<Node> {
        Some(Node { node_id: self.id })
    }

    fn call<A: prost::Message + Default>(&self, name: &str, request: &impl prost::Message) -> Result<A> {
        self.send(name, &request.encode_to_vec())
    }

    fn send<A: prost::Message + Default>(&self, name: &str, body: &[u8]) -> Result<A> {
        let path = format!("/v1/fleet/{name}");
        let age = if name == "pull-messages" { PROOF.0 } else { PROOF.1 };
        let proof = self
            .proof(age)
            .map_err(|error| CallError::Malformed { path: path.clone(), reason: error.to_string() })?;
        self.http.call_raw(&path, &proof, body)
    }

    /// It signs nothing but the time, so one does for many calls.
    fn proof(&self, age: Duration) -> anyhow::Result<Proof> {
        let mut kept = self.proof.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((proof, since)) = &*kept
            && since.elapsed() < age
        {
            return Ok(proof.clone());
        }
        let proof = self.key.headers(Timestamp::now())?;
        *kept = Some((proof.clone(), Instant::now()));
        Ok(proof)
    }

    /// Says that the site is here. False when the node is not known any more.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn heartbeat(&self) -> Result<bool> {
        let request = SendNodeHeartbeatRequest { node: self.node(), heartbeat_interval: HEARTBEAT };
        Ok(self.call::<HeartbeatResponse>("send-node-heartbeat", &request)?.success)
    }

    /// Says that the site leaves.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn deactivate(&self) -> Result<()> {
        self.call::<Nothing>("deactivate-node", &DeactivateNodeRequest { node_id: self.id }).map(|_| ())
    }

    /// The next instruction, if there is one. It is given out once.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn pull_message(&self) -> Result<Option<(FlowerMessage, ObjectTree)>> {
        let response: PullMessagesResponse =
            self.call("pull-messages", &PullMessagesRequest { node: self.node() })?;
        Ok(response.messages_list.into_iter().zip(response.message_object_trees).next())
    }

    /// An object of an instruction.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn pull_object(&self, run_id: u64, object_id: &str) -> Result<Pulled> {
        let request = PullObjectRequest { node: self.node(), run_id, object_id: object_id.to_owned() };
        Ok(self.call::<PullObjectResponse>("pull-object", &request)?.into())
    }

    /// Says that an instruction is here, whole.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn confirm(&self, run_id: u64, message: &str) -> Result<()> {
        let message_object_id = message.to_owned();
        let request = ConfirmMessageReceivedRequest { node: self.node(), run_id, message_object_id };
        self.call::<Nothing>("confirm-message-received", &request).map(|_| ())
    }

    /// Announces an answer and sends its objects, one at a time.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn push(&self, run_id: u64, parcel: &Parcel) -> Result<Pushed> {
        let request = PushMessagesRequest {
            node: self.node(),
            messages_list: vec![parcel.message.clone()],
            message_object_trees: vec![parcel.tree.clone()],
        };
        let response: PushMessagesResponse = self.call("push-messages", &request)?;
        // A reply that is taken always lacks its own object, which is never sent; what is not taken is answered with an
        // empty list.
        if response.objects_to_push.is_empty() {
            return Ok(Pushed::Unwanted);
        }
        for object in parcel.lacking(&response.objects_to_push) {
            let body = object.upload(self.id, run_id, &response.session_id);
            if !self.send::<PushObjectResponse>("push-object", &body)?.stored {
                return Ok(Pushed::Unwanted);
            }
        }
        Ok(Pushed::Whole)
    }
}
