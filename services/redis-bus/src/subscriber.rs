//! Hears rooms: one connection to every master, subscribed to the channels of the rooms that are wanted and live there.
//!
//! `run` routes wishes to the masters' ears and moves rooms when masters change; see [`crate`] for what may be lost.

mod ear;
mod mouth;
mod wishes;

use std::collections::HashMap;
use std::sync::Arc;

use im_proto::v1::BusEvent;
use im_runtime::limits::queue::{AROUND, Sender, Weigh};
use im_wire::ids::RoomId;
use prost::Message;
use tokio::task::JoinSet;

use self::ear::Ear;
use self::mouth::Mouth;
use self::wishes::Wishes;
use crate::address::Host;
use crate::client::{Client, Topology};
use crate::metrics;

/// Rooms that a map has places for in any case.
const SPARE: usize = 1024;

/// What a subscriber tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Tiding {
    /// Something was published to a room that is heard. Per room in the order of publishing; may be lost or repeated.
    Event(BusEvent),
    /// The subscription to this room stands: whatever is published from now on comes.
    Subscribed(RoomId),
    /// Events may have been lost: compare heads. Everything is subscribed again when this is said.
    Disturbed,
}

impl Weigh for Tiding {
    fn bytes(&self) -> usize {
        match self {
            Self::Event(event) => AROUND + event.encoded_len(),
            Self::Subscribed(_) | Self::Disturbed => 0,
        }
    }
}

/// Hears rooms. [`Self::run`] does the work; the other calls never block and may come before it.
#[derive(Debug, Clone)]
pub struct Subscriber {
    client: Client,
    wishes: Arc<Wishes>,
}

/// An ear and its task, which ends with it.
struct Listener {
    wishes: Arc<Wishes>,
    task: tokio::task::AbortHandle,
}

impl Subscriber {
    /// A subscriber to nothing yet.
    pub fn new(client: &Client) -> Self {
        Self { client: client.clone(), wishes: Arc::default() }
    }

    /// Begins to hear a room. [`Tiding::Subscribed`] follows once the subscription stands, also where it stands already.
    pub fn subscribe(&self, room: RoomId) {
        self.wishes.set(room, true);
    }

    /// Stops hearing a room.
    pub fn unsubscribe(&self, room: &RoomId) {
        self.wishes.set(room.clone(), false);
    }

    /// Tells `into` what is heard, until its receiver is closed. A full queue makes events drop, counted, with a
    /// [`Tiding::Disturbed`] to follow. To be called once.
    pub async fn run<T: From<Tiding> + Weigh + Send + 'static>(&self, into: Sender<T>) {
        let mut rooms = HashMap::new();
        let mut ears: HashMap<Host, Listener> = HashMap::new();
        let mut tasks = JoinSet::new();
        let mut topology = self.client.topology();
        let mut first = true;
        loop {
            let now = Arc::clone(&topology.borrow_and_update());
            // Without masters the ears stay where they are: their connections may well be good.
            if !now.masters().is_empty() {
                self.place_ears(&now, &mut ears, &mut tasks, &into, !first);
                move_rooms(&self.client, &now, &mut rooms, &ears);
                first = false;
            }
            tokio::select! {
                () = self.wishes.changed() => self.route(&now, &mut rooms, &ears),
                changed = topology.changed() => if changed.is_err() { return },
                () = into.closed() => return,
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    /// One ear for each master, none for others.
    fn place_ears<T: From<Tiding> + Weigh + Send + 'static>(
        &self,
        topology: &Topology,
        ears: &mut HashMap<Host, Listener>,
        tasks: &mut JoinSet<()>,
        into: &Sender<T>,
        disturbed: bool,
    ) {
        ears.retain(|host, ear| {
            let stays = topology.masters().iter().any(|master| master.host == *host);
            if !stays {
                ear.task.abort();
            }
            stays
        });
        for master in topology.masters() {
            if !ears.contains_key(&master.host) {
                let wishes = Arc::<Wishes>::default();
                let mouth = Mouth::new(self.client.keys().clone(), into.clone());
                let ear = Ear::new(self.client.clone(), master.host.clone(), Arc::clone(&wishes), mouth, disturbed);
                let task = tasks.spawn(ear.listen());
                ears.insert(master.host.clone(), Listener { wishes, task });
            }
        }
    }

    fn route(&self, topology: &Topology, rooms: &mut HashMap<RoomId, Option<Host>>, ears: &HashMap<Host, Listener>) {
        for (room, wanted) in self.wishes.take() {
            if wanted {
                let owner = owner(&self.client, topology, &room).or_else(|| rooms.get(&room).cloned().flatten());
                if let Some(ear) = owner.as_ref().and_then(|owner| ears.get(owner)) {
                    ear.wishes.set(room.clone(), true);
                }
                rooms.insert(room, owner);
            } else if let Some(Some(owner)) = rooms.remove(&room)
                && let Some(ear) = ears.get(&owner)
            {
                ear.wishes.set(room, false);
            }
        }
        im_runtime::give_back(rooms, SPARE);
        metrics::ROOMS.set(i64::try_from(rooms.len()).unwrap_or(i64::MAX));
    }
}

fn owner(client: &Client, topology: &Topology, room: &RoomId) -> Option<Host> {
    topology.owner(client.keys().room(room).slot()).map(|master| master.host.clone())
}

/// Hands every room whose master is another now, or whose ear is new, to the right ear.
fn move_rooms(
    client: &Client,
    topology: &Topology,
    rooms: &mut HashMap<RoomId, Option<Host>>,
    ears: &HashMap<Host, Listener>,
) {
    for (room, place) in rooms.iter_mut() {
        let Some(owner) = owner(client, topology, room) else { continue };
        if let Some(old) = place.as_ref().filter(|old| **old != owner).and_then(|old| ears.get(old)) {
            old.wishes.set(room.clone(), false);
        }
        let Some(ear) = ears.get(&owner) else { continue };
        if place.as_ref() != Some(&owner) || ear.wishes.is_new() {
            ear.wishes.set(room.clone(), true);
            *place = Some(owner);
        }
    }
    for ear in ears.values() {
        ear.wishes.settle();
    }
}
