//! Which calls the front answers itself, and what it learns from those that it passes on.

use std::io::{self, Read as _, Write as _};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prost::Message as _;
use prost::bytes::Bytes;

use super::head::{Fault, Request, Response};
use super::{BACK_IDLE, Visit};
use crate::engine::flower::exchange::{Exchange, Found, Turn};
use crate::engine::flower::http::CONTENT_TYPE;
use crate::engine::flower::wire::{
    FlowerMessage, PullMessagesRequest, PullObjectRequest, PullObjectResponse, PushMessagesRequest,
    PushMessagesResponse, PushObjectRequest, PushObjectResponse,
};

/// Bodies up to this length are read before they are passed on, and answers before anything is made of them.
const SHORT: usize = 4 << 10;
/// Between looks whether a client that waits is still there.
const LOOK: Duration = Duration::from_millis(100);

impl Visit<'_> {
    /// Answers a request of which `rest` was read, with the SuperLink's words or its own.
    pub(super) fn attend(&mut self, request: &Request, mut rest: Vec<u8>) -> Result<(), Fault> {
        let call = request.path.rsplit('/').next().unwrap_or_default();
        let proof = request.proof();
        let proven = proof.as_ref().is_some_and(|proof| self.shared.exchange.is_proven(proof));
        // What is long is taken into memory for those only who were let in before; it is not their line then that the
        // SuperLink waits for.
        let whole =
            request.body_length <= SHORT || (proven && matches!(call, "push-messages" | "push-object"));
        if whole {
            let read = rest.len();
            rest.resize(request.body_length, 0);
            self.front.read_exact(&mut rest[read..]).map_err(|_| Fault::Refused(400, "half a body"))?;
        }
        match call {
            "pull-messages" if whole => return self.pull_messages(request, &rest, proof),
            "pull-object" if whole && proven && self.pull_object(&rest)? => return Ok(()),
            _ => {}
        }
        let exchange = self.shared.exchange.clone();
        let turn = if whole { Some(self.turn(&exchange)?) } else { None };
        let mut copy = (call == "push-object" && !whole).then(Vec::new);
        self.forward(request, &rest, copy.as_mut())?;
        let (response, mut answer) = self.hear()?;
        self.hear_out(&response, &mut answer)?;
        drop(turn);
        if response.status == 200 {
            proof.into_iter().for_each(|proof| exchange.prove(proof, None));
            match call {
                "push-object" => self.keep(copy.unwrap_or(rest), &answer),
                "push-messages" => exchange.replied(taken(whole.then_some(rest), &answer)),
                _ => {}
            }
        }
        self.answer(&response, &answer)
    }

    /// Waits until the SuperLink may be called.
    fn turn<'a>(&self, exchange: &'a Exchange) -> Result<Turn<'a>, Fault> {
        let patience = self.shared.limits.body_time / 4;
        exchange.turn(patience).ok_or(Fault::Refused(503, "the SuperLink is busy; try again"))
    }

    /// Reads the rest of a short answer.
    fn hear_out(&mut self, response: &Response, rest: &mut Vec<u8>) -> Result<(), Fault> {
        let gone = |_| Fault::Refused(502, "the SuperLink went away; try again");
        let (read, Some((back, _, _))) = (rest.len(), &mut self.back) else { return Ok(()) };
        if response.body_length <= SHORT && read < response.body_length {
            rest.resize(response.body_length, 0);
            back.read_exact(&mut rest[read..]).map_err(gone)?;
        }
        Ok(())
    }

    /// The SuperLink has checked an object's hash and stored it.
    fn keep(&self, request: Vec<u8>, answer: &[u8]) {
        if PushObjectResponse::decode(answer).is_ok_and(|answer| answer.stored)
            && let Ok(request) = PushObjectRequest::decode(Bytes::from(request))
        {
            self.shared.exchange.stored(&request.object_id, request.object_content);
        }
    }

    /// Answers with an object that is here. False when it is not.
    fn pull_object(&mut self, body: &[u8]) -> Result<bool, Fault> {
        let Ok(request) = PullObjectRequest::decode(body) else { return Ok(false) };
        let exchange = &self.shared.exchange;
        exchange.wait_for_object(&request.object_id, self.shared.limits.hold);
        let [head, rest] = match exchange.read(&request.object_id) {
            Found::Here(content) => content,
            Found::Expected => {
                let found = PullObjectResponse { object_found: true, ..Default::default() };
                return self.say(&[&found.encode_to_vec()]).map(|()| true);
            }
            Found::Stored | Found::Unknown => return Ok(false),
        };
        let found = PullObjectResponse { object_found: true, object_available: true, ..Default::default() };
        let mut start = found.encode_to_vec();
        let length = head.len() + rest.len();
        prost::encoding::encode_key(3, prost::encoding::WireType::LengthDelimited, &mut start);
        prost::encoding::encode_varint(length as u64, &mut start);
        self.say(&[&start, &head, &rest])?;
        Ok(true)
    }

    /// An answer of the front's own.
    fn say(&mut self, body: &[&[u8]]) -> Result<(), Fault> {
        let length = body.iter().map(|part| part.len()).sum();
        self.front.write_all(Response::of_ours(CONTENT_TYPE, length).forwarded().as_bytes())?;
        for part in body {
            self.front.write_all(part)?;
        }
        self.front.flush()?;
        self.shared.counts.down.fetch_add(length as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Asks the SuperLink when it may have something, and otherwise lets the client wait a little for it.
    fn pull_messages(
        &mut self,
        request: &Request,
        body: &[u8],
        proof: Option<[u8; 32]>,
    ) -> Result<(), Fault> {
        let exchange = self.shared.exchange.clone();
        let until = Instant::now() + self.shared.limits.hold;
        let node = PullMessagesRequest::decode(body).ok().and_then(|request| request.node);
        let node = node.map_or(0, |node| node.node_id);
        loop {
            let rings = exchange.rings(node);
            if let Some(letter) = proof.and_then(|proof| exchange.letter(node, &proof)) {
                return self.say(&[&letter]);
            }
            if exchange.is_due(node) || !proof.is_some_and(|proof| exchange.speaks_for(node, &proof)) {
                let turn = self.turn(&exchange)?;
                self.forward(request, body, None)?;
                let (response, mut rest) = self.hear()?;
                self.hear_out(&response, &mut rest)?;
                drop(turn);
                let nothing = response.body_length == 0;
                if response.status == 200 {
                    proof.into_iter().for_each(|proof| exchange.prove(proof, Some(node)));
                    exchange.asked(node, nothing.then_some(rings));
                }
                if response.status != 200 || !nothing || proof.is_none() {
                    return self.answer(&response, &rest);
                }
                if response.closes {
                    self.back = None;
                }
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return self.say(&[]);
            }
            exchange.wait_for_ring(node, rings, left.min(LOOK));
            if !self.client_is_there()? {
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
            }
            if self.back.as_ref().is_some_and(|(_, used, _)| used.elapsed() >= BACK_IDLE) {
                self.back = None;
            }
        }
    }

    /// Whether the client still waits for its answer. What is pulled for one that has left is lost.
    fn client_is_there(&mut self) -> io::Result<bool> {
        let stream = &self.front.sock.stream;
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        Ok(peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
    }
}

/// The reply in a request that the SuperLink has taken.
fn taken(request: Option<Vec<u8>>, answer: &[u8]) -> Option<FlowerMessage> {
    let answer = PushMessagesResponse::decode(answer).ok()?;
    let request = PushMessagesRequest::decode(Bytes::from(request?)).ok()?;
    // What is not taken is answered with an empty list.
    request.messages_list.into_iter().next().filter(|_| !answer.objects_to_push.is_empty())
}
