//! The HTML report: complete, self-contained, safe, and the same every time.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "report/sample.rs"]
mod sample;
