use std::path::Path;
use std::time::Duration;

use crate::init::join::{Join, May, join};
use crate::tiers::etcd::act;
use crate::tiers::etcd::client::{Tls, call};
use crate::tiers::etcd::decide::Action;
use crate::tiers::etcd::observe;
use im_runtime::unused_port;
use tokio::time::timeout;

use super::{Authority, Running, eventually, start};

struct Host {
    client: String,
    peer: String,
}

impl Host {
    fn new() -> Self {
        let url = || format!("https://localhost:{}", unused_port().expect("a port"));
        Self {
            client: url(),
            peer: url(),
        }
    }
}

/// Enough for any of these tests but the one that uses it up, in bytes.
const QUOTA: u64 = 16 * 1024 * 1024;

fn member(
    name: &str,
    folder: &Path,
    tls: &Path,
    host: &Host,
    cluster: &str,
    state: &str,
) -> Running {
    let file = |name: &str| tls.join(name).display().to_string();
    let listens = |url: &str| url.replace("localhost", "127.0.0.1");
    let (cert, key, ca) = (file("tls.crt"), file("tls.key"), file("ca.crt"));
    let words = [
        format!("--name={name}"),
        format!("--data-dir={}", folder.join("data").display()),
        format!("--listen-client-urls={}", listens(&host.client)),
        format!("--advertise-client-urls={}", host.client),
        format!("--listen-peer-urls={}", listens(&host.peer)),
        format!("--initial-advertise-peer-urls={}", host.peer),
        format!("--initial-cluster={cluster}"),
        format!("--initial-cluster-state={state}"),
        format!("--cert-file={cert}"),
        format!("--key-file={key}"),
        format!("--trusted-ca-file={ca}"),
        "--client-cert-auth=true".to_owned(),
        format!("--peer-cert-file={cert}"),
        format!("--peer-key-file={key}"),
        format!("--peer-trusted-ca-file={ca}"),
        "--peer-client-cert-auth=true".to_owned(),
        format!("--quota-backend-bytes={QUOTA}"),
    ];
    start("etcd", &words, folder)
}

#[tokio::test]
async fn an_empty_volume_waits_until_it_is_taken_in_and_gets_its_vote_when_it_is_in_step() {
    let (tls, first, second) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let authority = Authority::new();
    let leaf = authority.leaf();
    authority.write(tls.path(), &leaf);
    let known = authority.known(&leaf);
    let (zero, one) = (Host::new(), Host::new());
    let peers = [zero.peer.clone(), one.peer.clone()];
    let of = || Tls::of(&known);

    let _zero = member(
        "m-0",
        first.path(),
        tls.path(),
        &zero,
        &format!("m-0={}", zero.peer),
        "new",
    );
    let (answer, members) = eventually("the first serves", async || {
        observe::member(&zero.client, of(), &peers)
            .await
            .filter(|(a, _)| a.led)
    })
    .await;
    assert!(!answer.learner);
    assert_eq!(
        members
            .expect("a list")
            .iter()
            .map(|member| member.ordinal)
            .collect::<Vec<_>>(),
        [Some(0)]
    );

    let who = Join {
        data: second.path().join("data"),
        peer: one.peer.clone(),
        members: vec![zero.client.clone(), one.client.clone()],
        tls: Some(tls.path().to_owned()),
    };
    let mut said = Vec::new();
    let waits = timeout(
        Duration::from_secs(4),
        join(&who, |why| said.push(why.to_owned())),
    )
    .await;
    assert!(waits.is_err(), "nobody awaits it, and it would start");
    assert_eq!(said, [format!("{} does not await it yet", zero.client)]);
    act::change(&zero.client, of(), &peers, Action::Add(1))
        .await
        .expect("added");
    let may = timeout(Duration::from_secs(15), join(&who, |_| {}))
        .await
        .expect("it is awaited")
        .expect("read");
    assert_eq!(may, May::TakenIn);

    let cluster = format!("m-0={},m-1={}", zero.peer, one.peer);
    let _one = member("m-1", second.path(), tls.path(), &one, &cluster, "existing");
    let (answer, _) = eventually("the second is led", async || {
        observe::member(&one.client, of(), &peers)
            .await
            .filter(|(a, _)| a.led)
    })
    .await;
    assert!(answer.learner, "it has no vote before it has everything");
    let listed = async || observe::member(&zero.client, of(), &peers).await?.1;
    let learner = eventually("it is listed as started", async || {
        listed()
            .await?
            .into_iter()
            .find(|member| member.ordinal == Some(1) && member.started)
    })
    .await;
    eventually("it is promoted", async || {
        act::change(&zero.client, of(), &peers, Action::Promote(learner.id))
            .await
            .ok()
    })
    .await;
    eventually("it has a vote", async || {
        let (answer, members) = observe::member(&one.client, of(), &peers).await?;
        (!answer.learner && members?.iter().all(|member| !member.learner)).then_some(())
    })
    .await;
    let may = timeout(Duration::from_secs(5), join(&who, |_| {}))
        .await
        .expect("at once")
        .expect("read");
    assert_eq!(
        may,
        May::Data,
        "a volume with data starts without asking anybody"
    );

    // Etcd itself refuses while a member has not been connected to the others for a few seconds.
    eventually("it is removed", async || {
        act::change(&zero.client, of(), &peers, Action::Remove(learner.id))
            .await
            .ok()
    })
    .await;
    assert_eq!(eventually("the list", listed).await.len(), 1);
}

#[tokio::test]
async fn a_quota_that_is_used_up_is_seen_and_lifted_once_there_is_room() {
    let (tls, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let authority = Authority::new();
    let leaf = authority.leaf();
    authority.write(tls.path(), &leaf);
    let known = authority.known(&leaf);
    let host = Host::new();
    let peers = [host.peer.clone()];
    let of = || Tls::of(&known);
    let _member = member(
        "m-0",
        folder.path(),
        tls.path(),
        &host,
        &format!("m-0={}", host.peer),
        "new",
    );
    let look = async || {
        observe::member(&host.client, of(), &peers)
            .await
            .map(|(answer, _)| answer)
    };
    let answer = eventually("it serves", async || {
        look().await.filter(|answer| answer.led)
    })
    .await;
    assert!(
        answer.leads && !answer.full && answer.size > 0 && answer.in_use <= answer.size,
        "{answer:?}"
    );

    let say = async || {
        call(&host.client, of(), async |client| {
            client.put("key", vec![7_u8; 1_000_000], None).await
        })
        .await
    };
    let mut small: Vec<String> = (0..100).map(|number| format!("small-{number}")).collect();
    let put = call(&host.client, of(), async |client| {
        for key in &small {
            client.put(key.as_str(), "", None).await?;
        }
        Ok(())
    });
    put.await.expect("there is room for them");
    let mut revision = 0;
    let refused = loop {
        match say().await {
            Ok(put) => revision = put.header().expect("a header").revision(),
            Err(error) => break error,
        }
        assert!(revision < 200, "the quota is not kept");
    };
    assert!(refused.to_string().contains("space"), "{refused}");
    let full = eventually("it says so", async || {
        look().await.filter(|answer| answer.full)
    })
    .await;

    // What etcd does by itself once an hour.
    let compacted = call(&host.client, of(), async |client| {
        client
            .compact(
                revision,
                Some(etcd_client::CompactionOptions::new().with_physical()),
            )
            .await
    });
    compacted.await.expect("compacted");
    let wasteful = eventually("there is room in it", async || {
        // What it holds is counted with the next change.
        let key = small.pop().expect("another one");
        let deleted = call(&host.client, of(), async |client| {
            client.delete(key, None).await
        });
        deleted.await.expect("that needs no room");
        look().await.filter(|now| now.in_use < full.in_use / 2)
    })
    .await;
    assert!(
        wasteful.size >= full.size,
        "nothing is given back by itself: {wasteful:?}"
    );
    act::change(&host.client, of(), &peers, Action::Defragment(0))
        .await
        .expect("written anew");
    let small = look().await.expect("it answers");
    assert!(small.size < full.size / 2 && small.full, "{small:?}");
    assert!(say().await.is_err(), "it still refuses");
    act::change(&host.client, of(), &peers, Action::Disarm)
        .await
        .expect("lifted");
    assert!(!look().await.expect("it answers").full);
    say().await.expect("it takes writes again");
}
