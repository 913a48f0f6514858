//! Volumes that are to grow.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::install::MINIMAL;
use super::{Play, settled};
use crate::kind::kube::until;
use crate::kind::stage::{PATIENCE, condition};

const CLASS: &str = "standard";
const CLAIM: &str = "data-demo-redis-0";

impl Play {
    pub(super) async fn volume_growth(&mut self) -> Result<()> {
        settled(&self.kube, MINIMAL.0, MINIMAL.1).await.context("case minimal comes first")?;
        let played = Box::pin(self.grow()).await;
        self.expandable(false).await?;
        played
    }

    #[allow(clippy::print_stdout, reason = "a program for people")]
    async fn grow(&self) -> Result<()> {
        let (namespace, name) = MINIMAL;
        let pods = self.store_pods().await?;
        let now = self.kube.imcluster(namespace, name).await?["status"]["redis"]["volumeSize"].clone();
        let gibibytes = now.as_str().and_then(|size| size.strip_suffix("Gi")?.parse::<u32>().ok());
        let size = format!("{}Gi", gibibytes.with_context(|| format!("volumeSize is {now}"))? + 1);
        self.kube.edit(namespace, name, &json!({"spec": {"redis": {"storage": {"size": size}}}})).await?;
        self.says("Degraded", "VolumeNotGrown").await?;

        self.expandable(true).await?;
        self.says("Progressing", "VolumesGrowing").await?;
        let asks = self.json(&["get", "pvc", CLAIM, "-n", namespace]).await?;
        ensure!(asks["spec"]["resources"]["requests"]["storage"] == size, "{CLAIM} asks for {}", asks["spec"]);
        let template = async || {
            let set = self.json(&["get", "statefulset", "demo-redis", "-n", namespace]).await?;
            let asks = &set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"];
            ensure!(*asks == size, "the template asks for {asks}");
            Ok(())
        };
        until("the StatefulSet is made anew", PATIENCE, template).await?;
        // What the driver of a class would do and report: nobody does it here.
        let grown = json!({"status": {"capacity": {"storage": size}}}).to_string();
        let patch = ["patch", "pvc", CLAIM, "-n", namespace, "--subresource=status", "--type=merge", "-p", &grown];
        self.kube.kubectl(&patch).await?;
        settled(&self.kube, namespace, name).await?;
        let after = self.kube.imcluster(namespace, name).await?["status"]["redis"]["volumeSize"].clone();
        ensure!(after == size, "volumeSize is {after}, not {size}");
        let same = self.store_pods().await?;
        ensure!(same == pods, "pods were replaced: {pods:?} became {same:?}");
        println!("  redis' volume went from {now} to {size}, its pods stay");
        Ok(())
    }

    /// Waits for a condition that holds for this reason, and prints its message.
    #[allow(clippy::print_stdout, reason = "a program for people")]
    async fn says(&self, kind: &str, reason: &str) -> Result<()> {
        let (namespace, name) = MINIMAL;
        let mut message = String::new();
        let said = async || {
            let found = self.kube.imcluster(namespace, name).await?;
            let condition = condition(&found["status"], kind)?;
            let (status, why) = (&condition["status"], &condition["reason"]);
            ensure!(status == "True" && why == reason, "{kind} is {status} because of {why}");
            message = condition["message"].as_str().unwrap_or_default().to_owned();
            Ok(())
        };
        until(&format!("{kind} for {reason}"), PATIENCE, said).await?;
        println!("  {kind} {reason}: {message}");
        Ok(())
    }

    /// The UIDs of redis' and etcd's pods.
    async fn store_pods(&self) -> Result<Vec<Option<String>>> {
        let mut pods = self.kube.tier(MINIMAL.0, MINIMAL.1, "redis").await?;
        pods.extend(self.kube.tier(MINIMAL.0, MINIMAL.1, "etcd").await?);
        Ok(pods.into_iter().map(|pod| pod.metadata.uid).collect())
    }

    async fn expandable(&self, expandable: bool) -> Result<()> {
        let patch = json!({"allowVolumeExpansion": expandable}).to_string();
        self.kube.kubectl(&["patch", "storageclass", CLASS, "-p", &patch]).await.map(|_| ())
    }

    async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kube.kubectl(&[arguments, &["-o", "json"]].concat()).await?;
        serde_json::from_str(&text).context("JSON of kubectl")
    }
}
