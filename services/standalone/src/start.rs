//! From settings to a running process, and from the signal to its end.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use im_connect::Parts;
use im_logic::auth;
use im_logic::nodes::Node;
use im_logic::options::Drain;
use im_logic::store::Store;
use im_logic::store::embedded::{self, EmbeddedStore};
use im_runtime::{Process, version};
use tokio::net::TcpListener;

use crate::addresses::{Addresses, Secret};
use crate::bus::{self, LocalBus};
use crate::local::{LocalLogic, OneNode};
use crate::page::{self, Page, Signer};
use crate::settings::{self, Settings};
use crate::{data, secret};

/// The program's body: builds, serves, waits for the signal, drains.
pub(crate) async fn run(mut settings: Settings, process: Process) -> anyhow::Result<()> {
    let ready = process.admin.readiness().latch("clients are served");
    data::prepare(&settings.data_dir)?;
    bus::register();
    let bus = LocalBus::default();
    let store = open(&settings, &bus)?;
    // Only now, when the store's lock says that nobody else uses the directory.
    let made = own_secret(&mut settings)?;

    // By then the clients have gone, and nobody else needs to learn of it.
    settings.logic.drain = Drain {
        at_least: Duration::ZERO,
        at_most: process.shutdown.remaining(),
    };
    let nodes = OneNode::default();
    settings.logic.auth.guest_prefix = page::GUEST_PREFIX.to_owned();
    let logic = im_logic::Service::new(
        settings.logic.clone(),
        Store::new(Arc::clone(&store)),
        Arc::new(nodes.clone()),
    )?;
    let (http, page) = bind(&settings).await?;
    settings.connect.node.clone_from(&process.node);
    let parts = Parts {
        logic: Arc::new(LocalLogic(logic.handle())),
        bus: Arc::new(bus),
        logic_losses: None,
    };
    let connect = im_connect::Service::bind(settings.connect.clone(), parts)?
        .spawn(&process.tasks, process.admin.liveness())?;

    let addresses = Addresses {
        tcp: connect.tcp_address(),
        ws: connect.ws_address(),
        http: http.local_addr()?,
        page: page.local_addr()?,
        admin: process.admin.address(),
    };
    nodes.bound(node(&process, &addresses), connect.clone());
    let logic = Arc::new(logic);
    let api = Arc::clone(&logic);
    process.tasks.spawn("HTTP API", async move {
        api.serve_http(http).await;
        Ok::<_, io::Error>(())
    });
    let routes = page::router(Arc::new(served(&settings, addresses.ws.port())));
    process
        .tasks
        .spawn("page", page::serve(page, routes, process.shutdown.token()));

    ready.set();
    tell(&settings, &addresses, made.as_deref())?;
    process.shutdown.begun().await;
    ready.clear();
    let drained = connect
        .drain(process.shutdown.remaining(), Vec::new())
        .await;
    tracing::info!(
        clients = drained.initial,
        closed = drained.forced,
        "clients have been told to come back later"
    );
    if !logic.drain().await {
        tracing::warn!("calls were still under way at the end");
    }
    store.close().await;
    Ok(())
}

fn open(settings: &Settings, bus: &LocalBus) -> anyhow::Result<Arc<EmbeddedStore>> {
    let folder = match settings.store {
        settings::Store::Disk => Some(settings.data_dir.clone()),
        settings::Store::Memory => None,
    };
    let options = embedded::Options {
        folder,
        retention: settings.retention.clone(),
        ..embedded::Options::default()
    };
    Ok(Arc::new(EmbeddedStore::open(
        options,
        Arc::new(bus.clone()),
    )?))
}

/// Where no key is configured, the one that is kept in the data directory becomes it. Returns its file then.
fn own_secret(settings: &mut Settings) -> Result<Option<PathBuf>, secret::Error> {
    let auth = &mut settings.logic.auth;
    if !auth.hs256_secrets.is_empty() || !auth.public_key_files.is_empty() {
        return Ok(None);
    }
    auth.hs256_secrets
        .push(auth::Secret::new(secret::read_or_make(&settings.data_dir)?));
    Ok(Some(settings.data_dir.join(secret::FILE)))
}

/// Binds what this crate itself serves. Every address that is taken is named, not only the first.
async fn bind(settings: &Settings) -> anyhow::Result<(TcpListener, TcpListener)> {
    let connect = &settings.connect;
    let (http, page) = (
        listen("http_listen", settings.http_listen).await,
        listen("page_listen", settings.page.listen).await,
    );
    // connect binds its own, several times over; here it is only found out whether it will be able to.
    let tcp = listen("tcp_listen", connect.tcp_listen).await;
    let ws = listen("ws_listen", connect.ws_listen).await;
    let taken: Vec<String> = [
        http.as_ref().err(),
        page.as_ref().err(),
        tcp.as_ref().err(),
        ws.as_ref().err(),
    ]
    .into_iter()
    .flatten()
    .cloned()
    .collect();
    match (http, page) {
        (Ok(http), Ok(page)) if taken.is_empty() => Ok((http, page)),
        _ => bail!("cannot listen:\n  {}", taken.join("\n  ")),
    }
}

async fn listen(key: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another program listens there: end it, or choose another address"
            }
            _ => "choose another address",
        };
        let variable = key.to_ascii_uppercase();
        let flag = key.replace('_', "-");
        format!("{key} = {address}: {error}: {remedy} with IM_{variable} or --{flag}")
    })
}

fn node(process: &Process, addresses: &Addresses) -> Node {
    Node {
        name: process.node.clone(),
        version: version::VERSION.to_owned(),
        tcp: addresses.tcp.to_string(),
        ws: addresses.ws.to_string(),
        ..Node::default()
    }
}

fn served(settings: &Settings, ws_port: u16) -> Page {
    let auth = &settings.logic.auth;
    let secret = auth.hs256_secrets.first();
    let signer = secret.map(|secret| Signer::new(secret.expose(), &auth.issuer, &auth.audience));
    Page {
        options: settings.page.clone(),
        ws_port,
        signer,
    }
}

/// Tells people on standard output and programs in a file.
fn tell(settings: &Settings, addresses: &Addresses, made: Option<&Path>) -> anyhow::Result<()> {
    let data = match settings.store {
        settings::Store::Disk => settings.data_dir.display().to_string(),
        settings::Store::Memory => "in memory: gone when the process ends".to_owned(),
    };
    let greeting = addresses.greeting(&data, &made.map_or(Secret::Configured, Secret::File));
    // Where nobody can read it, it is not needed.
    let _ = writeln!(io::stdout(), "{greeting}");
    if let Some(path) = &settings.ports_file {
        addresses
            .write(path)
            .with_context(|| format!("IM_PORTS_FILE {}", path.display()))?;
    }
    Ok(())
}
