//! How many files and sockets the process may have open.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit as far as the system allows it; returns what holds then, `None` for no limit.
///
/// # Errors
/// The system refuses: the limit is what it was.
pub fn raise_descriptor_limit() -> io::Result<Option<u64>> {
    let now = getrlimit(Resource::Nofile);
    if now.current != now.maximum {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: now.maximum,
                maximum: now.maximum,
            },
        )?;
    }
    Ok(now.maximum)
}

/// The limit that holds, `None` for no limit.
pub fn descriptor_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}
