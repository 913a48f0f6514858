//! Keeps the topology up to date: asks who the masters are, opens connections, checks them, and starts over when they are lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use redis::{ProtocolVersion, Value};

use super::dial::dial;
use super::topology::{Master, Range, Topology};
use super::{Shared, checks, sentinels};
use crate::address::{Host, Layout};
use crate::backoff::Backoff;
use crate::metrics;

/// Between two rounds at least, however much is wrong.
const PAUSE: Duration = Duration::from_millis(50);

/// Which masters should be there, with their slots.
type Wanted = Vec<(Host, Vec<Range>)>;

/// Runs until the last client is gone.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(PAUSE, Duration::from_secs(1));
    loop {
        match round(&shared).await {
            Ok(topology) => {
                let complete = topology.is_complete();
                publish(&shared, topology);
                if complete {
                    backoff.reset();
                    let _ = tokio::time::timeout(
                        shared.options.check_interval,
                        shared.refresh_soon.notified(),
                    )
                    .await;
                    // Calls that fail one after the other must not make round follow round.
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            }
            Err(trouble) => publish(&shared, Topology::none(Some(trouble))),
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

fn publish(shared: &Shared, topology: Topology) {
    let before = Arc::clone(&shared.topology.borrow());
    let lost = topology.masters().is_empty();
    if before.is_same(&topology) && !(lost && before.trouble() != topology.trouble()) {
        return;
    }
    metrics::MASTERS.set(i64::try_from(topology.masters().len()).unwrap_or(i64::MAX));
    if lost && !before.masters().is_empty() {
        tracing::warn!(redis = %shared.address, trouble = topology.trouble(), "lost connection to redis, reconnecting");
    } else if lost {
        tracing::debug!(redis = %shared.address, trouble = topology.trouble(), "redis unreachable");
    } else {
        let masters: Vec<String> = topology
            .masters()
            .iter()
            .map(|master| master.host.to_string())
            .collect();
        tracing::info!(redis = %shared.address, ?masters, complete = topology.is_complete(), "connected to redis");
    }
    // While redis stays away, only the reason changes, not since when it is away.
    match lost && before.masters().is_empty() {
        true => shared
            .topology
            .send_replace(Arc::new(topology.away_since(&before))),
        false => shared.topology.send_replace(Arc::new(topology)),
    };
}

async fn round(shared: &Shared) -> Result<Topology, String> {
    let wanted = find(shared).await?;
    let before = Arc::clone(&shared.topology.borrow());
    let known: HashMap<&Host, &Arc<Master>> = before
        .masters()
        .iter()
        .map(|master| (&master.host, master))
        .collect();
    let masters = wanted.iter().map(async |(host, ranges)| {
        let master = match known.get(host) {
            Some(master) if still_good(shared, master).await => Ok(Arc::clone(master)),
            _ => open(shared, host)
                .await
                .map(Arc::new)
                .map_err(|error| format!("{host}: {error}")),
        };
        (master, ranges.clone())
    });
    let mut trouble = None;
    let mut found = Vec::new();
    for (master, ranges) in join_all(masters).await {
        match master {
            Ok(master) => found.push((master, ranges)),
            Err(error) => trouble = Some(error),
        }
    }
    match (shared.address.is_cluster(), found.pop()) {
        (_, None) => Err(trouble.unwrap_or_else(|| "no master is named".to_owned())),
        (false, Some((master, _))) => Ok(Topology::one(master)),
        (true, Some(last)) => {
            found.push(last);
            Ok(Topology::many(found, trouble))
        }
    }
}

async fn find(shared: &Shared) -> Result<Wanted, String> {
    match &shared.address.layout {
        Layout::Single => Ok(shared
            .address
            .hosts
            .iter()
            .map(|host| (host.clone(), Vec::new()))
            .collect()),
        Layout::Sentinel(service) => Ok(vec![(
            sentinels::master_of(shared, service).await?,
            Vec::new(),
        )]),
        Layout::Cluster => ask_cluster(shared).await,
    }
}

/// Any node knows the slots; those in use are asked before those of the URL.
async fn ask_cluster(shared: &Shared) -> Result<Wanted, String> {
    let before = Arc::clone(&shared.topology.borrow());
    for master in before.masters().iter().filter(|master| !master.is_broken()) {
        let slots = redis::cmd("CLUSTER")
            .arg("SLOTS")
            .query_async(&mut master.shared()[0].clone())
            .await;
        if let Ok(wanted) = slots
            .map_err(|error| error.to_string())
            .and_then(|slots| read_slots(slots, &master.host))
        {
            return Ok(wanted);
        }
    }
    let seeds = shared
        .address
        .hosts
        .iter()
        .chain(before.masters().iter().map(|master| &master.host));
    let questions = seeds.map(|host| {
        Box::pin(async move {
            let slots = async {
                let info = shared.address.server(host, ProtocolVersion::RESP2)?;
                let mut connection = dial(info, &shared.options, Duration::ZERO, None).await?;
                redis::cmd("CLUSTER")
                    .arg("SLOTS")
                    .query_async(&mut connection)
                    .await
            };
            let slots = slots
                .await
                .map_err(|error: redis::RedisError| format!("{host}: {error}"))?;
            read_slots(slots, host)
        })
    });
    let answer = futures::future::select_ok(questions).await;
    answer
        .map(|(wanted, _)| wanted)
        .map_err(|error| format!("no node of the cluster answers: {error}"))
}

/// `CLUSTER SLOTS`: [from, to, [name, port, …] of the master, replicas…]. No name: the one that was asked.
fn read_slots(slots: Value, asked: &Host) -> Result<Wanted, String> {
    let rows: Vec<Vec<Value>> =
        redis::from_redis_value(slots).map_err(|error| error.to_string())?;
    let mut wanted: Wanted = Vec::new();
    for row in rows {
        let [from, to, master, ..] = row.as_slice() else {
            return Err("CLUSTER SLOTS: unexpected reply".to_owned());
        };
        let number = |value: &Value| {
            redis::from_redis_value::<u16>(value.clone()).map_err(|error| error.to_string())
        };
        let range = (number(from)?, number(to)?);
        let node: Vec<Value> =
            redis::from_redis_value(master.clone()).map_err(|error| error.to_string())?;
        let [name, port, ..] = node.as_slice() else {
            return Err("CLUSTER SLOTS names no master".to_owned());
        };
        let name: Option<String> =
            redis::from_redis_value(name.clone()).map_err(|error| error.to_string())?;
        let name = name
            .filter(|name| !name.is_empty() && name != "?")
            .unwrap_or_else(|| asked.name.clone());
        let host = Host {
            name,
            port: number(port)?,
        };
        match wanted.iter_mut().find(|(known, _)| *known == host) {
            Some((_, ranges)) => ranges.push(range),
            None => wanted.push((host, vec![range])),
        }
    }
    match wanted.is_empty() {
        true => Err(format!(
            "{asked} knows of no slots: is the cluster created?"
        )),
        false => Ok(wanted),
    }
}

async fn open(shared: &Shared, host: &Host) -> Result<Master, String> {
    let options = &shared.options;
    let info = shared
        .address
        .server(host, ProtocolVersion::RESP2)
        .map_err(|error| error.to_string())?;
    let several = |count: usize, extra: Duration| {
        let info = &info;
        try_join_all((0..count).map(move |_| dial(info.clone(), options, extra, None)))
    };
    let connections = options.connections.max(1);
    let blocking = options.blocking;
    let dialled = tokio::try_join!(
        several(connections, Duration::ZERO),
        several(blocking, options.blocking_timeout)
    );
    let (answering, blocking) = dialled.map_err(|error| error.to_string())?;
    checks::is_master(answering[0].clone()).await?;
    checks::is_fit(answering[0].clone(), host).await?;
    let run_id = checks::run_id(&mut answering[0].clone()).await;
    metrics::RECONNECTS.inc();
    Ok(Master::new(host.clone(), run_id, answering, blocking))
}

async fn still_good(shared: &Shared, master: &Arc<Master>) -> bool {
    if master.is_broken() {
        return false;
    }
    let checks = join_all(master.shared().iter().cloned().map(checks::is_master)).await;
    let Some(trouble) = checks.into_iter().find_map(Result::err) else {
        return true;
    };
    tracing::warn!(redis = %shared.address, master = %master.host, trouble, "dropping connections to redis master");
    master.give_up();
    false
}
