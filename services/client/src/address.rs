//! Where the servers are: addresses as people write them, and which one to try next.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

/// The port of `tcp://` addresses that name none.
pub const DEFAULT_TCP_PORT: u16 = 3101;
/// The port of `ws://` addresses that name none.
pub const DEFAULT_WS_PORT: u16 = 3102;
/// The path of `ws://` addresses that name none.
pub const DEFAULT_WS_PATH: &str = "/ws";

/// An address that cannot be dialled; the text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("address {address:?} {problem}")]
pub struct BadAddress {
    /// As it was given.
    pub address: String,
    /// What is wrong, and what would be accepted.
    pub problem: &'static str,
}

/// How bytes travel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Transport {
    Tcp,
    /// With the path and query of the upgrade request.
    WebSocket(String),
}

/// One place to dial: `tcp://host[:port]` or `ws://host[:port][/path]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    pub(crate) transport: Transport,
    /// Without the brackets of an IPv6 literal.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    /// Whether the address is dialled as a WebSocket.
    pub fn is_websocket(&self) -> bool {
        matches!(self.transport, Transport::WebSocket(_))
    }

    /// `host:port`, the host in brackets where it is an IPv6 literal.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Reads an address from a move hint: as people write them, or `host:port` alone, which means "as you are connected
    /// now, but there".
    pub(crate) fn from_hint(hint: &str, like: &Self) -> Result<Self, BadAddress> {
        if hint.contains("://") {
            return hint.parse();
        }
        let bad = |problem| BadAddress {
            address: hint.to_owned(),
            problem,
        };
        let (host, port) = host_and_port(hint, like.port).map_err(bad)?;
        Ok(Self {
            transport: like.transport.clone(),
            host,
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.transport {
            Transport::Tcp => write!(f, "tcp://{}", self.authority()),
            Transport::WebSocket(path) => write!(f, "ws://{}{path}", self.authority()),
        }
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(address: &str) -> Result<Self, BadAddress> {
        let bad = |problem| BadAddress {
            address: address.to_owned(),
            problem,
        };
        let (scheme, rest) = address
            .split_once("://")
            .ok_or_else(|| bad("has no scheme: write tcp://host:port or ws://host:port/ws"))?;
        match scheme {
            "tcp" => {
                let (host, port) =
                    host_and_port(rest.trim_end_matches('/'), DEFAULT_TCP_PORT).map_err(bad)?;
                Ok(Self {
                    transport: Transport::Tcp,
                    host,
                    port,
                })
            }
            "ws" => {
                let slash = rest.find(['/', '?']).unwrap_or(rest.len());
                let (authority, path) = rest.split_at(slash);
                let (host, port) = host_and_port(authority, DEFAULT_WS_PORT).map_err(bad)?;
                let path = match path {
                    "" | "/" => DEFAULT_WS_PATH.to_owned(),
                    query if query.starts_with('?') => format!("{DEFAULT_WS_PATH}{query}"),
                    path => path.to_owned(),
                };
                Ok(Self {
                    transport: Transport::WebSocket(path),
                    host,
                    port,
                })
            }
            "wss" | "tls" | "tcps" => Err(bad(
                "asks for TLS, which this client does not speak: use a proxy or tcp:// and ws://",
            )),
            _ => Err(bad(
                "has an unknown scheme: write tcp://host:port or ws://host:port/ws",
            )),
        }
    }
}

fn host_and_port(authority: &str, default_port: u16) -> Result<(String, u16), &'static str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("has a [ without ]")?;
            (
                host,
                after
                    .strip_prefix(':')
                    .map(Some)
                    .or(after.is_empty().then_some(None))
                    .ok_or("has text after ]: write [::1]:3101")?,
            )
        }
        None if authority.matches(':').count() > 1 => {
            return Err("has a bare IPv6 address: write [::1]:3101");
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return Err("names no host: write tcp://host:port or ws://host:port/ws");
    }
    if host
        .chars()
        .any(|c| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@' | '?' | '#'))
    {
        return Err("has a host with characters that no host has");
    }
    let port = match port {
        None => default_port,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or("has a port that is not a number from 1 to 65535")?,
    };
    Ok((host.to_owned(), port))
}

/// Which address to try next: each in turn, beginning at a random one, hinted ones first.
#[derive(Debug)]
pub(crate) struct AddressPool {
    known: Vec<Address>,
    next: usize,
    hinted: VecDeque<Address>,
}

impl AddressPool {
    /// `random` is uniform in `0.0..1.0`. `known` is never empty: the builder sees to it.
    pub(crate) fn new(known: Vec<Address>, random: f64) -> Self {
        let next = (known.len() as f64 * random) as usize;
        Self {
            known,
            next,
            hinted: VecDeque::new(),
        }
    }

    /// Addresses of a move hint, tried before the known ones; unreadable ones are left out.
    pub(crate) fn hint(&mut self, hints: &[String], like: &Address) {
        self.hinted = hints
            .iter()
            .filter_map(|hint| Address::from_hint(hint, like).ok())
            .collect();
    }

    /// Forgets the hints: they were about one moment.
    pub(crate) fn forget_hints(&mut self) {
        self.hinted.clear();
    }

    /// The next address; `avoid` is passed over where there is another one.
    pub(crate) fn next(&mut self, avoid: Option<&Address>) -> Address {
        if let Some(hinted) = self.hinted.pop_front() {
            return hinted;
        }
        let mut address = self.step();
        if Some(&address) == avoid && self.known.len() > 1 {
            address = self.step();
        }
        address
    }

    fn step(&mut self) -> Address {
        let address = self.known[self.next % self.known.len()].clone();
        self.next = (self.next + 1) % self.known.len();
        address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(address: &str) -> String {
        address
            .parse::<Address>()
            .map_or_else(|bad| bad.to_string(), |address| address.to_string())
    }

    #[test]
    fn addresses_are_completed_with_the_default_ports_and_path() {
        assert_eq!(parse("tcp://chat.example"), "tcp://chat.example:3101");
        assert_eq!(parse("ws://chat.example"), "ws://chat.example:3102/ws");
        assert_eq!(
            parse("ws://chat.example:80/sub"),
            "ws://chat.example:80/sub"
        );
        assert_eq!(parse("ws://h?a=b"), "ws://h:3102/ws?a=b");
        assert_eq!(parse("tcp://[::1]:9"), "tcp://[::1]:9");
        assert_eq!(parse("ws://[::1]"), "ws://[::1]:3102/ws");
    }

    #[test]
    fn bad_addresses_say_what_to_write() {
        for bad in [
            "localhost:3101",
            "http://x",
            "tcp://",
            "tcp://::1:2",
            "tcp://h:0",
            "tcp://h:x",
            "tcp://a b",
            "wss://h",
            "tcp://[::1",
            "tcp://[::1]x",
        ] {
            let error = bad.parse::<Address>().unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("address {bad:?} ")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_hint_without_scheme_keeps_the_transport() {
        let like: Address = "ws://a:1/sub".parse().unwrap();
        assert_eq!(
            Address::from_hint("b:2", &like).unwrap().to_string(),
            "ws://b:2/sub"
        );
        assert_eq!(
            Address::from_hint("tcp://c", &like).unwrap().to_string(),
            "tcp://c:3101"
        );
        assert!(Address::from_hint("::", &like).is_err());
    }

    #[test]
    fn every_known_address_is_tried_in_turn_and_hints_come_first() {
        let known: Vec<Address> = ["tcp://a:1", "tcp://b:1", "tcp://c:1"]
            .map(|a| a.parse().unwrap())
            .into();
        let mut pool = AddressPool::new(known.clone(), 0.4);
        let turn: Vec<_> = (0..4).map(|_| pool.next(None).host).collect();
        assert_eq!(turn, ["b", "c", "a", "b"]);
        assert_eq!(
            pool.next(Some(&known[2])).host,
            "a",
            "the address to avoid is passed over"
        );
        pool.hint(&["h:7".to_owned(), "not a host:1".to_owned()], &known[0]);
        assert_eq!(pool.next(None).to_string(), "tcp://h:7");
        assert_eq!(pool.next(None).host, "b");
    }

    #[test]
    fn the_only_address_is_used_even_where_it_should_be_avoided() {
        let only: Address = "tcp://a:1".parse().unwrap();
        let mut pool = AddressPool::new(vec![only.clone()], 0.999);
        assert_eq!(pool.next(Some(&only)), only);
    }
}
