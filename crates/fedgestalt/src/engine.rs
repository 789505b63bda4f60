//! Engines move the federation's messages; what the messages say is none of their business.

pub mod local;
