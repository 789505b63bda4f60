//! The crate's one error.

use std::fmt;

/// What went wrong, for a caller that decides by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Fewer than three sites: a sum of two gives each away to the other.
    TooFewSites,
    /// Fewer sites are present than the threshold; the message names the missing.
    BelowThreshold,
    /// A parameter is outside what the protocol supports.
    Parameter,
    /// A vector or matrix has the wrong length.
    Length,
    /// A value is not finite or lies outside the agreed range.
    OutOfRange,
    /// Bytes that are no message of the expected kind.
    Malformed,
    /// A message of another protocol version.
    Version,
    /// A message that belongs to another session, round, attempt or purpose.
    WrongSession,
    /// A site that is not in the roster, or has no part in this phase.
    UnknownSite,
    /// A site that has already spoken in this phase.
    Duplicate,
    /// The message or call belongs to another phase.
    OutOfPhase,
    /// A signature that does not verify.
    Signature,
    /// Lists or keys that contradict what was agreed before.
    Inconsistent,
    /// A box or share that does not open or does not match its commitment.
    Sealed,
    /// The group key is missing or another one.
    GroupKey,
}

/// An error of this crate: a kind for programs and a sentence for people. The sentence names sites
/// and positions and never carries a secret.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string() }
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
