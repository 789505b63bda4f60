//! The distributed engine: the same messages as on the local engine, between machines, over a stock Flower SuperLink.
//!
//! The SuperLink is a store and forward of content-addressed objects ([`object`]) in front of which a proxy lets through
//! only what sites need ([`proxy`]). Sites are nodes ([`node`]), the coordinator is the app of a run ([`runtime`]);
//! [`link`] makes what is said arrive once and in order, [`letter`] is what it looks like on the way.

pub mod coordinator;
pub mod exchange;
pub mod http;
pub mod key;
pub mod letter;
pub mod link;
pub mod node;
pub mod object;
pub mod proxy;
pub mod runtime;
pub mod site;
pub mod superlink;
pub mod tls;
pub mod wire;

/// The version of Flower that is installed.
pub const PINNED: &str = "1.41.0";
/// The versions that the engine was tried with: major and minor.
pub const TESTED: [(u32, u32); 1] = [(1, 41)];
