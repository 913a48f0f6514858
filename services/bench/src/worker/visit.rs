//! Rooms that clients hear for a moment and leave: what such rooms leave behind in the servers is measured afterwards.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use im_client::RoomId;
use mio::Events;

use super::{Note, TIMEOUT, Worker};
use crate::client::State;
use crate::clock;

/// Clients that are visiting at once.
const VISITORS: usize = 64;
/// Rooms in one request.
const AT_ONCE: u32 = 50;

/// How far the visits of all clients have got.
#[derive(Default)]
pub(super) struct Visits {
    /// Rooms for each client.
    each: u32,
    /// The next client to go.
    next: usize,
    under_way: usize,
    /// Rooms that were heard and left.
    heard: u64,
    /// Requests that were refused, by reason.
    refused: BTreeMap<String, u64>,
}

impl Visits {
    /// One that was visiting is gone.
    pub(super) fn lost(&mut self) {
        self.under_way -= 1;
    }
}

impl Worker {
    /// Lets every client hear so many rooms of its own, a few at a time, and leave them.
    pub(super) fn visit(&mut self, each: u32) -> io::Result<Note> {
        let begin = clock::now();
        self.visits = Visits {
            each,
            ..Visits::default()
        };
        let mut events = Events::with_capacity(1024);
        let mut looked = begin;
        let mut progress = (begin, 0);
        while self.visits.next < self.clients.len() || self.visits.under_way > 0 {
            while self.visits.under_way < VISITORS && self.visits.next < self.clients.len() {
                let number = self.visits.next;
                self.visits.next += 1;
                if self.clients[number].state == State::In {
                    self.visits.under_way += 1;
                    self.clients[number].to_visit = each;
                    self.hear_some(number);
                }
            }
            self.wait(&mut events, Duration::from_millis(100))?;
            self.signs_of_life(&mut looked);
            let now = clock::now();
            if self.visits.heard != progress.1 {
                progress = (now, self.visits.heard);
            } else if now > progress.0 + TIMEOUT {
                break;
            }
        }
        let Visits {
            heard: rooms,
            refused,
            ..
        } = std::mem::take(&mut self.visits);
        Ok(Note::Visited {
            rooms,
            seconds: (clock::now() - begin) as f64 / 1e9,
            refused,
        })
    }

    fn hear_some(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let first = self.visits.each - client.to_visit;
        let rooms = (first..self.visits.each.min(first + AT_ONCE))
            .filter_map(|room| RoomId::new(format!("bench://{}-{number}-{room}", self.run)).ok());
        client.visit(rooms.collect());
    }

    /// The rooms of a visit are heard: they are left.
    pub(super) fn visited(&mut self, number: usize) {
        self.clients[number].leave_visited();
    }

    /// They are not heard, or cannot be left: the client goes no further.
    pub(super) fn visit_refused(&mut self, number: usize, code: String) {
        let client = &mut self.clients[number];
        if std::mem::take(&mut client.to_visit) > 0 {
            client.visiting = Vec::new();
            self.visits.under_way -= 1;
            *self.visits.refused.entry(code).or_default() += 1;
        }
    }

    /// They are left: the next ones, or the next client.
    pub(super) fn left(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let heard = client.visiting.len() as u32;
        if heard == 0 {
            return;
        }
        client.visiting = Vec::new();
        client.to_visit -= heard.min(client.to_visit);
        self.visits.heard += u64::from(heard);
        if client.to_visit > 0 {
            self.hear_some(number);
        } else {
            self.visits.under_way -= 1;
        }
    }
}
