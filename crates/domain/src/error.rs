//! The crate's one error.

/// What went wrong, for callers that act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An id is empty, too long, or holds characters that cannot stand in a file name.
    InvalidId,
    /// A table is not the CSV it should be: a column is missing, a cell does not parse.
    Syntax,
    /// An image or syndrome is referred to that the cohort does not have.
    Unknown,
    /// The same thing is given twice.
    Duplicate,
    /// Two statements about one image contradict each other.
    Conflict,
    /// An argument lies outside the range its documentation gives.
    InvalidArgument,
    /// Lengths that must agree do not.
    Length,
    /// A representation or encoding is not finite, has no direction, or is not of unit length.
    InvalidEncoding,
    /// An image that has to be compared has no encoding.
    MissingEncoding,
}

/// What any fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate. Its text names the file, line or image concerned and what to do next; it never carries
/// more of a patient than a pseudonymous id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The kind of fault.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
