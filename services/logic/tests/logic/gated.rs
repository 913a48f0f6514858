//! A store whose appends wait at a gate, and that remembers in which order they came.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use im_logic::store::{
    Append, Appended, Create, Delete, Deleted, Error, Index, Member, Membership, Messages, Result,
    Rooms, Store, View,
};
use im_proto::v1::Signal;
use im_wire::ids::{RoomId, UserId};
use tokio::sync::Semaphore;

pub(crate) struct Gated {
    inner: Store,
    /// One permit lets one append through.
    pub(crate) gate: Semaphore,
    /// The bodies of the appends, in the order of their first polls.
    pub(crate) begun: Mutex<Vec<String>>,
    /// Appends that are in this call now, and the most there ever were.
    now: AtomicUsize,
    pub(crate) most: AtomicUsize,
    /// No room is put into an index by a call of its own while this is held.
    pub(crate) indexing: tokio::sync::Mutex<()>,
    /// What every append fails with.
    pub(crate) failing: Mutex<Option<Error>>,
    /// Changes of membership are stored, and no replica confirms what there is.
    pub(crate) unconfirmed: AtomicBool,
}

/// A message of this body ends in a panic.
pub(crate) const PANIC: &str = "panic";

impl Gated {
    pub(crate) fn new(inner: Store, open: usize) -> Arc<Self> {
        let begun = Mutex::default();
        let now = AtomicUsize::new(0);
        let most = AtomicUsize::new(0);
        Arc::new(Self {
            inner,
            gate: Semaphore::new(open),
            begun,
            now,
            most,
            indexing: tokio::sync::Mutex::default(),
            failing: Mutex::default(),
            unconfirmed: AtomicBool::default(),
        })
    }

    /// The store with the gate before it.
    pub(crate) fn store(self: &Arc<Self>) -> Store {
        Store {
            messages: self.clone(),
            index: self.clone(),
            rooms: self.clone(),
            ..self.inner.clone()
        }
    }

    pub(crate) fn begun(&self) -> Vec<String> {
        self.begun.lock().unwrap().clone()
    }
}

#[async_trait]
impl Messages for Gated {
    async fn append(&self, append: Append) -> Result<Appended> {
        assert_ne!(append.entry.body, PANIC, "as the test wants it");
        if let Some(error) = self.failing.lock().unwrap().clone() {
            return Err(error);
        }
        self.begun
            .lock()
            .unwrap()
            .push(String::from_utf8_lossy(&append.entry.body).into_owned());
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.gate
            .acquire()
            .await
            .expect("the gate is never closed")
            .forget();
        let appended = self.inner.messages.append(append).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        appended
    }

    async fn signal(&self, room: &RoomId, signal: Signal) -> Result<()> {
        self.inner.messages.signal(room, signal).await
    }
}

#[async_trait]
impl Index for Gated {
    async fn user_rooms(
        &self,
        user: &UserId,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<Vec<RoomId>> {
        self.inner.index.user_rooms(user, after, limit).await
    }

    async fn index_room(&self, users: &[UserId], room: &RoomId) -> Result<()> {
        let _held = self.indexing.lock().await;
        self.inner.index.index_room(users, room).await
    }

    async fn unindex_room(&self, user: &UserId, room: &RoomId) -> Result<()> {
        self.inner.index.unindex_room(user, room).await
    }
}

#[async_trait]
impl Rooms for Gated {
    async fn create(&self, create: Create) -> Result<bool> {
        self.inner.rooms.create(create).await
    }

    async fn change_membership(&self, change: Membership) -> Result<Option<Appended>> {
        let changed = self.inner.rooms.change_membership(change).await?;
        if self.unconfirmed.load(Ordering::SeqCst) {
            return Err(Error::NotReplicated {
                confirmed: 0,
                wanted: 1,
            });
        }
        Ok(changed)
    }

    async fn delete(&self, delete: Delete) -> Result<Deleted> {
        self.inner.rooms.delete(delete).await
    }

    async fn members(
        &self,
        room: &RoomId,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<Member>> {
        self.inner.rooms.members(room, after, limit).await
    }

    async fn views(&self, rooms: &[RoomId], user: &UserId) -> Result<Vec<Option<View>>> {
        self.inner.rooms.views(rooms, user).await
    }
}
