//! connect, redis and etcd: each is observed, what to do is decided by a pure function, and done.

pub(crate) mod certificates;
pub(crate) mod connect;
pub(crate) mod etcd;
pub(crate) mod metrics;
pub(crate) mod redis;
pub(crate) mod stateful;
pub(crate) mod supervisor;
pub(crate) mod upgrade;
pub(crate) mod volumes;
pub(crate) mod workload;

#[cfg(test)]
mod tests;
