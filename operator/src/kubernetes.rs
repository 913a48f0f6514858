//! The API server: calls to it, who may write, what it has told, and what is applied.

pub mod apply;
pub mod cache;
pub mod calls;
pub mod drift;
pub mod election;
pub mod events;
pub mod key;
pub mod object;
pub mod stores;
