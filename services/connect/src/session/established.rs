//! After auth: every frame is a request of somebody known. Rates are checked here, then the dialect takes over.

use std::time::Duration;

use im_runtime::limits::rate::{Bucket, Rate};
use im_wire::code::CloseCode;
use im_wire::frame::Frame;
use im_wire::native::{Error, Request, ServerOp, binary, json};
use tokio::time::Instant;

use super::Dialect;
use super::compat;
use super::decoder::Inbound;
use super::native;
use super::socket::SocketIo;
use crate::connection::Client;
use crate::metrics;
use crate::options::Options;

/// How long a client over its rate is not read before it is looked at again.
const SLOWED: Duration = Duration::from_millis(20);

/// A client that has not had to wait for so long has made a pause: those that the rate lets through between two that wait
/// are none.
const PAUSE: Duration = Duration::from_secs(1);

/// A session of somebody known.
pub(crate) struct Established {
    client: Client,
    dialect: Dialect,
    rate: Bucket,
    bytes: Bucket,
    /// Boxed: most never have to wait, and every idle session would carry room for it.
    slowed: Option<Box<Slowed>>,
}

/// A client over its rate.
struct Slowed {
    /// Since when requests have had to wait without a pause between.
    since: Instant,
    /// When the last one had to.
    last: Instant,
}

impl Established {
    pub(crate) fn new(client: Client, dialect: Dialect, options: &Options) -> Self {
        let now = Instant::now().into_std();
        let rate = Bucket::full(Rate::of_things(options.requests_per_second), now);
        let bytes = Bucket::full(Rate::of_bytes(options.bytes_per_second), now);
        Self {
            client,
            dialect,
            rate,
            bytes,
            slowed: None,
        }
    }

    /// Takes requests until the session is over.
    pub(crate) async fn run(&mut self, socket: &mut SocketIo) {
        while let Some(inbound) = socket.next().await {
            if !self.admit(socket, inbound.len()).await {
                return;
            }
            match (self.dialect, inbound) {
                (Dialect::Native, Inbound::Text(text)) => {
                    let weight = text_frame(socket, &self.client, text.as_bytes());
                    self.weigh(socket, weight);
                }
                (Dialect::Native, Inbound::Frame(frame)) => {
                    let weight = binary_frame(socket, &self.client, &frame);
                    self.weigh(socket, weight);
                }
                (dialect, Inbound::Frame(frame)) => {
                    // Boxed: every idle session would carry room for it, native ones too.
                    let work = Box::pin(compat::take(&socket.shard, &self.client, dialect, frame));
                    socket.busy(work).await;
                }
                (_, Inbound::Text(_)) => {
                    socket.connection.end(
                        CloseCode::ProtocolError,
                        "text frames are the native dialect's",
                    );
                }
                (
                    _,
                    Inbound::Proxied(_) | Inbound::Upgraded(..) | Inbound::Control | Inbound::Close,
                ) => {}
            }
            // What has been read already is no reason to keep others waiting.
            tokio::task::consume_budget().await;
        }
    }

    fn weigh(&mut self, socket: &SocketIo, more: u32) {
        if more > 0 {
            self.owe(more);
            socket.shard.rates.user_owes(self.client.user(), more);
        }
    }

    /// The request at hand weighed more than one.
    pub(super) fn owe(&mut self, more: u32) {
        self.rate.owe(more as usize);
    }

    /// Waits until connection, user and address have a request to spare, and connection and user its bytes. A client over
    /// its rate is read more slowly and answered in order: a refusal would let its next message overtake the refused one.
    /// `false`: the session is over.
    async fn admit(&mut self, socket: &SocketIo, bytes: usize) -> bool {
        let mut passed = 0;
        loop {
            let now = Instant::now();
            let Err(limit) = self.pass(socket, bytes, now, &mut passed) else {
                break;
            };
            let slowed = self.slowed.get_or_insert_with(|| {
                Box::new(Slowed {
                    since: now,
                    last: now,
                })
            });
            if now.saturating_duration_since(slowed.last) >= PAUSE {
                slowed.since = now;
            }
            slowed.last = now;
            let since = slowed.since;
            metrics::RATE_LIMITED.with_label_values(&[limit]).inc();
            if now.saturating_duration_since(since) > socket.shard.options.flood_after {
                socket.connection.end_after(
                    CloseCode::Flood,
                    "far too many requests for too long",
                    5_000,
                );
                return false;
            }
            socket.busy(Box::pin(tokio::time::sleep(SLOWED))).await;
            if socket.connection.ending().is_some() || socket.connection.is_broken() {
                return false;
            }
        }
        true
    }

    /// Each limit once: `passed` are behind. Which one refused, where one did.
    fn pass(
        &mut self,
        socket: &SocketIo,
        bytes: usize,
        now: Instant,
        passed: &mut u8,
    ) -> Result<(), &'static str> {
        let shard = &socket.shard;
        let at = now.into_std();
        if *passed == 0
            && self
                .rate
                .take(Rate::of_things(shard.options.requests_per_second), at)
                .is_err()
        {
            return Err("connection");
        }
        *passed = (*passed).max(1);
        if *passed == 1
            && self
                .bytes
                .spend(Rate::of_bytes(shard.options.bytes_per_second), bytes, at)
                .is_err()
        {
            return Err("connection_bytes");
        }
        *passed = (*passed).max(2);
        if *passed == 2 {
            shard.rates.user_request(self.client.user(), bytes, now)?;
            *passed = 3;
        }
        if shard.rates.address_request(self.client.address(), now) {
            Ok(())
        } else {
            Err("ip")
        }
    }
}

/// Takes a frame; how much more it weighs than one request.
fn text_frame(socket: &SocketIo, client: &Client, text: &[u8]) -> u32 {
    match json::decode_request(text) {
        Ok(request) => return take(socket, client, request),
        Err(rejected) if rejected.fatal => malformed(socket, rejected.error.text),
        Err(rejected) => reject(socket, rejected.req, rejected.error),
    }
    0
}

fn binary_frame(socket: &SocketIo, client: &Client, frame: &Frame) -> u32 {
    match binary::decode_request(frame) {
        Ok(request) => return take(socket, client, request),
        Err(binary::Refusal::Rejected { req, error }) => reject(socket, req, error),
        Err(binary::Refusal::Broken { operation }) => {
            malformed(
                socket,
                format!("the body of operation {operation} cannot be read"),
            );
        }
    }
    0
}

fn take(socket: &SocketIo, client: &Client, request: Request) -> u32 {
    let weight = native::weight(&request.op);
    native::take(&socket.shard, client, request);
    weight
}

fn reject(socket: &SocketIo, req: u32, error: Error) {
    socket.connection.write(
        &socket
            .connection
            .encoding
            .get()
            .response(req, ServerOp::Error(error)),
    );
}

fn malformed(socket: &SocketIo, why: String) {
    metrics::MALFORMED
        .with_label_values(&[CloseCode::ProtocolError.name()])
        .inc();
    socket.connection.end(CloseCode::ProtocolError, why);
}
