use std::path::Path;
use std::time::Duration;

use im_operator::etcd::ask::{self, Tls};
use im_operator::etcd::{Action, act};
use im_operator::join::{Join, May, join};
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
        Self { client: url(), peer: url() }
    }
}

fn member(name: &str, folder: &Path, tls: &Path, host: &Host, cluster: &str, state: &str) -> Running {
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
    ];
    start("etcd", &words, folder)
}

#[tokio::test]
async fn an_empty_volume_waits_until_it_is_taken_in_and_gets_its_vote_when_it_is_in_step() {
    let (tls, first, second) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let authority = Authority::new();
    let leaf = authority.leaf();
    authority.write(tls.path(), &leaf);
    let known = authority.known(&leaf);
    let (zero, one) = (Host::new(), Host::new());
    let peers = [zero.peer.clone(), one.peer.clone()];
    let of = || Tls::of(&known);

    let _zero = member("m-0", first.path(), tls.path(), &zero, &format!("m-0={}", zero.peer), "new");
    let (answer, members) =
        eventually("the first serves", async || ask::member(&zero.client, of(), &peers).await.filter(|(a, _)| a.led))
            .await;
    assert!(!answer.learner);
    assert_eq!(members.expect("a list").iter().map(|member| member.place).collect::<Vec<_>>(), [Some(0)]);

    let who = Join {
        data: second.path().join("data"),
        peer: one.peer.clone(),
        members: vec![zero.client.clone(), one.client.clone()],
        tls: Some(tls.path().to_owned()),
    };
    let mut said = Vec::new();
    let waits = timeout(Duration::from_secs(4), join(&who, |why| said.push(why.to_owned()))).await;
    assert!(waits.is_err(), "nobody awaits it, and it would start");
    assert_eq!(said, [format!("{} does not await it yet", zero.client)]);
    act::change(&zero.client, of(), &peers, Action::Add(1)).await.expect("added");
    let may = timeout(Duration::from_secs(15), join(&who, |_| {})).await.expect("it is awaited").expect("read");
    assert_eq!(may, May::TakenIn);

    let cluster = format!("m-0={},m-1={}", zero.peer, one.peer);
    let _one = member("m-1", second.path(), tls.path(), &one, &cluster, "existing");
    let (answer, _) =
        eventually("the second is led", async || ask::member(&one.client, of(), &peers).await.filter(|(a, _)| a.led))
            .await;
    assert!(answer.learner, "it has no vote before it has everything");
    let listed = async || ask::member(&zero.client, of(), &peers).await?.1;
    let learner = eventually("it is listed as started", async || {
        listed().await?.into_iter().find(|member| member.place == Some(1) && member.started)
    })
    .await;
    eventually("it is promoted", async || {
        act::change(&zero.client, of(), &peers, Action::Promote(learner.id)).await.ok()
    })
    .await;
    eventually("it has a vote", async || {
        let (answer, members) = ask::member(&one.client, of(), &peers).await?;
        (!answer.learner && members?.iter().all(|member| !member.learner)).then_some(())
    })
    .await;
    let may = timeout(Duration::from_secs(5), join(&who, |_| {})).await.expect("at once").expect("read");
    assert_eq!(may, May::Data, "a volume with data starts without asking anybody");

    // Etcd itself refuses while a member has not been connected to the others for a few seconds.
    eventually("it is removed", async || {
        act::change(&zero.client, of(), &peers, Action::Remove(learner.id)).await.ok()
    })
    .await;
    assert_eq!(eventually("the list", listed).await.len(), 1);
}
