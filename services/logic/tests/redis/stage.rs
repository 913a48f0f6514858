//! What the tests have in common: stores, messages, and an ear on the bus.

use std::time::Duration;

use im_logic::store::redis::{Options, RedisStore};
use im_logic::store::{Access, Append, Appended, Error, History, Messages};
use im_proto::v1::bus_event::Event;
use im_proto::v1::{Entry, Logged};
use im_redis_bus::{BusNotification, Subscriber};
use im_runtime::limits::queue::{Receiver, queue};
use im_wire::ids::{ClientId, RoomId, UserId};

pub(crate) fn room(id: &str) -> RoomId {
    RoomId::new(id).expect("a room id")
}

pub(crate) fn user(id: &str) -> UserId {
    UserId::new(id).expect("a user id")
}

pub(crate) fn now_ms() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    now.as_millis()
        .try_into()
        .expect("before the year 584 million")
}

/// A store on this redis, with short time limits.
pub(crate) fn options(url: String) -> Options {
    Options {
        url,
        command_timeout: Duration::from_secs(1),
        wait_timeout: Duration::from_millis(300),
        ..Options::default()
    }
}

pub(crate) async fn store(options: Options) -> RedisStore {
    let store = RedisStore::start(options).expect("good options");
    store
        .client()
        .ready(Duration::from_secs(10))
        .await
        .expect("redis is there");
    store
}

/// Ann says something in an open room.
pub(crate) fn message(in_room: &str, client_id: &str) -> Append {
    let access = Access {
        user: user("ann"),
        direct: false,
        open: true,
        system: false,
    };
    let entry = Entry {
        id: uuid::Uuid::now_v7().to_string(),
        from: "ann".to_owned(),
        client_id: client_id.to_owned(),
        r#type: "text".to_owned(),
        body: format!("this is {client_id}").into_bytes().into(),
        time_ms: now_ms(),
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

pub(crate) async fn say(store: &RedisStore, in_room: &str, client_id: &str) -> Appended {
    store
        .append(message(in_room, client_id))
        .await
        .unwrap_or_else(|error| panic!("{client_id}: {error}"))
}

/// What a client does: the same message again until it is acknowledged.
pub(crate) async fn insist(store: &RedisStore, append: Append) -> Appended {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        match store.append(append.clone()).await {
            Ok(appended) => return appended,
            Err(error @ (Error::Unavailable(_) | Error::Full(_) | Error::NotReplicated { .. })) => {
                assert!(
                    tokio::time::Instant::now() < deadline,
                    "not within 30 s: {error}"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// The client ids of a room's whole log, in order of seq, which must be contiguous from the first.
pub(crate) async fn log(store: &RedisStore, of: &str) -> Vec<String> {
    let tail = store
        .tail(&room(of), 0, 0, 10_000, usize::MAX >> 12)
        .await
        .expect("the log can be read");
    let seqs: Vec<u64> = tail.entries.iter().map(|entry| entry.seq).collect();
    let first = seqs.first().copied().unwrap_or(1);
    assert_eq!(seqs, (first..first + seqs.len() as u64).collect::<Vec<_>>());
    tail.entries
        .into_iter()
        .map(|entry| entry.entry.expect("an entry").client_id)
        .collect()
}

/// Hears what a store's redis publishes.
pub(crate) struct Ear {
    pub(crate) subscriber: Subscriber,
    pub(crate) heard: Receiver<BusNotification>,
}

impl Ear {
    pub(crate) fn new(store: &RedisStore, places: usize) -> Self {
        Self::bounded(store, places, 64 << 20)
    }

    pub(crate) fn bounded(store: &RedisStore, places: usize, bytes: usize) -> Self {
        let (into, heard) = queue(places, bytes);
        let subscriber = Subscriber::new(store.client());
        let runs = subscriber.clone();
        tokio::spawn(async move { runs.run(into).await });
        Self { subscriber, heard }
    }

    pub(crate) async fn next(&mut self) -> BusNotification {
        let next = tokio::time::timeout(Duration::from_secs(30), self.heard.recv()).await;
        next.expect("a tiding within 30 s")
            .expect("the subscriber runs")
    }

    /// Subscribes and waits for the confirmation.
    pub(crate) async fn hear(&mut self, id: &str) {
        self.subscriber.subscribe(room(id));
        self.until(|tiding| *tiding == BusNotification::Subscribed(room(id)))
            .await;
    }

    /// Skips what comes before.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&BusNotification) -> bool) {
        while !wanted(&self.next().await) {}
    }

    /// The next logged entry, whatever else comes before it.
    pub(crate) async fn logged(&mut self) -> (String, Logged) {
        loop {
            if let BusNotification::Event(event) = self.next().await
                && let Some(Event::Logged(logged)) = event.event
            {
                return (event.room, logged);
            }
        }
    }
}
