//! Many clients in many rooms: each writes down everything it hears, and some of them speak at a steady rate.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use im_client::{Client, Event, Events, Outgoing, SendError, Stats};
use im_wire::ids::{RoomId, Seq};
use im_wire::native::Position;
use rand::RngExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::audit::{Heard, Outcome, Record, Sent};
use crate::token::Signer;

/// How many clients are let in at once while the crowd gathers.
const GATHERING: usize = 100;
/// How long a sender goes on trying. Longer than any fault of the test lasts.
const SEND_PATIENCE: Duration = Duration::from_secs(60);

/// How large the crowd is and how much it says.
#[derive(Debug, Clone)]
pub struct Size {
    /// Clients, spread evenly over the rooms.
    pub connections: usize,
    /// Open rooms.
    pub rooms: usize,
    /// Sends per second over all of them.
    pub rate: u32,
}

struct Member {
    user: String,
    room: RoomId,
    client: Client,
    heard: Arc<Mutex<Notes>>,
}

#[derive(Default)]
struct Notes {
    heard: Vec<Heard>,
    /// The greatest seq that stands.
    seq: Seq,
    /// Why the client gave up, where it did.
    ended: Option<String>,
}

/// The clients.
pub struct Crowd {
    members: Vec<Member>,
    rooms: Vec<RoomId>,
    sends: Arc<Mutex<Vec<Sent>>>,
    flights: Arc<Mutex<Vec<Flight>>>,
    said: AtomicU64,
}

/// When a send was handed to the client, and when its outcome was known.
pub type Flight = (SystemTime, SystemTime);

impl Crowd {
    /// Connects everybody and waits until all are in their rooms. Each list of addresses is of one transport; the members
    /// of every room use one as much as another.
    ///
    /// Rooms and users are new ones for each crowd, so that what a cluster holds from before does not matter.
    pub async fn gather(size: &Size, transports: &[&[String]], signer: &Signer) -> Result<Self> {
        let run: u32 = rand::rng().random();
        let rooms: Vec<RoomId> =
            (0..size.rooms).map(|number| RoomId::new(format!("audit-{run:08x}-{number}"))).collect::<Result<_, _>>()?;
        let mut members = Vec::with_capacity(size.connections);
        for number in 0..size.connections {
            let addresses = transports[number / rooms.len() % transports.len()];
            members.push(join(format!("u{run:08x}-{number}"), rooms[number % rooms.len()].clone(), addresses, signer)?);
            if members.len() % GATHERING == 0 {
                all_in(&members[members.len() - GATHERING..]).await?;
            }
        }
        all_in(&members).await?;
        Ok(Self { members, rooms, sends: Arc::default(), flights: Arc::default(), said: AtomicU64::new(0) })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The rooms.
    pub fn rooms(&self) -> &[RoomId] {
        &self.rooms
    }

    /// Speaks at `rate` messages per second until `stop`, then waits for the outcome of every send.
    pub async fn speak(&self, rate: u32, stop: CancellationToken) {
        let mut due = interval(Duration::from_secs(1) / rate.max(1));
        due.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut under_way = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = due.tick() => {
                    let member = &self.members[rand::rng().random_range(0..self.members.len())];
                    under_way.spawn(self.say(member));
                }
                Some(_) = under_way.join_next() => {}
            }
        }
        under_way.join_all().await;
    }

    /// One message in every room, heard by everybody in it: when this returns nothing is on its way any more.
    pub async fn barrier(&self, patience: Duration) -> Result<HashMap<RoomId, Seq>> {
        let mut under_way = JoinSet::new();
        for member in self.members.iter().take(self.rooms.len()) {
            under_way.spawn(self.say(member));
        }
        let mut heads = HashMap::new();
        for sent in under_way.join_all().await {
            let Outcome::Acknowledged { seq, .. } = sent.outcome else {
                anyhow::bail!("the barrier of {} was not stored: {:?}", sent.room, sent.outcome)
            };
            heads.insert(sent.room, seq);
        }
        let until = Instant::now() + patience;
        for member in &self.members {
            let head = heads[&member.room];
            while member.seq() < head {
                let late = || {
                    format!(
                        "{} has {} of {head} in {}, {:?}",
                        member.user,
                        member.seq(),
                        member.room,
                        member.client.state()
                    )
                };
                ensure!(Instant::now() < until, "not within {patience:?}: {}", late());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(heads)
    }

    /// Everybody's name.
    pub fn users(&self) -> Vec<String> {
        self.members.iter().map(|member| member.user.clone()).collect()
    }

    /// How many sends have ended since the last [`Self::take`].
    pub fn ended_sends(&self) -> usize {
        lock(&self.sends).len()
    }

    /// How far each room has been heard, by whoever has heard most of it.
    pub fn heard(&self) -> HashMap<RoomId, Seq> {
        let mut heads = HashMap::new();
        for member in &self.members {
            let head = heads.entry(member.room.clone()).or_insert(0);
            *head = member.seq().max(*head);
        }
        heads
    }

    /// How many have heard more of their room than `heads` holds.
    pub fn ahead_of(&self, heads: &HashMap<RoomId, Seq>) -> usize {
        self.members.iter().filter(|member| heads.get(&member.room).is_some_and(|head| member.seq() > *head)).count()
    }

    /// What was sent and heard since the last call, each record beginning at `from`.
    pub fn take(&self, from: &HashMap<RoomId, Seq>) -> (Vec<Sent>, Vec<Record>) {
        let sends = std::mem::take(&mut *lock(&self.sends));
        let record = |member: &Member| Record {
            receiver: member.user.clone(),
            room: member.room.clone(),
            from: from.get(&member.room).copied().unwrap_or(0),
            heard: std::mem::take(&mut lock(&member.heard).heard),
        };
        (sends, self.members.iter().map(record).collect())
    }

    /// When each send since the last call was under way.
    pub fn take_flights(&self) -> Vec<Flight> {
        std::mem::take(&mut *lock(&self.flights))
    }

    /// What each client has been through, in a fixed order.
    pub fn stats(&self) -> Vec<Stats> {
        self.members.iter().map(|member| member.client.stats()).collect()
    }

    /// Clients that have given up, with their reasons: there should be none.
    pub fn ended(&self) -> Vec<String> {
        let reason = |member: &Member| lock(&member.heard).ended.as_ref().map(|why| format!("{}: {why}", member.user));
        self.members.iter().filter_map(reason).collect()
    }

    fn say(&self, member: &Member) -> impl Future<Output = Sent> + Send + 'static {
        let number = self.said.fetch_add(1, Ordering::Relaxed);
        let (client, room, from) = (member.client.clone(), member.room.clone(), member.user.clone());
        let (sends, flights) = (Arc::clone(&self.sends), Arc::clone(&self.flights));
        async move {
            let begun = SystemTime::now();
            let client_id = format!("{from}-{number}");
            let message = Outgoing::text(room.clone(), format!("message {number} of the audit, in {room}, {:060}", 0))
                .client_id(client_id.clone())
                .deadline(SEND_PATIENCE);
            let outcome = match client.send(message).await {
                Ok(sent) => {
                    Outcome::Acknowledged { epoch: sent.epoch, seq: sent.seq, id: sent.id, duplicate: sent.duplicate }
                }
                Err(SendError::Refused(error)) => Outcome::Refused { why: error.text },
                Err(error @ (SendError::NotStored { .. } | SendError::Ended)) => {
                    Outcome::Refused { why: error.to_string() }
                }
                Err(_) => Outcome::Unknown,
            };
            lock(&flights).push((begun, SystemTime::now()));
            let sent = Sent { room, from, client_id, outcome };
            lock(&sends).push(sent.clone());
            sent
        }
    }
}

impl Member {
    fn seq(&self) -> Seq {
        lock(&self.heard).seq
    }
}

fn join(user: String, room: RoomId, addresses: &[String], signer: &Signer) -> Result<Member> {
    let positions = [Position { room: room.clone(), epoch: 0, seq: Some(0) }];
    let (client, events) = Client::builder()
        .addresses(addresses)
        .token(signer.token(&user, "", &["audit-*"])?)
        .device("one")
        .subscribe(positions)
        .build()?;
    let heard = Arc::new(Mutex::new(Notes::default()));
    tokio::spawn(listen(events, Arc::clone(&heard)));
    Ok(Member { user, room, client, heard })
}

async fn listen(mut events: Events, notes: Arc<Mutex<Notes>>) {
    while let Some(event) = events.next().await {
        let mut notes = lock(&notes);
        match event {
            Event::Message(message) => {
                notes.seq = message.seq;
                notes.heard.push(Heard::Message { epoch: message.epoch, seq: message.seq, id: message.id });
            }
            Event::Reset { seq, .. } => {
                notes.seq = notes.seq.min(seq);
                notes.heard.push(Heard::Reset { seq });
            }
            Event::Truncated { from, to, .. } => notes.heard.push(Heard::Truncated { from, to }),
            Event::Ended(end) => notes.ended = Some(end.to_string()),
            _ => {}
        }
    }
}

async fn all_in(members: &[Member]) -> Result<()> {
    for member in members {
        let connected = tokio::time::timeout(Duration::from_secs(30), member.client.connected());
        connected.await.with_context(|| format!("{} does not get in: {:?}", member.user, member.client.state()))??;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
