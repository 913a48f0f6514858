//! After auth: every frame is a request of somebody known. Rates are checked here, then the dialect takes over.

use std::time::{Duration, Instant};

use im_wire::code::CloseCode;
use im_wire::frame::Frame;
use im_wire::native::{Error, ServerOp, binary, json};

use super::foreign;
use super::intake::Inbound;
use super::native;
use super::wire::Wire;
use crate::accept::rate::Bucket;
use crate::metrics;
use crate::options::Options;

/// How long a client over its rate is not read before it is looked at again.
const SLOWED: Duration = Duration::from_millis(20);

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
    /// Since when every request has had to wait.
    slowed_since: Option<Instant>,
    /// Whether the one at hand has.
    slowed: bool,
}

impl Established {
    pub(crate) fn new(kind: Kind, options: &Options) -> Self {
        let rate = Bucket::full(options.requests_per_second, Instant::now());
        Self { kind, rate, slowed_since: None, slowed: false }
    }

    /// Takes requests until the session is over.
    pub(crate) async fn run(&mut self, wire: &mut Wire) {
        while let Some(inbound) = wire.next().await {
            if !self.admit(wire).await {
                return;
            }
            match (self.kind, inbound) {
                (Kind::Native, Inbound::Text(text)) => text_frame(wire, text.as_bytes()),
                (Kind::Native, Inbound::Frame(frame)) => binary_frame(wire, &frame),
                (kind, Inbound::Frame(frame)) => {
                    // Boxed: every idle session would carry room for it, native ones too.
                    let work = Box::pin(foreign::take(&wire.shard, &wire.connection, kind, frame));
                    wire.busy(work).await;
                }
                (_, Inbound::Text(_)) => {
                    wire.connection.end(CloseCode::ProtocolError, "text frames are the native dialect's");
                }
                (_, Inbound::Upgraded(_) | Inbound::Close) => {}
            }
        }
    }

    /// Waits until connection, user and address have a request to spare. A client over its rate is read more slowly and
    /// answered in order: a refusal would let its next message overtake the refused one. `false`: the session is over.
    async fn admit(&mut self, wire: &Wire) -> bool {
        let options = &wire.shard.options;
        let mut own = false;
        loop {
            let now = Instant::now();
            own = own || self.rate.take(options.requests_per_second, now);
            let limit = if own { wire.shard.allow(&wire.connection, now).err() } else { Some("connection") };
            let Some(limit) = limit else { break };
            let since = *self.slowed_since.get_or_insert(now);
            self.slowed = true;
            metrics::RATE_LIMITED.with_label_values(&[limit]).inc();
            if now.saturating_duration_since(since) > options.flood_after {
                wire.connection.end_after(CloseCode::Flood, "far too many requests for too long", 5_000);
                return false;
            }
            wire.busy(Box::pin(tokio::time::sleep(SLOWED))).await;
            if wire.connection.ending().is_some() || wire.connection.is_broken() {
                return false;
            }
        }
        if !std::mem::take(&mut self.slowed) {
            self.slowed_since = None;
        }
        true
    }
}

fn text_frame(wire: &Wire, text: &[u8]) {
    match json::decode_request(text) {
        Ok(request) => native::take(&wire.shard, &wire.connection, request),
        Err(rejected) if rejected.fatal => malformed(wire, rejected.error.text),
        Err(rejected) => reject(wire, rejected.req, rejected.error),
    }
}

fn binary_frame(wire: &Wire, frame: &Frame) {
    match binary::decode_request(frame) {
        Ok(request) => native::take(&wire.shard, &wire.connection, request),
        Err(binary::Refusal::Rejected { req, error }) => reject(wire, req, error),
        Err(binary::Refusal::Broken { operation }) => {
            malformed(wire, format!("the body of operation {operation} cannot be read"));
        }
    }
}

fn reject(wire: &Wire, req: u32, error: Error) {
    wire.connection.write(&wire.connection.encoding.get().response(req, ServerOp::Error(error)));
}

fn malformed(wire: &Wire, why: String) {
    metrics::MALFORMED.with_label_values(&[CloseCode::ProtocolError.name()]).inc();
    wire.connection.end(CloseCode::ProtocolError, why);
}
