//! The seal under which connect keeps grants: a code that only logic can write (HMAC-SHA-256, cut to 16 bytes). Its key is one
//! for the cluster and lives in the store, where connect processes may not read: whoever has taken one of them over, or
//! reaches logic's port, has the rights of the connections that are there and no others.

use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use hmac::{Hmac, Mac};
use prost::Message as _;
use sha2::Sha256;
use tokio::sync::watch;

use super::Error;
use super::grant::Grant;
use crate::error::Result;
use crate::store::{self, GrantKey as Key};

/// Of the code behind a grant.
const CODE_BYTES: usize = 16;
/// Keys that are accepted: a store that was emptied, or whose failover lost the key, may have got another one meanwhile.
const MAX_KEYS: usize = 4;
/// How long somebody waits for the key of a process that has just started.
const TIMEOUT: Duration = Duration::from_secs(2);

type Code = Hmac<Sha256>;

struct Known {
    key: Key,
    code: Code,
}

/// The keys that this process knows; the first is in force.
pub(crate) struct Seal {
    keys: ArcSwap<Vec<Known>>,
    known: watch::Sender<bool>,
}

impl Default for Seal {
    fn default() -> Self {
        Self {
            keys: ArcSwap::default(),
            known: watch::Sender::new(false),
        }
    }
}

impl Seal {
    /// The grant as connect keeps it: opaque to everybody but logic.
    ///
    /// # Errors
    /// No key is known yet.
    pub(crate) fn close(&self, grant: &Grant) -> Result<Bytes> {
        let keys = self.keys.load();
        let code = &keys.first().ok_or_else(unknown)?.code;
        let mut sealed = grant.encode_to_vec();
        let code = code.clone().chain_update(&sealed).finalize().into_bytes();
        sealed.extend_from_slice(&code[..CODE_BYTES]);
        Ok(sealed.into())
    }

    /// The grant, as a call brings it back.
    ///
    /// # Errors
    /// [`Error::NoGrant`] where there is none, where it is not as logic sealed it, or where it is not understood.
    pub(crate) fn open(&self, sealed: &[u8]) -> Result<Grant> {
        let (grant, shown) = sealed
            .split_last_chunk::<CODE_BYTES>()
            .ok_or(Error::NoGrant)?;
        let keys = self.keys.load();
        if keys.is_empty() {
            return Err(unknown());
        }
        let ours = |one: &Known| {
            one.code
                .clone()
                .chain_update(grant)
                .verify_truncated_left(shown)
                .is_ok()
        };
        if !keys.iter().any(ours) {
            return Err(Error::NoGrant.into());
        }
        Ok(Grant::read(grant)?)
    }

    /// Waits for the key of a process that has just started: until it is there nobody is let in.
    pub(crate) async fn ready(&self) -> Result<()> {
        let mut known = self.known.subscribe();
        match tokio::time::timeout(TIMEOUT, known.wait_for(|known| *known)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(unknown()),
        }
    }

    /// The key in force; `None` before the first was learned.
    pub(super) fn in_force(&self) -> Option<Key> {
        self.keys.load().first().map(|known| known.key)
    }

    /// Takes the store's key. Those before it stay good.
    pub(crate) fn learn(&self, key: Key) {
        if self.in_force() != Some(key) {
            let code = Code::new_from_slice(&key).expect("keys of any length are good");
            self.keys.rcu(|keys| {
                let before = keys.iter().filter(|known| known.key != key);
                let before = before.map(|known| Known {
                    key: known.key,
                    code: known.code.clone(),
                });
                std::iter::once(Known {
                    key,
                    code: code.clone(),
                })
                .chain(before)
                .take(MAX_KEYS)
                .collect::<Vec<_>>()
            });
        }
        self.known.send_replace(true);
    }
}

fn unknown() -> crate::error::Error {
    store::Error::Unavailable("the key of the cluster's grants has not been read yet".to_owned())
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> Grant {
        Grant {
            version: Grant::VERSION,
            user: "ann".to_owned(),
            device: "phone".to_owned(),
            ..Grant::default()
        }
    }

    fn seal(key: u8) -> Seal {
        let seal = Seal::default();
        seal.learn([key; 32]);
        seal
    }

    fn refused(opened: Result<Grant>) -> bool {
        matches!(opened, Err(crate::error::Error::Auth(Error::NoGrant)))
    }

    #[test]
    fn a_grant_comes_back_as_it_was() {
        let seal = seal(1);
        assert_eq!(seal.open(&seal.close(&grant()).unwrap()).unwrap(), grant());
    }

    #[test]
    fn what_logic_has_not_sealed_is_refused() {
        let seal = seal(1);
        let good = seal.close(&grant()).unwrap();
        assert!(refused(seal.open(&[])));
        assert!(refused(seal.open(&grant().encode_to_vec())), "no code");
        let admin = Grant {
            admin: true,
            ..grant()
        }
        .encode_to_vec();
        assert!(
            refused(seal.open(&[&admin, &good[good.len() - CODE_BYTES..]].concat())),
            "the code of another grant"
        );
        for at in 0..good.len() {
            let mut changed = good.to_vec();
            changed[at] ^= 1;
            assert!(refused(seal.open(&changed)), "byte {at} changed");
            assert!(refused(seal.open(&good[..at])), "cut at {at}");
        }
        assert!(
            refused(seal.open(&self::seal(2).close(&grant()).unwrap())),
            "of another cluster"
        );
    }

    #[test]
    fn the_keys_before_stay_good_for_a_while() {
        let seal = seal(0);
        let first = seal.close(&grant()).unwrap();
        for key in 1..4 {
            seal.learn([key; 32]);
            assert!(seal.open(&first).is_ok(), "{key} keys later");
        }
        seal.learn([4; 32]);
        assert!(refused(seal.open(&first)));
        seal.learn([2; 32]);
        assert!(
            self::seal(2).open(&seal.close(&grant()).unwrap()).is_ok(),
            "the store's key is the one in force"
        );
    }

    #[test]
    fn without_a_key_nothing_is_sealed_and_the_call_may_be_made_again() {
        let none = Seal::default();
        for error in [
            none.close(&grant()).unwrap_err(),
            none.open(&[0; 40]).unwrap_err(),
        ] {
            assert!(error.fault().retryable, "{error}");
        }
    }
}
