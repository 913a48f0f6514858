//! Volumes that are to grow, and one that is full.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use im_wire::ids::RoomId;
use serde_json::{Value, json};

use super::install::MINIMAL;
use super::{Play, settled};
use crate::kind::kube::{run, until};
use crate::kind::stage::{PATIENCE, condition, signer};

const CLASS: &str = "standard";
const CLAIM: &str = "data-demo-redis-0";
const POD: &str = "demo-redis-0";
/// How large the volume is that is filled, in MiB: redis' files of a cluster that hardly anything was said on are smaller.
const SMALL: u32 = 48;

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
        let asks = self.kube.json(&["get", "pvc", CLAIM, "-n", namespace]).await?;
        ensure!(asks["spec"]["resources"]["requests"]["storage"] == size, "{CLAIM} asks for {}", asks["spec"]);
        let template = async || {
            let set = self.kube.json(&["get", "statefulset", "demo-redis", "-n", namespace]).await?;
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

    /// Redis' volume gets a file system of its own, which is filled from outside: writes are refused and it is said why, until
    /// there is room again.
    pub(super) async fn redis_disk_full(&mut self) -> Result<()> {
        settled(&self.kube, MINIMAL.0, MINIMAL.1).await.context("case minimal comes first")?;
        let claim = self.kube.json(&["get", "pvc", CLAIM, "-n", MINIMAL.0]).await?;
        let volume = claim["spec"]["volumeName"].as_str().context("the claim is not bound")?;
        let volume = self.kube.json(&["get", "pv", volume]).await?["spec"].clone();
        let path = volume.pointer("/hostPath/path").or_else(|| volume.pointer("/local/path"));
        let path = path.and_then(Value::as_str).context("the volume is no folder of its node: this case needs kind")?;
        let pod = self.kube.json(&["get", "pod", POD, "-n", MINIMAL.0]).await?;
        let node = pod["spec"]["nodeName"].as_str().context("redis runs nowhere")?;
        on(node, &format!("cp -a {path} /var/tmp/kept && mount -t tmpfs -o size={SMALL}m tmpfs {path} && chown --reference=/var/tmp/kept {path} && chmod --reference=/var/tmp/kept {path} && cp -a /var/tmp/kept/. {path}")).await?;
        let played = Box::pin(self.fill(node, path)).await;
        // What is in it now goes back to the folder under it.
        on(node, &format!("rm -rf /var/tmp/kept {path}/filler && cp -a {path} /var/tmp/kept && umount -l {path} && cp -a /var/tmp/kept/. {path} && rm -rf /var/tmp/kept")).await?;
        self.restart().await?;
        played
    }

    #[allow(clippy::print_stdout, reason = "a program for people")]
    async fn fill(&self, node: &str, path: &str) -> Result<()> {
        let (namespace, name) = MINIMAL;
        self.restart().await?;
        let key = signer(&self.kube, namespace, name).await?;
        let room = RoomId::new("full")?;
        let sent = self.say(&key, MINIMAL, &room, 20).await?;
        on(node, &format!("dd if=/dev/zero of={path}/filler bs=64k 2>/dev/null; df {path} | tail -n 1")).await?;
        // The first write finds out, and is not answered.
        let more = tokio::time::timeout(Duration::from_secs(20), self.say(&key, MINIMAL, &room, 2_000)).await;
        ensure!(!matches!(more, Ok(Ok(_))), "a full disk took 2,000 messages");
        self.says("Degraded", "DiskFailing").await?;
        print!("{}", self.kube.kubectl(&["get", "imc", "-n", namespace, "-o", "wide"]).await?);
        on(node, &format!("rm {path}/filler")).await?;
        settled(&self.kube, namespace, name).await?;
        self.say(&key, MINIMAL, &room, 1).await?;
        let found = self.history(&key, MINIMAL, &room).await?;
        ensure!(found.len() > sent.len(), "{} messages are there, {} were acknowledged", found.len(), sent.len() + 1);
        println!("  with room again all is well");
        Ok(())
    }

    /// Redis' pod is another one, and all is well.
    async fn restart(&self) -> Result<()> {
        self.kube.kubectl(&["delete", "pod", POD, "-n", MINIMAL.0]).await?;
        settled(&self.kube, MINIMAL.0, MINIMAL.1).await.map(|_| ())
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
}

/// Runs a shell's words on a node of a kind cluster.
async fn on(node: &str, words: &str) -> Result<String> {
    run("docker", &["exec", node, "sh", "-c", words], "", Duration::from_secs(60)).await
}
