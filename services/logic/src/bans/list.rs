//! This process's copy of the list of bans: read from the store several times a second, in force while the store is away,
//! and asked with every call.

use std::net::IpAddr;
use std::sync::{LazyLock, Mutex, PoisonError, RwLockReadGuard};
use std::time::{Duration, Instant};

use im_proto::bans::{Applied, Bans, Book, Kind, Who};
use im_proto::v1::{AskBans, Ban, BanChanges};
use im_runtime::clock;
use prometheus::{IntCounterVec, IntGauge, register_int_counter_vec, register_int_gauge};
use tokio::sync::watch;

use crate::auth;
use crate::auth::grant::Grant;
use crate::auth::metrics::count_failure;
use crate::error::Result;
use crate::store;

const ONCE: &str = "each metric is registered once, under a name of its own";

static NOTED: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "im_logic_bans",
        "Bans and revocations in the list, as this process knows it."
    )
    .expect(ONCE)
});

static REFUSALS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help =
        "Tokens, calls and HTTP requests refused by a ban or revocation, by what it is about.";
    register_int_counter_vec!("im_logic_ban_refusals_total", help, &["kind"]).expect(ONCE)
});

/// Makes the metrics here visible from the start, with nothing counted yet.
pub(crate) fn declare_metrics() {
    LazyLock::force(&NOTED);
    LazyLock::force(&REFUSALS);
}

/// How long somebody waits for the list of a process that has just started.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Lines about refusals per second in the audit log; the others are counted.
const LINES_PER_SECOND: u32 = 10;

/// This process's copy.
pub(crate) struct BanList {
    bans: Bans,
    /// Whether the store has been read to the end once.
    complete: watch::Sender<bool>,
    /// Answers of the store are taken one after the other.
    asking: tokio::sync::Mutex<()>,
    lines: Mutex<Lines>,
}

impl Default for BanList {
    fn default() -> Self {
        Self {
            bans: Bans::default(),
            complete: watch::Sender::new(false),
            asking: tokio::sync::Mutex::default(),
            lines: Mutex::new(Lines {
                since: Instant::now(),
                written: 0,
                left_out: 0,
            }),
        }
    }
}

/// How much has been written about refusals.
struct Lines {
    since: Instant,
    written: u32,
    left_out: u64,
}

impl BanList {
    /// Brings the copy up to date.
    pub(crate) async fn refresh(&self, store: &dyn store::Bans) -> store::Result<()> {
        let _turn = self.asking.lock().await;
        loop {
            let changes = store.bans(self.bans.known()).await?;
            if let Applied::All { .. } = self.bans.apply(changes) {
                break;
            }
        }
        NOTED.set(i64::try_from(self.bans.read().len()).unwrap_or(i64::MAX));
        self.complete.send_replace(true);
        Ok(())
    }

    /// Waits for the list of a process that has just started: until it is there nobody is let in.
    pub(crate) async fn loaded(&self) -> Result<()> {
        let mut complete = self.complete.subscribe();
        let loaded = complete.wait_for(|complete| *complete);
        match tokio::time::timeout(TIMEOUT, loaded).await {
            Ok(_) => Ok(()),
            Err(_) => Err(store::Error::Unavailable(
                "the list of bans has not been read yet".to_owned(),
            )
            .into()),
        }
    }

    /// The list as it is now.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Book> {
        self.bans.read()
    }

    /// What has changed after what a node knows.
    pub(crate) async fn since(&self, ask: &AskBans) -> Result<BanChanges> {
        self.loaded().await?;
        Ok(self.bans.read().since(ask))
    }

    /// Refuses who is banned, or whose token is of a time that is over.
    pub(crate) fn refuse(&self, grant: &Grant, address: Option<IpAddr>) -> Result<()> {
        let Grant { user, device, .. } = grant;
        let device_unproven = grant.device_unproven;
        let issued_ms = grant.issued_ms;
        self.check(&Who {
            user,
            device,
            device_unproven,
            issued_ms,
            address,
        })
    }

    /// Refuses whoever comes from a banned address. Not for administrators: a range that was banned by mistake could not
    /// be unbanned from within.
    pub(crate) fn refuse_address(&self, address: IpAddr) -> Result<()> {
        self.check(&Who {
            address: Some(address.to_canonical()),
            ..Who::default()
        })
    }

    fn check(&self, who: &Who<'_>) -> Result<()> {
        let Some((kind, ban)) = self.bans.refuses(who, clock::unix_ms) else {
            return Ok(());
        };
        REFUSALS.with_label_values(&[kind.name()]).inc();
        let error = match kind {
            Kind::Tokens => auth::Error::Revoked,
            Kind::User => auth::Error::Banned {
                what: "the user",
                until_ms: ban.until_ms,
            },
            Kind::UserDevice | Kind::Device => auth::Error::Banned {
                what: "the device",
                until_ms: ban.until_ms,
            },
            Kind::Address => auth::Error::Banned {
                what: "the address",
                until_ms: ban.until_ms,
            },
        };
        count_failure(&error);
        self.log_refusal(who, &ban);
        Err(error.into())
    }

    /// A line in the audit log, so many per second.
    fn log_refusal(&self, who: &Who<'_>, ban: &Ban) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.since.elapsed() >= Duration::from_secs(1) {
            (lines.since, lines.written) = (Instant::now(), 0);
        }
        if lines.written >= LINES_PER_SECOND {
            lines.left_out += 1;
            return;
        }
        lines.written += 1;
        let left_out = std::mem::take(&mut lines.left_out);
        drop(lines);
        let address = who
            .address
            .map(|address| address.to_string())
            .unwrap_or_default();
        let user = who.user;
        let device = who.device;
        let id = &ban.id;
        tracing::info!(target: "audit", action = "refuse", user, device, address, ban = id, left_out, "refused by a ban");
    }
}
