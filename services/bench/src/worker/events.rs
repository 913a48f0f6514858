//! What the sockets of a worker have to say.

use mio::event::Event;

use super::{TIMER, WAKER, Worker};
use crate::client::State;
use crate::clock;
use crate::plan::Dialect;
use crate::wire::Said;

impl Worker {
    pub(super) fn happened(&mut self, event: &Event) {
        match event.token() {
            WAKER => {}
            TIMER => {
                // Read so that it can fire again; that it has fired is known.
                let _fired = rustix::io::read(&self.timer, &mut [0; 8]);
            }
            token => {
                let publisher = token.0.checked_sub(self.part.tokens.len());
                match publisher {
                    Some(place) => self.api_event(place),
                    None => self.client_event(token.0, event),
                }
            }
        }
    }

    fn client_event(&mut self, number: usize, event: &Event) {
        let client = &mut self.clients[number];
        if client.state == State::Gone {
            return;
        }
        if client.state == State::Connecting {
            if let Ok(Some(error)) = client.socket.take_error() {
                return self.lose(number, &error.to_string());
            }
            if !event.is_writable() {
                return;
            }
            let who = client.who;
            let target = &self.part.targets
                [(who.member / self.part.workers + who.room) % self.part.targets.len()];
            client.begin(target, &self.part.tokens[number]);
        } else if event.is_writable() {
            client.flush();
        }
        if event.is_readable() || event.is_read_closed() {
            self.readable(number);
        }
    }

    fn readable(&mut self, number: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            match self.clients[number].read(&mut buffer) {
                Ok(None) => break,
                Ok(Some(length)) => {
                    let now = clock::now();
                    self.last_heard = now;
                    if let Some(tally) = &mut self.tally {
                        tally.read(length, now);
                    }
                    if let Err(why) = self.take(number, &buffer[..length], now) {
                        self.lose(number, &why);
                        break;
                    }
                    if length < buffer.len() {
                        // The socket is empty; what comes later is another event.
                        break;
                    }
                }
                Err(error) => {
                    self.lose(number, &error.to_string());
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    /// Reads frames where they lie; only a frame that is cut off is kept.
    fn take(&mut self, number: usize, fresh: &[u8], now: u64) -> Result<(), String> {
        let mut rest = std::mem::take(&mut self.clients[number].rest);
        let joined = !rest.is_empty();
        if joined {
            rest.extend_from_slice(fresh);
        }
        let bytes = if joined { rest.as_slice() } else { fresh };
        let mut from = 0;
        if self.clients[number].state == State::Upgrading {
            match self.clients[number].upgraded(bytes, &self.part.tokens[number])? {
                Some(end) => from = end,
                None => {
                    self.clients[number].rest = bytes.to_vec();
                    return Ok(());
                }
            }
        }
        let mut closing = None;
        let wire = self.clients[number].wire;
        let taken = wire.read(&bytes[from..], |said| {
            self.said(number, said, now, &mut closing)
        })?;
        let left = &bytes[from + taken..];
        if !left.is_empty() {
            self.clients[number].rest = left.to_vec();
        }
        closing.map_or(Ok(()), Err)
    }

    fn said(&mut self, number: usize, said: Said, now: u64, closing: &mut Option<String>) {
        let client = &mut self.clients[number];
        match said {
            Said::Message {
                stamp: Some(stamp),
                seq,
                body,
            } => {
                let Some(tally) = &mut self.tally else { return };
                if stamp.phase != tally.phase.number {
                    return;
                }
                tally.figures.gaps +=
                    u64::from(client.last_seq != 0 && seq != client.last_seq + 1 && seq != 0);
                client.last_seq = seq;
                let due = tally
                    .phase
                    .due(stamp.message, self.rooms.len())
                    .filter(|due| due.room == client.who.room);
                match due.and_then(|due| Some((due, client.tracks.get_mut(due.sender)?))) {
                    Some((due, track)) => tally.received(due, body, track, now),
                    None => tally.figures.strays += 1,
                }
            }
            Said::Ack(req) => {
                if let (Some(due), Some(tally)) = (client.answered(req), &mut self.tally) {
                    tally.acked(client.who.room, due, now);
                }
            }
            Said::Refused(req, code) => match (client.answered(req), &mut self.tally) {
                (Some(_due), Some(tally)) => tally.refused(code),
                (None, _) => self.visit_refused(number, code),
                (Some(_due), None) => {}
            },
            Said::LetIn if self.part.dialect == Dialect::Goim => self.is_in(number),
            Said::InRoom if client.visiting.is_empty() => self.is_in(number),
            Said::InRoom => self.visited(number),
            Said::Left => self.left(number),
            Said::Close(why) => {
                closing.get_or_insert(why);
            }
            Said::Ping => client.pong(),
            Said::LetIn | Said::Message { stamp: None, .. } | Said::Other => {}
        }
    }

    fn is_in(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if client.state == State::Entering {
            client.state = State::In;
            self.entering -= 1;
            self.inside += 1;
        }
    }

    fn api_event(&mut self, place: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let publisher = &mut self.publishers[place];
        publisher.flush();
        match publisher.read(&mut buffer) {
            Ok(Some((one, status))) => {
                let now = clock::now();
                self.last_heard = now;
                if let Some(tally) = &mut self.tally {
                    if matches!(status, 200 | 201) {
                        tally.acked(one.room, one.due, now);
                    } else {
                        tally.refused(format!("http {status}"));
                    }
                }
            }
            Ok(None) => {}
            Err(error) => {
                if let Some(tally) = &mut self.tally {
                    tally.closed(&format!("api: {error}"));
                }
            }
        }
        self.buffer = buffer;
        self.publish();
    }
}
