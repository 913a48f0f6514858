//! goim's and golang-im's requests, translated to the same calls that native ones become. One at a time and in order:
//! these clients enter a room and speak in it without waiting for the answer between.

use std::rc::Rc;

use bytes::Bytes;
use im_proto::v1::{self as pb, call, reply};
use im_wire::code::CloseCode;
use im_wire::frame::Frame;
use im_wire::ids::RoomId;
use im_wire::{goim, golang_im};

use super::Dialect;
use super::subscribe;
use crate::connection::Client;
use crate::metrics;
use crate::shard::Shard;
use crate::translate;

/// Takes one frame of an established session of another dialect.
pub(crate) async fn take(shard: &Rc<Shard>, client: &Client, dialect: Dialect, frame: Frame) {
    let request = Request {
        shard,
        client,
        seq: frame.seq,
    };
    let name = match frame.operation {
        goim::HEARTBEAT => {
            request.heartbeat();
            "ping"
        }
        goim::SEND => {
            request.send(dialect, &frame.body).await;
            "send"
        }
        goim::CHANGE_ROOM => {
            request
                .enter(dialect, &frame.body, goim::CHANGE_ROOM_REPLY)
                .await;
            "change_room"
        }
        goim::SUBSCRIBE if dialect == Dialect::GolangIm => {
            request
                .enter(dialect, &frame.body, goim::SUBSCRIBE_REPLY)
                .await;
            "subscribe"
        }
        goim::SUBSCRIBE => {
            request.accept(&frame.body, true);
            "subscribe"
        }
        goim::UNSUBSCRIBE if dialect == Dialect::GolangIm => {
            request.leave();
            "unsubscribe"
        }
        goim::UNSUBSCRIBE => {
            request.accept(&frame.body, false);
            "unsubscribe"
        }
        golang_im::SYNC if dialect == Dialect::GolangIm => {
            request.sync().await;
            "history"
        }
        golang_im::ACK if dialect == Dialect::GolangIm => {
            request.read(&frame.body).await;
            "read"
        }
        goim::AUTH => {
            client.end(CloseCode::WrongState, "this connection is authenticated");
            "auth"
        }
        other => {
            metrics::MALFORMED
                .with_label_values(&[CloseCode::ProtocolError.name()])
                .inc();
            client.end(
                CloseCode::ProtocolError,
                format!("operation {other} is not known"),
            );
            "unknown"
        }
    };
    metrics::REQUESTS.with_label_values(&[name]).inc();
}

struct Request<'a> {
    shard: &'a Rc<Shard>,
    client: &'a Client,
    seq: u32,
}

impl Request<'_> {
    fn reply(&self, operation: i32, body: &[u8]) {
        self.client
            .write(&self.client.encoding.get().frame(operation, self.seq, body));
    }

    /// Refusals have no operation of their own: golang-im's server puts the text into an operation 5, and goim's clients
    /// take every operation they do not know as a message.
    fn refuse(&self, text: &str) {
        self.reply(goim::MESSAGE, text.as_bytes());
    }

    fn room(&self) -> Option<RoomId> {
        self.client.room.borrow().clone()
    }

    async fn call(&self, op: call::Op) -> Result<reply::Result, String> {
        let answer = self.shard.call(self.client, op).await;
        answer.map_err(|fault| {
            let error = translate::error(fault);
            format!("{}: {}", error.code, error.text)
        })
    }

    fn heartbeat(&self) {
        let online = self.room().map_or(0, |room| self.shard.online(&room));
        self.reply(
            goim::HEARTBEAT_REPLY,
            &i32::try_from(online).unwrap_or(i32::MAX).to_be_bytes(),
        );
    }

    async fn send(&self, dialect: Dialect, body: &Bytes) {
        let named = (dialect == Dialect::GolangIm).then(|| golang_im::said(body));
        let room = match named
            .as_ref()
            .and_then(|said| said.room.as_deref())
            .map(RoomId::new)
        {
            Some(Ok(room)) => Some(room),
            Some(Err(bad)) => return self.refuse(&bad.to_string()),
            None => self.room(),
        };
        let Some(room) = room else {
            return self.reply(goim::MESSAGE, golang_im::NOT_SUBSCRIBING);
        };
        let (r#type, body) = match named {
            Some(said) => (said.kind, Bytes::from(said.text)),
            None => ("text".to_owned(), body.clone()),
        };
        let (body, encoding) = translate::parts(im_wire::native::Body::Text(body).checked());
        let client_id = uuid::Uuid::now_v7().to_string();
        let op = pb::Send {
            room: room.to_string(),
            client_id,
            r#type,
            body,
            encoding,
        };
        match self.call(call::Op::Send(op)).await {
            Ok(_) => self.reply(goim::SEND, b""),
            Err(text) => self.refuse(&text),
        }
    }

    async fn enter(&self, dialect: Dialect, body: &[u8], operation: i32) {
        let room = String::from_utf8_lossy(body);
        let entered =
            subscribe::enter(self.shard, self.client, room.trim().trim_matches('"')).await;
        match (entered, dialect) {
            (true, Dialect::GolangIm) => self.reply(operation, golang_im::SUBSCRIBED),
            (true, _) => self.reply(operation, b""),
            (false, Dialect::GolangIm) => self.reply(operation, golang_im::NOT_SUBSCRIBING),
            (false, _) => self.refuse("this room is not open to you"),
        }
    }

    fn leave(&self) {
        if let Some(room) = self.client.room.take() {
            self.shard.leave(self.client, &room);
        }
        self.reply(goim::UNSUBSCRIBE_REPLY, golang_im::UNSUBSCRIBED);
    }

    fn accept(&self, body: &[u8], more: bool) {
        let changed = {
            let mut accepts = self.client.accepts.borrow_mut();
            let operations = goim::operations(body);
            if more {
                accepts.add(operations)
            } else {
                accepts.remove(operations)
            }
        };
        if let Err(refused) = changed {
            return self.refuse(&refused.to_string());
        }
        self.reply(
            if more {
                goim::SUBSCRIBE_REPLY
            } else {
                goim::UNSUBSCRIBE_REPLY
            },
            b"",
        );
    }

    async fn sync(&self) {
        let Some(room) = self.room() else {
            return self.reply(goim::MESSAGE, golang_im::NOT_SUBSCRIBING);
        };
        let op = pb::History {
            room: room.to_string(),
            after: None,
            before: None,
            limit: golang_im::SYNC_LIMIT,
        };
        match self.call(call::Op::History(op)).await {
            Ok(reply::Result::History(page)) => {
                let entry = |logged: pb::LogEntry| {
                    Some(translate::message(
                        &room,
                        page.epoch,
                        logged.seq,
                        logged.entry?,
                    ))
                };
                let messages = page.entries.into_iter().filter_map(entry);
                let said: Vec<_> = messages
                    .filter(|message| !message.kind.starts_with("im."))
                    .collect();
                self.reply(golang_im::SYNC_REPLY, &golang_im::sync_reply(&said));
            }
            Ok(_) => self.refuse("internal"),
            Err(text) => self.refuse(&text),
        }
    }

    async fn read(&self, body: &[u8]) {
        let Some(room) = self.room() else {
            return self.reply(goim::MESSAGE, golang_im::NOT_SUBSCRIBING);
        };
        if let Some(seq) = golang_im::read_seq(body)
            && let Err(text) = self
                .call(call::Op::Read(pb::Read {
                    room: room.to_string(),
                    seq,
                }))
                .await
        {
            return self.refuse(&text);
        }
        self.reply(golang_im::ACK_REPLY, b"");
    }
}
