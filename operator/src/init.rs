//! What runs inside pods before their main container: redis' file is seeded, etcd waits until it may join.

pub mod join;
pub mod seed;
