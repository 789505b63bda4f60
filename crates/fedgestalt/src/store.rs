//! What is kept on disk.

pub mod atomic;
mod error;
mod folder;
pub mod mapped;

pub use error::{Error, ErrorKind, Result};
pub use folder::Folder;
