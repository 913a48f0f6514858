//! The end of a room: its log, members, read positions and client ids go in one step, and whoever hears it is told.

use std::sync::Arc;

use im_proto::v1::{Encoding, Entry};
use im_runtime::clock;
use im_wire::ids::{RoomId, Seq};
use uuid::Uuid;

use super::kind_name;
use crate::auth::grant::Grant;
use crate::core::Core;
use crate::error::Result;
use crate::store::{Delete, Kind};

/// The type of the entry that tells that a room has been deleted, its last one.
pub(crate) const DELETE: &str = "im.delete";

/// A room that is no more.
pub(crate) struct Deleted {
    pub(crate) kind: Kind,
    /// Where the entry that tells of it stood.
    pub(crate) seq: Seq,
}

impl Core {
    /// Deletes a room. Afterwards its id is free; a room that takes it has a greater epoch.
    pub(crate) async fn delete_room(
        self: &Arc<Self>,
        by: &Grant,
        room: &RoomId,
    ) -> Result<Deleted> {
        let deleted = self
            .store
            .rooms
            .delete(Delete {
                room: room.clone(),
                entry: entry(by),
            })
            .await?;
        let members = match room.direct_members() {
            Some((one, other)) if deleted.kind == Kind::Direct => vec![one, other],
            _ => deleted.members,
        };
        tracing::info!(
            target: "audit",
            action = "delete", by = by.user, %room, kind = kind_name(deleted.kind), seq = deleted.seq,
            members = members.len(), "deleted"
        );
        self.indexed.forget(room);
        // Whoever this does not reach finds the room gone when the list is read.
        self.unindex_all(&members, room).await;
        Ok(Deleted {
            kind: deleted.kind,
            seq: deleted.seq,
        })
    }
}

fn entry(by: &Grant) -> Entry {
    let id = Uuid::now_v7().to_string();
    Entry {
        client_id: id.clone(),
        id,
        from: by.user.clone(),
        r#type: DELETE.to_owned(),
        body: serde_json::json!({"by": by.user}).to_string().into(),
        encoding: Encoding::Json.into(),
        time_ms: clock::unix_ms(),
        device: by.device.clone(),
    }
}
