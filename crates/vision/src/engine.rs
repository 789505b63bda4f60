//! What the engines share.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

/// Runs a call into an engine, whose panic on a network it does not expect must not end the program. What the call
/// borrows is not used again after a panic: loading gives it up, and a run leaves the loaded network as it was.
pub(crate) fn guarded<R>(engine: &str, doing: &str, call: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(panicked(engine, doing)))
}

pub(crate) fn panicked(engine: &str, doing: &str) -> Error {
    Error::new(
        ErrorKind::Engine,
        format!(
            "{engine} panicked when it tried to {doing} the network; check that the file is intact, or use another network"
        ),
    )
}

/// A library that is not there or cannot be loaded; `least` is what to install.
pub(crate) fn no_library(library: &Path, engine: &str, least: &str, error: &dyn Display) -> Error {
    Error::new(
        ErrorKind::Engine,
        format!("{} cannot be used as {engine}'s library: {error}; install {least}", library.display()),
    )
}

/// A network that an engine does not take, or fails to run.
pub(crate) fn unusable(engine: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::with_source(
        ErrorKind::Engine,
        format!("{engine} cannot run the network; use the engine rten for it: {error}"),
        error,
    )
}
