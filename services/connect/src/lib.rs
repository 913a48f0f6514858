//! Holds client sockets: accept, authenticate through logic, forward up, fan out down, drain.
//!
//! The folders follow the path: `accept` → `session` → `uplink` to logic; `downlink` from the bus → `hub` → the sockets.
//! A shard is one thread with its own listeners, connections and part of the hub.
//!
//! In layers, each of which knows only those before it: `hub` (pure) and `connection` (one socket, no idea of logic), `shard`
//! (the state of one thread, and what it does by itself), `session` (what a client asks for), `reactor` (the thread and its
//! loops).

mod accept;
mod bans;
mod connection;
pub mod downlink;
pub mod drain;
mod hub;
#[cfg(feature = "measure")]
#[doc(hidden)]
pub mod measure;
mod metrics;
#[cfg(test)]
mod nobody;
pub mod options;
#[cfg(test)]
mod planted;
mod reactor;
#[cfg(feature = "cluster")]
pub mod serve;
pub mod service;
mod session;
pub mod settings;
mod shard;
mod translate;
pub mod uplink;

pub use options::Options;
pub use service::{Error, Handle, Parts, Service};
