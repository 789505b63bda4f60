//! Engines move the federation's messages between parties.

pub mod flower;
pub mod local;
