//! Renewed certificates of redis and Sentinel: redis is told to read its files anew, Sentinels, which cannot, restart one at
//! a time. Connect, logic and etcd look at their files themselves.

use crate::api::Tier;
use crate::context::Context;
use crate::kubernetes::key::Key;
use crate::secrets::Known;
use crate::tiers::presented::is_current;
use crate::tiers::redis;
use crate::tiers::redis::decide::Sentinel;
use crate::tiers::stateful;
use crate::{build, metrics};

const fn port(number: i32) -> u16 {
    number.unsigned_abs() as u16
}

/// Sees to the servers that show another certificate than they should. Until a pod's volume has the new files, which takes
/// the kubelet a minute or two, it shows the old one; it is seen to again the next time.
pub async fn round(context: &Context, key: &Key, known: &Known, seen: &redis::decide::Observed) {
    if let Some(wanted) = &known.redis_certificate {
        for server in seen.servers.iter().filter(|server| server.answer.is_some()) {
            // Whom it believes does not show.
            if known.change.is_none() && is_current(&server.host, port(build::REDIS_PORT), wanted, known).await {
                continue;
            }
            match redis::act::renew(&server.host, build::REDIS_PORT, known, build::TLS_FOLDER).await {
                Ok(()) => {
                    metrics::CERTIFICATES.with_label_values(&[Tier::Redis.name()]).inc();
                    tracing::info!(cluster = %key, host = server.host, "redis reads its certificate anew");
                }
                Err(error) => tracing::warn!(cluster = %key, host = server.host, %error, "redis keeps its certificate"),
            }
        }
    }
    let Some(wanted) = &known.sentinel_certificate else { return };
    if !seen.sentinels.iter().all(Sentinel::knows_one) {
        return;
    }
    for place in (0..seen.sentinels.len()).rev() {
        let ordinal = i32::try_from(place).unwrap_or(i32::MAX);
        let host = context.pod_host(key, Tier::Sentinel, ordinal);
        if is_current(&host, port(build::SENTINEL_PORT), wanted, known).await {
            continue;
        }
        match stateful::end(context, key, Tier::Sentinel, place).await {
            Ok(()) => {
                metrics::CERTIFICATES.with_label_values(&[Tier::Sentinel.name()]).inc();
                tracing::info!(cluster = %key, host, "a Sentinel restarts with its renewed certificate");
            }
            Err(error) => tracing::warn!(cluster = %key, host, %error, "a Sentinel keeps its certificate"),
        }
        // The next one when this one is back.
        return;
    }
}
