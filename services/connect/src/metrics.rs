//! What a node counts. Deliveries are counted per fan-out, not per receiver, so that the counters cost nothing there.

use std::cell::Cell;
use std::sync::LazyLock;

use prometheus::{
    Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, register_gauge,
    register_gauge_vec, register_histogram, register_int_counter, register_int_counter_vec,
    register_int_gauge, register_int_gauge_vec,
};

macro_rules! metrics {
    ($($name:ident: $kind:ty = $register:ident($metric:literal, $help:literal $(, $more:expr)?);)*) => {
        $(
            #[doc = $help]
            pub(crate) static $name: LazyLock<$kind> = LazyLock::new(|| {
                // Names are unique and valid: the test below registers them all.
                $register!($metric, $help $(, $more)?).expect(concat!($metric, " registers"))
            });
        )*

        /// Registers everything, so that a scrape shows zeros instead of nothing.
        pub(crate) fn register() {
            $(LazyLock::force(&$name);)*
        }
    };
}

metrics! {
    CONNECTIONS: IntGaugeVec = register_int_gauge_vec("im_connect_connections", "Authenticated connections, by dialect.", &["dialect"]);
    SOCKETS: IntGauge = register_int_gauge("im_connect_sockets", "Accepted sockets, authenticated or not.");
    REFUSED: IntCounterVec = register_int_counter_vec("im_connect_refused_total", "Sockets refused at the door, by reason.", &["reason"]);
    CLOSED: IntCounterVec = register_int_counter_vec("im_connect_closed_total", "Connections ended, by close code.", &["code"]);
    MALFORMED: IntCounterVec = register_int_counter_vec("im_connect_malformed_total", "Frames that are not of the protocol, by close code.", &["code"]);
    REQUESTS: IntCounterVec = register_int_counter_vec("im_connect_requests_total", "Requests of clients, by operation.", &["op"]);
    RATE_LIMITED: IntCounterVec = register_int_counter_vec("im_connect_rate_limited_total", "Times that a connection over a rate had to wait: was not read for a moment, or had its rooms or its history looked up later, by whose limit.", &["limit"]);
    HANDSHAKE: Histogram = register_histogram("im_connect_handshake_seconds", "From accept until a client is authenticated.");
    DELIVERIES: IntCounter = register_int_counter("im_connect_deliveries_total", "Messages handed to connections.");
    WRITES: IntCounter = register_int_counter("im_connect_writes_total", "Writes to sockets, those that the socket did not take included.");
    FAN_OUTS: IntCounter = register_int_counter("im_connect_fan_outs_total", "Batches written to a room's members.");
    HELD: IntCounter = register_int_counter("im_connect_batches_held_total", "Batches of busy rooms that a busy shard held back, so that more messages share a write.");
    FAN_OUT_SHARE: GaugeVec = register_gauge_vec("im_connect_fan_out_ratio", "The share of its time that a shard spends in writing to rooms' members, by shard; from 0.35 on busy rooms' batches are held back.", &["shard"]);
    SLOW_READERS: IntCounter = register_int_counter("im_connect_slow_readers_total", "Connections ended because their outbox was full.");
    OUTBOXES_SHED: IntCounter = register_int_counter("im_connect_outboxes_shed_total", "Connections ended because all outboxes together were over `outbox_total` and theirs was among the largest.");
    UNIDENTIFIED: IntGauge = register_int_gauge("im_connect_unidentified", "Sockets that are not authenticated yet.");
    WAITING_FOR_LOGIC: IntGauge = register_int_gauge("im_connect_waiting_for_logic", "Clients that wait to be authenticated because logic has not been found yet.");
    AUTH_DELAYED: IntCounter = register_int_counter("im_connect_auth_delayed_total", "Authentications that had to wait because too many from their address had failed.");
    SIGNALS_DROPPED: IntCounter = register_int_counter("im_connect_signals_dropped_total", "Signals not delivered because an outbox was half full, too many came to one room at once, or too many pushes waited.");
    OUTBOX_BYTES: IntGaugeVec = register_int_gauge_vec("im_connect_outbox_bytes", "Bytes that wait for slow readers, by shard.", &["shard"]);
    ROOMS: IntGaugeVec = register_int_gauge_vec("im_connect_rooms", "Rooms that somebody is in or has just left, by shard.", &["shard"]);
    REPEATS: IntCounter = register_int_counter("im_connect_repeats_dropped_total", "Messages that came again from the bus and were dropped.");
    GAPS: IntCounter = register_int_counter("im_connect_gaps_total", "Jumps in seq or changes of epoch seen on the bus.");
    REPAIRS: IntCounter = register_int_counter("im_connect_repairs_total", "Rooms whose log was asked because something was or might be missing.");
    RESETS: IntCounter = register_int_counter("im_connect_resets_total", "Rooms whose delivered tail the store had lost.");
    PENDING_OVERFLOWS: IntCounter = register_int_counter("im_connect_room_pending_overflows_total", "Events dropped because too many, or too many bytes of them, waited for rooms' repairs.");
    FETCHES: IntCounterVec = register_int_counter_vec("im_connect_fetches_total", "Questions to the log, by outcome.", &["outcome"]);
    QUESTIONS: IntGaugeVec = register_int_gauge_vec("im_connect_questions_waiting", "Rooms to be repaired or compared and pages of history to be fetched that wait for their turn, by shard; each room and each member of a room waits once at most.", &["shard"]);
    PUSHES_WAITING: IntGaugeVec = register_int_gauge_vec("im_connect_pushes_waiting", "Pushes that take turns with others on their way through a shard's connections; bound: 256, further ones are dropped.", &["shard"]);
    GIVEN_UP: IntCounter = register_int_counter("im_connect_questions_given_up_total", "Questions to the log that failed for good: who hears the room is told what cannot be had, or no longer hears it.");
    COMPARED: IntCounter = register_int_counter("im_connect_heads_compared_total", "Rooms whose head was compared with the log's.");
    RIGHTS_ASKED_AGAIN: IntCounter = register_int_counter("im_connect_rights_asked_again_total", "Questions what a user may hear that were asked again because a right ended, or a newer token came, while logic answered.");
    LISTS_COMPARED: IntCounter = register_int_counter("im_connect_room_lists_compared_total", "Lists of a user's rooms that were compared with logic's, for connections that follow all of them.");
    LISTS_CHANGED: IntCounter = register_int_counter("im_connect_room_lists_changed_total", "Compared lists that were new or had changed.");
    LIST_ROOMS_FOUND: IntCounter = register_int_counter("im_connect_room_list_rooms_found_total", "Rooms that a connection heard of by comparing lists: the notification had not come.");
    BUS_QUEUE: IntGauge = register_int_gauge("im_connect_bus_queue", "Events that wait between the bus and the shards; bound: bus_queue.");
    BUS_QUEUE_BYTES: IntGauge = register_int_gauge("im_connect_bus_queue_bytes", "Bytes of the events that wait between the bus and the shards; bound: bus_queue_bytes.");
    SHARD_QUEUE: IntGaugeVec = register_int_gauge_vec("im_connect_shard_queue", "Events that wait for a shard.", &["shard"]);
    SHARD_QUEUE_BYTES: IntGaugeVec = register_int_gauge_vec("im_connect_shard_queue_bytes", "Bytes of the events that wait for a shard; bound: shard_queue_bytes.", &["shard"]);
    PENDING_BYTES: IntGaugeVec = register_int_gauge_vec("im_connect_room_pending_bytes", "Bytes of events that wait for repairs of their rooms, by shard; bound: room_pending_bytes.", &["shard"]);
    SHARD_QUEUE_FULL: IntCounter = register_int_counter("im_connect_shard_queue_full_total", "Events dropped because a shard's queue was full, by their number or their bytes; its rooms are compared then.");
    POSSIBLE_GAPS: IntCounter = register_int_counter("im_connect_bus_disturbed_total", "Times that the bus may have lost events.");
    BANS: IntGauge = register_int_gauge("im_connect_bans", "Bans and revocations in the node's copy of the list.");
    BANS_AGE: Gauge = register_gauge("im_connect_bans_age_seconds", "How long ago logic last said what has changed in the list of bans; the list known then is in force.");
    BANNED: IntCounterVec = register_int_counter_vec("im_connect_banned_total", "Connections ended by a ban or revocation, by what it is about.", &["kind"]);
    MOVED: IntCounter = register_int_counter("im_connect_drain_moved_total", "Clients told to move.");
    ENDS_WAITING: IntGaugeVec = register_int_gauge_vec("im_connect_ends_waiting", "Ends of connections that logic has not been told of yet, by shard; bound: 16,384 and 4 MiB.", &["shard"]);
    ENDS_DROPPED: IntCounter = register_int_counter("im_connect_ends_dropped_total", "Ends of connections not told because too many waited; the next round of presence finds them.");
    PRESENCE_CORRECTED: IntCounterVec = register_int_counter_vec("im_connect_presence_corrected_total", "Connections whose presence was not as this node has it: restored, or ended.", &["what"]);
    DRAINING: IntGauge = register_int_gauge("im_connect_draining", "1 while the node drains.");
}

thread_local! {
    /// Writes of this thread that [`WRITES`] does not have yet: an atomic per write would be shared by all threads.
    static UNCOUNTED: Cell<u64> = const { Cell::new(0) };
}

/// Counts a write to a socket; [`publish_writes`] makes it show.
pub(crate) fn count_write() {
    UNCOUNTED.set(UNCOUNTED.get() + 1);
}

/// Adds this thread's writes to [`WRITES`].
pub(crate) fn publish_writes() {
    match UNCOUNTED.take() {
        0 => {}
        writes => WRITES.inc_by(writes),
    }
}
