//! A cluster's logic process: bound, found by the others, then serving until it is told to leave.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use im_discovery::{Kind, Node, Registration, Watch};
use im_logic::options::Drain;
use im_logic::peers::Peers;
use im_logic::settings::cluster::{DRAIN, PROGRAM, Settings};
use im_logic::store::Store;
use im_logic::store::redis::RedisStore;
use im_logic::{Options, Service};
use im_runtime::tls::Tls;
use im_runtime::{Process, version};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    im_runtime::run(PROGRAM, DRAIN, Settings::read, run)
}

async fn run(mut settings: Settings, process: Process) -> Result<()> {
    let Process {
        node,
        admin,
        shutdown,
        tasks,
    } = process;
    let tls = settings.tls.clone().map(Tls::load).transpose()?;
    if let Some(tls) = &tls {
        tasks.spawn("certificates", Arc::clone(tls).follow(shutdown.clone()));
    }
    settings.etcd.tls.clone_from(&tls);
    settings.store.tls.clone_from(&tls);
    settings.peers.pool.tls.clone_from(&tls);
    if settings.logic.uplink.secret.is_none() && tls.is_none() {
        tracing::warn!(
            "neither peer_secret nor TLS is configured: anyone on this machine may call the internal gRPC port"
        );
    }
    let ending = shutdown.clone();
    let serving = admin.readiness().latch("not draining");
    let store = Arc::new(RedisStore::start(settings.store.clone())?);
    let peers = Peers::start(
        settings.peers.clone(),
        Watch::start(settings.etcd.clone(), Kind::Connect),
    )?;
    let drain = Drain {
        at_least: settings.drain_at_least.min(shutdown.grace()),
        at_most: shutdown.grace(),
    };
    let options = Options {
        drain,
        ..settings.logic.clone()
    };
    let service = Arc::new(Service::new(
        options,
        Store::new(Arc::clone(&store)),
        Arc::new(peers),
    )?);
    let bind = async |field: &str, address| {
        TcpListener::bind(address)
            .await
            .with_context(|| format!("{field} {address}"))
    };
    let http = bind("http_listen", settings.http_listen).await?;
    let grpc = bind("grpc_listen", settings.grpc_listen).await?;
    let http_address = http.local_addr()?;
    let grpc_address = grpc.local_addr()?;

    let over_http = Arc::clone(&service);
    let over_grpc = Arc::clone(&service);
    tasks.spawn("HTTP server", async move {
        over_http.serve_http(http).await;
        Ok::<_, std::convert::Infallible>(())
    });
    let tls = tls.map(|tls| (tls, Kind::Connect.certificate_name()));
    tasks.spawn("gRPC server", async move {
        over_grpc.serve_grpc(grpc, tls).await
    });
    let sharing = Arc::clone(&service);
    let mut others = Watch::start(settings.etcd.clone(), Kind::Logic);
    tasks.spawn("count of logic processes", async move {
        loop {
            sharing.shared_by(others.nodes().len());
            tokio::select! {
                () = others.changed() => {}
                () = ending.begun() => return Ok::<_, std::convert::Infallible>(()),
            }
        }
    });
    let entry = entry(&settings, &node, grpc_address.port());
    let registration = Registration::start(settings.etcd.clone(), Kind::Logic, entry);
    serving.set();
    tracing::info!(http = %http_address, grpc = %grpc_address, "serving");

    shutdown.begun().await;
    serving.clear();
    registration.update(|entry| entry.draining = true);
    let ended = service.drain().await;
    tracing::info!(cut = !ended, "drained");
    registration.revoke().await;
    store.close().await;
    Ok(())
}

fn entry(settings: &Settings, node: &str, grpc_port: u16) -> Node {
    let address = settings.advertise.clone();
    let address =
        address.unwrap_or_else(|| im_runtime::own_address(settings.grpc_listen.ip(), grpc_port));
    let clients = settings
        .advertise_http
        .clone()
        .map(|address| ("http".to_owned(), address));
    Node {
        zone: settings.zone.clone(),
        clients: clients.into_iter().collect(),
        ..Node::new(node, address, version::VERSION)
    }
}
