//! The file with which a redis or a Sentinel starts for the first time, written where its image has no shell.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// How redis writes users into its own file where it has no other for them. Beside such another one (`aclfile`) it does not
/// start with them.
const USER: &str = "user ";

/// Writes `text` and a line end to a new file; an empty `text` makes an empty file. An existing file is left as it is but for
/// lines that name users: a redis that began without a file for these has written them. Returns whether it was written.
/// What was begun and not finished never looks like the file.
///
/// # Errors
/// The file can't be written.
pub fn seed(path: &Path, text: &str) -> std::io::Result<bool> {
    let text = match std::fs::read_to_string(path) {
        Ok(there) if !there.lines().any(|line| line.starts_with(USER)) => return Ok(false),
        Ok(there) => there
            .lines()
            .filter(|line| !line.starts_with(USER))
            .collect::<Vec<_>>()
            .join("\n"),
        Err(error) if error.kind() == ErrorKind::NotFound => text.to_owned(),
        Err(error) => return Err(error),
    };
    let draft = path.with_extension("seed");
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&draft)?;
    if !text.is_empty() {
        writeln!(file, "{text}")?;
    }
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("redis.conf");
        assert!(seed(&path, "replicaof nobody.invalid 6379").expect("first"));
        assert!(!seed(&path, "other").expect("second"));
        assert_eq!(
            std::fs::read_to_string(&path).expect("read"),
            "replicaof nobody.invalid 6379\n"
        );
    }

    #[test]
    fn an_empty_text_makes_an_empty_file_and_a_draft_left_behind_is_no_hindrance() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sentinel.conf");
        std::fs::write(folder.path().join("sentinel.seed"), "half").expect("draft");
        assert!(seed(&path, "").expect("written"));
        assert_eq!(std::fs::read(&path).expect("read"), b"");
    }

    #[test]
    fn users_that_redis_has_written_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("redis.conf");
        let kept = "replicaof 10.0.0.1 6379\n# user of old\nmasterauth hush\n";
        std::fs::write(
            &path,
            format!("user default on #aa ~* &* +@all\n{kept}user other off\n"),
        )
        .expect("as it was");
        assert!(seed(&path, "other").expect("written"));
        assert_eq!(std::fs::read_to_string(&path).expect("read"), kept);
        assert!(!seed(&path, "other").expect("left"));
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        assert!(seed(Path::new("/nonexistent/redis.conf"), "").is_err());
    }
}
