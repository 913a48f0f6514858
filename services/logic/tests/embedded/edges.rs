//! The edges of a log on disk: files that were put back, clocks that are wrong, entries that nobody can read, callers
//! that have gone.

use std::sync::{Arc, Mutex, mpsc};

use im_logic::store::embedded::EmbeddedStore;
use im_logic::store::suite::goes_over_unreadable;
use im_logic::store::{History, Messages, Publish, Retention};
use im_proto::v1::{Entry, Signal};
use im_wire::ids::{Epoch, RoomId, Seq};
use redb::{Database, TableDefinition};

use crate::stage::{in_memory, message, open, options, room, said, say};

async fn fill(store: &EmbeddedStore, names: impl Iterator<Item = u64>) -> (Epoch, Seq) {
    let mut last = (0, 0);
    for number in names {
        let appended = say(store, "lobby", &format!("m{number}")).await;
        last = (appended.epoch, appended.seq);
    }
    last
}

#[tokio::test]
async fn a_file_that_was_put_back_resets_whoever_had_more() {
    let folder = tempfile::tempdir().unwrap();
    let (file, copy) = (folder.path().join("im.redb"), folder.path().join("copy"));
    let store = open(folder.path());
    let kept = fill(&store, 1..=10).await;
    store.close().await;
    std::fs::copy(&file, &copy).unwrap();
    let store = open(folder.path());
    let lost = fill(&store, 11..=15).await;
    assert_eq!(lost.1, 15);
    store.close().await;
    std::fs::copy(&copy, &file).unwrap();
    let store = open(folder.path());
    let lobby = room("lobby");
    // Before anybody has said anything, and after others have said more than was lost.
    let tail = store
        .tail(&lobby, lost.0, lost.1, 100, usize::MAX)
        .await
        .unwrap();
    assert!(
        tail.reset_to.is_some_and(|stands| stands <= 10),
        "{:?}",
        tail.reset_to
    );
    let new = fill(&store, 21..=26).await;
    assert_eq!(new.1, 16);
    let tail = store
        .tail(&lobby, lost.0, lost.1, 100, usize::MAX)
        .await
        .unwrap();
    assert!(
        tail.reset_to.is_some_and(|stands| stands <= 10),
        "{:?}",
        tail.reset_to
    );
    assert_eq!(tail.entries.last().map(|one| one.seq), Some(16));
    let again = store
        .tail(&lobby, kept.0, kept.1, 100, usize::MAX)
        .await
        .unwrap();
    assert_eq!((again.reset_to, again.entries.len()), (None, 6));
    let heads = store.heads(std::slice::from_ref(&lobby)).await.unwrap();
    assert_eq!(heads, [(new.0, 16)]);
    assert!(new.0 > lost.0.min(kept.0) && new.0 != lost.0);
}

#[tokio::test]
async fn a_disk_that_was_rolled_back_under_one_opening_resets_whoever_had_more() {
    let folder = tempfile::tempdir().unwrap();
    let (file, copy) = (folder.path().join("im.redb"), folder.path().join("copy"));
    let store = open(folder.path());
    fill(&store, 1..=10).await;
    // What is on the disk at this moment, as a snapshot of the machine has it.
    std::fs::copy(&file, &copy).unwrap();
    let lost = fill(&store, 11..=15).await;
    store.close().await;
    std::fs::copy(&copy, &file).unwrap();
    let store = open(folder.path());
    fill(&store, 21..=26).await;
    let tail = store
        .tail(&room("lobby"), lost.0, lost.1, 100, usize::MAX)
        .await
        .unwrap();
    assert_eq!((tail.reset_to, tail.entries.len()), (Some(10), 6));
}

#[tokio::test]
async fn an_ordinary_restart_resets_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let lobby = room("lobby");
    let mut places = Vec::new();
    for round in 0..5 {
        let store = open(folder.path());
        places.push(fill(&store, round * 10 + 1..=round * 10 + 4).await);
        for (epoch, seq) in &places {
            let tail = store
                .tail(&lobby, *epoch, *seq, 100, usize::MAX)
                .await
                .unwrap();
            assert_eq!(
                (tail.reset_to, tail.head),
                (None, (round + 1) * 4),
                "{epoch} {seq}"
            );
        }
        store.close().await;
    }
    assert!(
        places.is_sorted_by(|one, next| one.0 < next.0),
        "{places:?}"
    );
    let store = open(folder.path());
    let last = places.last().unwrap();
    assert_eq!(store.heads(&[lobby]).await, Ok(vec![*last]));
}

#[tokio::test]
async fn a_file_of_the_release_before_is_taken_and_resets_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    fill(&store, 1..=4).await;
    store.close().await;
    // As the release before wrote it: one epoch for the whole file, nothing noted for rooms.
    let database = Database::create(folder.path().join("im.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .delete_table(TableDefinition::<&str, &str>::new("epochs"))
        .unwrap();
    {
        let mut meta = transaction
            .open_table(TableDefinition::<&str, u64>::new("meta"))
            .unwrap();
        meta.insert("epoch", 1_700_000_000_000).unwrap();
        meta.remove("opened").unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let store = open(folder.path());
    let lobby = room("lobby");
    let old = 1_700_000_000_000;
    assert_eq!(
        store.heads(std::slice::from_ref(&lobby)).await,
        Ok(vec![(old, 4)])
    );
    let new = fill(&store, 5..=6).await;
    assert!(new.0 > old);
    let tail = store.tail(&lobby, old, 4, 100, usize::MAX).await.unwrap();
    assert_eq!(
        (tail.reset_to, tail.entries.len(), tail.epoch),
        (None, 2, new.0)
    );
    let tail = store.tail(&lobby, old, 5, 100, usize::MAX).await.unwrap();
    assert_eq!(tail.reset_to, Some(4));
}

#[tokio::test]
async fn the_time_that_a_message_names_removes_nothing_from_a_log() {
    let store = in_memory(Retention::default());
    fill(&store, 1..=100).await;
    let mut ahead = message("lobby", "ahead");
    ahead.entry.time_ms += 31 * 86_400_000;
    store.append(ahead).await.unwrap();
    assert_eq!(said(&store, "lobby").await.len(), 101);
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_is_gone_and_what_follows_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    fill(&store, 1..=6).await;
    store.close().await;
    let database = Database::create(folder.path().join("im.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut log = transaction
            .open_table(TableDefinition::<(&str, u64), &[u8]>::new("log"))
            .unwrap();
        for seq in [4, 5] {
            log.insert(("lobby", seq), b"\x7fno entry".as_slice())
                .unwrap();
        }
    }
    transaction.commit().unwrap();
    drop(database);
    let retention = Retention {
        max_entries: 5,
        ..Retention::default()
    };
    let store =
        EmbeddedStore::open(options(Some(folder.path()), retention), Arc::new(Silent)).unwrap();
    goes_over_unreadable(&store, &room("lobby")).await;
    // A retry of it is known, and retention goes over it.
    assert!(say(&store, "lobby", "m4").await.duplicate);
    fill(&store, 7..=12).await;
    assert_eq!(
        said(&store, "lobby").await,
        ["m8", "m9", "m10", "m11", "m12"]
    );
}

struct Silent;

impl Publish for Silent {
    fn logged(&self, _: &RoomId, _: Epoch, _: Seq, _: &Entry) {}

    fn signal(&self, _: &RoomId, _: &Signal) {}
}

/// Holds the writer where it publishes, until it is let go.
struct Gate {
    reached: Mutex<mpsc::Sender<()>>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Publish for Gate {
    fn logged(&self, _: &RoomId, _: Epoch, _: Seq, _: &Entry) {
        let _nobody_waits = self.reached.lock().unwrap().send(());
        let _let_go_for_good = self.go.lock().unwrap().recv();
    }

    fn signal(&self, _: &RoomId, _: &Signal) {}
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_stored() {
    let (reached, at_gate) = mpsc::channel();
    let (let_go, go) = mpsc::channel();
    let gate = Arc::new(Gate {
        reached: Mutex::new(reached),
        go: Mutex::new(go),
    });
    let store = EmbeddedStore::open(options(None, Retention::default()), gate).unwrap();
    let mut first = Box::pin(store.append(message("lobby", "one")));
    assert!(futures::poll!(&mut first).is_pending());
    at_gate.recv().unwrap();
    {
        let mut left = Box::pin(store.append(message("lobby", "left")));
        assert!(futures::poll!(&mut left).is_pending());
    }
    let mut last = Box::pin(store.append(message("lobby", "three")));
    assert!(futures::poll!(&mut last).is_pending());
    drop(let_go);
    let (first, last) = tokio::join!(first, last);
    assert_eq!((first.unwrap().seq, last.unwrap().seq), (1, 2));
    assert_eq!(said(&store, "lobby").await, ["one", "three"]);
}
