//! What waits in the queues of appends.

use tokio::sync::oneshot;

use crate::store::{Append, Appended, Delete, Deleted, Membership, Result};

/// Where an answer goes.
pub(super) type Answer<T> = oneshot::Sender<Result<T>>;

/// What waits.
#[derive(Debug)]
pub(super) enum Job {
    /// A message.
    Append(Append, Answer<Appended>),
    /// A change of membership, which is an entry of the log too.
    Membership(Membership, Answer<Option<Appended>>),
    /// The end of a room, which is told like an entry of the log.
    Delete(Delete, Answer<Deleted>),
}

impl Job {
    pub(super) fn is_awaited(&self) -> bool {
        match self {
            Self::Append(_, answer) => !answer.is_closed(),
            Self::Membership(_, answer) => !answer.is_closed(),
            Self::Delete(_, answer) => !answer.is_closed(),
        }
    }
}
