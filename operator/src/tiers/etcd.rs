//! etcd: what its members answer, what follows from it, and how it is done.

pub(crate) mod act;
pub(crate) mod client;
pub(crate) mod decide;
pub(crate) mod observe;
