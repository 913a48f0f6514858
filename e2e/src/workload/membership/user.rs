//! A user with one device, whose client follows all rooms of the user and records what it is told about them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use im_client::{Client, End, Event, Events};
use im_wire::code::{CloseCode, ErrorCode};
use im_wire::ids::{RoomId, Seq, UserId};

use crate::sync::lock;
use crate::token::Signer;

/// How many events per room are kept for findings.
const EVENTS_KEPT: usize = 12;

pub(super) struct User {
    pub(super) id: UserId,
    client: Mutex<Client>,
    view: Arc<Mutex<View>>,
    /// Held while this user is changed.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// Must not reconnect before the ban is lifted.
    pub(super) is_banned: AtomicBool,
}

/// What a client knows.
#[derive(Debug, Default)]
struct View {
    /// The rooms it is subscribed to, and the last seq it received of each.
    positions: HashMap<RoomId, Seq>,
    /// Why it gave up, if it did.
    ended: Option<End>,
    /// The last events of each room, for findings.
    events: HashMap<RoomId, VecDeque<String>>,
}

impl User {
    pub(super) fn connect(id: UserId, addresses: &[String], signer: &Signer) -> Result<Self> {
        let view = Arc::default();
        let client = Mutex::new(connect(&id, addresses, signer, &view)?);
        Ok(Self {
            id,
            client,
            view,
            changing: tokio::sync::Mutex::default(),
            is_banned: AtomicBool::new(false),
        })
    }

    /// Replaces the client by a new one that knows nothing.
    pub(super) fn reconnect(&self, addresses: &[String], signer: &Signer) -> Result<()> {
        *lock(&self.client) = connect(&self.id, addresses, signer, &self.view)?;
        Ok(())
    }

    pub(super) fn client(&self) -> Client {
        lock(&self.client).clone()
    }

    /// Why its client gave up, if it did.
    pub(super) fn ended(&self) -> Option<End> {
        lock(&self.view).ended.clone()
    }

    /// The last events that its client got of a room.
    pub(super) fn last_events(&self, room: &RoomId) -> String {
        let view = lock(&self.view);
        view.events
            .get(room)
            .map(|events| events.iter().cloned().collect::<Vec<_>>().join(", "))
            .unwrap_or_default()
    }

    /// The rooms its client is subscribed to, and the last seq it received of each.
    pub(super) fn positions(&self) -> HashMap<RoomId, Seq> {
        lock(&self.view).positions.clone()
    }
}

/// Whether a connection was closed, or a new one refused, because of a ban.
pub(super) fn is_ban(end: &End) -> bool {
    match end {
        End::ByServer { code, .. } => *code == CloseCode::Banned,
        End::Refused(error) => error.code == ErrorCode::Banned,
        _ => false,
    }
}

fn connect(
    id: &UserId,
    addresses: &[String],
    signer: &Signer,
    view: &Arc<Mutex<View>>,
) -> Result<Client> {
    *lock(view) = View::default();
    let token = signer.token(id.as_str(), "", &[])?;
    let builder = Client::builder()
        .addresses(addresses)
        .token(token)
        .device("one")
        .follow_all(true);
    let (client, events) = builder.build()?;
    tokio::spawn(record(events, Arc::clone(view)));
    Ok(client)
}

async fn record(mut events: Events, view: Arc<Mutex<View>>) {
    while let Some(event) = events.next().await {
        lock(&view).apply(event);
    }
}

impl View {
    fn keep(&mut self, event: &Event) {
        let (room, text) = match event {
            Event::Subscribed { room, after, .. } => (room, format!("subscribed after {after}")),
            Event::Message(message) => (
                &message.room,
                format!("{} {} {}", message.kind, message.epoch, message.seq),
            ),
            Event::Reset { room, seq, .. } => (room, format!("reset to {seq}")),
            Event::RoomChanged {
                room,
                subscribed,
                reason,
            } => (room, format!("changed {subscribed} {reason}")),
            Event::Refused { room, error } => (room, format!("refused {}", error.code)),
            Event::Unsubscribed { room } => (room, "unsubscribed".to_owned()),
            _ => return,
        };
        let events = self.events.entry(room.clone()).or_default();
        if events.len() >= EVENTS_KEPT {
            events.pop_front();
        }
        events.push_back(text);
    }

    fn apply(&mut self, event: Event) {
        self.keep(&event);
        match event {
            Event::Subscribed { room, after, .. } => _ = self.positions.insert(room, after),
            Event::Message(message) => _ = self.positions.insert(message.room, message.seq),
            Event::Reset { room, seq, .. } => {
                self.positions
                    .entry(room)
                    .and_modify(|position| *position = seq.min(*position));
            }
            Event::RoomChanged {
                room,
                subscribed: true,
                ..
            } => {
                self.positions.entry(room).or_default();
            }
            // Still a member, though a connection may receive the room only after it subscribes.
            Event::RoomChanged { reason, .. }
                if matches!(reason.as_str(), "joined" | "created") => {}
            Event::Refused { error, .. } if error.retryable => {}
            Event::RoomChanged { room, .. }
            | Event::Refused { room, .. }
            | Event::Unsubscribed { room } => {
                self.positions.remove(&room);
            }
            Event::Ended(end) => self.ended = Some(end),
            _ => {}
        }
    }
}
