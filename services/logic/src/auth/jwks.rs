//! Keys of tokens that somebody else keeps: a JSON Web Key Set (RFC 7517), fetched at the start, again and again, and when
//! a token names a key that is not in it. What was fetched last stays in use while its source cannot be reached.

mod fetch;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use prometheus::{IntCounterVec, register_int_counter_vec};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;

use super::key::Key;
use super::token::Verifier;
use crate::phase::{Phase, reached};

pub(crate) use fetch::Source;
pub use fetch::check;

/// Not more often than this, however many unknown keys are named.
const PAUSE: Duration = Duration::from_secs(10);
/// After a failure, first this long and then twice as long each time, up to the next.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

static FETCHES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Fetches of the key set that tokens are checked with, by result: ok or failed.";
    register_int_counter_vec!("im_logic_jwks_fetches_total", help, &["result"])
        .expect("registered once")
});

/// Why there is no key set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its source cannot be reached, or does not speak as it should.
    #[error("{0}")]
    Unreachable(String),
    /// Not answered with 200.
    #[error("answered with status {0}")]
    Status(u16),
    /// Larger than a key set is.
    #[error("longer than {0} bytes")]
    TooLarge(usize),
    /// Not answered in time.
    #[error("not answered within {0:?}")]
    Timeout(Duration),
    /// No JSON, or no key set.
    #[error("no JSON Web Key Set: {0}")]
    Malformed(serde_json::Error),
    /// Nothing in it can be used.
    #[error("no key of kind P-256, Ed25519 or RSA in it")]
    NoKeys,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// The keys of a set that can be used, with their names. Others are passed over, as RFC 7517, 5 has it.
fn keys(set: &[u8]) -> Result<Vec<(Option<String>, Key)>, Error> {
    let set: Set = serde_json::from_slice(set).map_err(Error::Malformed)?;
    let read = |value: Value| {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        Some((jwk.common.key_id.clone(), Key::jwk(&jwk)?))
    };
    let keys: Vec<_> = set.keys.into_iter().filter_map(read).collect();
    if keys.is_empty() {
        Err(Error::NoKeys)
    } else {
        Ok(keys)
    }
}

/// Fetches until logic ends or is gone, every `refresh` and sooner where a token names an unknown key.
pub(crate) async fn keep_fetching(
    source: Source,
    verifier: Arc<Verifier>,
    refresh: Duration,
    mut phase: watch::Receiver<Phase>,
) {
    let fetching = async {
        let mut retry = FIRST_RETRY;
        loop {
            let fetched = source.fetch().await.and_then(|set| keys(&set));
            FETCHES
                .with_label_values(&[if fetched.is_ok() { "ok" } else { "failed" }])
                .inc();
            match fetched {
                Ok(keys) => {
                    tracing::debug!(url = source.url(), keys = keys.len(), "fetched the key set");
                    verifier.replace(keys);
                    retry = FIRST_RETRY;
                    until_next(&verifier, refresh).await;
                }
                Err(error) => {
                    tracing::warn!(url = source.url(), %error, "failed to fetch the key set; keeping the last known one");
                    tokio::time::sleep(jittered(retry)).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        }
    };
    tokio::select! {
        () = fetching => {}
        () = reached(&mut phase, Phase::Ending) => {}
    }
}

async fn until_next(verifier: &Verifier, refresh: Duration) {
    let soon = async {
        tokio::time::sleep(PAUSE).await;
        verifier.wanted().await;
    };
    tokio::select! {
        () = soon => {}
        () = tokio::time::sleep(jittered(refresh.max(PAUSE))) => {}
    }
}

/// Within a tenth of it, so that many processes do not ask at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.9..=1.1))
}

#[cfg(test)]
mod tests;
