//! TCP proxies that tests put in front of a server.

pub mod corrupting;
pub(crate) mod redis;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Serves every connection; all of them end when this is dropped.
pub(crate) async fn accept_each<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => drop(connections.spawn(serve(client))),
            Some(_) = connections.join_next() => {}
        }
    }
}
