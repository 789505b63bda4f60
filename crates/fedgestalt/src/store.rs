//! What is kept on disk.
//!
//! [`Folder`] is a folder of one party (a site, the coordinator) that one process at a time works in; [`SiteStore`] is
//! a site's: its database, keys, crops, feature caches and models. Every file is written with [`atomic`], so a process
//! that is killed leaves each file either as it was or as it should be.

pub mod atomic;
pub mod audit;
mod database;
mod error;
mod folder;
pub mod mapped;
mod records;
mod scratch;
mod site;
pub mod tensors;

pub use atomic::{make_folder, read_json, remove, write_cache, write_json, write_private};
pub use error::{Error, ErrorKind, Result};
pub use folder::Folder;
pub use records::{Run, RunId, StoredRelease, StoredRound};
pub use scratch::Scratch;
pub use site::{SiteStore, Withdrawn};
