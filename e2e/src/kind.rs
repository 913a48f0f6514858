//! The same crowd and the same audit on a Kubernetes cluster: what `im-e2e kubernetes` plays.

pub mod balancer;
pub mod cases;
pub mod figures;
pub mod kube;
pub mod stage;
pub mod witness;
