//! Waiting for something to become true. Every wait has a timeout.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Calls `probe` every 25 ms until it returns `Some`, for at most `timeout`.
pub async fn until<T, F>(what: &str, timeout: Duration, mut probe: F) -> Result<T>
where
    F: AsyncFnMut() -> Option<T>,
{
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = probe().await {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("timed out after {timeout:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Calls `probe` twice a second until it succeeds, for at most `timeout`: how long that took. A timeout carries the last error.
pub(crate) async fn until_ok(
    what: &str,
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> Result<()>,
) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        match probe().await {
            Ok(()) => return Ok(begun.elapsed()),
            Err(error) if begun.elapsed() > timeout => {
                return Err(error.context(format!("timed out after {timeout:?}: {what}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}
