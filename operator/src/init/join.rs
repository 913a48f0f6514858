//! What stands before an etcd with an empty volume: it starts only once the members have taken it in.
//!
//! Etcd itself would start with the identity of the member that lost the volume, and could then vote twice for one term.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

use crate::tiers::etcd::client::{Tls, call};

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(2);

/// Who wants to start, and where the others are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Etcd's data folder.
    pub data: PathBuf,
    /// Under which URL the others know this member.
    pub peer: String,
    /// Where clients find the members.
    pub members: Vec<String>,
    /// The folder of `ca.crt`, `tls.crt` and `tls.key`; none with plain `http://` members.
    pub tls: Option<PathBuf>,
}

/// Why etcd may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum May {
    /// The volume has its data.
    Data,
    /// The members have taken it in.
    TakenIn,
}

/// Whether the folder holds an etcd's log.
///
/// # Errors
/// It can't be read.
pub fn has_data(folder: &Path) -> std::io::Result<bool> {
    let log = folder.join("member").join("wal");
    match std::fs::read_dir(log) {
        Ok(files) => {
            let mut wal = files.filter_map(Result::ok).map(|file| file.path());
            Ok(wal.any(|file| file.extension().is_some_and(|end| end == "wal")))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits until etcd may start, and tells why it may not yet. Endless: the pod shows that it waits.
///
/// # Errors
/// The folder or the certificates can't be read.
pub async fn join(who: &Join, mut tell: impl FnMut(&str)) -> std::io::Result<May> {
    let mut told = String::new();
    loop {
        if has_data(&who.data)? {
            return Ok(May::Data);
        }
        let why = match expected(who).await? {
            None => return Ok(May::TakenIn),
            Some(why) => why,
        };
        if why != told {
            tell(&why);
            told = why;
        }
        sleep(PAUSE.mul_f64(rand::random_range(0.8..1.2))).await;
    }
}

/// Whether a member of this peer URL is awaited; what stands against it otherwise.
async fn expected(who: &Join) -> std::io::Result<Option<String>> {
    let read = |file: &str| match &who.tls {
        Some(folder) => std::fs::read_to_string(folder.join(file)),
        None => Ok(String::new()),
    };
    // Read each time: certificates are renewed.
    let (authority, certificate, key) = (read("ca.crt")?, read("tls.crt")?, read("tls.key")?);
    let tls = Tls {
        authority: &authority,
        certificate: &certificate,
        key: &key,
    };
    let mut against = "no other member answers".to_owned();
    for endpoint in &who.members {
        let listed = call(endpoint, tls, async |client| client.member_list().await).await;
        let Ok(list) = listed else { continue };
        let own = list
            .members()
            .iter()
            .find(|member| member.peer_urls().contains(&who.peer));
        against = match own {
            Some(member) if member.name().is_empty() => return Ok(None),
            Some(_) => format!("{endpoint} still counts the member whose data are lost"),
            None => format!("{endpoint} does not await it yet"),
        };
    }
    Ok(Some(against))
}
