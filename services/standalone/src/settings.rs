//! What can be set, and what holds otherwise: everything on loopback, the data in `./data`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use im_logic::store::Retention;
use im_runtime::settings::Reader;

use crate::page;

/// Where rooms are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    /// In the data directory: survives the process and the machine.
    Disk,
    /// In memory: gone with the process. For tests.
    Memory,
}

/// Everything that can be set.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) connect: im_connect::Options,
    pub(crate) logic: im_logic::Options,
    pub(crate) http_listen: SocketAddr,
    pub(crate) page: page::Options,
    pub(crate) store: Store,
    pub(crate) data_dir: PathBuf,
    pub(crate) retention: Retention,
    pub(crate) ports_file: Option<PathBuf>,
}

fn here(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn text(item: &str) -> Result<String, String> {
    Ok(item.to_owned())
}

impl Settings {
    /// Asks for all of them.
    pub(crate) fn read(from: &mut Reader<'_>) -> Self {
        Self {
            connect: im_connect::settings::options(from, connect_default()),
            logic: im_logic::settings::options(from),
            http_listen: http_listen(from),
            page: page(from),
            store: store(from),
            data_dir: from
                .path(
                    "data_dir",
                    "The directory for rooms and, where none is configured, the secret. Made where it is missing.",
                )
                .or(PathBuf::from("./data")),
            retention: im_logic::settings::retention(from),
            ports_file: ports_file(from),
        }
    }
}

/// As on any node, but on loopback; and there is no other node to move to: whoever comes while this one ends is better
/// told "no" than "move".
fn connect_default() -> im_connect::Options {
    im_connect::Options {
        tcp_listen: here(3101),
        ws_listen: here(3102),
        drain_accept: Duration::ZERO,
        ..Default::default()
    }
}

fn ports_file(from: &mut Reader<'_>) -> Option<PathBuf> {
    from.group("Start");
    from
        .path("ports_file", "A file into which the addresses in use are written, as JSON, once everything answers. For scripts that let the system choose ports (`:0`).")
        .optional()
}

fn http_listen(from: &mut Reader<'_>) -> SocketAddr {
    from.group("HTTP API");
    from.address("http_listen", "Where the HTTP API is served.")
        .or(here(3111))
}

fn page(from: &mut Reader<'_>) -> page::Options {
    let default = page::Options::default();
    from.group("Page");
    page::Options {
        listen: from.address("page_listen", "Where the page is served.").or(default.listen),
        ws_url: from
            .url("page_ws_url", &["ws", "wss"], "The WebSocket address that browsers dial. Not given: the page's own host and the port of `ws_listen`.")
            .optional(),
        room: from.text("page_room", "The room that the page proposes.").or(default.room),
        guests: from
            .boolean("guests", "Whether the page gives browsers on this machine a token for the name they type. Switch it off where a proxy on this machine makes everybody look local.")
            .or(default.guests),
        guest_rooms: from
            .list("guest_rooms", "patterns", text, String::clone, "The open rooms that such a token covers; `*` stands for any run of characters.")
            .or(default.guest_rooms),
        guest_ttl: from
            .duration("guest_ttl", "How long such a token is valid. The page gets a new one by itself.")
            .within(Duration::from_secs(30)..=Duration::from_secs(86_400))
            .or(default.guest_ttl),
    }
}

fn store(from: &mut Reader<'_>) -> Store {
    from.group("Store");
    from.choice(
        "store",
        &[("disk", Store::Disk), ("memory", Store::Memory)],
        "Where rooms are kept; memory: until the process ends.",
    )
    .or(Store::Disk)
}
