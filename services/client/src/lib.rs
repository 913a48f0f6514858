//! The Rust client of ImCluster: connects to one of several addresses, resumes after an outage where it was, hands every
//! room over in order and once, and sends until a message is acknowledged.
//!
//! ```no_run
//! use im_client::{Client, Event, Outgoing, Position, RoomId};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let room = RoomId::new("lobby")?;
//! let (client, mut events) = Client::builder()
//!     .address("tcp://chat-1.example:3101")
//!     .address("ws://chat-2.example:3102/ws")
//!     .token("eyJ…")
//!     .subscribe([Position { room: room.clone(), epoch: 0, seq: None }])
//!     .build()?;
//! tokio::spawn(async move {
//!     while let Some(event) = events.next().await {
//!         if let Event::Message(message) = event {
//!             tracing::info!(from = message.from, seq = message.seq, "heard");
//!         }
//!     }
//! });
//! let sent = client.send(Outgoing::text(room, "hello")).await?;
//! assert!(sent.seq > 0);
//! # Ok(())
//! # }
//! ```
//!
//! What it promises: per room, [`Event::Message`] comes in order of `seq`, each once, over reconnects and moves; what
//! retention has removed is said ([`Event::Truncated`]), and what a failover took back is said before anything else
//! ([`Event::Reset`]). A send is stored once however often it is written, as long as its deadline is shorter than the
//! server's dedupe window; where its outcome cannot be known, [`SendError::Unknown`] says so.

pub mod address;
mod answer;
mod backoff;
mod builder;
mod client;
mod codec;
mod core;
mod dial;
mod driver;
mod event;
mod link;
mod options;
mod outbox;
mod requests;
mod rooms;
mod stats;
pub mod token;

pub use answer::{RequestError, SendError, Sent, State};
pub use backoff::Backoff;
pub use builder::{BuildError, Builder};
pub use client::{Client, Outgoing, Page, Part, ReadState, Ticket};
pub use codec::Encoding;
pub use event::{End, Event, Events};
pub use im_wire::code::{CloseCode, ErrorCode};
pub use im_wire::ids::{ClientId, DeviceId, Epoch, RoomId, Seq, UserId};
pub use im_wire::native::{Body, Error, Message, Position, SubscribedRoom};
pub use options::Options;
pub use stats::Stats;
