//! The Control and Runtime API: how the coordinator runs an app on the SuperLink without any Python of its own.

use std::io::{Cursor, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use prost::Message;
use prost::bytes::Bytes;
use sha2::{Digest, Sha256};

use super::exchange::TURNS;
use super::http::{CallError, Http};
use super::node::Pulled;
use super::object::{Object, Parcel};
use super::wire::{
    AcquireTaskRequest, AcquireTaskResponse, ConfirmMessageReceivedRequest, Fab, FlowerMessage,
    HeartbeatResponse, ListNodesResponse, Node, NodeInfo, Nothing, PullAppMessagesRequest,
    PullAppMessagesResponse, PullObjectRequest, PullObjectResponse, PushAppMessagesResponse,
    PushMessagesRequest, PushObjectResponse, PushTaskOutputRequest, RegisterNodeRequest,
    RegisterNodeResponse, StartRunRequest, StartRunResponse, StopRunRequest, UnregisterNodeRequest,
};

/// The SuperLink's own number.
pub const SUPERLINK: u64 = 1;
/// Runs whose start was cut short and that are ended before one's own begins.
const LEFTOVERS: usize = 16;
const SERVER_APP: &str = "flwr-serverapp";

/// The app that a run needs to have. Its modules do not exist: with process isolation nobody runs them.
const PYPROJECT: &str = r#"[project]
name = "fedgestalt"
version = "1.0.0"
description = "A run that fedgestalt drives itself"
license = {file = "LICENSE"}
dependencies = ["flwr>=1.40"]

[tool.flwr.app]
publisher = "fedgestalt"

[tool.flwr.app.components]
serverapp = "fedgestalt.none:app"
clientapp = "fedgestalt.none:app"
"#;

fn app() -> Result<Bytes> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in [("pyproject.toml", PYPROJECT), ("LICENSE", "MIT OR Apache-2.0\n")] {
        zip.start_file(name, zip::write::SimpleFileOptions::default())?;
        zip.write_all(text.as_bytes())?;
    }
    Ok(zip.finish()?.into_inner().into())
}

/// The operator's side of a SuperLink.
pub struct Control<'a> {
    http: &'a Http,
    /// The secret that `acquire-task` is guarded with; none where the operator has set none.
    secret: Option<&'a [u8]>,
}

/// A run with its task.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its number.
    pub id: u64,
    token: String,
}

impl<'a> Control<'a> {
    /// The SuperLink behind `http`, and the secret of its executors.
    pub fn new(http: &'a Http, secret: Option<&'a [u8]>) -> Self {
        Self { http, secret }
    }

    fn call<A: Message + Default>(&self, name: &str, request: &impl Message) -> Result<A, CallError> {
        self.http.call(&format!("/v1/control/{name}"), &[], request)
    }

    /// All nodes.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn nodes(&self) -> Result<Vec<NodeInfo>, CallError> {
        Ok(self.call::<ListNodesResponse>("list-nodes", &Nothing {})?.nodes_info)
    }

    /// Registers a key under a name.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn register(&self, public_pem: &str, name: &str) -> Result<u64, CallError> {
        let public_key = Bytes::copy_from_slice(public_pem.as_bytes());
        let request = RegisterNodeRequest { public_key, name: Some(name.to_owned()) };
        Ok(self.call::<RegisterNodeResponse>("register-node", &request)?.node_id)
    }

    /// Takes a node's registration back.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn unregister(&self, node_id: u64) -> Result<(), CallError> {
        self.call::<Nothing>("unregister-node", &UnregisterNodeRequest { node_id }).map(|_| ())
    }

    /// Ends a run.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn stop(&self, run_id: u64) -> Result<(), CallError> {
        self.call::<Nothing>("stop-run", &StopRunRequest { run_id }).map(|_| ())
    }

    /// Starts a run and takes its task. `nonce` is fresh.
    ///
    /// # Errors
    ///
    /// When the SuperLink refuses, or gives the task of another run.
    pub fn start(&self, nonce: [u8; 16], now: Timestamp) -> Result<Run> {
        let content = app()?;
        let hash_str = hex::encode(Sha256::digest(&content));
        let request = StartRunRequest { fab: Some(Fab { hash_str, content }) };
        let id = self.call::<StartRunResponse>("start-run", &request)?.run_id;
        anyhow::ensure!(id != 0, "the SuperLink started no run; see its log");
        let mut nonce = nonce;
        for _ in 0..LEFTOVERS {
            let response = self.acquire(nonce, now)?;
            let task = response.task.context("the SuperLink has no task for the run it started")?;
            if task.run_id == id {
                let run = Run { id, token: response.token };
                // Moves the task from starting to running.
                RunClient { http: self.http, run: &run }.call::<Nothing>("pull-task-input", &Nothing {})?;
                return Ok(run);
            }
            // Left by a start that was cut short between run and task; the oldest comes first.
            self.stop(task.run_id)?;
            nonce = Sha256::digest(nonce)[..16].try_into()?;
        }
        anyhow::bail!("the SuperLink gives tasks of other runs than {id}; something else starts runs on it")
    }

    fn acquire(&self, nonce: [u8; 16], now: Timestamp) -> Result<AcquireTaskResponse> {
        let request = AcquireTaskRequest { supported_task_types: vec![SERVER_APP.to_owned()] };
        let body = request.encode_to_vec();
        let headers = match self.secret {
            Some(secret) => signed("/flwr.proto.Runtime/AcquireTask", secret, &body, nonce, now)?.to_vec(),
            None => Vec::new(),
        };
        Ok(self.http.call_raw("/v1/runtime/acquire-task", &headers, &body)?)
    }
}

/// HMAC headers of an executor.
fn signed(
    method: &str,
    secret: &[u8],
    body: &[u8],
    nonce: [u8; 16],
    now: Timestamp,
) -> Result<[(&'static str, String); 4]> {
    let mac = |key: &[u8], text: &[u8]| -> Result<Vec<u8>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).ok().context("no key for HMAC")?;
        mac.update(text);
        Ok(mac.finalize().into_bytes().to_vec())
    };
    let key = mac(secret, b"superexec-auth-v1")?;
    let (seconds, nonce) = (now.as_second().to_string(), hex::encode(nonce));
    let body = hex::encode(Sha256::digest(body));
    let text = format!("method={method}\nts={seconds}\nnonce={nonce}\nbody_sha256={body}");
    let signature = hex::encode(mac(&key, text.as_bytes())?);
    Ok([
        ("flwr-superexec-ts", seconds),
        ("flwr-superexec-nonce", nonce),
        ("flwr-superexec-body-sha256", body),
        ("flwr-superexec-signature", signature),
    ])
}

/// What the app of a run may do.
pub struct RunClient<'a> {
    /// The SuperLink.
    pub http: &'a Http,
    /// The run.
    pub run: &'a Run,
}

impl RunClient<'_> {
    fn call<A: Message + Default>(&self, name: &str, request: &impl Message) -> Result<A, CallError> {
        self.send(name, &request.encode_to_vec())
    }

    fn send<A: Message + Default>(&self, name: &str, body: &[u8]) -> Result<A, CallError> {
        let token = [("flwr-task-token", self.run.token.clone())];
        self.http.call_raw(&format!("/v1/runtime/{name}"), &token, body)
    }

    fn node() -> Option<Node> {
        Some(Node { node_id: SUPERLINK })
    }

    /// Keeps the run alive; due at least once a minute. False when it has ended.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn heartbeat(&self) -> Result<bool, CallError> {
        Ok(self.call::<HeartbeatResponse>("send-task-heartbeat", &Nothing {})?.success)
    }

    /// Announces instructions and uploads the objects that the SuperLink does not have; `stored` is told of each. True for each
    /// that was taken.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn push(
        &self,
        parcels: &[Parcel],
        stored: &(dyn Fn(&Object) + Sync),
    ) -> Result<Vec<bool>, CallError> {
        let request = PushMessagesRequest {
            node: None,
            messages_list: parcels.iter().map(|parcel| parcel.message.clone()).collect(),
            message_object_trees: parcels.iter().map(|parcel| parcel.tree.clone()).collect(),
        };
        let response: PushAppMessagesResponse = self.call("push-messages", &request)?;
        let mut wanted = response.objects_to_push;
        let mut lacking = Vec::new();
        for parcel in parcels {
            lacking.extend(parcel.lacking(&wanted));
            wanted.retain(|id| parcel.objects.iter().all(|object| object.id != *id));
        }
        self.upload(&lacking, &response.session_id, stored)?;
        let mut taken: Vec<bool> = response.message_ids.iter().map(|id| !id.is_empty()).collect();
        taken.resize(parcels.len(), false);
        Ok(taken)
    }

    /// Uploads objects in order, a few at a time: the SuperLink stores one while it reads another.
    fn upload(
        &self,
        objects: &[&Object],
        session: &str,
        stored: &(dyn Fn(&Object) + Sync),
    ) -> Result<(), CallError> {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(object) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
                let body = object.upload(SUPERLINK, self.run.id, session);
                self.send::<PushObjectResponse>("push-object", &body)?;
                stored(object);
            }
            Ok(())
        };
        thread::scope(|scope| {
            let others: Vec<_> = (1..TURNS.min(objects.len())).map(|_| scope.spawn(work)).collect();
            let own = work();
            let failed =
                || CallError::Malformed { path: "push-object".to_owned(), reason: "a panic".to_owned() };
            others.into_iter().try_for_each(|other| other.join().map_err(|_| failed())?)?;
            own
        })
    }

    /// The replies that are there.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn pull(&self, message_ids: Vec<String>) -> Result<Vec<FlowerMessage>, CallError> {
        let request = PullAppMessagesRequest { message_ids };
        Ok(self.call::<PullAppMessagesResponse>("pull-messages", &request)?.messages_list)
    }

    /// An object of a reply.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn pull_object(&self, object_id: &str) -> Result<Pulled, CallError> {
        let object_id = object_id.to_owned();
        let request = PullObjectRequest { node: Self::node(), run_id: self.run.id, object_id };
        Ok(self.call::<PullObjectResponse>("pull-object", &request)?.into())
    }

    /// Says that a reply is here, whole.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn confirm(&self, message: &str) -> Result<(), CallError> {
        let request = ConfirmMessageReceivedRequest {
            node: Self::node(),
            run_id: self.run.id,
            message_object_id: message.to_owned(),
        };
        self.call::<Nothing>("confirm-message-received", &request).map(|_| ())
    }

    /// The work is done.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn finish(&self) -> Result<(), CallError> {
        let request = PushTaskOutputRequest { sub_status: "completed".to_owned(), details: String::new() };
        self.call::<Nothing>("push-task-output", &request).map(|_| ())
    }
}
