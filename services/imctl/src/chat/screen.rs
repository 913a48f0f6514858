//! What is shown: events become lines. No I/O, so that tests can read along.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use im_client::{Body, Event, Message, RoomId, Seq, UserId};
use serde_json::Value;

use super::style::Style;
use crate::text::{body_text, local_time, printable};

/// The type of `/me` messages.
pub(crate) const EMOTE: &str = "emote";

/// One room that is heard.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// The log's last seq, as far as known.
    pub(crate) head: Seq,
    /// Up to here the user has read.
    pub(crate) read: Seq,
    /// The first and last seq that were shown.
    pub(crate) shown: Option<(Seq, Seq)>,
    /// Who has spoken.
    pub(crate) speakers: BTreeSet<String>,
}

impl Room {
    pub(crate) fn unread(&self) -> u64 {
        self.head.saturating_sub(self.read)
    }
}

/// Everything on the screen that is not a line yet.
#[derive(Debug)]
pub(crate) struct Screen {
    style: Style,
    me: Option<UserId>,
    /// The node of the connection, once there was one.
    node: Option<String>,
    pub(crate) rooms: BTreeMap<RoomId, Room>,
    pub(crate) current: Option<RoomId>,
}

impl Screen {
    pub(crate) fn new(style: Style, me: Option<UserId>) -> Self {
        Self {
            style,
            me,
            node: None,
            rooms: BTreeMap::new(),
            current: None,
        }
    }

    /// `@bob` for a direct room, the id for others.
    pub(crate) fn room_name(&self, room: &RoomId) -> String {
        match (room.direct_members(), &self.me) {
            (Some((one, other)), Some(me)) if one == *me => format!("@{other}"),
            (Some((one, other)), Some(me)) if other == *me => format!("@{one}"),
            _ => printable(room.as_str()),
        }
    }

    pub(crate) fn prompt(&self) -> String {
        let elsewhere: u64 = self
            .rooms
            .iter()
            .filter(|(id, _)| self.current.as_ref() != Some(id))
            .map(|(_, room)| room.unread())
            .sum();
        let name = self
            .current
            .as_ref()
            .map_or_else(|| "(no room)".to_owned(), |room| self.room_name(room));
        if elsewhere > 0 {
            format!("{name} ({elsewhere} elsewhere)> ")
        } else {
            format!("{name}> ")
        }
    }

    /// A remark of the program itself.
    pub(crate) fn remark(&self, text: &str) -> String {
        self.style.dim(&format!("· {text}"))
    }

    pub(crate) fn alarm(&self, text: &str) -> String {
        self.style.warn(&format!("! {text}"))
    }

    pub(crate) fn emphasis(&self, text: &str) -> String {
        self.style.bold(text)
    }

    /// What an event looks like: no line, or some.
    pub(crate) fn show(&mut self, event: &Event) -> Vec<String> {
        match event {
            Event::Message(message) => vec![self.message(message)],
            Event::Signal {
                room,
                from,
                kind,
                body,
                ..
            } => self.signal(room, from, kind, body),
            Event::Connected { node, user, .. } => {
                self.me = Some(user.clone());
                let node = printable(node);
                let first = self.node.is_none();
                let line = self.remark(&format!("connected to {node} as {user}"));
                self.node = Some(node);
                // Of a reconnect, the end of the catching up is told.
                if first { vec![line] } else { Vec::new() }
            }
            Event::Resumed { away: Some(away) } => {
                let node = self.node.as_deref().unwrap_or_default();
                vec![self.remark(&format!(
                    "back on {node} after {}; nothing was missed",
                    seconds(*away)
                ))]
            }
            Event::Disconnected {
                reason, retry_in, ..
            } => {
                let again = retry_in.map_or_else(
                    || "trying again".to_owned(),
                    |wait| format!("trying again in {}", seconds(wait)),
                );
                vec![self.alarm(&format!("connection lost ({}), {again}", printable(reason)))]
            }
            Event::ConnectFailed {
                address,
                reason,
                retry_in,
            } => {
                vec![self.alarm(&format!(
                    "{address}: {}, trying again in {}",
                    printable(reason),
                    seconds(*retry_in)
                ))]
            }
            Event::Moving { reason, .. } => {
                vec![self.remark(&format!(
                    "the server asks to move ({}): changing over, nothing is lost",
                    printable(reason)
                ))]
            }
            Event::Moved { node, .. } => {
                vec![self.remark(&format!("moved to {}", printable(node)))]
            }
            Event::Subscribed {
                room,
                head,
                read,
                joined,
                ..
            } => {
                let view = self.rooms.entry(room.clone()).or_default();
                view.head = view.head.max(*head);
                view.read = view.read.max((*read).max(*joined));
                Vec::new()
            }
            Event::Refused { room, error } => {
                if !error.retryable {
                    self.forget(room);
                }
                vec![self.alarm(&format!(
                    "{}: {}",
                    self.room_name(room),
                    printable(&error.text)
                ))]
            }
            Event::Unsubscribed { room } => {
                self.forget(room);
                vec![self.remark(&format!("{} is no longer heard", self.room_name(room)))]
            }
            Event::RoomChanged {
                room,
                subscribed,
                reason,
            } => vec![self.room_changed(room, *subscribed, reason)],
            Event::ReadState {
                room, read, head, ..
            } => {
                let view = self.rooms.entry(room.clone()).or_default();
                view.head = view.head.max(*head);
                view.read = view.read.max(*read);
                Vec::new()
            }
            Event::Reset { room, seq, .. } => {
                if let Some(view) = self.rooms.get_mut(room) {
                    view.head = *seq;
                    view.read = view.read.min(*seq);
                    view.shown = view
                        .shown
                        .filter(|(first, _)| first <= seq)
                        .map(|(first, last)| (first, last.min(*seq)));
                }
                vec![self.alarm(&format!(
                    "{}: the server lost its latest messages: what was shown beyond #{seq} is void",
                    self.room_name(room)
                ))]
            }
            Event::Truncated { room, from, to } => {
                vec![self.remark(&format!(
                    "{}: #{from} to #{to} are gone (retention)",
                    self.room_name(room)
                ))]
            }
            Event::Ended(end) => vec![self.alarm(&format!(
                "the chat is over: {}",
                printable(&end.to_string())
            ))],
            _ => Vec::new(),
        }
    }

    fn forget(&mut self, room: &RoomId) {
        self.rooms.remove(room);
        if self.current.as_ref() == Some(room) {
            self.current = self.rooms.keys().next().cloned();
        }
    }

    fn room_changed(&mut self, room: &RoomId, subscribed: bool, reason: &str) -> String {
        let name = self.room_name(room);
        let reason = printable(reason);
        if subscribed {
            self.rooms.entry(room.clone()).or_default();
            self.remark(&format!(
                "you are in {name} now ({reason}); /join {} goes there",
                printable(room.as_str())
            ))
        } else {
            self.forget(room);
            self.remark(&format!("you are no longer in {name} ({reason})"))
        }
    }

    /// A message as a line; it counts as shown, and as read where the user is.
    pub(crate) fn message(&mut self, message: &Message) -> String {
        let here = self.current.as_ref() == Some(&message.room);
        let mine = self
            .me
            .as_ref()
            .is_some_and(|me| me.as_str() == message.from);
        let view = self.rooms.entry(message.room.clone()).or_default();
        view.head = view.head.max(message.seq);
        let (first, last) = view.shown.unwrap_or((message.seq, message.seq));
        view.shown = Some((first.min(message.seq), last.max(message.seq)));
        if mine && message.seq == view.read + 1 {
            view.read = message.seq;
        }
        if !message.from.is_empty() {
            view.speakers.insert(message.from.clone());
        }
        let time = self.style.dim(&local_time(message.time_ms, "%H:%M"));
        let place = if here {
            String::new()
        } else {
            self.style
                .dim(&format!("[{}] ", self.room_name(&message.room)))
        };
        format!("{time} {place}{}", self.said(message))
    }

    fn said(&self, message: &Message) -> String {
        let from = if message.from.is_empty() {
            "server".to_owned()
        } else {
            printable(&message.from)
        };
        let name = self.style.name(&from);
        let text = body_text(&message.body).replace('\n', "\n      ");
        match message.kind.as_str() {
            "text" => format!("{name}: {text}"),
            EMOTE => format!("* {name} {text}"),
            "im.join" => self.style.dim(&format!(
                "→ {}",
                membership(&message.body, &from, "joined", "was added by")
            )),
            "im.leave" => self.style.dim(&format!(
                "← {}",
                membership(&message.body, &from, "left", "was removed by")
            )),
            "im.delete" => self.style.dim(&format!("✕ {from} deleted the room")),
            other => format!(
                "{name} {}: {text}",
                self.style.dim(&format!("({})", printable(other)))
            ),
        }
    }

    fn signal(&self, room: &str, from: &str, kind: &str, body: &Body) -> Vec<String> {
        if self.me.as_ref().is_some_and(|me| me.as_str() == from) {
            return Vec::new();
        }
        let from = if from.is_empty() {
            "server".to_owned()
        } else {
            printable(from)
        };
        let place = match RoomId::new(room) {
            Ok(room) if self.current.as_ref() == Some(&room) => String::new(),
            Ok(room) => format!("[{}] ", self.room_name(&room)),
            Err(_) => String::new(),
        };
        match kind {
            "typing" => vec![self.remark(&format!("{place}{from} is typing…"))],
            "read" => Vec::new(),
            other => vec![self.remark(&format!(
                "{place}{from} ({}): {}",
                printable(other),
                body_text(body)
            ))],
        }
    }

    /// The list that `/rooms` shows.
    pub(crate) fn room_list(&self) -> Vec<String> {
        if self.rooms.is_empty() {
            return vec![self.remark("no rooms yet: /join ROOM or /with USER")];
        }
        let line = |(id, room): (&RoomId, &Room)| {
            let here = if self.current.as_ref() == Some(id) {
                "*"
            } else {
                " "
            };
            let unread = match room.unread() {
                0 => String::new(),
                count => format!("  {count} unread"),
            };
            let name = self.room_name(id);
            let id = if name == id.as_str() {
                String::new()
            } else {
                self.style.dim(&format!("  {}", printable(id.as_str())))
            };
            format!("{here} {name}{id}{unread}")
        };
        self.rooms.iter().map(line).collect()
    }
}

/// `bob joined`, or who did it: the body of `im.join` and `im.leave` is `{"user", "by", "role"?}`.
fn membership(body: &Body, from: &str, alone: &str, by_other: &str) -> String {
    let value: Value = serde_json::from_slice(body.bytes()).unwrap_or_default();
    let text = |field: &str| value.get(field).and_then(Value::as_str).map(printable);
    let user = text("user").unwrap_or_else(|| from.to_owned());
    match text("by") {
        Some(by) if by != user && !by.is_empty() => format!("{user} {by_other} {by}"),
        _ => format!("{user} {alone}"),
    }
}

pub(crate) fn seconds(time: Duration) -> String {
    match time.as_millis() {
        0..50 => "a moment".to_owned(),
        50..950 => format!("{:.1} s", time.as_secs_f64()),
        _ => format!("{:.0} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen() -> Screen {
        let mut screen = Screen::new(Style { colors: false }, UserId::new("ann").ok());
        screen.current = RoomId::new("lobby").ok();
        screen
    }

    fn message(room: &str, seq: Seq, from: &str, kind: &str, body: Body) -> Message {
        let id = String::new();
        let client_id = String::new();
        let kind = kind.to_owned();
        let from = from.to_owned();
        Message {
            room: RoomId::new(room).unwrap(),
            epoch: 1,
            seq,
            id,
            from,
            client_id,
            kind,
            body,
            time_ms: 0,
        }
    }

    fn shown(
        screen: &mut Screen,
        room: &str,
        seq: Seq,
        from: &str,
        kind: &str,
        body: &str,
    ) -> String {
        let line = screen.message(&message(
            room,
            seq,
            from,
            kind,
            Body::Text(body.to_owned().into()),
        ));
        line.split_once(' ').unwrap().1.to_owned()
    }

    #[test]
    fn messages_say_who_and_where() {
        let mut screen = screen();
        assert_eq!(
            shown(&mut screen, "lobby", 1, "bob", "text", "hi"),
            "bob: hi"
        );
        assert_eq!(
            shown(&mut screen, "lobby", 2, "bob", EMOTE, "waves"),
            "* bob waves"
        );
        assert_eq!(
            shown(&mut screen, "other", 1, "bob", "text", "hi"),
            "[other] bob: hi"
        );
        assert_eq!(
            shown(&mut screen, "direct:3:ann:bob", 1, "bob", "text", "psst"),
            "[@bob] bob: psst"
        );
        assert_eq!(
            shown(&mut screen, "lobby", 3, "bob", "image", "{}"),
            "bob (image): {}"
        );
        assert_eq!(
            shown(
                &mut screen,
                "lobby",
                4,
                "",
                "im.join",
                r#"{"user":"cy","by":"bob"}"#
            ),
            "→ cy was added by bob"
        );
        assert_eq!(
            shown(
                &mut screen,
                "lobby",
                5,
                "cy",
                "im.leave",
                r#"{"user":"cy","by":"cy"}"#
            ),
            "← cy left"
        );
        assert_eq!(
            shown(
                &mut screen,
                "lobby",
                6,
                "root",
                "im.delete",
                r#"{"by":"root"}"#
            ),
            "✕ root deleted the room"
        );
    }

    #[test]
    fn what_others_say_cannot_drive_the_terminal() {
        let mut screen = screen();
        let line = shown(
            &mut screen,
            "lobby",
            1,
            "b\x1b[31mob",
            "text",
            "\x1b]0;title\x07",
        );
        assert!(!line.contains('\x1b'), "{line:?}");
    }

    #[test]
    fn unread_messages_elsewhere_show_in_the_prompt_and_the_list() {
        let mut screen = screen();
        shown(&mut screen, "other", 1, "bob", "text", "1");
        shown(&mut screen, "other", 2, "bob", "text", "2");
        assert_eq!(screen.prompt(), "lobby (2 elsewhere)> ");
        assert_eq!(screen.room_list(), ["  other  2 unread"]);
        let room = RoomId::new("other").unwrap();
        let kind = String::new();
        screen.show(&Event::Subscribed {
            room: room.clone(),
            kind,
            epoch: 1,
            head: 5,
            read: 3,
            joined: 4,
            after: 5,
        });
        assert_eq!(screen.room_list(), ["  other  1 unread"]);
        screen.show(&Event::ReadState {
            room,
            read: 5,
            head: 5,
            unread: 0,
        });
        assert_eq!(screen.prompt(), "lobby> ");
    }

    #[test]
    fn trouble_is_told_politely() {
        let mut screen = screen();
        let retry_in = Some(Duration::from_millis(300));
        let lost = screen.show(&Event::Disconnected {
            code: None,
            reason: "gone".to_owned(),
            retry_in,
        });
        assert_eq!(lost, ["! connection lost (gone), trying again in 0.3 s"]);
        screen.node = Some("node-2".to_owned());
        let back = screen.show(&Event::Resumed {
            away: Some(Duration::from_secs(2)),
        });
        assert_eq!(back, ["· back on node-2 after 2 s; nothing was missed"]);
        assert!(screen.show(&Event::Resumed { away: None }).is_empty());
    }

    #[test]
    fn a_room_that_is_gone_is_left() {
        let mut screen = screen();
        shown(&mut screen, "other", 1, "bob", "text", "1");
        shown(&mut screen, "lobby", 1, "bob", "text", "1");
        let room = RoomId::new("lobby").unwrap();
        let reason = "kicked".to_owned();
        screen.show(&Event::RoomChanged {
            room,
            subscribed: false,
            reason,
        });
        assert_eq!(screen.current, RoomId::new("other").ok());
    }
}
