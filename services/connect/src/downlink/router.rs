//! Which shards have which rooms: what the bus brings crosses to a shard once, and only where somebody is subscribed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use im_proto::v1::{BusEvent, OnlineCounts, bus_event};
use im_runtime::limits::queue::Receiver;
use im_wire::ids::RoomId;

use super::{Bus, BusNotification};
use crate::metrics;
use crate::shard::mailbox::{Command, ShardHandle};
use crate::translate;

#[derive(Default)]
struct Route {
    /// One bit per shard.
    shards: u64,
    confirmed: bool,
}

/// See the module's top.
pub(crate) struct Router {
    bus: Arc<dyn Bus>,
    shards: Vec<ShardHandle>,
    routes: Mutex<HashMap<RoomId, Route>>,
    online: Mutex<Online>,
    /// Where a test plants its faults.
    #[cfg(test)]
    node: String,
}

/// Rooms named in one beat at most, as changed or as asked for: what a beat costs does not grow with them.
const ROOMS_PER_BEAT: usize = 2_000;

/// Rooms with goim or golang-im clients.
#[derive(Default)]
struct Online {
    /// How many are here, and how many everywhere when last asked.
    rooms: HashMap<RoomId, (u64, u64)>,
    /// Rooms whose number here has changed since it was told.
    changed: HashSet<RoomId>,
    /// The last state that was given a number.
    newest: u64,
    /// The state that the store has; 0: unknown, everything is to be told.
    told: u64,
    /// Rooms whose number everywhere is still to be asked for, until all have had their turn.
    to_ask: VecDeque<RoomId>,
}

impl Router {
    pub(crate) fn new(bus: Arc<dyn Bus>, shards: Vec<ShardHandle>, _node: &str) -> Self {
        Self {
            bus,
            shards,
            routes: Mutex::default(),
            online: Mutex::default(),
            #[cfg(test)]
            node: _node.to_owned(),
        }
    }

    pub(crate) fn shards(&self) -> &[ShardHandle] {
        &self.shards
    }

    /// A shard subscribes to a room; it gets a command once the bus carries it.
    pub(crate) fn subscribe(&self, shard: usize, room: RoomId) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = routes.contains_key(&room);
        let route = routes.entry(room.clone()).or_default();
        route.shards |= 1 << shard;
        if route.confirmed {
            self.shards[shard].event(Command::Subscribed(room));
        } else if !known {
            self.bus.subscribe(room);
        }
    }

    /// A shard no longer needs a room.
    pub(crate) fn unsubscribe(&self, shard: usize, room: &RoomId) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = routes.get_mut(room) {
            route.shards &= !(1 << shard);
            if route.shards == 0 {
                routes.remove(room);
                im_runtime::give_back(&mut routes, crate::hub::SPARE);
                self.bus.unsubscribe(room);
            }
        }
    }

    /// Takes what the bus brings until it ends.
    pub(crate) async fn run(&self, mut notifications: Receiver<BusNotification>) {
        while let Some(notification) = notifications.recv().await {
            metrics::BUS_QUEUE.set(notifications.len() as i64);
            metrics::BUS_QUEUE_BYTES.set(notifications.bytes() as i64);
            #[cfg(test)]
            crate::planted::pass(&self.node, 0, "router");
            match notification {
                BusNotification::Event(event) => self.event(event),
                BusNotification::Subscribed(room) => self.confirmed(room),
                BusNotification::GapPossible => {
                    metrics::POSSIBLE_GAPS.inc();
                    self.compare_all().await;
                }
            }
        }
    }

    /// Every shard compares its rooms with the log.
    pub(crate) async fn compare_all(&self) {
        for shard in &self.shards {
            // A shard that has ended has no rooms.
            let _ended = shard.commands.send(Command::Compare).await;
        }
    }

    fn confirmed(&self, room: RoomId) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = routes.get_mut(&room) {
            route.confirmed = true;
            self.each(route.shards, || Command::Subscribed(room.clone()));
        }
    }

    fn each(&self, shards: u64, command: impl Fn() -> Command) {
        for (number, shard) in self.shards.iter().enumerate() {
            if shards & (1 << number) != 0 {
                shard.event(command());
            }
        }
    }

    fn event(&self, event: BusEvent) {
        let Ok(room) = RoomId::new(&event.room) else {
            return;
        };
        let shards = self
            .routes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&room)
            .map_or(0, |route| route.shards);
        if shards == 0 {
            return;
        }
        match event.event {
            Some(bus_event::Event::Logged(logged)) => {
                let Some(entry) = logged.entry else { return };
                let message = Arc::new(translate::message(&room, logged.epoch, logged.seq, entry));
                self.each(shards, || Command::Logged(Arc::clone(&message)));
            }
            Some(bus_event::Event::Signal(signal)) => {
                let to_user = signal.to_user.clone();
                let signal = Arc::new(translate::signal(room.as_str(), signal));
                self.each(shards, || Command::Signal {
                    room: room.clone(),
                    signal: Arc::clone(&signal),
                    to_user: to_user.clone(),
                });
            }
            None => {}
        }
    }

    /// A goim or golang-im client enters or leaves a room.
    pub(crate) fn count_online(&self, room: &RoomId, joins: bool) {
        let mut online = self.online.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = online.rooms.entry(room.clone()).or_default();
        counts.0 = if joins {
            counts.0 + 1
        } else {
            counts.0.saturating_sub(1)
        };
        if counts.0 == 0 {
            online.rooms.remove(room);
        }
        online.changed.insert(room.clone());
    }

    /// How many are online in a room, as far as this node knows.
    pub(crate) fn online(&self, room: &RoomId) -> u64 {
        let online = self.online.lock().unwrap_or_else(PoisonError::into_inner);
        online
            .rooms
            .get(room)
            .map_or(0, |(here, everywhere)| *here.max(everywhere))
    }

    /// This node's counts.
    pub(crate) fn counts(&self) -> HashMap<String, u64> {
        let online = self.online.lock().unwrap_or_else(PoisonError::into_inner);
        online
            .rooms
            .iter()
            .map(|(room, (here, _))| (room.to_string(), *here))
            .collect()
    }

    /// What is to be told of this node's counts next.
    pub(crate) fn change(&self) -> OnlineCounts {
        let mut online = self.online.lock().unwrap_or_else(PoisonError::into_inner);
        let Online {
            rooms,
            changed,
            newest,
            told,
            ..
        } = &mut *online;
        if *told == 0 {
            *changed = rooms.keys().cloned().collect();
        }
        let some: Vec<RoomId> = changed.iter().take(ROOMS_PER_BEAT).cloned().collect();
        for room in &some {
            changed.remove(room);
        }
        if changed.is_empty() {
            changed.shrink_to(ROOMS_PER_BEAT);
        }
        if !some.is_empty() {
            *newest += 1;
        }
        let state = if some.is_empty() { *told } else { *newest };
        let count = |room: RoomId| {
            (
                room.to_string(),
                rooms.get(&room).map_or(0, |(here, _)| *here),
            )
        };
        OnlineCounts {
            since: *told,
            state,
            changed: some.into_iter().map(count).collect(),
        }
    }

    /// The change was taken, or the store wants everything. Whether there is more to tell at once.
    pub(crate) fn changed(&self, change: OnlineCounts, taken: bool) -> bool {
        let mut online = self.online.lock().unwrap_or_else(PoisonError::into_inner);
        online.told = if taken { change.state } else { 0 };
        if taken {
            !online.changed.is_empty()
        } else {
            change.since != 0
        }
    }

    /// Nobody knows whether it was taken: told again, and where it was, the store will want everything.
    pub(crate) fn change_lost(&self, change: OnlineCounts) {
        let mut online = self.online.lock().unwrap_or_else(PoisonError::into_inner);
        online.changed.extend(
            change
                .changed
                .into_keys()
                .filter_map(|room| RoomId::new(room).ok()),
        );
    }

    /// Rooms to ask for now.
    pub(crate) fn to_ask(&self) -> Vec<RoomId> {
        let mut online = self.online.lock().unwrap_or_else(PoisonError::into_inner);
        let Online { rooms, to_ask, .. } = &mut *online;
        if to_ask.is_empty() {
            to_ask.extend(rooms.keys().cloned());
        }
        to_ask.iter().take(ROOMS_PER_BEAT).cloned().collect()
    }

    /// What all nodes together count in some of the rooms.
    pub(crate) fn learn(&self, everywhere: &HashMap<String, u64>) {
        let mut online = self.online.lock().unwrap_or_else(PoisonError::into_inner);
        let Online { rooms, to_ask, .. } = &mut *online;
        for (room, count) in everywhere {
            if let Some(counts) = rooms.get_mut(room.as_str()) {
                counts.1 = *count;
            }
        }
        // Those that an answer does not cover stay in front.
        while to_ask
            .front()
            .is_some_and(|room| everywhere.contains_key(room.as_str()) || !rooms.contains_key(room))
        {
            to_ask.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nobody::Nobody;

    fn room(number: usize) -> RoomId {
        RoomId::new(format!("live://{number}")).expect("a good id")
    }

    fn router(rooms: usize) -> Router {
        let router = Router::new(Arc::new(Nobody), Vec::new(), "node");
        (0..rooms).for_each(|number| router.count_online(&room(number), true));
        router
    }

    /// Tells until nothing is left; how many rooms were named.
    fn tell_all(router: &Router) -> usize {
        let mut named = 0;
        loop {
            let change = router.change();
            assert!(change.changed.len() <= ROOMS_PER_BEAT);
            named += change.changed.len();
            if !router.changed(change, true) {
                return named;
            }
        }
    }

    #[test]
    fn only_what_has_changed_is_told() {
        let router = router(5_000);
        assert_eq!(tell_all(&router), 5_000);
        assert_eq!(tell_all(&router), 0);
        router.count_online(&room(7), true);
        router.count_online(&room(8), false);
        let change = router.change();
        let expected = HashMap::from([(room(7).to_string(), 2), (room(8).to_string(), 0)]);
        assert_eq!(
            (
                change.changed.clone(),
                change.since > 0,
                change.state > change.since
            ),
            (expected, true, true)
        );
        // No answer: told again. Not in that state: everything is told, from nothing.
        router.change_lost(change);
        let again = router.change();
        assert_eq!(again.changed.len(), 2);
        assert!(router.changed(again, false));
        assert_eq!(router.change().since, 0);
        assert_eq!(tell_all(&router), 4_999);
    }

    #[test]
    fn every_room_is_asked_for_in_its_turn() {
        let router = router(5_000);
        let mut asked = HashSet::new();
        for _ in 0..5_000_usize.div_ceil(400) {
            let some = router.to_ask();
            assert!(some.len() <= ROOMS_PER_BEAT);
            // An answer covers the first ones only.
            let answer: HashMap<String, u64> = some
                .iter()
                .take(400)
                .map(|room| (room.to_string(), 9))
                .collect();
            asked.extend(answer.keys().cloned());
            router.learn(&answer);
        }
        assert_eq!(asked.len(), 5_000);
        assert_eq!(router.online(&room(4_321)), 9);
    }
}
