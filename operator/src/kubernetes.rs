//! The API server: calls to it, who may write, what it has told, and what is applied.

pub(crate) mod apply;
pub(crate) mod cache;
pub(crate) mod calls;
pub(crate) mod drift;
pub(crate) mod election;
pub(crate) mod events;
pub(crate) mod key;
pub(crate) mod object;
pub(crate) mod pod;
pub(crate) mod stores;

/// Whether the API server refused something for a quota.
pub(crate) fn is_quota(message: &str) -> bool {
    message.contains("exceeded quota")
}
