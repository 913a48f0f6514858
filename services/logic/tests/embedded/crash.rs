//! Killed at any moment: what was acknowledged is there.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use futures::stream::{FuturesUnordered, StreamExt};
use im_logic::store::Messages;

use crate::stage::{log, message, open};

const FOLDER: &str = "IM_TEST_CRASH_FOLDER";
const ROOMS: usize = 20;

/// One run of the program that is killed: appends for ever, 64 at a time, and says what was acknowledged.
fn append_and_tell(folder: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = open(folder);
        let run = uuid::Uuid::now_v7().simple().to_string();
        let mut flight = FuturesUnordered::new();
        for number in 0_usize.. {
            let (in_room, client_id) =
                (format!("room{}", number % ROOMS), format!("{run}-{number}"));
            let appended = store.append(message(&in_room, &client_id));
            flight.push(async move { (in_room, client_id, appended.await.expect("stored")) });
            if flight.len() >= 64 {
                let (in_room, client_id, appended) = flight.next().await.expect("something flies");
                let mut out = std::io::stdout().lock();
                writeln!(out, "acknowledged {in_room} {client_id} {}", appended.seq)
                    .expect("the parent listens");
            }
        }
    });
}

/// Lets a child append until it has told of so many, kills it, and returns what it told.
fn run_and_kill(folder: &Path, after: usize) -> Vec<(String, String, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "crash::a_killed_process_has_lost_nothing_that_it_acknowledged",
            "--nocapture",
        ])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = Vec::new();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut killed = false;
    // Read to the end: what was told before the kill took effect counts as well.
    for line in lines {
        let line = line.unwrap();
        let mut words = line.split(' ');
        if words.next() != Some("acknowledged") {
            continue;
        }
        // The last line may be torn.
        if let (Some(room), Some(id), Some(Ok(seq))) =
            (words.next(), words.next(), words.next().map(str::parse))
        {
            told.push((room.to_owned(), id.to_owned(), seq));
        }
        if told.len() >= after && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(
        killed,
        "the child ended by itself after {} messages",
        told.len()
    );
    told
}

#[test]
fn a_killed_process_has_lost_nothing_that_it_acknowledged() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return append_and_tell(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: HashMap<String, Vec<(u64, String)>> = HashMap::new();
    for after in [1, 300, 777, 1_500, 2_048] {
        for (room, client_id, seq) in run_and_kill(folder.path(), after) {
            acknowledged.entry(room).or_default().push((seq, client_id));
        }
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let store = open(folder.path());
            for (room, told) in &acknowledged {
                // Contiguous, and each where it was said to be.
                let stored: HashMap<u64, String> = log(&store, room).await.into_iter().collect();
                for (seq, client_id) in told {
                    assert_eq!(stored.get(seq), Some(client_id), "{room} {seq}");
                }
            }
            store.close().await;
        });
    }
    assert_eq!(acknowledged.len(), ROOMS);
}
