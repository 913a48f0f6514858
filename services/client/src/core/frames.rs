//! What a server says, and what follows from it: one function per frame.

use std::time::Duration;

use im_wire::ids::{Epoch, RoomId, Seq};
use im_wire::native::{Error, Message, Response, ServerOp};
use tokio::time::Instant;

use super::attempt::Welcome;
use super::{Action, CloseNotice, Core, Loss, Phase};
use crate::answer::{RequestError, Sent};
use crate::event::{Event, is_joining};
use crate::rooms::{Slot, Verdict};
use crate::stats::count;

impl Core {
    /// A frame arrived.
    pub(crate) fn frame(&mut self, slot: Slot, Response { req, op }: Response, now: Instant) {
        let Some(connection) = &self.slots[slot.index()] else {
            return;
        };
        match connection.phase {
            Phase::Dialling => {}
            Phase::Authenticating { req: auth, .. } => {
                self.frame_before_auth(slot, req, auth, op, now)
            }
            Phase::Up(_) => {
                self.heard(slot, now);
                self.frame_after_auth(slot, req, op, now);
                self.settle_move(now);
                self.pump(now);
            }
        }
    }

    fn frame_before_auth(&mut self, slot: Slot, req: u32, auth: u32, op: ServerOp, now: Instant) {
        match op {
            ServerOp::AuthOk {
                user,
                device,
                conn,
                node,
                heartbeat_ms,
                time_ms,
                expires_ms,
            } => {
                let welcome = Welcome {
                    user,
                    device,
                    conn,
                    node,
                    heartbeat_ms,
                    time_ms,
                    expires_ms,
                };
                self.welcomed(slot, welcome, now);
            }
            ServerOp::Error(error) if req == auth || req == 0 => {
                self.auth_refused(slot, error, now)
            }
            ServerOp::Close {
                code,
                text,
                reconnect,
                after_ms,
            } => {
                self.close_notice(
                    slot,
                    CloseNotice {
                        code,
                        text,
                        reconnect,
                        after: millis(after_ms),
                    },
                    now,
                );
            }
            _ => self.give_up(slot, "the server spoke before it answered the auth", now),
        }
    }

    fn frame_after_auth(&mut self, slot: Slot, req: u32, op: ServerOp, now: Instant) {
        match op {
            ServerOp::Message(message) => self.message(slot, message, now),
            ServerOp::Ack {
                room,
                client_id,
                id,
                epoch,
                seq,
                time_ms,
                duplicate,
            } => {
                self.acked(
                    req,
                    Sent {
                        room,
                        client_id,
                        id,
                        epoch,
                        seq,
                        time_ms,
                        duplicate,
                    },
                );
            }
            ServerOp::Pong { .. } => {}
            ServerOp::Signal {
                room,
                from,
                kind,
                body,
                operation,
            } => {
                if self.in_charge(slot) {
                    self.events.push_back(Event::Signal {
                        room,
                        from,
                        kind,
                        body,
                        operation,
                    });
                } else {
                    count(&self.counters.signals_dropped);
                }
            }
            ServerOp::Subscribed { rooms } => self.subscribed(slot, req, rooms, now),
            ServerOp::Error(error) => self.error(slot, req, error, now),
            ServerOp::Reset { room, epoch, seq } => self.reset(slot, room, epoch, seq, now),
            ServerOp::Truncated { room, from, to } => self.truncated(slot, room, from, to, now),
            ServerOp::RoomChanged {
                room,
                subscribed,
                reason,
            } => self.room_changed(slot, room, subscribed, reason, now),
            ServerOp::ReadState {
                room,
                read,
                head,
                unread,
            } => match self.requests.answered(req) {
                Some(asked) => drop(asked.reply.send(Ok(ServerOp::ReadState {
                    room,
                    read,
                    head,
                    unread,
                }))),
                None if self.in_charge(slot) => self.events.push_back(Event::ReadState {
                    room,
                    read,
                    head,
                    unread,
                }),
                None => {}
            },
            ServerOp::Refreshed { expires_ms } => {
                if self
                    .up(slot)
                    .is_some_and(|up| up.refreshing.take_if(|asked| *asked == req).is_some())
                {
                    self.refreshed(slot, expires_ms, now);
                }
            }
            ServerOp::History { .. } | ServerOp::Done => {
                if let Some(reply) = self.leaving.remove(&req) {
                    let _ = reply.send(Ok(()));
                } else if let Some(asked) = self.requests.answered(req) {
                    let _ = asked.reply.send(Ok(op));
                }
            }
            ServerOp::Move {
                after_ms,
                deadline_ms: _,
                to,
                reason,
            } => self.asked_to_move(slot, millis(after_ms), &to, reason, now),
            ServerOp::Close {
                code,
                text,
                reconnect,
                after_ms,
            } => {
                self.close_notice(
                    slot,
                    CloseNotice {
                        code,
                        text,
                        reconnect,
                        after: millis(after_ms),
                    },
                    now,
                );
            }
            ServerOp::AuthOk { .. } => {
                self.give_up(slot, "the server answered the auth twice", now)
            }
        }
    }

    /// Whether a slot's connection speaks for the session where both would say the same.
    fn in_charge(&self, slot: Slot) -> bool {
        self.active == Some(slot)
    }

    fn message(&mut self, slot: Slot, message: Message, now: Instant) {
        let alone = self.alone(slot);
        match self.rooms.message(slot, alone, &message) {
            Verdict::Deliver => self.deliver(message, now),
            Verdict::DeliverAfterReset { keep } => {
                self.tell_reset(message.room.clone(), message.epoch, keep);
                self.deliver(message, now);
            }
            Verdict::Repeat => count(&self.counters.repeats),
            Verdict::Stale => count(&self.counters.stale),
            Verdict::NotHeard | Verdict::Repairing => {}
            Verdict::Gap => {
                count(&self.counters.gaps);
                tracing::warn!(room = %message.room, seq = message.seq, "messages are missing, requesting them");
                self.repair(slot, &message.room);
            }
            Verdict::GapAgain => self.give_up(
                slot,
                "the server left messages out, also when asked again",
                now,
            ),
        }
    }

    fn deliver(&mut self, message: Message, now: Instant) {
        let room = message.room.clone();
        let seq = message.seq;
        self.events.push_back(Event::Message(message));
        let missed = self.reached(&room, seq, now);
        count(if missed {
            &self.counters.resumed
        } else {
            &self.counters.live
        });
    }

    /// A room has come as far as `seq`. True: it is behind the head at which a connection was made.
    fn reached(&mut self, room: &RoomId, seq: Seq, now: Instant) -> bool {
        let mut missed = false;
        for slot in Slot::BOTH {
            let Some(up) = self.up(slot) else { continue };
            if up.behind.is_empty() {
                continue;
            }
            let Some((_, head)) = up.behind.get(room) else {
                continue;
            };
            missed |= seq <= *head;
            if seq >= *head {
                up.behind.remove(room);
                self.check_resumed(slot, now);
            }
        }
        missed
    }

    fn tell_reset(&mut self, room: RoomId, epoch: Epoch, seq: Seq) {
        count(&self.counters.resets);
        self.events.push_back(Event::Reset { room, epoch, seq });
    }

    fn reset(&mut self, slot: Slot, room: RoomId, epoch: Epoch, seq: Seq, now: Instant) {
        let alone = self.alone(slot);
        let told = self.rooms.reset(slot, alone, &room, epoch, seq);
        // A head that was told in an older epoch may never be reached again.
        let reached = |(head_epoch, head): (Epoch, Seq)| head_epoch < epoch || head <= seq;
        let done = self
            .up(slot)
            .is_some_and(|up| up.behind.get(&room).copied().is_some_and(reached));
        if told {
            self.tell_reset(room.clone(), epoch, seq);
        }
        if done {
            self.no_longer_behind(slot, &room);
            self.check_resumed(slot, now);
        }
    }

    fn no_longer_behind(&mut self, slot: Slot, room: &RoomId) {
        if let Some(up) = self.up(slot) {
            up.behind.remove(room);
        }
    }

    fn truncated(&mut self, slot: Slot, room: RoomId, from: Seq, to: Seq, now: Instant) {
        let alone = self.alone(slot);
        if let Some((from, to)) = self.rooms.truncated(slot, alone, &room, from, to) {
            self.events.push_back(Event::Truncated {
                room: room.clone(),
                from,
                to,
            });
            self.reached(&room, to, now);
        }
    }

    fn room_changed(
        &mut self,
        slot: Slot,
        room: RoomId,
        subscribed: bool,
        reason: String,
        now: Instant,
    ) {
        // "joined" and not subscribed: the user became a member of a room that this connection was not asked to hear.
        if subscribed || is_joining(&reason) {
            self.rooms.join(&room, subscribed);
        } else {
            self.rooms.leave(&room);
            for each in Slot::BOTH {
                self.no_longer_behind(each, &room);
                self.check_resumed(each, now);
            }
        }
        if self.in_charge(slot) {
            self.events.push_back(Event::RoomChanged {
                room,
                subscribed,
                reason,
            });
        }
    }

    fn error(&mut self, slot: Slot, req: u32, error: Error, now: Instant) {
        if let Some(asked) = self.slots[slot.index()]
            .as_mut()
            .and_then(|connection| connection.subscribing.remove(&req))
        {
            return self.subscribe_refused(slot, asked, &error, now);
        }
        if self
            .up(slot)
            .is_some_and(|up| up.refreshing.take_if(|asked| *asked == req).is_some())
        {
            return self.refresh_failed(slot, &format!("{}: {}", error.code, error.text), now);
        }
        if let Some(reply) = self.leaving.remove(&req) {
            let _ = reply.send(Err(RequestError::Refused(error)));
            return;
        }
        if let Some(asked) = self.requests.answered(req) {
            let _ = asked.reply.send(Err(RequestError::Refused(error)));
            return;
        }
        self.send_refused(req, error, now);
    }

    fn close_notice(&mut self, slot: Slot, close_notice: CloseNotice, now: Instant) {
        let loss = Loss {
            code: Some(close_notice.code.number()),
            reason: close_notice.text.clone(),
        };
        if let Some(connection) = &mut self.slots[slot.index()] {
            connection.close_notice = Some(close_notice);
        }
        self.actions.push_back(Action::Hangup { slot });
        self.lost(slot, loss, now);
    }
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms))
}
