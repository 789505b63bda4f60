//! Cases, syndromes, galleries, ranking, discovery, evaluation and partition.
//!
//! This crate knows what a cohort of patients is and what can be asked of their encodings. It knows no files, sockets,
//! clocks or OS randomness: bytes and seeds are arguments, and the same arguments give the same result whatever the
//! number of threads.
//!
//! The natural way through it: [`gmdb`] (or [`split`]) makes a [`Cohort`], [`draw`] hands it to sites, an
//! [`Encoding`] per image is compared by [`rank`] and scored by [`evaluate`], and [`discover`] looks for what nobody
//! has named yet.

pub mod check;
pub mod cohort;
pub mod discover;
pub mod draw;
pub mod encoding;
pub mod error;
pub mod evaluate;
pub mod gmdb;
pub mod id;
pub mod normalise;
pub mod pooling;
mod random;
pub mod rank;
pub mod split;

pub use cohort::{Case, Cohort, Part, Syndrome};
pub use encoding::Encoding;
pub use error::{Error, ErrorKind, Result};
pub use id::{ImageId, SubjectId, SyndromeId};
pub use normalise::{Normalisation, Scoring};
pub use pooling::Pooling;
