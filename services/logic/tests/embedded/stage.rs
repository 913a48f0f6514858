//! What the tests have in common: stores, messages, and an ear for what is published.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use im_logic::store::embedded::{EmbeddedStore, OpenError, Options};
use im_logic::store::{Access, Append, Appended, Error, History, Messages, Publish, Retention};
use im_proto::v1::{Entry, Signal};
use im_wire::ids::{ClientId, Epoch, RoomId, Seq, UserId};

/// Longer than anything here takes.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// Remembers what is published.
#[derive(Default)]
pub(crate) struct Ear(Mutex<Vec<Heard>>);

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Heard {
    Logged(RoomId, Epoch, Seq, Entry),
    Signal(RoomId, Signal),
}

impl Publish for Ear {
    fn logged(&self, room: &RoomId, epoch: Epoch, seq: Seq, entry: &Entry) {
        self.0
            .lock()
            .unwrap()
            .push(Heard::Logged(room.clone(), epoch, seq, entry.clone()));
    }

    fn signal(&self, room: &RoomId, signal: &Signal) {
        self.0
            .lock()
            .unwrap()
            .push(Heard::Signal(room.clone(), signal.clone()));
    }
}

impl Ear {
    pub(crate) fn take(&self) -> Vec<Heard> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

pub(crate) fn options(folder: Option<&Path>, retention: Retention) -> Options {
    Options {
        folder: folder.map(Path::to_owned),
        retention,
        ..Options::default()
    }
}

pub(crate) fn try_open(folder: &Path) -> Result<EmbeddedStore, OpenError> {
    EmbeddedStore::open(
        options(Some(folder), Retention::default()),
        Arc::new(Ear::default()),
    )
}

pub(crate) fn open(folder: &Path) -> EmbeddedStore {
    try_open(folder).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn in_memory(retention: Retention) -> EmbeddedStore {
    EmbeddedStore::in_memory(retention, Arc::new(Ear::default())).expect("an empty store in memory")
}

pub(crate) fn room(id: &str) -> RoomId {
    RoomId::new(id).expect("a room id")
}

pub(crate) fn user(id: &str) -> UserId {
    UserId::new(id).expect("a user id")
}

/// Somebody says something in an open room.
pub(crate) fn message_of(who: &str, in_room: &str, client_id: &str) -> Append {
    let access = Access {
        user: user(who),
        direct: false,
        open: true,
        system: false,
    };
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    let entry = Entry {
        id: uuid::Uuid::now_v7().to_string(),
        from: who.to_owned(),
        client_id: client_id.to_owned(),
        r#type: "text".to_owned(),
        body: format!(
            "this is {client_id}, about as long as what people write to each other in a chat"
        )
        .into(),
        time_ms: now
            .as_millis()
            .try_into()
            .expect("before the year 584 million"),
        ..Entry::default()
    };
    let client_id = ClientId::new(client_id).expect("a client id");
    Append {
        room: room(in_room),
        access,
        client_id,
        entry,
        index: Vec::new(),
    }
}

pub(crate) fn message(in_room: &str, client_id: &str) -> Append {
    message_of("ann", in_room, client_id)
}

pub(crate) async fn say(store: &EmbeddedStore, in_room: &str, client_id: &str) -> Appended {
    store
        .append(message(in_room, client_id))
        .await
        .unwrap_or_else(|error| panic!("{client_id}: {error}"))
}

/// What a client does: the same message again until it is acknowledged.
pub(crate) async fn insist(store: &EmbeddedStore, append: Append) -> Appended {
    let trying = async {
        loop {
            match store.append(append.clone()).await {
                Ok(appended) => return appended,
                Err(Error::Unavailable(_) | Error::Full(_)) => {
                    tokio::time::sleep(Duration::from_millis(20)).await
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(TIMEOUT, trying)
        .await
        .expect("stored in time")
}

/// The client ids of a room's whole log with their seqs, which must be contiguous.
pub(crate) async fn log(store: &EmbeddedStore, of: &str) -> Vec<(Seq, String)> {
    let tail = store
        .tail(&room(of), 0, 0, usize::MAX, usize::MAX)
        .await
        .expect("the log can be read");
    let said: Vec<_> = tail
        .entries
        .into_iter()
        .map(|one| (one.seq, one.entry.expect("an entry").client_id))
        .collect();
    let first = said.first().map_or(tail.head + 1, |(seq, _)| *seq);
    assert!(
        said.iter().map(|(seq, _)| *seq).eq(first..=tail.head),
        "{of} has gaps: {said:?}"
    );
    said
}

/// The client ids only.
pub(crate) async fn said(store: &EmbeddedStore, of: &str) -> Vec<String> {
    log(store, of)
        .await
        .into_iter()
        .map(|(_, client_id)| client_id)
        .collect()
}
