use std::fmt;

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, coarse enough to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input exceeds a configured limit; nothing was allocated for it.
    Limit,
    /// The bytes are not a picture in a supported format.
    Format,
    /// The picture is of a supported format but damaged or cut short.
    Corrupt,
    /// The five facial points cannot be aligned.
    Points,
    /// A buffer or picture does not have the size it must have.
    Size,
    /// The file is not an ONNX network that can serve as a trunk.
    Model,
    /// The network cannot be cut where it was asked to be.
    Cut,
    /// The inference engine refused or failed to run the network.
    Engine,
    /// The file is not a face detector of a known kind.
    Detector,
    /// No face was found on the photograph at any scale.
    NoFace,
    /// Several faces were found where only one is allowed.
    SeveralFaces,
}

/// An error of this crate: a [kind](Error::kind) and a message that says what was found, what was expected
/// and what to do. Messages never contain pixels or picture metadata.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string(), source: None }
    }

    pub(crate) fn with_source(
        kind: ErrorKind,
        message: impl fmt::Display,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { source: Some(source.into()), ..Self::new(kind, message) }
    }

    /// What went wrong, coarsely.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
