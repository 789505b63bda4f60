//! Protobuf in HTTP bodies, as the SuperLink speaks it since 1.40.

use std::error::Error as StdError;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use prost::bytes::Bytes;
use rustls::crypto::ring;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use super::object::MAX_OBJECT;

/// What a body is.
pub const CONTENT_TYPE: &str = "application/protobuf";
/// The longest response that is read: an object and what names it.
const MAX_RESPONSE: u64 = (MAX_OBJECT + (64 << 10)) as u64;

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection, or one that broke: worth trying again.
    #[error("{url} cannot be reached: {reason}")]
    Unreachable {
        /// The address called.
        url: String,
        /// What the system says.
        reason: String,
    },
    /// The other side is not who it should be. Never retried silently.
    #[error(
        "{url} shows a certificate that the invitation does not vouch for ({reason}); somebody may be in between, or the \
         coordinator has a new certificate: ask it for a new invitation by another way"
    )]
    Certificate {
        /// The address called.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The other side answered, and refused.
    #[error("{path} was refused with status {status}{}", note(detail))]
    Refused {
        /// What was asked for.
        path: String,
        /// The HTTP status.
        status: u16,
        /// The other side's words, cut short.
        detail: String,
    },
    /// The answer makes no sense.
    #[error("{path} was answered with what is no answer: {reason}")]
    Malformed {
        /// What was asked for.
        path: String,
        /// Why.
        reason: String,
    },
}

fn note(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

impl CallError {
    /// Whether the same call may succeed later: the line is down, or the other side is starting, busy or restarting.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            Self::Certificate { .. } | Self::Malformed { .. } => false,
        }
    }

    /// Whether the caller's key, token or signature is not accepted.
    pub fn is_unauthorised(&self) -> bool {
        matches!(self, Self::Refused { status: 401 | 403, .. }) && !self.is_of_an_ended_run()
    }

    /// Whether what was called about belongs to a run that has ended: Flower's error 2007, which has the status of a
    /// refused key.
    pub fn is_of_an_ended_run(&self) -> bool {
        matches!(self, Self::Refused { status: 403, detail, .. } if detail.contains("\"code\":2007"))
    }
}

/// A connection to a SuperLink or its proxy.
#[derive(Clone)]
pub struct Http {
    agent: ureq::Agent,
    url: String,
}

impl Http {
    /// A client of `url` (`https://host:port`) that trusts only the certificates in `roots` (PEM). The proxy of the
    /// environment (`HTTPS_PROXY`) is used if `outside`.
    ///
    /// # Errors
    ///
    /// When `roots` holds no certificate, or the URL is no `https` URL.
    pub fn new(url: &str, roots: &str, outside: bool) -> anyhow::Result<Self> {
        anyhow::ensure!(url.starts_with("https://"), "{url:?} is no https:// address");
        let certificates: Vec<Certificate<'static>> = parse_pem(roots.as_bytes())
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        anyhow::ensure!(!certificates.is_empty(), "there is no certificate to check {url} with");
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .root_certs(RootCerts::new_with_certs(&certificates))
            .build();
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .https_only(true)
            .max_redirects(0)
            .no_delay(true)
            .user_agent(concat!("fedgestalt/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .timeout_per_write(Some(Duration::from_secs(60)))
            .timeout_global(Some(Duration::from_secs(600)))
            .max_idle_age(Duration::from_secs(20))
            .tls_config(tls);
        if !outside {
            config = config.proxy(None);
        }
        Ok(Self { agent: config.build().new_agent(), url: url.trim_end_matches('/').to_owned() })
    }

    /// Where it goes.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Posts a message and reads the answer.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn call<A: Message + Default>(
        &self,
        path: &str,
        headers: &[(&str, String)],
        request: &impl Message,
    ) -> Result<A, CallError> {
        self.call_raw(path, headers, &request.encode_to_vec())
    }

    /// As [`Http::call`] with an encoded message.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn call_raw<A: Message + Default>(
        &self,
        path: &str,
        headers: &[(&str, String)],
        body: &[u8],
    ) -> Result<A, CallError> {
        let mut request = self.agent.post(format!("{}{path}", self.url)).header("content-type", CONTENT_TYPE);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let mut response = request.send(body).map_err(|error| self.failed(error))?;
        let status = response.status().as_u16();
        let read = |limit: u64, response: &mut ureq::http::Response<ureq::Body>| {
            let mut bytes = Vec::new();
            let reader = response.body_mut().as_reader();
            reader.take(limit + 1).read_to_end(&mut bytes).map_err(|error| self.failed(error.into()))?;
            Ok::<_, CallError>(bytes)
        };
        if status != 200 {
            let text = read(2000, &mut response).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let detail = text.chars().filter(|c| !c.is_control()).take(300).collect();
            return Err(CallError::Refused { path: path.to_owned(), status, detail });
        }
        let malformed = |reason: String| CallError::Malformed { path: path.to_owned(), reason };
        let bytes = read(MAX_RESPONSE, &mut response)?;
        if bytes.len() as u64 > MAX_RESPONSE {
            return Err(malformed(format!("more than {MAX_RESPONSE} bytes")));
        }
        A::decode(Bytes::from(bytes)).map_err(|error| malformed(error.to_string()))
    }

    /// The text at a path.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn get(&self, path: &str) -> Result<String, CallError> {
        let mut response =
            self.agent.get(format!("{}{path}", self.url)).call().map_err(|error| self.failed(error))?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(CallError::Refused { path: path.to_owned(), status, detail: String::new() });
        }
        response.body_mut().read_to_string().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: ureq::Error) -> CallError {
        let url = self.url.clone();
        match tls_fault(&error) {
            Some(reason) => CallError::Certificate { url, reason },
            None => CallError::Unreachable { url, reason: error.to_string() },
        }
    }
}

/// What is wrong with the other side's certificate, if that is what an error is about.
fn tls_fault(error: &ureq::Error) -> Option<String> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(fault)) = error.downcast_ref() {
            return Some(format!("{fault:?}"));
        }
        next = match error.downcast_ref::<io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as _),
            None => match error.downcast_ref::<ureq::Error>() {
                Some(ureq::Error::Io(io)) => io.get_ref().map(|inner| inner as _),
                _ => error.source(),
            },
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_run_is_no_refused_key() {
        let refused = |detail: &str| CallError::Refused {
            path: "/v1/fleet/push-messages".to_owned(),
            status: 403,
            detail: detail.to_owned(),
        };
        // As SuperLink 1.41.0 words it.
        let ended = refused(
            r#"{"code":2007,"detail":"The current run status does not allow this Fleet API operation."}"#,
        );
        assert!(ended.is_of_an_ended_run() && !ended.is_unauthorised() && !ended.is_passing());
        let key = refused("");
        assert!(key.is_unauthorised() && !key.is_of_an_ended_run());
    }
}
