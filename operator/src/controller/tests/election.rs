//! Leader election: clocks that differ, leaders that vanish, Leases that are lost.

use std::time::Duration;

use crate::kubernetes::calls::Gate;
use crate::kubernetes::election::{Candidate, Options};
use serde_json::json;
use tokio::time::{Instant, advance, timeout};

use super::server::Server;

const SECOND: Duration = Duration::from_secs(1);

fn candidate(server: &Server, identity: &str) -> (Candidate, Gate) {
    let gate = Gate::shut();
    let options = Options {
        namespace: "chat".to_owned(),
        name: "im-operator".to_owned(),
        identity: identity.to_owned(),
        duration: 15 * SECOND,
        renew_deadline: 10 * SECOND,
        retry: 2 * SECOND,
    };
    // The API server and its faults are not gated: an election writes before it leads.
    (
        Candidate::new(server.client(gate.clone()), options, gate.clone()),
        gate,
    )
}

fn holder(server: &Server) -> String {
    let lease = server.get("leases", "im-operator").unwrap();
    lease["spec"]["holderIdentity"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_other_waits_until_it_gives_the_lease_back() {
    let server = Server::new();
    let (mut one, gate) = candidate(&server, "one");
    one.acquire().await;
    assert!(gate.is_open());
    assert_eq!(holder(&server), "one");

    let (mut two, other_gate) = candidate(&server, "two");
    let keeping = async {
        let _ = timeout(60 * SECOND, one.renew_until_lost()).await;
    };
    let waiting = timeout(60 * SECOND, two.acquire());
    let ((), waited) = tokio::join!(keeping, waiting);
    assert!(waited.is_err() && !other_gate.is_open());

    one.release().await;
    assert!(!gate.is_open());
    let begun = Instant::now();
    two.acquire().await;
    assert!(begun.elapsed() < 6 * SECOND, "{:?}", begun.elapsed());
    assert_eq!(holder(&server), "two");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_vanished_is_followed_after_the_duration_whatever_its_clock_said() {
    for renewed in ["2001-01-01T00:00:00.000000Z", "2099-01-01T00:00:00.000000Z"] {
        let server = Server::new();
        server.put("leases", json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "im-operator"},
            "spec": {"holderIdentity": "gone", "leaseDurationSeconds": 15, "renewTime": renewed, "acquireTime": renewed, "leaseTransitions": 4}}));
        let (mut one, _) = candidate(&server, "one");
        let begun = Instant::now();
        one.acquire().await;
        assert!(
            begun.elapsed() >= 15 * SECOND && begun.elapsed() < 22 * SECOND,
            "{:?}",
            begun.elapsed()
        );
        assert_eq!(
            server.get("leases", "im-operator").unwrap()["spec"]["leaseTransitions"],
            5
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_clock_is_wrong_and_that_renews_is_left_alone() {
    let server = Server::new();
    let (mut two, _) = candidate(&server, "two");
    let renewing = async {
        for turn in 0.. {
            server.put("leases", json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "im-operator"},
                "spec": {"holderIdentity": "one", "leaseDurationSeconds": 15, "renewTime": format!("1999-01-01T00:{:02}:00.000000Z", turn % 60)}}));
            tokio::time::sleep(5 * SECOND).await;
        }
    };
    tokio::select! {
        () = renewing => {}
        acquired = timeout(300 * SECOND, two.acquire()) => assert!(acquired.is_err()),
    }
}

#[tokio::test(start_paused = true)]
async fn who_cannot_renew_is_told_before_another_may_lead() {
    let server = Server::new();
    let (mut one, gate) = candidate(&server, "one");
    one.acquire().await;
    let begun = Instant::now();
    server.fail("update", "leases", 500, usize::MAX);
    server.fail("get", "leases", 500, usize::MAX);
    let lost = timeout(60 * SECOND, one.renew_until_lost()).await.unwrap();
    assert!(begun.elapsed() < 15 * SECOND, "{:?}", begun.elapsed());
    assert!(lost.to_string().contains("chat/im-operator"), "{lost}");
    assert!(!gate.is_open());
}

#[tokio::test(start_paused = true)]
async fn short_faults_cost_nothing() {
    let server = Server::new();
    let (mut one, gate) = candidate(&server, "one");
    one.acquire().await;
    for code in [409, 429, 500, 503] {
        server.fail("update", "leases", code, 2);
        assert!(
            timeout(20 * SECOND, one.renew_until_lost()).await.is_err(),
            "{code}"
        );
        assert!(gate.is_open());
    }
    assert_eq!(server.failures_left(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_another_took_is_lost() {
    let server = Server::new();
    let (mut one, gate) = candidate(&server, "one");
    one.acquire().await;
    server.edit("leases", "im-operator", |lease| {
        lease["spec"]["holderIdentity"] = json!("two")
    });
    let lost = timeout(60 * SECOND, one.renew_until_lost()).await.unwrap();
    assert!(lost.to_string().contains("two"), "{lost}");
    assert!(!gate.is_open());
    one.release().await;
    assert_eq!(holder(&server), "two");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_slept_too_long_writes_nothing() {
    let server = Server::new();
    let (mut one, gate) = candidate(&server, "one");
    one.acquire().await;
    advance(16 * SECOND).await;
    assert!(!gate.is_open());
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(server.client(gate), "chat");
    assert!(
        pods.delete("a", &kube::api::DeleteParams::default())
            .await
            .is_err()
    );
    assert_eq!(
        server
            .writes()
            .iter()
            .filter(|(_, kind, _)| kind == "pods")
            .count(),
        0
    );
}
