//! connect, redis and etcd: each is observed, what to do is decided by a pure function, and done.

pub mod certificates;
pub mod connect;
pub mod etcd;
pub mod metrics;
pub mod presented;
pub mod redis;
pub mod stateful;
pub mod supervisor;
pub mod upgrade;
pub mod volumes;
pub mod workload;
