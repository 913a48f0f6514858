//! Saying something: a message that is stored, a signal that is not.

use std::sync::{Arc, LazyLock};

use im_proto::v1::{Encoding, Entry, Send, SendSignal, Signal, Stored};
use im_runtime::clock;
use im_wire::ids::{ClientId, RoomId, UserId};
use im_wire::native::{MAX_DEPTH, is_sound_json};
use prometheus::{IntCounterVec, register_int_counter_vec};
use uuid::Uuid;

use crate::auth::grant::Grant;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::room::access;
use crate::store::{Access, Append};

/// What the types of the server's own entries and signals begin with.
const OURS: &str = "im.";
const OF_A_USER: &str = "of yours";
const IN_A_ROOM: &str = "are said in this room";

static BYTES_REFUSED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Messages and signals refused because a user said too many bytes, or a room heard too many, by whose.";
    register_int_counter_vec!("im_logic_bytes_limited_total", help, &["whose"])
        .expect("each metric is registered once, under a name of its own")
});

/// Makes the metric here visible from the start, with nothing counted yet.
pub(crate) fn declare_metrics() {
    for whose in ["user", "room"] {
        BYTES_REFUSED.with_label_values(&[whose]);
    }
}

/// What a message is whose sender does not say.
const TEXT: &str = "text";

/// A message before it is checked.
pub(crate) struct Draft {
    pub(crate) room: RoomId,
    pub(crate) client_id: String,
    pub(crate) kind: String,
    pub(crate) body: bytes::Bytes,
    pub(crate) encoding: i32,
}

impl Core {
    /// Stores a message. Awaits nothing before the store has it: see [`crate::Handle::call`].
    pub(crate) async fn send(self: &Arc<Self>, who: Grant, send: Send) -> Result<Stored> {
        let room = RoomId::new(&send.room)?;
        let access = access::for_caller(&who, &room)?;
        let Send {
            client_id,
            r#type: kind,
            body,
            encoding,
            ..
        } = send;
        self.store_message(
            access,
            who.device,
            Draft {
                room,
                client_id,
                kind,
                body,
                encoding,
            },
        )
        .await
    }

    /// The same with an access of the caller's choice.
    pub(crate) async fn store_message(
        self: &Arc<Self>,
        access: Access,
        device: String,
        draft: Draft,
    ) -> Result<Stored> {
        self.check(&draft.kind, &draft.body, draft.encoding)?;
        let client_id = match draft.client_id.as_str() {
            "" => ClientId::new(Uuid::new_v4().to_string())?,
            given => ClientId::new(given)?,
        };
        let entry = Entry {
            id: Uuid::now_v7().to_string(),
            from: access.user.as_str().to_owned(),
            client_id: client_id.as_str().to_owned(),
            r#type: if draft.kind.is_empty() {
                TEXT.to_owned()
            } else {
                draft.kind
            },
            body: draft.body,
            encoding: draft.encoding,
            time_ms: clock::unix_ms(),
            device,
        };
        let room = draft.room;
        let bytes = entry.body.len();
        let system = access.system;
        if !system {
            self.within_budget(&access.user, &room, bytes)?;
        }
        // Before anything is said there: what is acknowledged is in both lists.
        let index = self.not_indexed(&room);
        let indexes = !index.is_empty();
        let stored = self
            .store
            .messages
            .append(Append {
                room: room.clone(),
                access,
                client_id,
                entry,
                index,
            })
            .await?;
        if !system && !stored.duplicate {
            self.room_bytes.owe(room.as_str(), bytes);
        }
        self.said_in_direct(&room, &stored, indexes).await?;
        Ok(Stored {
            id: stored.id,
            epoch: stored.epoch,
            seq: stored.seq,
            time_ms: stored.time_ms,
            duplicate: stored.duplicate,
        })
    }

    /// Publishes a signal of a user to a room that the user may hear.
    pub(crate) async fn signal(&self, who: &Grant, ask: SendSignal) -> Result<()> {
        let room = RoomId::new(&ask.room)?;
        if ask.r#type.is_empty() {
            return Err(Error::bad(
                "type",
                "is empty: say what the signal is, e.g. \"typing\"",
            ));
        }
        self.check(&ask.r#type, &ask.body, ask.encoding)?;
        self.view(who, &room).await?;
        let SendSignal {
            r#type,
            body,
            encoding,
            ..
        } = ask;
        if !who.admin {
            self.within_budget(&who.user()?, &room, body.len())?;
            self.room_bytes.owe(room.as_str(), body.len());
        }
        let signal = Signal {
            from: who.user.clone(),
            r#type,
            body,
            encoding,
            ..Signal::default()
        };
        Ok(self.store.messages.signal(&room, signal).await?)
    }

    /// Counts the bytes of something a user says, where neither the user nor the room has had too many. The room's are
    /// counted only once it is said: who may not speak in a room takes nothing from it.
    fn within_budget(&self, user: &UserId, room: &RoomId, bytes: usize) -> Result<()> {
        let limited = |whose| {
            move |wait| {
                BYTES_REFUSED.with_label_values(&[whose]).inc();
                Error::TooManyBytes {
                    whose: if whose == "user" {
                        OF_A_USER
                    } else {
                        IN_A_ROOM
                    },
                    wait,
                }
            }
        };
        self.room_bytes
            .check(room.as_str())
            .map_err(limited("room"))?;
        self.user_bytes
            .spend(user.as_str(), bytes)
            .map_err(limited("user"))
    }

    fn check(&self, kind: &str, body: &[u8], encoding: i32) -> Result<()> {
        let limits = &self.options.limits;
        if kind.starts_with(OURS) {
            return Err(Error::bad(
                "type",
                "begins with \"im.\", which is the server's: choose another",
            ));
        }
        if kind.len() > limits.max_type_bytes {
            let problem = format!(
                "has {} bytes: {} at most",
                kind.len(),
                limits.max_type_bytes
            );
            return Err(Error::bad("type", problem));
        }
        if kind.chars().any(char::is_control) {
            return Err(Error::bad("type", "has control characters: use none"));
        }
        self.check_body(body, encoding)
    }

    /// Whether a body has a length and a form that clients can be given.
    pub(crate) fn check_body(&self, body: &[u8], encoding: i32) -> Result<()> {
        let limit = self.options.limits.max_body_bytes;
        if body.len() > limit {
            return Err(Error::TooLarge {
                field: "body",
                bytes: body.len(),
                limit,
            });
        }
        let sound = match Encoding::try_from(encoding) {
            Ok(Encoding::Text) => std::str::from_utf8(body).is_ok(),
            Ok(Encoding::Json) if is_sound_json(body) => true,
            Ok(Encoding::Json) => {
                let problem = format!(
                    "is no JSON that every client can read: give one value with finite numbers, whole surrogate pairs and \
                     at most {MAX_DEPTH} levels of arrays and objects"
                );
                return Err(Error::bad("body", problem));
            }
            Ok(Encoding::Binary) => true,
            Err(_) => {
                return Err(Error::bad(
                    "encoding",
                    "is not known: use text, JSON or binary",
                ));
            }
        };
        sound
            .then_some(())
            .ok_or_else(|| Error::bad("body", "is not of the encoding that it is said to be"))
    }
}
