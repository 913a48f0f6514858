//! Logic's settings, mapped to [`Options`]. Those of a cluster's process are in [`cluster`].

#[cfg(feature = "cluster")]
pub mod cluster;

use std::time::Duration;

use im_runtime::settings::Reader;
use ipnet::IpNet;

use crate::Options;
use crate::auth::{self, Secret};
use crate::options::{AddPolicy, Compat, Http, Limits};
use crate::store::Retention;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Asks for everything in [`Options`] but what only a cluster has, and how logic drains.
pub fn options(from: &mut Reader<'_>) -> Options {
    let default = Options::default();
    Options {
        auth: auth(from, default.auth),
        limits: limits(from, default.limits),
        http: http(from, default.http),
        compat: compat(from, default.compat),
        ..default
    }
}

fn auth(from: &mut Reader<'_>, default: auth::Options) -> auth::Options {
    from.group("Who is believed");
    let path = |text: &str| Ok(std::path::PathBuf::from(text));
    let any = |text: &str| Ok(text.to_owned());
    auth::Options {
        hs256_secrets: [
            from.strong_secret("auth_hs256_secret", "The secret that HS256 tokens are signed with; 32 random bytes or more.")
                .optional(),
            from.strong_secret("auth_hs256_secret_old", "A second secret that is accepted while the first takes its place.")
                .optional(),
        ]
        .into_iter()
        .flatten()
        .map(|secret| Secret::new(secret.reveal()))
        .collect(),
        public_key_files: from
            .list(
                "auth_public_key_file",
                "path",
                path,
                |path| path.display().to_string(),
                "PEM files with the public keys of ES256, EdDSA or RS256 tokens.",
            )
            .or(default.public_key_files),
        jwks_url: from
            .text("auth_jwks_url", "The URL of a JSON Web Key Set with the public keys of tokens, `https://…`; `http://…` only on this machine.")
            .check(|url| auth::jwks::check(url))
            .optional()
            .unwrap_or(default.jwks_url),
        jwks_refresh: from
            .duration("auth_jwks_refresh", "How often the key set is fetched again.")
            .within(Duration::from_secs(10)..=DAY)
            .or(default.jwks_refresh),
        issuer: from
            .text("auth_issuer", "The `iss` that a token must carry. Not given: any or none.")
            .optional()
            .unwrap_or(default.issuer),
        audience: from
            .text("auth_audience", "The `aud` that a token must carry. Not given: a token must carry none.")
            .optional()
            .unwrap_or(default.audience),
        leeway: from
            .duration("auth_leeway", "How far the clock of who signs tokens may be from this one's.")
            .within(Duration::ZERO..=HOUR)
            .or(default.leeway),
        allow_no_expiry: from
            .boolean("auth_allow_no_expiry", "Accepts tokens without `exp`: they are valid for ever.")
            .or(default.allow_no_expiry),
        allow_unsigned: from
            .boolean(
                "auth_allow_unsigned",
                "DEVELOPMENT ONLY: believes what clients without a token say of themselves. Anybody is anybody.",
            )
            .or(default.allow_unsigned),
        unsigned_rooms: from
            .list(
                "auth_unsigned_rooms",
                "pattern",
                any,
                String::clone,
                "The open rooms that an unsigned identity may enter.",
            )
            .or(default.unsigned_rooms),
        guest_prefix: default.guest_prefix,
    }
}

fn limits(from: &mut Reader<'_>, default: Limits) -> Limits {
    from.group("Limits");
    Limits {
        max_body_bytes: from
            .bytes("max_message", "The longest body of a message or signal; a longer one is refused (`too_large`).")
            .within(1..=16 << 20)
            .or(default.max_body_bytes),
        max_history_limit: from
            .integer("max_history_limit", "Messages in a page of history at most.")
            .within(1..=10_000)
            .or(default.max_history_limit),
        max_history_bytes: from
            .bytes("max_history_bytes", "About so many bytes in a page of history at most.")
            .within(1 << 10..=16 << 20)
            .or(default.max_history_bytes),
        max_rooms_per_call: from
            .integer("max_rooms_per_call", "Rooms named in one subscription at most.")
            .within(1..=100_000)
            .or(default.max_rooms_per_call),
        max_rooms_per_user: from
            .integer("max_rooms_per_user", "A user's rooms that a subscription to all of them covers at most.")
            .within(1..=1_000_000)
            .or(default.max_rooms_per_user),
        max_members_per_call: from
            .integer("max_members_per_call", "Members named when a group is created at most.")
            .within(1..=100_000)
            .or(default.max_members_per_call),
        max_users_per_call: from
            .integer("max_users_per_call", "Users asked about, or addressed by one push, at most.")
            .within(1..=100_000)
            .or(default.max_users_per_call),
        max_bans: from
            .integer("max_bans", "Bans and revocations in force at the same time; more are refused (`limit_reached`).")
            .within(1..=1_000_000)
            .or(default.max_bans),
        user_byte_rate: from
            .bytes("user_byte_rate", "Bytes of bodies per second that one user may say in the long run, over all logic processes, each of which has its part; 0: no limit. Admin tokens have none.")
            .within(0..=1 << 40)
            .or(default.user_byte_rate),
        user_byte_burst: from
            .bytes("user_byte_burst", "Bytes of bodies that one user may say at once after a pause.")
            .within(1..=1 << 40)
            .or(default.user_byte_burst),
        room_byte_rate: from
            .bytes("room_byte_rate", "Bytes of bodies per second that all together may say in one room in the long run; 0: no limit. Admin tokens have none.")
            .within(0..=1 << 40)
            .or(default.room_byte_rate),
        room_byte_burst: from
            .bytes("room_byte_burst", "Bytes of bodies that all together may say in one room at once after a pause.")
            .within(1..=1 << 40)
            .or(default.room_byte_burst),
        user_groups_per_day: from
            .integer("user_groups_per_day", "Groups that one user may make in a day (UTC); 0: no limit. Admin tokens have none.")
            .within(0..=1_000_000_000)
            .or(default.user_groups_per_day),
        user_adds_per_day: from
            .integer("user_adds_per_day", "Memberships of groups that one user may give to others in a day (UTC); 0: no limit. Admin tokens have none.")
            .within(0..=1_000_000_000)
            .or(default.user_adds_per_day),
        group_add_policy: from
            .choice(
                "group_add_policy",
                &[
                    ("anyone", AddPolicy::Anyone),
                    ("contacts", AddPolicy::Contacts),
                    ("invitation", AddPolicy::Invitation),
                    ("admins", AddPolicy::Admins),
                ],
                "Whom a user may add to a group: anyone; contacts, who have spoken or read in a direct room with them; anyone, but by an invitation that they take by joining; or nobody, members are added with admin tokens only.",
            )
            .or(default.group_add_policy),
        max_subscribed_bytes: from
            .bytes("max_subscribed_bytes", "About so many bytes in the list of rooms that a subscription to all of a user's rooms answers with; groups beyond are left out.")
            .within(1 << 12..=16 << 20)
            .or(default.max_subscribed_bytes),
        ..default
    }
}

fn http(from: &mut Reader<'_>, default: Http) -> Http {
    from.group("HTTP API");
    Http {
        max_request_bytes: from
            .bytes("http_max_request", "The largest request body; a larger one is answered with 413.")
            .within(1 << 10..=64 << 20)
            .or(default.max_request_bytes),
        request_timeout: from
            .duration("http_request_timeout", "A request is answered within this, at worst with 503.")
            .within(SECOND..=HOUR)
            .or(default.request_timeout),
        header_timeout: from
            .duration(
                "http_header_timeout",
                "A connection that has sent no whole request header for so long is closed.",
            )
            .within(SECOND..=HOUR)
            .or(default.header_timeout),
        body_timeout: from
            .duration("http_body_timeout", "A request's body has come within this, or is answered with 408.")
            .within(SECOND..=HOUR)
            .or(default.body_timeout),
        max_connections_per_ip: from
            .integer("http_max_connections_per_ip", "Open connections of one address (IPv6: of one /64) at most; more are answered with 429 and closed.")
            .within(1..=1_000_000)
            .or(default.max_connections_per_ip),
        max_requests_per_ip: from
            .integer("http_max_requests_per_ip", "Requests of one address under way at most; more are answered with 429.")
            .within(1..=1_000_000)
            .or(default.max_requests_per_ip),
        max_requests_per_user: from
            .integer("http_max_requests_per_user", "Requests of one user under way at most; more are answered with 429. Admin tokens may have any number.")
            .within(1..=1_000_000)
            .or(default.max_requests_per_user),
        max_pending_bytes: from
            .bytes("http_max_pending", "Bytes of request bodies in memory at most; more are answered with 503.")
            .within(1 << 16..=1 << 30)
            .or(default.max_pending_bytes),
        auth_failures: from
            .integer("http_auth_failures", "Tokens of one address that may be refused before it has to wait: 1 s after the next, twice that after each further one, 60 s at most.")
            .within(0..=1_000_000)
            .or(default.auth_failures),
        forwarded_from: from
            .list(
                "http_forwarded_from",
                "address or CIDR",
                network,
                ToString::to_string,
                "The proxies whose X-Forwarded-For is believed: limits per address are those of their clients. Behind a proxy that is not named here all clients have one address.",
            )
            .or(default.forwarded_from),
        allowed_origins: from
            .list(
                "http_allowed_origins",
                "origin",
                crate::serve::http::origin,
                String::clone,
                "The origins whose pages browsers let use the HTTP API (CORS), `https://app.example`; `*`: all. Not given: those of none.",
            )
            .or(default.allowed_origins),
        max_requests: from
            .integer("http_max_requests", "Requests under way at most; more are answered with 503 at once.")
            .within(1..=1_000_000)
            .or(default.max_requests),
        max_connections: from
            .integer("http_max_connections", "Open connections at most; more wait to be accepted.")
            .within(1..=1_000_000)
            .or(default.max_connections),
        user_rate: from
            .number(
                "http_user_rate",
                "Requests per second that one user may make in the long run; 0: no limit. Admin tokens have none.",
            )
            .within(0.0..=1e6)
            .or(default.user_rate),
        user_burst: from
            .number("http_user_burst", "Requests that one user may make at once after a pause.")
            .within(1.0..=1e6)
            .or(default.user_burst),
        user_read_rate: from
            .bytes("http_user_read_rate", "Bytes of messages per second that one user may read in the long run, over all logic processes, each of which has its part, four times as many at once; 0: no limit. Admin tokens have none.")
            .within(0..=1 << 40)
            .or(default.user_read_rate),
        accepts_per_second: from
            .integer("http_accepts_per_second", "Connections accepted per second, a twentieth of them at once; more wait in the system's queue.")
            .within(1..=1_000_000)
            .or(default.accepts_per_second),
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse()
        .or_else(|_| address())
        .map_err(|_| "write an address or a network, like 10.0.0.0/8".to_owned())
}

fn compat(from: &mut Reader<'_>, default: Compat) -> Compat {
    from.group("What goim's clients are told");
    Compat {
        domain: from
            .text(
                "goim_domain",
                "The name under which clients reach some node, in `/goim/nodes/weighted`. Not given: a node's address.",
            )
            .optional()
            .unwrap_or(default.domain),
        tcp_port: from.integer("goim_tcp_port", "The TCP port that goes with it.").or(default.tcp_port),
        ws_port: from.integer("goim_ws_port", "The WebSocket port that goes with it.").or(default.ws_port),
        wss_port: from.integer("goim_wss_port", "The port of WebSocket over TLS; 0: none.").or(default.wss_port),
        heartbeat: from
            .duration("goim_heartbeat", "How often a client is to send a heartbeat.")
            .within(SECOND..=HOUR)
            .or(default.heartbeat),
        heartbeat_max: from
            .integer("goim_heartbeat_max", "After how many missed heartbeats a client gives up.")
            .within(1..=1000)
            .or(default.heartbeat_max),
    }
}

/// Asks how long the store keeps what.
pub fn retention(from: &mut Reader<'_>) -> Retention {
    let default = Retention::default();
    from.group("What is kept");
    Retention {
        max_entries: from
            .integer(
                "history_max_entries",
                "Messages kept per room at most; older ones go, and clients are told `truncated`.",
            )
            .within(1..=100_000_000)
            .or(default.max_entries),
        max_age: from
            .duration(
                "history_max_age",
                "Messages older than this may go, also while nothing is said; 0s: never by age. An idle room goes by what was set when something was last said there.",
            )
            .within(Duration::ZERO..=3650 * DAY)
            .or(default.max_age),
        rooms_end_after: from
            .duration(
                "rooms_end_after",
                "An open room in which nothing was said for so long, and a group without members, end as if they were deleted; 0s: never. Groups with members and direct rooms stay.",
            )
            .within(Duration::ZERO..=3650 * DAY)
            .or(default.rooms_end_after),
        dedupe_window: from
            .duration("dedupe_window", "A send repeated with the same client id within this is stored once.")
            .within(SECOND..=DAY)
            .or(default.dedupe_window),
        max_members: from
            .integer("max_members", "Members of a group at most.")
            .within(1..=1_000_000)
            .or(default.max_members),
    }
}
