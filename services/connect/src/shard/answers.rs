//! Answers to clients with several requests under way: those that come in the same turn of the shard leave in one write.
//! Nothing waits for a clock: the flush is a task behind those that are ready already.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::Notify;

use super::Shard;
use crate::connection::Connection;

/// Connections with answers in their outboxes. At most one place for each answer of this turn.
#[derive(Default)]
pub(super) struct Answered {
    connections: RefCell<Vec<Rc<Connection>>>,
    any: Notify,
}

impl Shard {
    /// Writes an answer: at once where it is the only one that the client waits for.
    pub(crate) fn answer(&self, connection: &Rc<Connection>, bytes: &Bytes) {
        if connection.in_flight.get() < 2 {
            connection.write(bytes);
        } else if connection.write_later(bytes) {
            self.answered
                .connections
                .borrow_mut()
                .push(Rc::clone(connection));
            self.answered.any.notify_one();
        }
    }

    /// Flushes what [`Self::answer`] has left; runs as long as the shard.
    pub(crate) async fn flush_answers(self: Rc<Self>) {
        loop {
            self.answered.any.notified().await;
            for connection in self.answered.connections.take() {
                connection.flush();
            }
        }
    }
}
