//! What an operator may choose about logic. Every field says its unit and what happens at its bound.

use std::time::Duration;

use ipnet::IpNet;

use crate::auth;

/// All of logic's options.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Who is believed.
    pub auth: auth::Options,
    /// How much of something there may be.
    pub limits: Limits,
    /// The HTTP API.
    pub http: Http,
    /// The streams that connect processes hold open.
    pub uplink: Uplink,
    /// What the routes of goim's and golang-im's backends tell clients.
    pub compat: Compat,
    /// How logic leaves.
    pub drain: Drain,
}

/// How much of something there may be. What goes beyond is refused with a code that says so, or cut where the
/// description says that.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The longest body of a message or signal, in bytes. Beyond: `too_large`.
    pub max_body_bytes: usize,
    /// The longest `type` of a message or signal, in bytes. Beyond: `bad_request`.
    pub max_type_bytes: usize,
    /// Messages in a page of history where the request does not say how many.
    pub history_limit: usize,
    /// Messages in a page of history at most; a request for more gets so many.
    pub max_history_limit: usize,
    /// About so many bytes of bodies in a page of history; the page ends early there, with one message at least.
    pub max_history_bytes: usize,
    /// Entries in the answer to one fetch at most; a node that asks for more gets so many.
    pub max_fetch_limit: usize,
    /// About so many bytes in the answer to one fetch; it ends early there, with one entry at least.
    pub max_fetch_bytes: usize,
    /// Rooms named in one subscription or one comparison of heads at most. Beyond: `limit_reached`.
    pub max_rooms_per_call: usize,
    /// A user's rooms (groups and direct rooms) that a subscription to all of them covers at most; the others, by order of
    /// id, are left out and a warning is logged.
    pub max_rooms_per_user: usize,
    /// Members named when a group is created at most. Beyond: `limit_reached`.
    pub max_members_per_call: usize,
    /// Users asked about in one question for presence, or addressed by one push, at most. Beyond: `limit_reached`.
    pub max_users_per_call: usize,
    /// Bytes of bodies per second that one user may say in the long run, over all of a cluster's logic processes, each of
    /// which has its part; zero: no limit. The scope admin has none. Beyond: `rate_limited`.
    pub user_byte_rate: usize,
    /// The same at once after a pause.
    pub user_byte_burst: usize,
    /// Bytes of bodies per second that all users together may say in one room in the long run; zero: no limit. The scope
    /// admin has none. Beyond: `rate_limited`.
    pub room_byte_rate: usize,
    /// The same at once after a pause.
    pub room_byte_burst: usize,
    /// Groups that one user may make in a day (UTC); zero: no limit. The scope admin has none. Beyond: `limit_reached`.
    pub user_groups_per_day: u64,
    /// Memberships that one user may give to others in a day (UTC); zero: no limit. The scope admin has none. Beyond:
    /// `limit_reached`.
    pub user_adds_per_day: u64,
    /// Whom a user may make a member of a group. The scope admin may anybody.
    pub group_add_policy: AddPolicy,
    /// About so many bytes in the list of a user's rooms that a subscription to all of them answers with; the others, groups
    /// last in order of id, are left out and a warning is logged.
    pub max_subscribed_bytes: usize,
    /// Work that follows an answer (indexing a new direct room, telling nodes) that may be under way; beyond, the answer
    /// waits for its own.
    pub max_follow_ups: usize,
    /// Bans and revocations in force at the same time. Beyond: `limit_reached`.
    pub max_bans: usize,
}

/// Whom a user may make a member of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddPolicy {
    /// Anybody.
    Anyone,
    /// Users who have a direct room with the one who adds them, and have spoken or read in it.
    Contacts,
    /// Anybody, who becomes a member by joining and is invited only until then.
    Invitation,
    /// Nobody: members are added by the scope admin.
    Admins,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 64 * 1024,
            max_type_bytes: 64,
            history_limit: 50,
            max_history_limit: 1000,
            max_history_bytes: 1024 * 1024,
            max_fetch_limit: 1000,
            max_fetch_bytes: 1024 * 1024,
            max_rooms_per_call: 1000,
            max_rooms_per_user: 10_000,
            max_members_per_call: 1000,
            max_users_per_call: 100,
            user_byte_rate: 512 * 1024,
            user_byte_burst: 2 * 1024 * 1024,
            room_byte_rate: 1024 * 1024,
            room_byte_burst: 4 * 1024 * 1024,
            user_groups_per_day: 100,
            user_adds_per_day: 2000,
            group_add_policy: AddPolicy::Anyone,
            max_subscribed_bytes: 512 * 1024,
            max_follow_ups: 1024,
            max_bans: 100_000,
        }
    }
}

/// The HTTP API.
#[derive(Debug, Clone)]
pub struct Http {
    /// The largest request body, in bytes; must hold a message's body in base64 and its other fields. Beyond: 413.
    pub max_request_bytes: usize,
    /// A request must be answered within this. Beyond: 503, retryable.
    pub request_timeout: Duration,
    /// A connection must have sent a request's header within this, also an idle one. Beyond: it is closed.
    pub header_timeout: Duration,
    /// A request's body must have come within this. Beyond: 408.
    pub body_timeout: Duration,
    /// Connections that one address (IPv6: one /64) may have open at most. Beyond: 429, and it is closed. Proxies of
    /// `forwarded_from` may have any number.
    pub max_connections_per_ip: usize,
    /// Requests that one address may have under way at most, until their answers have left. Beyond: 429.
    pub max_requests_per_ip: usize,
    /// Requests that one user may have under way at most, until their answers have left. The scope admin may have any
    /// number. Beyond: 429.
    pub max_requests_per_user: usize,
    /// Bytes of bodies of requests under way at most. Beyond: 503, retryable.
    pub max_pending_bytes: usize,
    /// Tokens of one address that may be refused before it has to wait: 1 s after the next, twice that after each further
    /// one, 60 s at most. It is answered 429 meanwhile, except with tokens that were good before.
    pub auth_failures: u32,
    /// The proxies whose `X-Forwarded-For` is believed.
    pub forwarded_from: Vec<IpNet>,
    /// The origins whose pages browsers let use the API, in small letters; `*`: all. Empty: those of none.
    pub allowed_origins: Vec<String>,
    /// Requests under way at most. Beyond: 503 at once, retryable.
    pub max_requests: usize,
    /// Open connections at most. Beyond: new ones wait to be accepted.
    pub max_connections: usize,
    /// Requests per second that one user may make in the long run; zero: no limit. Tokens with the admin scope have none.
    /// Beyond: 429 with `Retry-After`.
    pub user_rate: f64,
    /// Requests that one user may make at once after a pause.
    pub user_burst: f64,
    /// Bytes of messages per second that one user may read in the long run over all logic processes, each of which has its
    /// part, with four times as many at once; zero: no limit. Tokens with the admin scope have none. Beyond: 429 with
    /// `Retry-After`.
    pub user_read_rate: usize,
    /// Connections accepted per second, with a twentieth of them at once. Beyond: new ones wait to be accepted.
    pub accepts_per_second: u32,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            max_request_bytes: 256 * 1024,
            request_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            max_connections_per_ip: 1024,
            max_requests_per_ip: 256,
            max_requests_per_user: 32,
            max_pending_bytes: 64 * 1024 * 1024,
            auth_failures: 50,
            forwarded_from: Vec::new(),
            allowed_origins: Vec::new(),
            max_requests: 1024,
            max_connections: 4096,
            user_rate: 50.0,
            user_burst: 100.0,
            user_read_rate: 4 * 1024 * 1024,
            accepts_per_second: 1_000,
        }
    }
}

/// The streams that connect processes hold open.
#[derive(Debug, Clone)]
pub struct Uplink {
    /// What connect processes must show to open a stream (`authorization: Bearer …`); `None`: nothing, for a network that
    /// only the cluster's own processes reach.
    pub secret: Option<auth::Secret>,
    /// Calls of one stream that may be in flight; beyond, the stream is not read, which holds the node back.
    pub max_in_flight: usize,
    /// Replies are sent together up to about so many bytes.
    pub max_batch_bytes: usize,
    /// A call is answered within this, with `unavailable` where the store has not answered.
    pub call_timeout: Duration,
    /// A connection's silence before it is probed; after twice that it is given up.
    pub keepalive: Duration,
}

impl Default for Uplink {
    fn default() -> Self {
        Self {
            secret: None,
            max_in_flight: 4096,
            max_batch_bytes: 1024 * 1024,
            call_timeout: Duration::from_secs(10),
            keepalive: Duration::from_secs(10),
        }
    }
}

/// What goim's `/goim/nodes/weighted` tells its clients.
#[derive(Debug, Clone)]
pub struct Compat {
    /// The name under which clients reach some node; empty: the first node's address.
    pub domain: String,
    /// The TCP port that goes with `domain`.
    pub tcp_port: u16,
    /// The WebSocket port that goes with `domain`.
    pub ws_port: u16,
    /// The port of WebSocket over TLS; 0: none.
    pub wss_port: u16,
    /// How often a client is to send a heartbeat.
    pub heartbeat: Duration,
    /// After how many missed heartbeats a client gives a connection up.
    pub heartbeat_max: u32,
}

impl Default for Compat {
    fn default() -> Self {
        Self {
            domain: String::new(),
            tcp_port: 3101,
            ws_port: 3102,
            wss_port: 0,
            heartbeat: Duration::from_secs(30),
            heartbeat_max: 3,
        }
    }
}

/// How logic leaves: it goes on answering, then ends its streams and connections where nothing is in flight.
#[derive(Debug, Clone)]
pub struct Drain {
    /// Goes on as before for this long, so that nodes and load balancers learn of it and go elsewhere by themselves.
    pub at_least: Duration,
    /// What still stands after this is cut.
    pub at_most: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            at_least: Duration::from_secs(3),
            at_most: Duration::from_secs(30),
        }
    }
}
