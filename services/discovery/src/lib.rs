//! How processes find each other: each registers itself in etcd under a lease, watches the others, and balances its gRPC
//! calls over what it sees. Nothing but discovery is kept in etcd; all of it comes back by itself within seconds.

mod etcd;
mod metrics;
mod node;
mod pool;
mod registration;
mod watch;

pub use etcd::{Error, Options};
pub use node::{Kind, Node};
pub use pool::{Endpoint, InFlightGuard, Pool, PoolOptions};
pub use registration::Registration;
pub use watch::Watch;
