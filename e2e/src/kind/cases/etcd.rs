//! Etcd rolled under the audit.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::redis::{all_new, another_limit, uids};
use super::{Play, none_restarted, show, spoke_on};
use crate::kind::figures::WHOLE_SECONDS;
use crate::kind::kube::until;
use crate::kind::stage::{PATIENCE, Played};
use crate::kind::witness::Life;

impl Play {
    /// Another limit of memory: every member is replaced, and none before the last one that was is ready again.
    pub(super) async fn etcd_rollout(&mut self) -> Result<()> {
        let stage = self.stage().await?;
        let before = uids(&stage.witness.staying("etcd"));
        let change = json!({"spec": another_limit(stage, "etcd").await?});
        let event = async {
            stage.kube.edit(&stage.namespace, &stage.name, &change).await?;
            until("every etcd pod is another one", PATIENCE, async || all_new(stage, &before)).await?;
            stage.settled().await.map(|_| ())
        };
        let played = Box::pin(stage.play("etcd gets another limit of memory", event)).await?;
        show(&played)?;
        one_at_a_time(&played, before.len())?;
        spoke_on(&played)?;
        none_restarted(&played)
    }
}

fn one_at_a_time(played: &Played, members: usize) -> Result<()> {
    let of_etcd = |lives: &[Life]| -> Vec<_> { lives.iter().filter(|life| life.tier == "etcd").cloned().collect() };
    let (mut ended, came) = (of_etcd(&played.figures.ended), of_etcd(&played.figures.came));
    ensure!(ended.len() == members, "{} members ended, not {members}", ended.len());
    ended.sort_by(|one, two| one.deleted.unwrap_or_default().total_cmp(&two.deleted.unwrap_or_default()));
    for pair in ended.windows(2) {
        let next = came.iter().find(|life| life.name == pair[0].name);
        let ready = next.and_then(|life| life.ready).with_context(|| format!("{} did not come back", pair[0].name))?;
        let deleted = pair[1].deleted.unwrap_or_default();
        ensure!(ready <= deleted + WHOLE_SECONDS, "{} ended before {} was ready again", pair[1].name, pair[0].name);
    }
    Ok(())
}
