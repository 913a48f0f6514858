//! Whom a request says it is for: the `Host` header, read strictly, because it ends up in a header of the answer and
//! decides whether a browser on this machine meant this server.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::{HeaderMap, header};

/// A request's `Host`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// The host alone; an IPv6 address in brackets.
    pub(super) name: String,
    /// With its port, as it was sent.
    pub(super) authority: String,
}

/// The request's host; `None` where there is none or one that cannot be.
pub(super) fn of(headers: &HeaderMap) -> Option<Host> {
    let mut all = headers.get_all(header::HOST).iter();
    let authority = all.next()?.to_str().ok()?;
    if all.next().is_some() {
        return None;
    }
    let (name, port) = match authority.rfind(']') {
        Some(end) => (&authority[..=end], &authority[end + 1..]),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let good_port = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|port| port.parse::<u16>().is_ok());
    (is_host(name) && good_port).then(|| Host {
        name: name.to_ascii_lowercase(),
        authority: authority.to_owned(),
    })
}

fn is_host(name: &str) -> bool {
    if let Some(address) = name.strip_prefix('[') {
        return address
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    !name.is_empty()
        && name.len() <= 253
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
}

impl Host {
    /// Whether it names this machine and could not be somebody else's name that was made to point here.
    pub(super) fn is_this_machine(&self) -> bool {
        if self.name == "localhost" || self.name.ends_with(".localhost") {
            return true;
        }
        let bare = self.name.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(host: &str) -> Option<Host> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        of(&headers)
    }

    #[test]
    fn hosts_are_read_strictly() {
        for (host, name) in [
            ("localhost:1999", "localhost"),
            ("A.b-C", "a.b-c"),
            ("[::1]:80", "[::1]"),
            ("127.0.0.1", "127.0.0.1"),
        ] {
            assert_eq!(read(host).unwrap().name, name);
        }
        for bad in [
            "", ":80", "a;b", "a b", "a'b", "[::1", "[x]", "a:b", "a:70000", "a:1:2", "[::1]x",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_names_that_cannot_lie_are_this_machine() {
        for own in [
            "localhost",
            "LOCALHOST:1",
            "app.localhost:1999",
            "127.0.0.1:1999",
            "127.9.9.9",
            "[::1]:1999",
        ] {
            assert!(read(own).unwrap().is_this_machine(), "{own}");
        }
        for other in [
            "localhost.evil.example",
            "evil.example:1999",
            "0.0.0.0",
            "10.0.0.1",
            "[::]",
            "notlocalhost",
        ] {
            assert!(!read(other).unwrap().is_this_machine(), "{other}");
        }
    }
}
