//! Ports for servers that a program or a test starts beside itself.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that systems give to outgoing connections: one of those would take a port before its server does.
const FIRST: u16 = 11_000;
const COUNT: u16 = 21_000;

/// A port of 127.0.0.1 that nobody listens on, for another program to take. A process is given no port twice before it
/// was given all.
///
/// # Errors
/// Where none of them may be bound: what the last one said.
pub fn unused_port() -> io::Result<u16> {
    // Processes begin at places of their own.
    static BEGIN: LazyLock<u16> = LazyLock::new(|| rand::random_range(0..COUNT));
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..COUNT {
        let place = GIVEN.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (*BEGIN + place) % COUNT;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_can_be_bound_and_are_not_given_twice() {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    (0..50)
                        .map(|_| unused_port().expect("a port"))
                        .collect::<Vec<u16>>()
                })
            })
            .collect();
        let mut ports: Vec<u16> = threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("ports"))
            .collect();
        let bound = ports
            .iter()
            .filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, **port)).is_ok())
            .count();
        // Another program may have come in between; not often.
        assert!(bound > 190, "{bound} of 200 could be bound");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 200);
    }
}
