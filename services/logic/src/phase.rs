//! How far logic has come on its way out: one value that everything which serves watches.

use tokio::sync::watch;

/// The phases, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Not leaving.
    Serving,
    /// Leaving: everything is answered, and whoever can go elsewhere is told so.
    Leaving,
    /// What has nothing in flight ends.
    Ending,
}

/// Waits until logic has reached this phase, or is gone.
pub(crate) async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    // The sender lives as long as the core that the waiting task holds.
    let _ = phase.wait_for(|phase| *phase >= wanted).await;
}
