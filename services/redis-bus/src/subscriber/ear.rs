//! The ear at one master: a connection that is kept, checked every second, and subscribed to its rooms again whenever it
//! had to be opened anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use im_runtime::limits::queue::Weigh;
use im_wire::ids::RoomId;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Pipeline, ProtocolVersion, Value};
use tokio::time::{Instant, MissedTickBehavior};

use super::mouth::{Hearing, Mouth};
use super::wishes::Wishes;
use super::{SPARE, Tiding};
use crate::address::Host;
use crate::backoff::Backoff;
use crate::client::{Client, Error, Role, dial, role, run_id};
use crate::metrics;

/// Rooms in one batch of commands: few enough to be confirmed well within the time limit.
const BATCH: usize = 512;

pub(super) struct Ear<T> {
    client: Client,
    host: Host,
    wishes: Arc<Wishes>,
    mouth: Arc<Mouth<T>>,
    /// Every room to be heard here, and whether its subscription has been asked for on this connection.
    rooms: HashMap<RoomId, bool>,
    /// Rooms to be left.
    leaving: Vec<RoomId>,
    /// The connection stood since the last time it was lost.
    heard: bool,
    /// Events may have been lost: to be said once everything is subscribed.
    disturbed: bool,
    backoff: Backoff,
}

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the connection has ended")]
    Ended,
    #[error("the server is a replica now, which is not published to")]
    Replica,
    #[error("commands go to another server behind this address")]
    OtherServer,
    #[error("a slot has moved to another master")]
    SlotMoved,
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
}

impl Lost {
    fn reason(&self) -> &'static str {
        match self {
            Self::Ended | Self::Redis(_) => "ended",
            Self::Replica => "replica",
            Self::OtherServer => "other_server",
            Self::SlotMoved => "slot_moved",
        }
    }

    fn of(hearing: &Hearing) -> Self {
        if hearing.moved.load(Ordering::Acquire) { Self::SlotMoved } else { Self::Ended }
    }
}

/// A connection and the server that was found at its other end.
struct Found {
    connection: MultiplexedConnection,
    run_id: Option<String>,
    opened_at: Instant,
}

impl<T: From<Tiding> + Weigh + Send + 'static> Ear<T> {
    pub(super) fn new(client: Client, host: Host, wishes: Arc<Wishes>, mouth: Arc<Mouth<T>>, disturbed: bool) -> Self {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        Self {
            client,
            host,
            wishes,
            mouth,
            rooms: HashMap::new(),
            leaving: Vec::new(),
            heard: false,
            disturbed,
            backoff,
        }
    }

    /// Until the task is ended.
    pub(super) async fn listen(mut self) {
        loop {
            let Err(lost) = self.connected().await;
            if std::mem::take(&mut self.heard) {
                metrics::BUS_RESTARTS.with_label_values(&[lost.reason()]).inc();
                tracing::warn!(master = %self.host, %lost, rooms = self.rooms.len(), "a bus connection is lost");
            } else {
                tracing::debug!(master = %self.host, %lost, "no bus connection");
            }
            self.client.look_again();
            self.disturbed = true;
            tokio::time::sleep(self.backoff.next()).await;
        }
    }

    async fn connected(&mut self) -> Result<std::convert::Infallible, Lost> {
        let hearing = Arc::new(Hearing::default());
        let mut found = self.dial(&hearing).await?;
        metrics::BUS_CONNECTS.inc();
        self.heard = true;
        self.rooms.values_mut().for_each(|asked| *asked = false);
        self.leaving.clear();
        let interval = self.client.options().check_interval;
        let mut check = tokio::time::interval_at(Instant::now() + interval, interval);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mouth = Arc::clone(&self.mouth);
        loop {
            self.take_wishes();
            let refused = self.settle(&mut found.connection, &hearing).await?;
            tokio::select! {
                () = hearing.lost.notified() => return Err(Lost::of(&hearing)),
                () = self.wishes.changed() => {}
                () = mouth.waiting.notified() => {}
                _ = check.tick() => self.check(&mut found).await?,
                () = tokio::time::sleep(self.backoff.next()), if refused => {}
            }
            tokio::select! {
                () = mouth.speak() => {}
                () = hearing.lost.notified() => return Err(Lost::of(&hearing)),
                // A queue that stays full must not keep the connection from being checked.
                _ = check.tick() => { mouth.waiting.notify_one(); self.check(&mut found).await? }
            }
        }
    }

    /// A connection to whatever is at the address, if that is a master.
    async fn dial(&self, hearing: &Arc<Hearing>) -> Result<Found, Lost> {
        let opened_at = Instant::now();
        let info = self.client.address().server(&self.host, ProtocolVersion::RESP3)?;
        let (mouth, hearing) = (Arc::clone(&self.mouth), Arc::clone(hearing));
        let push = Box::new(move |push| {
            mouth.heard(&hearing, push);
            Ok::<(), redis::aio::SendError>(())
        });
        let mut connection = dial(info, self.client.options(), Duration::ZERO, Some(push)).await?;
        if role(&mut connection).await? == Role::Replica {
            return Err(Lost::Replica);
        }
        let run_id = run_id(&mut connection).await;
        Ok(Found { connection, run_id, opened_at })
    }

    /// Whether the server at the other end answers, and is the one that publishes: a master that was made a replica keeps
    /// its connections and confirms subscriptions, and an address may lead to another server by now.
    async fn check(&self, found: &mut Found) -> Result<(), Lost> {
        if role(&mut found.connection).await? == Role::Replica {
            return Err(Lost::Replica);
        }
        let topology = self.client.topology();
        let topology = topology.borrow();
        match topology.at(&self.host) {
            Some(master) if master.has_replaced(found.run_id.as_deref(), found.opened_at) => Err(Lost::OtherServer),
            _ => Ok(()),
        }
    }

    fn take_wishes(&mut self) {
        for (room, wanted) in self.wishes.take() {
            if !wanted {
                if self.rooms.remove(&room).unwrap_or(false) {
                    self.leaving.push(room);
                }
            } else if self.rooms.get(&room) == Some(&true) {
                self.mouth.subscribed(room);
            } else {
                self.leaving.retain(|left| *left != room);
                self.rooms.insert(room, false);
            }
        }
        im_runtime::give_back(&mut self.rooms, SPARE);
    }

    /// Subscribes and unsubscribes what is open. Returns whether something was refused and is to be tried again.
    async fn settle(&mut self, connection: &mut MultiplexedConnection, hearing: &Hearing) -> Result<bool, Lost> {
        for batch in std::mem::take(&mut self.leaving).chunks(BATCH) {
            hearing.leaves(batch.len());
            self.command(connection, "SUNSUBSCRIBE", batch).await?;
        }
        let open: Vec<RoomId> = self.rooms.iter().filter(|(_, asked)| !**asked).map(|(room, _)| room.clone()).collect();
        let mut refused = 0;
        for batch in open.chunks(BATCH) {
            let replies = self.command(connection, "SSUBSCRIBE", batch).await?;
            for (room, reply) in batch.iter().zip(replies) {
                match reply {
                    Value::ServerError(error) => {
                        refused += 1;
                        let error = Error::of_server(&error);
                        tracing::debug!(%room, master = %self.host, %error, "a subscription is refused");
                    }
                    _ => drop(self.rooms.insert(room.clone(), true)),
                }
            }
        }
        if refused > 0 {
            tracing::warn!(master = %self.host, refused, "subscriptions are refused and tried again");
            self.client.look_again();
            return Ok(true);
        }
        self.backoff.reset();
        if std::mem::take(&mut self.disturbed) {
            self.mouth.disturb();
        }
        Ok(false)
    }

    /// One command per room, so that each has its own reply.
    async fn command(
        &self,
        connection: &mut MultiplexedConnection,
        name: &str,
        rooms: &[RoomId],
    ) -> Result<Vec<Value>, Lost> {
        let mut pipeline = Pipeline::with_capacity(rooms.len());
        for room in rooms {
            pipeline.cmd(name).arg(self.client.keys().room(room).channel());
        }
        Ok(connection.req_packed_commands(&pipeline, 0, rooms.len()).await?)
    }
}
