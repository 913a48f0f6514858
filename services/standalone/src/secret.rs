//! The secret that tokens are signed with, where none is configured: made once and kept beside the data.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use im_runtime::private;
use im_runtime::settings::SECRET_BYTES;

/// The file's name in the data directory.
pub(crate) const FILE: &str = "auth.secret";

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file cannot be read or written.
    #[error("the secret in {}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The file holds something that is no secret.
    #[error("the secret in {} has {bytes} bytes: give it {SECRET_BYTES} or more, or remove it and a new one is made", path.display())]
    TooShort {
        /// Which.
        path: PathBuf,
        /// How many it has.
        bytes: usize,
    },
}

/// Reads the secret of this data directory; makes it where there is none yet.
pub(crate) fn read_or_make(directory: &Path) -> Result<String, Error> {
    let path = directory.join(FILE);
    let failed = |error| Error::File {
        path: path.clone(),
        error,
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            private::keep(&path, "the secret").map_err(failed)?;
            let secret = text.trim();
            if secret.len() < SECRET_BYTES {
                return Err(Error::TooShort {
                    bytes: secret.len(),
                    path,
                });
            }
            Ok(secret.to_owned())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(directory, &path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

fn make(directory: &Path, path: &Path) -> io::Result<String> {
    let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; SECRET_BYTES]>());
    // Beside, then in place: a crash must not leave half a secret.
    let beside = directory.join(format!("{FILE}.new"));
    let _ = std::fs::remove_file(&beside);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    File::open(directory)?.sync_all()?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_is_nobody_elses() {
        let directory = tempfile::tempdir().unwrap();
        let made = read_or_make(directory.path()).unwrap();
        assert_eq!(made.len(), 43);
        assert_eq!(read_or_make(directory.path()).unwrap(), made);
        let mode = || {
            std::fs::metadata(directory.path().join(FILE))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(directory.path().join(FILE), Permissions::from_mode(0o644))
            .unwrap();
        read_or_make(directory.path()).unwrap();
        assert_eq!(mode(), 0o600);
    }

    #[test]
    fn a_short_secret_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), "easy\n").unwrap();
        let error = read_or_make(directory.path()).unwrap_err();
        assert!(error.to_string().contains("has 4 bytes"), "{error}");
    }
}
