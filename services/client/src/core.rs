//! The client's mind: what to dial, write, deliver and wait for, as a function of what has happened. No I/O and no clock
//! of its own: the driver tells it everything and does what it says.

mod attempt;
mod commands;
mod frames;
mod moving;
mod subscriptions;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use im_wire::code::CloseCode;
use im_wire::ids::{Epoch, RoomId, Seq};
use im_wire::native::{ClientOp, Error, Position, Request, ServerOp, SubscribedRoom};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::address::{Address, AddressPool};
use crate::answer::{RequestError, SendError, SendReply, Sent, State};
use crate::event::{End, Event};
use crate::options::Options;
use crate::outbox::{Limits, Outbox, PendingSend, Refusal, Unanswered};
use crate::requests::Requests;
use crate::rooms::{Rooms, Slot};
use crate::stats::{Counters, count};

/// A connection that has stood so long is no sign of trouble when it ends: the next wait is the shortest again.
const STABLE: Duration = Duration::from_secs(2);
/// Refused credentials are tried again so often, where the source can give others.
const TOKENS_TRIED: u32 = 3;

/// What a client is made of.
pub(crate) struct Setup {
    pub(crate) options: Arc<Options>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) device: Option<String>,
    pub(crate) agent: Option<String>,
    pub(crate) positions: Vec<Position>,
    pub(crate) follow_all: bool,
    pub(crate) renewable: bool,
    pub(crate) counters: Arc<Counters>,
    pub(crate) seed: u64,
}

/// What the application asks.
#[derive(Debug)]
pub(crate) enum Command {
    Send {
        send: PendingSend,
        deadline: Instant,
        reply: SendReply,
    },
    Request {
        op: ClientOp,
        deadline: Instant,
        reply: RequestReply,
    },
    Subscribe {
        positions: Vec<Position>,
        all: bool,
        deadline: Instant,
        reply: SubscribeReply,
    },
    Unsubscribe {
        rooms: Vec<RoomId>,
        reply: UnsubscribeReply,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

type RequestReply = oneshot::Sender<Result<ServerOp, RequestError>>;
type UnsubscribeReply = oneshot::Sender<Result<(), RequestError>>;
type SubscribeReply = oneshot::Sender<Result<Vec<SubscribedRoom>, RequestError>>;

/// What the driver is to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Ask for a token and connect; the answer is [`Core::dialled`].
    Dial { slot: Slot, address: Address },
    /// Write a frame.
    Write { slot: Slot, request: Request },
    /// End the connection (or the attempt), politely; nothing more is heard of it.
    Hangup { slot: Slot },
    /// Ask for a token for an open connection; the answer is [`Core::token`].
    FetchToken { slot: Slot },
}

/// Why a connection or an attempt ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loss {
    /// The number of the WebSocket close code, where there was one.
    pub(crate) code: Option<u16>,
    /// A sentence for people.
    pub(crate) reason: String,
}

/// A caller of subscribe, until the last of its rooms has a result.
#[derive(Debug)]
struct Waiter {
    rooms: HashSet<RoomId>,
    all: bool,
    results: Vec<SubscribedRoom>,
    deadline: Instant,
    reply: SubscribeReply,
}

/// What a subscription asked for.
#[derive(Debug, Default)]
struct Asked {
    /// From where, by room.
    positions: HashMap<RoomId, Position>,
    all: bool,
}

impl Asked {
    fn new(positions: &[Position], all: bool) -> Self {
        Self {
            positions: positions
                .iter()
                .map(|position| (position.room.clone(), position.clone()))
                .collect(),
            all,
        }
    }
}

/// How the server said good-bye, before the connection ends.
#[derive(Debug, Clone)]
struct CloseNotice {
    code: CloseCode,
    text: String,
    reconnect: bool,
    after: Duration,
}

#[derive(Debug)]
enum Phase {
    Dialling,
    Authenticating {
        req: u32,
        deadline: Instant,
        refused: Option<Error>,
    },
    Up(Up),
}

/// An authenticated connection.
#[derive(Debug)]
struct Up {
    node: String,
    since: Instant,
    ping_every: Duration,
    next_ping: Instant,
    heard_at: Instant,
    /// The server's clock at `since`, unix milliseconds.
    server_ms: u64,
    refresh_at: Option<Instant>,
    refresh_attempts: u32,
    /// The number of the refresh that is not answered.
    refreshing: Option<u32>,
    /// The head to be reached in each room that is behind, and its epoch.
    behind: HashMap<RoomId, (Epoch, Seq)>,
    /// Everything that was missed has arrived.
    resumed: bool,
}

#[derive(Debug)]
struct Connection {
    address: Address,
    phase: Phase,
    subscribing: HashMap<u32, Asked>,
    all_asked: bool,
    /// Rooms given up while the auth that asks for them was under way.
    given_up: Vec<RoomId>,
    close_notice: Option<CloseNotice>,
}

impl Connection {
    fn new(address: Address) -> Self {
        let subscribing = HashMap::new();
        let given_up = Vec::new();
        Self {
            address,
            phase: Phase::Dialling,
            subscribing,
            all_asked: false,
            given_up,
            close_notice: None,
        }
    }

    fn up(&mut self) -> Option<&mut Up> {
        match &mut self.phase {
            Phase::Up(up) => Some(up),
            _ => None,
        }
    }

    fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up(_))
    }
}

/// A move to another node.
#[derive(Debug)]
enum Move {
    /// Dial at this time.
    Planned { at: Instant, attempts: u32 },
    /// The other slot is on its way.
    Underway { attempts: u32 },
    /// The other slot has caught up: nothing is written to the old one, and its answers are awaited until then.
    Switching { until: Instant },
}

pub(crate) struct Core {
    options: Arc<Options>,
    device: Option<String>,
    agent: Option<String>,
    renewable: bool,
    counters: Arc<Counters>,
    random: SmallRng,
    addresses: AddressPool,
    rooms: Rooms,
    outbox: Outbox<(SendReply, String)>,
    requests: Requests<RequestReply>,
    waiters: Vec<Waiter>,
    /// Who waits for an unsubscription on the connection in charge, by request number.
    leaving: HashMap<u32, UnsubscribeReply>,
    slots: [Option<Connection>; 2],
    /// The slot that is written to.
    active: Option<Slot>,
    moving: Option<Move>,
    next_req: u32,
    /// Failures in a row.
    failures: u32,
    token_refusals: u32,
    retry_at: Option<Instant>,
    /// Rooms that were refused for the moment, and when to ask again.
    ask_again_at: Option<Instant>,
    ask_again: HashSet<RoomId>,
    ask_again_attempts: u32,
    /// The answer to "all rooms" has been heard once: what turns up later is new.
    all_known: bool,
    lost_at: Option<Instant>,
    /// More is waiting to be written than there should be: no new sends.
    congested: bool,
    ended: Option<End>,
    /// Told once the connection is closed.
    closers: Vec<oneshot::Sender<()>>,
    state: State,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
}

impl Core {
    pub(crate) fn new(setup: Setup) -> Self {
        let mut random = SmallRng::seed_from_u64(setup.seed);
        let options = setup.options;
        let limits = Limits {
            in_flight: options.in_flight.max(1),
            in_flight_per_room: options.in_flight_per_room.max(1),
            attempt_timeout: options.attempt_timeout,
            backoff: options.resend,
        };
        Self {
            addresses: AddressPool::new(setup.addresses, random.random()),
            rooms: Rooms::new(setup.positions, setup.follow_all),
            outbox: Outbox::new(limits),
            requests: Requests::new(),
            waiters: Vec::new(),
            leaving: HashMap::new(),
            slots: [None, None],
            active: None,
            moving: None,
            next_req: 0,
            failures: 0,
            token_refusals: 0,
            retry_at: None,
            ask_again_at: None,
            ask_again: HashSet::new(),
            ask_again_attempts: 0,
            all_known: false,
            lost_at: None,
            congested: false,
            ended: None,
            closers: Vec::new(),
            state: State::Connecting { last_failure: None },
            actions: VecDeque::new(),
            events: VecDeque::new(),
            device: setup.device,
            agent: setup.agent,
            renewable: setup.renewable,
            counters: setup.counters,
            options,
            random,
        }
    }

    /// The next thing to do.
    pub(crate) fn action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next thing to tell the application.
    pub(crate) fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Whom to tell that the client has ended.
    pub(crate) fn closers(&mut self) -> Vec<oneshot::Sender<()>> {
        std::mem::take(&mut self.closers)
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Something was heard, or cannot be heard because the application does not read.
    pub(crate) fn heard(&mut self, slot: Slot, now: Instant) {
        if let Some(up) = self.up(slot) {
            up.heard_at = now;
        }
    }

    /// Whether more is waiting to be written on the connection than there should be.
    pub(crate) fn set_congested(&mut self, congested: bool, now: Instant) {
        if std::mem::replace(&mut self.congested, congested) && !congested {
            self.pump(now);
        }
    }

    /// When [`Self::tick`] is to be called.
    pub(crate) fn timer(&self) -> Option<Instant> {
        let mut first = [
            self.retry_at,
            self.ask_again_at,
            self.requests.timer(),
            self.outbox.timer(),
            self.move_timer(),
        ]
        .into_iter()
        .flatten()
        .min();
        let mut sooner =
            |at: Instant| first = Some(first.map_or(at, |known: Instant| known.min(at)));
        for connection in self.slots.iter().flatten() {
            match &connection.phase {
                Phase::Dialling => {}
                Phase::Authenticating { deadline, .. } => sooner(*deadline),
                Phase::Up(up) => {
                    sooner(up.next_ping);
                    up.refresh_at.into_iter().for_each(&mut sooner);
                }
            }
        }
        self.waiters
            .iter()
            .for_each(|waiter| sooner(waiter.deadline));
        first
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Instant) {
        if self.has_ended() {
            return;
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.dial(Slot::A, None);
        }
        Slot::BOTH
            .into_iter()
            .for_each(|slot| self.tick_slot(slot, now));
        self.tick_move(now);
        self.tick_subscriptions(now);
        for (reply, outcome) in self.outbox.tick(now, self.random.random()) {
            answer_unanswered(reply, outcome);
        }
        self.requests
            .tick(now)
            .into_iter()
            .for_each(|reply| drop(reply.send(Err(RequestError::TimedOut))));
        self.pump(now);
    }

    fn tick_slot(&mut self, slot: Slot, now: Instant) {
        let Some(connection) = &mut self.slots[slot.index()] else {
            return;
        };
        match &mut connection.phase {
            Phase::Dialling => {}
            Phase::Authenticating { deadline, .. } if *deadline <= now => {
                self.give_up(slot, "the server did not answer the auth in time", now);
            }
            Phase::Authenticating { .. } => {}
            Phase::Up(up) => {
                if up.refresh_at.is_some_and(|at| at <= now) {
                    // Asked again after this, unless the answer sets another time.
                    up.refresh_at =
                        Some(now + self.options.token_timeout + self.options.request_timeout);
                    self.actions.push_back(Action::FetchToken { slot });
                }
                if up.next_ping > now {
                    return;
                }
                if now.duration_since(up.heard_at) >= up.ping_every * 2 {
                    return self.give_up(
                        slot,
                        "the connection is dead: nothing was heard for two pings",
                        now,
                    );
                }
                up.next_ping = now + up.ping_every;
                self.write(slot, ClientOp::Ping);
            }
        }
    }

    /// Ends a connection from this side and goes on as if it had been lost.
    fn give_up(&mut self, slot: Slot, reason: &str, now: Instant) {
        self.actions.push_back(Action::Hangup { slot });
        self.lost(
            slot,
            Loss {
                code: None,
                reason: reason.to_owned(),
            },
            now,
        );
    }

    fn up(&mut self, slot: Slot) -> Option<&mut Up> {
        self.slots[slot.index()].as_mut()?.up()
    }

    fn is_up(&self, slot: Slot) -> bool {
        self.slots[slot.index()]
            .as_ref()
            .is_some_and(Connection::is_up)
    }

    /// Whether a slot's connection is the only one that delivers.
    fn alone(&self, slot: Slot) -> bool {
        !self.is_up(slot.other())
    }

    fn req(&mut self) -> u32 {
        self.next_req = self.next_req.checked_add(1).unwrap_or(1);
        self.next_req
    }

    fn write(&mut self, slot: Slot, op: ClientOp) -> u32 {
        let req = self.req();
        self.actions.push_back(Action::Write {
            slot,
            request: Request { req, op },
        });
        req
    }

    fn delay(&mut self, attempts: u32) -> Duration {
        self.options.reconnect.delay(attempts, self.random.random())
    }

    /// Writes what may be written.
    fn pump(&mut self, now: Instant) {
        let Some(slot) = self.active.filter(|slot| self.is_up(*slot)) else {
            return;
        };
        if self.congested || matches!(self.moving, Some(Move::Switching { .. })) {
            return;
        }
        for pending in self.requests.take_waiting() {
            let req = self.write(slot, pending.op.clone());
            self.requests.written(req, pending);
        }
        loop {
            let next_req = &mut self.next_req;
            let number = || {
                *next_req = next_req.checked_add(1).unwrap_or(1);
                *next_req
            };
            let Some((req, op)) = self.outbox.next(now, number) else {
                break;
            };
            self.actions.push_back(Action::Write {
                slot,
                request: Request { req, op },
            });
        }
        self.counters
            .retries
            .store(self.outbox.retries(), Ordering::Relaxed);
    }

    fn send_refused(&mut self, req: u32, error: Error, now: Instant) {
        match self.outbox.refused(req, error, now, self.random.random()) {
            Refusal::Final((reply, _), error) => reply.answer(Err(SendError::Refused(error))),
            Refusal::Unsure((reply, client_id), error) => {
                reply.answer(Err(SendError::Unknown {
                    client_id,
                    last: Some(error),
                }));
            }
            Refusal::Retried => {}
            Refusal::NotASend => tracing::debug!(req, "error answers no request"),
        }
    }

    /// The connection in charge is gone: what must not be asked twice has failed, and rooms that were being given up are.
    fn forget_requests(&mut self) {
        self.requests
            .disconnected()
            .into_iter()
            .for_each(|reply| drop(reply.send(Err(RequestError::NotConnected))));
        self.leaving
            .drain()
            .for_each(|(_, reply)| drop(reply.send(Ok(()))));
    }

    fn acked(&mut self, req: u32, sent: Sent) {
        let Some((reply, _)) = self.outbox.acked(req, &sent.room, &sent.client_id) else {
            return;
        };
        count(&self.counters.acked);
        if sent.duplicate {
            count(&self.counters.duplicate_acks);
        }
        reply.answer(Ok(sent));
    }

    /// Ends the client.
    pub(crate) fn end(&mut self, end: End) {
        if self.ended.is_some() {
            return;
        }
        for slot in Slot::BOTH {
            if self.slots[slot.index()].take().is_some() {
                self.actions.push_back(Action::Hangup { slot });
            }
        }
        for ((reply, client_id), outcome) in self.outbox.end() {
            match outcome {
                Unanswered::NotStored(_) => reply.answer(Err(SendError::Ended)),
                Unanswered::Unknown(last) => {
                    reply.answer(Err(SendError::Unknown { client_id, last }))
                }
            }
        }
        self.leaving
            .drain()
            .for_each(|(_, reply)| drop(reply.send(Ok(()))));
        self.requests
            .end()
            .into_iter()
            .for_each(|reply| drop(reply.send(Err(RequestError::Ended))));
        self.waiters
            .drain(..)
            .for_each(|waiter| drop(waiter.reply.send(Err(RequestError::Ended))));
        self.events.push_back(Event::Ended(end.clone()));
        self.state = State::Ended(end.clone());
        self.ended = Some(end);
    }
}

fn answer_unanswered((reply, client_id): (SendReply, String), outcome: Unanswered) {
    reply.answer(Err(match outcome {
        Unanswered::Unknown(last) => SendError::Unknown { client_id, last },
        Unanswered::NotStored(last) => SendError::NotStored { last },
    }));
}

#[cfg(test)]
mod tests;
