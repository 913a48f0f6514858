//! Appends as the stores take them: the scripts on a redis of the bench's own, the embedded store's commit on disk. Many
//! are under way at once, as they are in a server; one alone shows the round trip.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use futures::future::join_all;
use im_logic::store::embedded::{self, EmbeddedStore};
use im_logic::store::redis::{self, RedisStore};
use im_logic::store::{Access, Append, Publish, Store};
use im_proto::v1::{Entry, Signal};
use im_runtime::unused_port;
use im_wire::ids::{ClientId, Epoch, RoomId, Seq, UserId};
use tempfile::TempDir;
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

const TIMEOUT: Duration = Duration::from_secs(10);
/// (rooms, appends under way at once).
const LOADS: [(usize, usize); 3] = [(1, 1), (1, 500), (500, 500)];

/// A redis that ends with the bench.
struct Redis {
    process: Child,
    url: String,
    _folder: TempDir,
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It ends in any case: there is nobody to tell.
        let _gone = self.process.kill().and_then(|()| self.process.wait());
    }
}

fn redis() -> Redis {
    let folder = tempfile::tempdir().expect("a folder");
    let port = unused_port().expect("a port");
    let mut command = Command::new("redis-server");
    command.args([
        "--bind",
        "127.0.0.1",
        "--appendonly",
        "yes",
        "--save",
        "",
        "--port",
        &port.to_string(),
        "--dir",
    ]);
    let process = command
        .arg(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is on the PATH");
    Redis {
        process,
        url: format!("redis://127.0.0.1:{port}"),
        _folder: folder,
    }
}

struct Nobody;

impl Publish for Nobody {
    fn logged(&self, _: &RoomId, _: Epoch, _: Seq, _: &Entry) {}

    fn signal(&self, _: &RoomId, _: &Signal) {}
}

struct Load {
    runtime: Runtime,
    store: Store,
    rooms: Vec<RoomId>,
    said: u64,
}

impl Load {
    fn new(runtime: Runtime, store: Store, rooms: usize) -> Self {
        let rooms = (0..rooms)
            .map(|number| RoomId::new(format!("bench-{number}")).expect("a good id"))
            .collect();
        let mut load = Self {
            runtime,
            store,
            rooms,
            said: 0,
        };
        let until = Instant::now() + TIMEOUT;
        while !load.append(1) {
            assert!(Instant::now() < until, "the store is not ready in time");
            std::thread::yield_now();
        }
        load
    }

    /// Whether all of them were stored.
    fn append(&mut self, at_once: usize) -> bool {
        let appends: Vec<Append> = (0..at_once).map(|_| self.next()).collect();
        let all = join_all(
            appends
                .into_iter()
                .map(|append| self.store.messages.append(append)),
        );
        self.runtime.block_on(all).iter().all(Result::is_ok)
    }

    fn next(&mut self) -> Append {
        self.said += 1;
        let user = UserId::new("ann").expect("a good id");
        let room = self.rooms[self.said as usize % self.rooms.len()].clone();
        let entry = Entry {
            id: format!("0199f0e2-0000-7000-8000-{:012x}", self.said),
            from: "ann".to_owned(),
            client_id: self.said.to_string(),
            r#type: "text".to_owned(),
            body: Bytes::from_static(&[b'x'; 100]),
            time_ms: 1_800_000_000_000,
            ..Entry::default()
        };
        let access = Access {
            user,
            direct: false,
            open: true,
            system: false,
        };
        Append {
            room,
            access,
            client_id: ClientId::new(self.said.to_string()).expect("a good id"),
            entry,
            index: Vec::new(),
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

#[divan::bench(args = LOADS, sample_count = 20)]
fn append_redis(bencher: Bencher<'_, '_>, (rooms, at_once): (usize, usize)) {
    let redis = redis();
    let runtime = runtime();
    let options = redis::Options {
        url: redis.url.clone(),
        ..redis::Options::default()
    };
    let store = runtime
        .block_on(async { RedisStore::start(options) })
        .expect("a good URL");
    let mut load = Load::new(runtime, Store::new(Arc::new(store)), rooms);
    bencher
        .counter(ItemsCount::new(at_once))
        .bench_local(|| assert!(load.append(at_once)));
}

#[divan::bench(args = LOADS, sample_count = 20)]
fn append_embedded(bencher: Bencher<'_, '_>, (rooms, at_once): (usize, usize)) {
    let folder = tempfile::tempdir().expect("a folder");
    let options = embedded::Options {
        folder: Some(folder.path().to_owned()),
        ..embedded::Options::default()
    };
    let store = EmbeddedStore::open(options, Arc::new(Nobody)).expect("a store");
    let mut load = Load::new(runtime(), Store::new(Arc::new(store)), rooms);
    bencher
        .counter(ItemsCount::new(at_once))
        .bench_local(|| assert!(load.append(at_once)));
}
