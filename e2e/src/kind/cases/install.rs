//! Installing, getting ready, chatting, refusing, and finding data again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use im_client::{Client, Event, Outgoing};
use im_wire::ids::RoomId;
use im_wire::native::Position;
use serde_json::{Value, json};

use super::{HA, OPERATOR, Play, SYSTEM, settled, text};
use crate::kind::kube::until;
use crate::kind::stage::signer;
use crate::token::Signer;

pub(super) const MINIMAL: (&str, &str) = ("im-e2e-minimal", "demo");
const GONE: Duration = Duration::from_secs(180);

impl Play {
    /// The operator by Helm, as the README says, in the version under test.
    pub(super) async fn install(&self) -> Result<()> {
        self.install_with(&[]).await
    }

    /// The same, with more arguments for Helm.
    #[allow(clippy::print_stdout, reason = "a program for people")]
    pub(super) async fn install_with(&self, own: &[&str]) -> Result<()> {
        let begun = Instant::now();
        let chart = self.options.tree.join("charts/im-operator");
        let tag = format!("image.tag={}", self.options.version);
        let arguments = [
            "upgrade",
            "--install",
            OPERATOR,
            text(&chart)?,
            "--namespace",
            SYSTEM,
            "--create-namespace",
            "--take-ownership",
        ];
        // Long enough for kubelets and processes here.
        let pause = "env.IM_AUTHORITY_PAUSE=150s";
        let more = ["--set", &tag, "--set", pause, "--wait", "--timeout", "180s"];
        self.kube.helm(&[&arguments[..], &more[..], own].concat()).await?;
        println!("  helm install: the operator is ready after {:.1} s", begun.elapsed().as_secs_f64());
        Ok(())
    }

    pub(super) async fn kustomize(&self) -> Result<()> {
        let _ = self.kube.helm(&["uninstall", OPERATOR, "--namespace", SYSTEM, "--wait"]).await;
        let tree = self.options.tree.join("manifests");
        self.kube.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", text(&tree)?]).await?;
        let deployment = format!("deployment/{OPERATOR}");
        let image = format!("*=imcluster/operator:{}", self.options.version);
        self.kube.kubectl(&["set", "image", &deployment, &image, "--namespace", SYSTEM]).await?;
        self.kube.kubectl(&["rollout", "status", &deployment, "--namespace", SYSTEM, "--timeout=120s"]).await?;
        self.fresh_minimal().await?;
        self.remove(MINIMAL).await?;
        self.kube.kubectl(&["delete", "-k", text(&tree)?, "--ignore-not-found", "--timeout=120s"]).await?;
        Ok(())
    }

    pub(super) async fn minimal(&mut self) -> Result<()> {
        self.install().await?;
        self.fresh_minimal().await?;
        let (namespace, name) = MINIMAL;
        let signer = signer(&self.kube, namespace, name).await?;
        let service = format!("{name}-connect");
        let tcp = self.kube.outside(namespace, &service, "tcp").await?;
        let ws = self.kube.outside(namespace, &service, "ws").await?;
        chat(&signer, &format!("tcp://{}", tcp[0]), &format!("ws://{}/ws", ws[ws.len() - 1])).await
    }

    /// What is chosen of images in place of what a sample chooses.
    fn images(&self) -> Value {
        self.options.redis_tag.as_ref().map_or(Value::Null, |tag| json!({"redis": {"repository": "redis", "tag": tag}}))
    }

    /// The minimal sample on a cluster that holds nothing of it, until Ready. Clients get in by node ports.
    #[allow(clippy::print_stdout, reason = "a program for people")]
    async fn fresh_minimal(&self) -> Result<()> {
        self.remove_namespace(MINIMAL.0).await?;
        self.namespace(MINIMAL.0).await?;
        let begun = Instant::now();
        self.minimal_in(MINIMAL.0).await?;
        println!("  the minimal sample is Ready after {:.1} s", begun.elapsed().as_secs_f64());
        print!("{}", self.kube.kubectl(&["get", "imc", "-n", MINIMAL.0]).await?);
        Ok(())
    }

    /// The minimal sample in a namespace, until Ready.
    pub(super) async fn minimal_in(&self, namespace: &str) -> Result<()> {
        let name = MINIMAL.1;
        let service = json!({"type": "NodePort", "externalTrafficPolicy": "Cluster"});
        let patch = json!({"metadata": {"name": name}, "spec": {"version": self.options.version, "connect": {"service": service}, "images": self.images()}});
        let sample = self.sample("minimal.yaml", namespace, &patch).await?;
        self.kube.apply(&sample.to_string()).await?;
        settled(&self.kube, namespace, name).await.map(|_| ())
    }

    /// The operator and the HA sample, in the version under test and with a short drain.
    #[allow(clippy::print_stdout, reason = "a program for people")]
    pub(super) async fn bring_up_ha(&self) -> Result<()> {
        let (namespace, name) = HA;
        self.install().await?;
        self.namespace(namespace).await?;
        let service = json!({"type": "NodePort", "externalTrafficPolicy": "Cluster"});
        let connect =
            json!({"drainSeconds": self.options.drain_seconds, "service": service, "rollout": {"maxDraining": 1}});
        let spec = json!({"version": self.options.version, "connect": connect, "images": self.images()});
        let mut sample = self.sample("ha.yaml", namespace, &json!({"metadata": {"name": name}, "spec": spec})).await?;
        super::merge(&mut sample, &json!({"spec": self.options.spec}));
        let begun = Instant::now();
        self.kube.apply(&sample.to_string()).await?;
        settled(&self.kube, namespace, name).await?;
        println!("  the HA sample is Ready after {:.1} s", begun.elapsed().as_secs_f64());
        Ok(())
    }

    #[allow(clippy::print_stdout, reason = "a program for people")]
    pub(super) async fn ha(&mut self) -> Result<()> {
        self.remove_namespace(HA.0).await?;
        self.stage = None;
        self.stage().await?;
        print!("{}", self.kube.kubectl(&["get", "imc,pods,pvc,pdb", "-n", HA.0, "-o", "wide"]).await?);
        Ok(())
    }

    #[allow(clippy::print_stdout, reason = "a program for people")]
    pub(super) async fn refused(&self) -> Result<()> {
        let (namespace, name) = MINIMAL;
        settled(&self.kube, namespace, name).await.context("case minimal comes first")?;
        let edits = [
            (json!({"spec": {"redis": {"mode": "Sentinel"}}}), "mode can't be changed"),
            (json!({"spec": {"etcd": {"replicas": 2}}}), "etcd"),
            (json!({"spec": {"connect": {"replicas": -1}}}), "spec.connect.replicas"),
            (json!({"spec": {"version": ""}}), "spec.version"),
            (json!({"spec": {"redis": {"storage": {"size": "1Gi"}}}}), "volumes can grow, not shrink"),
        ];
        for (edit, wanted) in edits {
            let refused = self.kube.edit(namespace, name, &edit).await;
            let said =
                refused.err().map(|error| format!("{error:#}")).with_context(|| format!("{edit} was accepted"))?;
            ensure!(said.contains(wanted), "the refusal of {edit} does not say {wanted:?}: {said}");
            println!("  {edit}: {said}");
        }
        settled(&self.kube, namespace, name).await.map(|_| ())
    }

    pub(super) async fn retain(&mut self) -> Result<()> {
        let (namespace, name) = MINIMAL;
        settled(&self.kube, namespace, name).await.context("case minimal comes first")?;
        let before = self.kube.imcluster(namespace, name).await?;
        let key = signer(&self.kube, namespace, name).await?;
        let room = RoomId::new("kept")?;
        let sent = self.say(&key, MINIMAL, &room, 20).await?;
        self.remove(MINIMAL).await?;
        let spec = &before["spec"];
        let again = json!({"apiVersion": before["apiVersion"], "kind": before["kind"],
            "metadata": {"name": name, "namespace": namespace}, "spec": spec});
        self.kube.apply(&again.to_string()).await?;
        settled(&self.kube, namespace, name).await?;
        // The same key signs: the Secret outlived the ImCluster as the data did.
        let found = self.history(&key, MINIMAL, &room).await?;
        ensure!(found.len() >= sent.len(), "of {} messages {} are there", sent.len(), found.len());
        ensure!(found.ends_with(&sent), "{sent:?} were sent, {found:?} are there");
        self.say(&key, MINIMAL, &room, 1).await.map(|_| ())
    }

    /// Deletes an ImCluster and waits until its pods are gone.
    async fn remove(&self, (namespace, name): (&str, &str)) -> Result<()> {
        self.kube.kubectl(&["delete", "imc", name, "-n", namespace, "--timeout=180s"]).await?;
        let probe = async || {
            let mut left = Vec::new();
            for tier in ["connect", "logic", "redis", "sentinel", "etcd"] {
                left.extend(
                    self.kube.tier(namespace, name, tier).await?.into_iter().filter_map(|pod| pod.metadata.name),
                );
            }
            ensure!(left.is_empty(), "still there: {left:?}");
            Ok(())
        };
        until(&format!("the pods of {namespace}/{name} are gone"), GONE, probe).await.map(|_| ())
    }

    /// Sends messages: their ids.
    pub(super) async fn say(
        &self,
        signer: &Signer,
        place: (&str, &str),
        room: &RoomId,
        count: usize,
    ) -> Result<Vec<String>> {
        let (client, _events) = self.client(signer, place, room).await?;
        let mut ids = Vec::new();
        for number in 0..count {
            ids.push(client.send(Outgoing::text(room.clone(), format!("message {number}"))).await?.id);
        }
        client.close().await;
        Ok(ids)
    }

    /// The ids of the newest messages, oldest first.
    pub(super) async fn history(&self, signer: &Signer, place: (&str, &str), room: &RoomId) -> Result<Vec<String>> {
        let (client, _events) = self.client(signer, place, room).await?;
        let page = client.history(room.clone(), im_client::Part::Latest, 100).await?;
        client.close().await;
        Ok(page.messages.into_iter().map(|message| message.id).collect())
    }

    async fn client(
        &self,
        signer: &Signer,
        (namespace, name): (&str, &str),
        room: &RoomId,
    ) -> Result<(Client, im_client::Events)> {
        let tcp = self.kube.outside(namespace, &format!("{name}-connect"), "tcp").await?;
        let addresses: Vec<String> = tcp.iter().map(|address| format!("tcp://{address}")).collect();
        let builder = Client::builder().addresses(addresses).device("one");
        let token = signer.token("keeper", "", &[room.as_str()])?;
        let (client, events) =
            builder.token(token).subscribe([Position { room: room.clone(), epoch: 0, seq: None }]).build()?;
        tokio::time::timeout(Duration::from_secs(30), client.connected()).await.context("does not get in")??;
        Ok((client, events))
    }
}

/// Two people, one over each transport, hear each other.
#[allow(clippy::print_stdout, reason = "a program for people")]
async fn chat(signer: &Signer, tcp: &str, ws: &str) -> Result<()> {
    let room = RoomId::new("lobby")?;
    let join = |user: &str, address: &str| -> Result<_> {
        let position = Position { room: room.clone(), epoch: 0, seq: None };
        let token = signer.token(user, "", &["lobby"])?;
        Ok(Client::builder().address(address).token(token).device("one").subscribe([position]).build()?)
    };
    let (ada, mut ada_hears) = join("ada", tcp)?;
    let (grace, mut grace_hears) = join("grace", ws)?;
    for client in [&ada, &grace] {
        tokio::time::timeout(Duration::from_secs(30), client.connected()).await.context("does not get in")??;
    }
    let words = [(&ada, "hello from TCP", &mut grace_hears), (&grace, "hello from WebSocket", &mut ada_hears)];
    for (speaker, words, hears) in words {
        speaker.send(Outgoing::text(room.clone(), words)).await?;
        let heard = async {
            loop {
                match hears.next().await.context("the client ended")? {
                    Event::Message(message) if message.body.bytes() == words.as_bytes() => return anyhow::Ok(()),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(15), heard)
            .await
            .with_context(|| format!("{words:?} is not heard"))??;
        println!("  heard: {words}");
    }
    Ok(())
}
