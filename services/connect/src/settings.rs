//! A node's settings, mapped to [`Options`]. Those of a cluster's process are in [`cluster`].

#[cfg(feature = "cluster")]
pub mod cluster;

use std::net::IpAddr;
use std::time::Duration;

use im_runtime::settings::Reader;
use ipnet::IpNet;

use crate::Options;

/// Asks for everything in [`Options`] but `node` and `drain_deadline`, which the process as a whole has. `default` holds
/// where nothing is given.
pub fn options(from: &mut Reader<'_>, default: Options) -> Options {
    let options = clients(from, default);
    let options = limits(from, options);
    hub(from, options)
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn clients(from: &mut Reader<'_>, default: Options) -> Options {
    from.group("Clients");
    Options {
        tcp_listen: from.address("tcp_listen", "Where TCP clients connect.").or(default.tcp_listen),
        ws_listen: from
            .address("ws_listen", "Where WebSocket clients connect, on `/sub` and `/ws`.")
            .or(default.ws_listen),
        ws_allowed_origins: from
            .list(
                "ws_allowed_origins",
                "origin",
                origin,
                String::clone,
                "Whose pages may open a WebSocket, such as `https://chat.example.org`; `*`: any. Others get 403. Not given: `Origin` is not looked at. Clients that are no browsers say no origin and are not meant.",
            )
            .or(default.ws_allowed_origins),
        proxy_protocol_from: from
            .list("proxy_protocol_from", "addresses", net, IpNet::to_string, "Peers (`10.0.0.0/8`, `192.0.2.7`) that begin every connection, TCP and WebSocket, with a PROXY protocol header of version 1 or 2. Limits per address count the client's; without the header such a connection is closed.")
            .or(default.proxy_protocol_from),
        forwarded_from: from
            .list("forwarded_from", "addresses", net, IpNet::to_string, "Peers whose `X-Forwarded-For` at the WebSocket upgrade is believed: the last address in it that is none of these counts as the client's.")
            .or(default.forwarded_from),
        shards: from
            .integer("shards", "Threads, each with its own listeners, connections and part of the hub.")
            .within(1..=64)
            .or_computed(default.shards, "one per core"),
        handshake_timeout: from
            .duration("handshake_timeout", "How long a new connection may take until its authentication is complete.")
            .within(SECOND..=HOUR)
            .or(default.handshake_timeout),
        heartbeat_timeout: from
            .duration("heartbeat_timeout", "A client that is not heard for so long is closed (`heartbeat_timeout`).")
            .within(SECOND..=24 * HOUR)
            .or(default.heartbeat_timeout),
        drain_accept: from
            .duration("drain_accept", "How long a node that leaves goes on accepting, only to answer \"move\".")
            .within(Duration::ZERO..=HOUR)
            .or(default.drain_accept),
        drain_floor: from
            .integer("drain_floor", "Clients told to move per second, at least.")
            .within(1..=1_000_000)
            .or(default.drain_floor),
        ..default
    }
}

fn net(text: &str) -> Result<IpNet, String> {
    let one = text.parse::<IpAddr>().map(IpNet::from);
    one.or_else(|_| text.parse())
        .map_err(|_| "write an address or a network such as 10.0.0.0/8".to_owned())
}

fn origin(text: &str) -> Result<String, String> {
    let is_origin = match text.split_once("://") {
        Some((scheme, host)) => {
            scheme.bytes().all(|b| b.is_ascii_alphanumeric())
                && !host.is_empty()
                && !host.contains(['/', '?', '#', '@'])
        }
        None => text == "*",
    };
    if is_origin {
        Ok(text.to_owned())
    } else {
        Err("write scheme://host or scheme://host:port, without a path, or *".to_owned())
    }
}

fn limits(from: &mut Reader<'_>, default: Options) -> Options {
    from.group("Limits on clients");
    Options {
        max_connections: from
            .integer("max_connections", "Connections at once; further ones are refused (`too_many_connections`).")
            .within(1..=10_000_000)
            .or(default.max_connections),
        max_connections_per_ip: from
            .integer("max_connections_per_ip", "Connections at once from one address.")
            .within(1..=10_000_000)
            .or(default.max_connections_per_ip),
        max_connections_per_user: from
            .integer("max_connections_per_user", "Connections at once of one user; a further one is refused (`too_many_connections`), those that are open stay.")
            .within(1..=10_000_000)
            .or(default.max_connections_per_user),
        max_unidentified: from
            .integer("max_unidentified", "Sockets at once that are not authenticated yet. At more the one that has said nothing for longest goes, and where all have asked to be let in, the newcomer.")
            .within(64..=10_000_000)
            .or(default.max_unidentified),
        handshake_bytes: from
            .bytes("handshake_bytes", "What these may have sent together, beyond 8 KiB each; more is refused (`too_many_connections`).")
            .within(1 << 20..=1 << 40)
            .or(default.handshake_bytes),
        auth_failures_per_ip: from
            .integer("auth_failures_per_ip", "Authentications from one address that may fail before further ones from there wait: 1 s after the next, twice that after each further one, up to half of `handshake_timeout`; half of the failures are forgotten each minute. A token that was good before waits for nothing.")
            .within(1..=10_000_000)
            .or(default.auth_failures_per_ip),
        accepts_per_second_per_ip: from
            .integer("accepts_per_second_per_ip", "Connections accepted per second and shard from one address, twice as many at once; more are refused (`too_many_connections`).")
            .within(1..=10_000_000)
            .or(default.accepts_per_second_per_ip),
        accepts_per_second: from
            .integer(
                "accepts_per_second",
                "Connections accepted per second and shard, a twentieth of them at once; more wait in the system's queue.",
            )
            .within(1..=1_000_000)
            .or(default.accepts_per_second),
        max_body: from
            .bytes("max_body", "The longest body of a frame; a longer one ends the connection (`too_large`).")
            .within(1024..=16 << 20)
            .or(default.max_body),
        outbox_bytes: from
            .bytes("outbox_bytes", "What may wait for a slow reader before it is closed (`slow_reader`).")
            .within(16 << 10..=1 << 30)
            .or(default.outbox_bytes),
        outbox_total: from
            .bytes("outbox_total", "What may wait for all slow readers together; beyond it the largest outboxes are closed (`slow_reader`). Each shard has its share.")
            .within(16 << 20..=1 << 40)
            .or(default.outbox_total),
        max_rooms: from
            .integer("max_rooms", "Rooms that one connection may hear.")
            .within(1..=1_000_000)
            .or(default.max_rooms),
        max_in_flight: from
            .integer("max_in_flight", "Requests of one connection under way; beyond it its socket is not read.")
            .within(1..=65_536)
            .or(default.max_in_flight),
        requests_per_second: from
            .integer(
                "requests_per_second",
                "Requests per second of one connection, twice as many at once; beyond it its socket is not read for a moment.",
            )
            .within(1..=1_000_000)
            .or(default.requests_per_second),
        bytes_per_second: from
            .bytes("bytes_per_second", "Bytes per second that one connection may send, eight times as many at once; beyond it its socket is not read for a moment.")
            .within(1 << 10..=1 << 40)
            .or(default.bytes_per_second),
        user_bytes_per_second: from
            .bytes("user_bytes_per_second", "The same for one user over their connections on a shard.")
            .within(1 << 10..=1 << 40)
            .or(default.user_bytes_per_second),
        user_requests_per_second: from
            .integer("user_requests_per_second", "The same for one user over their connections on a shard.")
            .within(1..=1_000_000)
            .or(default.user_requests_per_second),
        user_read_bytes_per_second: from
            .bytes("user_read_bytes_per_second", "Bytes of logs that are read per second for one user over their connections on a shard (catching up, history); more wait.")
            .within(64 << 10..=1 << 40)
            .or(default.user_read_bytes_per_second),
        user_rooms_per_second: from
            .integer("user_rooms_per_second", "Rooms per second that are looked up for one user over their connections on a shard (subscribing), a quarter of them at once; more wait.")
            .within(10..=1_000_000)
            .or(default.user_rooms_per_second),
        ip_requests_per_second: from
            .integer("ip_requests_per_second", "The same for one address on a shard.")
            .within(1..=10_000_000)
            .or(default.ip_requests_per_second),
        flood_after: from
            .duration("flood_after", "A connection over its rate without a pause for so long is closed (`flood`).")
            .within(SECOND..=HOUR)
            .or(default.flood_after),
        ..default
    }
}

fn hub(from: &mut Reader<'_>, default: Options) -> Options {
    from.group("Rooms on a node");
    Options {
        shard_stall: from
            .duration("shard_stall", "A shard that does not turn for so long makes `/healthz` fail, so that the process is started again.")
            .within(SECOND..=HOUR)
            .or(default.shard_stall),
        bus_queue: from
            .integer("bus_queue", "Events that may wait between the bus and the shards; beyond it they are dropped, and every room is compared with its log.")
            .within(64..=1 << 24)
            .or(default.bus_queue),
        bus_queue_bytes: from
            .bytes("bus_queue_bytes", "Bytes of events that may wait there; beyond it as with `bus_queue`.")
            .within(1 << 20..=16 << 30)
            .or(default.bus_queue_bytes),
        shard_queue: from
            .integer("shard_queue", "Events that may wait for a shard; beyond it they are dropped, and every room is compared with its log.")
            .within(64..=1 << 24)
            .or(default.shard_queue),
        room_pending: from
            .integer("room_pending", "Events that may wait while a room is repaired; beyond it they are fetched later.")
            .within(1..=1 << 20)
            .or(default.room_pending),
        shard_queue_bytes: from
            .bytes("shard_queue_bytes", "Bytes of events that may wait for a shard; beyond it as with `shard_queue`.")
            .within(1 << 20..=16 << 30)
            .or(default.shard_queue_bytes),
        room_pending_bytes: from
            .bytes("room_pending_bytes", "Bytes of events that may wait on a shard while rooms are repaired; beyond it they are fetched later.")
            .within(1 << 16..=16 << 30)
            .or(default.room_pending_bytes),
        coalesce: from
            .duration("coalesce", "How long a busy shard holds back a busy room's next messages at most, so that more of them share a write. `0s`: never.")
            .within(Duration::ZERO..=SECOND)
            .or(default.coalesce),
        room_linger: from
            .duration("room_linger", "How long a room nobody is in any more stays subscribed.")
            .within(Duration::ZERO..=HOUR)
            .or(default.room_linger),
        head_compare: from
            .duration("head_compare", "Once in so long every room's head is compared with its log, so that a lost last message is found.")
            .within(SECOND..=HOUR)
            .or(default.head_compare),
        rooms_compare: from
            .duration("rooms_compare", "Once in so long a connection that follows all its user's rooms has their list compared, so that a new or lost room is found although its notification was lost.")
            .within(SECOND..=HOUR)
            .or(default.rooms_compare),
        fetch_entries: from
            .integer("fetch_entries", "Messages asked for at once when catching up.")
            .within(1..=10_000)
            .or(default.fetch_entries),
        fetch_bytes: from
            .bytes("fetch_bytes", "Bytes asked for at once when catching up.")
            .within(1 << 10..=16 << 20)
            .or(default.fetch_bytes),
        catch_up_at_once: from
            .integer("catch_up_at_once", "Pages that one connection may have asked for at once when catching up; fewer where its outbox has no room for them.")
            .within(1..=64)
            .or(default.catch_up_at_once),
        catch_up_bytes: from
            .bytes("catch_up_bytes", "Bytes of pages that a shard may have asked for at once, over all its connections that catch up; they take turns.")
            .within(1 << 16..=1 << 30)
            .or(default.catch_up_bytes),
        lease: from
            .duration("presence_lease", "The presence of a node's connections is void so long after its last sign of life.")
            .within(3 * SECOND..=HOUR)
            .or(default.lease),
        ..default
    }
}
