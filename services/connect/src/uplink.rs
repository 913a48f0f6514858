//! The way up: what connect asks of logic, over gRPC in a cluster and by a call in standalone.

#[cfg(feature = "cluster")]
pub mod grpc;
pub(crate) mod shared;

use std::sync::Arc;

use async_trait::async_trait;
use im_proto::v1::{Fault, call, reply};

/// Logic, wherever it is. Implementations: [`grpc`](self) in a cluster; standalone calls its own logic.
///
/// Promises: answers come within the call's timeout (else the fault `unavailable`, retryable). Calls with the same
/// `conn` reach one logic process in the order in which they were made while an earlier one is in flight, so a
/// connection's sends to a room are stored in the order in which it sent them.
#[async_trait]
pub trait Logic: Send + Sync + 'static {
    /// One call. `grant` is what Authenticate returned, empty for calls of the node itself; `conn` likewise.
    async fn call(
        &self,
        grant: bytes::Bytes,
        conn: &str,
        op: call::Op,
    ) -> Result<reply::Result, Fault>;

    /// The same logic for the callers of one thread: asked once by each shard, on its runtime. What has to work for a call
    /// in the background works there too, so that a call wakes no other thread on its way up or down.
    fn on_this_thread(self: Arc<Self>) -> Arc<dyn Logic>;
}
