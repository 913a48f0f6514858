//! Volumes of redis and etcd: where the spec asks for more than their claims do, the claims are asked to grow. The
//! StatefulSet, whose template of a claim can't be changed, is made anew around its pods by [`crate::kubernetes::apply`], and what the
//! storage makes of it is looked at until the volumes are as large.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::api::{EtcdMode, ImClusterSpec, RedisMode, Storage, Tier};
use crate::build::bytes;
use crate::context::Context;
use crate::kubernetes::key::Key;
use crate::tiers::stateful;
use crate::validate::Valid;

/// Conditions of a claim that say that its volume does not grow.
const ERRORS: [&str; 2] = ["ControllerResizeError", "NodeResizeError"];

/// How large the volumes of an ImCluster are, beside how large they are to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Growth {
    /// Claims were made larger just now.
    pub(crate) wrote: bool,
    /// Volumes that are on their way to what their claims ask for, for people.
    pub(crate) growing: Vec<String>,
    /// Volumes that stay smaller than asked for, and why, for people.
    pub(crate) stuck: Vec<String>,
    /// What the largest claim of redis asks for.
    pub(crate) redis: Option<Quantity>,
    /// The same of etcd.
    pub(crate) etcd: Option<Quantity>,
    /// The smallest volume of etcd, in bytes.
    pub(crate) etcd_least: Option<u64>,
}

/// What is to be done about one claim.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing: its volume is as large as it is to be, or there is none yet.
    None,
    /// It is to ask for more.
    Ask,
    /// It asks for enough, and its volume is not as large yet.
    Wait(String),
    /// The storage says that it can't.
    Stuck(String),
}

/// Asks claims for more where the spec does, and looks at all of them.
///
/// # Errors
/// The API server. That it refuses to make a volume larger is none, but is told in the result.
pub(crate) async fn grow(context: &Context, valid: &Valid) -> Result<Growth, kube::Error> {
    let key = Key::of(valid.cluster());
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &key.namespace);
    let mut growth = Growth::default();
    for (tier, storage) in stored(valid.spec()) {
        for mut claim in claims(context, &key, tier) {
            match step(&claim, &storage.size) {
                Step::None => {}
                Step::Ask => match enlarge(&api, &claim, tier, &storage.size).await? {
                    Ok(larger) => {
                        tracing::info!(cluster = %key, claim = claim.name_any(), size = storage.size.0, "requested a larger volume");
                        growth.wrote = true;
                        growth.growing.push(format!(
                            "{}: asked for {}",
                            claim.name_any(),
                            storage.size.0
                        ));
                        context.stores.claims.put(larger.clone());
                        claim = larger;
                    }
                    Err(why) => growth.stuck.push(why),
                },
                Step::Wait(why) => growth.growing.push(why),
                Step::Stuck(why) => growth.stuck.push(why),
            }
            growth.note(tier, &claim);
        }
    }
    Ok(growth)
}

/// Asks for a larger volume; `Err` says why the API server refuses that.
async fn enlarge(
    api: &Api<PersistentVolumeClaim>,
    claim: &PersistentVolumeClaim,
    tier: Tier,
    size: &Quantity,
) -> Result<Result<PersistentVolumeClaim, String>, kube::Error> {
    let name = claim.name_any();
    let patch = json!({"spec": {"resources": {"requests": {"storage": size}}}});
    match api
        .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(larger) => Ok(Ok(larger)),
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 422) => Ok(Err(format!(
            "{name} can't grow to the {} of spec.{}.storage.size: {}: set allowVolumeExpansion in its StorageClass if its driver can, or the size back to what it was",
            size.0,
            tier.name(),
            status.message
        ))),
        Err(error) => Err(error),
    }
}

impl Growth {
    fn note(&mut self, tier: Tier, claim: &PersistentVolumeClaim) {
        let largest = if tier == Tier::Redis {
            &mut self.redis
        } else {
            &mut self.etcd
        };
        let asks = request(claim).cloned();
        *largest = largest
            .take()
            .into_iter()
            .chain(asks)
            .max_by_key(|size| bytes(size).unwrap_or(0));
        if tier == Tier::Etcd {
            self.etcd_least = self.etcd_least.into_iter().chain(capacity(claim)).min();
        }
    }
}

/// The tiers that have volumes of ours.
fn stored(spec: &ImClusterSpec) -> impl Iterator<Item = (Tier, &Storage)> {
    let redis =
        (spec.redis.mode != RedisMode::External).then_some((Tier::Redis, &spec.redis.storage));
    let etcd = (spec.etcd.mode == EtcdMode::Managed).then_some((Tier::Etcd, &spec.etcd.storage));
    redis.into_iter().chain(etcd)
}

/// The claims of a tier's StatefulSet, in order; also those that no pod has at the moment.
fn claims(context: &Context, key: &Key, tier: Tier) -> Vec<PersistentVolumeClaim> {
    let prefix = stateful::claims(key, tier);
    let number =
        |claim: &PersistentVolumeClaim| claim.name_any().strip_prefix(&prefix)?.parse::<u32>().ok();
    let all = context.stores.claims.of_cluster(key).into_iter();
    let here = all.filter(|claim| claim.metadata.deletion_timestamp.is_none());
    let mut numbered: Vec<_> = here
        .filter_map(|claim| Some((number(&claim)?, claim.as_ref().clone())))
        .collect();
    numbered.sort_by_key(|(number, _)| *number);
    numbered.into_iter().map(|(_, claim)| claim).collect()
}

fn request(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    claim
        .spec
        .as_ref()?
        .resources
        .as_ref()?
        .requests
        .as_ref()?
        .get("storage")
}

/// How large the volume is, in bytes; `None`: there is none.
fn capacity(claim: &PersistentVolumeClaim) -> Option<u64> {
    bytes(claim.status.as_ref()?.capacity.as_ref()?.get("storage")?)
}

fn step(claim: &PersistentVolumeClaim, size: &Quantity) -> Step {
    let asks = request(claim).and_then(bytes);
    // Only a volume that is there can grow: one that comes later is as large as its claim then asks for.
    let (Some(wanted), Some(asks), Some(has)) = (bytes(size), asks, capacity(claim)) else {
        return Step::None;
    };
    if asks < wanted {
        return Step::Ask;
    }
    if has >= asks {
        return Step::None;
    }
    let name = claim.name_any();
    let conditions = claim
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let mut held: Vec<_> = conditions
        .filter(|condition| condition.status == "True")
        .collect();
    held.sort_by_key(|condition| !ERRORS.contains(&condition.type_.as_str()));
    let why = held.first().map(|condition| {
        let message = condition.message.as_deref().unwrap_or_default();
        format!(": {} {message}", condition.type_)
            .trim_end()
            .to_owned()
    });
    let text = format!(
        "{name} has {has} bytes of {asks}{}",
        why.unwrap_or_default()
    );
    if held
        .first()
        .is_some_and(|condition| ERRORS.contains(&condition.type_.as_str()))
    {
        return Step::Stuck(text);
    }
    Step::Wait(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(asks: &str, has: Option<&str>, conditions: &[(&str, &str)]) -> PersistentVolumeClaim {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, message)| json!({"type": kind, "status": "True", "message": message}))
            .collect();
        let mut status = json!({"conditions": conditions});
        if let Some(has) = has {
            status["capacity"] = json!({"storage": has});
        }
        serde_json::from_value(json!({
            "metadata": {"name": "data-demo-redis-0"},
            "spec": {"resources": {"requests": {"storage": asks}}},
            "status": status,
        }))
        .unwrap()
    }

    fn of(asks: &str, has: Option<&str>, conditions: &[(&str, &str)], size: &str) -> Step {
        step(&claim(asks, has, conditions), &Quantity(size.to_owned()))
    }

    #[test]
    fn a_claim_asks_for_more_once_its_volume_is_there_and_never_for_less() {
        assert_eq!(of("8Gi", Some("8Gi"), &[], "16Gi"), Step::Ask);
        assert_eq!(of("8Gi", None, &[], "16Gi"), Step::None);
        assert_eq!(of("8Gi", Some("8Gi"), &[], "8192Mi"), Step::None);
        assert_eq!(of("16Gi", Some("16Gi"), &[], "8Gi"), Step::None);
        // Storage rounds up.
        assert_eq!(of("10G", Some("10Gi"), &[], "10G"), Step::None);
    }

    #[test]
    fn what_the_storage_says_meanwhile_is_told() {
        let waits = |conditions: &[(&str, &str)]| of("16Gi", Some("8Gi"), conditions, "16Gi");
        let size = "data-demo-redis-0 has 8589934592 bytes of 17179869184";
        assert_eq!(waits(&[]), Step::Wait(size.to_owned()));
        assert_eq!(
            waits(&[("FileSystemResizePending", "on the node")]),
            Step::Wait(format!("{size}: FileSystemResizePending on the node"))
        );
        let errors = [("Resizing", ""), ("ControllerResizeError", "no room")];
        assert_eq!(
            waits(&errors),
            Step::Stuck(format!("{size}: ControllerResizeError no room"))
        );
    }
}
