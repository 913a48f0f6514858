//! The settings of a cluster's logic process: logic's own, where it stores, and how it finds and reaches the others.

use std::net::SocketAddr;
use std::time::Duration;

use im_runtime::settings::{Program, Reader};
use im_runtime::{peer, tls};

use crate::auth::Secret;
use crate::store::redis;
use crate::{Options, peers};

/// The process.
pub const PROGRAM: Program = Program {
    name: "im-logic",
    about: "Decides, stores and publishes what an ImCluster's clients and backends say.",
};

/// How long a drain may take where nothing else is said.
pub const DRAIN: Duration = Duration::from_secs(30);

/// Everything a logic process is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Logic's own.
    pub logic: Options,
    /// Where rooms live.
    pub store: redis::Options,
    /// How the others are found.
    pub etcd: im_discovery::Options,
    /// How connect processes are called.
    pub peers: peers::Options,
    /// Where backends call the HTTP API.
    pub http_listen: SocketAddr,
    /// What backends dial for that, told in lists of processes; `None`: not told.
    pub advertise_http: Option<String>,
    /// Where connect processes call this one.
    pub grpc_listen: SocketAddr,
    /// What connect dials for that; `None`: the port of `grpc_listen` at this host's name.
    pub advertise: Option<String>,
    /// Where the process runs.
    pub zone: String,
    /// How long it goes on as before when it is to end.
    pub drain_at_least: Duration,
    /// Where the certificates for connections to and from other processes are.
    pub tls: Option<tls::Files>,
}

impl Settings {
    /// Asks for them.
    pub fn read(from: &mut Reader<'_>) -> Self {
        from.group("Addresses");
        let http_listen = from
            .address("http_listen", "Where backends call the HTTP API.")
            .or(SocketAddr::from(([0, 0, 0, 0], 3111)));
        let grpc_listen = from
            .address("grpc_listen", "Where connect processes call this one.")
            .or(SocketAddr::from(([0, 0, 0, 0], 3119)));
        let advertise = from
            .authority(
                "advertise",
                "What connect processes dial to call this one. Default: the host's name and the port of `grpc_listen`.",
            )
            .optional();
        let advertise_http = from
            .authority(
                "advertise_http",
                "What backends dial to reach this very process, for lists of processes. Not given: it is not told.",
            )
            .optional();
        let mut logic = crate::settings::options(from);
        check_keys(from, &logic);
        let store = store(from);
        from.group("Cluster");
        let etcd = im_discovery::Options::read(from);
        let secret = peer_secret(from);
        logic.uplink.secret.clone_from(&secret);
        logic.uplink.max_in_flight = from
            .integer(
                "uplink_max_in_flight",
                "Calls of one stream under way; beyond it the stream is not read. Each shard of a connect process has one.",
            )
            .within(1..=1 << 20)
            .or(logic.uplink.max_in_flight);
        let settings = Self {
            logic,
            store,
            etcd,
            peers: peers(from, secret),
            http_listen,
            advertise_http,
            grpc_listen,
            advertise,
            zone: from
                .text("zone", "Where the process runs; shown in lists of processes.")
                .optional()
                .unwrap_or_default(),
            drain_at_least: from
                .duration("drain_at_least", "How long the process goes on as before when it is to end, so that connect processes and load balancers go elsewhere by themselves.")
                .within(Duration::ZERO..=Duration::from_secs(300))
                .or(Duration::from_secs(3)),
            tls: None,
        };
        let settings = Self {
            tls: tls::Files::read(from),
            ..settings
        };
        let proof = settings.tls.is_some() || settings.logic.uplink.secret.is_some();
        peer::refuse_open(from, settings.grpc_listen, proof);
        settings
    }
}

/// Nobody could be believed without one.
fn check_keys(from: &mut Reader<'_>, logic: &Options) {
    let auth = &logic.auth;
    // One that is given and of no use is a mistake of its own.
    let given = [
        "auth_hs256_secret",
        "auth_hs256_secret_old",
        "auth_jwks_url",
    ]
    .iter()
    .any(|key| from.given(key));
    let key = given || !auth.public_key_files.is_empty();
    if !key && !auth.allow_unsigned && from.is_complete() {
        let text = "there is nothing to check tokens with: give IM_AUTH_HS256_SECRET (or IM_AUTH_HS256_SECRET_FILE), \
            IM_AUTH_PUBLIC_KEY_FILE or IM_AUTH_JWKS_URL";
        from.mistake("auth_hs256_secret", text);
    }
}

fn store(from: &mut Reader<'_>) -> redis::Options {
    let default = redis::Options::default();
    let retention = crate::settings::retention(from);
    from.group("Redis");
    let parse = |text: &str| match im_redis_bus::Address::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let form =
        "URL: redis://, rediss://, redis+sentinel://host:port,host:port/service, redis+cluster://";
    redis::Options {
        url: from
            .parsed("redis_url", form, parse, String::clone, "The redis in which rooms live.")
            .with_credentials()
            .required(default.url),
        tls: None,
        prefix: from
            .text("redis_prefix", "What every key and channel begins with; the same for all processes of a cluster.")
            .or(default.prefix),
        connections: from
            .integer("redis_connections", "Connections to each master that all calls share.")
            .within(1..=64)
            .or(default.connections),
        append_workers: from
            .integer("redis_append_workers", "Batches of messages on their way at the same time.")
            .within(1..=64)
            .or(default.append_workers),
        wait_replicas: from
            .integer(
                "redis_wait_replicas",
                "Replicas that must confirm a message before it is published and acknowledged; 0: none.",
            )
            .within(0..=16)
            .or(default.wait_replicas),
        wait_timeout: from
            .duration("redis_wait_timeout", "How long they have; then the send fails as `not_replicated`, retryable.")
            .within(Duration::from_millis(10)..=Duration::from_secs(60))
            .or(default.wait_timeout),
        command_timeout: from
            .duration("redis_timeout", "How long redis may take to answer.")
            .within(Duration::from_millis(50)..=Duration::from_secs(60))
            .or(default.command_timeout),
        connect_timeout: from
            .duration("redis_connect_timeout", "How long opening a connection to redis may take.")
            .within(Duration::from_millis(50)..=Duration::from_secs(60))
            .or(default.connect_timeout),
        queue: from
            .integer("redis_queue", "Messages that may wait in each append queue; more fail at once as `unavailable`.")
            .within(1..=1 << 20)
            .or(default.queue),
        batch: from.integer("redis_batch", "Messages in one script call at most.").within(1..=1024).or(default.batch),
        retention,
    }
}

fn peer_secret(from: &mut Reader<'_>) -> Option<Secret> {
    from.strong_secret("peer_secret", peer::HELP)
        .optional()
        .map(|secret| Secret::new(secret.reveal()))
}

fn peers(from: &mut Reader<'_>, secret: Option<Secret>) -> peers::Options {
    let default = peers::Options::default();
    peers::Options {
        timeout: from
            .duration(
                "peer_timeout",
                "How long a connect process may take to deliver a push or end a connection.",
            )
            .within(Duration::from_millis(100)..=Duration::from_secs(60))
            .or(default.timeout),
        secret,
        ..default
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use im_runtime::documentation;
    use im_runtime::settings::{Stop, load};

    use super::*;

    const STORES: [(&str, &str); 3] = [
        ("IM_REDIS_URL", "redis://localhost/"),
        ("IM_ETCD_ENDPOINTS", "http://localhost:2379"),
        ("IM_GRPC_LISTEN", "127.0.0.1:3119"),
    ];
    const LONG: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "another secret of more than 32 bytes";

    fn try_load(environment: &[(&str, &str)]) -> Result<Settings, Stop> {
        let environment = STORES
            .iter()
            .chain(environment)
            .map(|(name, value)| (name.into(), value.into()));
        load(PROGRAM, Settings::read, [], environment)
    }

    fn mistakes(environment: &[(&str, &str)]) -> Vec<String> {
        match try_load(environment) {
            Err(Stop::Mistakes(mistakes)) => mistakes.iter().map(ToString::to_string).collect(),
            other => panic!("no mistakes with {environment:?}: {other:?}"),
        }
    }

    #[test]
    fn the_documentation_lists_every_setting() {
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        let wanted = documentation::settings(PROGRAM, DRAIN, Settings::read);
        documentation::check(&document, PROGRAM.name, &wanted).unwrap();
    }

    #[test]
    fn nothing_starts_without_a_key_to_check_tokens_with() {
        let mistakes = mistakes(&[]);
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert!(
            mistakes[0].starts_with(
                "auth_hs256_secret (not given): there is nothing to check tokens with"
            ),
            "{mistakes:?}"
        );
        for given in [
            ("IM_AUTH_HS256_SECRET", LONG),
            ("IM_AUTH_PUBLIC_KEY_FILE", "a.pem,b.pem"),
            ("IM_AUTH_ALLOW_UNSIGNED", "true"),
        ] {
            assert!(try_load(&[given]).is_ok(), "{given:?}");
        }
    }

    #[test]
    fn weak_set_ups_are_refused() {
        let key = ("IM_AUTH_HS256_SECRET", LONG);
        for (weak, says) in [
            (
                ("IM_AUTH_HS256_SECRET", "0123456789abcdef0123456789abcde"),
                "it has 31 bytes and can be found by trying",
            ),
            (
                ("IM_AUTH_HS256_SECRET_OLD", "hush"),
                "it has 4 bytes and can be found by trying",
            ),
            (
                ("IM_PEER_SECRET", "hush"),
                "it has 4 bytes and can be found by trying",
            ),
            (
                ("IM_AUTH_JWKS_URL", "http://keys.example/"),
                "it begins with http://",
            ),
        ] {
            let found = mistakes(&[key, weak]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(
                found[0].contains(says) && !found[0].contains("hush"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn whoever_can_reach_the_internal_port_must_show_something() {
        let key = ("IM_AUTH_HS256_SECRET", LONG);
        for open in ["0.0.0.0:3119", "10.0.0.7:3119", "[::]:3119"] {
            let listen = ("IM_GRPC_LISTEN", open);
            let found = mistakes(&[key, listen]);
            assert!(
                found.len() == 1 && found[0].contains(open) && found[0].contains("IM_PEER_SECRET"),
                "{found:?}"
            );
            assert!(try_load(&[key, listen, ("IM_PEER_SECRET", OTHER)]).is_ok());
            let tls = ["IM_TLS_CERT_FILE", "IM_TLS_KEY_FILE", "IM_TLS_CA_FILE"]
                .map(|name| (name, "/pem"));
            assert!(try_load(&[key, listen, tls[0], tls[1], tls[2]]).is_ok());
        }
        assert!(try_load(&[key, ("IM_GRPC_LISTEN", "[::1]:3119")]).is_ok());
    }

    #[test]
    fn what_is_given_arrives_where_it_belongs() {
        let settings = try_load(&[
            ("IM_AUTH_HS256_SECRET", LONG),
            ("IM_AUTH_HS256_SECRET_OLD", OTHER),
            ("IM_PEER_SECRET", OTHER),
            ("IM_REDIS_WAIT_REPLICAS", "2"),
            ("IM_DEDUPE_WINDOW", "10m"),
            ("IM_HTTP_LISTEN", "127.0.0.1:1"),
        ])
        .unwrap();
        assert_eq!(
            settings.logic.auth.hs256_secrets,
            [Secret::new(LONG), Secret::new(OTHER)]
        );
        assert_eq!(settings.logic.uplink.secret, Some(Secret::new(OTHER)));
        assert_eq!(settings.peers.secret, Some(Secret::new(OTHER)));
        assert_eq!(settings.store.wait_replicas, 2);
        assert_eq!(
            settings.store.retention.dedupe_window,
            Duration::from_secs(600)
        );
        assert_eq!(settings.http_listen.port(), 1);
    }
}
