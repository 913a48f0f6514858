//! Many clients in many rooms: some send at a steady rate, each records everything it receives.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use im_client::{Client, Event, Events, Outgoing, SendError, Stats};
use im_wire::ids::{RoomId, Seq};
use im_wire::native::Position;
use rand::RngExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::checker::{Delivery, History, Outcome, Sent};
use crate::sync::lock;
use crate::token::Signer;

/// How many clients connect at the same time.
const CONNECT_CONCURRENCY: usize = 100;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a send is retried. Longer than any fault lasts.
const SEND_DEADLINE: Duration = Duration::from_secs(60);

/// How many clients there are and how much they send.
#[derive(Debug, Clone)]
pub struct Size {
    /// Clients, spread evenly over the rooms.
    pub connections: usize,
    /// Open rooms.
    pub rooms: usize,
    /// Sends per second over all rooms.
    pub rate: u32,
}

struct Member {
    user: String,
    room: RoomId,
    client: Client,
    received: Arc<Mutex<Received>>,
}

#[derive(Default)]
struct Received {
    deliveries: Vec<Delivery>,
    /// The greatest seq that was not taken back.
    seq: Seq,
    /// Why the client gave up, if it did.
    ended: Option<String>,
}

/// The clients and what they have recorded.
pub struct MessageWorkload {
    members: Vec<Member>,
    rooms: Vec<RoomId>,
    sends: Arc<Mutex<Vec<Sent>>>,
    send_times: Arc<Mutex<Vec<SendTime>>>,
    next_send: AtomicU64,
}

/// When a send began and when its outcome was known.
pub(crate) type SendTime = (SystemTime, SystemTime);

impl MessageWorkload {
    /// Connects all clients and waits until they are in their rooms. Each list of addresses is of one transport; the members
    /// of every room are spread evenly over the transports.
    ///
    /// Rooms and users are new for each workload, so that earlier data in the cluster does not matter.
    pub async fn connect(size: &Size, transports: &[&[String]], signer: &Signer) -> Result<Self> {
        let run: u32 = rand::rng().random();
        let rooms: Vec<RoomId> = (0..size.rooms)
            .map(|number| RoomId::new(format!("audit-{run:08x}-{number}")))
            .collect::<Result<_, _>>()?;
        let mut members = Vec::with_capacity(size.connections);
        for number in 0..size.connections {
            let addresses = transports[number / rooms.len() % transports.len()];
            members.push(join(
                format!("u{run:08x}-{number}"),
                rooms[number % rooms.len()].clone(),
                addresses,
                signer,
            )?);
            if members.len() % CONNECT_CONCURRENCY == 0 {
                all_connected(&members[members.len() - CONNECT_CONCURRENCY..]).await?;
            }
        }
        all_connected(&members).await?;
        Ok(Self {
            members,
            rooms,
            sends: Arc::default(),
            send_times: Arc::default(),
            next_send: AtomicU64::new(0),
        })
    }

    /// Number of clients.
    pub(crate) fn clients(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn rooms(&self) -> &[RoomId] {
        &self.rooms
    }

    /// Sends `rate` messages per second until `stop`, then waits for the outcome of every send.
    pub(crate) async fn run(&self, rate: u32, stop: CancellationToken) {
        let mut due = interval(Duration::from_secs(1) / rate.max(1));
        due.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut in_flight = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = due.tick() => {
                    let member = &self.members[rand::rng().random_range(0..self.members.len())];
                    in_flight.spawn(self.send(member));
                }
                Some(_) = in_flight.join_next() => {}
            }
        }
        in_flight.join_all().await;
    }

    /// Sends one message to every room and waits until all members have it: nothing is in flight when this returns. The heads.
    pub(crate) async fn barrier(&self, timeout: Duration) -> Result<HashMap<RoomId, Seq>> {
        let mut in_flight = JoinSet::new();
        for member in self.members.iter().take(self.rooms.len()) {
            in_flight.spawn(self.send(member));
        }
        let mut heads = HashMap::new();
        for sent in in_flight.join_all().await {
            let Outcome::Acknowledged { seq, .. } = sent.outcome else {
                bail!(
                    "the barrier of {} was not stored: {:?}",
                    sent.room,
                    sent.outcome
                )
            };
            heads.insert(sent.room, seq);
        }
        let deadline = Instant::now() + timeout;
        for member in &self.members {
            let head = heads[&member.room];
            while member.seq() < head {
                ensure!(
                    Instant::now() < deadline,
                    "timed out after {timeout:?}: {} has {} of {head} in {}, {:?}",
                    member.user,
                    member.seq(),
                    member.room,
                    member.client.state()
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(heads)
    }

    pub(crate) fn users(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|member| member.user.clone())
            .collect()
    }

    /// How many sends have ended since the last [`Self::take_history`].
    pub(crate) fn ended_sends(&self) -> usize {
        lock(&self.sends).len()
    }

    /// For each room, the greatest seq that any member has received.
    pub(crate) fn heads(&self) -> HashMap<RoomId, Seq> {
        let mut heads = HashMap::new();
        for member in &self.members {
            let head = heads.entry(member.room.clone()).or_insert(0);
            *head = member.seq().max(*head);
        }
        heads
    }

    /// How many members have received more than `heads`.
    pub(crate) fn ahead_of(&self, heads: &HashMap<RoomId, Seq>) -> usize {
        self.members
            .iter()
            .filter(|member| {
                heads
                    .get(&member.room)
                    .is_some_and(|head| member.seq() > *head)
            })
            .count()
    }

    /// What was sent and received since the last call, each history beginning at `from`.
    pub(crate) fn take_history(&self, from: &HashMap<RoomId, Seq>) -> (Vec<Sent>, Vec<History>) {
        let sends = std::mem::take(&mut *lock(&self.sends));
        let history = |member: &Member| History {
            receiver: member.user.clone(),
            room: member.room.clone(),
            from: from.get(&member.room).copied().unwrap_or(0),
            deliveries: std::mem::take(&mut lock(&member.received).deliveries),
        };
        (sends, self.members.iter().map(history).collect())
    }

    /// The times of all sends that ended since the last call.
    pub(crate) fn take_send_times(&self) -> Vec<SendTime> {
        std::mem::take(&mut *lock(&self.send_times))
    }

    /// The statistics of each client, always in the same order.
    pub(crate) fn stats(&self) -> Vec<Stats> {
        self.members
            .iter()
            .map(|member| member.client.stats())
            .collect()
    }

    /// Clients that gave up, with their reasons: there should be none.
    pub(crate) fn ended(&self) -> Vec<String> {
        let reason = |member: &Member| {
            lock(&member.received)
                .ended
                .as_ref()
                .map(|why| format!("{}: {why}", member.user))
        };
        self.members.iter().filter_map(reason).collect()
    }

    fn send(&self, member: &Member) -> impl Future<Output = Sent> + Send + 'static {
        let number = self.next_send.fetch_add(1, Ordering::Relaxed);
        let client = member.client.clone();
        let room = member.room.clone();
        let from = member.user.clone();
        let sends = Arc::clone(&self.sends);
        let send_times = Arc::clone(&self.send_times);
        async move {
            let begun = SystemTime::now();
            let client_id = format!("{from}-{number}");
            let message = Outgoing::text(
                room.clone(),
                format!("message {number} of the audit, in {room}, {:060}", 0),
            )
            .client_id(client_id.clone())
            .deadline(SEND_DEADLINE);
            let outcome = match client.send(message).await {
                Ok(sent) => Outcome::Acknowledged {
                    seq: sent.seq,
                    id: sent.id,
                    duplicate: sent.duplicate,
                },
                Err(SendError::Refused(error)) => Outcome::Refused { reason: error.text },
                Err(error @ (SendError::NotStored { .. } | SendError::Ended)) => Outcome::Refused {
                    reason: error.to_string(),
                },
                Err(_) => Outcome::Unknown,
            };
            lock(&send_times).push((begun, SystemTime::now()));
            let sent = Sent {
                room,
                from,
                client_id,
                outcome,
            };
            lock(&sends).push(sent.clone());
            sent
        }
    }
}

impl Member {
    fn seq(&self) -> Seq {
        lock(&self.received).seq
    }
}

fn join(user: String, room: RoomId, addresses: &[String], signer: &Signer) -> Result<Member> {
    let positions = [Position {
        room: room.clone(),
        epoch: 0,
        seq: Some(0),
    }];
    let (client, events) = Client::builder()
        .addresses(addresses)
        .token(signer.token(&user, "", &["audit-*"])?)
        .device("one")
        .subscribe(positions)
        .build()?;
    let received = Arc::new(Mutex::new(Received::default()));
    tokio::spawn(record(events, Arc::clone(&received)));
    Ok(Member {
        user,
        room,
        client,
        received,
    })
}

async fn record(mut events: Events, received: Arc<Mutex<Received>>) {
    while let Some(event) = events.next().await {
        let mut received = lock(&received);
        match event {
            Event::Message(message) => {
                received.seq = message.seq;
                received.deliveries.push(Delivery::Message {
                    seq: message.seq,
                    id: message.id,
                });
            }
            Event::Reset { seq, .. } => {
                received.seq = received.seq.min(seq);
                received.deliveries.push(Delivery::Reset { seq });
            }
            Event::Truncated { from, to, .. } => {
                received.deliveries.push(Delivery::Truncated { from, to })
            }
            Event::Ended(end) => received.ended = Some(end.to_string()),
            _ => {}
        }
    }
}

async fn all_connected(members: &[Member]) -> Result<()> {
    for member in members {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, member.client.connected());
        connected.await.with_context(|| {
            format!(
                "{} cannot connect: {:?}",
                member.user,
                member.client.state()
            )
        })??;
    }
    Ok(())
}
