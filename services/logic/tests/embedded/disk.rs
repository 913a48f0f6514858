//! A disk that fills up: a small file system of its own, mounted where only a child of the test sees it.

use std::path::Path;
use std::process::Command;

use im_logic::store::{Error, Messages};

use crate::stage::{insist, log, message, open};

const FOLDER: &str = "IM_TEST_DISK_FOLDER";
const SIZE: u64 = 8 << 20;

/// Runs in a mount namespace of its own, as its root: no right is needed outside, and nothing is left behind.
#[test]
fn a_full_disk_refuses_writes_loses_nothing_and_takes_them_again() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(fill_and_free(Path::new(&folder)));
    }
    let folder = tempfile::tempdir().unwrap();
    let script = format!("mount -t tmpfs -o size={SIZE} tmpfs \"${FOLDER}\" && exec \"$@\"");
    let output = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-ec",
            &script,
            "sh",
        ])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "disk::a_full_disk_refuses_writes_loses_nothing_and_takes_them_again",
            "--nocapture",
        ])
        .env(FOLDER, folder.path())
        .output()
        .expect("unshare (util-linux) can be run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

/// Appends until the disk is full; returns how many were acknowledged.
async fn fill(
    store: &im_logic::store::embedded::EmbeddedStore,
    names: &mut impl Iterator<Item = String>,
) -> Vec<String> {
    let mut acknowledged = Vec::new();
    loop {
        let name = names.next().expect("endless");
        let mut append = message("lobby", &name);
        append.entry.body = vec![7; 20_000].into();
        match store.append(append).await {
            Ok(_) => acknowledged.push(name),
            Err(Error::Full(_)) => return acknowledged,
            Err(other) => panic!("{other:?}"),
        }
        assert!(acknowledged.len() < 10_000, "the disk does not fill up");
    }
}

async fn fill_and_free(folder: &Path) {
    let ballast = folder.join("ballast");
    std::fs::write(&ballast, vec![1; 3 << 20]).unwrap();
    let store = open(folder);
    let mut names = (0..).map(|number| format!("m{number}"));
    let mut acknowledged = fill(&store, &mut names).await;
    assert!(acknowledged.len() > 20, "{} stored", acknowledged.len());
    // Still full: refused again, with the same reason, and what was stored can be read.
    for name in ["extra1", "extra2"] {
        let mut append = message("lobby", name);
        append.entry.body = vec![7; 1_000_000].into();
        let refused = store.append(append).await;
        assert!(matches!(refused, Err(Error::Full(_))), "{refused:?}");
    }
    std::fs::remove_file(&ballast).unwrap();
    insist(&store, message("lobby", "after")).await;
    acknowledged.push("after".to_owned());
    let check = async |store, acknowledged: &[String]| {
        let stored: Vec<String> = log(store, "lobby")
            .await
            .into_iter()
            .map(|(_, name)| name)
            .collect();
        assert!(
            acknowledged.iter().all(|name| stored.contains(name)),
            "{acknowledged:?} {stored:?}"
        );
        // Nothing was stored twice, and next to nothing that was not acknowledged.
        assert!(stored.len() <= acknowledged.len() + 3);
    };
    check(&store, &acknowledged).await;
    acknowledged.extend(fill(&store, &mut names).await);
    check(&store, &acknowledged).await;
    store.close().await;
    check(&open(folder), &acknowledged).await;
}
