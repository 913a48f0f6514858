//! What a store says when it fails is written to the log, a line a second and kind at most; who asked is shown the number of
//! that line.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one kind are so far apart at least; what fails between them has the number of the last.
const APART: Duration = Duration::from_secs(1);

/// What has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Unavailable,
    Full,
    Corrupt,
}

impl What {
    /// What who asked is told.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Unavailable => "the store cannot be reached just now: retry soon",
            Self::Full => "the store takes no writes just now: retry later",
            Self::Corrupt => "the store holds something unreadable",
        }
    }
}

type Last = Option<(Instant, String)>;

static LAST: [Mutex<Last>; 3] = [const { Mutex::new(None) }; 3];

/// Writes the line, unless one of the kind was written just now. Returns its number.
pub(super) fn log(what: What, details: &str) -> String {
    let mut last = LAST[what as usize]
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    match &*last {
        Some((at, number)) if at.elapsed() < APART => number.clone(),
        _ => {
            let number = format!("{:08x}", rand::random::<u32>());
            match what {
                What::Corrupt => {
                    tracing::error!(number, details, "the store holds something unreadable")
                }
                _ => tracing::warn!(number, details, ?what, "store request failed"),
            }
            *last = Some((Instant::now(), number.clone()));
            number
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_at_the_same_time_has_one_line() {
        let first = log(What::Full, "disk");
        assert_eq!(log(What::Full, "disk"), first);
        assert_ne!(log(What::Corrupt, "row"), first);
    }
}
