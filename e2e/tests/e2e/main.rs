//! End-to-end tests: real processes, real redis with Sentinels, real etcd.

mod backing;
mod bans;
mod dialects;
mod faults;
mod guarantees;
mod parts;
mod presence;
mod secured;
mod sees;
