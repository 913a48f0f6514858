//! What the application asks, on its way to the server.

use im_wire::native::ClientOp;
use tokio::time::Instant;

use super::{Command, Core};
use crate::answer::RequestError;
use crate::event::End;

impl Core {
    /// The application asks for something.
    pub(crate) fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Send {
                send,
                deadline,
                reply,
            } => {
                let client_id = send.client_id.clone();
                self.outbox.push(send, deadline, (reply, client_id));
            }
            Command::Request {
                op,
                deadline,
                reply,
            } => {
                let connected = self.active.is_some_and(|slot| self.is_up(slot));
                if matches!(op, ClientOp::Signal { .. }) && !connected {
                    let _ = reply.send(Err(RequestError::NotConnected));
                } else {
                    self.requests.wait(op, deadline, reply);
                }
            }
            Command::Subscribe {
                positions,
                all,
                deadline,
                reply,
            } => self.subscribe(positions, all, deadline, reply),
            Command::Unsubscribe { rooms, reply } => match self.unsubscribe(&rooms) {
                Some(req) => drop(self.leaving.insert(req, reply)),
                None => drop(reply.send(Ok(()))),
            },
            Command::Close { reply } => {
                self.closers.push(reply);
                return self.end(End::Closed);
            }
        }
        self.pump(now);
    }
}
