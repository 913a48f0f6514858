//! What a process says about itself in etcd: `/imcluster/{connect|logic}/{id}` → JSON.

use std::collections::BTreeMap;
use std::fmt;

use im_runtime::tls::ServerName;
use serde::{Deserialize, Serialize};

/// Which part of the system a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Holds client sockets.
    Connect,
    /// Decides and stores.
    Logic,
}

impl Kind {
    /// As in keys and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Logic => "logic",
        }
    }

    /// What the certificate of such a process names: addresses change, this does not.
    pub fn certificate_name(self) -> ServerName<'static> {
        let name = match self {
            Self::Connect => "im-connect",
            Self::Logic => "im-logic",
        };
        ServerName::try_from(name).expect("it is a name")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Unique per start of a process.
    pub id: String,
    /// `host:port` where its gRPC service is dialled.
    pub address: String,
    /// Its release.
    pub version: String,
    /// Where it runs, for those who prefer near ones; empty: unknown.
    #[serde(default)]
    pub zone: String,
    /// `host:port` of its ports for clients, by protocol: `tcp`, `ws`, `http`.
    #[serde(default)]
    pub clients: BTreeMap<String, String>,
    /// Connections (connect) or calls in flight (logic), as of the last update.
    #[serde(default)]
    pub load: u64,
    /// About to end: not to be chosen for anything new.
    #[serde(default)]
    pub draining: bool,
    /// Since when it runs, unix milliseconds.
    #[serde(default)]
    pub since_ms: u64,
}

impl Node {
    /// A node that has just started, with nothing known but its id, its gRPC address and its release.
    pub fn new(
        id: impl Into<String>,
        address: impl Into<String>,
        version: impl Into<String>,
    ) -> Self {
        let since = im_runtime::clock::unix();
        Self {
            id: id.into(),
            address: address.into(),
            version: version.into(),
            zone: String::new(),
            clients: BTreeMap::new(),
            load: 0,
            draining: false,
            since_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        }
    }
}
