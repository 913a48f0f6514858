//! Whose connection it is where a load balancer passes it on: PROXY protocol before anything else. Only peers that the
//! settings name are believed.

use std::net::IpAddr;

use ppp::{HeaderResult, PartialResult, v1, v2};

/// The longest header of either version that is waited for, in bytes; version 1 has at most 107.
const MOST: usize = 4 << 10;
const MOST_V1: usize = 107;
const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What such a peer sends is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no PROXY protocol header: this peer is in proxy_protocol_from and must send one")]
pub(crate) struct Malformed;

/// Reads a PROXY protocol header from the front of `bytes`; `None`: more has to come. How long it is, and the client's
/// address: `None` where the peer speaks for itself, as in a health check.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<(usize, Option<IpAddr>)>, Malformed> {
    let is_v2 = bytes.starts_with(&V2[..V2.len().min(bytes.len())]);
    if !is_v2 && !bytes.iter().take(MOST_V1).any(|byte| *byte == b'\n') {
        // Version 1 is a line: half a number at its end is none yet.
        let may_come = bytes.len() < MOST_V1 && bytes.starts_with(&V1[..V1.len().min(bytes.len())]);
        return if may_come { Ok(None) } else { Err(Malformed) };
    }
    let header = HeaderResult::parse(bytes);
    if header.is_incomplete() {
        return if is_v2 && bytes.len() < MOST {
            Ok(None)
        } else {
            Err(Malformed)
        };
    }
    let (length, address) = match header {
        HeaderResult::V1(Ok(header)) => {
            let address = match header.addresses {
                v1::Addresses::Tcp4(four) => Some(IpAddr::V4(four.source_address)),
                v1::Addresses::Tcp6(six) => Some(IpAddr::V6(six.source_address)),
                v1::Addresses::Unknown => None,
            };
            (header.header.len(), address)
        }
        HeaderResult::V2(Ok(header)) => {
            let address = match header.addresses {
                _ if header.command == v2::Command::Local => None,
                v2::Addresses::IPv4(four) => Some(IpAddr::V4(four.source_address)),
                v2::Addresses::IPv6(six) => Some(IpAddr::V6(six.source_address)),
                v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
            };
            (header.len(), address)
        }
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => return Err(Malformed),
    };
    Ok(Some((
        length,
        address.map(|address| address.to_canonical()),
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = V2.to_vec();
        out.extend_from_slice(&[command, family]);
        out.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        out.extend_from_slice(payload);
        out
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn both_versions_name_the_client_and_leave_what_follows() {
        let with = |header: &[u8]| [header, b"\0\xff more"].concat();
        let four = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 3101\r\n";
        assert_eq!(
            read(&with(four)),
            Ok(Some((four.len(), Some(ip("192.0.2.7")))))
        );
        let six = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 3101\r\n";
        assert_eq!(
            read(&with(six)),
            Ok(Some((six.len(), Some(ip("2001:db8::7")))))
        );
        assert_eq!(read(&with(b"PROXY UNKNOWN\r\n")), Ok(Some((15, None))));
        let binary = v2(
            0x21,
            0x11,
            &[192, 0, 2, 9, 198, 51, 100, 1, 0x12, 0x34, 0x0c, 0x1d],
        );
        assert_eq!(
            read(&with(&binary)),
            Ok(Some((binary.len(), Some(ip("192.0.2.9")))))
        );
        let local = v2(0x20, 0x00, &[]);
        assert_eq!(read(&with(&local)), Ok(Some((local.len(), None))));
    }

    #[test]
    fn a_header_may_come_in_parts_and_must_end() {
        let four = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 3101\r\n";
        for length in 0..four.len() {
            assert_eq!(read(&four[..length]), Ok(None), "{length}");
        }
        let binary = v2(
            0x21,
            0x11,
            &[192, 0, 2, 9, 198, 51, 100, 1, 0x12, 0x34, 0x0c, 0x1d],
        );
        for length in 0..binary.len() {
            assert_eq!(read(&binary[..length]), Ok(None), "{length}");
        }
        assert_eq!(read(b"GET /ws HTTP/1.1\r\n"), Err(Malformed));
        assert_eq!(
            read(&[0, 0, 0, 40, 0, 16, 0, 1, 0, 0, 0, 101]),
            Err(Malformed)
        );
        assert_eq!(
            read(&[b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat()),
            Err(Malformed)
        );
        let endless = v2(0x21, 0x11, &[0; 60_000]);
        assert_eq!(read(&endless[..MOST]), Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
            let _ = read(&[V2, &bytes].concat());
            let _ = read(&[b"PROXY ".as_slice(), &bytes].concat());
        }
    }
}
