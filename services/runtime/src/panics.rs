//! A panic is a defect: it is counted and stands in the log with its place. What it ends is for [`crate::tasks`] to see.

use crate::metrics::PANICS;

/// Takes the place of the standard hook, which would write to standard error past the log.
pub(crate) fn install() {
    std::panic::set_hook(Box::new(|panic| {
        PANICS.inc();
        let thread = std::thread::current();
        let message = panic.payload_as_str().unwrap_or("no message");
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(thread = thread.name().unwrap_or("unnamed"), %place, %backtrace, "panic: {message}");
    }));
}
