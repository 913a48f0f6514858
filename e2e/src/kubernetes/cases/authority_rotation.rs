//! The internal certificate authority is replaced while clients send.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::kubernetes::runner::Runner;
use crate::kubernetes::scenario::{SETTLE_TIMEOUT, Scenario, condition};
use crate::wait::until_ok;

pub(super) async fn authority_rotation(runner: &mut Runner) -> Result<()> {
    let scenario = runner.scenario().await?;
    let request = json!({"metadata": {"annotations": {"imcluster.io/rotate-authority": "true"}}});
    Box::pin(rotate(
        scenario,
        "a new internal authority requested",
        async || {
            scenario
                .kube
                .edit(&scenario.namespace, &scenario.name, &request)
                .await
        },
    ))
    .await?;
    let secret = format!("{}-ca", scenario.name);
    Box::pin(rotate(
        scenario,
        "the Secret of the internal authority deleted",
        async || {
            scenario
                .kube
                .kubectl(&["delete", "secret", &secret, "-n", &scenario.namespace])
                .await
                .map(|_| ())
        },
    ))
    .await
}

async fn rotate(
    scenario: &Scenario,
    what: &str,
    begin: impl AsyncFn() -> Result<()>,
) -> Result<()> {
    let tiers = ["logic", "connect", "redis", "sentinel", "etcd", "operator"];
    let trusted = async || {
        let mut all = Vec::new();
        for tier in tiers {
            let name = format!("{}-{tier}-tls", scenario.name);
            let pem = scenario
                .kube
                .secret(&scenario.namespace, &name, "ca.crt")
                .await?;
            all.push(String::from_utf8(pem).context("PEM")?);
        }
        anyhow::Ok(all)
    };
    let before = trusted().await?;
    let event = async {
        begin().await?;
        until_ok("the rotation has begun", SETTLE_TIMEOUT, async || {
            let found = scenario
                .kube
                .imcluster(&scenario.namespace, &scenario.name)
                .await?;
            let reason = condition(&found["status"], "Progressing")?["reason"].clone();
            ensure!(
                reason == "RotatingAuthority",
                "Progressing has reason {reason}"
            );
            Ok(())
        })
        .await?;
        until_ok(
            "the old authority is no longer trusted",
            SETTLE_TIMEOUT,
            async || {
                for (old, new) in before.iter().zip(trusted().await?) {
                    ensure!(!new.contains(old.trim()), "it is still trusted");
                }
                Ok(())
            },
        )
        .await?;
        scenario.settled().await.map(|_| ())
    };
    let report = Box::pin(scenario.run(what, event)).await?;
    report.require_no_restarts()
}
