//! Who Sentinels say is the master. Most of them are asked, and the newest configuration counts: one that has not heard of
//! a failover yet must not lead back to a master that was given up.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use super::Shared;
use super::dial::dial;
use crate::address::Host;

/// How long a Sentinel may lag behind the others.
const LAG: Duration = Duration::from_secs(30);

/// What is kept between two questions.
#[derive(Debug, Default)]
pub(super) struct Sentinels {
    connections: Mutex<HashMap<Host, MultiplexedConnection>>,
    /// The newest configuration seen, and when it was last heard of.
    newest: Mutex<Option<(u64, Instant)>>,
}

impl Sentinels {
    fn known(&self, host: &Host) -> Option<MultiplexedConnection> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(host)
            .cloned()
    }

    fn keep(&self, host: &Host, connection: Option<MultiplexedConnection>) {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match connection {
            Some(connection) => drop(connections.insert(host.clone(), connection)),
            None => drop(connections.remove(host)),
        }
    }

    /// Whether an answer may be believed. An older configuration may not, as long as the newer one was heard of lately:
    /// Sentinels that were set up afresh count from the beginning.
    fn believes(&self, epoch: u64) -> bool {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if newest.is_some_and(|(newest, heard)| epoch < newest && now - heard < LAG) {
            return false;
        }
        *newest = Some((epoch, now));
        true
    }
}

pub(super) async fn master_of(shared: &Shared, service: &str) -> Result<Host, String> {
    let hosts = &shared.address.hosts;
    let mut answers: FuturesUnordered<_> = hosts
        .iter()
        .map(|host| ask(shared, host, service))
        .collect();
    let mut heard = 0;
    let mut best = None;
    let mut trouble = String::new();
    while let Some(answer) = answers.next().await {
        match answer {
            Ok((epoch, master)) => {
                heard += 1;
                if best.as_ref().is_none_or(|(newest, _)| epoch > *newest) {
                    best = Some((epoch, master));
                }
            }
            Err(error) => trouble = error,
        }
        if heard > hosts.len() / 2 {
            break;
        }
    }
    let Some((epoch, master)) = best else {
        return Err(format!(
            "no Sentinel knows the master of {service}: {trouble}"
        ));
    };
    if !shared.sentinels.believes(epoch) {
        return Err(format!(
            "only Sentinels that lag behind answer: they still name {master}"
        ));
    }
    Ok(master)
}

async fn ask(shared: &Shared, host: &Host, service: &str) -> Result<(u64, Host), String> {
    let answer = question(shared, host, service).await;
    answer.map_err(|error| {
        shared.sentinels.keep(host, None);
        format!("{host}: {error}")
    })
}

async fn question(shared: &Shared, host: &Host, service: &str) -> Result<(u64, Host), String> {
    let failed = |error: redis::RedisError| error.to_string();
    let mut connection = match shared.sentinels.known(host) {
        Some(connection) => connection,
        None => {
            let info = shared.address.sentinel(host).map_err(failed)?;
            let connection = dial(info, &shared.options, Duration::ZERO, None)
                .await
                .map_err(failed)?;
            shared.sentinels.keep(host, Some(connection.clone()));
            connection
        }
    };
    // The first names a master from its promotion on, the second only once the other replicas follow it; but it knows the epoch.
    let mut both = redis::pipe();
    both.cmd("SENTINEL")
        .arg("GET-MASTER-ADDR-BY-NAME")
        .arg(service);
    both.cmd("SENTINEL").arg("MASTER").arg(service);
    let (address, said): (Option<(String, u16)>, HashMap<String, String>) =
        both.query_async(&mut connection).await.map_err(failed)?;
    let epoch = said
        .get("config-epoch")
        .and_then(|number| number.parse::<u64>().ok());
    match (address, epoch) {
        (Some((name, port)), Some(epoch)) => Ok((epoch, Host { name, port })),
        _ => Err("SENTINEL MASTER: unexpected reply".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sentinel_that_lags_behind_is_not_believed_but_a_new_beginning_is() {
        let sentinels = Sentinels::default();
        assert!(
            sentinels.believes(4)
                && sentinels.believes(5)
                && !sentinels.believes(4)
                && sentinels.believes(5)
        );
        tokio::time::advance(LAG).await;
        assert!(sentinels.believes(0) && sentinels.believes(1));
    }
}
