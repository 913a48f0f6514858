//! One client from accept to close. Before auth a session is an [`handshake::Unidentified`], afterwards an
//! [`established::Established`]; the first cannot do what the second can.

mod compat;
mod decoder;
mod established;
mod handshake;
mod native;
mod socket;
pub(crate) mod subscribe;

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use im_wire::dialect::Entrance;
use tokio::net::TcpStream;

use crate::accept::admission::Permit;
use crate::connection::Connection;
use crate::metrics;
use crate::shard::Shard;
use handshake::Unidentified;
use socket::SocketIo;

/// How long the last words may take to leave.
const LINGER: Duration = Duration::from_secs(2);

/// Which dialect the session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Native,
    Goim,
    GolangIm,
}

/// Serves one socket until its end.
pub(crate) async fn serve(
    shard: Rc<Shard>,
    stream: TcpStream,
    address: IpAddr,
    tcp: bool,
    permit: Permit,
) {
    let entrance = if tcp { Entrance::Tcp } else { Entrance::Ws };
    let bounds = (shard.options.outbox_bytes, Rc::clone(&shard.outboxes));
    let id = uuid::Uuid::now_v7().simple().to_string();
    let connection = shard.enter(|key| Connection::new(key, id, entrance, address, stream, bounds));
    shard.enter_early(&connection);
    let mut socket = SocketIo::new(Rc::clone(&shard), Rc::clone(&connection), tcp, permit);
    if tcp {
        socket.turn_away();
    }
    let mut established = Box::pin(Unidentified::new(&mut socket).identify()).await;
    // By reference: a second place for it would make every idle session larger.
    if let Some(established) = &mut established {
        established.run(&mut socket).await;
    }
    shard.exit(&connection);
    shard.ended(&connection);
    Box::pin(close(&connection, &mut socket)).await;
}

/// Says why, gives the words time to leave, and closes.
async fn close(connection: &Connection, socket: &mut SocketIo) {
    let upgrading = socket.is_upgrading();
    socket.forget();
    let ending = connection.ending();
    let code = ending
        .as_ref()
        .map_or("client_left", |ending| ending.code.name());
    metrics::CLOSED.with_label_values(&[code]).inc();
    if let Some(ending) = ending
        && !upgrading
        && !connection.is_broken()
    {
        connection.write_last(connection.encoding.get().close(&ending));
    }
    let leaving = async {
        while connection.has_waiting() && !connection.is_broken() {
            if connection.stream().writable().await.is_err() {
                return;
            }
            connection.flush();
        }
        socket.until_closed().await;
    };
    // Past the time the socket is dropped with whatever waits.
    let _late = tokio::time::timeout(LINGER, leaving).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, E, F>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_session_is_small() {
        let task = size(serve);
        let connection = size_of::<Connection>();
        assert!(
            task <= 1_024,
            "the future of every idle session takes {task} bytes"
        );
        assert!(connection <= 512, "a connection takes {connection} bytes");
    }
}
