//! What every store must do, checked on a store that is given: the redis store on real servers, the embedded store on its
//! file and in memory. Part of the library so that every test binary can run it; nothing in the product calls it.

pub mod aging;
mod bans;
mod deleting;
mod membership;
mod messages;
mod pace;
mod presence;
mod reading;
mod unreadable;

use std::sync::atomic::{AtomicU64, Ordering};

use im_proto::v1::Entry;
use im_wire::ids::{ClientId, RoomId, UserId};

pub use pace::pace;
pub use unreadable::goes_over_unreadable;

use super::{Access, Append, Appended, Create, Kind, Membership, Role, Store};

/// Runs every case. Rooms and users are named afresh each time, so a store may be used that holds something already.
///
/// # Panics
/// Where the store does not do what [`super`] promises.
pub async fn cases(store: Store) {
    let stage = Stage::new(store);
    messages::cases(&stage).await;
    membership::cases(&stage).await;
    reading::cases(&stage).await;
    deleting::cases(&stage).await;
    presence::cases(&stage).await;
    bans::cases(&stage).await;
    grants_have_one_key(&stage).await;
}

async fn grants_have_one_key(stage: &Stage) {
    let kept = stage
        .store
        .grant_keys
        .grant_key([1; 32])
        .await
        .expect("a key");
    assert_eq!(stage.store.grant_keys.grant_key([2; 32]).await, Ok(kept));
}

/// A store, and names that nobody has used yet.
struct Stage {
    store: Store,
    run: String,
    next: AtomicU64,
}

impl Stage {
    fn new(store: Store) -> Self {
        Self {
            store,
            run: uuid::Uuid::now_v7().simple().to_string(),
            next: AtomicU64::new(1),
        }
    }

    fn name(&self, what: &str) -> String {
        format!(
            "{what}-{}-{}",
            self.run,
            self.next.fetch_add(1, Ordering::Relaxed)
        )
    }

    fn room(&self) -> RoomId {
        RoomId::new(self.name("room")).expect("a good id")
    }

    fn user(&self, name: &str) -> UserId {
        UserId::new(self.name(name)).expect("a good id")
    }

    /// A new group.
    async fn group(&self, members: &[(&UserId, Role)]) -> RoomId {
        let room = self.room();
        let members = members
            .iter()
            .map(|(user, role)| ((*user).clone(), *role))
            .collect();
        let create = Create {
            room: room.clone(),
            kind: Kind::Group,
            members,
            time_ms: 1_000,
        };
        assert_eq!(self.store.rooms.create(create).await, Ok(true));
        room
    }

    /// An open room with messages "m1", "m2", ….
    async fn filled(&self, count: u64) -> RoomId {
        let (room, ann) = (self.room(), self.user("ann"));
        for number in 1..=count {
            let appended = self.say(&room, open(&ann), &format!("m{number}")).await;
            assert_eq!(appended.seq, number);
        }
        room
    }

    async fn say(&self, room: &RoomId, access: Access, client_id: &str) -> Appended {
        self.store
            .messages
            .append(message(room, access, client_id))
            .await
            .expect("the access allows it")
    }
}

/// In an open room.
fn open(user: &UserId) -> Access {
    Access {
        user: user.clone(),
        direct: false,
        open: true,
        system: false,
    }
}

/// In a direct room.
fn direct(user: &UserId) -> Access {
    Access {
        user: user.clone(),
        direct: true,
        open: false,
        system: false,
    }
}

/// As what one is: in a group by membership.
fn plain(user: &UserId) -> Access {
    Access {
        user: user.clone(),
        direct: false,
        open: false,
        system: false,
    }
}

/// As a backend.
fn system(user: &UserId) -> Access {
    Access {
        user: user.clone(),
        direct: false,
        open: false,
        system: true,
    }
}

fn entry(from: &UserId, client_id: &str, kind: &str) -> Entry {
    Entry {
        id: uuid::Uuid::now_v7().to_string(),
        from: from.as_str().to_owned(),
        client_id: client_id.to_owned(),
        r#type: kind.to_owned(),
        body: format!("body of {client_id}").into_bytes().into(),
        time_ms: 1_700_000_000_000,
        ..Entry::default()
    }
}

fn message(room: &RoomId, access: Access, client_id: &str) -> Append {
    let entry = entry(&access.user, client_id, "text");
    let client_id = ClientId::new(client_id).expect("a good id");
    Append {
        room: room.clone(),
        access,
        client_id,
        entry,
        index: Vec::new(),
    }
}

fn change(room: &RoomId, access: Access, user: &UserId, role: Option<Role>) -> Membership {
    let kind = if role.is_some() {
        "im.join"
    } else {
        "im.leave"
    };
    let entry = entry(&access.user, "", kind);
    Membership {
        room: room.clone(),
        user: user.clone(),
        role,
        access,
        entry,
    }
}
