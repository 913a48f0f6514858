//! Entries in a log's middle that nobody can read: they are told as gone, and what follows them is not.

use im_proto::v1::LogEntry;
use im_wire::ids::RoomId;

use crate::store::{History, Slice};

/// Reads a room of six entries whose fourth and fifth have been spoiled behind the store's back.
///
/// # Panics
/// Where the store does not go over them.
pub async fn goes_over_unreadable(store: &dyn History, room: &RoomId) {
    for (after, limit, truncated, expected) in [
        (0, 100, None, vec![1, 2, 3]),
        (3, 100, Some((4, 5)), vec![6]),
        (3, 1, Some((4, 5)), vec![6]),
        (4, 100, Some((5, 5)), vec![6]),
        (5, 100, None, vec![6]),
    ] {
        let tail = store
            .tail(room, 0, after, limit, 1 << 20)
            .await
            .expect("readable");
        assert_eq!(
            (tail.truncated, seqs(&tail.entries)),
            (truncated, expected),
            "after {after}, {limit}"
        );
    }
    for (slice, limit, truncated, expected) in [
        (Slice::Latest, 10, None, vec![6]),
        (Slice::Before(6), 10, Some((4, 5)), vec![1, 2, 3]),
        (Slice::Before(6), 1, Some((4, 5)), vec![3]),
        (Slice::After(3), 10, Some((4, 5)), vec![6]),
    ] {
        let page = store.page(room, slice, limit).await.expect("readable");
        assert_eq!(
            (page.truncated, seqs(&page.entries)),
            (truncated, expected),
            "{slice:?}, {limit}"
        );
    }
}

fn seqs(entries: &[LogEntry]) -> Vec<u64> {
    entries.iter().map(|one| one.seq).collect()
}
