//! Requests other than sends: asked, answered by number, and asked again on the next connection where that is harmless.

use std::collections::BTreeMap;

use im_wire::native::ClientOp;
use tokio::time::Instant;

/// A request that has no answer yet; `R`: what the caller is answered with.
#[derive(Debug)]
pub(crate) struct Pending<R> {
    pub(crate) op: ClientOp,
    pub(crate) reply: R,
    deadline: Instant,
}

impl<R> Pending<R> {
    /// Whether asking twice is the same as asking once. A signal would be heard twice.
    fn repeatable(&self) -> bool {
        !matches!(self.op, ClientOp::Signal { .. })
    }
}

/// Requests in flight and waiting for a connection. Numbers rise, so a map by number is the order of the caller.
#[derive(Debug)]
pub(crate) struct Requests<R> {
    in_flight: BTreeMap<u32, Pending<R>>,
    waiting: Vec<Pending<R>>,
    first_deadline: Option<Instant>,
}

impl<R> Requests<R> {
    pub(crate) fn new() -> Self {
        Self {
            in_flight: BTreeMap::new(),
            waiting: Vec::new(),
            first_deadline: None,
        }
    }

    /// Keeps a request until there is a connection to write it to.
    pub(crate) fn wait(&mut self, op: ClientOp, deadline: Instant, reply: R) {
        self.first_deadline = Some(
            self.first_deadline
                .map_or(deadline, |first| first.min(deadline)),
        );
        self.waiting.push(Pending {
            op,
            reply,
            deadline,
        });
    }

    /// Takes what is waiting, to be written under new numbers.
    pub(crate) fn take_waiting(&mut self) -> Vec<Pending<R>> {
        std::mem::take(&mut self.waiting)
    }

    /// A request was written.
    pub(crate) fn written(&mut self, req: u32, pending: Pending<R>) {
        self.in_flight.insert(req, pending);
    }

    pub(crate) fn answered(&mut self, req: u32) -> Option<Pending<R>> {
        self.in_flight.remove(&req)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The connection is gone: repeatable requests wait for the next one, the others are returned.
    pub(crate) fn disconnected(&mut self) -> Vec<R> {
        let (again, lost): (Vec<_>, Vec<_>) = std::mem::take(&mut self.in_flight)
            .into_values()
            .partition(Pending::repeatable);
        let later = std::mem::replace(&mut self.waiting, again);
        self.waiting.extend(later);
        lost.into_iter().map(|pending| pending.reply).collect()
    }

    /// Requests that are out of time.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<R> {
        if self.first_deadline.is_none_or(|first| first > now) {
            return Vec::new();
        }
        let over: Vec<u32> = self
            .in_flight
            .iter()
            .filter(|(_, pending)| pending.deadline <= now)
            .map(|(req, _)| *req)
            .collect();
        let mut ended: Vec<R> = over
            .iter()
            .filter_map(|req| self.in_flight.remove(req))
            .map(|pending| pending.reply)
            .collect();
        let (over, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|pending| pending.deadline <= now);
        self.waiting = waiting;
        ended.extend(over.into_iter().map(|pending| pending.reply));
        self.first_deadline = self
            .in_flight
            .values()
            .chain(&self.waiting)
            .map(|pending| pending.deadline)
            .min();
        ended
    }

    /// When [`Self::tick`] may have something to do.
    pub(crate) fn timer(&self) -> Option<Instant> {
        self.first_deadline
    }

    /// Everything ends now.
    pub(crate) fn end(&mut self) -> Vec<R> {
        let in_flight = std::mem::take(&mut self.in_flight).into_values();
        in_flight
            .chain(std::mem::take(&mut self.waiting))
            .map(|pending| pending.reply)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn signal() -> ClientOp {
        let room = im_wire::ids::RoomId::new("r").unwrap();
        ClientOp::Signal {
            room,
            kind: "typing".to_owned(),
            body: im_wire::native::Body::Text(bytes::Bytes::new()),
        }
    }

    fn write(requests: &mut Requests<&'static str>, mut req: u32) {
        for pending in requests.take_waiting() {
            requests.written(req, pending);
            req += 1;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn repeatable_requests_are_asked_again_in_order_and_signals_are_not() {
        let later = Instant::now() + Duration::from_secs(9);
        let mut requests = Requests::new();
        requests.wait(ClientOp::Ping, later, "first");
        requests.wait(signal(), later, "signal");
        requests.wait(ClientOp::Ping, later, "second");
        write(&mut requests, 1);
        requests.wait(ClientOp::Ping, later, "third");
        assert_eq!(requests.disconnected(), ["signal"]);
        let again: Vec<_> = requests
            .take_waiting()
            .into_iter()
            .map(|pending| pending.reply)
            .collect();
        assert_eq!(again, ["first", "second", "third"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_ends_at_its_deadline_wherever_it_is() {
        let now = Instant::now();
        let mut requests = Requests::new();
        requests.wait(ClientOp::Ping, now + Duration::from_secs(1), "in flight");
        write(&mut requests, 1);
        requests.wait(ClientOp::Ping, now + Duration::from_secs(2), "waiting");
        assert_eq!(requests.timer(), Some(now + Duration::from_secs(1)));
        assert_eq!(requests.tick(now + Duration::from_secs(1)), ["in flight"]);
        assert_eq!(requests.timer(), Some(now + Duration::from_secs(2)));
        assert_eq!(requests.tick(now + Duration::from_secs(2)), ["waiting"]);
        assert_eq!(requests.timer(), None);
    }
}
