//! Runs ImClusters on Kubernetes: builds what one asks for, keeps it so, and changes it without dropping clients.

pub mod api;
pub mod build;
pub mod context;
pub mod controller;
pub mod dereference;
pub mod init;
pub mod kubernetes;
pub mod metrics;
pub mod pki;
pub mod run;
pub mod secrets;
pub mod settings;
pub mod tiers;
pub mod validate;
