//! What a server says, and what follows from it: one function per frame.

use std::time::Duration;

use im_wire::ids::{Epoch, RoomId, Seq};
use im_wire::native::{Error, Message, Response, ServerOp};
use tokio::time::Instant;

use super::attempt::Welcome;
use super::{Action, Core, Farewell, Loss, Phase};
use crate::answer::{RequestError, Sent};
use crate::event::{Event, is_joining};
use crate::rooms::{Lane, Verdict};
use crate::stats::count;

impl Core {
    /// A frame arrived.
    pub(crate) fn frame(&mut self, lane: Lane, Response { req, op }: Response, now: Instant) {
        let Some(connection) = &self.lanes[lane.index()] else { return };
        match connection.phase {
            Phase::Dialling => {}
            Phase::Authenticating { req: auth, .. } => self.frame_before_auth(lane, req, auth, op, now),
            Phase::Up(_) => {
                self.heard(lane, now);
                self.frame_after_auth(lane, req, op, now);
                self.settle_move(now);
                self.pump(now);
            }
        }
    }

    fn frame_before_auth(&mut self, lane: Lane, req: u32, auth: u32, op: ServerOp, now: Instant) {
        match op {
            ServerOp::AuthOk { user, device, conn, node, heartbeat_ms, time_ms, expires_ms } => {
                let welcome = Welcome { user, device, conn, node, heartbeat_ms, time_ms, expires_ms };
                self.welcomed(lane, welcome, now);
            }
            ServerOp::Error(error) if req == auth || req == 0 => self.auth_refused(lane, error, now),
            ServerOp::Close { code, text, reconnect, after_ms } => {
                self.farewell(lane, Farewell { code, text, reconnect, after: millis(after_ms) }, now);
            }
            _ => self.give_up(lane, "the server spoke before it answered the auth", now),
        }
    }

    fn frame_after_auth(&mut self, lane: Lane, req: u32, op: ServerOp, now: Instant) {
        match op {
            ServerOp::Message(message) => self.message(lane, message, now),
            ServerOp::Ack { room, client_id, id, epoch, seq, time_ms, duplicate } => {
                self.acked(req, Sent { room, client_id, id, epoch, seq, time_ms, duplicate });
            }
            ServerOp::Pong { .. } => {}
            ServerOp::Signal { room, from, kind, body, operation } => {
                if self.in_charge(lane) {
                    self.events.push_back(Event::Signal { room, from, kind, body, operation });
                } else {
                    count(&self.counters.signals_dropped);
                }
            }
            ServerOp::Subscribed { rooms } => self.subscribed(lane, req, rooms, now),
            ServerOp::Error(error) => self.error(lane, req, error, now),
            ServerOp::Reset { room, epoch, seq } => self.reset(lane, room, epoch, seq, now),
            ServerOp::Truncated { room, from, to } => self.truncated(lane, room, from, to, now),
            ServerOp::RoomChanged { room, subscribed, reason } => {
                self.room_changed(lane, room, subscribed, reason, now)
            }
            ServerOp::ReadState { room, read, head, unread } => match self.requests.answered(req) {
                Some(asked) => drop(asked.reply.send(Ok(ServerOp::ReadState { room, read, head, unread }))),
                None if self.in_charge(lane) => self.events.push_back(Event::ReadState { room, read, head, unread }),
                None => {}
            },
            ServerOp::Refreshed { expires_ms } => {
                if self.up(lane).is_some_and(|up| up.refreshing.take_if(|asked| *asked == req).is_some()) {
                    self.refreshed(lane, expires_ms, now);
                }
            }
            ServerOp::History { .. } | ServerOp::Done => {
                if let Some(reply) = self.leaving.remove(&req) {
                    let _ = reply.send(Ok(()));
                } else if let Some(asked) = self.requests.answered(req) {
                    let _ = asked.reply.send(Ok(op));
                }
            }
            ServerOp::Move { after_ms, deadline_ms: _, to, reason } => {
                self.asked_to_move(lane, millis(after_ms), &to, reason, now)
            }
            ServerOp::Close { code, text, reconnect, after_ms } => {
                self.farewell(lane, Farewell { code, text, reconnect, after: millis(after_ms) }, now);
            }
            ServerOp::AuthOk { .. } => self.give_up(lane, "the server answered the auth twice", now),
        }
    }

    /// Whether a lane's connection speaks for the session where both would say the same.
    fn in_charge(&self, lane: Lane) -> bool {
        self.active == Some(lane)
    }

    fn message(&mut self, lane: Lane, message: Message, now: Instant) {
        let alone = self.alone(lane);
        match self.rooms.message(lane, alone, &message) {
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
                tracing::warn!(room = %message.room, seq = message.seq, "messages are missing: asking for them");
                self.repair(lane, &message.room);
            }
            Verdict::GapAgain => self.give_up(lane, "the server left messages out, also when asked again", now),
        }
    }

    fn deliver(&mut self, message: Message, now: Instant) {
        let (room, seq) = (message.room.clone(), message.seq);
        self.events.push_back(Event::Message(message));
        let missed = self.reached(&room, seq, now);
        count(if missed { &self.counters.resumed } else { &self.counters.live });
    }

    /// A room has come as far as `seq`. True: it is behind the head at which a connection was made.
    fn reached(&mut self, room: &RoomId, seq: Seq, now: Instant) -> bool {
        let mut missed = false;
        for lane in Lane::BOTH {
            let Some(up) = self.up(lane) else { continue };
            if up.behind.is_empty() {
                continue;
            }
            let Some((_, head)) = up.behind.get(room) else { continue };
            missed |= seq <= *head;
            if seq >= *head {
                up.behind.remove(room);
                self.check_resumed(lane, now);
            }
        }
        missed
    }

    fn tell_reset(&mut self, room: RoomId, epoch: Epoch, seq: Seq) {
        count(&self.counters.resets);
        self.events.push_back(Event::Reset { room, epoch, seq });
    }

    fn reset(&mut self, lane: Lane, room: RoomId, epoch: Epoch, seq: Seq, now: Instant) {
        let alone = self.alone(lane);
        let told = self.rooms.reset(lane, alone, &room, epoch, seq);
        // A head that was told in an older epoch may never be reached again.
        let reached = |(head_epoch, head): (Epoch, Seq)| head_epoch < epoch || head <= seq;
        let done = self.up(lane).is_some_and(|up| up.behind.get(&room).copied().is_some_and(reached));
        if told {
            self.tell_reset(room.clone(), epoch, seq);
        }
        if done {
            self.no_longer_behind(lane, &room);
            self.check_resumed(lane, now);
        }
    }

    fn no_longer_behind(&mut self, lane: Lane, room: &RoomId) {
        if let Some(up) = self.up(lane) {
            up.behind.remove(room);
        }
    }

    fn truncated(&mut self, lane: Lane, room: RoomId, from: Seq, to: Seq, now: Instant) {
        let alone = self.alone(lane);
        if let Some((from, to)) = self.rooms.truncated(lane, alone, &room, from, to) {
            self.events.push_back(Event::Truncated { room: room.clone(), from, to });
            self.reached(&room, to, now);
        }
    }

    fn room_changed(&mut self, lane: Lane, room: RoomId, subscribed: bool, reason: String, now: Instant) {
        // "joined" and not subscribed: the user became a member of a room that this connection was not asked to hear.
        if subscribed || is_joining(&reason) {
            self.rooms.join(&room, subscribed);
        } else {
            self.rooms.leave(&room);
            for each in Lane::BOTH {
                self.no_longer_behind(each, &room);
                self.check_resumed(each, now);
            }
        }
        if self.in_charge(lane) {
            self.events.push_back(Event::RoomChanged { room, subscribed, reason });
        }
    }

    fn error(&mut self, lane: Lane, req: u32, error: Error, now: Instant) {
        if let Some(asked) =
            self.lanes[lane.index()].as_mut().and_then(|connection| connection.subscribing.remove(&req))
        {
            return self.subscribe_refused(lane, asked, &error, now);
        }
        if self.up(lane).is_some_and(|up| up.refreshing.take_if(|asked| *asked == req).is_some()) {
            return self.refresh_failed(lane, &format!("{}: {}", error.code, error.text), now);
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

    fn farewell(&mut self, lane: Lane, farewell: Farewell, now: Instant) {
        let loss = Loss { code: Some(farewell.code.number()), reason: farewell.text.clone() };
        if let Some(connection) = &mut self.lanes[lane.index()] {
            connection.farewell = Some(farewell);
        }
        self.actions.push_back(Action::Hangup { lane });
        self.lost(lane, loss, now);
    }
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms))
}
