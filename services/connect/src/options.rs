//! What a node runs with.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

/// Addresses, limits and times of one connect process. The defaults suit a node of two cores.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node's name: unique among the living, shown to clients, part of presence.
    pub node: String,
    /// Where TCP clients connect. Default `0.0.0.0:3101`.
    pub tcp_listen: SocketAddr,
    /// Where WebSocket clients connect, on `/sub` and `/ws`. Default `0.0.0.0:3102`.
    pub ws_listen: SocketAddr,
    /// Origins whose pages may open a WebSocket, `*` for any; empty: not looked at. Default empty.
    pub ws_allowed_origins: Vec<String>,
    /// Peers that begin every connection with a PROXY protocol header (version 1 or 2), on both ports. Default none.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Peers whose `X-Forwarded-For` at the WebSocket upgrade is believed. Default none.
    pub forwarded_from: Vec<IpNet>,
    /// Threads, each with its own listeners, connections and part of the hub. Default: one per core.
    pub shards: usize,
    /// Connections at once, in all. Default 100,000.
    pub max_connections: usize,
    /// Connections at once from one address. Default 20,000.
    pub max_connections_per_ip: usize,
    /// Connections at once of one user. Default 100.
    pub max_connections_per_user: usize,
    /// Sockets at once that are not authenticated yet, in all. Default 10,000.
    pub max_unidentified: usize,
    /// What they may have sent together beyond 8 KiB each, in bytes. Default 32 MiB.
    pub handshake_bytes: usize,
    /// Authentications from one address that may fail before further ones from there wait. Default 20.
    pub auth_failures_per_ip: u32,
    /// Connections accepted per second and shard, with a twentieth of them at once; more wait in the system's queue. Default 5,000.
    pub accepts_per_second: u32,
    /// The same from one address, with twice as many at once; more are refused. Default 2,500.
    pub accepts_per_second_per_ip: u32,
    /// From accept until auth is complete. Default 10 s.
    pub handshake_timeout: Duration,
    /// A client that is not heard for so long is closed. Default 90 s.
    pub heartbeat_timeout: Duration,
    /// Body of a frame, in bytes; the header comes on top. Default 64 KiB.
    pub max_body: usize,
    /// Bytes that may wait for a slow reader before it is closed. Default 1 MiB.
    pub outbox_bytes: usize,
    /// Bytes that may wait for all slow readers together; beyond it the largest outboxes are closed. Default 256 MiB.
    pub outbox_total: usize,
    /// Rooms that one connection may hear. Default 1,000.
    pub max_rooms: usize,
    /// Calls to logic that one connection may have under way; beyond it its socket is not read. Default 64.
    pub max_in_flight: u32,
    /// Requests per second of one connection, with twice as many at once; beyond it the connection is read more slowly.
    /// Default 100.
    pub requests_per_second: u32,
    /// Bytes per second of one connection, with eight times as many at once. Default 256 KiB.
    pub bytes_per_second: usize,
    /// Bytes per second of one user over their connections on a shard, with eight times as many at once. Default 512 KiB.
    pub user_bytes_per_second: usize,
    /// Requests per second of one user over their connections on a shard, with twice as many at once. Default 200.
    pub user_requests_per_second: u32,
    /// Bytes of logs that are read per second for one user over their connections on a shard, catching up and history; more
    /// wait. Default 2 MiB.
    pub user_read_bytes_per_second: usize,
    /// Rooms per second that are looked up for one user over their connections on a shard, with a quarter of them at once;
    /// more wait. Default 2,000.
    pub user_rooms_per_second: u32,
    /// Requests per second of one address on a shard, with twice as many at once. Default 20,000.
    pub ip_requests_per_second: u32,
    /// A connection that is over its rate without a pause for so long is closed as a flood. Default 30 s.
    pub flood_after: Duration,
    /// A shard that does not turn for so long makes the process count as not alive. Default 15 s.
    pub shard_stall: Duration,
    /// Events that may wait between the bus and the shards; beyond it they are dropped and every room is compared. Default
    /// 16,384.
    pub bus_queue: usize,
    /// Bytes of events that may wait there; beyond it as with `bus_queue`. Default 64 MiB.
    pub bus_queue_bytes: usize,
    /// Events that may wait for a shard; beyond it they are dropped and every room is compared. Default 16,384.
    pub shard_queue: usize,
    /// Events that may wait while a room is repaired; beyond it they are dropped and fetched. Default 1,024.
    pub room_pending: usize,
    /// Bytes of events that may wait for a shard; beyond it as with `shard_queue`. Default 64 MiB.
    pub shard_queue_bytes: usize,
    /// Bytes of events that may wait on a shard while rooms are repaired; beyond it as with `room_pending`. Default 32 MiB.
    pub room_pending_bytes: usize,
    /// How long a busy shard holds back a busy room's next messages at most, so that more of them share a write. Default
    /// 20 ms.
    pub coalesce: Duration,
    /// How long a room nobody is in any more stays subscribed. Default 30 s.
    pub room_linger: Duration,
    /// Every room's head is compared with the log once in so long. Default 30 s.
    pub head_compare: Duration,
    /// The list of rooms of each user with a connection that follows all of them is compared with logic's once in so long.
    /// Default 30 s.
    pub rooms_compare: Duration,
    /// Entries asked for at once when catching up. Default 200.
    pub fetch_entries: u32,
    /// Bytes asked for at once when catching up. Default 256 KiB.
    pub fetch_bytes: u32,
    /// Pages that one connection may have asked for at once when catching up. Default 4.
    pub catch_up_at_once: u32,
    /// Bytes of pages that a shard may have asked for at once, over all its connections that catch up. Default 16 MiB.
    pub catch_up_bytes: usize,
    /// The presence of the node's connections is void so long after its last sign of life. Default 15 s.
    pub lease: Duration,
    /// How long a drain goes on accepting, to answer "move". Default 2 s.
    pub drain_accept: Duration,
    /// From the beginning of a drain until the last client is closed. Default 60 s.
    pub drain_deadline: Duration,
    /// Clients told to move per second, at least. Default 100.
    pub drain_floor: u32,
}

impl Default for Options {
    fn default() -> Self {
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        Self {
            node: "connect".to_owned(),
            tcp_listen: any(3101),
            ws_listen: any(3102),
            ws_allowed_origins: Vec::new(),
            proxy_protocol_from: Vec::new(),
            forwarded_from: Vec::new(),
            shards: std::thread::available_parallelism().map_or(1, usize::from),
            max_connections: 100_000,
            max_connections_per_ip: 20_000,
            max_connections_per_user: 100,
            max_unidentified: 10_000,
            handshake_bytes: 32 << 20,
            auth_failures_per_ip: 20,
            accepts_per_second: 5_000,
            accepts_per_second_per_ip: 2_500,
            handshake_timeout: Duration::from_secs(10),
            heartbeat_timeout: Duration::from_secs(90),
            max_body: 64 << 10,
            outbox_bytes: 1 << 20,
            outbox_total: 256 << 20,
            max_rooms: 1_000,
            max_in_flight: 64,
            requests_per_second: 100,
            bytes_per_second: 256 << 10,
            user_bytes_per_second: 512 << 10,
            user_requests_per_second: 200,
            user_read_bytes_per_second: 2 << 20,
            user_rooms_per_second: 2_000,
            ip_requests_per_second: 20_000,
            flood_after: Duration::from_secs(30),
            shard_stall: Duration::from_secs(15),
            bus_queue: 16_384,
            bus_queue_bytes: 64 << 20,
            shard_queue: 16_384,
            room_pending: 1_024,
            shard_queue_bytes: 64 << 20,
            room_pending_bytes: 32 << 20,
            coalesce: Duration::from_millis(20),
            room_linger: Duration::from_secs(30),
            head_compare: Duration::from_secs(30),
            rooms_compare: Duration::from_secs(30),
            fetch_entries: 200,
            fetch_bytes: 256 << 10,
            catch_up_at_once: 4,
            catch_up_bytes: 16 << 20,
            lease: Duration::from_secs(15),
            drain_accept: Duration::from_secs(2),
            drain_deadline: Duration::from_secs(60),
            drain_floor: 100,
        }
    }
}
