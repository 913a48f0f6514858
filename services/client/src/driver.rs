//! The one task of a client: carries bytes and time to the core, and the core's actions to sockets and the application.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use im_wire::native::Response;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::answer::State;
use crate::codec::Encoding;
use crate::core::{Action, Command, Core, Loss};
use crate::dial::{DialError, dial, fetch_token};
use crate::event::{End, Event};
use crate::link::Link;
use crate::options::Options;
use crate::rooms::Slot;
use crate::token::TokenSource;

/// A socket and the token to present on it.
type Dialled = Result<(Link, String), DialError>;
type Dialling = BoxFuture<'static, Dialled>;
type Fetched = Result<String, DialError>;
type Fetching = BoxFuture<'static, Fetched>;
/// Frames that have arrived, or why no more will.
type Incoming = Result<Vec<Response>, Loss>;

pub(crate) struct Driver {
    core: Core,
    options: Arc<Options>,
    tokens: Arc<dyn TokenSource>,
    encoding: Encoding,
    commands: mpsc::Receiver<Box<Command>>,
    events: mpsc::Sender<Box<Event>>,
    state: watch::Sender<State>,
    links: [Option<Link>; 2],
    dialling: [Option<Dialling>; 2],
    fetching: Option<(Slot, Fetching)>,
    hanging_up: JoinSet<()>,
}

enum Step {
    Command(Option<Box<Command>>),
    Room,
    Incoming(Slot, Incoming),
    Dialled(Slot, Dialled),
    Token(Slot, Fetched),
    Time,
}

impl Driver {
    pub(crate) fn new(
        core: Core,
        options: Arc<Options>,
        tokens: Arc<dyn TokenSource>,
        encoding: Encoding,
        commands: mpsc::Receiver<Box<Command>>,
        events: mpsc::Sender<Box<Event>>,
        state: watch::Sender<State>,
    ) -> Self {
        let links = [None, None];
        let dialling = [None, None];
        let fetching = None;
        let hanging_up = JoinSet::new();
        Self {
            core,
            options,
            tokens,
            encoding,
            commands,
            events,
            state,
            links,
            dialling,
            fetching,
            hanging_up,
        }
    }

    pub(crate) fn run(self) -> BoxFuture<'static, ()> {
        Box::pin(self.drive())
    }

    async fn drive(mut self) {
        self.core.start();
        let mut sleep = Box::pin(sleep_until(Instant::now()));
        loop {
            self.perform();
            self.hand_over();
            self.tell_state();
            if self.core.has_ended() {
                return self.finish().await;
            }
            let step = self.step(&mut sleep).await;
            self.take(step);
        }
    }

    /// Does what the core asks for.
    fn perform(&mut self) {
        while let Some(action) = self.core.action() {
            match action {
                Action::Dial { slot, address } => {
                    let dialling = dial(
                        address,
                        Arc::clone(&self.tokens),
                        self.encoding,
                        Arc::clone(&self.options),
                    );
                    self.dialling[slot.index()] = Some(Box::pin(dialling));
                }
                Action::Write { slot, request } => {
                    if let Some(link) = &mut self.links[slot.index()] {
                        link.write(&request);
                    }
                }
                Action::Hangup { slot } => {
                    self.dialling[slot.index()] = None;
                    if let Some(link) = self.links[slot.index()].take() {
                        self.hanging_up.spawn(link.close());
                    }
                }
                Action::FetchToken { slot } => {
                    let fetching =
                        fetch_token(Arc::clone(&self.tokens), self.options.token_timeout);
                    self.fetching = Some((slot, Box::pin(fetching)));
                }
            }
        }
        while self.hanging_up.try_join_next().is_some() {}
        let most = self
            .links
            .iter()
            .flatten()
            .map(Link::backlog)
            .max()
            .unwrap_or(0);
        let congested = most > self.options.write_buffer;
        if congested || most <= self.options.write_buffer / 2 {
            self.core.set_congested(congested, Instant::now());
        }
    }

    /// Hands events over as long as there is room for them.
    fn hand_over(&mut self) {
        while self.core.has_events() {
            match self.events.try_reserve() {
                Ok(place) => {
                    if let Some(event) = self.core.event() {
                        place.send(Box::new(event));
                    }
                }
                Err(mpsc::error::TrySendError::Full(())) => return,
                // The application does not care.
                Err(mpsc::error::TrySendError::Closed(())) => drop(self.core.event()),
            }
        }
    }

    fn tell_state(&mut self) {
        let now = self.core.state();
        self.state.send_if_modified(|state| {
            let changed = state != now;
            if changed {
                state.clone_from(now);
            }
            changed
        });
    }

    async fn step(&mut self, sleep: &mut std::pin::Pin<Box<Sleep>>) -> Step {
        let timer = self.core.timer();
        if let Some(at) = timer
            && sleep.deadline() != at
        {
            sleep.as_mut().reset(at);
        }
        let full = self.core.has_events();
        let Self {
            commands,
            events,
            links,
            dialling,
            fetching,
            ..
        } = self;
        tokio::select! {
            biased;
            _ = events.reserve(), if full => Step::Room,
            () = sleep, if timer.is_some() => Step::Time,
            (slot, dialled) = poll_fn(|context| poll_dialling(dialling, context)) => Step::Dialled(slot, dialled),
            (slot, token) = poll_fn(|context| poll_fetching(fetching, context)) => Step::Token(slot, token),
            command = commands.recv() => Step::Command(command),
            (slot, incoming) = poll_fn(|context| poll_links(links, !full, context)) => Step::Incoming(slot, incoming),
        }
    }

    fn take(&mut self, step: Step) {
        let now = Instant::now();
        match step {
            Step::Room => {}
            Step::Command(Some(command)) => self.core.command(*command, now),
            Step::Command(None) => self.core.end(End::Closed),
            Step::Incoming(slot, Ok(frames)) => {
                frames
                    .into_iter()
                    .for_each(|frame| self.core.frame(slot, frame, now));
            }
            Step::Incoming(slot, Err(loss)) => {
                self.links[slot.index()] = None;
                self.core.lost(slot, loss, now);
            }
            Step::Dialled(slot, Ok((link, token))) => {
                self.links[slot.index()] = Some(link);
                self.core.dialled(slot, token, now);
            }
            Step::Dialled(slot, Err(error)) => {
                self.core.lost(
                    slot,
                    Loss {
                        code: None,
                        reason: error.to_string(),
                    },
                    now,
                );
            }
            Step::Token(slot, token) => {
                self.core
                    .token(slot, token.map_err(|error| error.to_string()), now)
            }
            Step::Time => {
                // What cannot be heard because the application does not read says nothing about the connection.
                if self.core.has_events() {
                    Slot::BOTH
                        .into_iter()
                        .for_each(|slot| self.core.heard(slot, now));
                }
                self.core.tick(now);
            }
        }
    }

    /// Says good-bye: connections first, then whoever waits for the end, then what the application has not read yet.
    async fn finish(mut self) {
        self.dialling = [None, None];
        while self.hanging_up.join_next().await.is_some() {}
        for closer in self.core.closers() {
            let _ = closer.send(());
        }
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Close { reply } = *command {
                let _ = reply.send(());
            }
        }
        while let Some(event) = self.core.event() {
            if self.events.send(Box::new(event)).await.is_err() {
                return;
            }
        }
    }
}

fn poll_dialling(
    dialling: &mut [Option<Dialling>; 2],
    context: &mut Context<'_>,
) -> Poll<(Slot, Dialled)> {
    for slot in Slot::BOTH {
        if let Some(attempt) = &mut dialling[slot.index()]
            && let Poll::Ready(dialled) = attempt.as_mut().poll(context)
        {
            dialling[slot.index()] = None;
            return Poll::Ready((slot, dialled));
        }
    }
    Poll::Pending
}

fn poll_fetching(
    fetching: &mut Option<(Slot, Fetching)>,
    context: &mut Context<'_>,
) -> Poll<(Slot, Fetched)> {
    if let Some((slot, attempt)) = fetching
        && let Poll::Ready(token) = attempt.as_mut().poll(context)
    {
        let slot = *slot;
        *fetching = None;
        return Poll::Ready((slot, token));
    }
    Poll::Pending
}

fn poll_links(
    links: &mut [Option<Link>; 2],
    read: bool,
    context: &mut Context<'_>,
) -> Poll<(Slot, Incoming)> {
    for slot in Slot::BOTH {
        if let Some(link) = &mut links[slot.index()]
            && let Poll::Ready(incoming) = link.poll(read, context)
        {
            return Poll::Ready((slot, incoming));
        }
    }
    Poll::Pending
}
