//! The faults, and what each is injected into.

use serde::Serialize;

use crate::servers::redis::MasterDiscovery;

/// What can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Nothing: the workload alone.
    None,
    /// SIGTERM to one connect, which moves its clients and exits.
    ConnectDrain,
    /// kill -9 of one connect.
    ConnectKill,
    /// SIGSTOP of one connect for 30 s, as on a machine that swaps or a paused virtual machine.
    ConnectPause,
    /// SIGTERM to one logic.
    LogicDrain,
    /// kill -9 of one logic.
    LogicKill,
    /// No logic for 30 s; with --full for 5 minutes.
    LogicGone,
    /// kill -9 of the redis master with its replicas in sync.
    Failover,
    /// kill -9 of the redis master after its replicas were cut off: the last messages are taken back, their seqs reused.
    FailoverCutOff,
    /// SIGSTOP of all of redis for 10 s.
    RedisFreeze,
    /// A planned failover behind one address: both servers keep running, only the address leads elsewhere.
    HandOver,
    /// Subscriptions are cut off from redis for 10 s, commands are not.
    BusCut,
    /// Commands are cut off from redis for 10 s, subscriptions are not.
    CommandsCut,
    /// The redis master is killed and restarts without its data.
    RedisWipe,
    /// etcd and one logic are killed; both come back.
    EtcdLoss,
    /// A backup of standalone is restored: later messages are taken back.
    Restore,
}

/// What a fault is injected into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// A cluster that finds its redis master in this way.
    Cluster(MasterDiscovery),
    /// The standalone program.
    Standalone,
}

impl Fault {
    /// The default, in this order.
    pub const ESSENTIAL: [Self; 8] = [
        Self::None,
        Self::ConnectDrain,
        Self::ConnectKill,
        Self::LogicDrain,
        Self::LogicKill,
        Self::EtcdLoss,
        Self::Failover,
        Self::FailoverCutOff,
    ];
    /// Every fault; those with the same environment are next to each other.
    pub const ALL: [Self; 16] = [
        Self::None,
        Self::ConnectDrain,
        Self::ConnectKill,
        Self::ConnectPause,
        Self::LogicDrain,
        Self::LogicKill,
        Self::LogicGone,
        Self::EtcdLoss,
        Self::Failover,
        Self::FailoverCutOff,
        Self::RedisFreeze,
        Self::HandOver,
        Self::BusCut,
        Self::CommandsCut,
        Self::RedisWipe,
        Self::Restore,
    ];

    /// What it is injected into.
    pub fn environment(self) -> Environment {
        match self {
            Self::Restore => Environment::Standalone,
            Self::RedisFreeze
            | Self::HandOver
            | Self::BusCut
            | Self::CommandsCut
            | Self::RedisWipe => Environment::Cluster(MasterDiscovery::OneAddress),
            _ => Environment::Cluster(MasterDiscovery::Sentinels),
        }
    }
}
