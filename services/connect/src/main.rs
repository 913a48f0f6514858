//! A cluster's connect process: bound, found by the others, then serving until it is told to leave.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use im_connect::downlink::redis::RedisBus;
use im_connect::settings::cluster::{DRAIN, PROGRAM, Settings};
use im_connect::uplink::grpc::GrpcLogic;
use im_connect::{Handle, Options, Parts, Service, drain, serve};
use im_discovery::{Kind, Node, Registration, Watch};
use im_runtime::tls::Tls;
use im_runtime::{Process, Shutdown, version};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long a first start waits for logic before it counts as ready all the same.
const LOGIC_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the number of connections is written to etcd.
const LOAD_INTERVAL: Duration = Duration::from_secs(10);

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
    settings.redis.tls.clone_from(&tls);
    settings.uplink.pool.tls.clone_from(&tls);
    if settings.peer_secret.is_none() && tls.is_none() {
        tracing::warn!(
            "neither peer_secret nor TLS: whoever runs on this machine may call the internal gRPC port"
        );
    }
    let serving = admin.readiness().latch("not draining");
    let found = admin.readiness().latch("logic has been found");

    let logic_nodes = Watch::start(settings.etcd.clone(), Kind::Logic);
    let logic = Arc::new(GrpcLogic::start(settings.uplink.clone(), logic_nodes));
    let redis = im_redis_bus::Client::start(settings.redis.clone())?;
    let parts = Parts {
        logic: Arc::clone(&logic) as _,
        bus: Arc::new(RedisBus::new(&redis)),
        logic_losses: Some(logic.losses()),
    };
    let options = Options {
        node: node.clone(),
        drain_deadline: shutdown.grace(),
        ..settings.node.clone()
    };
    let service = Service::bind(options, parts)?;
    let grpc = TcpListener::bind(settings.grpc_listen).await;
    let grpc = grpc.with_context(|| format!("grpc_listen {}", settings.grpc_listen))?;
    let grpc_port = grpc.local_addr()?.port();

    let handle = service.spawn(&tasks, admin.liveness())?;
    let end = CancellationToken::new();
    tasks.spawn(
        "gRPC server",
        serve::serve(
            handle.clone(),
            grpc,
            tls,
            settings.peer_secret.clone(),
            end.clone(),
        ),
    );
    let drain_page = handle.clone();
    admin.add_json("/drain", move || drain::page(&drain_page));
    let entry = entry(&settings, &node, grpc_port);
    let registration = Arc::new(Registration::start(
        settings.etcd.clone(),
        Kind::Connect,
        entry,
    ));
    serving.set();
    tasks.spawn(
        "load report",
        report_load(
            Arc::downgrade(&registration),
            handle.clone(),
            shutdown.clone(),
        ),
    );
    tokio::spawn(async move {
        if tokio::time::timeout(LOGIC_TIMEOUT, logic.reached())
            .await
            .is_err()
        {
            tracing::warn!(
                "no logic process discovered yet; reporting ready, clients are asked to retry"
            );
        }
        found.set();
    });
    tracing::info!(tcp = %handle.tcp_address(), ws = %handle.ws_address(), grpc_port, "serving");

    shutdown.begun().await;
    serving.clear();
    registration.update(|entry| entry.draining = true);
    let drained = handle.drain(shutdown.remaining(), Vec::new()).await;
    tracing::info!(
        initial = drained.initial,
        forced = drained.forced,
        "drained"
    );
    end.cancel();
    if let Some(registration) = Arc::into_inner(registration) {
        registration.revoke().await;
    }
    Ok(())
}

fn entry(settings: &Settings, node: &str, grpc_port: u16) -> Node {
    let address = settings.advertise.clone();
    let address =
        address.unwrap_or_else(|| im_runtime::own_address(settings.grpc_listen.ip(), grpc_port));
    let clients = [
        ("tcp", &settings.advertise_tcp),
        ("ws", &settings.advertise_ws),
    ];
    let clients = clients
        .into_iter()
        .filter_map(|(port, address)| Some((port.to_owned(), address.clone()?)));
    Node {
        zone: settings.zone.clone(),
        clients: clients.collect(),
        ..Node::new(node, address, version::VERSION)
    }
}

async fn report_load(
    registration: std::sync::Weak<Registration>,
    handle: Handle,
    shutdown: Shutdown,
) -> Result<(), std::convert::Infallible> {
    let mut every = tokio::time::interval(LOAD_INTERVAL);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = shutdown.begun() => return Ok(()),
        }
        let Some(registration) = registration.upgrade() else {
            return Ok(());
        };
        registration.update(|entry| entry.load = handle.connections() as u64);
    }
}
