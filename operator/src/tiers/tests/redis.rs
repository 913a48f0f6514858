use crate::tiers::certificates::is_current;
use crate::tiers::redis::client::connect;
use crate::tiers::redis::{act, observe};
use im_runtime::unused_port;
use redis::AsyncCommands;

use super::{Authority, Running, eventually, redis_words, start};

fn redis(folder: &std::path::Path, port: u16) -> Running {
    let mut words = redis_words(port, folder, folder);
    words.extend(["--appendonly", "yes"].map(str::to_owned));
    start("redis-server", &words, folder)
}

#[tokio::test]
async fn a_redis_is_asked_over_tls_and_takes_a_renewed_certificate_without_closing_anything() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let (old, new) = (authority.leaf(), authority.leaf());
    authority.write(folder.path(), &old);
    let port = unused_port().expect("a port");
    let _redis = redis(folder.path(), port);
    let known = authority.known(&old);
    let number = i32::from(port);

    let answer = eventually("redis answers", async || {
        observe::server("localhost", number, &known).await
    })
    .await;
    assert!(
        answer.master && answer.stats.stored && answer.stats.used_memory > 0,
        "{answer:?}"
    );
    let mut held = connect("localhost", number, &known)
        .await
        .expect("a connection");
    let _: () = held.set("key", "value").await.expect("set");

    assert!(is_current("localhost", port, &old.certificate, &known).await);
    assert!(
        !is_current("localhost", port, &new.certificate, &known).await,
        "it can't show what it never read"
    );
    authority.write(folder.path(), &new);
    assert!(
        !is_current("localhost", port, &new.certificate, &known).await,
        "redis does not read files by itself"
    );
    act::renew(
        "localhost",
        number,
        &known,
        &folder.path().display().to_string(),
    )
    .await
    .expect("renewed");
    assert!(is_current("localhost", port, &new.certificate, &known).await);
    let value: String = held.get("key").await.expect("the old connection lives on");
    assert_eq!(value, "value");
    assert_eq!(
        observe::server("localhost", number, &known)
            .await
            .map(|answer| answer.keys),
        Some(1)
    );
}

#[tokio::test]
async fn a_redis_of_another_authority_is_not_believed() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let leaf = authority.leaf();
    authority.write(folder.path(), &leaf);
    let port = unused_port().expect("a port");
    let _redis = redis(folder.path(), port);
    let known = authority.known(&leaf);
    eventually("redis answers", async || {
        observe::server("localhost", i32::from(port), &known).await
    })
    .await;

    let stranger = Authority::new();
    let theirs = stranger.known(&leaf);
    assert_eq!(
        observe::server("localhost", i32::from(port), &theirs).await,
        None
    );
    assert!(
        crate::tiers::certificates::presented("localhost", port, &theirs)
            .await
            .is_err()
    );
}
