//! What every client saw, held against what the log says in the end. Pure: the crowd fills the records, the verdict
//! counts what must not be.

use std::collections::{HashMap, HashSet};

use im_wire::ids::{Epoch, RoomId, Seq};
use serde::Serialize;

/// One thing a receiver was told about a room, in the order in which it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A message.
    Message {
        /// In force.
        epoch: Epoch,
        /// Its place.
        seq: Seq,
        /// Its id.
        id: String,
    },
    /// Forget what lies beyond.
    Reset {
        /// What stands.
        seq: Seq,
    },
    /// Retention has removed these: counts as loss in an audit, whose rooms are short.
    Truncated {
        /// The first.
        from: Seq,
        /// The last.
        to: Seq,
    },
}

/// One receiver's record of one room.
#[derive(Debug, Clone)]
pub struct Record {
    /// Who, for people who read a failure.
    pub receiver: String,
    /// Which room.
    pub room: RoomId,
    /// The head at which it began to listen: it is owed everything beyond.
    pub from: Seq,
    /// Everything it was told.
    pub heard: Vec<Heard>,
}

/// How a send ended for its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged.
    Acknowledged {
        /// In force.
        epoch: Epoch,
        /// Its place.
        seq: Seq,
        /// Its id.
        id: String,
        /// The server had it from an earlier try.
        duplicate: bool,
    },
    /// No acknowledgement within the sender's patience: it may be in the log or not.
    Unknown,
    /// Refused: it must not be in the log.
    Refused {
        /// Why.
        why: String,
    },
}

/// One send.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Where.
    pub room: RoomId,
    /// By whom.
    pub from: String,
    /// The sender's id for it.
    pub client_id: String,
    /// How it ended.
    pub outcome: Outcome,
}

/// One entry of a room's log as read back in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Its place.
    pub seq: Seq,
    /// Its id.
    pub id: String,
    /// Who.
    pub from: String,
    /// The sender's id for it.
    pub client_id: String,
}

/// The counts. All but the first four and `taken_back` must be 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Sends that were tried.
    pub sent: u64,
    /// Of them, acknowledged.
    pub acknowledged: u64,
    /// Of these, answered as a repeat of an earlier try.
    pub retried_duplicates: u64,
    /// Messages handed to receivers.
    pub delivered: u64,
    /// Deliveries that a `reset` took back, as it must.
    pub taken_back: u64,
    /// Sends whose outcome the sender never learned.
    pub unknown: u64,
    /// Acknowledged, and not in the log at the place and under the id acknowledged.
    pub acknowledged_lost: u64,
    /// Refused, and yet in the log.
    pub refused_stored: u64,
    /// In the log twice under one sender's client id.
    pub stored_twice: u64,
    /// Places of a log that are missing between 1 and its head.
    pub log_gaps: u64,
    /// Entries that a receiver was owed and never had.
    pub lost: u64,
    /// Entries that a receiver had twice without a reset between.
    pub repeated: u64,
    /// Entries that came after a later one without a reset between.
    pub reordered: u64,
    /// Entries that a receiver kept and that the log does not hold at that place: a phantom mistaken for a message.
    pub phantoms: u64,
    /// `truncated` markers, where nothing was removed.
    pub truncated: u64,
    /// The first few findings in words.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Whether nothing was lost, repeated, reordered or invented.
    pub fn is_clean(&self) -> bool {
        self.acknowledged_lost
            + self.refused_stored
            + self.stored_twice
            + self.log_gaps
            + self.lost
            + self.repeated
            + self.reordered
            + self.phantoms
            + self.truncated
            == 0
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < 20 {
            self.examples.push(text());
        }
    }
}

/// Holds sends and records against the logs. A room that is missing in `logs` counts as empty.
pub fn judge(logs: &HashMap<RoomId, Vec<Logged>>, sends: &[Sent], records: &[Record]) -> Verdict {
    let mut verdict = Verdict::default();
    for (room, log) in logs {
        judge_log(room, log, &mut verdict);
    }
    judge_sends(logs, sends, &mut verdict);
    for record in records {
        let log = logs.get(&record.room).map_or(&[][..], Vec::as_slice);
        judge_record(log, record, &mut verdict);
    }
    verdict
}

fn judge_log(room: &RoomId, log: &[Logged], verdict: &mut Verdict) {
    let mut own_ids = HashSet::new();
    for (place, entry) in log.iter().enumerate() {
        if entry.seq != place as Seq + 1 {
            verdict.log_gaps += 1;
            verdict.example(|| format!("log of {room}: place {} holds seq {}", place + 1, entry.seq));
        }
        if !own_ids.insert((&entry.from, &entry.client_id)) {
            verdict.stored_twice += 1;
            verdict.example(|| format!("log of {room}: {} of {} stands twice", entry.client_id, entry.from));
        }
    }
}

fn judge_sends(logs: &HashMap<RoomId, Vec<Logged>>, sends: &[Sent], verdict: &mut Verdict) {
    let stored: HashMap<(&RoomId, &str, &str), &Logged> = logs
        .iter()
        .flat_map(|(room, log)| log.iter().map(move |l| ((room, l.from.as_str(), l.client_id.as_str()), l)))
        .collect();
    for send in sends {
        verdict.sent += 1;
        let found = stored.get(&(&send.room, send.from.as_str(), send.client_id.as_str()));
        match &send.outcome {
            Outcome::Acknowledged { seq, id, duplicate, .. } => {
                verdict.acknowledged += 1;
                verdict.retried_duplicates += u64::from(*duplicate);
                if !found.is_some_and(|logged| logged.seq == *seq && logged.id == *id) {
                    verdict.acknowledged_lost += 1;
                    verdict.example(|| {
                        format!("{} of {} acknowledged as {seq} of {}: {found:?}", send.client_id, send.from, send.room)
                    });
                }
            }
            Outcome::Unknown => verdict.unknown += 1,
            Outcome::Refused { why } => {
                if let Some(logged) = found {
                    verdict.refused_stored += 1;
                    verdict.example(|| {
                        format!("{} refused ({why}) and yet {} of {}", send.client_id, logged.seq, send.room)
                    });
                }
            }
        }
    }
}

fn judge_record(log: &[Logged], record: &Record, verdict: &mut Verdict) {
    let mut kept: Vec<(Seq, &str)> = Vec::new();
    for heard in &record.heard {
        match heard {
            Heard::Message { seq, id, .. } => {
                verdict.delivered += 1;
                match kept.last() {
                    Some((last, _)) if seq <= last => {
                        let again = kept.iter().any(|(had, _)| had == seq);
                        *(if again { &mut verdict.repeated } else { &mut verdict.reordered }) += 1;
                        verdict.example(|| format!("{} in {}: {seq} after {last}", record.receiver, record.room));
                    }
                    _ => kept.push((*seq, id)),
                }
            }
            Heard::Reset { seq } => {
                let before = kept.len();
                kept.retain(|(had, _)| had <= seq);
                verdict.taken_back += (before - kept.len()) as u64;
            }
            Heard::Truncated { from, to } => {
                verdict.truncated += 1;
                verdict.example(|| format!("{} in {}: truncated {from}..{to}", record.receiver, record.room));
            }
        }
    }
    let had: HashMap<Seq, &str> = kept.iter().copied().collect();
    for logged in log.iter().filter(|logged| logged.seq > record.from) {
        if !had.contains_key(&logged.seq) {
            verdict.lost += 1;
            verdict.example(|| format!("{} never had {} of {}", record.receiver, logged.seq, record.room));
        }
    }
    for (seq, id) in kept {
        let stands = usize::try_from(seq).ok().and_then(|seq| log.get(seq.checked_sub(1)?));
        if stands.is_none_or(|logged| logged.id != id) {
            verdict.phantoms += 1;
            verdict.example(|| format!("{} keeps {id} as {seq} of {}: {stands:?}", record.receiver, record.room));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> RoomId {
        RoomId::new("r").unwrap()
    }

    fn log(n: Seq) -> HashMap<RoomId, Vec<Logged>> {
        let entry = |seq| Logged { seq, id: format!("id{seq}"), from: "a".into(), client_id: format!("c{seq}") };
        HashMap::from([(room(), (1..=n).map(entry).collect())])
    }

    fn message(seq: Seq) -> Heard {
        Heard::Message { epoch: 1, seq, id: format!("id{seq}") }
    }

    fn record(heard: Vec<Heard>) -> Record {
        Record { receiver: "b".into(), room: room(), from: 0, heard }
    }

    fn sent(client_id: &str, outcome: Outcome) -> Sent {
        Sent { room: room(), from: "a".into(), client_id: client_id.into(), outcome }
    }

    fn acknowledged(seq: Seq) -> Outcome {
        Outcome::Acknowledged { epoch: 1, seq, id: format!("id{seq}"), duplicate: false }
    }

    #[test]
    fn a_faithful_record_is_clean() {
        let verdict =
            judge(&log(3), &[sent("c1", acknowledged(1))], &[record(vec![message(1), message(2), message(3)])]);
        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!((verdict.sent, verdict.acknowledged, verdict.delivered), (1, 1, 3));
    }

    #[test]
    fn a_dropped_frame_is_lost() {
        assert_eq!(judge(&log(3), &[], &[record(vec![message(1), message(3)])]).lost, 1);
    }

    #[test]
    fn a_lost_last_message_is_lost() {
        assert_eq!(judge(&log(3), &[], &[record(vec![message(1), message(2)])]).lost, 1);
    }

    #[test]
    fn a_repeated_frame_is_repeated() {
        assert_eq!(judge(&log(2), &[], &[record(vec![message(1), message(1), message(2)])]).repeated, 1);
    }

    #[test]
    fn swapped_frames_are_reordered_and_not_lost_twice() {
        let verdict = judge(&log(2), &[], &[record(vec![message(2), message(1)])]);
        assert_eq!((verdict.reordered, verdict.repeated), (1, 0));
    }

    #[test]
    fn what_a_reset_takes_back_is_no_phantom_and_its_successor_no_repeat() {
        let phantom = Heard::Message { epoch: 1, seq: 2, id: "gone".into() };
        let told =
            judge(&log(2), &[], &[record(vec![message(1), phantom.clone(), Heard::Reset { seq: 1 }, message(2)])]);
        assert!(told.is_clean(), "{told:?}");
        assert_eq!(told.taken_back, 1);
        let untold = judge(&log(2), &[], &[record(vec![message(1), phantom])]);
        assert_eq!(untold.phantoms, 1);
    }

    #[test]
    fn an_acknowledged_send_must_stand_where_it_was_acknowledged() {
        assert_eq!(judge(&log(2), &[sent("c2", acknowledged(1))], &[]).acknowledged_lost, 1);
        assert_eq!(judge(&log(2), &[sent("c9", acknowledged(9))], &[]).acknowledged_lost, 1);
    }

    #[test]
    fn a_refused_send_must_not_be_stored() {
        assert_eq!(judge(&log(2), &[sent("c2", Outcome::Refused { why: "no".into() })], &[]).refused_stored, 1);
    }

    #[test]
    fn one_client_id_stored_twice_is_found() {
        let mut logs = log(2);
        logs.get_mut(&room()).unwrap()[1].client_id = "c1".into();
        assert_eq!(judge(&logs, &[], &[]).stored_twice, 1);
    }

    #[test]
    fn a_hole_in_the_log_is_found() {
        let mut logs = log(3);
        logs.get_mut(&room()).unwrap().remove(1);
        assert_eq!(judge(&logs, &[], &[]).log_gaps, 1);
    }

    #[test]
    fn a_late_receiver_is_owed_only_what_came_after() {
        let mut late = record(vec![message(3)]);
        late.from = 2;
        assert!(judge(&log(3), &[], &[late]).is_clean());
    }
}
