//! The figures a client runs with; the defaults suit an application on the internet.

use std::time::Duration;

use crate::backoff::Backoff;

/// Times, bounds and sizes.
#[derive(Debug, Clone)]
pub struct Options {
    /// For one attempt to connect, with the WebSocket upgrade. Default 5 s.
    pub connect_timeout: Duration,
    /// For the token source to answer. Default 10 s.
    pub token_timeout: Duration,
    /// For the server to answer the auth. Default 10 s.
    pub auth_timeout: Duration,
    /// Between attempts to connect. Default 200 ms to 15 s.
    pub reconnect: Backoff,
    /// Between attempts of a send that was answered with a retryable error. Default 100 ms to 5 s.
    pub resend: Backoff,
    /// An attempt of a send that is not answered within this is made again. Default 10 s.
    pub attempt_timeout: Duration,
    /// A send that names no deadline of its own ends after this. Must stay below the server's dedupe window, or a retry
    /// may be stored twice. Default 30 s.
    pub send_deadline: Duration,
    /// Every other request ends after this. Default 10 s.
    pub request_timeout: Duration,
    /// Sends written and not answered, in all. Default 256.
    pub in_flight: usize,
    /// The same per room. A send that is refused for the moment may be overtaken by those already in flight behind it (the
    /// room then gets one at a time until it has caught up); 1 rules that out. Default 64.
    pub in_flight_per_room: usize,
    /// Sends and requests taken and not ended; beyond it, callers wait. Default 1024.
    pub max_pending: usize,
    /// Events queued for the application; while the queue is full the socket is not read. Default 256.
    pub event_queue: usize,
    /// The longest frame accepted from a server, in bytes. Default 1 MiB.
    pub max_frame: usize,
    /// Positions are split over several subscriptions of about so many bytes each. Default 3,000.
    pub max_subscribe_bytes: usize,
    /// After a move, how long the old connection is kept for answers that are outstanding. Default 2 s.
    pub move_grace: Duration,
    /// How often to ping; `None`: a third of what the server says it wants to hear from us within. A connection on which
    /// nothing is heard for twice as long is given up.
    pub ping_interval: Option<Duration>,
    /// The socket buffer for reading, in bytes. Default 4,096.
    pub read_buffer: usize,
    /// The longest backlog of bytes to be written, in bytes; beyond it sends wait. Default 256 KiB.
    pub write_buffer: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            token_timeout: Duration::from_secs(10),
            auth_timeout: Duration::from_secs(10),
            reconnect: Backoff {
                base: Duration::from_millis(200),
                max: Duration::from_secs(15),
            },
            resend: Backoff {
                base: Duration::from_millis(100),
                max: Duration::from_secs(5),
            },
            attempt_timeout: Duration::from_secs(10),
            send_deadline: Duration::from_secs(30),
            request_timeout: Duration::from_secs(10),
            in_flight: 256,
            in_flight_per_room: 64,
            max_pending: 1024,
            event_queue: 256,
            max_frame: 1 << 20,
            max_subscribe_bytes: 3_000,
            move_grace: Duration::from_secs(2),
            ping_interval: None,
            read_buffer: 4_096,
            write_buffer: 256 << 10,
        }
    }
}
