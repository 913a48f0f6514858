//! After auth: every frame is a request of somebody known. Rates are checked here, then the dialect takes over.

use std::rc::Rc;
use std::time::{Duration, Instant};

use im_wire::code::{CloseCode, ErrorCode};
use im_wire::native::{Error, Request, ServerOp, binary, json};

use super::foreign;
use super::intake::Inbound;
use super::native;
use super::wire::Wire;
use crate::accept::rate::Bucket;
use crate::metrics;
use crate::options::Options;

/// Refusals by rate are counted over so long before they become a flood.
const FLOOD_WINDOW: Duration = Duration::from_secs(10);

/// Which dialect the session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Native,
    Goim,
    GolangIm,
}

/// A session of somebody known.
pub(crate) struct Established {
    kind: Kind,
    rate: Bucket,
    refusals: u32,
    window: Instant,
}

impl Established {
    pub(crate) fn new(kind: Kind, options: &Options) -> Self {
        let now = Instant::now();
        Self { kind, rate: Bucket::full(options.requests_per_second, now), refusals: 0, window: now }
    }

    /// Takes requests until the session is over.
    pub(crate) async fn run(&mut self, wire: &mut Wire) {
        while let Some(inbound) = wire.next().await {
            match (self.kind, inbound) {
                (Kind::Native, Inbound::Text(text)) => self.text(wire, text.as_bytes()),
                (Kind::Native, Inbound::Frame(frame)) => match binary::decode_request(&frame) {
                    Ok(request) => self.native(wire, request),
                    Err(binary::Refusal::Rejected { req, error }) => self.reject(wire, req, error),
                    Err(binary::Refusal::Broken { operation }) => {
                        let text = format!("the body of operation {operation} cannot be read");
                        metrics::MALFORMED.with_label_values(&[CloseCode::ProtocolError.name()]).inc();
                        wire.connection.end(CloseCode::ProtocolError, text);
                    }
                },
                (kind, Inbound::Frame(frame)) => {
                    if self.allow(wire) {
                        wire.busy(foreign::take(&wire.shard, &wire.connection, kind, frame)).await;
                    } else {
                        wire.connection.write(wire.connection.encoding.get().frame(
                            im_wire::goim::MESSAGE,
                            frame.seq,
                            ErrorCode::RateLimited.name().as_bytes(),
                        ));
                    }
                }
                (_, Inbound::Text(_)) => {
                    wire.connection.end(CloseCode::ProtocolError, "text frames are the native dialect's");
                }
                (_, Inbound::Upgraded(_) | Inbound::Close) => {}
            }
        }
    }

    fn text(&mut self, wire: &Wire, text: &[u8]) {
        match json::decode_request(text) {
            Ok(request) => self.native(wire, request),
            Err(rejected) if rejected.fatal => {
                metrics::MALFORMED.with_label_values(&[CloseCode::ProtocolError.name()]).inc();
                wire.connection.end(CloseCode::ProtocolError, rejected.error.text);
            }
            Err(rejected) => self.reject(wire, rejected.req, rejected.error),
        }
    }

    fn reject(&mut self, wire: &Wire, req: u32, error: Error) {
        // What is refused counts as a request too: nonsense is not free.
        let _counted = self.allow(wire);
        wire.connection.write(wire.connection.encoding.get().response(req, ServerOp::Error(error)));
    }

    fn native(&mut self, wire: &Wire, request: Request) {
        if self.allow(wire) {
            native::take(&wire.shard, &wire.connection, request);
            return;
        }
        let error = Error {
            code: ErrorCode::RateLimited,
            text: "too many requests: wait a little and send it again".to_owned(),
            retryable: true,
            field: None,
        };
        wire.connection.write(wire.connection.encoding.get().response(request.req, ServerOp::Error(error)));
    }

    fn allow(&mut self, wire: &Wire) -> bool {
        let now = Instant::now();
        let options = &wire.shard.options;
        let refused = if self.rate.take(options.requests_per_second, now) {
            wire.shard.allow(&wire.connection, now).err()
        } else {
            Some("connection")
        };
        let Some(limit) = refused else { return true };
        metrics::RATE_LIMITED.with_label_values(&[limit]).inc();
        if now.saturating_duration_since(self.window) > FLOOD_WINDOW {
            (self.window, self.refusals) = (now, 0);
        }
        self.refusals += 1;
        if self.refusals > options.flood_refusals {
            Rc::clone(&wire.connection).end_after(CloseCode::Flood, "far too many requests", 5_000);
        }
        false
    }
}
