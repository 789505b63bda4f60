//! Engines move the federation's messages between parties.
//!
//! Both drive the same hosts ([`host`]): [`local`] has all of them in one process, [`flower`] one in each.

pub mod flower;
pub mod host;
pub mod local;
