//! Runs ImClusters on Kubernetes: builds what one asks for, keeps it so, and changes it without dropping clients.

pub mod api;
mod backoff;
mod build;
mod context;
mod controller;
mod dereference;
pub mod init;
mod kubernetes;
mod metrics;
mod pki;
pub mod run;
mod secrets;
pub mod settings;
mod tiers;
mod validate;

pub use build::redis_secret;
