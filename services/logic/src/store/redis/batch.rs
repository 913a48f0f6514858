//! A batch on its way: built into as few script calls as slots allow, and each message answered by what became of it.
//!
//! Without replicas to wait for, the script publishes and the answer goes out. With replicas the call is followed by
//! `WAIT` on the worker's own connection; what enough of them confirmed is published afterwards, and answered then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use im_proto::v1::Entry;
use im_redis_bus::{Call, Envelope, Keys, Lane, RoomKeys, Slot, answer, script};
use im_wire::ids::{Epoch, RoomId, UserId};
use prost::Message;
use redis::{Cmd, Value};

use super::job::{Answer, Job};
use super::letters::{kind_of, role_letter};
use super::reply::{self, Fields};
use super::{Shared, metrics};
use crate::store::{Access, Append, Appended, Delete, Deleted, Error, Membership, Result};

type Outcome = std::result::Result<Value, im_redis_bus::Error>;

/// One worker's way to redis.
#[derive(Debug)]
pub(super) struct Batcher {
    shared: Arc<Shared>,
    number: usize,
}

/// Stored and confirmed, still to be published and answered.
#[derive(Debug, Default)]
pub(super) struct Confirmed {
    publish: Vec<Call>,
    answers: Vec<Reply>,
}

/// An answer that waits for nothing but the publishing.
#[derive(Debug)]
enum Reply {
    Append(Answer<Appended>, Appended),
    Membership(Answer<Option<Appended>>, Appended),
    Delete(Answer<Deleted>, Deleted),
}

impl Reply {
    fn send(self) {
        // Whoever no longer waits has been cancelled: the message is stored all the same.
        match self {
            Self::Append(answer, appended) => drop(answer.send(Ok(appended))),
            Self::Membership(answer, appended) => drop(answer.send(Ok(Some(appended)))),
            Self::Delete(answer, deleted) => drop(answer.send(Ok(deleted))),
        }
    }
}

type Pending = (Append, Answer<Appended>);

impl Batcher {
    pub(super) fn new(shared: Arc<Shared>, number: usize) -> Self {
        Self { shared, number }
    }

    /// Stores jobs in their order. Answers all but those that are returned.
    pub(super) async fn store(&self, jobs: Vec<Job>) -> Confirmed {
        let mut confirmed = Confirmed::default();
        let mut messages = Vec::with_capacity(jobs.len());
        for job in jobs {
            match job {
                Job::Append(append, answer) => messages.push((append, answer)),
                Job::Membership(change, answer) => {
                    self.store_messages(std::mem::take(&mut messages), &mut confirmed)
                        .await;
                    self.store_membership(change, answer, &mut confirmed).await;
                }
                Job::Delete(delete, answer) => {
                    self.store_messages(std::mem::take(&mut messages), &mut confirmed)
                        .await;
                    self.delete(delete, answer, &mut confirmed).await;
                }
            }
        }
        self.store_messages(messages, &mut confirmed).await;
        confirmed
    }

    /// Publishes what was confirmed, in order, then answers it. A failed publish is not the sender's trouble: receivers
    /// find the entry by its seq.
    pub(super) async fn publish(&self, confirmed: Confirmed) {
        if !confirmed.publish.is_empty() {
            let outcomes = self
                .shared
                .client
                .calls(Lane::Fixed(self.number), confirmed.publish)
                .await;
            for error in outcomes.into_iter().filter_map(std::result::Result::err) {
                metrics::PUBLISH_FAILED.inc();
                tracing::debug!(%error, "failed to publish a stored entry; receivers fetch it");
            }
        }
        confirmed.answers.into_iter().for_each(Reply::send);
    }

    async fn store_messages(&self, messages: Vec<Pending>, confirmed: &mut Confirmed) {
        if messages.is_empty() {
            return;
        }
        let messages = self.index_first(messages).await;
        if messages.is_empty() {
            return;
        }
        metrics::BATCH.observe(messages.len() as f64);
        let mut groups: Vec<(Option<Slot>, Vec<Pending>)> = Vec::new();
        let cluster = self.shared.client.address().is_cluster();
        for message in messages {
            let slot = cluster.then(|| self.shared.client.keys().room(&message.0.room).slot());
            match groups.iter_mut().find(|(other, _)| *other == slot) {
                Some((_, group)) => group.push(message),
                None => groups.push((slot, vec![message])),
            }
        }
        let calls = groups
            .iter()
            .map(|(_, group)| self.shared.append_call(group))
            .collect();
        let outcomes = self.run(calls).await;
        for ((_, group), outcome) in groups.into_iter().zip(outcomes) {
            self.answer_messages(group, outcome, confirmed);
        }
    }

    /// Puts direct rooms into their members' indexes before anything is said there; with replicas to be waited for, these
    /// confirm that too. Answers the messages for which that failed, and returns the others.
    async fn index_first(&self, messages: Vec<Pending>) -> Vec<Pending> {
        let calls = messages
            .iter()
            .flat_map(|(append, _)| self.shared.index_calls(&append.index, &append.room));
        let calls: Vec<Call> = calls.collect();
        if calls.is_empty() {
            return messages;
        }
        let mut outcomes = self.run(calls).await.into_iter();
        let mut left = Vec::with_capacity(messages.len());
        for (append, answer) in messages {
            let own = outcomes.by_ref().take(append.index.len());
            let indexed: Result<()> = own
                .map(|outcome| self.shared.replicated(outcome)?.1)
                .fold(Ok(()), std::result::Result::and);
            match indexed {
                Ok(()) => left.push((append, answer)),
                Err(error) => drop(answer.send(Err(error))),
            }
        }
        left
    }

    async fn run(&self, calls: Vec<Call>) -> Vec<Outcome> {
        let _timer = metrics::APPEND.start_timer();
        let (lane, calls) = match self.shared.options.wait_replicas {
            0 => (Lane::Fixed(self.number), calls),
            _ => (
                Lane::Blocking(self.number),
                calls
                    .into_iter()
                    .map(|call| self.shared.waiting(call))
                    .collect(),
            ),
        };
        self.shared.client.calls(lane, calls).await
    }

    fn answer_messages(&self, group: Vec<Pending>, outcome: Outcome, confirmed: &mut Confirmed) {
        let (mut replies, replicated) = match self
            .shared
            .replicated(outcome)
            .and_then(|(reply, replicated)| Ok((Fields::of(reply)?, replicated)))
        {
            Ok(both) => both,
            Err(error) => {
                return group
                    .into_iter()
                    .for_each(|(_, answer)| drop(answer.send(Err(error.clone()))));
            }
        };
        for (append, answer) in group {
            let stored = replies
                .value()
                .and_then(|reply| Stored::read(&append, reply));
            match stored.and_then(|stored| replicated.clone().map(|()| stored)) {
                Err(error) => drop(answer.send(Err(error))),
                Ok(stored) => {
                    if self.shared.options.wait_replicas > 0 {
                        confirmed.publish.extend(stored.publish(
                            &self.shared,
                            &append.room,
                            &append.entry,
                        ));
                    }
                    confirmed
                        .answers
                        .push(Reply::Append(answer, stored.appended));
                }
            }
        }
        if self.shared.options.wait_replicas == 0 {
            confirmed.answers.drain(..).for_each(Reply::send);
        }
    }

    async fn delete(&self, delete: Delete, answer: Answer<Deleted>, confirmed: &mut Confirmed) {
        let outcome = self.run(vec![self.shared.delete_call(&delete)]).await.pop();
        let outcome = outcome
            .unwrap_or_else(|| Err(im_redis_bus::Error::Down("no call was made".to_owned())));
        let deleted = self
            .shared
            .replicated(outcome)
            .and_then(|(reply, replicated)| {
                let deleted = read_deleted(&delete, reply)?;
                replicated.map(|()| deleted)
            });
        match deleted {
            Err(error) => drop(answer.send(Err(error))),
            Ok(deleted) if self.shared.options.wait_replicas == 0 => drop(answer.send(Ok(deleted))),
            Ok(deleted) => {
                let envelope =
                    Envelope::logged(deleted.epoch, deleted.seq, &delete.entry.encode_to_vec());
                confirmed
                    .publish
                    .push(self.shared.publish(&delete.room, envelope).repeatable());
                confirmed.answers.push(Reply::Delete(answer, deleted));
            }
        }
    }

    async fn store_membership(
        &self,
        change: Membership,
        answer: Answer<Option<Appended>>,
        confirmed: &mut Confirmed,
    ) {
        let outcome = self
            .run(vec![self.shared.membership_call(&change)])
            .await
            .pop();
        let outcome = outcome
            .unwrap_or_else(|| Err(im_redis_bus::Error::Down("no call was made".to_owned())));
        let stored = self
            .shared
            .replicated(outcome)
            .and_then(|(reply, replicated)| {
                let stored = Stored::read_membership(
                    &change,
                    reply,
                    self.shared.options.retention.max_members,
                )?;
                replicated.map(|()| stored)
            });
        match stored {
            Err(error) => drop(answer.send(Err(error))),
            Ok(None) => drop(answer.send(Ok(None))),
            Ok(Some(stored)) => {
                if self.shared.options.wait_replicas == 0 {
                    return drop(answer.send(Ok(Some(stored.appended))));
                }
                confirmed
                    .publish
                    .extend(stored.publish(&self.shared, &change.room, &change.entry));
                confirmed
                    .answers
                    .push(Reply::Membership(answer, stored.appended));
            }
        }
    }
}

/// What the script answers of a room that was deleted.
fn read_deleted(delete: &Delete, reply: Value) -> Result<Deleted> {
    let mut fields = Fields::of(reply)?;
    match fields.take::<i64>()? {
        answer::NEW => {}
        answer::NO_ROOM => return Err(Error::NoSuchRoom(delete.room.clone())),
        other => return Err(Error::Corrupt(format!("a script answers {other}"))),
    }
    let epoch = fields.take()?;
    let seq = fields.take()?;
    let kind = kind_of(&fields.take::<String>()?)?;
    let mut members = Vec::new();
    while !fields.is_empty() {
        let user = UserId::known(fields.take::<String>()?)
            .map_err(|bad| Error::Corrupt(bad.to_string()))?;
        members.push(user);
    }
    Ok(Deleted {
        kind,
        epoch,
        seq,
        members,
    })
}

/// A message that the script has stored, now or before.
#[derive(Debug)]
struct Stored {
    appended: Appended,
    /// What stands in the log, where it is not what was sent. Empty: retention has removed it.
    before: Option<Vec<u8>>,
}

impl Stored {
    fn read(append: &Append, reply: Value) -> Result<Self> {
        let mut fields = Fields::of(reply)?;
        match fields.take::<i64>()? {
            answer::NEW => Self::read_new(&append.entry, &mut fields),
            answer::REPEATED => {
                metrics::REPEATED.inc();
                let epoch = fields.take()?;
                let seq = fields.take()?;
                let id = fields.take()?;
                let time_ms = fields.take()?;
                let appended = Appended {
                    id,
                    epoch,
                    seq,
                    time_ms,
                    duplicate: true,
                    created: false,
                };
                Ok(Self {
                    appended,
                    before: Some(fields.take()?),
                })
            }
            refusal => Err(refused(refusal, &append.room, &append.access.user)),
        }
    }

    fn read_membership(change: &Membership, reply: Value, limit: usize) -> Result<Option<Self>> {
        let mut fields = Fields::of(reply)?;
        match fields.take::<i64>()? {
            answer::NEW => Self::read_new(&change.entry, &mut fields).map(Some),
            answer::UNCHANGED => Ok(None),
            answer::FULL => Err(Error::TooManyMembers {
                room: change.room.clone(),
                limit,
            }),
            answer::FORBIDDEN => Err(Error::Forbidden {
                room: change.room.clone(),
                user: change.access.user.clone(),
                why: "the role of an admin is needed, and that of an owner to make or unmake owners",
            }),
            refusal => Err(refused(refusal, &change.room, &change.access.user)),
        }
    }

    fn read_new(entry: &Entry, fields: &mut Fields) -> Result<Self> {
        let epoch = fields.take()?;
        let seq = fields.take()?;
        let created = fields.take::<i64>()? == 1;
        let id = entry.id.clone();
        let time_ms = entry.time_ms;
        let appended = Appended {
            id,
            epoch,
            seq,
            time_ms,
            duplicate: false,
            created,
        };
        Ok(Self {
            appended,
            before: None,
        })
    }

    fn publish(&self, shared: &Shared, room: &RoomId, entry: &Entry) -> Option<Call> {
        let envelope = |entry: &[u8]| {
            let epoch: Epoch = self.appended.epoch;
            Envelope::logged(epoch, self.appended.seq, entry)
        };
        match &self.before {
            Some(before) if before.is_empty() => None,
            Some(before) => Some(shared.publish(room, envelope(before)).repeatable()),
            None => Some(
                shared
                    .publish(room, envelope(&entry.encode_to_vec()))
                    .repeatable(),
            ),
        }
    }
}

fn refused(refusal: i64, room: &RoomId, user: &UserId) -> Error {
    let room = room.clone();
    let user = user.clone();
    match refusal {
        answer::NO_ROOM => Error::NoSuchRoom(room),
        answer::NOT_A_MEMBER => Error::NotAMember { room, user },
        answer::FORBIDDEN => Error::Forbidden {
            room,
            user,
            why: "the access does not cover this room",
        },
        answer::OTHER_KIND => Error::Conflict {
            room,
            what: "not a group",
        },
        other => Error::Corrupt(format!("a script answers {other}")),
    }
}

/// The bits that `scripts/room.lua` knows.
fn access_bits(access: &Access) -> u8 {
    u8::from(access.direct) | u8::from(access.open) << 1 | u8::from(access.system) << 2
}

/// In numbers that a script can add up.
fn milliseconds(time: Duration) -> u64 {
    /// A hundred thousand years.
    const MAX_MS: u64 = 100_000 * 365 * 24 * 3_600_000;
    u64::try_from(time.as_millis())
        .unwrap_or(u64::MAX)
        .min(MAX_MS)
}

impl Shared {
    /// One call for messages to rooms of one slot (outside a cluster: to any rooms).
    fn append_call(&self, group: &[Pending]) -> Call {
        let mut rooms: Vec<RoomKeys> = Vec::new();
        let mut numbers: HashMap<&RoomId, usize> = HashMap::new();
        for (append, _) in group {
            numbers.entry(&append.room).or_insert_with(|| {
                rooms.push(self.client.keys().room(&append.room));
                rooms.len()
            });
        }
        let mut command = script::append().call(rooms.len() * 6);
        for room in &rooms {
            let [even, odd] = room.dedupe();
            command
                .arg(room.meta())
                .arg(room.log())
                .arg(room.members())
                .arg(room.read())
                .arg(even)
                .arg(odd);
        }
        let window = self.options.retention.dedupe_window.as_millis().max(1);
        command.arg(window as u64);
        self.retention_args(&mut command);
        command.arg(u8::from(self.options.wait_replicas == 0));
        for room in &rooms {
            command.arg(room.channel());
        }
        for (append, _) in group {
            let Append {
                room,
                access,
                client_id,
                entry,
                ..
            } = append;
            command
                .arg(numbers[room])
                .arg(access_bits(access))
                .arg(access.user.as_str());
            command.arg(Keys::dedupe_field(&access.user, client_id));
            command
                .arg(&entry.id)
                .arg(entry.time_ms)
                .arg(entry.encode_to_vec());
        }
        let slot = rooms.first().map_or_else(|| Slot::of(""), RoomKeys::slot);
        Call::script(slot, script::append(), command).repeatable()
    }

    fn membership_call(&self, change: &Membership) -> Call {
        let room = self.client.keys().room(&change.room);
        let mut command = script::member().call(5);
        command
            .arg(room.meta())
            .arg(room.log())
            .arg(room.members())
            .arg(room.order())
            .arg(room.read());
        self.retention_args(&mut command);
        command
            .arg(self.options.retention.max_members)
            .arg(u8::from(self.options.wait_replicas == 0));
        command
            .arg(room.channel())
            .arg(access_bits(&change.access))
            .arg(change.access.user.as_str());
        command
            .arg(change.user.as_str())
            .arg(change.role.map_or("", role_letter));
        command
            .arg(change.entry.time_ms)
            .arg(change.entry.encode_to_vec());
        Call::script(room.slot(), script::member(), command)
    }

    fn delete_call(&self, delete: &Delete) -> Call {
        /// A clock that is set back by more than this may give a room that takes the id a smaller epoch. Whoever has a
        /// position in the deleted one is told all the same: see [`crate::store::verdict`].
        const EPOCH_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
        let room = self.client.keys().room(&delete.room);
        let [even, odd] = room.dedupe();
        let mut command = script::delete().call(7);
        command
            .arg(room.meta())
            .arg(room.log())
            .arg(room.members())
            .arg(room.order())
            .arg(room.read());
        command
            .arg(even)
            .arg(odd)
            .arg(EPOCH_KEPT.as_millis() as u64);
        command
            .arg(u8::from(self.options.wait_replicas == 0))
            .arg(room.channel())
            .arg(delete.entry.encode_to_vec());
        Call::script(room.slot(), script::delete(), command)
    }

    /// Entries kept, how many more before they are trimmed (a trim costs as much as several appends), the age kept, and how
    /// long a room is kept that is abandoned.
    fn retention_args(&self, command: &mut Cmd) {
        let retention = &self.options.retention;
        let slack = if retention.max_entries >= 1000 {
            100
        } else {
            0
        };
        command
            .arg(retention.max_entries.max(1))
            .arg(slack)
            .arg(milliseconds(retention.max_age));
        command.arg(self.rooms_end_after_ms());
    }

    pub(super) fn rooms_end_after_ms(&self) -> u64 {
        milliseconds(self.options.retention.rooms_end_after)
    }

    /// Something for a room's channel.
    pub(super) fn publish(&self, room: &RoomId, envelope: Vec<u8>) -> Call {
        let room = self.client.keys().room(room);
        let mut command = redis::cmd("SPUBLISH");
        command.arg(room.channel()).arg(envelope);
        Call::new(room.slot(), command)
    }

    /// Followed by the wait for replicas.
    pub(super) fn waiting(&self, call: Call) -> Call {
        let timeout = u64::try_from(self.options.wait_timeout.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        call.wait(self.options.wait_replicas, timeout)
    }

    /// The script's reply, and whether enough replicas confirmed what it wrote.
    pub(super) fn replicated(&self, outcome: Outcome) -> Result<(Value, Result<()>)> {
        let reply = reply::value(outcome)?;
        if self.options.wait_replicas == 0 {
            return Ok((reply, Ok(())));
        }
        let mut both = Fields::of(reply)?;
        let reply = both.value()?;
        let confirmed = both.take::<u64>()?;
        let wanted = self.options.wait_replicas as u64;
        if confirmed >= wanted {
            return Ok((reply, Ok(())));
        }
        metrics::NOT_REPLICATED.inc();
        Ok((reply, Err(Error::NotReplicated { confirmed, wanted })))
    }
}
