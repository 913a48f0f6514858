//! Subscribes to rooms: one connection to every master, subscribed to the channels of the wanted rooms that live there.
//!
//! `run` hands each room to its master's connection and moves rooms when masters change; see [`crate`] for what may be lost.

mod desired;
mod dispatcher;
mod master_subscription;

use std::collections::HashMap;
use std::sync::Arc;

use im_proto::v1::BusEvent;
use im_runtime::limits::queue::{AROUND, Sender, Weigh};
use im_wire::ids::RoomId;
use prost::Message;
use tokio::task::JoinSet;

use self::desired::DesiredSubscriptions;
use self::dispatcher::Dispatcher;
use self::master_subscription::MasterSubscription;
use crate::address::Host;
use crate::client::{Client, Topology};
use crate::metrics;

/// Rooms that a map has places for in any case.
const SPARE: usize = 1024;

/// What a subscriber receives.
#[derive(Debug, Clone, PartialEq)]
pub enum BusNotification {
    /// Something was published to a room that is heard. Per room in the order of publishing; may be lost or repeated.
    Event(BusEvent),
    /// The subscription to this room stands: whatever is published from now on comes.
    Subscribed(RoomId),
    /// Events may have been lost: compare heads. Everything is subscribed again by then.
    GapPossible,
}

impl Weigh for BusNotification {
    fn bytes(&self) -> usize {
        match self {
            Self::Event(event) => AROUND + event.encoded_len(),
            Self::Subscribed(_) | Self::GapPossible => 0,
        }
    }
}

/// Hears rooms. [`Self::run`] does the work; the other calls never block and may come before it.
#[derive(Debug, Clone)]
pub struct Subscriber {
    client: Client,
    desired: Arc<DesiredSubscriptions>,
}

/// The rooms wanted of one master, and the task that subscribes to them.
struct Listener {
    desired: Arc<DesiredSubscriptions>,
    task: tokio::task::AbortHandle,
}

impl Subscriber {
    /// A subscriber to nothing yet.
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            desired: Arc::default(),
        }
    }

    /// Begins to hear a room. [`BusNotification::Subscribed`] follows once the subscription stands, also where it stands already.
    pub fn subscribe(&self, room: RoomId) {
        self.desired.set(room, true);
    }

    /// Unsubscribes from a room.
    pub fn unsubscribe(&self, room: &RoomId) {
        self.desired.set(room.clone(), false);
    }

    /// Tells `into` what is heard, until its receiver is closed. A full queue makes events drop, counted, with a
    /// [`BusNotification::GapPossible`] to follow. To be called once.
    pub async fn run<T: From<BusNotification> + Weigh + Send + 'static>(&self, into: Sender<T>) {
        let mut rooms = HashMap::new();
        let mut listeners: HashMap<Host, Listener> = HashMap::new();
        let mut tasks = JoinSet::new();
        let mut topology = self.client.topology();
        let mut first = true;
        loop {
            let now = Arc::clone(&topology.borrow_and_update());
            // Without masters the connections stay as they are: they may well be good.
            if !now.masters().is_empty() {
                self.sync_listeners(&now, &mut listeners, &mut tasks, &into, !first);
                move_rooms(&self.client, &now, &mut rooms, &listeners);
                first = false;
            }
            tokio::select! {
                () = self.desired.changed() => self.route(&now, &mut rooms, &listeners),
                changed = topology.changed() => if changed.is_err() { return },
                () = into.closed() => return,
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    /// One listener for each master, none for others.
    fn sync_listeners<T: From<BusNotification> + Weigh + Send + 'static>(
        &self,
        topology: &Topology,
        listeners: &mut HashMap<Host, Listener>,
        tasks: &mut JoinSet<()>,
        into: &Sender<T>,
        gap: bool,
    ) {
        listeners.retain(|host, listener| {
            let stays = topology.masters().iter().any(|master| master.host == *host);
            if !stays {
                listener.task.abort();
            }
            stays
        });
        for master in topology.masters() {
            if !listeners.contains_key(&master.host) {
                let desired = Arc::<DesiredSubscriptions>::default();
                let dispatcher = Dispatcher::new(self.client.keys().clone(), into.clone());
                let subscription = MasterSubscription::new(
                    self.client.clone(),
                    master.host.clone(),
                    Arc::clone(&desired),
                    dispatcher,
                    gap,
                );
                let task = tasks.spawn(subscription.run());
                listeners.insert(master.host.clone(), Listener { desired, task });
            }
        }
    }

    fn route(
        &self,
        topology: &Topology,
        rooms: &mut HashMap<RoomId, Option<Host>>,
        listeners: &HashMap<Host, Listener>,
    ) {
        for (room, wanted) in self.desired.take() {
            if wanted {
                let owner = owner(&self.client, topology, &room)
                    .or_else(|| rooms.get(&room).cloned().flatten());
                if let Some(listener) = owner.as_ref().and_then(|owner| listeners.get(owner)) {
                    listener.desired.set(room.clone(), true);
                }
                rooms.insert(room, owner);
            } else if let Some(Some(owner)) = rooms.remove(&room)
                && let Some(listener) = listeners.get(&owner)
            {
                listener.desired.set(room, false);
            }
        }
        im_runtime::give_back(rooms, SPARE);
        metrics::ROOMS.set(i64::try_from(rooms.len()).unwrap_or(i64::MAX));
    }
}

fn owner(client: &Client, topology: &Topology, room: &RoomId) -> Option<Host> {
    topology
        .owner(client.keys().room(room).slot())
        .map(|master| master.host.clone())
}

/// Hands every room whose master is another now, or whose listener is new, to the right one.
fn move_rooms(
    client: &Client,
    topology: &Topology,
    rooms: &mut HashMap<RoomId, Option<Host>>,
    listeners: &HashMap<Host, Listener>,
) {
    for (room, current) in rooms.iter_mut() {
        let Some(owner) = owner(client, topology, room) else {
            continue;
        };
        if let Some(old) = current
            .as_ref()
            .filter(|old| **old != owner)
            .and_then(|old| listeners.get(old))
        {
            old.desired.set(room.clone(), false);
        }
        let Some(listener) = listeners.get(&owner) else {
            continue;
        };
        if current.as_ref() != Some(&owner) || listener.desired.is_new() {
            listener.desired.set(room.clone(), true);
            *current = Some(owner);
        }
    }
    for listener in listeners.values() {
        listener.desired.settle();
    }
}
