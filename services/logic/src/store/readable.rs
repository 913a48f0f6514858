//! Entries on their way out of a store. One that cannot be decoded (another program has written it, a disk has changed it)
//! is as gone as one that retention has removed: it is told as `truncated`, and everything behind it is read as ever. It
//! must never make a reader fail, who would ask again for ever.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use im_proto::v1::{Entry, LogEntry};
use im_wire::ids::{RoomId, Seq};
use prometheus::{IntCounter, register_int_counter};
use prost::Message as _;

use im_runtime::clock;

/// Pages never take more than this out of the store at once, in bytes of entries; one entry is always given. They are
/// asked on when more is wanted.
pub(super) const PAGE_BYTES: usize = 256 << 10;

/// Between two lines in the log at least: a reader may come back to the same entry many times a second.
const LINE_EVERY_MS: u64 = 10_000;

static UNREADABLE: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Log entries that could not be decoded when they were read; readers are told that they are gone.";
    register_int_counter!("im_store_unreadable_entries_total", help)
        .expect("metric names are used once")
});

/// An entry as it is stored; `None`, said and counted, where it is none.
pub(super) fn decode(room: &RoomId, seq: Seq, bytes: &[u8]) -> Option<Entry> {
    let why = match Entry::decode(bytes) {
        // No entry is written without an id.
        Ok(entry) if !bytes.is_empty() => return Some(entry),
        Ok(_) => "it is empty".to_owned(),
        Err(error) => error.to_string(),
    };
    UNREADABLE.inc();
    static LAST_LINE: AtomicU64 = AtomicU64::new(0);
    let now = clock::unix_ms();
    let last = LAST_LINE.load(Ordering::Relaxed);
    if now.saturating_sub(last) >= LINE_EVERY_MS {
        LAST_LINE.store(now, Ordering::Relaxed);
        tracing::error!(%room, seq, why, "skipped an undecodable log entry; readers are told that it is gone");
    }
    None
}

/// Entries in the order of reading, without a gap between them.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// What could be read.
    pub(super) entries: Vec<LogEntry>,
    /// What could not be read before the first that could, both inclusive.
    pub(super) gone: Option<(Seq, Seq)>,
}

impl Run {
    /// Takes the next one. `false`: the run ends before it.
    pub(super) fn take(&mut self, room: &RoomId, seq: Seq, bytes: &[u8]) -> bool {
        match decode(room, seq, bytes) {
            Some(entry) => self.entries.push(LogEntry {
                seq,
                entry: Some(entry),
            }),
            None if !self.entries.is_empty() => return false,
            None => {
                self.gone = Some(
                    self.gone
                        .map_or((seq, seq), |(from, to)| (from.min(seq), to.max(seq))),
                )
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_over_what_cannot_be_read_before_it_and_ends_at_what_cannot_be_read_in_it() {
        let room = RoomId::new("lobby").expect("a good id");
        let good = Entry {
            id: "one".to_owned(),
            ..Entry::default()
        }
        .encode_to_vec();
        let mut run = Run::default();
        assert!(run.take(&room, 7, b"\x7fbad") && run.take(&room, 6, b""));
        assert!(run.take(&room, 5, &good) && run.take(&room, 4, &good));
        assert!(!run.take(&room, 3, b"\x7fbad"));
        assert_eq!(run.gone, Some((6, 7)));
        assert_eq!(
            run.entries.iter().map(|one| one.seq).collect::<Vec<_>>(),
            [5, 4]
        );
    }
}
