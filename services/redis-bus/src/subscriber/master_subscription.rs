//! The subscriptions at one master: a connection that is checked every second, and subscribed to its rooms again whenever it had
//! to be reopened.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use im_runtime::limits::queue::Weigh;
use im_wire::ids::RoomId;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Pipeline, ProtocolVersion, Value};
use tokio::time::{Instant, MissedTickBehavior};

use super::desired::DesiredSubscriptions;
use super::dispatcher::{Dispatcher, PushState};
use super::{BusNotification, SPARE};
use crate::address::Host;
use crate::backoff::Backoff;
use crate::client::{Client, Error, Role, dial, role, run_id};
use crate::metrics;

/// Rooms in one batch of commands: few enough to be confirmed well within the time limit.
const BATCH: usize = 512;

pub(super) struct MasterSubscription<T> {
    client: Client,
    host: Host,
    desired: Arc<DesiredSubscriptions>,
    dispatcher: Arc<Dispatcher<T>>,
    /// Every room to be heard here, and whether its subscription has been asked for on this connection.
    rooms: HashMap<RoomId, bool>,
    /// Rooms to be left.
    leaving: Vec<RoomId>,
    /// The connection has been open since the last time it was lost.
    was_connected: bool,
    /// Events may have been lost: reported once everything is subscribed.
    gap: bool,
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

    fn of(state: &PushState) -> Self {
        if state.moved.load(Ordering::Acquire) {
            Self::SlotMoved
        } else {
            Self::Ended
        }
    }
}

/// A connection and the server that was found at its other end.
struct Found {
    connection: MultiplexedConnection,
    run_id: Option<String>,
    opened_at: Instant,
}

impl<T: From<BusNotification> + Weigh + Send + 'static> MasterSubscription<T> {
    pub(super) fn new(
        client: Client,
        host: Host,
        desired: Arc<DesiredSubscriptions>,
        dispatcher: Arc<Dispatcher<T>>,
        gap: bool,
    ) -> Self {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        Self {
            client,
            host,
            desired,
            dispatcher,
            rooms: HashMap::new(),
            leaving: Vec::new(),
            was_connected: false,
            gap,
            backoff,
        }
    }

    /// Until the task is ended.
    pub(super) async fn run(mut self) {
        loop {
            let Err(lost) = self.connected().await;
            if std::mem::take(&mut self.was_connected) {
                metrics::BUS_RESTARTS
                    .with_label_values(&[lost.reason()])
                    .inc();
                tracing::warn!(master = %self.host, %lost, rooms = self.rooms.len(), "lost bus connection, reconnecting");
            } else {
                tracing::debug!(master = %self.host, %lost, "cannot open bus connection");
            }
            self.client.refresh_soon();
            self.gap = true;
            tokio::time::sleep(self.backoff.next()).await;
        }
    }

    async fn connected(&mut self) -> Result<std::convert::Infallible, Lost> {
        let state = Arc::new(PushState::default());
        let mut found = self.dial(&state).await?;
        metrics::BUS_CONNECTS.inc();
        self.was_connected = true;
        self.rooms.values_mut().for_each(|asked| *asked = false);
        self.leaving.clear();
        let interval = self.client.options().check_interval;
        let mut check = tokio::time::interval_at(Instant::now() + interval, interval);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let dispatcher = Arc::clone(&self.dispatcher);
        loop {
            self.take_desired();
            let refused = self.apply(&mut found.connection, &state).await?;
            tokio::select! {
                () = state.lost.notified() => return Err(Lost::of(&state)),
                () = self.desired.changed() => {}
                () = dispatcher.pending.notified() => {}
                _ = check.tick() => self.check(&mut found).await?,
                () = tokio::time::sleep(self.backoff.next()), if refused => {}
            }
            tokio::select! {
                () = dispatcher.flush_pending() => {}
                () = state.lost.notified() => return Err(Lost::of(&state)),
                // A queue that stays full must not keep the connection from being checked.
                _ = check.tick() => { dispatcher.pending.notify_one(); self.check(&mut found).await? }
            }
        }
    }

    /// A connection to whatever is at the address, if that is a master.
    async fn dial(&self, state: &Arc<PushState>) -> Result<Found, Lost> {
        let opened_at = Instant::now();
        let info = self
            .client
            .address()
            .server(&self.host, ProtocolVersion::RESP3)?;
        let dispatcher = Arc::clone(&self.dispatcher);
        let state = Arc::clone(state);
        let push = Box::new(move |push| {
            dispatcher.on_push(&state, push);
            Ok::<(), redis::aio::SendError>(())
        });
        let mut connection = dial(info, self.client.options(), Duration::ZERO, Some(push)).await?;
        if role(&mut connection).await? == Role::Replica {
            return Err(Lost::Replica);
        }
        let run_id = run_id(&mut connection).await;
        Ok(Found {
            connection,
            run_id,
            opened_at,
        })
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
            Some(master) if master.has_replaced(found.run_id.as_deref(), found.opened_at) => {
                Err(Lost::OtherServer)
            }
            _ => Ok(()),
        }
    }

    fn take_desired(&mut self) {
        for (room, wanted) in self.desired.take() {
            if !wanted {
                if self.rooms.remove(&room).unwrap_or(false) {
                    self.leaving.push(room);
                }
            } else if self.rooms.get(&room) == Some(&true) {
                self.dispatcher.subscribed(room);
            } else {
                self.leaving.retain(|left| *left != room);
                self.rooms.insert(room, false);
            }
        }
        im_runtime::give_back(&mut self.rooms, SPARE);
    }

    /// Subscribes and unsubscribes what is open. Returns whether something was refused and is to be tried again.
    async fn apply(
        &mut self,
        connection: &mut MultiplexedConnection,
        state: &PushState,
    ) -> Result<bool, Lost> {
        for batch in std::mem::take(&mut self.leaving).chunks(BATCH) {
            state.unsubscribing(batch.len());
            self.command(connection, "SUNSUBSCRIBE", batch).await?;
        }
        let open: Vec<RoomId> = self
            .rooms
            .iter()
            .filter(|(_, asked)| !**asked)
            .map(|(room, _)| room.clone())
            .collect();
        let mut refused = 0;
        for batch in open.chunks(BATCH) {
            let replies = self.command(connection, "SSUBSCRIBE", batch).await?;
            for (room, reply) in batch.iter().zip(replies) {
                match reply {
                    Value::ServerError(error) => {
                        refused += 1;
                        let error = Error::of_server(&error);
                        tracing::debug!(%room, master = %self.host, %error, "subscription refused");
                    }
                    _ => drop(self.rooms.insert(room.clone(), true)),
                }
            }
        }
        if refused > 0 {
            tracing::warn!(master = %self.host, refused, "subscriptions refused, retrying");
            self.client.refresh_soon();
            return Ok(true);
        }
        self.backoff.reset();
        if std::mem::take(&mut self.gap) {
            self.dispatcher.gap_possible();
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
            pipeline
                .cmd(name)
                .arg(self.client.keys().room(room).channel());
        }
        Ok(connection
            .req_packed_commands(&pipeline, 0, rooms.len())
            .await?)
    }
}
