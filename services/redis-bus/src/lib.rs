//! What logic and connect have in common in redis: the names of keys and channels, the scripts, the envelope that
//! travels over a room's channel, the way to the right server, and the subscriber of rooms.
//!
//! # Order and loss
//!
//! - **Log.** A room's log, head, dedupe entries, members and read positions live in one slot and change in one script:
//!   all of a change is there or none of it, on the master, on its replicas and in its append-only file. What a replica
//!   has is a prefix of what its master had: a failover takes back the newest changes, never some in between.
//! - **Epoch.** The first append after another master (or a restarted one) answers moves the room's epoch on and notes
//!   the head of that moment, the epoch's base: whatever somebody has beyond the base from an earlier epoch was taken back.
//! - **Channel.** What is published comes in the order of publishing, at most once, to whoever is subscribed at that
//!   moment. It is lost, without a word from redis, while a subscription is away, while it is re-established on another
//!   master, and when a subscriber reads too slowly. Without replicas to wait for, append and publish are one script; with
//!   replicas, publish comes after their confirmation, so a process that dies in between stores without publishing. A
//!   repeated append publishes again. Whoever needs everything compares `seq` and reads the log.
//! - **[`BusNotification::GapPossible`]** follows every interruption of a subscription, once everything is subscribed again:
//!   heads that are compared then miss nothing. It also follows when events were dropped because the queue was full.
//! - **Not covered.** redis must not evict (`maxmemory-policy noeviction`): an evicted log is reported as truncated.
//!   Without an append-only file a restart of a lone server loses everything; with `appendfsync everysec` up to the
//!   last second or two. Acknowledgement waits for replicas' memory, not for their disks.

mod address;
mod backoff;
mod client;
mod envelope;
mod keys;
mod metrics;
mod scripts;
mod slot;
mod subscriber;

pub use address::{Address, BadAddress};
pub use client::{Call, Client, Error, Lane, Master, Options, StartError, Topology};
pub use envelope::{BadEnvelope, Envelope};
pub use keys::{BadPrefix, Keys, RoomKeys};
pub use scripts::{Script, answer};
pub use slot::Slot;
pub use subscriber::{BusNotification, Subscriber};

/// All that is needed to name scripts: `scripts::append()` and so on.
pub mod script {
    pub use crate::scripts::{
        append, ban, bans, beat, create, delete, log, member, members, nodes, read, seen,
    };
}
