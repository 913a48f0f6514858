//! Reading the logs of rooms, and how far somebody has read.

use async_trait::async_trait;
use im_proto::v1::LogEntry;
use im_wire::ids::{Epoch, RoomId, Seq, UserId};

use super::error::Result;

/// The log after a position; see `Fetched` in `logic.proto`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tail {
    /// In force.
    pub epoch: Epoch,
    /// The log's last seq.
    pub head: Seq,
    /// Whoever has more than this must forget it.
    pub reset_to: Option<Seq>,
    /// Gone, both inclusive.
    pub truncated: Option<(Seq, Seq)>,
    /// Contiguous; empty where nothing follows.
    pub entries: Vec<LogEntry>,
}

/// Which part of the log to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slice {
    /// The oldest with a greater seq.
    After(Seq),
    /// The newest with a smaller seq.
    Before(Seq),
    /// The newest.
    Latest,
}

/// A part of the log, ascending by seq.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// In force.
    pub epoch: Epoch,
    /// The log's last seq.
    pub head: Seq,
    /// Gone of what was asked for, both inclusive.
    pub truncated: Option<(Seq, Seq)>,
    /// Contiguous.
    pub entries: Vec<LogEntry>,
}

/// A user's read position in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadPosition {
    /// Never moves backwards, never beyond head.
    pub read: Seq,
    /// See [`View::joined`](super::View::joined).
    pub joined: Seq,
    /// The log's last seq.
    pub head: Seq,
    /// Whether this call moved it.
    pub moved: bool,
}

/// Where logs are read.
#[async_trait]
pub trait History: Send + Sync + 'static {
    /// The log after (epoch, seq), with the verdict on what that position still is worth. No such room: an empty log.
    async fn tail(
        &self,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Tail>;
    /// A part of the log, at most `limit` entries.
    async fn page(&self, room: &RoomId, slice: Slice, limit: usize) -> Result<Page>;
    /// (epoch, head) of these rooms, in their order; (0, 0) where there is no such room.
    async fn heads(&self, rooms: &[RoomId]) -> Result<Vec<(Epoch, Seq)>>;
    /// Moves a read position forward.
    async fn mark_read(&self, room: &RoomId, user: &UserId, seq: Seq) -> Result<ReadPosition>;
}
