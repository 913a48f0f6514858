//! The data directory: made at the first start, for its owner only.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the data directory {}: {error}: give another one with IM_DATA_DIR or --data-dir", path.display())]
pub(crate) struct Error {
    path: PathBuf,
    error: io::Error,
}

/// Makes the directory where it is missing. One that is there keeps its rights, for it may be meant for more than this; the
/// files in it are their owner's alone.
pub(crate) fn prepare(path: &Path) -> Result<(), Error> {
    let failed = |error| Error {
        path: path.to_owned(),
        error,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed)?;
    let mode = std::fs::metadata(path)
        .map_err(failed)?
        .permissions()
        .mode();
    // With the sticky bit others may add files but not put theirs in the place of ours.
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o777), "others may replace what is in the data directory: take the right to write from them");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        prepare(&path).unwrap();
        prepare(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }

    #[test]
    fn a_directory_that_is_there_keeps_its_rights() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        prepare(folder.path()).unwrap();
        assert_eq!(
            std::fs::metadata(folder.path())
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o755
        );
    }

    #[test]
    fn what_is_no_directory_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = prepare(file.path()).unwrap_err().to_string();
        assert!(
            error.contains("IM_DATA_DIR") && error.contains(file.path().to_str().unwrap()),
            "{error}"
        );
    }
}
