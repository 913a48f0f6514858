//! The internal authority is changed while everybody speaks.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Play, none_restarted, show};
use crate::kind::kube::until;
use crate::kind::stage::{PATIENCE, Stage, condition};

impl Play {
    pub(super) async fn authority_rotation(&mut self) -> Result<()> {
        let stage = self.stage().await?;
        let word = json!({"metadata": {"annotations": {"imcluster.io/rotate-authority": "true"}}});
        Box::pin(rotated(stage, "another internal authority", async || {
            stage.kube.edit(&stage.namespace, &stage.name, &word).await
        }))
        .await?;
        let secret = format!("{}-ca", stage.name);
        Box::pin(rotated(stage, "the Secret of the internal authority deleted", async || {
            stage.kube.kubectl(&["delete", "secret", &secret, "-n", &stage.namespace]).await.map(|_| ())
        }))
        .await
    }
}

async fn rotated(stage: &Stage, what: &str, begin: impl AsyncFn() -> Result<()>) -> Result<()> {
    let secrets = ["logic", "connect", "redis", "sentinel", "etcd", "operator"];
    let believed = async || {
        let mut all = Vec::new();
        for tier in secrets {
            let name = format!("{}-{tier}-tls", stage.name);
            let pem = stage.kube.secret(&stage.namespace, &name, "ca.crt").await?;
            all.push(String::from_utf8(pem).context("PEM")?);
        }
        anyhow::Ok(all)
    };
    let before = believed().await?;
    let change = async {
        begin().await?;
        until("the change has begun", PATIENCE, async || {
            let found = stage.kube.imcluster(&stage.namespace, &stage.name).await?;
            let told = condition(&found["status"], "Progressing")?["reason"].clone();
            ensure!(told == "RotatingAuthority", "Progressing says {told}");
            Ok(())
        })
        .await?;
        until("the old authority is believed no more", PATIENCE, async || {
            for (old, new) in before.iter().zip(believed().await?) {
                ensure!(!new.contains(old.trim()), "it is believed still");
            }
            Ok(())
        })
        .await?;
        stage.settled().await.map(|_| ())
    };
    let played = Box::pin(stage.play(what, change)).await?;
    show(&played)?;
    none_restarted(&played)
}
