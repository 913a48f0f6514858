//! Whom a limit per address means: the client, also behind a proxy that is known, and a whole network of IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// What shares one limit: an IPv4 address, or the /64 that one IPv6 subscriber has. Shown as `192.0.2.1` or
/// `2001:db8:1:2::/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(Part);

/// As short as it can be: every connection keeps its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    V4(Ipv4Addr),
    /// The first half.
    V6([u8; 8]),
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => Part::V4(address),
            IpAddr::V6(address) => {
                let [first @ .., _, _, _, _, _, _, _, _] = address.octets();
                Part::V6(first)
            }
        })
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Part::V4(address) => address.fmt(f),
            Part::V6(first) => {
                let bits = u128::from(u64::from_be_bytes(first)) << 64;
                write!(f, "{}/64", Ipv6Addr::from(bits))
            }
        }
    }
}

/// A proxy that is believed has sent an `X-Forwarded-For` that names nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("X-Forwarded-For is no list of addresses")]
pub struct Malformed;

/// Whether the address is in one of the networks.
pub fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// Where a request of `peer` comes from. A peer that is none of `proxies` speaks for itself. Of one that is, the values of
/// its `X-Forwarded-For`, in their order, are read from the end: the nearest address that no proxy has. Whatever stands
/// before it anybody may have written. Where all are proxies, or none is named, it is the farthest of them.
///
/// # Errors
/// [`Malformed`]: something that is read is no address; with a port it is one.
pub fn client<'a>(
    peer: IpAddr,
    forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]>,
    proxies: &[IpNet],
) -> Result<IpAddr, Malformed> {
    let mut nearest = peer.to_canonical();
    for value in forwarded_for.rev() {
        for hop in value.rsplit(|byte| *byte == b',') {
            if !is_in(proxies, nearest) {
                return Ok(nearest);
            }
            nearest = parsed(hop).ok_or(Malformed)?.to_canonical();
        }
    }
    Ok(nearest)
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn parsed(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    let bare = hop
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(hop);
    bare.parse()
        .ok()
        .or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str) -> String {
        Network::from(address.parse::<IpAddr>().unwrap()).to_string()
    }

    #[test]
    fn addresses_of_one_host_share_a_limit() {
        assert_eq!(network("192.0.2.1"), "192.0.2.1");
        assert_eq!(network("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(network("2001:db8:1:2::"), network("2001:db8:1:2:ffff::1"));
        assert_ne!(network("2001:db8:1:2::"), network("2001:db8:1:3::"));
    }

    #[test]
    fn the_nearest_address_that_no_proxy_of_ours_has_is_the_clients() {
        let proxies: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"]
            .iter()
            .map(|one| one.parse().unwrap())
            .collect();
        let table: &[(&str, &[&str], Option<&str>)] = &[
            ("203.0.113.1", &["192.0.2.1"], Some("203.0.113.1")),
            ("203.0.113.1", &["nonsense"], Some("203.0.113.1")),
            ("10.0.0.1", &[], Some("10.0.0.1")),
            ("10.0.0.1", &["192.0.2.1"], Some("192.0.2.1")),
            ("::ffff:10.0.0.1", &["192.0.2.1:4711"], Some("192.0.2.1")),
            (
                "10.0.0.1",
                &["6.6.6.6, 192.0.2.1 , 10.0.0.2"],
                Some("192.0.2.1"),
            ),
            (
                "10.0.0.1",
                &["6.6.6.6", "192.0.2.1, 10.0.0.2"],
                Some("192.0.2.1"),
            ),
            (
                "10.0.0.1",
                &["6.6.6.6", "192.0.2.1:4711", "10.0.0.2"],
                Some("192.0.2.1"),
            ),
            ("10.0.0.1", &["nonsense, 192.0.2.1"], Some("192.0.2.1")),
            ("fd00::1", &["2001:db8::1"], Some("2001:db8::1")),
            ("fd00::1", &["[2001:db8::1]"], Some("2001:db8::1")),
            ("fd00::1", &["[2001:db8::1]:80"], Some("2001:db8::1")),
            ("10.0.0.1", &["::ffff:192.0.2.1"], Some("192.0.2.1")),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], Some("10.0.0.3")),
            ("10.0.0.1", &["192.0.2.1, nonsense"], None),
            ("10.0.0.1", &["192.0.2.1, unknown, 10.0.0.2"], None),
            ("10.0.0.1", &["192.0.2.1,"], None),
            ("10.0.0.1", &[""], None),
        ];
        for (peer, given, expected) in table {
            let given = given.iter().map(|value| value.as_bytes());
            let client = client(peer.parse().unwrap(), given, &proxies);
            let expected = expected
                .map(|address| address.parse::<IpAddr>().unwrap())
                .ok_or(Malformed);
            assert_eq!(client, expected, "{peer}");
        }
        let bytes: &[u8] = b"\xff";
        assert_eq!(
            client(
                "10.0.0.1".parse().unwrap(),
                std::iter::once(bytes),
                &proxies
            ),
            Err(Malformed)
        );
    }
}
