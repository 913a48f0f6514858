//! Who is there: connections end or are ended, nodes say that they live and what they hold.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use im_proto::v1::{
    self as pb, AssertPresence, Disconnected, KickRequest, NodeBeat, NodeBeaten, PresenceAsserted,
};
use im_runtime::clock;
use im_wire::ids::{RoomId, UserId};

use crate::auth;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::nodes::{Tally, To};
use crate::store::{Counts, Ended, Presence, Stray};

/// A node's lease is at least and at most this, whatever it asks.
const LEASE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// How many counts of nodes are read for one beat at most, all nodes together: what a beat costs grows neither with the
/// rooms nor with the nodes. A node asks for the others with its next beats.
const COUNTS_READ: usize = 4_000;
/// Of so many rooms a beat learns the number online, however many nodes there are.
const ROOMS_READ: usize = 50;
/// Connections that one assertion names at most.
const HELD: usize = 2_000;

/// A user's presence as the API shows it.
pub(crate) struct Present {
    pub(crate) user: UserId,
    pub(crate) connections: Vec<Presence>,
    pub(crate) last_seen_ms: u64,
}

impl Core {
    /// A connection has ended; so has its presence. Without a grant, where the node has none for it.
    pub(crate) async fn disconnected(
        &self,
        grant: &[u8],
        conn: &str,
        gone: Disconnected,
    ) -> Result<()> {
        if conn.is_empty() {
            return Err(Error::bad(
                "conn",
                "is empty: say which connection has ended",
            ));
        }
        let user = match (grant, gone.user.as_str()) {
            ([], "") if gone.node.is_empty() => return Err(auth::Error::NoGrant.into()),
            ([], "") => None,
            ([], user) => Some(UserId::new(user)?),
            (grant, _) => Some(self.seal.open(grant)?.user()?),
        };
        let at_ms = clock::unix_ms().saturating_sub(gone.ago_ms);
        let ended = Ended {
            conn: conn.to_owned(),
            user,
            node: gone.node,
            place: gone.place,
            at_ms,
        };
        Ok(self.store.connections.disconnected(ended).await?)
    }

    /// Ends connections; by a device alone those whose token names it. Every node is asked, also about a user:
    /// presence may lag, and who is sent away must go.
    pub(crate) async fn kick(&self, request: KickRequest) -> Result<Tally> {
        if request.user.is_empty() && request.device.is_empty() && request.conn.is_empty() {
            return Err(Error::bad(
                "user",
                "is missing, and so are \"device\" and \"conn\": name one of the three",
            ));
        }
        Ok(self.nodes.kick(To::All, request).await)
    }

    /// A node says which connections it has.
    pub(crate) async fn assert_presence(&self, ask: AssertPresence) -> Result<PresenceAsserted> {
        let AssertPresence {
            node,
            from,
            to,
            held,
        } = ask;
        if node.is_empty() {
            return Err(Error::bad("node", "is empty: say which node it is"));
        }
        if from == 0 || to <= from {
            return Err(Error::bad(
                "to",
                "must be greater than \"from\", and that greater than 0",
            ));
        }
        if held.len() > HELD {
            return Err(Error::LimitReached {
                what: "connections in one assertion",
                limit: HELD,
            });
        }
        let presence = |held: pb::Held| {
            if held.conn.is_empty() || !(from..to).contains(&held.place) {
                return Err(Error::bad(
                    "held",
                    "names a connection without an id, or outside of \"from\" and \"to\"",
                ));
            }
            let user = UserId::new(held.user)?;
            let node = node.clone();
            let pb::Held {
                device,
                conn,
                since_ms,
                place,
                ..
            } = held;
            Ok(Presence {
                user,
                device,
                conn,
                node,
                since_ms,
                place,
            })
        };
        let named = held.into_iter().map(presence).collect::<Result<Vec<_>>>()?;
        let asserted = self
            .store
            .connections
            .assert_presence(&node, from..to, named)
            .await?;
        let strays = |found: Vec<Stray>| {
            found
                .into_iter()
                .map(|Stray { conn, user }| pb::Stray {
                    conn,
                    user: user.as_str().to_owned(),
                })
                .collect()
        };
        Ok(PresenceAsserted {
            restored: strays(asserted.restored),
            strays: strays(asserted.strays),
        })
    }

    /// A node lives, or is about to end.
    pub(crate) async fn node_beat(&self, beat: NodeBeat) -> Result<NodeBeaten> {
        if beat.node.is_empty() {
            return Err(Error::bad("node", "is empty: say which node it is"));
        }
        if beat.leaving {
            self.store.leases.node_gone(&beat.node).await?;
            return Ok(NodeBeaten::default());
        }
        let lease = Duration::from_millis(beat.lease_ms).clamp(*LEASE.start(), *LEASE.end());
        let read = |changed: HashMap<String, u64>| {
            changed
                .into_iter()
                .map(|(room, count)| Ok((RoomId::new(room)?, count)))
                .collect::<Result<Vec<_>>>()
        };
        let (counts, rooms) = match beat.counts {
            Some(pb::OnlineCounts {
                since,
                state,
                changed,
            }) => {
                let rooms = beat
                    .ask
                    .iter()
                    .map(RoomId::new)
                    .collect::<std::result::Result<Vec<_>, _>>()?;
                (
                    Counts {
                        since,
                        state,
                        changed: read(changed)?,
                    },
                    rooms,
                )
            }
            // A node that does not know differences says everything each time, and wants everything.
            None => {
                let changed = read(beat.online)?;
                let rooms = changed.iter().map(|(room, _)| room.clone()).collect();
                (
                    Counts {
                        since: 0,
                        state: 1,
                        changed,
                    },
                    rooms,
                )
            }
        };
        let counts_taken = self
            .store
            .leases
            .node_beat(&beat.node, lease, beat.connections, counts)
            .await?;
        let online = self.online_of(rooms).await?;
        Ok(NodeBeaten {
            online,
            knows_counts: true,
            counts_taken,
        })
    }

    /// How many are online in rooms, from the first on as many as one beat may ask for.
    async fn online_of(&self, mut rooms: Vec<RoomId>) -> Result<HashMap<String, u64>> {
        if rooms.is_empty() {
            return Ok(HashMap::new());
        }
        let nodes = self.store.leases.nodes().await?.len().max(1);
        rooms.truncate((COUNTS_READ / nodes).max(ROOMS_READ));
        let online = self.store.leases.online(&rooms).await?;
        Ok(rooms
            .into_iter()
            .map(|room| room.as_str().to_owned())
            .zip(online)
            .collect())
    }

    /// Whether these users are there.
    pub(crate) async fn presence(&self, mut users: Vec<UserId>) -> Result<Vec<Present>> {
        let mut seen = HashSet::new();
        users.retain(|user| seen.insert(user.clone()));
        let limit = self.options.limits.max_users_per_call;
        if users.len() > limit {
            return Err(Error::LimitReached {
                what: "users in one question",
                limit,
            });
        }
        let presence = self.store.connections.presence(&users).await?;
        let of = |(user, (connections, last_seen_ms))| Present {
            user,
            connections,
            last_seen_ms,
        };
        Ok(users.into_iter().zip(presence).map(of).collect())
    }
}
