//! redis and Sentinel: what they answer, what follows from it, and how it is done.

pub(crate) mod act;
pub(crate) mod client;
pub(crate) mod decide;
pub(crate) mod failover;
pub(crate) mod observe;
