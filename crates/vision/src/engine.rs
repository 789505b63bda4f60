//! What the engines share.

use std::panic::{AssertUnwindSafe, catch_unwind};

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
