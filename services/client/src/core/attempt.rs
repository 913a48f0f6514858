//! From an address to an authenticated connection, and what follows when one is lost.

use std::time::Duration;

use im_wire::code::{CloseCode, ErrorCode};
use im_wire::native::{ClientOp, Error};
use rand::RngExt;
use tokio::time::Instant;

use super::{Action, CloseNotice, Connection, Core, Loss, Phase, STABLE, TOKENS_TRIED, Up};
use crate::address::Address;
use crate::answer::State;
use crate::event::{End, Event};
use crate::rooms::Slot;
use crate::stats::count;

/// Pings where the server names no heartbeat.
const DEFAULT_PING: Duration = Duration::from_secs(30);
/// No ping more often than this, whatever the server names.
const SHORTEST_PING: Duration = Duration::from_millis(20);

/// What an accepted auth says.
pub(super) struct Welcome {
    pub(super) user: im_wire::ids::UserId,
    pub(super) device: String,
    pub(super) conn: String,
    pub(super) node: String,
    pub(super) heartbeat_ms: u32,
    pub(super) time_ms: u64,
    pub(super) expires_ms: u64,
}

impl Core {
    /// The beginning.
    pub(crate) fn start(&mut self) {
        self.dial(Slot::A, None);
    }

    pub(super) fn dial(&mut self, slot: Slot, avoid: Option<&Address>) {
        let address = self.addresses.next(avoid);
        self.slots[slot.index()] = Some(Connection::new(address.clone()));
        self.actions.push_back(Action::Dial { slot, address });
    }

    /// The transport stands, and this is the token to present.
    pub(crate) fn dialled(&mut self, slot: Slot, token: String, now: Instant) {
        if self.slots[slot.index()].is_none() {
            return self.actions.push_back(Action::Hangup { slot });
        }
        let alone = self.alone(slot);
        self.rooms.reset_slot(slot, alone);
        let (first, rest) = self.chunks(slot);
        let resume = first.positions;
        let all = first.all;
        let asked = super::Asked::new(&resume, all);
        let device = self.device.clone();
        let agent = self.agent.clone();
        let req = self.write(
            slot,
            ClientOp::Auth {
                token,
                device,
                resume,
                all,
                agent,
            },
        );
        let deadline = now + self.options.auth_timeout;
        if let Some(connection) = &mut self.slots[slot.index()] {
            connection.phase = Phase::Authenticating {
                req,
                deadline,
                refused: None,
            };
            connection.all_asked = all;
            if all || !asked.positions.is_empty() {
                connection.subscribing.insert(req, asked);
            }
        }
        self.postpone(slot, rest);
    }

    /// The auth was accepted.
    pub(super) fn welcomed(&mut self, slot: Slot, welcome: Welcome, now: Instant) {
        let asked_for = Duration::from_millis(u64::from(welcome.heartbeat_ms)) / 3;
        let every = if asked_for.is_zero() {
            DEFAULT_PING
        } else {
            asked_for.max(SHORTEST_PING)
        };
        let ping_every = self
            .options
            .ping_interval
            .unwrap_or(every)
            .max(SHORTEST_PING);
        let first_ping = now + ping_every.mul_f64(self.random.random_range(0.2..1.0));
        let refresh_at = self.refresh_at(welcome.time_ms, welcome.expires_ms, now);
        let Some(connection) = &mut self.slots[slot.index()] else {
            return;
        };
        connection.phase = Phase::Up(Up {
            node: welcome.node.clone(),
            since: now,
            ping_every,
            next_ping: first_ping,
            heard_at: now,
            server_ms: welcome.time_ms,
            refresh_at,
            refresh_attempts: 0,
            refreshing: None,
            behind: std::collections::HashMap::new(),
            resumed: false,
        });
        let address = connection.address.to_string();
        let given_up = std::mem::take(&mut connection.given_up);
        self.token_refusals = 0;
        count(&self.counters.connects);
        if !given_up.is_empty() {
            self.write(slot, ClientOp::Unsubscribe { rooms: given_up });
        }
        if self.alone(slot) {
            self.active = Some(slot);
            self.moving = None;
            if self.lost_at.is_some() {
                count(&self.counters.reconnects);
            }
            self.state = State::Up;
            let Welcome {
                user,
                device,
                conn,
                node,
                ..
            } = welcome;
            self.events.push_back(Event::Connected {
                node,
                address,
                conn,
                user,
                device,
            });
        }
        self.subscribe_rest(slot);
        self.check_resumed(slot, now);
        self.pump(now);
    }

    /// When to ask for a newer token: after three quarters of the current one's remaining life.
    pub(super) fn refresh_at(
        &mut self,
        server_ms: u64,
        expires_ms: u64,
        now: Instant,
    ) -> Option<Instant> {
        if expires_ms == 0 || !self.renewable {
            return None;
        }
        let remaining = Duration::from_millis(expires_ms.saturating_sub(server_ms));
        Some(now + remaining.mul_f64(self.random.random_range(0.7..0.8)))
    }

    /// A newer token for an open connection, or why there is none.
    pub(crate) fn token(&mut self, slot: Slot, token: Result<String, String>, now: Instant) {
        match token {
            Ok(token) if self.is_up(slot) => {
                let req = self.write(slot, ClientOp::Refresh { token });
                self.up(slot)
                    .into_iter()
                    .for_each(|up| up.refreshing = Some(req));
            }
            Ok(_) => {}
            Err(reason) => self.refresh_failed(slot, &reason, now),
        }
    }

    pub(super) fn refresh_failed(&mut self, slot: Slot, reason: &str, now: Instant) {
        tracing::warn!(reason, "failed to get a newer token, will retry");
        let attempts = self.up(slot).map_or(0, |up| up.refresh_attempts);
        let wait = self.delay(attempts).max(Duration::from_millis(100));
        if let Some(up) = self.up(slot) {
            up.refresh_attempts += 1;
            up.refresh_at = Some(now + wait);
        }
    }

    pub(super) fn refreshed(&mut self, slot: Slot, expires_ms: u64, now: Instant) {
        let Some(up) = self.up(slot) else { return };
        up.refresh_attempts = 0;
        let passed = u64::try_from(now.duration_since(up.since).as_millis()).unwrap_or(u64::MAX);
        let server_ms = up.server_ms.saturating_add(passed);
        let refresh_at = self.refresh_at(server_ms, expires_ms, now);
        if let Some(up) = self.up(slot) {
            up.refresh_at = refresh_at;
        }
    }

    /// The auth was answered with an error; the close that follows says no more than this.
    pub(super) fn auth_refused(&mut self, slot: Slot, error: Error, now: Instant) {
        if let Some(Connection {
            phase: Phase::Authenticating { refused, .. },
            ..
        }) = &mut self.slots[slot.index()]
        {
            let reason = format!("{}: {}", error.code, error.text);
            *refused = Some(error);
            self.give_up(slot, &reason, now);
        }
    }

    /// A connection or an attempt has ended.
    pub(crate) fn lost(&mut self, slot: Slot, loss: Loss, now: Instant) {
        let Some(connection) = self.slots[slot.index()].take() else {
            return;
        };
        let known = loss.code.and_then(CloseCode::from_number);
        let close_notice = connection.close_notice.clone().or_else(|| {
            let code = known?;
            Some(CloseNotice {
                code,
                text: loss.reason.clone(),
                reconnect: code.reconnect(),
                after: Duration::ZERO,
            })
        });
        let other_up = self.is_up(slot.other());
        if let Phase::Authenticating {
            refused: Some(error),
            ..
        } = &connection.phase
            && self.is_final(error)
            && !other_up
        {
            return self.end(End::Refused(error.clone()));
        }
        if let Some(close_notice) = &close_notice
            && !other_up
            && self.ends(slot, close_notice)
        {
            return self.end(End::ByServer {
                code: close_notice.code,
                text: close_notice.text.clone(),
            });
        }
        match (&connection.phase, other_up) {
            (Phase::Up(_), true) => self.lost_one_of_two(slot, now),
            (Phase::Up(up), false) => {
                if now.duration_since(up.since) >= STABLE {
                    self.failures = 0;
                }
                self.outage(slot, &loss, close_notice, now);
            }
            (_, true) => self.move_failed(&loss.reason, now),
            (_, false) => {
                self.attempt_failed(&connection.address, &loss, close_notice.as_ref(), now)
            }
        }
    }

    /// Whether an error that answered the auth rules out another attempt.
    fn is_final(&mut self, error: &Error) -> bool {
        let credentials = matches!(
            error.code,
            ErrorCode::Unauthenticated | ErrorCode::TokenExpired
        );
        if error.retryable {
            return false;
        }
        if credentials && self.renewable {
            self.token_refusals += 1;
            return self.token_refusals >= TOKENS_TRIED;
        }
        true
    }

    /// Whether a close rules out another attempt. `Replaced` does not while another attempt of ours is on its way: it is
    /// the one that replaces; nor does an old token where there are newer ones.
    fn ends(&mut self, slot: Slot, close_notice: &CloseNotice) -> bool {
        if close_notice.reconnect {
            return false;
        }
        match close_notice.code {
            CloseCode::Replaced => self.slots[slot.other().index()].is_none(),
            CloseCode::TokenExpired | CloseCode::Unauthenticated if self.renewable => {
                self.token_refusals += 1;
                self.token_refusals >= TOKENS_TRIED
            }
            _ => true,
        }
    }

    /// No connection is left that delivers.
    fn outage(&mut self, slot: Slot, loss: &Loss, close_notice: Option<CloseNotice>, now: Instant) {
        self.lost_at.get_or_insert(now);
        self.active = None;
        self.moving = None;
        self.outbox.disconnected();
        self.forget_requests();
        let under_way = self.slots[slot.other().index()].is_some();
        let retry_in = (!under_way).then(|| {
            let wait = self.delay(self.failures);
            self.failures = self.failures.saturating_add(1);
            close_notice
                .as_ref()
                .map_or(wait, |close_notice| close_notice.after.saturating_add(wait))
        });
        self.retry_at = retry_in.map(|wait| now + wait);
        let (code, reason) = match close_notice {
            Some(close_notice) if !close_notice.text.is_empty() => {
                (Some(close_notice.code), close_notice.text)
            }
            Some(close_notice) => (Some(close_notice.code), close_notice.code.name().to_owned()),
            None => (None, loss.reason.clone()),
        };
        self.state = State::Connecting {
            last_failure: Some(reason.clone()),
        };
        self.events.push_back(Event::Disconnected {
            code,
            reason,
            retry_in,
        });
    }

    fn attempt_failed(
        &mut self,
        address: &Address,
        loss: &Loss,
        close_notice: Option<&CloseNotice>,
        now: Instant,
    ) {
        count(&self.counters.failed_attempts);
        self.addresses.forget_hints();
        self.moving = None;
        let wait = self.delay(self.failures);
        let retry_in =
            close_notice.map_or(wait, |close_notice| close_notice.after.saturating_add(wait));
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now + retry_in);
        let reason = match close_notice {
            Some(close_notice) if !close_notice.text.is_empty() => {
                format!("{}: {}", close_notice.code, close_notice.text)
            }
            Some(close_notice) => close_notice.code.name().to_owned(),
            None => loss.reason.clone(),
        };
        self.state = State::Connecting {
            last_failure: Some(reason.clone()),
        };
        self.events.push_back(Event::ConnectFailed {
            address: address.to_string(),
            reason,
            retry_in,
        });
    }

    /// One of two connections is gone during a move; the other delivers.
    fn lost_one_of_two(&mut self, slot: Slot, now: Instant) {
        if self.active == Some(slot) {
            self.take_over(slot.other(), now);
        } else {
            self.move_failed("the new connection was lost", now);
        }
    }
}
