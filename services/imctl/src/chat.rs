//! `imctl chat`: rooms, people and messages in a terminal; plain lines where there is none.

mod command;
mod keyboard;
mod screen;
mod style;

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use im_cli::failure::Failure;
use im_cli::http;
use im_client::{
    Body, Client, ErrorCode, Event, Message, Outgoing, Page, Part, Position, ReadState,
    RequestError, RoomId, SendError, Sent, Seq, SubscribedRoom,
};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use crate::args::{ChatArgs, Color, ConnectArgs};
use crate::session::{Credentials, Session, direct_room, rooms};
use crate::tail::event_json;
use crate::text::printable;
use crate::{api, history};
use command::{HELP, Input};
use keyboard::{Keyboard, Typed};
use screen::{EMOTE, Screen};
use style::Style;

/// Shown when a room is entered.
const BACKLOG: u32 = 20;
/// Reading is told to the server this long after it happened, so that a flood of messages is one telling.
const READ_AFTER: Duration = Duration::from_millis(300);
/// Typing is told, and shown, not more often than this.
const TYPING_EVERY: Duration = Duration::from_secs(4);
/// At the end: for sends to be answered and shown.
const FAREWELL: Duration = Duration::from_secs(5);

/// Something asked for has come.
enum Done {
    Joined(RoomId, Result<(Page, Vec<SubscribedRoom>), RequestError>),
    Older(RoomId, Result<Vec<Message>, Failure>),
    Sent(String, Result<Sent, SendError>),
    Read(RoomId, Result<ReadState, RequestError>),
    Who(RoomId, Option<Vec<Value>>),
    Signalled,
    Left(Result<(), RequestError>),
}

type Jobs = FuturesUnordered<BoxFuture<'static, Done>>;

pub(crate) async fn run(args: &ChatArgs, credentials: &Credentials) -> Result<(), Failure> {
    let rooms = rooms(&args.room, &args.with, credentials.user().as_ref())?;
    let mut session = Session::start(&args.connect, credentials, Vec::new(), true)?;
    session.connected(&args.connect).await?;
    let colors = match args.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    let mut chat = Chat {
        args,
        credentials,
        client: session.client.clone(),
        screen: Screen::new(Style { colors }, session.me.clone()),
        keyboard: Keyboard::open(args.connect.json)?,
        jobs: Jobs::new(),
        to_read: HashMap::new(),
        read_at: None,
        typed_at: None,
        typing_shown: HashMap::new(),
        owed: HashMap::new(),
    };
    rooms.into_iter().for_each(|room| chat.join(room));
    chat.greet()?;
    let talked = chat.talk(&mut session).await;
    session.client.close().await;
    talked
}

struct Chat<'a> {
    args: &'a ChatArgs,
    credentials: &'a Credentials,
    client: Client,
    screen: Screen,
    keyboard: Keyboard,
    jobs: Jobs,
    /// What the user has seen and the server has not heard of.
    to_read: HashMap<RoomId, Seq>,
    read_at: Option<Instant>,
    typed_at: Option<Instant>,
    typing_shown: HashMap<(String, String), Instant>,
    /// What was stored and must still be shown before the end.
    owed: HashMap<RoomId, Seq>,
}

impl Chat<'_> {
    async fn talk(&mut self, session: &mut Session) -> Result<(), Failure> {
        self.prompt();
        let mut leaving: Option<Instant> = None;
        loop {
            if leaving.is_some_and(|until| until <= Instant::now() || self.is_settled()) {
                return Ok(());
            }
            let wake = [self.read_at, leaving].into_iter().flatten().min();
            tokio::select! {
                event = session.events.next() => match event {
                    Some(Event::Ended(end)) => return Err(end.into()),
                    Some(event) => self.hear(&event)?,
                    None => return Ok(()),
                },
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => self.done(done)?,
                typed = self.keyboard.next(), if leaving.is_none() => match typed {
                    Typed::Line(line) => {
                        if self.take(&line)? {
                            leaving = Some(Instant::now() + FAREWELL);
                        }
                        self.prompt();
                    }
                    Typed::Typing => self.typing(),
                    Typed::End => leaving = Some(Instant::now() + FAREWELL),
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                    if self.read_at.is_some_and(|at| at <= Instant::now()) {
                        self.tell_read();
                    }
                }
            }
        }
    }

    /// Whether everything that was asked for has come, and everything that was said is shown.
    fn is_settled(&self) -> bool {
        let shown = |(room, seq): (&RoomId, &Seq)| {
            self.screen
                .rooms
                .get(room)
                .is_none_or(|view| view.shown.is_some_and(|(_, last)| last >= *seq))
        };
        self.jobs.is_empty() && self.to_read.is_empty() && self.owed.iter().all(shown)
    }

    fn greet(&mut self) -> Result<(), Failure> {
        if self.keyboard.is_terminal() {
            self.print(
                &self
                    .screen
                    .remark("/help shows what you can do; Ctrl-D leaves"),
            )?;
        }
        Ok(())
    }

    fn prompt(&self) {
        let rooms = self
            .screen
            .rooms
            .keys()
            .map(|room| room.as_str().to_owned());
        self.keyboard.prompt(self.screen.prompt(), rooms.collect());
    }

    fn print(&mut self, line: &str) -> Result<(), Failure> {
        if self.args.connect.json {
            Ok(())
        } else {
            self.keyboard.print(line)
        }
    }

    fn print_json(&mut self, value: &Value) -> Result<(), Failure> {
        if self.args.connect.json {
            self.keyboard.print(&value.to_string())
        } else {
            Ok(())
        }
    }

    fn complain(&mut self, text: &str) -> Result<(), Failure> {
        self.print_json(&serde_json::json!({"op": "error", "text": text}))?;
        self.print(&self.screen.alarm(text))
    }

    fn hear(&mut self, event: &Event) -> Result<(), Failure> {
        if let Event::Signal {
            room, from, kind, ..
        } = event
            && kind == "typing"
            && !self.is_news((room.clone(), from.clone()))
        {
            return Ok(());
        }
        self.print_json(&event_json(event))?;
        for line in self.screen.show(event) {
            self.print(&line)?;
        }
        if let Event::Message(message) = event {
            self.typing_shown
                .remove(&(message.room.to_string(), message.from.clone()));
            self.seen(&message.room, message.seq);
        }
        Ok(())
    }

    /// Whether it is long ago that this user was shown typing in this room.
    fn is_news(&mut self, who: (String, String)) -> bool {
        let now = Instant::now();
        self.typing_shown
            .retain(|_, at| now.duration_since(*at) < TYPING_EVERY * 2);
        self.typing_shown.insert(who, now).is_none()
    }

    /// The user has this before their eyes, if they are in the room.
    fn seen(&mut self, room: &RoomId, seq: Seq) {
        if self.screen.current.as_ref() != Some(room) {
            return;
        }
        if let Some(view) = self
            .screen
            .rooms
            .get_mut(room)
            .filter(|view| view.read < seq)
        {
            view.read = seq;
            self.to_read.insert(room.clone(), seq);
            self.read_at
                .get_or_insert_with(|| Instant::now() + READ_AFTER);
        }
    }

    fn tell_read(&mut self) {
        self.read_at = None;
        for (room, seq) in self.to_read.drain() {
            let client = self.client.clone();
            let job = async move {
                let read = client.read(room.clone(), seq).await;
                Done::Read(room, read)
            };
            self.jobs.push(Box::pin(job));
        }
    }

    /// Carries out a line; true: to leave.
    fn take(&mut self, line: &str) -> Result<bool, Failure> {
        match Input::parse(line) {
            Input::Nothing => {}
            Input::Quit => return Ok(true),
            Input::Say(text) => self.say("text", text)?,
            Input::Emote(text) => self.say(EMOTE, text)?,
            Input::Join(room) => self.join(room),
            Input::With(user) => match direct_room(self.credentials.user().as_ref(), &user) {
                Ok(room) => self.join(room),
                Err(failure) => self.complain(&failure.text)?,
            },
            Input::Leave(room) => match room.or_else(|| self.screen.current.clone()) {
                Some(room) => self.leave(room),
                None => self.complain("you are in no room")?,
            },
            Input::Rooms => {
                for line in self.screen.room_list() {
                    self.print(&line)?;
                }
            }
            Input::History(count) => self.older(count)?,
            Input::Who => self.who()?,
            Input::Typing => self.typing(),
            Input::Help => {
                for (command, meaning) in HELP {
                    self.print(&format!(
                        "  {}  {meaning}",
                        self.screen.emphasis(&format!("{command:<14}"))
                    ))?;
                }
            }
            Input::Wrong(reason) => self.complain(&reason)?,
        }
        Ok(false)
    }

    fn here(&mut self) -> Result<Option<RoomId>, Failure> {
        if self.screen.current.is_none() {
            self.complain("you are in no room: /join ROOM or /with USER")?;
        }
        Ok(self.screen.current.clone())
    }

    fn say(&mut self, kind: &'static str, text: String) -> Result<(), Failure> {
        let Some(room) = self.here()? else {
            return Ok(());
        };
        let client = self.client.clone();
        self.typed_at = None;
        let message = Outgoing::new(room, kind, Body::Text(text.clone().into()))
            .deadline(self.args.connect.timeout);
        // In the order typed: the first poll hands the message over.
        let mut job: BoxFuture<'static, Done> =
            Box::pin(async move { Done::Sent(text, client.send(message).await) });
        if let Some(done) = futures::FutureExt::now_or_never(&mut job) {
            return self.done(done);
        }
        self.jobs.push(job);
        Ok(())
    }

    fn join(&mut self, room: RoomId) {
        self.screen.current = Some(room.clone());
        let client = self.client.clone();
        let job = async move {
            let joined = enter(&client, &room).await;
            Done::Joined(room, joined)
        };
        self.jobs.push(Box::pin(job));
    }

    fn leave(&mut self, room: RoomId) {
        let client = self.client.clone();
        self.jobs.push(Box::pin(async move {
            Done::Left(client.unsubscribe(vec![room]).await)
        }));
    }

    fn older(&mut self, count: u32) -> Result<(), Failure> {
        let Some(room) = self.here()? else {
            return Ok(());
        };
        let first = self
            .screen
            .rooms
            .get(&room)
            .and_then(|view| view.shown)
            .map(|(first, _)| first);
        let part = first.map_or(Part::Latest, Part::Before);
        let client = self.client.clone();
        let job = async move {
            let messages = history::read(&client, &room, part, count)
                .await
                .map(|(messages, _)| messages);
            Done::Older(room, messages)
        };
        self.jobs.push(Box::pin(job));
        Ok(())
    }

    fn who(&mut self) -> Result<(), Failure> {
        let Some(room) = self.here()? else {
            return Ok(());
        };
        let connect = self.args.connect.clone();
        let credentials = self.credentials.clone();
        let job = async move {
            let members = who_is_in(&connect, &credentials, &room).await;
            Done::Who(room, members)
        };
        self.jobs.push(Box::pin(job));
        Ok(())
    }

    fn typing(&mut self) {
        let now = Instant::now();
        if self
            .typed_at
            .is_some_and(|at| now.duration_since(at) < TYPING_EVERY)
        {
            return;
        }
        if let Some(room) = self.screen.current.clone() {
            self.typed_at = Some(now);
            let client = self.client.clone();
            let body = Body::Json("{}".into());
            self.jobs.push(Box::pin(async move {
                // At most once: where it does not arrive nothing is missed.
                let _ = client.signal(room, "typing", body).await;
                Done::Signalled
            }));
        }
    }

    fn done(&mut self, done: Done) -> Result<(), Failure> {
        match done {
            Done::Joined(room, Ok((page, results))) => self.joined(&room, &page, &results),
            Done::Joined(room, Err(error)) => {
                let name = self.screen.room_name(&room);
                if self.screen.current.as_ref() == Some(&room) {
                    self.screen.current = self.screen.rooms.keys().next().cloned();
                }
                self.complain(&format!("{name}: {}", reason(&error)))
            }
            Done::Older(room, Ok(messages)) if messages.is_empty() => {
                self.print(&self.screen.remark(&format!(
                    "nothing older in {}",
                    self.screen.room_name(&room)
                )))
            }
            Done::Older(_, Ok(messages)) => self.backlog(&messages),
            Done::Older(_, Err(failure)) => self.complain(&failure.text),
            Done::Sent(_, Ok(sent)) => {
                self.owed.insert(sent.room, sent.seq);
                Ok(())
            }
            Done::Sent(text, Err(error)) => {
                let why = match error {
                    SendError::Refused(error) => printable(&error.text),
                    other => other.to_string(),
                };
                self.complain(&format!("not sent ({why}): {text}"))
            }
            Done::Read(room, Ok(state)) => {
                if let Some(view) = self.screen.rooms.get_mut(&room) {
                    view.read = view.read.max(state.read);
                    view.head = view.head.max(state.head);
                }
                Ok(())
            }
            Done::Who(room, members) => self.members(&room, members.as_deref()),
            // Told again with the next message read, or never: nothing hangs on it.
            Done::Read(_, Err(_)) | Done::Signalled | Done::Left(Ok(())) => Ok(()),
            Done::Left(Err(error)) => self.complain(&reason(&error)),
        }
    }

    fn joined(
        &mut self,
        room: &RoomId,
        page: &Page,
        results: &[SubscribedRoom],
    ) -> Result<(), Failure> {
        if let Some(SubscribedRoom::Refused { .. }) = results.first() {
            // The event of the refusal has told why.
            return Ok(());
        }
        let view = self.screen.rooms.entry(room.clone()).or_default();
        view.head = view.head.max(page.head);
        let unread = match view.unread() {
            0 => String::new(),
            count => format!(", {count} unread"),
        };
        let name = self.screen.room_name(room);
        self.print(&self.screen.emphasis(&format!("— {name}{unread} —")))?;
        self.backlog(&page.messages)?;
        let head = page.head;
        self.seen(room, head);
        Ok(())
    }

    /// Messages of a room's past, without those that are on the screen already.
    fn backlog(&mut self, messages: &[Message]) -> Result<(), Failure> {
        for message in messages {
            let shown = self
                .screen
                .rooms
                .get(&message.room)
                .and_then(|view| view.shown);
            if shown.is_some_and(|(first, last)| (first..=last).contains(&message.seq)) {
                continue;
            }
            self.print_json(&event_json(&Event::Message(message.clone())))?;
            let line = self.screen.message(message);
            self.print(&line)?;
        }
        Ok(())
    }

    fn members(&mut self, room: &RoomId, listed: Option<&[Value]>) -> Result<(), Failure> {
        let names: Vec<String> = match listed {
            Some(members) => members.iter().map(member).collect(),
            None => {
                let view = self.screen.rooms.get(room);
                let mut speakers: Vec<String> = view
                    .map(|view| view.speakers.iter().map(|name| printable(name)).collect())
                    .unwrap_or_default();
                if speakers.is_empty() {
                    speakers.push("nobody has spoken yet".to_owned());
                }
                speakers
            }
        };
        let what = if listed.is_some() { "in" } else { "heard in" };
        self.print(&self.screen.remark(&format!(
            "{what} {}: {}",
            self.screen.room_name(room),
            names.join(", ")
        )))
    }
}

fn member(member: &Value) -> String {
    let text = |field: &str| member.get(field).and_then(Value::as_str).map(printable);
    let name = member
        .as_str()
        .map(printable)
        .or_else(|| text("user"))
        .unwrap_or_else(|| "?".to_owned());
    let role = text("role")
        .filter(|role| role != "member")
        .map(|role| format!(" ({role})"))
        .unwrap_or_default();
    let online = member
        .get("online")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    format!("{name}{role}{}", if online { " online" } else { "" })
}

fn reason(error: &RequestError) -> String {
    match error {
        RequestError::Refused(error) => printable(&error.text),
        other => other.to_string(),
    }
}

/// The members of a room, each with whether they are online; `None` where the API does not tell.
async fn who_is_in(
    connect: &ConnectArgs,
    credentials: &Credentials,
    room: &RoomId,
) -> Option<Vec<Value>> {
    let path = format!("/v1/rooms/{}/members", http::segment(room.as_str()));
    let mut answer = api::ask(connect, credentials, &path).await.ok()?;
    let mut members = answer.get_mut("members")?.as_array().cloned()?;
    let users: Vec<String> = members
        .iter()
        .filter_map(|member| member["user"].as_str().map(http::segment))
        .collect();
    let presence = api::ask(
        connect,
        credentials,
        &format!("/v1/presence?users={}", users.join(",")),
    )
    .await;
    let presence = presence.unwrap_or_default();
    for known in presence["users"].as_array().into_iter().flatten() {
        for member in members
            .iter_mut()
            .filter(|member| member["user"] == known["user"])
        {
            member["online"] = known["online"].clone();
        }
    }
    Some(members)
}

/// The latest messages of a room, and then everything after them.
async fn enter(
    client: &Client,
    room: &RoomId,
) -> Result<(Page, Vec<SubscribedRoom>), RequestError> {
    let page = match client.history(room.clone(), Part::Latest, BACKLOG).await {
        // A direct room begins with its first message.
        Err(RequestError::Refused(error))
            if error.code == ErrorCode::NoSuchRoom && room.is_direct() =>
        {
            Page {
                epoch: 0,
                head: 0,
                truncated: None,
                messages: Vec::new(),
            }
        }
        page => page?,
    };
    let seq = page
        .messages
        .last()
        .map_or(page.head, |message| message.seq);
    let position = Position {
        room: room.clone(),
        epoch: page.epoch,
        seq: Some(seq),
    };
    let results = client.subscribe(vec![position]).await?;
    Ok((page, results))
}
