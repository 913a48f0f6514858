//! What logic is asked for a connection.

use im_proto::v1::{Fault, call, reply};
use im_wire::code::{CloseCode, ErrorCode};
use prost::Message as _;

use super::Shard;
use crate::connection::Client;
use crate::translate;

impl Shard {
    /// One call of logic for an authenticated connection. Where logic does not know its own seal under what the connection was
    /// granted (a store that was emptied may have lost the key), the call was not made, and the connection ends so that the client
    /// authenticates again. Lists of bans do not change everywhere at the same time: whom logic refuses as banned is sent away where
    /// this node's list says so too, and tries again where it does not.
    pub(crate) async fn call(&self, client: &Client, op: call::Op) -> Result<reply::Result, Fault> {
        let _turn = match &op {
            call::Op::History(_) => self.paces.turn(client.user()).await?,
            _ => None,
        };
        let grant = client.identity.grant.borrow().clone();
        let answer = self.logic.call(grant, &client.id, op).await;
        // A token that is of no use is a fault of the field that names it.
        let unknown = |fault: &Fault| {
            fault.code == ErrorCode::Unauthenticated.name() && fault.field.is_empty()
        };
        if let Ok(reply::Result::History(page)) = &answer {
            self.paces.has_read(client.user(), page.encoded_len());
        }
        if answer.as_ref().is_err_and(unknown) {
            client.end(
                CloseCode::Unavailable,
                "the connection must be authenticated again",
            );
        }
        if answer
            .as_ref()
            .is_err_and(|fault| fault.code == ErrorCode::Banned.name())
        {
            self.refuse_banned(client);
            if client.ending().is_none() {
                let text = "a ban is not known, or not lifted, everywhere yet: try again";
                return Err(translate::retryable(ErrorCode::Unavailable, text));
            }
        }
        answer
    }
}
