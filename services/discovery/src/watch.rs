//! The processes of one kind, as etcd lists them: read once, then followed. While etcd is away the last known ones stay.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_client::{Client, Event, EventType, GetOptions, WatchOptions};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::etcd::{Error, Options};
use crate::metrics::{ERRORS, NODES, WATCHING};
use crate::{Kind, Node};

/// By id.
type Nodes = BTreeMap<String, Node>;

/// Follows the processes of one kind. Cheap to clone; ends with its last clone.
#[derive(Debug, Clone)]
pub struct Watch {
    kind: Kind,
    seen: watch::Receiver<Seen>,
    _end: Arc<DropGuard>,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    nodes: Arc<Nodes>,
    /// etcd has answered once.
    once: bool,
}

impl Watch {
    /// Begins to watch; does not wait for etcd.
    pub fn start(options: Options, kind: Kind) -> Self {
        let (seen_told, seen) = watch::channel(Seen::default());
        let end = CancellationToken::new();
        let follower = Follower {
            options,
            kind,
            seen: seen_told,
            known: Nodes::new(),
            lingering: BTreeMap::new(),
        };
        let ended = end.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = follower.run() => {}
                () = ended.cancelled() => {}
            }
        });
        Self {
            kind,
            seen,
            _end: Arc::new(end.drop_guard()),
        }
    }

    /// A list that never changes, for whoever knows the processes without etcd.
    pub fn fixed(kind: Kind, nodes: impl IntoIterator<Item = Node>) -> Self {
        let nodes = nodes
            .into_iter()
            .map(|node| (node.id.clone(), node))
            .collect();
        let (_, seen) = watch::channel(Seen {
            nodes: Arc::new(nodes),
            once: true,
        });
        Self {
            kind,
            seen,
            _end: Arc::new(CancellationToken::new().drop_guard()),
        }
    }

    /// Which kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The processes known now, by id.
    pub fn nodes(&self) -> Arc<BTreeMap<String, Node>> {
        Arc::clone(&self.seen.borrow().nodes)
    }

    /// Whether etcd has answered at least once.
    pub fn has_seen(&self) -> bool {
        self.seen.borrow().once
    }

    /// Returns at the next change of the list; the first time for this clone at once where there is one already.
    pub async fn changed(&mut self) {
        if self.seen.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns as soon as what is known satisfies a condition.
    pub async fn until(&self, condition: impl Fn(&BTreeMap<String, Node>) -> bool) {
        if self
            .seen
            .clone()
            .wait_for(|seen| condition(&seen.nodes))
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }
}

struct Follower {
    options: Options,
    kind: Kind,
    seen: watch::Sender<Seen>,
    known: Nodes,
    /// Nodes that were gone when etcd was read anew, and until when they are believed in all the same: an etcd that has
    /// lost its data gets everybody's entry again within a lease.
    lingering: BTreeMap<String, Instant>,
}

impl Follower {
    async fn run(mut self) {
        let mut pauses = self.options.pauses();
        loop {
            let (watched, error) = match Box::pin(self.session()).await {
                (watched, Err(error)) => (watched, error),
                (_, Ok(never)) => match never {},
            };
            WATCHING.with_label_values(&[self.kind.as_str()]).set(0);
            ERRORS.with_label_values(&["watch"]).inc();
            if watched {
                tracing::warn!(%error, kind = %self.kind, "lost the watch in etcd; keeping the last known processes");
                pauses = self.options.pauses();
            } else {
                tracing::debug!(%error, kind = %self.kind, "etcd still unreachable");
            }
            tokio::time::sleep(pauses.next().unwrap_or(self.options.pause_max)).await;
        }
    }

    /// Whether the watch stood, and why it ended.
    async fn session(&mut self) -> (bool, Result<std::convert::Infallible, Error>) {
        let opened = async {
            let mut client = self.options.client().await?;
            let revision = self.read(&mut client).await?;
            Ok((client, revision))
        };
        match opened.await {
            Ok((client, revision)) => (true, self.follow(client, revision).await),
            Err(error) => (false, Err(error)),
        }
    }

    async fn read(&mut self, client: &mut Client) -> Result<i64, Error> {
        let folder = self.options.folder(self.kind);
        let list = self
            .options
            .within(client.get(folder, Some(GetOptions::new().with_prefix())))
            .await?;
        let found: Nodes = list
            .kvs()
            .iter()
            .filter_map(|kv| parse(kv.key(), kv.value()))
            .collect();
        let until = Instant::now() + 2 * self.options.lease;
        for id in self.known.keys().filter(|id| !found.contains_key(*id)) {
            self.lingering.entry(id.clone()).or_insert(until);
        }
        self.lingering.retain(|id, _| !found.contains_key(id));
        self.known.extend(found);
        self.publish();
        Ok(list
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision))
    }

    async fn follow(
        &mut self,
        mut client: Client,
        revision: i64,
    ) -> Result<std::convert::Infallible, Error> {
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(revision + 1);
        let folder = self.options.folder(self.kind);
        let mut changes = self
            .options
            .within(client.watch(folder, Some(options)))
            .await?;
        WATCHING.with_label_values(&[self.kind.as_str()]).set(1);
        loop {
            let next_end = self.lingering.values().min().copied();
            let change = tokio::select! {
                change = changes.message() => change?,
                () = until(next_end) => {
                    self.end_lingering();
                    continue;
                }
            };
            let Some(change) = change else {
                return Err(Error::WatchEnded("closed by etcd".to_owned()));
            };
            if change.canceled() {
                // What is asked for may be compacted away: everything is read anew.
                return Err(Error::WatchEnded(format!(
                    "cancelled by etcd: {}",
                    change.cancel_reason()
                )));
            }
            for event in change.events() {
                self.apply(event);
            }
            if !change.events().is_empty() {
                self.publish();
            }
        }
    }

    fn apply(&mut self, event: &Event) {
        let Some(kv) = event.kv() else { return };
        match event.event_type() {
            EventType::Put => {
                if let Some((id, node)) = parse(kv.key(), kv.value()) {
                    self.lingering.remove(&id);
                    self.known.insert(id, node);
                }
            }
            EventType::Delete => {
                if let Some(id) = id_of(kv.key()) {
                    self.lingering.remove(&id);
                    self.known.remove(&id);
                }
            }
        }
    }

    fn end_lingering(&mut self) {
        let now = Instant::now();
        let ended: Vec<String> = self
            .lingering
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in ended {
            self.lingering.remove(&id);
            self.known.remove(&id);
        }
        self.publish();
    }

    fn publish(&self) {
        NODES
            .with_label_values(&[self.kind.as_str()])
            .set(i64::try_from(self.known.len()).unwrap_or(i64::MAX));
        self.seen.send_if_modified(|seen| {
            let changed = *seen.nodes != self.known || !seen.once;
            if changed {
                *seen = Seen {
                    nodes: Arc::new(self.known.clone()),
                    once: true,
                };
            }
            changed
        });
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn id_of(key: &[u8]) -> Option<String> {
    Some(
        std::str::from_utf8(key)
            .ok()?
            .rsplit_once('/')?
            .1
            .to_owned(),
    )
}

/// Entries that are not understood are somebody else's, or of a much newer release: said, and left out.
fn parse(key: &[u8], value: &[u8]) -> Option<(String, Node)> {
    let id = id_of(key)?;
    match serde_json::from_slice::<Node>(value) {
        Ok(node) => Some((id, node)),
        Err(error) => {
            tracing::warn!(id, %error, "skipped an unreadable entry in etcd");
            None
        }
    }
}
