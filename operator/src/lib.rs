//! Runs ImClusters on Kubernetes: builds what one asks for, keeps it so, and changes it without dropping clients.

pub mod api;
pub mod apply;
pub mod build;
pub mod calls;
pub mod drains;
pub mod events;
pub mod key;
pub mod leader;
pub mod metrics;
pub mod object;
pub mod observe;
pub mod pki;
pub mod queue;
pub mod secrets;
pub mod seed;
pub mod settings;
pub mod stores;
pub mod validate;
pub mod watch;
