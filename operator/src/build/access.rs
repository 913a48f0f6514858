//! Who may do what with a redis that the operator runs. Everything follows from the one password that is kept: another one
//! for connect, what redis and Sentinel read, and the URLs with which logic, the operator and connect come.
//!
//! connect processes face the internet and need little of redis: they hear rooms, and ask who is the master. Theirs is a
//! user of its own that can neither read nor write what is stored.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::names::{REDIS_PORT, SENTINEL_PORT, SENTINEL_REPLICAS, pod_host};
use crate::api::{RedisMode, Tier};

/// Connect's user.
const CONNECT: &str = "connect";
/// What it may ask a redis: to hear rooms (im-redis-bus names the channels), and what a client must know of a server.
const CONNECT_RULES: &str =
    "resetkeys resetchannels &im:r:* -@all +ssubscribe +sunsubscribe +ping +role +info";
/// What it may ask a Sentinel.
const CONNECT_SENTINEL_RULES: &str =
    "resetkeys resetchannels -@all +sentinel|master +sentinel|get-master-addr-by-name +ping";
/// Where redis finds the Secret's files.
pub(super) const SECRET_FOLDER: &str = "/etc/imcluster/redis";
/// Where redis and Sentinel find their users.
pub(super) const USERS_FILE: &str = "users.acl";

/// All that the Secret `NAME-redis` holds: the password, the URLs with it and with connect's, and what redis and Sentinel read
/// of both. `password` is plain: letters and digits.
pub fn redis_secret(
    cluster: &str,
    namespace: &str,
    mode: RedisMode,
    password: &str,
) -> BTreeMap<String, String> {
    let for_connect = connect_password(password);
    let users = |rules: &str| {
        let (all, connect) = (hash(password), hash(&for_connect));
        format!("user default on #{all} ~* &* +@all\nuser {CONNECT} on #{connect} {rules}\n")
    };
    let folder = SECRET_FOLDER;
    [
        ("password", password.to_owned()),
        ("url", redis_url(cluster, namespace, mode, None, password)),
        (
            "connect-url",
            redis_url(cluster, namespace, mode, Some(CONNECT), &for_connect),
        ),
        (
            "redis.conf",
            format!("aclfile {folder}/{USERS_FILE}\nmasterauth {password}\n"),
        ),
        ("redis-users.acl", users(CONNECT_RULES)),
        (
            "sentinel.conf",
            format!("aclfile {folder}/{USERS_FILE}\nsentinel sentinel-pass {password}\n"),
        ),
        ("sentinel-users.acl", users(CONNECT_SENTINEL_RULES)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn redis_url(
    cluster: &str,
    namespace: &str,
    mode: RedisMode,
    user: Option<&str>,
    password: &str,
) -> String {
    let name = user.unwrap_or_default();
    match mode {
        RedisMode::Sentinel => {
            let sentinel = |ordinal| {
                format!(
                    "{}:{SENTINEL_PORT}",
                    pod_host(cluster, namespace, Tier::Sentinel, ordinal)
                )
            };
            let hosts: Vec<String> = (0..SENTINEL_REPLICAS).map(sentinel).collect();
            let user = user
                .map(|user| format!("sentinel_user={user}&"))
                .unwrap_or_default();
            let hosts = hosts.join(",");
            format!(
                "rediss+sentinel://{name}:{password}@{hosts}/{cluster}?{user}sentinel_password={password}"
            )
        }
        RedisMode::Single | RedisMode::External => {
            format!(
                "rediss://{name}:{password}@{}:{REDIS_PORT}",
                pod_host(cluster, namespace, Tier::Redis, 0)
            )
        }
    }
}

/// Nobody finds the password from this one.
fn connect_password(password: &str) -> String {
    hash(&format!("{CONNECT} {password}"))
}

/// SHA-256 in hexadecimal digits, as redis keeps passwords.
fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_is_given_nothing_that_opens_more() {
        for mode in [RedisMode::Single, RedisMode::Sentinel] {
            let secret = redis_secret("shop", "chat", mode, "hush");
            assert!(secret["url"].contains(":hush@"), "{secret:?}");
            assert!(!secret["connect-url"].contains("hush"), "{secret:?}");
            let own = connect_password("hush");
            assert!(
                secret["connect-url"].starts_with("rediss") && secret["connect-url"].contains(&own),
                "{secret:?}"
            );
            for users in ["redis-users.acl", "sentinel-users.acl"] {
                assert!(
                    secret[users].contains(&format!("user connect on #{} ", hash(&own))),
                    "{secret:?}"
                );
                assert!(
                    !secret[users].contains("hush") && !secret[users].contains(&own),
                    "only hashes: {secret:?}"
                );
            }
        }
    }
}
