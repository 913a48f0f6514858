//! redis and Sentinel: what they answer, what follows from it, and how it is done.

pub mod act;
pub mod decide;
pub mod failover;
pub mod observe;
