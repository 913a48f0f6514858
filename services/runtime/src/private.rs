//! Files that are their owner's alone.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Takes from everybody else the right to read or write a file, where an earlier release made it or it was copied here with
/// other rights. `what` it holds is for the log.
///
/// # Errors
/// The system's: somebody else's file, most likely.
pub fn keep(path: &Path, what: &str) -> io::Result<()> {
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o777), "others could read {what}: now only the file's owner can");
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    }
    Ok(())
}
