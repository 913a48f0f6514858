//! etcd: what its members answer, what follows from it, and how it is done.

pub mod act;
pub mod decide;
pub mod observe;
