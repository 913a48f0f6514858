//! Logic, store and bus of a test in one: logs with epochs and retention, and everything that can go wrong on demand.

mod link;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use im_connect::downlink::BusNotification;
use im_proto::bans::{Book, subject};
use im_proto::v1::{self as pb, Fault, bus_event, call, reply};
use im_runtime::limits::queue::Sender;
use im_wire::code::ErrorCode;
use im_wire::ids::{RoomId, Seq};
use tokio::sync::watch;
use tokio::time::Instant;

use self::link::Link;

/// When every token was issued; a refreshed one 2 ms later.
pub(crate) const ISSUED: u64 = 1_000_000;

/// One room's log.
#[derive(Default)]
struct Log {
    epoch: u64,
    /// Of each failover: the epoch it began, and the head it left.
    bases: Vec<(u64, Seq)>,
    entries: Vec<pb::LogEntry>,
    head: Seq,
}

impl Log {
    fn reset_to(&self, epoch: u64, seq: Seq) -> Option<Seq> {
        let bases = self
            .bases
            .iter()
            .filter(|(began, _)| *began > epoch)
            .map(|(_, base)| *base);
        bases.chain([self.head]).filter(|base| seq > *base).min()
    }
}

#[derive(Default)]
struct State {
    rooms: HashMap<String, Log>,
    members: HashMap<String, HashSet<String>>,
    /// Rooms that only members may hear.
    groups: HashSet<String>,
    /// Rooms that were deleted and have not come again, each with its last epoch.
    gone: HashMap<String, u64>,
    /// So many questions what a user may hear fail.
    fail_subscriptions: usize,
    /// So many calls of connections come to a process whose list of bans is an older one.
    refuse_as_banned: usize,
    nodes: Vec<Node>,
    /// So many publications are lost on the bus.
    lose: usize,
    /// Every publication arrives twice.
    repeat: bool,
    /// No call is answered.
    down: bool,
    /// Logic does not take for its own what connections were granted before.
    seal_lost: bool,
    /// The bus carries nothing and confirms nothing.
    bus_away: bool,
    /// Rooms whose log cannot be read.
    unreadable: HashSet<String>,
    calls: Vec<call::Op>,
    bans: Book,
    fetched_at: Option<Instant>,
    /// Ends that were answered, each with its grant.
    ended: Vec<(String, pb::Disconnected)>,
    asserted: Vec<pb::AssertPresence>,
    /// Each with its place.
    strays: Vec<(u64, pb::Stray)>,
}

/// The bus's end at one node.
#[derive(Default)]
struct Node {
    into: Option<Sender<BusNotification>>,
    /// Told before anybody listened.
    early: Vec<BusNotification>,
    heard: HashSet<RoomId>,
}

/// Shared by every node of a test.
#[derive(Clone)]
pub(crate) struct World {
    state: Arc<Mutex<State>>,
    /// Sends and questions for heads are answered while this is true.
    answering: watch::Sender<bool>,
    /// Pages of the log are answered while this is true.
    paging: watch::Sender<bool>,
    /// Auths are answered while this is true.
    identifying: watch::Sender<bool>,
    /// Questions what a user may hear are answered while this is true: judged when they are asked.
    judging: watch::Sender<bool>,
}

/// A token is a user's name, and `/live` behind it where it covers these rooms.
fn user_of(token: &str) -> &str {
    token.split('/').next().unwrap_or(token)
}

fn fault(code: ErrorCode) -> Fault {
    let (code, retryable) = (code.name().to_owned(), code.retryable());
    Fault {
        code,
        text: "as the test wants it".to_owned(),
        retryable,
        field: String::new(),
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let open = || watch::channel(true).0;
        Self {
            state: Arc::default(),
            answering: open(),
            paging: open(),
            identifying: open(),
            judging: open(),
        }
    }

    pub(crate) fn link(&self) -> Arc<Link> {
        let mut state = self.state();
        state.nodes.push(Node::default());
        Arc::new(Link {
            world: self.clone(),
            number: state.nodes.len() - 1,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody says something elsewhere; its seq.
    pub(crate) fn say(&self, room: &str, text: &str) -> Seq {
        let client_id = text.get(..64).unwrap_or(text);
        self.state()
            .append(room, "bob", client_id, "text", text.as_bytes())
            .0
    }

    /// The server says that a user has left; its seq.
    pub(crate) fn leave(&self, room: &str, user: &str) -> Seq {
        let body = format!(r#"{{"user":"{user}","by":"{user}"}}"#);
        let mut state = self.state();
        state
            .members
            .entry(user.to_owned())
            .or_default()
            .remove(room);
        let client_id = format!("leave-{user}-{}", state.log(room).head);
        state
            .append(room, "", &client_id, "im.leave", body.as_bytes())
            .0
    }

    /// The server says that a user has been added; its seq.
    pub(crate) fn add(&self, room: &str, user: &str) -> Seq {
        self.join(room, user);
        let body = format!(r#"{{"user":"{user}","by":"{user}"}}"#);
        let mut state = self.state();
        let client_id = format!("join-{user}-{}", state.log(room).head);
        state
            .append(room, "", &client_id, "im.join", body.as_bytes())
            .0
    }

    /// The room is deleted, and its last entry says so; its seq.
    pub(crate) fn delete(&self, room: &str) -> Seq {
        let mut state = self.state();
        let seq = state
            .append(room, "root", "the end", "im.delete", br#"{"by":"root"}"#)
            .0;
        let epoch = state.rooms.remove(room).map_or(0, |log| log.epoch);
        state.gone.insert(room.to_owned(), epoch);
        for rooms in state.members.values_mut() {
            rooms.remove(room);
        }
        seq
    }

    /// A room for its members only.
    pub(crate) fn group(&self, room: &str, members: &[&str]) {
        let mut state = self.state();
        state.groups.insert(room.to_owned());
        state.log(room);
        drop(state);
        members.iter().for_each(|user| self.join(room, user));
    }

    /// A user is no member any more, and no log says so.
    pub(crate) fn forget_member(&self, room: &str, user: &str) {
        self.state()
            .members
            .entry(user.to_owned())
            .or_default()
            .remove(room);
    }

    /// A user becomes a member; nobody is told.
    pub(crate) fn join(&self, room: &str, user: &str) {
        self.state()
            .members
            .entry(user.to_owned())
            .or_default()
            .insert(room.to_owned());
    }

    /// The store loses what is beyond `keep`, and nobody is told.
    pub(crate) fn fail_over(&self, room: &str, keep: Seq) {
        let mut state = self.state();
        let log = state.log(room);
        log.entries.retain(|entry| entry.seq <= keep);
        log.head = keep;
        log.epoch += 1;
        log.bases.push((log.epoch, keep));
    }

    /// Retention removes what is before `first`.
    pub(crate) fn forget_before(&self, room: &str, first: Seq) {
        self.state()
            .log(room)
            .entries
            .retain(|entry| entry.seq >= first);
    }

    pub(crate) fn lose_publications(&self, count: usize) {
        self.state().lose = count;
    }

    pub(crate) fn repeat_publications(&self) {
        self.state().repeat = true;
    }

    /// As after redis has lost the key of grants.
    pub(crate) fn set_seal_lost(&self, lost: bool) {
        self.state().seal_lost = lost;
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    /// Bans somebody; the id of the ban.
    pub(crate) fn ban(&self, ban: pb::Ban) -> String {
        let id = subject(&ban).unwrap().1;
        let bans = &mut self.state().bans;
        let version = bans.version() + 1;
        bans.put(pb::Ban {
            id: id.clone(),
            version,
            ..ban
        });
        id
    }

    pub(crate) fn lift(&self, id: &str) {
        let bans = &mut self.state().bans;
        let version = bans.version() + 1;
        assert!(bans.lift(id, version));
    }

    /// Auths are answered while this is true.
    pub(crate) fn set_identifying(&self, identifying: bool) {
        self.identifying.send_replace(identifying);
    }

    /// Whether sends and questions for heads are answered, or wait until they are.
    pub(crate) fn set_answering(&self, answering: bool) {
        self.answering.send_replace(answering);
    }

    /// Whether pages of the log are answered, or wait until they are.
    pub(crate) fn set_paging(&self, paging: bool) {
        self.paging.send_replace(paging);
    }

    /// From now on the bus carries nothing, not even the word that a room is heard.
    pub(crate) fn take_bus_away(&self) {
        self.state().bus_away = true;
    }

    /// The store has something in a room's log that nobody can read.
    pub(crate) fn spoil(&self, room: &str) {
        self.state().unreadable.insert(room.to_owned());
    }

    /// Logic tells one user how far they have read a room.
    pub(crate) fn tell_read(&self, room: &str, user: &str, read: Seq) {
        let body = format!(r#"{{"room":"{room}","read":{read},"head":{read},"unread":0}}"#);
        let signal = pb::Signal {
            r#type: "read".to_owned(),
            body: body.into(),
            encoding: pb::Encoding::Json.into(),
            to_user: user.to_owned(),
            ..pb::Signal::default()
        };
        self.state().publish(room, bus_event::Event::Signal(signal));
    }

    /// Whether questions what a user may hear are answered, as they were judged when asked.
    pub(crate) fn set_judging(&self, judging: bool) {
        self.judging.send_replace(judging);
    }

    /// So many calls of connections come to a process whose list of bans is an older one.
    pub(crate) fn refuse_as_banned(&self, count: usize) {
        self.state().refuse_as_banned = count;
    }

    pub(crate) fn fail_subscriptions(&self, count: usize) {
        self.state().fail_subscriptions = count;
    }

    /// The bus was away.
    pub(crate) fn disturb(&self) {
        for node in &mut self.state().nodes {
            node.tell(BusNotification::GapPossible);
        }
    }

    /// Says the next number.
    pub(crate) fn say_next(&self, room: &str) -> Seq {
        let mut state = self.state();
        let text = format!("m{}", state.log(room).head + 1);
        state.append(room, "bob", &text, "text", text.as_bytes()).0
    }

    pub(crate) fn is_heard(&self, room: &str) -> bool {
        let id = RoomId::new(room).unwrap();
        self.state()
            .nodes
            .iter()
            .any(|node| node.heard.contains(&id))
    }

    /// No page of a log was asked for in the last 200 ms.
    pub(crate) fn is_idle(&self) -> bool {
        self.state()
            .fetched_at
            .is_some_and(|at| at.elapsed() > Duration::from_millis(200))
    }

    pub(crate) fn calls(&self, which: impl Fn(&call::Op) -> bool) -> usize {
        self.state().calls.iter().filter(|op| which(op)).count()
    }

    /// What logic was asked to authenticate, in order.
    pub(crate) fn authenticated(&self) -> Vec<pb::Authenticate> {
        let calls = &self.state().calls;
        calls
            .iter()
            .filter_map(|op| {
                if let call::Op::Authenticate(asked) = op {
                    Some(asked.clone())
                } else {
                    None
                }
            })
            .collect()
    }

    /// The ends that were answered, each with its grant.
    pub(crate) fn ended(&self) -> Vec<(String, pb::Disconnected)> {
        self.state().ended.clone()
    }

    /// How often some connections were asserted.
    pub(crate) fn assertions(&self) -> usize {
        self.state().asserted.len()
    }

    /// The users that were named in assertions from this one on.
    pub(crate) fn asserted_since(&self, first: usize) -> std::collections::BTreeSet<String> {
        let state = self.state();
        state.asserted[first..]
            .iter()
            .flat_map(|one| &one.held)
            .map(|held| held.user.clone())
            .collect()
    }

    /// All that were ever named.
    pub(crate) fn held(&self) -> Vec<pb::Held> {
        self.state()
            .asserted
            .iter()
            .flat_map(|one| one.held.clone())
            .collect()
    }

    /// What assertions of these places are told to be there besides.
    pub(crate) fn set_strays(&self, strays: Vec<(u64, pb::Stray)>) {
        self.state().strays = strays;
    }

    /// The bodies of a room, in order.
    pub(crate) fn stored(&self, room: &str) -> Vec<String> {
        let state = self.state();
        let entries = state
            .rooms
            .get(room)
            .map(|log| log.entries.as_slice())
            .unwrap_or_default();
        let text = |entry: &pb::LogEntry| {
            String::from_utf8_lossy(
                &entry
                    .entry
                    .as_ref()
                    .map(|entry| entry.body.clone())
                    .unwrap_or_default(),
            )
            .into_owned()
        };
        entries.iter().map(text).collect()
    }
}

impl Node {
    fn tell(&mut self, notification: BusNotification) {
        match &self.into {
            Some(into) => into
                .try_send(notification)
                .expect("the node's queue is large enough for a test"),
            None => self.early.push(notification),
        }
    }
}

impl State {
    /// The room's log; it comes into being here.
    fn log(&mut self, room: &str) -> &mut Log {
        let last = self.gone.remove(room).unwrap_or(0);
        let bases = if last > 0 {
            vec![(last + 1, 0)]
        } else {
            Vec::new()
        };
        let new = || Log {
            epoch: last + 1,
            bases,
            ..Log::default()
        };
        self.rooms.entry(room.to_owned()).or_insert_with(new)
    }

    /// Where the room stands, as it may not.
    fn place(&mut self, room: &str) -> (u64, Seq) {
        if self.gone.contains_key(room) {
            return (0, 0);
        }
        let log = self.log(room);
        (log.epoch, log.head)
    }

    fn append(
        &mut self,
        room: &str,
        from: &str,
        client_id: &str,
        kind: &str,
        body: &[u8],
    ) -> (Seq, bool) {
        let log = self.log(room);
        let same = |logged: &&pb::LogEntry| {
            logged
                .entry
                .as_ref()
                .is_some_and(|entry| entry.client_id == client_id)
        };
        if let Some(first) = log.entries.iter().find(same) {
            return (first.seq, true);
        }
        log.head += 1;
        let entry = pb::Entry {
            id: format!("{room}-{}-{}", log.epoch, log.head),
            from: from.to_owned(),
            client_id: client_id.to_owned(),
            r#type: kind.to_owned(),
            body: body.to_vec().into(),
            ..pb::Entry::default()
        };
        let epoch = log.epoch;
        let seq = log.head;
        log.entries.push(pb::LogEntry {
            seq,
            entry: Some(entry.clone()),
        });
        self.publish(
            room,
            bus_event::Event::Logged(pb::Logged {
                epoch,
                seq,
                entry: Some(entry),
            }),
        );
        (seq, false)
    }

    fn publish(&mut self, room: &str, event: bus_event::Event) {
        if self.bus_away {
            return;
        }
        if self.lose > 0 {
            self.lose -= 1;
            return;
        }
        let id = RoomId::new(room).unwrap();
        for node in self
            .nodes
            .iter_mut()
            .filter(|node| node.heard.contains(&id))
        {
            for _ in 0..=usize::from(self.repeat) {
                let event = pb::BusEvent {
                    room: room.to_owned(),
                    event: Some(event.clone()),
                };
                node.tell(BusNotification::Event(event));
            }
        }
    }

    fn answer(&mut self, grant: &str, op: call::Op) -> Result<reply::Result, Fault> {
        let user = user_of(grant);
        self.calls.push(op.clone());
        if matches!(op, call::Op::Subscribe(_)) && self.fail_subscriptions > 0 {
            self.fail_subscriptions -= 1;
            return Err(fault(ErrorCode::Unavailable));
        }
        if self.refuse_as_banned > 0 && matches!(op, call::Op::Send(_) | call::Op::Subscribe(_)) {
            self.refuse_as_banned -= 1;
            return Err(fault(ErrorCode::Banned));
        }
        if self.down {
            return Err(fault(ErrorCode::Unavailable));
        }
        if self.seal_lost
            && matches!(
                op,
                call::Op::Send(_) | call::Op::Subscribe(_) | call::Op::History(_)
            )
        {
            return Err(fault(ErrorCode::Unauthenticated));
        }
        Ok(match op {
            call::Op::Authenticate(pb::Authenticate { token, device, .. }) => {
                match token.as_str() {
                    "expired" => return Err(fault(ErrorCode::TokenExpired)),
                    "forged" => return Err(fault(ErrorCode::Unauthenticated)),
                    token => reply::Result::Authenticated(pb::Authenticated {
                        grant: Bytes::copy_from_slice(token.as_bytes()),
                        user: user_of(token).to_owned(),
                        device: if device.is_empty() {
                            "device".to_owned()
                        } else {
                            device
                        },
                        expires_ms: 0,
                        issued_ms: ISSUED,
                        device_unproven: matches!(user_of(token), "mallory" | "eve"),
                    }),
                }
            }
            call::Op::Refresh(pb::Refresh { token }) => {
                let issued_ms = ISSUED + 2;
                let grant = token.into();
                reply::Result::Refreshed(pb::Refreshed {
                    grant,
                    issued_ms,
                    ..pb::Refreshed::default()
                })
            }
            call::Op::Disconnected(gone) => {
                self.ended.push((user.to_owned(), gone));
                reply::Result::Done(pb::Done {})
            }
            call::Op::AssertPresence(named) => {
                let asked = |(place, _): &&(u64, pb::Stray)| (named.from..named.to).contains(place);
                let strays = self
                    .strays
                    .iter()
                    .filter(asked)
                    .map(|(_, stray)| stray.clone())
                    .collect();
                self.asserted.push(named);
                reply::Result::PresenceAsserted(pb::PresenceAsserted {
                    restored: Vec::new(),
                    strays,
                })
            }
            call::Op::Subscribe(pb::Subscribe { mut rooms, all }) => {
                if all {
                    rooms.extend(self.members.get(user).cloned().unwrap_or_default());
                }
                let rooms = rooms
                    .into_iter()
                    .map(|room| self.subscribed(grant, room))
                    .collect();
                reply::Result::Subscribed(pb::Subscribed { rooms })
            }
            call::Op::Fetch(fetch) => {
                let room = fetch
                    .after
                    .as_ref()
                    .map(|after| after.room.as_str())
                    .unwrap_or_default();
                if self.unreadable.contains(room) {
                    return Err(fault(ErrorCode::Internal));
                }
                reply::Result::Fetched(self.fetch(fetch))
            }
            call::Op::Heads(pb::Heads { rooms }) => {
                let head = |room: String| {
                    let (epoch, seq) = self.place(&room);
                    pb::Head { epoch, seq, room }
                };
                reply::Result::Heads(pb::HeadList {
                    heads: rooms.into_iter().map(head).collect(),
                })
            }
            call::Op::Send(pb::Send {
                room,
                client_id,
                r#type,
                body,
                ..
            }) => {
                let (seq, duplicate) = self.append(&room, user, &client_id, &r#type, &body);
                let epoch = self.log(&room).epoch;
                let id = format!("{room}-{epoch}-{seq}");
                reply::Result::Stored(pb::Stored {
                    id,
                    epoch,
                    seq,
                    time_ms: seq,
                    duplicate,
                })
            }
            call::Op::Signal(pb::SendSignal {
                room,
                r#type,
                body,
                encoding,
            }) => {
                let from = user.to_owned();
                let operation = 0;
                let to_user = String::new();
                let signal = pb::Signal {
                    from,
                    r#type,
                    body,
                    encoding,
                    operation,
                    to_user,
                };
                self.publish(&room, bus_event::Event::Signal(signal));
                reply::Result::Done(pb::Done {})
            }
            call::Op::History(pb::History { room, .. }) => {
                let log = self.log(&room);
                let epoch = log.epoch;
                let head = log.head;
                let entries = log.entries.clone();
                reply::Result::History(pb::HistoryPage {
                    epoch,
                    head,
                    truncated: None,
                    entries,
                })
            }
            call::Op::Read(pb::Read { room, seq }) => {
                let head = self.log(&room).head;
                reply::Result::Read(pb::ReadState {
                    read: seq,
                    joined: 0,
                    head,
                    unread: head.saturating_sub(seq),
                })
            }
            call::Op::Bans(ask) => reply::Result::Bans(self.bans.since(&ask)),
            call::Op::KnownRooms(pb::KnownRooms { lists }) => {
                let list = |known: pb::KnownList| {
                    let mut rooms: Vec<_> = self
                        .members
                        .get(&known.user)
                        .into_iter()
                        .flatten()
                        .cloned()
                        .collect();
                    rooms.sort();
                    let digest = 1 + rooms
                        .iter()
                        .flat_map(|room| room.bytes())
                        .map(u64::from)
                        .sum::<u64>();
                    pb::RoomList {
                        digest,
                        rooms: if digest == known.digest {
                            Vec::new()
                        } else {
                            rooms
                        },
                    }
                };
                // One at a time, so that the rest has to be asked for anew.
                reply::Result::RoomLists(pb::RoomLists {
                    lists: lists.into_iter().take(1).map(list).collect(),
                })
            }
            call::Op::NodeBeat(_) => reply::Result::NodeBeaten(pb::NodeBeaten::default()),
        })
    }

    fn subscribed(&mut self, grant: &str, room: String) -> pb::SubscribedRoom {
        let member = self
            .members
            .get(user_of(grant))
            .is_some_and(|rooms| rooms.contains(&room));
        let stranger = self.groups.contains(&room) && !member;
        // Open to those whose token ends like this.
        let uncovered = room.starts_with("live:") && !grant.ends_with("/live");
        if self.groups.contains(&room) && self.gone.contains_key(&room) {
            let fault = Some(fault(ErrorCode::NoSuchRoom));
            return pb::SubscribedRoom {
                room,
                fault,
                ..pb::SubscribedRoom::default()
            };
        }
        if room == "secret" || stranger || uncovered {
            let fault = Some(fault(ErrorCode::NotAMember));
            return pb::SubscribedRoom {
                room,
                fault,
                ..pb::SubscribedRoom::default()
            };
        }
        let ((epoch, head), kind) = (self.place(&room), "open".to_owned());
        pb::SubscribedRoom {
            room,
            fault: None,
            kind,
            epoch,
            head,
            read: 0,
            joined: 0,
        }
    }

    fn fetch(
        &mut self,
        pb::Fetch {
            after,
            limit,
            max_bytes,
        }: pb::Fetch,
    ) -> pb::Fetched {
        let pb::Position { room, epoch, seq } = after.unwrap_or_default();
        self.fetched_at = Some(Instant::now());
        if self.gone.contains_key(&room) {
            return pb::Fetched {
                reset_to: (seq > 0).then_some(0),
                ..pb::Fetched::default()
            };
        }
        let log = self.log(&room);
        let reset_to = log.reset_to(epoch, seq);
        let seq = reset_to.unwrap_or(seq);
        let first = log.entries.first().map_or(log.head + 1, |entry| entry.seq);
        let truncated = (first > seq + 1).then(|| pb::SeqRange {
            from: seq + 1,
            to: first - 1,
        });
        let mut bytes = 0;
        let fits = |entry: &&pb::LogEntry| {
            let first = bytes == 0;
            bytes += entry.entry.as_ref().map_or(0, |entry| entry.body.len());
            first || bytes <= max_bytes as usize
        };
        let after = log
            .entries
            .iter()
            .filter(|entry| entry.seq > seq)
            .take(limit as usize);
        let entries = after.take_while(fits).cloned().collect();
        pb::Fetched {
            epoch: log.epoch,
            head: log.head,
            reset_to,
            truncated,
            entries,
        }
    }
}
