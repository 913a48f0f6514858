//! The page's listener: bounded connections, slow headers cut off, an orderly end.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use im_runtime::http::{self, Limits};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// For a connection as a whole; browsers open another.
const LIFE: Duration = Duration::from_secs(120);
/// A guest's wish is a name.
const MAX_BODY: usize = 4 << 10;

/// Serves until `end`; open connections finish what they are about.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    end: CancellationToken,
) -> Result<(), Infallible> {
    let router = router.layer(DefaultBodyLimit::max(MAX_BODY));
    let limits = Limits {
        life: LIFE,
        ..Limits::new("page's server")
    };
    http::serve(listener, limits, router, TaskTracker::new(), end).await;
    Ok(())
}
