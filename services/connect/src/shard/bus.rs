//! What the bus brings, given to the hub.

use std::rc::Rc;
use std::sync::Arc;

use im_wire::ids::RoomId;
use im_wire::native::Message;

use super::Shard;
use crate::translate::Signal;

impl Shard {
    pub(crate) fn logged(self: &Rc<Self>, message: Arc<Message>) {
        let mut effects = Vec::new();
        self.hub.borrow_mut().logged(message, &mut effects);
        if !effects.is_empty() {
            self.apply(effects);
        }
    }

    /// A signal to everybody who hears the room, or to one of them.
    pub(crate) fn signal(&self, room: &RoomId, signal: Arc<Signal>, to_user: &str) {
        if to_user.is_empty() {
            self.hub.borrow_mut().signal(room, signal);
        } else {
            self.signal_to(room, &signal, to_user);
        }
    }

    /// The bus carries the room from now on.
    pub(crate) fn subscribed(self: &Rc<Self>, room: &RoomId) {
        let mut effects = Vec::new();
        self.hub.borrow_mut().subscribed(room, &mut effects);
        self.apply(effects);
    }

    /// Events may have been lost: rooms that wait for the bus stop waiting, all others are compared with the log. What is said
    /// while they are, as by several streams to a logic process that died, makes one more round of it.
    pub(crate) fn compare_all(self: &Rc<Self>) {
        let rooms: Vec<RoomId> = self
            .hub
            .borrow()
            .heads()
            .map(|(room, _)| room.clone())
            .collect();
        let mut effects = Vec::new();
        for room in &rooms {
            self.hub.borrow_mut().unstick(room, &mut effects);
        }
        self.apply(effects);
        self.hurry_lists();
        self.compare(rooms);
    }
}
