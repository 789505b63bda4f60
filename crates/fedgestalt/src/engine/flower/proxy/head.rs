//! Heads of requests and responses, as narrow as they can be.

use std::io;

use sha2::{Digest as _, Sha256};

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The client is told.
    #[error("{0} {1}")]
    Refused(u16, &'static str),
    /// Nobody is left to be told.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Headers that are passed on: who calls, and the proof.
const PASSED: [&str; 3] = ["flwr-public-key", "flwr-signature", "flwr-timestamp"];
/// Headers in a request or response, at most.
const HEADERS: usize = 32;

/// A request's head.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) path: String,
    pub(super) head_length: usize,
    pub(super) body_length: usize,
    /// The client will send no other.
    pub(super) closes: bool,
    passed: Vec<(&'static str, String)>,
}

impl Request {
    /// The head, once it is whole.
    pub(super) fn parse(buffer: &[u8], max_head: usize, max_body: usize) -> Result<Option<Self>, Fault> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let status = request.parse(buffer).map_err(|_| Fault::Refused(400, "not HTTP"))?;
        let head_length = match status {
            httparse::Status::Complete(length) if length <= max_head => length,
            httparse::Status::Partial if buffer.len() < max_head => return Ok(None),
            _ => return Err(Fault::Refused(431, "the head is too long")),
        };
        if request.version != Some(1) {
            return Err(Fault::Refused(505, "HTTP/1.1 only"));
        }
        if request.method != Some("POST") {
            return Err(Fault::Refused(405, "POST only"));
        }
        let mut parsed = Self {
            path: request.path.unwrap_or_default().to_owned(),
            head_length,
            body_length: 0,
            closes: false,
            passed: Vec::new(),
        };
        let mut length = None;
        for header in request.headers.iter() {
            let value =
                std::str::from_utf8(header.value).map_err(|_| Fault::Refused(400, "a header is no text"))?;
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                let number = value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse::<usize>());
                match (number, length) {
                    (Some(Ok(number)), None) => length = Some(number),
                    _ => return Err(Fault::Refused(400, "a length that is none")),
                }
            } else if is("transfer-encoding") || is("upgrade") || is("expect") {
                return Err(Fault::Refused(400, "bodies come in one piece, with their length"));
            } else if is("connection") {
                parsed.closes = value.eq_ignore_ascii_case("close");
            } else if let Some(name) = PASSED.iter().find(|name| is(name)) {
                if parsed.passed.iter().any(|(other, _)| other == name) {
                    return Err(Fault::Refused(400, "a header is given twice"));
                }
                parsed.passed.push((name, value.to_owned()));
            }
        }
        parsed.body_length = length.ok_or(Fault::Refused(411, "bodies come with their length"))?;
        if parsed.body_length > max_body {
            return Err(Fault::Refused(413, "the body is too long"));
        }
        Ok(Some(parsed))
    }

    /// What stands for who calls and the proof; none where a part of it lacks.
    pub(super) fn proof(&self) -> Option<[u8; 32]> {
        let mut hash = Sha256::new();
        for name in PASSED {
            let (_, value) = self.passed.iter().find(|(other, _)| *other == name)?;
            hash.update((value.len() as u64).to_le_bytes());
            hash.update(value);
        }
        Some(hash.finalize().into())
    }

    /// The head that the SuperLink gets.
    pub(super) fn forwarded(&self, content_type: &str) -> String {
        let mut head = format!(
            "POST {} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n",
            self.path, self.body_length
        );
        for (name, value) in &self.passed {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head
    }
}

/// A response's head.
pub(super) struct Response {
    pub(super) head_length: usize,
    pub(super) body_length: usize,
    pub(super) closes: bool,
    pub(super) status: u16,
    content_type: String,
}

impl Response {
    /// The head, once it is whole.
    pub(super) fn parse(buffer: &[u8]) -> Result<Option<Self>, Fault> {
        let strange = || Fault::Refused(502, "the SuperLink gave a strange answer");
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let head_length = match response.parse(buffer).map_err(|_| strange())? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial => return Ok(None),
        };
        let value = |name: &str| {
            let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(header.value).ok()
        };
        Ok(Some(Self {
            head_length,
            body_length: value("content-length")
                .and_then(|length| length.parse().ok())
                .ok_or_else(strange)?,
            closes: value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
            status: response.code.ok_or_else(strange)?,
            content_type: value("content-type").unwrap_or("text/plain").to_owned(),
        }))
    }

    /// One of the front's own, with a message of so many bytes.
    pub(super) fn of_ours(content_type: &str, body_length: usize) -> Self {
        let content_type = content_type.to_owned();
        Self { head_length: 0, body_length, closes: false, status: 200, content_type }
    }

    /// The head that the client gets.
    pub(super) fn forwarded(&self) -> String {
        let Self { status, content_type, body_length, .. } = self;
        let reason = if *status == 200 { "OK" } else { "Refused" };
        format!(
            "HTTP/1.1 {status} {reason}\r\ncontent-type: {content_type}\r\ncontent-length: {body_length}\r\n\r\n"
        )
    }
}

/// A refusal in the front's own words.
pub(super) fn refusal(status: u16, reason: &str) -> String {
    let length = reason.len();
    format!(
        "HTTP/1.1 {status} Refused\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{reason}"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Result<Option<Request>, Fault> {
        Request::parse(text.as_bytes(), 1000, 100)
    }

    #[test]
    fn only_what_the_superlink_needs_is_passed_on() {
        let text = "POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nCookie: a\r\n\
                    Flwr-Timestamp: now\r\nX-Forwarded-For: b\r\nAuthorization: c\r\n\r\nhello";
        let request = parse(text).unwrap().unwrap();
        assert_eq!((request.body_length, request.closes), (5, false));
        assert_eq!(&text[request.head_length..], "hello");
        assert_eq!(
            request.forwarded("application/protobuf"),
            "POST /v1/fleet/push-object HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/protobuf\r\n\
             content-length: 5\r\nflwr-timestamp: now\r\n\r\n"
        );
    }

    #[test]
    fn whatever_could_be_read_two_ways_is_refused() {
        assert!(parse("POST /v1/fleet/push-object HTTP/1.1\r\nContent-Le").unwrap().is_none());
        let cases = [
            ("GET /health HTTP/1.1\r\n\r\n", 405),
            ("POST / HTTP/1.0\r\ncontent-length: 0\r\n\r\n", 505),
            ("POST / HTTP/1.1\r\n\r\n", 411),
            ("POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\ncontent-length: +1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\ncontent-length: 1, 1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\ncontent-length: 101\r\n\r\n", 413),
            ("POST / HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\ncontent-length: 1\r\nexpect: 100-continue\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\ncontent-length: 1\r\nflwr-timestamp: a\r\nFLWR-timestamp: b\r\n\r\n", 400),
            ("\u{16}\u{3}\u{1} no HTTP at all\r\n\r\n", 400),
        ];
        for (text, status) in cases {
            match parse(text) {
                Err(Fault::Refused(found, _)) => assert_eq!(found, status, "{text:?}"),
                other => panic!("{text:?}: {other:?}"),
            }
        }
        let long = format!("POST /{} HTTP/1.1\r\n", "a".repeat(2000));
        assert!(matches!(parse(&long), Err(Fault::Refused(431, _))));
    }
}
