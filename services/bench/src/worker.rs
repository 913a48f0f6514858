//! One process of clients: a single thread that opens its share of the connections, sends what is due whether or not the
//! server keeps up, and reads everything that comes.

mod events;
mod visit;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;

use im_cli::failure::Failure;
use im_client::RoomId;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use serde::{Deserialize, Serialize};

use self::visit::Visits;
use crate::client::{self, Client, State};
use crate::clock;
use crate::plan::{Due, Part, Phase, Who};
use crate::publisher::{Publisher, UnderWay};
use crate::stamp::Stamp;
use crate::tally::{Figures, Tally};
use crate::wire::Wire;

const TIMER: Token = Token(usize::MAX - 1);
const WAKER: Token = Token(usize::MAX - 2);
/// Connections that are under way at once.
const UNDER_WAY: usize = 256;
/// A phase is over when nothing has come for so long after its last message, everything was answered,
const QUIET: u64 = 500_000_000;
/// or, at the latest, after so long.
const TIMEOUT: u64 = 10_000_000_000;
/// How often a client gives a sign of life, in nanoseconds.
const HEARTBEAT: u64 = 25_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// What a worker is told, one JSON object per line of its standard input. At the input's end it ends.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    Connect(Box<Part>),
    /// Each client hears so many rooms of its own and leaves them.
    Visit(u32),
    Run(Phase),
}

/// What a worker tells, one JSON object per line of its standard output.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Note {
    /// So many are in their rooms after so many seconds; why others are not.
    Connected {
        clients: usize,
        seconds: f64,
        failed: BTreeMap<String, u64>,
    },
    /// So many rooms were heard and left after so many seconds; why others were not.
    Visited {
        rooms: u64,
        seconds: f64,
        refused: BTreeMap<String, u64>,
    },
    /// A phase is over.
    Ran(Box<Figures>),
}

struct Worker {
    poll: Poll,
    timer: OwnedFd,
    part: Part,
    rooms: Vec<RoomId>,
    clients: Vec<Client>,
    /// To the API, where it sends.
    publishers: Vec<Publisher>,
    /// Due, and no connection to the API is free.
    queue: VecDeque<(Due, u8)>,
    tally: Option<Tally>,
    /// The next of the phase's messages that this worker sends.
    next: Option<Due>,
    failed: BTreeMap<String, u64>,
    /// In their rooms.
    inside: usize,
    /// Opened, not in yet.
    entering: usize,
    visits: Visits,
    last_heard: u64,
    run: String,
    buffer: Vec<u8>,
}

/// `im-bench worker`.
pub(crate) fn run() -> Result<(), Failure> {
    // Where that fails, connecting says why.
    let _ = im_runtime::raise_descriptor_limit();
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKER)?;
    let (orders, taken) = mpsc::channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if orders.send(line).is_err() || waker.wake().is_err() {
                return;
            }
        }
        drop(orders);
        // The thread that waits sees that there are no more orders.
        let _ended = waker.wake();
    });
    let mut order = taken.recv().ok();
    let mut worker = None;
    while let Some(line) = order {
        match serde_json::from_str(&line).map_err(io::Error::from)? {
            Order::Connect(part) => {
                let made = worker.insert(Worker::new(Poll::new()?, *part)?);
                tell(&made.connect()?)?;
            }
            Order::Visit(rooms) => {
                let made = worker.as_mut().ok_or_else(nobody_connected)?;
                tell(&made.visit(rooms)?)?;
            }
            Order::Run(phase) => {
                let made = worker.as_mut().ok_or_else(nobody_connected)?;
                tell(&Note::Ran(Box::new(made.run(phase)?)))?;
            }
        }
        order = match &mut worker {
            Some(worker) => worker.idle(&taken)?,
            None => None,
        };
    }
    Ok(())
}

fn nobody_connected() -> Failure {
    Failure::usage("Connect comes first")
}

fn tell(note: &Note) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, note).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

impl Worker {
    fn new(poll: Poll, part: Part) -> Result<Self, Failure> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )
        .map_err(io::Error::from)?;
        poll.registry()
            .register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let rooms = part
            .rooms
            .iter()
            .map(RoomId::new)
            .collect::<Result<Vec<_>, _>>();
        let rooms = rooms.map_err(|error| Failure::usage(error.to_string()))?;
        Ok(Self {
            poll,
            timer,
            rooms,
            clients: Vec::with_capacity(part.tokens.len()),
            publishers: Vec::new(),
            queue: VecDeque::new(),
            tally: None,
            next: None,
            failed: BTreeMap::new(),
            inside: 0,
            entering: 0,
            visits: Visits::default(),
            last_heard: 0,
            run: format!("{:x}", std::process::id()),
            buffer: vec![0; 256 << 10],
            part,
        })
    }

    /// Wakes the loop at `at`.
    fn wake_at(&self, at: u64) -> io::Result<()> {
        let it_value = Timespec {
            tv_sec: (at / SECOND) as i64,
            tv_nsec: (at % SECOND) as _,
        };
        let it_interval = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        timerfd_settime(
            &self.timer,
            TimerfdTimerFlags::ABSTIME,
            &Itimerspec {
                it_interval,
                it_value,
            },
        )?;
        Ok(())
    }

    fn wait(&mut self, events: &mut Events, at_most: Duration) -> io::Result<()> {
        match self.poll.poll(events, Some(at_most)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => other?,
        }
        for event in &*events {
            self.happened(event);
        }
        Ok(())
    }

    /// Opens the connections at the plan's rate and waits until each is in its room or has failed.
    fn connect(&mut self) -> io::Result<Note> {
        let begin = clock::now();
        let wanted: Vec<Who> = self.part.clients().collect();
        if let Some(api) = &self.part.api {
            for place in 0..api.connections {
                let mut socket = client::connect(api.address)?;
                let token = Token(wanted.len() + place);
                self.poll.registry().register(
                    &mut socket,
                    token,
                    Interest::READABLE | Interest::WRITABLE,
                )?;
                self.publishers.push(Publisher::new(socket));
            }
        }
        let mut events = Events::with_capacity(1024);
        let mut last_progress = (begin, 0);
        let mut looked = begin;
        while self.clients.len() < wanted.len() || self.entering > 0 {
            let now = clock::now();
            let allowed = ((now - begin) as f64 / 1e9 * self.part.connect_rate) as usize + 1;
            while self.clients.len() < wanted.len().min(allowed) && self.entering < UNDER_WAY {
                self.open(wanted[self.clients.len()])?;
            }
            self.wait(&mut events, Duration::from_millis(2))?;
            // The first may have to wait for the last.
            self.signs_of_life(&mut looked);
            let progress = (self.inside, self.clients.len());
            if progress.0 + progress.1 != last_progress.1 {
                last_progress = (now, progress.0 + progress.1);
            } else if now - last_progress.0 > TIMEOUT {
                self.give_up();
            }
        }
        let seconds = (clock::now() - begin) as f64 / 1e9;
        Ok(Note::Connected {
            clients: self.inside,
            seconds,
            failed: self.failed.clone(),
        })
    }

    fn open(&mut self, who: Who) -> io::Result<()> {
        let target = &self.part.targets
            [(who.member / self.part.workers + who.room) % self.part.targets.len()];
        let wire = Wire {
            dialect: self.part.dialect,
            websocket: target.path.is_some(),
        };
        let mut socket = client::connect(target.address)?;
        let token = Token(self.clients.len());
        self.poll.registry().register(
            &mut socket,
            token,
            Interest::READABLE | Interest::WRITABLE,
        )?;
        self.clients
            .push(Client::new(who, self.rooms[who.room].clone(), socket, wire));
        self.entering += 1;
        Ok(())
    }

    fn give_up(&mut self) {
        for number in 0..self.clients.len() {
            if !matches!(self.clients[number].state, State::In | State::Gone) {
                self.lose(number, "no answer in time");
            }
        }
    }

    /// Reads and answers until the next order; `None`: there are no more.
    fn idle(&mut self, orders: &mpsc::Receiver<String>) -> Result<Option<String>, Failure> {
        let mut events = Events::with_capacity(1024);
        let mut looked = clock::now();
        loop {
            match orders.try_recv() {
                Ok(line) => return Ok(Some(line)),
                Err(mpsc::TryRecvError::Disconnected) => return Ok(None),
                Err(mpsc::TryRecvError::Empty) => {}
            }
            self.wait(&mut events, Duration::from_millis(10))?;
            self.signs_of_life(&mut looked);
        }
    }

    /// A part of the clients each second, so that every client's turn comes once in [`HEARTBEAT`].
    fn signs_of_life(&mut self, looked: &mut u64) {
        let now = clock::now();
        if now - *looked < SECOND {
            return;
        }
        let parts = HEARTBEAT / SECOND;
        for turn in *looked / SECOND..now / SECOND {
            let own = self
                .clients
                .iter_mut()
                .skip((turn % parts) as usize)
                .step_by(parts as usize);
            own.filter(|client| client.state == State::In)
                .for_each(Client::ping);
        }
        *looked = now;
    }

    /// Sends at the phase's rate and reads until everything has come.
    fn run(&mut self, phase: Phase) -> io::Result<Figures> {
        self.clients
            .iter_mut()
            .for_each(|client| client.begin_phase(phase.senders));
        self.queue.clear();
        self.tally = Some(Tally::new(phase, self.rooms.len()));
        self.next = self.following(phase, 0);
        let mut events = Events::with_capacity(1024);
        let mut looked = clock::now();
        self.last_heard = phase.to;
        loop {
            self.wake_at(self.next.map_or(phase.to + QUIET, |due| due.at))?;
            self.wait(&mut events, Duration::from_millis(100))?;
            let now = clock::now();
            while let Some(due) = self.next.filter(|due| due.at <= now) {
                self.send(due, phase);
                self.next = self.following(phase, due.message + 1);
            }
            self.signs_of_life(&mut looked);
            let quiet = now > self.last_heard.max(phase.to) + QUIET;
            if now > phase.to + TIMEOUT || (self.next.is_none() && quiet && self.unanswered() == 0)
            {
                break;
            }
        }
        Ok(self.tally.take().map(Tally::finish).unwrap_or_default())
    }

    fn unanswered(&self) -> usize {
        let busy = self
            .publishers
            .iter()
            .filter(|publisher| !publisher.is_free())
            .count();
        busy + self.queue.len() + self.clients.iter().map(Client::unanswered).sum::<usize>()
    }

    /// The first message from `from` on that this worker sends.
    fn following(&self, phase: Phase, from: u64) -> Option<Due> {
        let Part {
            members,
            workers,
            number,
            ..
        } = self.part;
        for message in from.. {
            let due = phase.due(message, self.rooms.len())?;
            let sends = if self.part.api.is_some() {
                message % workers as u64 == number as u64
            } else {
                Phase::member(due, members) % workers == number
            };
            if sends {
                return Some(due);
            }
        }
        None
    }

    fn send(&mut self, due: Due, phase: Phase) {
        if self.part.api.is_some() {
            self.queue.push_back((due, phase.number));
            return self.publish();
        }
        let member = Phase::member(due, self.part.members);
        let place = member / self.part.workers * self.rooms.len() + due.room;
        let (client_id, body) = self.message(due, phase.number);
        let client = &mut self.clients[place];
        debug_assert_eq!(
            client.who,
            Who {
                room: due.room,
                member
            }
        );
        if let Some(tally) = &mut self.tally {
            if client.state == State::In {
                tally.sent(due.at, clock::now());
                client.send(client_id, body, due.at);
            } else {
                tally.refused("client is gone".to_owned());
            }
        }
    }

    fn message(&self, due: Due, phase: u8) -> (String, String) {
        let message = due.message;
        (
            format!("{}-{phase}-{message}", self.run),
            Stamp { phase, message }.body(self.part.size),
        )
    }

    /// Gives what is due to the free connections to the API.
    fn publish(&mut self) {
        let Some(api) = self.part.api.clone() else {
            return;
        };
        for place in 0..self.publishers.len() {
            if !self.publishers[place].is_free() {
                continue;
            }
            let Some((due, phase)) = self.queue.pop_front() else {
                return;
            };
            let (client_id, body) = self.message(due, phase);
            let room = self.rooms[due.room].as_str();
            self.publishers[place].send(
                &api,
                room,
                &client_id,
                &body,
                UnderWay {
                    room: due.room,
                    due: due.at,
                },
            );
            if let Some(tally) = &mut self.tally {
                tally.sent(due.at, clock::now());
            }
        }
    }

    fn lose(&mut self, number: usize, why: &str) {
        let client = &mut self.clients[number];
        match client.state {
            State::Gone => return,
            State::In => {
                self.inside -= 1;
                if client.to_visit > 0 {
                    self.visits.lost();
                }
            }
            State::Connecting | State::Upgrading | State::Entering => {
                self.entering -= 1;
                *self.failed.entry(why.to_owned()).or_default() += 1;
            }
        }
        client.state = State::Gone;
        // A socket that cannot be shut is closed already.
        let _closed = client.socket.shutdown(std::net::Shutdown::Both);
        if let Some(tally) = &mut self.tally {
            tally.closed(why);
        }
    }
}
