//! The cases, one function each.

mod authority_rotation;
mod faults;
mod install;
mod rollouts;
mod scaling;
mod steady_state;
mod store_rollouts;
mod volumes;
mod watch_namespaces;

use anyhow::Result;

use super::runner::Runner;

/// What can be run on a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Case {
    /// `kubectl apply -k` of the operator, then the minimal sample; both are removed again.
    Kustomize,
    /// `helm install` of the operator, then the minimal sample: time until Ready, a chat through the Service.
    Minimal,
    /// Edits that the API server refuses, with messages that say what to write.
    Refused,
    /// The minimal sample deleted and created again: its data is still there.
    Retain,
    /// Larger volumes for the minimal sample: first with a class that cannot expand, then with one that can.
    VolumeGrowth,
    /// A full volume of the minimal sample's redis, then room again.
    RedisDiskFull,
    /// An operator with rights in two namespaces only; one is deleted while the operator restarts.
    WatchNamespaces,
    /// The HA sample becomes Ready.
    Ha,
    /// New images for connect, as often as `--rollouts` says.
    ConnectRollout,
    /// The same with `externalTrafficPolicy: Local`, behind a load balancer that cuts the connections of unhealthy nodes.
    ConnectRolloutLocal,
    /// New images for logic, as often as `--rollouts` says.
    LogicRollout,
    /// A new `spec.version`: logic, then connect.
    Upgrade,
    /// A rollout of connect during which the operator is killed repeatedly.
    OperatorKilled,
    /// `kubectl rollout restart` of connect with the operator scaled to 0.
    OperatorAbsent,
    /// connect pods deleted with a grace period of one second.
    ShortGrace,
    /// A connect pod killed.
    ConnectKill,
    /// A logic pod killed.
    LogicKill,
    /// The redis master killed until another pod is the master.
    RedisMasterKill,
    /// All redis and Sentinel pods deleted at once.
    RedisAllDeleted,
    /// Settings, resources and image of redis changed, for each durability.
    RedisRollout,
    /// A rollout of redis during which the operator is killed repeatedly.
    RedisRolloutOperatorKilled,
    /// A rollout of redis during which a replica is paused.
    RedisRolloutReplicaCutOff,
    /// Resources of etcd changed: its members are replaced one after the other.
    EtcdRollout,
    /// The internal certificate authority replaced, on request and after its Secret was deleted.
    AuthorityRotation,
    /// An etcd member killed.
    EtcdMemberKill,
    /// An etcd member and its volume deleted: a new member replaces it.
    EtcdMemberLost,
    /// A worker drained and uncordoned.
    NodeDrain,
    /// The worker of the redis master drained and uncordoned.
    MasterNodeDrain,
    /// `kubectl scale imc`: 2, 4, 2.
    Scale,
    /// An autoscaler for logic added and removed.
    LogicAutoscaled,
    /// Five minutes in which the operator writes nothing to the API server but its lease.
    Quiet,
}

impl Case {
    /// All cases, in their order.
    pub(super) const ALL: [Self; 31] = [
        Self::Kustomize,
        Self::Minimal,
        Self::Refused,
        Self::Retain,
        Self::VolumeGrowth,
        Self::RedisDiskFull,
        Self::WatchNamespaces,
        Self::Ha,
        Self::ConnectRollout,
        Self::ConnectRolloutLocal,
        Self::LogicRollout,
        Self::Upgrade,
        Self::OperatorKilled,
        Self::OperatorAbsent,
        Self::ShortGrace,
        Self::ConnectKill,
        Self::LogicKill,
        Self::RedisMasterKill,
        Self::RedisAllDeleted,
        Self::RedisRollout,
        Self::RedisRolloutOperatorKilled,
        Self::RedisRolloutReplicaCutOff,
        Self::EtcdRollout,
        Self::AuthorityRotation,
        Self::EtcdMemberKill,
        Self::EtcdMemberLost,
        Self::NodeDrain,
        Self::MasterNodeDrain,
        Self::Scale,
        Self::LogicAutoscaled,
        Self::Quiet,
    ];
    /// What a change is checked with.
    pub(super) const ESSENTIAL: [Self; 8] = [
        Self::Minimal,
        Self::Retain,
        Self::Ha,
        Self::ConnectRollout,
        Self::LogicRollout,
        Self::RedisMasterKill,
        Self::EtcdMemberLost,
        Self::NodeDrain,
    ];

    pub(super) async fn run(self, runner: &mut Runner) -> Result<()> {
        match self {
            Self::Kustomize => install::kustomize(runner).await,
            Self::Minimal => install::minimal(runner).await,
            Self::Refused => install::refused(runner).await,
            Self::Retain => install::retain(runner).await,
            Self::VolumeGrowth => volumes::growth(runner).await,
            Self::RedisDiskFull => volumes::redis_disk_full(runner).await,
            Self::WatchNamespaces => watch_namespaces::watch_namespaces(runner).await,
            Self::Ha => install::ha(runner).await,
            Self::ConnectRollout => rollouts::rollouts(runner, "connect").await,
            Self::ConnectRolloutLocal => rollouts::rollouts_local(runner).await,
            Self::LogicRollout => rollouts::rollouts(runner, "logic").await,
            Self::Upgrade => rollouts::upgrade(runner).await,
            Self::OperatorKilled => rollouts::operator_killed(runner).await,
            Self::OperatorAbsent => rollouts::operator_absent(runner).await,
            Self::ShortGrace => faults::short_grace(runner).await,
            Self::ConnectKill => faults::kill(runner, "connect").await,
            Self::LogicKill => faults::kill(runner, "logic").await,
            Self::RedisMasterKill => faults::redis_master_kill(runner).await,
            Self::RedisAllDeleted => faults::redis_all_deleted(runner).await,
            Self::RedisRollout => store_rollouts::redis(runner).await,
            Self::RedisRolloutOperatorKilled => store_rollouts::redis_operator_killed(runner).await,
            Self::RedisRolloutReplicaCutOff => store_rollouts::redis_replica_paused(runner).await,
            Self::EtcdRollout => store_rollouts::etcd(runner).await,
            Self::AuthorityRotation => authority_rotation::authority_rotation(runner).await,
            Self::EtcdMemberKill => faults::kill(runner, "etcd").await,
            Self::EtcdMemberLost => faults::etcd_member_lost(runner).await,
            Self::NodeDrain => faults::node_drain(runner).await,
            Self::MasterNodeDrain => faults::master_node_drain(runner).await,
            Self::Scale => scaling::scale(runner).await,
            Self::LogicAutoscaled => scaling::logic_autoscaled(runner).await,
            Self::Quiet => steady_state::quiet(runner).await,
        }
    }
}
