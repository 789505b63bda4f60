//! Secure sum and private kernel: protocols over numbers, not faces.
//!
//! | module | what it does |
//! |---|---|
//! | [`fixed`] | real numbers to wrapping integers and back, so that masks cancel exactly |
//! | [`shamir`] | secret sharing over GF(256) |
//! | [`sum`] | the sum of every site's vector, and nothing else, for a coordinator that sees no vector |
//! | [`kernel`] | inner products of encodings for a coordinator that sees no encoding |
//! | [`boxes`] | authenticated boxes sealed to one key or to the group |
//!
//! Nothing here reads files, sockets, clocks or the system's randomness: messages and seeds are
//! arguments, and the same arguments give the same bytes, whatever the number of threads.

pub mod boxes;
mod error;
pub mod fixed;
pub mod kernel;
mod key;
mod prg;
pub mod shamir;
pub mod sum;

use std::fmt;

pub use ed25519_dalek;
pub use error::{Error, ErrorKind};
pub use key::{GroupKey, Secret};
pub use x25519_dalek;

/// Result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A site's place in the roster, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteIndex(pub u16);

impl SiteIndex {
    /// The index as a position in a slice.
    pub fn get(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for SiteIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "site {}", self.0)
    }
}
