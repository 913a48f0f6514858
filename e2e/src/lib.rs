//! Plays real clients against real processes, real redis and real etcd, breaks what can break, and judges what every
//! client saw by what the log says in the end.

pub mod audit;
pub mod audited;
pub mod backing;
pub mod cluster;
pub mod console;
pub mod crowd;
pub mod faults;
pub mod forwarder;
pub mod hostile;
pub mod http;
pub mod kind;
pub mod people;
pub mod process;
pub mod reads;
pub mod report;
pub mod standalone;
pub mod stranger;
pub mod tamper;
pub mod token;
