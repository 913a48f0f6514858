//! An operator with rights in some namespaces alone.

use anyhow::{Result, ensure};
use serde_json::json;

use super::install::MINIMAL;
use super::{OPERATOR, Play, kill_operator, settled};

/// The namespace that goes on, and the one that goes.
const NAMESPACES: [&str; 2] = ["im-e2e-stays", "im-e2e-goes"];

impl Play {
    pub(super) async fn watch_namespaces(&mut self) -> Result<()> {
        // Whatever else there is is nobody's meanwhile.
        self.stage = None;
        for namespace in NAMESPACES {
            self.namespace(namespace).await?;
        }
        let watched = format!("watchNamespaces={{{}}}", NAMESPACES.join(","));
        self.install_with(&["--set", &watched]).await?;
        let played = Box::pin(self.one_goes()).await;
        self.install().await?;
        for namespace in NAMESPACES {
            self.remove_namespace(namespace).await?;
        }
        played
    }

    #[allow(clippy::print_stdout, reason = "a program for people")]
    async fn one_goes(&self) -> Result<()> {
        let bindings = self.kube.kubectl(&["get", "clusterrolebindings", "-o", "name"]).await?;
        ensure!(!bindings.contains(OPERATOR), "the operator has rights everywhere: {bindings}");
        for namespace in NAMESPACES {
            self.minimal_in(namespace).await?;
        }
        let [stays, goes] = NAMESPACES;
        self.kube.kubectl(&["delete", "namespace", goes, "--wait=false"]).await?;
        kill_operator(&self.kube).await?;
        let logic = self.kube.imcluster(stays, MINIMAL.1).await?["spec"]["logic"]["replicas"].as_u64().unwrap_or(1) + 1;
        self.kube.edit(stays, MINIMAL.1, &json!({"spec": {"logic": {"replicas": logic}}})).await?;
        let took = settled(&self.kube, stays, MINIMAL.1).await?;
        let pods = self.kube.tier(stays, MINIMAL.1, "logic").await?.len() as u64;
        ensure!(pods == logic, "{pods} pods of logic, not {logic}");
        println!(
            "  {goes} is deleted and all operators are killed: {stays} is as asked for after {:.1} s",
            took.as_secs_f64()
        );
        self.remove_namespace(goes).await
    }
}
