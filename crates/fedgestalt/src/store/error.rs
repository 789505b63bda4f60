use std::fmt;
use std::path::Path;

/// The result of the store's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, coarse enough to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file system refused.
    Io,
    /// Another process works in the folder.
    Locked,
    /// The database refused.
    Database,
    /// The database was made by a newer version.
    NewerVersion,
    /// A file is cut short or damaged.
    Corrupt,
    /// A file or tensor that must be there is not, or has another shape.
    Missing,
    /// The audit log was changed.
    Tampered,
    /// A secret lies open to others.
    Permissions,
    /// An argument lies outside the range its documentation gives.
    InvalidArgument,
}

/// An error of the store: a [kind](Error::kind) and a message with the file concerned and what to do.
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

    /// "cannot `verb` `path`", for `map_err` of file operations.
    pub(crate) fn io(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |error| Self::with_source(ErrorKind::Io, format!("cannot {verb} {path}"), error)
    }

    /// What went wrong, coarsely.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let kind = match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                ErrorKind::Corrupt
            }
            _ => ErrorKind::Database,
        };
        let advice = match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => "free some space and run the command again",
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                "restore site.db from a backup"
            }
            _ => "nothing was changed",
        };
        Self::with_source(kind, format!("the database site.db refused; {advice}"), error)
    }
}
