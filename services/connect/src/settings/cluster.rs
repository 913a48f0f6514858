//! The settings of a cluster's connect process: a node's own, and how it finds and reaches the others.

use std::net::SocketAddr;
use std::time::Duration;

use im_runtime::settings::{Program, Reader, Secret};
use im_runtime::{peer, tls};

use crate::Options;
use crate::uplink::grpc;

/// The process.
pub const PROGRAM: Program = Program {
    name: "im-connect",
    about: "Holds client connections (TCP, WebSocket) of an ImCluster.",
};

/// How long a drain may take where nothing else is said.
pub const DRAIN: Duration = Duration::from_secs(60);

/// Everything a connect process is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node's own.
    pub node: Options,
    /// How logic is called.
    pub uplink: grpc::Options,
    /// How redis is heard.
    pub redis: im_redis_bus::Options,
    /// How the others are found.
    pub etcd: im_discovery::Options,
    /// Where logic calls this process.
    pub grpc_listen: SocketAddr,
    /// What logic dials for that; `None`: the port of `grpc_listen` at this host's name.
    pub advertise: Option<String>,
    /// What clients are told to dial, for moves and lists of nodes.
    pub advertise_tcp: Option<String>,
    /// The same for WebSocket.
    pub advertise_ws: Option<String>,
    /// Where the process runs.
    pub zone: String,
    /// What logic must show to call this process; also shown to logic.
    pub peer_secret: Option<Secret>,
    /// Where the certificates for all of that are.
    pub tls: Option<tls::Files>,
}

impl Settings {
    /// Asks for them.
    pub fn read(from: &mut Reader<'_>) -> Self {
        let node = crate::settings::options(from, crate::Options::default());
        let redis = redis(from);
        from.group("Cluster");
        let etcd = im_discovery::Options::read(from);
        let peer_secret = peer_secret(from);
        let settings = Self {
            node,
            redis,
            etcd,
            grpc_listen: from
                .address("grpc_listen", "Where logic calls this process.")
                .or(SocketAddr::from(([0, 0, 0, 0], 3109))),
            advertise: from
                .authority("advertise", "What logic dials to call this process. Default: the host's name and the port of `grpc_listen`.")
                .optional(),
            advertise_tcp: from
                .authority("advertise_tcp", "What TCP clients dial to reach this very node: in lists of nodes and in moves. Not given: it is not told.")
                .optional(),
            advertise_ws: from
                .authority("advertise_ws", "The same for WebSocket clients.")
                .optional(),
            zone: from.text("zone", "Where the process runs; shown in lists of nodes.").or(String::new()),
            uplink: uplink(from, peer_secret.as_ref()),
            peer_secret,
            tls: None,
        };
        let settings = Self {
            tls: tls::Files::read(from),
            ..settings
        };
        let proof = settings.tls.is_some() || settings.peer_secret.is_some();
        peer::refuse_open(from, settings.grpc_listen, proof);
        settings
    }
}

fn redis(from: &mut Reader<'_>) -> im_redis_bus::Options {
    let default = im_redis_bus::Options::default();
    from.group("Redis");
    let parse = |text: &str| match im_redis_bus::Address::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let form =
        "URL: redis://, rediss://, redis+sentinel://host:port,host:port/service, redis+cluster://";
    im_redis_bus::Options {
        url: from
            .parsed(
                "redis_url",
                form,
                parse,
                String::clone,
                "The redis that rooms are heard from; the same as logic's.",
            )
            .with_credentials()
            .required(default.url),
        prefix: from
            .text(
                "redis_prefix",
                "What every key and channel begins with; the same as logic's.",
            )
            .or(default.prefix),
        command_timeout: from
            .duration(
                "redis_timeout",
                "How long redis may take to answer a command.",
            )
            .within(Duration::from_millis(50)..=Duration::from_secs(60))
            .or(default.command_timeout),
        connect_timeout: from
            .duration(
                "redis_connect_timeout",
                "How long opening a connection to redis may take.",
            )
            .within(Duration::from_millis(50)..=Duration::from_secs(60))
            .or(default.connect_timeout),
        connections: 1,
        ..default
    }
}

fn peer_secret(from: &mut Reader<'_>) -> Option<Secret> {
    from.strong_secret("peer_secret", peer::HELP).optional()
}

fn uplink(from: &mut Reader<'_>, secret: Option<&Secret>) -> grpc::Options {
    let default = grpc::Options::default();
    grpc::Options {
        call_timeout: from
            .duration(
                "call_timeout",
                "How long logic may take to answer a call; then it fails as `unavailable`, retryable.",
            )
            .within(Duration::from_millis(100)..=Duration::from_secs(60))
            .or(default.call_timeout),
        queue: from
            .integer(
                "uplink_queue",
                "Calls of a shard that may wait to be written to one logic process; more fail at once as `unavailable`.",
            )
            .within(1..=1 << 20)
            .or(default.queue),
        secret: secret.map(|secret| secret.reveal().to_owned()),
        ..default
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use im_runtime::documentation;
    use im_runtime::settings::{Stop, load};

    use super::*;

    #[test]
    fn the_documentation_lists_every_setting() {
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        let wanted = documentation::settings(PROGRAM, DRAIN, Settings::read);
        documentation::check(&document, PROGRAM.name, &wanted).unwrap();
    }

    #[test]
    fn redis_etcd_and_a_proof_for_internal_calls_are_all_that_must_be_named() {
        let settings = |environment: &[(&str, &str)]| {
            let environment = environment
                .iter()
                .map(|(name, value)| (name.into(), value.into()));
            load(PROGRAM, Settings::read, [], environment)
        };
        let Err(Stop::Mistakes(mistakes)) = settings(&[]) else {
            panic!("no mistakes")
        };
        let fields: Vec<&str> = mistakes
            .iter()
            .map(|mistake| mistake.field.as_str())
            .collect();
        assert_eq!(fields, ["redis_url", "etcd_endpoints", "grpc_listen"]);

        let sentinel = "redis+sentinel://a:26379,b:26379/im";
        let named = [
            ("IM_REDIS_URL", sentinel),
            ("IM_ETCD_ENDPOINTS", "http://a:2379,http://b:2379"),
            ("IM_PEER_SECRET", "0123456789abcdef0123456789abcdef"),
            // Logic's, in a file of variables that both read.
            ("IM_AUTH_HS256_SECRET", "hush"),
        ];
        let settings = settings(&named).unwrap();
        assert_eq!(settings.redis.url, sentinel);
        assert_eq!(settings.etcd.endpoints, ["http://a:2379", "http://b:2379"]);
        assert_eq!(
            (
                settings.node.tcp_listen.port(),
                settings.node.ws_listen.port()
            ),
            (3101, 3102)
        );
        assert_eq!(settings.grpc_listen.port(), 3109);
    }
}
