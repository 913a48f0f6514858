//! End-to-end tests: real processes, real redis with Sentinels, real etcd.

mod bans;
mod checker;
mod compat;
mod faults;
mod guarantees;
mod outages;
mod presence;
mod redis_set;
mod tls;
