//! What the processes of a cluster show each other on internal ports.

use std::net::SocketAddr;

pub use crate::secret::same;
use crate::settings::Reader;

/// What the setting `peer_secret` is for.
pub const HELP: &str = "A secret that connect and logic show each other on internal calls; the same for all, 32 random bytes or more. \
    It or `tls_cert_file` is needed where `grpc_listen` is reached from other machines.";

/// A port that anybody may call who reaches it is good on this machine only.
pub fn refuse_open(from: &mut Reader<'_>, listen: SocketAddr, has_proof: bool) {
    if !listen.ip().is_loopback() && !has_proof && from.is_complete() {
        let text = format!(
            "{listen} is reached from other machines, and whoever calls would be believed: give IM_PEER_SECRET (or \
             IM_PEER_SECRET_FILE) or IM_TLS_CERT_FILE, or listen on 127.0.0.1"
        );
        from.mistake("grpc_listen", text);
    }
}
