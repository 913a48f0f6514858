//! The core with its clock, its server and its application played by the test.

use im_wire::native::{Body, Response};
use tokio::sync::Semaphore;

use super::*;

/// The core with its clock and both of its counterparts played by the test.
pub(super) struct Play {
    pub(super) core: Core,
    pub(super) now: Instant,
    permits: Arc<Semaphore>,
}

impl Play {
    pub(super) fn new(setup: Setup) -> Self {
        let mut core = Core::new(setup);
        core.start();
        Self {
            core,
            now: Instant::now(),
            permits: Arc::new(Semaphore::new(1000)),
        }
    }

    /// Connected on slot A, with everything asked answered and nothing to catch up with.
    pub(super) fn connected(positions: Vec<Position>) -> Self {
        let mut play = Self::new(setup(options(), positions, false, false));
        play.connect(Slot::A);
        play.events();
        play
    }

    pub(super) fn writes(&mut self) -> Vec<(Slot, Request)> {
        let actions = std::iter::from_fn(|| self.core.action());
        let writes = actions.filter_map(|action| match action {
            Action::Write { slot, request } => Some((slot, request)),
            _ => None,
        });
        writes.collect()
    }

    pub(super) fn actions(&mut self) -> Vec<String> {
        let actions = std::iter::from_fn(|| self.core.action());
        actions
            .map(|action| match action {
                Action::Dial { slot, address } => format!("dial {slot:?} {address}"),
                Action::Write { slot, request } => {
                    format!("write {slot:?} {}", op_name(&request.op))
                }
                Action::Hangup { slot } => format!("hang up {slot:?}"),
                Action::FetchToken { slot } => format!("token {slot:?}"),
            })
            .collect()
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.core.event()).collect()
    }

    /// Dials, authenticates and answers subscriptions at their positions.
    pub(super) fn connect(&mut self, slot: Slot) {
        let auth = self.authenticate(slot);
        let ClientOp::Auth { resume, all, .. } = auth.op else {
            panic!("{auth:?}")
        };
        if !resume.is_empty() || all {
            let rooms = resume
                .iter()
                .map(|position| heard(position.room.as_str(), 1, position.seq.unwrap_or(0)))
                .collect();
            self.say(slot, auth.req, ServerOp::Subscribed { rooms });
        }
    }

    /// Dials and authenticates; the auth request.
    pub(super) fn authenticate(&mut self, slot: Slot) -> Request {
        self.core.dialled(slot, "token".to_owned(), self.now);
        let (_, auth) = self.writes().pop().expect("an auth");
        self.say(slot, auth.req, self.welcome(0));
        auth
    }

    pub(super) fn welcome(&self, expires_ms: u64) -> ServerOp {
        let text = |text: &str| text.to_owned();
        let user = im_wire::ids::UserId::new("u").unwrap();
        let (device, conn, node) = (text("d"), text("c1"), text("n1"));
        ServerOp::AuthOk {
            user,
            device,
            conn,
            node,
            heartbeat_ms: 30_000,
            time_ms: 1_000_000,
            expires_ms,
        }
    }

    pub(super) fn say(&mut self, slot: Slot, req: u32, op: ServerOp) {
        self.core.frame(slot, Response { req, op }, self.now);
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.core.tick(self.now);
    }

    /// Goes to the next timer.
    pub(super) fn wait(&mut self) -> Duration {
        let at = self.core.timer().expect("a timer");
        let waited = at.saturating_duration_since(self.now);
        self.now = self.now.max(at);
        self.core.tick(self.now);
        waited
    }

    /// Lets time pass on a connection that is well, until the core wishes this.
    pub(super) fn wait_for(&mut self, action: &str) {
        while !self.actions().contains(&action.to_owned()) {
            self.wait();
            Slot::BOTH
                .into_iter()
                .for_each(|slot| self.core.heard(slot, self.now));
        }
    }

    pub(super) fn send(
        &mut self,
        name: &str,
        client_id: &str,
    ) -> oneshot::Receiver<Result<Sent, SendError>> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().unwrap();
        let (reply, answer) = oneshot::channel();
        let send = PendingSend {
            room: room(name),
            client_id: client_id.to_owned(),
            kind: "text".to_owned(),
            body: Body::Text(bytes::Bytes::new()),
        };
        let deadline = self.now + Duration::from_secs(30);
        self.core.command(
            Command::Send {
                send,
                deadline,
                reply: SendReply::new(reply, permit),
            },
            self.now,
        );
        answer
    }

    pub(super) fn ask(
        &mut self,
        op: ClientOp,
    ) -> oneshot::Receiver<Result<ServerOp, RequestError>> {
        let (reply, answer) = oneshot::channel();
        let deadline = self.now + Duration::from_secs(10);
        self.core.command(
            Command::Request {
                op,
                deadline,
                reply,
            },
            self.now,
        );
        answer
    }

    pub(super) fn close(&mut self, slot: Slot, code: CloseCode) {
        let op = ServerOp::Close {
            code,
            text: String::new(),
            reconnect: code.reconnect(),
            after_ms: 0,
        };
        self.say(slot, 0, op);
    }

    pub(super) fn ask_to_move(&mut self, slot: Slot, after_ms: u32, to: &[&str]) {
        let to = to.iter().map(|&address| address.to_owned()).collect();
        self.say(
            slot,
            0,
            ServerOp::Move {
                after_ms,
                deadline_ms: 10_000,
                to,
                reason: "draining".to_owned(),
            },
        );
    }
}
