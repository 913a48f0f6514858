//! Asking logic what a user may hear. An answer may be late: what it says holds as of the log's head that comes with it,
//! and a membership may have ended since. So every connection remembers what ended while it asks, and an answer that is
//! older than that is asked for again before anything is delivered because of it.

use std::rc::Rc;
use std::time::Duration;

use im_proto::v1::{Fault, SubscribedRoom as Answer, call, reply};
use im_wire::code::ErrorCode;
use im_wire::ids::{RoomId, Seq};

use super::{DELETED, Shard};
use crate::connection::checks::Check;
use crate::connection::{Client, Connection};
use crate::metrics;
use crate::translate;

/// Rooms named in one question at most: below logic's own limit.
pub(crate) const MAX_ROOMS: usize = 500;
/// Rooms in one piece of a question that goes at its user's pace.
const PIECE: usize = 100;
/// Answers that were overtaken in a row before the client is told to try again.
const ATTEMPTS: usize = 4;
/// The pauses after questions that logic did not answer: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// How fast logic is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As the user's connections may, in pieces.
    Users,
    /// At once: a right may have ended.
    None,
}

/// What logic said, and which rooms were added while it was asked for all of them.
pub(crate) struct Answers {
    pub(crate) rooms: Vec<Answer>,
    pub(crate) added: Vec<RoomId>,
}

/// Asks logic which rooms the client's user may hear, `all` of the user's besides those named. The answer holds when it
/// is returned: whoever goes on without awaiting may act on it.
///
/// # Errors
/// Logic's, for the question as a whole; what concerns one room stands in its answer.
pub(crate) async fn ask(
    shard: &Rc<Shard>,
    client: &Client,
    rooms: Vec<String>,
    all: bool,
    pace: Pace,
) -> Result<Answers, Fault> {
    let check = Check::new(client, all);
    for attempt in 1..=ATTEMPTS {
        let grant = client.identity.grant.borrow().clone();
        let mut answers = question(shard, client, &check, rooms.clone(), all, pace).await?;
        let mut late = overtaken(shard, &check, &answers);
        for _ in attempt..ATTEMPTS {
            if late.is_empty() {
                break;
            }
            ask_again(shard, client, &check, &mut answers, &late).await?;
            late = overtaken(shard, &check, &answers);
        }
        if *client.identity.grant.borrow() == grant {
            for Overtaken { at, .. } in late.iter().filter(|late| late.ended) {
                let room = std::mem::take(&mut answers[*at].1.room);
                answers[*at].1 = Answer {
                    room,
                    fault: Some(changing()),
                    ..Answer::default()
                };
            }
            let rooms = answers.into_iter().map(|(_, answer)| answer).collect();
            return Ok(Answers {
                rooms,
                added: if all {
                    check.take_additions()
                } else {
                    Vec::new()
                },
            });
        }
        // A newer token came meanwhile, and it may give less.
        metrics::RIGHTS_ASKED_AGAIN.inc();
    }
    Err(changing())
}

/// Asks again for the answers at these places.
async fn ask_again(
    shard: &Rc<Shard>,
    client: &Client,
    check: &Check<'_>,
    answers: &mut [(u64, Answer)],
    late: &[Overtaken],
) -> Result<(), Fault> {
    metrics::RIGHTS_ASKED_AGAIN.inc();
    for late in late.chunks(MAX_ROOMS) {
        let names = late
            .iter()
            .map(|late| answers[late.at].1.room.clone())
            .collect();
        let fresh = question(shard, client, check, names, false, Pace::None).await?;
        for (late, fresh) in late.iter().zip(fresh) {
            answers[late.at] = fresh;
        }
    }
    Ok(())
}

/// Answers with the clock's time when they were asked for.
async fn question(
    shard: &Rc<Shard>,
    client: &Client,
    check: &Check<'_>,
    rooms: Vec<String>,
    all: bool,
    pace: Pace,
) -> Result<Vec<(u64, Answer)>, Fault> {
    // With all rooms logic has to know which have been named.
    let pieces: Vec<Vec<String>> = match pace {
        Pace::Users if !all => rooms.chunks(PIECE).map(<[String]>::to_vec).collect(),
        _ => vec![rooms],
    };
    let mut answers = Vec::new();
    for rooms in pieces {
        let named = rooms.len();
        if pace == Pace::Users {
            shard.paces.rooms(client.user(), named.max(1)).await?;
        }
        let asked = check.clock();
        let op = call::Op::Subscribe(im_proto::v1::Subscribe { rooms, all });
        let reply::Result::Subscribed(answer) = shard.call(client, op).await? else {
            return Err(translate::unexpected());
        };
        if pace == Pace::Users {
            shard
                .paces
                .has_looked_up(client.user(), answer.rooms.len().saturating_sub(named));
        }
        answers.extend(answer.rooms.into_iter().map(|room| (asked, room)));
    }
    Ok(answers)
}

/// An answer that does not hold any more.
struct Overtaken {
    at: usize,
    /// The membership has ended since; otherwise the room's log has a newer epoch.
    ended: bool,
}

fn overtaken(shard: &Rc<Shard>, check: &Check<'_>, answers: &[(u64, Answer)]) -> Vec<Overtaken> {
    let mut late = Vec::new();
    for (at, (asked, answer)) in answers.iter().enumerate() {
        let Ok(room) = RoomId::new(&answer.room) else {
            continue;
        };
        if answer.fault.is_some() {
            continue;
        }
        let ended = check.ended_since(&room, answer.head, *asked);
        if ended
            || shard
                .head(&room)
                .is_some_and(|head| head.epoch > answer.epoch)
        {
            late.push(Overtaken { at, ended });
        }
    }
    late
}

fn changing() -> Fault {
    translate::retryable(
        ErrorCode::Unavailable,
        "rights changed again and again while they were asked for: try again",
    )
}

/// Growing pauses with jitter.
pub(crate) struct Pauses(Duration);

impl Pauses {
    pub(crate) fn new() -> Self {
        Self(PAUSES.0)
    }

    /// The next one: between half and all of twice the last.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(PAUSES.1);
        pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }
}

/// Asks whether the user still may hear rooms that the connection hears, until there is an answer or the connection ends;
/// those that it may not are dropped, and the client is told.
pub(crate) async fn recheck(shard: Rc<Shard>, client: Client, mut rooms: Vec<RoomId>) {
    let mut pauses = Pauses::new();
    while !rooms.is_empty() && !shard.is_gone(&client.connection) {
        let mut again = Vec::new();
        for rooms in rooms.chunks(MAX_ROOMS) {
            match recheck_some(&shard, &client, rooms).await {
                Ok(unsure) => again.extend(unsure),
                Err(_) => again.extend_from_slice(rooms),
            }
        }
        rooms = again;
        if !rooms.is_empty() {
            tokio::time::sleep(pauses.next()).await;
        }
    }
}

/// One question; the rooms that it did not settle.
async fn recheck_some(
    shard: &Rc<Shard>,
    client: &Client,
    rooms: &[RoomId],
) -> Result<Vec<RoomId>, Fault> {
    let before: Vec<Option<Seq>> = rooms.iter().map(|room| checked_at(client, room)).collect();
    let answers = ask(
        shard,
        client,
        rooms.iter().map(RoomId::to_string).collect(),
        false,
        Pace::None,
    )
    .await?;
    let mut unsure = Vec::new();
    if shard.is_gone(&client.connection) {
        return Ok(unsure);
    }
    for ((room, before), answer) in rooms.iter().zip(before).zip(answers.rooms) {
        match answer.fault {
            // Older entries about the membership say nothing any more.
            None => client.checked(room, answer.head),
            Some(fault) if fault.retryable => unsure.push(room.clone()),
            // Where it was asked for anew meanwhile, the later answer stands.
            Some(fault) if before.is_some() && checked_at(client, room) == before => {
                shard.drop_room(client, room, reason(&fault));
            }
            Some(_) => {}
        }
    }
    Ok(unsure)
}

/// Why the user hears a room no more.
fn reason(fault: &Fault) -> &'static str {
    match ErrorCode::from_name(&fault.code) {
        Some(ErrorCode::NotAMember) => "left",
        Some(ErrorCode::NoSuchRoom) => DELETED,
        _ => "forbidden",
    }
}

fn checked_at(connection: &Connection, room: &RoomId) -> Option<Seq> {
    connection
        .rooms
        .borrow()
        .get(room)
        .map(|subscription| subscription.checked_at)
}
