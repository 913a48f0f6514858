//! Runs real clients against real processes, real redis and real etcd, injects faults, and checks what every client received
//! against the logs.
//!
//! The programs are [`faults`], [`hostile`], [`reads`] and [`kubernetes`]. They share [`servers`], [`workload`] and
//! [`checker`]; a [`checked_run`] puts the last two together.

pub mod checked_run;
pub mod checker;
pub mod clients;
pub mod faults;
pub mod hostile;
pub mod http;
pub mod kubernetes;
pub mod process;
pub mod proxies;
pub mod reads;
pub mod servers;
pub mod stats;
mod sync;
pub mod token;
pub mod wait;
pub mod workload;
