//! How logic is reached: gRPC by connect processes, HTTP by backends, the routes that goim's and golang-im's backends know.

pub(crate) mod compat;
pub(crate) mod grpc;
pub(crate) mod http;

/// Makes the metrics of every way in visible from the start.
pub(crate) fn declare_metrics() {
    grpc::declare_metrics();
    http::declare_metrics();
}
