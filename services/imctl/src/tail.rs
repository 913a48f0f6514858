//! `imctl tail`: what is said, as it is said.

use im_cli::failure::Failure;
use im_cli::output::Output;
use im_client::{Event, Message, Part, Position, RoomId};
use im_wire::native::{Response, ServerOp, json};
use serde_json::{Value, json};

use crate::args::TailArgs;
use crate::history;
use crate::session::{Credentials, Session, rooms};
use crate::text::{body_text, print, printable};

pub(crate) async fn run(
    args: &TailArgs,
    credentials: &Credentials,
    output: &mut Output,
) -> Result<(), Failure> {
    let rooms = rooms(&args.room, &args.with, credentials.user().as_ref())?;
    if rooms.is_empty() && !args.all {
        return Err(Failure::usage(
            "which rooms? give --room ID, --with USER, or --all",
        ));
    }
    let mut tail = Tail {
        json: args.connect.json,
        signals: args.signals,
        left: args.count,
    };
    if let Some(last) = args.last {
        return tail_with_last(args, credentials, rooms, last, &mut tail, output).await;
    }
    let position = |room| Position {
        room,
        epoch: 0,
        seq: args.after,
    };
    let positions = rooms.into_iter().map(position).collect();
    let mut session = Session::start(&args.connect, credentials, positions, args.all)?;
    session.connected(&args.connect).await?;
    tail.follow(&mut session, output).await
}

/// The latest first, from history, and then on from there.
async fn tail_with_last(
    args: &TailArgs,
    credentials: &Credentials,
    rooms: Vec<RoomId>,
    last: u32,
    tail: &mut Tail,
    output: &mut Output,
) -> Result<(), Failure> {
    let session = Session::open(&args.connect, credentials).await?;
    let mut positions = Vec::new();
    for room in rooms {
        let (messages, _) = history::read(&session.client, &room, Part::Latest, last).await?;
        for message in &messages {
            if tail.show(message, output)? {
                return Ok(());
            }
        }
        let (epoch, seq) = messages
            .last()
            .map_or((0, 0), |message| (message.epoch, message.seq));
        positions.push(Position {
            room,
            epoch,
            seq: Some(seq),
        });
    }
    session.client.close().await;
    let mut session = Session::start(&args.connect, credentials, positions, args.all)?;
    session.connected(&args.connect).await?;
    tail.follow(&mut session, output).await
}

struct Tail {
    json: bool,
    signals: bool,
    /// Messages still wanted; `None`: without end.
    left: Option<u64>,
}

impl Tail {
    async fn follow(&mut self, session: &mut Session, output: &mut Output) -> Result<(), Failure> {
        loop {
            let event = tokio::select! {
                event = session.events.next() => event,
                _ = tokio::signal::ctrl_c() => None,
            };
            match event {
                Some(Event::Message(message)) => {
                    if self.show(&message, output)? {
                        break;
                    }
                }
                Some(Event::Ended(end)) => return Err(end.into()),
                Some(event) => self.tell(event, output)?,
                None => break,
            }
        }
        session.client.close().await;
        Ok(())
    }

    /// True: that was the last one wanted.
    fn show(&mut self, message: &Message, output: &mut Output) -> Result<bool, Failure> {
        if self.json {
            output.json(&event_json(&Event::Message(message.clone())))?;
        } else {
            print(message, false, output)?;
        }
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(self.left == Some(0))
    }

    fn tell(&self, event: Event, output: &mut Output) -> Result<(), Failure> {
        if matches!(event, Event::Signal { .. }) && !self.signals {
            return Ok(());
        }
        if self.json {
            return output.json(&event_json(&event));
        }
        match event {
            Event::Signal {
                room,
                from,
                kind,
                body,
                ..
            } => {
                let from = printable(&from);
                let kind = printable(&kind);
                output.line(&format!(
                    "{} ({kind}) {from}: {}",
                    printable(&room),
                    body_text(&body)
                ))
            }
            Event::Reset { room, seq, .. } => output.line(&format!(
                "{room}: the server lost its latest messages: what was shown beyond #{seq} is void"
            )),
            Event::Truncated { room, from, to } => {
                output.line(&format!("{room}: #{from} to #{to} are gone: retention"))
            }
            Event::Refused { error, .. } if !error.retryable => Err(Failure::refused(&error)),
            // How the connection fares is nobody's business here: nothing is missed.
            _ => Ok(()),
        }
    }
}

/// An event as one JSON object: where the protocol has a frame for it, that frame.
pub(crate) fn event_json(event: &Event) -> Value {
    match event.clone() {
        Event::Message(message) => frame(ServerOp::Message(message)),
        Event::Signal {
            room,
            from,
            kind,
            body,
            operation,
        } => frame(ServerOp::Signal {
            room,
            from,
            kind,
            body,
            operation,
        }),
        Event::Reset { room, epoch, seq } => frame(ServerOp::Reset { room, epoch, seq }),
        Event::Truncated { room, from, to } => frame(ServerOp::Truncated { room, from, to }),
        Event::RoomChanged {
            room,
            subscribed,
            reason,
        } => frame(ServerOp::RoomChanged {
            room,
            subscribed,
            reason,
        }),
        Event::ReadState {
            room,
            read,
            head,
            unread,
        } => frame(ServerOp::ReadState {
            room,
            read,
            head,
            unread,
        }),
        Event::Connected {
            node,
            address,
            conn,
            user,
            device,
        } => {
            json!({"op": "connected", "node": node, "address": address, "conn": conn, "user": user, "device": device})
        }
        Event::Resumed { away } => {
            json!({"op": "resumed", "away_ms": away.map(|away| away.as_millis() as u64)})
        }
        Event::Disconnected {
            code,
            reason,
            retry_in,
        } => {
            let retry_ms = retry_in.map(|wait| wait.as_millis() as u64);
            json!({"op": "disconnected", "code": code.map(|code| code.name()), "reason": reason, "retry_ms": retry_ms})
        }
        Event::ConnectFailed {
            address,
            reason,
            retry_in,
        } => {
            json!({"op": "connect_failed", "address": address, "reason": reason, "retry_ms": retry_in.as_millis() as u64})
        }
        Event::Moving { reason, after } => {
            json!({"op": "moving", "reason": reason, "after_ms": after.as_millis() as u64})
        }
        Event::Moved { node, address } => json!({"op": "moved", "node": node, "address": address}),
        Event::Subscribed {
            room,
            kind,
            epoch,
            head,
            read,
            joined,
            after,
        } => {
            let unread = head.saturating_sub(read.max(joined));
            json!({"op": "subscribed", "room": room, "kind": kind, "epoch": epoch, "head": head, "read": read, "joined": joined, "after": after, "unread": unread})
        }
        Event::Refused { room, error } => {
            json!({"op": "refused", "room": room, "code": error.code.name(), "text": error.text, "retryable": error.retryable})
        }
        Event::Unsubscribed { room } => json!({"op": "unsubscribed", "room": room}),
        Event::Ended(end) => json!({"op": "ended", "reason": end.to_string()}),
        other => json!({"op": "other", "event": format!("{other:?}")}),
    }
}

fn frame(op: ServerOp) -> Value {
    serde_json::from_slice(&json::encode_response(&Response { req: 0, op })).unwrap_or_default()
}
