//! One module per command: its arguments and what it does.

pub mod align;
pub mod cohort;
pub mod demo;
pub mod discover;
pub mod encode;
pub mod evaluate;
pub mod experiment;
pub mod federate;
pub mod init;
pub mod rank;
pub mod train;
