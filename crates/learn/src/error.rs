//! The crate's one error type.

/// What went wrong, for callers that decide by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Lengths or shapes that do not fit together.
    Shape,
    /// A parameter, label or row outside its range.
    Invalid,
    /// A value that is NaN or infinite: in the features, in a tensor, or reached during training.
    NonFinite,
    /// The trainer met a non-finite value before and refuses to go on.
    Poisoned,
    /// Bytes that are not what they claim to be: wrong magic, version, digest or field.
    Format,
    /// Bytes that end too early.
    Truncated,
}

/// Why a head could not be built, trained, stored or read.
///
/// The message names the tensor, row, epoch or field concerned and says what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TrainError {
    kind: ErrorKind,
    message: String,
}

impl TrainError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn shape(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Shape, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn format(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Format, message)
    }

    pub(crate) fn truncated(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Truncated, message)
    }

    pub(crate) fn non_finite(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NonFinite, message)
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, TrainError>;
