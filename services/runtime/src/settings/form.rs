//! The forms that values are written in: parsed, and shown again as a person would write them.

use std::net::SocketAddr;
use std::time::Duration;

use crate::Secret;

/// Of a secret that signs or lets in: shorter ones can be found by trying (RFC 7518, 3.2).
pub const SECRET_BYTES: usize = 32;

/// For [`check`](super::SettingBuilder::check).
pub(super) fn long_enough(secret: &Secret) -> Result<(), String> {
    match secret.reveal().len() {
        SECRET_BYTES.. => Ok(()),
        bytes => Err(format!(
            "it has {bytes} bytes and can be found by trying: give {SECRET_BYTES} random ones or more, \
             for example from `openssl rand -base64 32`"
        )),
    }
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "write ADDRESS:PORT, for example 0.0.0.0:3101 or [::]:3101".to_owned())
}

/// `host:port`, where the host may be a name: what others dial.
pub(super) fn authority(text: &str) -> Result<String, String> {
    let wrong = || "write HOST:PORT, for example 10.0.0.7:3109 or node-1.example:3109".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let good_host = !host.is_empty()
        && (bracketed
            || host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')));
    match port.parse::<u16>() {
        Ok(1..) if good_host => Ok(text.to_owned()),
        _ => Err(wrong()),
    }
}

const DURATION_UNITS: [(&str, u128); 5] = [
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        "write a duration with its unit (ms, s, m, h, d), for example 500ms, 10s or 1m30s"
            .to_owned()
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut nanoseconds = 0_u128;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(wrong)?;
        let unit_end = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let (_, factor) = DURATION_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?;
        nanoseconds = u128::from(number)
            .checked_mul(*factor)
            .and_then(|n| nanoseconds.checked_add(n))
            .ok_or_else(wrong)?;
        rest = next;
    }
    if text.is_empty() {
        return Err(wrong());
    }
    let seconds = u64::try_from(nanoseconds / 1_000_000_000).map_err(|_| wrong())?;
    Ok(Duration::new(
        seconds,
        u32::try_from(nanoseconds % 1_000_000_000).map_err(|_| wrong())?,
    ))
}

/// A duration in the largest unit that divides it: `1500ms`, `90s`, `5m`.
pub fn show_duration(duration: &Duration) -> String {
    let nanoseconds = duration.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    let fitting = DURATION_UNITS
        .iter()
        .rev()
        .find(|(_, factor)| nanoseconds.is_multiple_of(*factor));
    match fitting {
        Some((unit, factor)) => format!("{}{unit}", nanoseconds / factor),
        None => format!("{duration:?}"),
    }
}

const BYTE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "write a number of bytes, for example 4096, 64KiB or 1MB".to_owned();
    let (number, unit) = split_number(text).ok_or_else(wrong)?;
    let unit = unit.trim_start();
    let factor = match BYTE_UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
    {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => 1,
        None => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// Bytes in the largest binary unit that divides them: `64KiB`, `1500B`.
pub fn show_bytes(bytes: u64) -> String {
    match [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .iter()
        .find(|(n, _)| bytes > 0 && bytes.is_multiple_of(*n))
    {
        Some((factor, unit)) => format!("{}{unit}", bytes / factor),
        None => format!("{bytes}B"),
    }
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '_'))
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    Some((number.replace('_', "").parse().ok()?, rest))
}

pub(super) fn url(text: &str, schemes: &[&str]) -> Result<String, String> {
    let known = text
        .split_once("://")
        .is_some_and(|(scheme, rest)| schemes.contains(&scheme) && !rest.is_empty());
    if known {
        return Ok(text.to_owned());
    }
    let forms: Vec<String> = schemes
        .iter()
        .map(|scheme| format!("{scheme}://…"))
        .collect();
    Err(format!(
        "write a URL that begins with {}",
        forms.join(" or ")
    ))
}

/// A URL whose secrets are hidden: the password before the last `@` (it may hold a `/`), and parameters that are named like
/// a secret. Text that is no URL stays as it is.
pub fn mask_secrets(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (before, query) = rest
        .split_once('?')
        .map_or((rest, String::new()), |(before, query)| {
            (
                before,
                format!(
                    "?{}",
                    query
                        .split('&')
                        .map(masked_parameter)
                        .collect::<Vec<_>>()
                        .join("&")
                ),
            )
        });
    match before.rsplit_once('@') {
        // The question mark may belong to a password.
        None if query.contains('@') => format!("{scheme}://***"),
        None => format!("{scheme}://{before}{query}"),
        Some((credentials, place)) => {
            let user = credentials.split_once(':').map_or("", |(user, _)| user);
            format!("{scheme}://{user}:***@{place}{query}")
        }
    }
}

const SECRET_PARAMETERS: [&str; 5] = ["password", "passwd", "secret", "token", "key"];

fn masked_parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, _))
            if SECRET_PARAMETERS
                .iter()
                .any(|secret| name.to_ascii_lowercase().contains(secret)) =>
        {
            format!("{name}=***")
        }
        _ => parameter.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        for (text, milliseconds, shown) in [
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("500ms", 500, "500ms"),
            ("10s", 10_000, "10s"),
            ("90s", 90_000, "90s"),
            ("1m30s", 90_000, "90s"),
            ("5m", 300_000, "5m"),
            ("24h", 86_400_000, "1d"),
            ("1_000ms", 1_000, "1s"),
        ] {
            let read = duration(text).unwrap();
            assert_eq!(read, Duration::from_millis(milliseconds), "{text}");
            assert_eq!(show_duration(&read), shown, "{text}");
        }
        for text in [
            "",
            "10",
            "s",
            "10x",
            "-1s",
            "1.5s",
            "10 s",
            "99999999999999999999s",
            "999999999999999999d",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_are_read_and_shown() {
        for (text, number, shown) in [
            ("0", 0, "0B"),
            ("4096", 4096, "4KiB"),
            ("64KiB", 65_536, "64KiB"),
            ("64kib", 65_536, "64KiB"),
            ("1MB", 1_000_000, "1000000B"),
            ("1 GiB", 1 << 30, "1GiB"),
        ] {
            assert_eq!(bytes(text), Ok(number), "{text}");
            assert_eq!(show_bytes(number), shown, "{text}");
        }
        for text in [
            "",
            "KiB",
            "-1",
            "1.5KiB",
            "64KX",
            "99999999999999999999",
            "99999999999999GiB",
        ] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_checked() {
        for text in ["0.0.0.0:3101", "[::]:3101", "127.0.0.1:0"] {
            assert!(socket_address(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "3101",
            ":3101",
            "localhost:3101",
            "1.2.3.4",
            "1.2.3.4:99999",
        ] {
            assert!(socket_address(text).is_err(), "{text}");
        }
        for text in ["10.0.0.7:3109", "node-1.example:3109", "[::1]:3109"] {
            assert!(authority(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "10.0.0.7",
            ":3109",
            "10.0.0.7:0",
            "a b:1",
            "http://x:1",
            "x:99999",
        ] {
            assert!(authority(text).is_err(), "{text}");
        }
    }

    #[test]
    fn urls_are_checked_and_their_passwords_hidden() {
        assert!(url("redis://h:1", &["redis", "rediss"]).is_ok());
        assert!(url("redis://", &["redis"]).is_err());
        assert_eq!(
            url("http://h", &["redis", "rediss"]),
            Err("write a URL that begins with redis://… or rediss://…".into())
        );
        for (url, masked) in [
            ("redis://h:1/0", "redis://h:1/0"),
            ("redis://:p@h:1/0", "redis://:***@h:1/0"),
            ("redis://u:p@w@h:1", "redis://u:***@h:1"),
            (
                "redis+sentinel://u:p@a:1,b:2/m",
                "redis+sentinel://u:***@a:1,b:2/m",
            ),
            ("redis://token@h:1", "redis://:***@h:1"),
            ("redis://u:p/q@h:1/0", "redis://u:***@h:1/0"),
            ("redis://u:p?q@h:1/0", "redis://***"),
            ("redis://u:p?q=r@h:1/0", "redis://***"),
            (
                "redis+sentinel://a:1,b:2/m?db=2&sentinel_password=s",
                "redis+sentinel://a:1,b:2/m?db=2&sentinel_password=***",
            ),
            (
                "rediss+sentinel://u:p@a:1/m?sentinel_user=x&sentinel_password=s@t",
                "rediss+sentinel://u:***@a:1/m?sentinel_user=x&sentinel_password=***",
            ),
            (
                "redis+sentinel://a:1/m?sentinel_password=s@t",
                "redis+sentinel://a:1/m?sentinel_password=***",
            ),
            (
                "https://h/keys?api_key=s&v=1",
                "https://h/keys?api_key=***&v=1",
            ),
            (
                "https://u:p@h/keys?access_token=s",
                "https://u:***@h/keys?access_token=***",
            ),
            ("plain", "plain"),
        ] {
            assert_eq!(mask_secrets(url), masked);
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert_eq!(format!("{:?}", Secret::new("hush")), "***");
    }
}
