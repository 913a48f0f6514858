//! Checks what every client saw against the logs as they are in the end. Pure: the workload records histories, the verdict
//! counts violations.

use std::collections::{HashMap, HashSet};

use im_wire::ids::{RoomId, Seq};
use serde::{Deserialize, Serialize};

/// One event that a receiver got for a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Delivery {
    Message {
        seq: Seq,
        id: String,
    },
    /// Messages after `seq` were taken back.
    Reset {
        seq: Seq,
    },
    /// Retention removed these messages: a violation here, where the rooms are too short for that.
    Truncated {
        from: Seq,
        to: Seq,
    },
}

/// What one receiver got in one room, in order.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub(crate) receiver: String,
    pub(crate) room: RoomId,
    /// The head when it subscribed: every later message must be delivered.
    pub(crate) from: Seq,
    pub(crate) deliveries: Vec<Delivery>,
}

/// How a send ended for its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Acknowledged {
        seq: Seq,
        id: String,
        /// The server had stored it in an earlier try.
        duplicate: bool,
    },
    /// No acknowledgement before the sender's deadline: it may be in the log or not.
    Unknown,
    /// It must not be in the log.
    Refused { reason: String },
}

/// One send.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) room: RoomId,
    pub(crate) from: String,
    pub(crate) client_id: String,
    pub(crate) outcome: Outcome,
}

/// One entry of a room's log as read back in the end.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct LogEntry {
    pub(crate) seq: Seq,
    pub(crate) id: String,
    pub(crate) from: String,
    pub(crate) client_id: String,
}

/// What was counted: six totals, then violations, which must all be 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Sends.
    pub sent: u64,
    /// Sends that were acknowledged.
    pub acknowledged: u64,
    /// Acknowledged sends that the server had stored in an earlier try.
    pub retried_duplicates: u64,
    /// Messages delivered to receivers.
    pub delivered: u64,
    /// Deliveries that a `reset` took back, as it should.
    pub taken_back: u64,
    /// Sends whose outcome the sender never learned.
    pub unknown: u64,
    /// Acknowledged, but not in the log with the seq and the id of the acknowledgement.
    pub acknowledged_lost: u64,
    /// Refused, but in the log.
    pub refused_stored: u64,
    /// In the log twice with the same sender and client id.
    pub stored_twice: u64,
    /// Entries of a log whose seq is not their position.
    pub log_gaps: u64,
    /// Entries that were never delivered to a receiver of the room.
    pub lost: u64,
    /// Entries that were delivered twice without a reset between.
    pub repeated: u64,
    /// Entries that were delivered after a later one without a reset between.
    pub reordered: u64,
    /// Messages that a receiver kept but that the log does not hold with that seq.
    pub phantoms: u64,
    /// `truncated` markers, though nothing was removed.
    pub truncated: u64,
    /// Descriptions of the first few violations.
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

/// Checks sends and histories against the logs. A room that is missing in `logs` counts as empty.
pub(crate) fn check(
    logs: &HashMap<RoomId, Vec<LogEntry>>,
    sends: &[Sent],
    histories: &[History],
) -> Verdict {
    let mut verdict = Verdict::default();
    for (room, log) in logs {
        check_log(room, log, &mut verdict);
    }
    check_sends(logs, sends, &mut verdict);
    for history in histories {
        let log = logs.get(&history.room).map_or(&[][..], Vec::as_slice);
        check_history(log, history, &mut verdict);
    }
    verdict
}

fn check_log(room: &RoomId, log: &[LogEntry], verdict: &mut Verdict) {
    let mut client_ids = HashSet::new();
    for (index, entry) in log.iter().enumerate() {
        let position = index as Seq + 1;
        if entry.seq != position {
            verdict.log_gaps += 1;
            verdict.example(|| format!("log of {room}: seq {} at position {position}", entry.seq));
        }
        if !client_ids.insert((&entry.from, &entry.client_id)) {
            verdict.stored_twice += 1;
            verdict.example(|| {
                format!(
                    "log of {room}: {} of {} is stored twice",
                    entry.client_id, entry.from
                )
            });
        }
    }
}

fn check_sends(logs: &HashMap<RoomId, Vec<LogEntry>>, sends: &[Sent], verdict: &mut Verdict) {
    let stored: HashMap<(&RoomId, &str, &str), &LogEntry> = logs
        .iter()
        .flat_map(|(room, log)| {
            log.iter()
                .map(move |l| ((room, l.from.as_str(), l.client_id.as_str()), l))
        })
        .collect();
    for send in sends {
        verdict.sent += 1;
        let found = stored.get(&(&send.room, send.from.as_str(), send.client_id.as_str()));
        match &send.outcome {
            Outcome::Acknowledged {
                seq, id, duplicate, ..
            } => {
                verdict.acknowledged += 1;
                verdict.retried_duplicates += u64::from(*duplicate);
                if !found.is_some_and(|entry| entry.seq == *seq && entry.id == *id) {
                    verdict.acknowledged_lost += 1;
                    verdict.example(|| {
                        format!(
                            "{} of {} was acknowledged as {seq} of {}, the log holds {found:?}",
                            send.client_id, send.from, send.room
                        )
                    });
                }
            }
            Outcome::Unknown => verdict.unknown += 1,
            Outcome::Refused { reason } => {
                if let Some(entry) = found {
                    verdict.refused_stored += 1;
                    verdict.example(|| {
                        format!(
                            "{} refused ({reason}), but stored as {} of {}",
                            send.client_id, entry.seq, send.room
                        )
                    });
                }
            }
        }
    }
}

fn check_history(log: &[LogEntry], history: &History, verdict: &mut Verdict) {
    let mut kept: Vec<(Seq, &str)> = Vec::new();
    for delivery in &history.deliveries {
        match delivery {
            Delivery::Message { seq, id } => {
                verdict.delivered += 1;
                match kept.last() {
                    Some((last, _)) if seq <= last => {
                        let is_repeat = kept.iter().any(|(had, _)| had == seq);
                        *(if is_repeat {
                            &mut verdict.repeated
                        } else {
                            &mut verdict.reordered
                        }) += 1;
                        verdict.example(|| {
                            format!(
                                "{} in {}: {seq} after {last}",
                                history.receiver, history.room
                            )
                        });
                    }
                    _ => kept.push((*seq, id)),
                }
            }
            Delivery::Reset { seq } => {
                let before = kept.len();
                kept.retain(|(had, _)| had <= seq);
                verdict.taken_back += (before - kept.len()) as u64;
            }
            Delivery::Truncated { from, to } => {
                verdict.truncated += 1;
                verdict.example(|| {
                    format!(
                        "{} in {}: truncated {from}..{to}",
                        history.receiver, history.room
                    )
                });
            }
        }
    }
    let had: HashMap<Seq, &str> = kept.iter().copied().collect();
    for entry in log.iter().filter(|entry| entry.seq > history.from) {
        if !had.contains_key(&entry.seq) {
            verdict.lost += 1;
            verdict.example(|| {
                format!(
                    "{} never received {} of {}",
                    history.receiver, entry.seq, history.room
                )
            });
        }
    }
    for (seq, id) in kept {
        let entry = usize::try_from(seq)
            .ok()
            .and_then(|seq| log.get(seq.checked_sub(1)?));
        if entry.is_none_or(|entry| entry.id != id) {
            verdict.phantoms += 1;
            verdict.example(|| {
                format!(
                    "{} has {id} as {seq} of {}, the log holds {entry:?}",
                    history.receiver, history.room
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> RoomId {
        RoomId::new("r").unwrap()
    }

    fn log(n: Seq) -> HashMap<RoomId, Vec<LogEntry>> {
        let entry = |seq| LogEntry {
            seq,
            id: format!("id{seq}"),
            from: "a".into(),
            client_id: format!("c{seq}"),
        };
        HashMap::from([(room(), (1..=n).map(entry).collect())])
    }

    fn message(seq: Seq) -> Delivery {
        Delivery::Message {
            seq,
            id: format!("id{seq}"),
        }
    }

    fn history(deliveries: Vec<Delivery>) -> History {
        History {
            receiver: "b".into(),
            room: room(),
            from: 0,
            deliveries,
        }
    }

    fn sent(client_id: &str, outcome: Outcome) -> Sent {
        Sent {
            room: room(),
            from: "a".into(),
            client_id: client_id.into(),
            outcome,
        }
    }

    fn acknowledged(seq: Seq) -> Outcome {
        Outcome::Acknowledged {
            seq,
            id: format!("id{seq}"),
            duplicate: false,
        }
    }

    #[test]
    fn a_complete_history_is_clean() {
        let verdict = check(
            &log(3),
            &[sent("c1", acknowledged(1))],
            &[history(vec![message(1), message(2), message(3)])],
        );
        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!(
            (verdict.sent, verdict.acknowledged, verdict.delivered),
            (1, 1, 3)
        );
    }

    #[test]
    fn a_dropped_frame_is_lost() {
        assert_eq!(
            check(&log(3), &[], &[history(vec![message(1), message(3)])]).lost,
            1
        );
    }

    #[test]
    fn a_lost_last_message_is_lost() {
        assert_eq!(
            check(&log(3), &[], &[history(vec![message(1), message(2)])]).lost,
            1
        );
    }

    #[test]
    fn a_repeated_frame_is_repeated() {
        assert_eq!(
            check(
                &log(2),
                &[],
                &[history(vec![message(1), message(1), message(2)])]
            )
            .repeated,
            1
        );
    }

    #[test]
    fn swapped_frames_are_reordered_and_not_lost_twice() {
        let verdict = check(&log(2), &[], &[history(vec![message(2), message(1)])]);
        assert_eq!((verdict.reordered, verdict.repeated), (1, 0));
    }

    #[test]
    fn what_a_reset_takes_back_is_no_phantom_and_its_successor_no_repeat() {
        let phantom = Delivery::Message {
            seq: 2,
            id: "gone".into(),
        };
        let reset = check(
            &log(2),
            &[],
            &[history(vec![
                message(1),
                phantom.clone(),
                Delivery::Reset { seq: 1 },
                message(2),
            ])],
        );
        assert!(reset.is_clean(), "{reset:?}");
        assert_eq!(reset.taken_back, 1);
        let kept = check(&log(2), &[], &[history(vec![message(1), phantom])]);
        assert_eq!(kept.phantoms, 1);
    }

    #[test]
    fn an_acknowledged_send_must_be_stored_as_acknowledged() {
        assert_eq!(
            check(&log(2), &[sent("c2", acknowledged(1))], &[]).acknowledged_lost,
            1
        );
        assert_eq!(
            check(&log(2), &[sent("c9", acknowledged(9))], &[]).acknowledged_lost,
            1
        );
    }

    #[test]
    fn a_refused_send_must_not_be_stored() {
        assert_eq!(
            check(
                &log(2),
                &[sent(
                    "c2",
                    Outcome::Refused {
                        reason: "no".into()
                    }
                )],
                &[]
            )
            .refused_stored,
            1
        );
    }

    #[test]
    fn one_client_id_stored_twice_is_found() {
        let mut logs = log(2);
        logs.get_mut(&room()).unwrap()[1].client_id = "c1".into();
        assert_eq!(check(&logs, &[], &[]).stored_twice, 1);
    }

    #[test]
    fn a_hole_in_the_log_is_found() {
        let mut logs = log(3);
        logs.get_mut(&room()).unwrap().remove(1);
        assert_eq!(check(&logs, &[], &[]).log_gaps, 1);
    }

    #[test]
    fn a_late_receiver_misses_only_what_was_sent_later() {
        let mut late = history(vec![message(3)]);
        late.from = 2;
        assert!(check(&log(3), &[], &[late]).is_clean());
    }
}
