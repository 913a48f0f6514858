//! Opened again: by the same process, by another one, and what is not a store at all.

use im_logic::store::embedded::OpenError;
use im_logic::store::{Connections, Create, Ended, History, Index, Kind, Messages, Role, Rooms};
use redb::{Database, TableDefinition};

use crate::stage::{message, open, room, said, say, try_open, user};

#[tokio::test]
async fn everything_is_there_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let ann = user("ann");
    let group = room("group");
    let lobby = room("lobby");
    let members = vec![(ann.clone(), Role::Owner), (user("bob"), Role::Member)];
    let create = Create {
        room: group.clone(),
        kind: Kind::Group,
        members,
        time_ms: 5,
    };
    assert_eq!(store.create(create.clone()).await, Ok(true));
    let first = say(&store, "lobby", "one").await;
    say(&store, "lobby", "two").await;
    store.mark_read(&lobby, &ann, 1).await.unwrap();
    store
        .index_room(std::slice::from_ref(&ann), &lobby)
        .await
        .unwrap();
    let node = "n".to_owned();
    let conn = "c1".to_owned();
    let user = Some(ann.clone());
    store
        .disconnected(Ended {
            conn,
            user,
            node,
            place: 0,
            at_ms: 77,
        })
        .await
        .unwrap();
    let rooms = [group.clone(), lobby.clone()];
    let before = (
        store.views(&rooms, &ann).await,
        store.members(&group, None, 10).await,
    );
    store.close().await;

    let store = open(folder.path());
    assert_eq!(
        (
            store.views(&rooms, &ann).await,
            store.members(&group, None, 10).await
        ),
        before
    );
    assert_eq!(said(&store, "lobby").await, ["one", "two"]);
    let again = say(&store, "lobby", "one").await;
    assert_eq!(
        (again.seq, again.duplicate, again.id, again.epoch),
        (1, true, first.id, first.epoch)
    );
    assert_eq!(say(&store, "lobby", "three").await.seq, 3);
    assert_eq!(store.create(create).await, Ok(false));
    assert_eq!(store.user_rooms(&ann, None, 10).await, Ok(vec![lobby]));
    assert_eq!(store.presence(&[ann]).await, Ok(vec![(Vec::new(), 77)]));
}

#[tokio::test]
async fn a_store_that_is_made_anew_takes_back_what_the_old_one_had() {
    let folder = tempfile::tempdir().unwrap();
    let old = open(&folder.path().join("old"));
    let had = say(&old, "lobby", "one").await;
    let mut new = open(&folder.path().join("new"));
    let mut count = 0;
    while say(&new, "lobby", "one").await.epoch == had.epoch {
        // Made within the same millisecond.
        count += 1;
        new = open(&folder.path().join(format!("new{count}")));
    }
    say(&new, "lobby", "two").await;
    let tail = new
        .tail(&room("lobby"), had.epoch, had.seq, 100, usize::MAX)
        .await
        .unwrap();
    assert_eq!((tail.reset_to, tail.entries.len()), (Some(0), 2));
}

#[tokio::test]
async fn a_folder_in_use_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let refused = try_open(folder.path()).unwrap_err();
    assert!(
        matches!(&refused, OpenError::InUse { folder: named } if named == folder.path()),
        "{refused:?}"
    );
    assert!(
        refused
            .to_string()
            .contains(&folder.path().display().to_string())
    );
    store
        .append(message("lobby", "one"))
        .await
        .expect("the one that has it is not disturbed");
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    let refused = try_open(&file.join("data")).unwrap_err();
    assert!(matches!(refused, OpenError::Folder { .. }), "{refused:?}");
}

fn refused_file(folder: &std::path::Path) -> String {
    match try_open(folder).unwrap_err() {
        OpenError::File { file, problem } => {
            assert_eq!(file, folder.join("im.redb"));
            problem
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_file_of_something_else_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("im.redb");
    let text = "this is somebody's diary, and long enough to be taken for a header. ".repeat(300);
    std::fs::write(&file, &text).unwrap();
    assert!(refused_file(folder.path()).contains("no database of this store"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

#[tokio::test]
async fn a_database_of_another_program_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let other = Database::create(folder.path().join("im.redb")).unwrap();
    let transaction = other.begin_write().unwrap();
    transaction
        .open_table(TableDefinition::<u64, u64>::new("squares"))
        .unwrap()
        .insert(2, 4)
        .unwrap();
    transaction.commit().unwrap();
    drop(other);
    assert!(refused_file(folder.path()).contains("another program"));
}

#[tokio::test]
async fn another_layout_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).close().await;
    let other = Database::create(folder.path().join("im.redb")).unwrap();
    let transaction = other.begin_write().unwrap();
    transaction
        .open_table(TableDefinition::<&str, u64>::new("meta"))
        .unwrap()
        .insert("format", 99)
        .unwrap();
    transaction.commit().unwrap();
    drop(other);
    assert!(refused_file(folder.path()).contains("layout 99"));
}

#[tokio::test]
async fn a_damaged_file_is_refused_or_what_it_has_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for number in 0..200 {
        say(&store, "lobby", &format!("m{number}")).await;
    }
    store.close().await;
    let file = folder.path().join("im.redb");
    let sound = std::fs::read(&file).unwrap();
    let (mut refused, mut unreadable) = (0, 0);
    for place in (0..sound.len()).step_by(sound.len() / 40) {
        let mut damaged = sound.clone();
        let end = (place + 600).min(damaged.len());
        damaged[place..end].fill(0xa5);
        std::fs::write(&file, &damaged).unwrap();
        match try_open(folder.path()) {
            Err(OpenError::File { .. }) => refused += 1,
            Err(other) => panic!("{other:?}"),
            Ok(store) => {
                match store
                    .tail(&room("lobby"), 0, 0, usize::MAX, usize::MAX)
                    .await
                {
                    Ok(tail) => assert!(
                        tail.entries
                            .iter()
                            .enumerate()
                            .all(|(at, one)| one.seq == at as u64 + 1)
                    ),
                    Err(_) => unreadable += 1,
                }
                store.close().await;
            }
        }
    }
    assert!(refused + unreadable > 0, "damage is noticed");
    std::fs::write(&file, &sound[..sound.len() / 2]).unwrap();
    refused_file(folder.path());
}
