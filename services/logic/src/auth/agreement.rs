//! How logic processes agree on the key of the [`seal`](super::seal): the first that asks the store has its own kept there.

use std::sync::Weak;
use std::time::Duration;

use crate::core::Core;

/// How often the store is asked for the key, and given it again where it has lost it.
const EVERY: Duration = Duration::from_secs(10);
/// The pause after a first attempt that failed; it grows to [`EVERY`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Agrees with the other processes on a key, and goes on doing so, as long as there is a core.
pub(crate) async fn run(core: Weak<Core>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(core) = core.upgrade() else { return };
        let proposed = core.seal.in_force().unwrap_or_else(rand::random);
        let agreed = core.store.grant_keys.grant_key(proposed).await;
        let known = agreed.is_ok() || core.seal.in_force().is_some();
        match agreed {
            Ok(key) => core.seal.learn(key),
            Err(error) => tracing::debug!(%error, "failed to read the key of grants, will retry"),
        }
        drop(core);
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.9..1.0))).await;
        pause = if known { EVERY } else { (pause * 2).min(EVERY) };
    }
}
