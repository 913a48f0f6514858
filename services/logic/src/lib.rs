//! Decides who may say what where, stores it, publishes it.
//!
//! A call's path: `serve` (gRPC for connect, HTTP for backends) → `call` → `auth`, `message`, `room`, `history`,
//! `presence` … → [`store`] (which also publishes) and, for what is addressed to somebody, [`nodes`]. The domain modules do
//! no I/O of their own: everything they touch is behind the traits of [`store`] and [`nodes::Nodes`].
//!
//! Each layer imports only those below it: `core` (what the domain modules share) ← domain ← `call` ← `serve` ← `service`.

pub mod auth;
mod bans;
mod call;
mod conversation;
mod core;
pub mod error;
mod history;
mod index;
mod message;
pub mod nodes;
pub mod options;
#[cfg(feature = "cluster")]
pub mod peers;
mod phase;
mod presence;
mod push;
mod reminders;
mod room;
mod serve;
mod service;
pub mod settings;
pub mod store;
mod subscribe;

pub use call::Handle;
pub use error::Error;
pub use nodes::Nodes;
pub use options::Options;
pub use service::Service;
