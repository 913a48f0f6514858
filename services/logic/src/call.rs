//! Calls, as connect makes them over gRPC or in the same process: measured, bounded in time, and sent to the module that
//! answers them.

mod metrics;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use im_proto::v1::{Done, Fault, call, reply};
use im_wire::ids::RoomId;
use tracing::Instrument;

use crate::core::Core;
use crate::error::{Error, Result};

pub(crate) use metrics::declare as declare_metrics;

/// Calls logic; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) core: Arc<Core>,
}

impl Handle {
    /// One call of connect's: `grant` is what Authenticate or Refresh returned, `conn` the connection it is made for;
    /// both empty for calls of the node itself.
    ///
    /// Sends to one room whose futures are first polled in some order by one task are stored in that order: nothing is
    /// awaited before the store has the message.
    ///
    /// # Errors
    /// A fault with one of the documented codes, at the latest after `uplink.call_timeout`.
    pub async fn call(
        &self,
        grant: Bytes,
        conn: &str,
        op: call::Op,
    ) -> std::result::Result<reply::Result, Fault> {
        let observed = metrics::Call::begin(metrics::name(&op));
        let limit = self.core.options.uplink.call_timeout;
        let span = tracing::debug_span!("call", op = metrics::name(&op), conn);
        let dispatched = self.core.dispatch(&grant, conn, op).instrument(span);
        let answer = match tokio::time::timeout(limit, dispatched).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Timeout(limit)),
        };
        observed.end(answer.as_ref().err());
        answer.map_err(|error| error.fault())
    }
}

impl Core {
    fn dispatch<'a>(
        self: &'a Arc<Self>,
        grant: &'a [u8],
        conn: &'a str,
        op: call::Op,
    ) -> BoxFuture<'a, Result<reply::Result>> {
        use call::Op;
        use reply::Result as Answer;
        // One box, so that the future of a call has the size of its own operation and not of the largest.
        match op {
            Op::Send(send) => {
                Box::pin(
                    async move { Ok(Answer::Stored(self.send(self.who(grant)?, send).await?)) },
                )
            }
            Op::Authenticate(ask) => {
                Box::pin(
                    async move { Ok(Answer::Authenticated(self.authenticate(conn, ask).await?)) },
                )
            }
            Op::Refresh(ask) => Box::pin(async move {
                Ok(Answer::Refreshed(
                    self.refresh(&self.seal.open(grant)?, &ask)?,
                ))
            }),
            Op::Disconnected(gone) => Box::pin(async move {
                self.disconnected(grant, conn, gone).await?;
                Ok(Answer::Done(Done {}))
            }),
            Op::Subscribe(ask) => Box::pin(async move {
                Ok(Answer::Subscribed(
                    self.subscribe(&self.who(grant)?, ask).await?,
                ))
            }),
            Op::Fetch(ask) => Box::pin(async move { Ok(Answer::Fetched(self.fetch(ask).await?)) }),
            Op::Heads(ask) => Box::pin(async move { Ok(Answer::Heads(self.heads(ask).await?)) }),
            Op::Signal(ask) => Box::pin(async move {
                self.signal(&self.who(grant)?, ask).await?;
                Ok(Answer::Done(Done {}))
            }),
            Op::History(ask) => {
                Box::pin(
                    async move { Ok(Answer::History(self.history(&self.who(grant)?, ask).await?)) },
                )
            }
            Op::Read(ask) => Box::pin(async move {
                let room = RoomId::new(&ask.room)?;
                Ok(Answer::Read(
                    self.read(&self.who(grant)?, &room, ask.seq).await?,
                ))
            }),
            Op::Bans(ask) => {
                Box::pin(async move { Ok(Answer::Bans(self.bans.since(&ask).await?)) })
            }
            Op::AssertPresence(ask) => {
                Box::pin(
                    async move { Ok(Answer::PresenceAsserted(self.assert_presence(ask).await?)) },
                )
            }
            Op::KnownRooms(ask) => {
                Box::pin(async move { Ok(Answer::RoomLists(self.known_rooms(ask).await?)) })
            }
            Op::NodeBeat(beat) => {
                Box::pin(async move { Ok(Answer::NodeBeaten(self.node_beat(beat).await?)) })
            }
        }
    }
}
