//! Who is there: connections begin and end, nodes say that they live.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use im_proto::v1::{
    self as pb, AssertPresence, Authenticate, Authenticated, Disconnected, NodeBeat, NodeBeaten, PresenceAsserted,
    Refresh, Refreshed,
};
use im_wire::ids::{DeviceId, RoomId, UserId};
use prometheus::{IntCounter, IntCounterVec, register_int_counter, register_int_counter_vec};
use uuid::Uuid;

use crate::auth::grant::Grant;
use crate::auth::{self, token::Claims};
use crate::clock;
use crate::error::{Error, Result};
use crate::service::Core;
use crate::store::{Counts, Ended, Presence, Stray};

const ONCE: &str = "each metric is registered once, under a name of its own";

static REFUSED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("im_logic_auth_failures_total", "Tokens that were not accepted, by reason.", &["reason"])
        .expect(ONCE)
});

static UNSIGNED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "im_logic_unsigned_identities_total",
        "Connections that were believed without a token because the development switch is on."
    )
    .expect(ONCE)
});

/// Makes the metrics here visible from the start, with nothing counted yet.
pub(crate) fn declare_metrics() {
    LazyLock::force(&REFUSED);
    LazyLock::force(&UNSIGNED);
}

/// Counts somebody who is not believed or not let in.
pub(crate) fn count_refused(error: &auth::Error) {
    REFUSED.with_label_values(&[error.reason()]).inc();
}

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
    /// What a token says, counted where it is not to be believed.
    pub(crate) fn verify(&self, token: &str) -> Result<Claims> {
        let claims = self.verifier.verify(token);
        if let Err(error) = &claims {
            REFUSED.with_label_values(&[error.reason()]).inc();
        }
        Ok(claims?)
    }

    /// A connection presents itself; its presence begins.
    pub(crate) async fn authenticate(&self, conn: &str, ask: Authenticate) -> Result<Authenticated> {
        let grant = self.identify(&ask)?;
        self.bans_known().await?;
        self.seal_known().await?;
        self.refuse_banned(&grant, ask.remote_ip.parse().ok().map(|address: IpAddr| address.to_canonical()))?;
        if !conn.is_empty() {
            let presence = Presence {
                user: grant.user()?,
                device: grant.device.clone(),
                conn: conn.to_owned(),
                node: ask.node,
                since_ms: clock::now_ms(),
                place: ask.place,
            };
            // A connection that nobody could find would miss pushes, kicks and changes of its rooms: better none.
            self.store.connected(presence).await?;
        }
        let (grant_sealed, expires_ms) = (self.seal.close(&grant)?, grant.expires_ms);
        let Grant { user, device, issued_ms, device_unproven, .. } = grant;
        Ok(Authenticated { grant: grant_sealed, expires_ms, user, device, issued_ms, device_unproven })
    }

    fn identify(&self, ask: &Authenticate) -> Result<Grant> {
        let named = match ask.device.as_str() {
            "" => None,
            device => Some(DeviceId::new(device)?),
        };
        if ask.token.is_empty() && self.options.auth.allow_unsigned && !ask.unsigned_user.is_empty() {
            UNSIGNED.inc();
            return self.unsigned(&UserId::new(&ask.unsigned_user)?, named);
        }
        let claims = self.verify(&ask.token)?;
        // goim's `mid` and golang-im's `user_id` say what the token says, or nothing.
        if !ask.unsigned_user.is_empty() && ask.unsigned_user != claims.user.as_str() {
            REFUSED.with_label_values(&[auth::Error::OtherUser.reason()]).inc();
            return Err(auth::Error::OtherUser.into());
        }
        let device = match (claims.device.clone(), named) {
            (Some(claimed), Some(named)) if claimed != named => {
                REFUSED.with_label_values(&[auth::Error::OtherDevice.reason()]).inc();
                return Err(auth::Error::OtherDevice.into());
            }
            (Some(device), _) | (None, Some(device)) => device,
            // Nobody can have named it before.
            (None, None) => return Ok(Grant { device_unproven: false, ..claims.grant(&generated_device()?) }),
        };
        Ok(claims.grant(&device))
    }

    fn unsigned(&self, user: &UserId, device: Option<DeviceId>) -> Result<Grant> {
        let device = match device {
            Some(device) => device,
            None => generated_device()?,
        };
        Ok(Grant {
            version: Grant::VERSION,
            user: user.as_str().to_owned(),
            device: device.as_str().to_owned(),
            rooms: self.options.auth.unsigned_rooms.clone(),
            unsigned: true,
            ..Grant::default()
        })
    }

    /// A newer token for the same user and device. The grant's own time may be over: that is what the token is for.
    pub(crate) fn refresh(&self, grant: &Grant, ask: &Refresh) -> Result<Refreshed> {
        let claims = self.verify(&ask.token)?;
        if claims.user.as_str() != grant.user {
            REFUSED.with_label_values(&[auth::Error::OtherUser.reason()]).inc();
            return Err(auth::Error::OtherUser.into());
        }
        let device = DeviceId::new(&grant.device)?;
        if claims.device.as_ref().is_some_and(|claimed| *claimed != device) {
            REFUSED.with_label_values(&[auth::Error::OtherDevice.reason()]).inc();
            return Err(auth::Error::OtherDevice.into());
        }
        let renewed = claims.grant(&device);
        // A token of this connection has named the device once: that one without the claim follows takes nothing back.
        let renewed = Grant { device_unproven: renewed.device_unproven && grant.device_unproven, ..renewed };
        self.refuse_banned(&renewed, None)?;
        let as_wide = (renewed.admin || !grant.admin) && grant.rooms.iter().all(|room| renewed.rooms.contains(room));
        let Grant { expires_ms, issued_ms, device_unproven, .. } = renewed;
        Ok(Refreshed { grant: self.seal.close(&renewed)?, expires_ms, as_wide, issued_ms, device_unproven })
    }

    /// A connection has ended; so has its presence. Without a grant, where the node has none for it.
    pub(crate) async fn disconnected(&self, grant: &[u8], conn: &str, gone: Disconnected) -> Result<()> {
        if conn.is_empty() {
            return Err(Error::bad("conn", "is empty: say which connection has ended"));
        }
        let user = match (grant, gone.user.as_str()) {
            ([], "") if gone.node.is_empty() => return Err(auth::Error::NoGrant.into()),
            ([], "") => None,
            ([], user) => Some(UserId::new(user)?),
            (grant, _) => Some(self.seal.open(grant)?.user()?),
        };
        let at_ms = clock::now_ms().saturating_sub(gone.ago_ms);
        let ended = Ended { conn: conn.to_owned(), user, node: gone.node, place: gone.place, at_ms };
        Ok(self.store.disconnected(ended).await?)
    }

    /// A node says which connections it has.
    pub(crate) async fn assert_presence(&self, ask: AssertPresence) -> Result<PresenceAsserted> {
        let AssertPresence { node, from, to, held } = ask;
        if node.is_empty() {
            return Err(Error::bad("node", "is empty: say which node it is"));
        }
        if from == 0 || to <= from {
            return Err(Error::bad("to", "must be greater than \"from\", and that greater than 0"));
        }
        if held.len() > HELD {
            return Err(Error::LimitReached { what: "connections in one assertion", limit: HELD });
        }
        let presence = |held: pb::Held| {
            if held.conn.is_empty() || !(from..to).contains(&held.place) {
                return Err(Error::bad("held", "names a connection without an id, or outside of \"from\" and \"to\""));
            }
            let (user, node) = (UserId::new(held.user)?, node.clone());
            let pb::Held { device, conn, since_ms, place, .. } = held;
            Ok(Presence { user, device, conn, node, since_ms, place })
        };
        let named = held.into_iter().map(presence).collect::<Result<Vec<_>>>()?;
        let asserted = self.store.assert_presence(&node, from..to, named).await?;
        let strays = |found: Vec<Stray>| {
            found.into_iter().map(|Stray { conn, user }| pb::Stray { conn, user: user.as_str().to_owned() }).collect()
        };
        Ok(PresenceAsserted { restored: strays(asserted.restored), strays: strays(asserted.strays) })
    }

    /// A node lives, or is about to end.
    pub(crate) async fn node_beat(&self, beat: NodeBeat) -> Result<NodeBeaten> {
        if beat.node.is_empty() {
            return Err(Error::bad("node", "is empty: say which node it is"));
        }
        if beat.leaving {
            self.store.node_gone(&beat.node).await?;
            return Ok(NodeBeaten::default());
        }
        let lease = Duration::from_millis(beat.lease_ms).clamp(*LEASE.start(), *LEASE.end());
        let read = |changed: HashMap<String, u64>| {
            changed.into_iter().map(|(room, count)| Ok((RoomId::new(room)?, count))).collect::<Result<Vec<_>>>()
        };
        let (counts, rooms) = match beat.counts {
            Some(pb::OnlineCounts { since, state, changed }) => {
                let rooms = beat.ask.iter().map(RoomId::new).collect::<std::result::Result<Vec<_>, _>>()?;
                (Counts { since, state, changed: read(changed)? }, rooms)
            }
            // A node that does not know differences says everything each time, and wants everything.
            None => {
                let changed = read(beat.online)?;
                let rooms = changed.iter().map(|(room, _)| room.clone()).collect();
                (Counts { since: 0, state: 1, changed }, rooms)
            }
        };
        let counts_taken = self.store.node_beat(&beat.node, lease, beat.connections, counts).await?;
        let online = self.online_of(rooms).await?;
        Ok(NodeBeaten { online, knows_counts: true, counts_taken })
    }

    /// How many are online in rooms, from the first on as many as one beat may ask for.
    async fn online_of(&self, mut rooms: Vec<RoomId>) -> Result<HashMap<String, u64>> {
        if rooms.is_empty() {
            return Ok(HashMap::new());
        }
        let nodes = self.store.nodes().await?.len().max(1);
        rooms.truncate((COUNTS_READ / nodes).max(ROOMS_READ));
        let online = self.store.online(&rooms).await?;
        Ok(rooms.into_iter().map(|room| room.as_str().to_owned()).zip(online).collect())
    }

    /// Whether these users are there.
    pub(crate) async fn presence(&self, mut users: Vec<UserId>) -> Result<Vec<Present>> {
        let mut seen = HashSet::new();
        users.retain(|user| seen.insert(user.clone()));
        let limit = self.options.limits.max_users_per_call;
        if users.len() > limit {
            return Err(Error::LimitReached { what: "users in one question", limit });
        }
        let presence = self.store.presence(&users).await?;
        let of = |(user, (connections, last_seen_ms))| Present { user, connections, last_seen_ms };
        Ok(users.into_iter().zip(presence).map(of).collect())
    }
}

fn generated_device() -> Result<DeviceId> {
    Ok(DeviceId::new(Uuid::new_v4().to_string())?)
}
