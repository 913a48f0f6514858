//! Runs ImClusters on Kubernetes: builds what one asks for, keeps it so, and changes it without dropping clients.

pub mod api;
pub mod calls;
pub mod leader;
pub mod metrics;
