//! Parts of the delivery path, each by itself, for `benches/`: what they cost without sockets.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use im_wire::ids::{RoomId, Seq};
use im_wire::native::{Body, Message};
use tokio::time::Instant;

use crate::connection::encoding::Encoding;
use crate::connection::outbox::Outbox;
use crate::hub::{Answer, Asker, Effect, Hub, Limits, LogPosition, Part, Turn};

const EPOCH: u64 = 1;

/// A room of live members, whose sockets take everything at once.
pub struct Room {
    hub: Hub,
    id: RoomId,
    head: Seq,
    outboxes: Vec<Outbox>,
    body: Bytes,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room")
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

impl Room {
    /// With so many members and bodies of so many bytes.
    ///
    /// # Panics
    /// Where the hub does not take them.
    pub fn new(members: u32, body: usize) -> Self {
        let limits = Limits {
            pending: 1 << 20,
            pending_bytes: 1 << 30,
            signals: 64,
            linger: Duration::from_secs(30),
            retry: Duration::from_millis(200),
            longest: Duration::from_secs(15),
            seed: 1,
        };
        let mut hub = Hub::new(limits);
        let mut effects = Vec::new();
        let id = RoomId::new("measured").expect("a good id");
        let start = LogPosition {
            epoch: EPOCH,
            seq: 0,
        };
        for member in 0..members {
            hub.join(&id, member, start, start, &mut effects);
        }
        hub.subscribed(&id, &mut effects);
        hub.fetched(
            &id,
            Asker::Room,
            start,
            answer(start, Vec::new()),
            Instant::now(),
            &mut effects,
        );
        let outboxes = (0..members).map(|_| Outbox::default()).collect();
        Self {
            hub,
            id,
            head: 0,
            outboxes,
            body: Bytes::from(vec![b'x'; body]),
        }
    }

    fn message(&self, seq: Seq) -> Arc<Message> {
        let id = "0199f0e2-0000-7000-8000-000000000000".to_owned();
        let from = "ann".into();
        let client_id = "c".into();
        let kind = "text".to_owned();
        let body = Body::Text(self.body.clone());
        Arc::new(Message {
            room: self.id.clone(),
            epoch: EPOCH,
            seq,
            id,
            from,
            client_id,
            kind,
            body,
            time_ms: 1,
        })
    }

    /// The bus brings so many messages at once; every member gets them in one write. Returns the bytes written.
    pub fn fan_out(&mut self, messages: u64) -> usize {
        let mut effects = Vec::new();
        for _ in 0..messages {
            self.head += 1;
            let message = self.message(self.head);
            self.hub.logged(message, &mut effects);
        }
        assert!(effects.is_empty(), "nothing is missing");
        let mut written = 0;
        let outboxes = &mut self.outboxes;
        self.hub
            .deliver(everything(), |room, Part { members, items, .. }| {
                let bytes = Encoding::NativeTcp.items(room, items, true);
                for member in members {
                    let outbox = &mut outboxes[*member as usize];
                    outbox.push(bytes.clone());
                    let flushed = outbox.flush(|slices| {
                        let length: usize = slices.iter().map(|slice| slice.len()).sum();
                        written += length;
                        Ok(length)
                    });
                    assert!(matches!(flushed, Ok(true)));
                }
            });
        written
    }

    /// The bus loses `missing` messages and brings the next one; the log is asked, answers, and everybody gets all of them.
    pub fn repair(&mut self, missing: u64) -> usize {
        let mut effects = Vec::new();
        let before = LogPosition {
            epoch: EPOCH,
            seq: self.head,
        };
        self.head += missing + 1;
        let message = self.message(self.head);
        self.hub.logged(message, &mut effects);
        assert!(
            matches!(
                effects.pop(),
                Some(Effect::Fetch {
                    asker: Asker::Room,
                    ..
                })
            ),
            "the jump is seen"
        );
        let entries = (before.seq + 1..=self.head)
            .map(|seq| self.message(seq))
            .collect();
        let told = answer(
            LogPosition {
                epoch: EPOCH,
                seq: self.head,
            },
            entries,
        );
        self.hub.fetched(
            &self.id,
            Asker::Room,
            before,
            told,
            Instant::now(),
            &mut effects,
        );
        let mut delivered = 0;
        self.hub.deliver(everything(), |_, part| {
            delivered += part.members.len() * part.items.len()
        });
        assert_eq!(delivered as u64, (missing + 1) * self.outboxes.len() as u64);
        delivered
    }
}

fn everything() -> Turn {
    Turn {
        members: usize::MAX,
        now: Instant::now(),
        hold: Duration::ZERO,
    }
}

fn answer(head: LogPosition, entries: Vec<Arc<Message>>) -> Answer {
    Answer {
        head,
        reset_to: None,
        truncated: None,
        entries,
    }
}

/// A slow reader: so many frames wait and leave again in writes of at most 4 KiB. Returns how many writes it took.
///
/// # Panics
/// Where the outbox loses count.
pub fn outbox(frames: usize, frame: &Bytes) -> usize {
    let mut outbox = Outbox::default();
    for _ in 0..frames {
        outbox.push(frame.clone());
    }
    let mut writes = 0;
    let flushed = outbox.flush(|slices| {
        writes += 1;
        Ok(slices
            .iter()
            .map(|slice| slice.len())
            .sum::<usize>()
            .min(4096))
    });
    assert!(
        matches!(flushed, Ok(true)) && outbox.is_empty(),
        "everything has left"
    );
    writes
}
