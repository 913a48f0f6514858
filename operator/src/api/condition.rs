//! Conditions of an ImCluster: their types and reasons, each with what it means.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One thing that is true of an ImCluster, or not, or not known.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: ConditionType,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// The `metadata.generation` it was found for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Since when `status` is what it is.
    pub last_transition_time: Time,
    /// Why, in one word.
    pub reason: Reason,
    /// Why, and what to do, in a sentence.
    #[schemars(length(max = 4096))]
    pub message: String,
}

/// Whether a condition holds.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// It can't be told.
    Unknown,
}

macro_rules! documented {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl $name {
            /// All there are, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its name, as it stands in the resource.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)+ }
            }

            /// What it means, as documented.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)+).trim_ascii(),)+ }
            }
        }
    };
}

documented! {
    /// What a condition is about.
    #[derive(JsonSchema, Deserialize)]
    ConditionType {
        /// Every part serves as asked for.
        Ready,
        /// Clients can connect and send.
        Available,
        /// Something is being changed: set up, upgraded, scaled, or still moving clients.
        Progressing,
        /// Something is wrong that the operator alone can't mend, or not at once.
        Degraded,
        /// The operator changes nothing, as `spec.paused` asks for.
        Paused,
        /// Redis has a master that takes writes.
        RedisReady,
        /// Etcd has a quorum.
        EtcdReady,
        /// Logic's pods are ready.
        LogicReady,
        /// Connect's pods are ready.
        ConnectReady,
        /// A field of `podOverrides` says other than the operator does, and is without effect.
        OverrideIgnored,
        /// The client Service hides clients' addresses, so that limits and bans by address are off.
        ClientAddressUnknown,
    }
}

documented! {
    /// Why a condition is what it is.
    Reason {
        /// All is as asked for.
        AsExpected,
        /// A part is not ready; the message names it.
        TiersNotReady,
        /// The spec breaks a rule; the message names field and fix. The running cluster is left as it is.
        InvalidSpec,
        /// Another operator manages this ImCluster or an object of it.
        OwnedByAnother,
        /// An object that the spec names does not exist, or lacks the key.
        ReferenceMissing,
        /// The API server refused a change; the message says why.
        ApplyFailed,
        /// The Kubernetes API does not answer; tried again.
        ApiUnavailable,
        /// Objects of a kind can't be watched in this namespace; the message names the kind and what the API server said.
        WatchFailing,
        /// `spec.paused` is true.
        Paused,
        /// `spec.paused` is false.
        NotPaused,
        /// First start: parts are set up in order.
        SettingUp,
        /// `spec.version` or an image changed: parts are upgraded in order.
        Upgrading,
        /// New pods take the place of old ones.
        RollingOut,
        /// Another internal authority takes the place of the one there is.
        RotatingAuthority,
        /// The number of pods is being changed.
        Scaling,
        /// Pods that end are moving their clients away.
        Draining,
        /// Nothing is being changed.
        Settled,
        /// Pods are starting.
        Starting,
        /// A pod can't be scheduled: no node has room for it or fits its rules.
        Unschedulable,
        /// An image can't be pulled.
        ImagePullFailed,
        /// A container ends again and again.
        CrashLooping,
        /// A volume claim is not bound: no storage class, or no room.
        VolumePending,
        /// Volumes are growing to the size that is asked for.
        VolumesGrowing,
        /// A volume stays smaller than asked for; the message says why.
        VolumeNotGrown,
        /// A quota of the namespace is used up.
        QuotaExceeded,
        /// Fewer pods are ready than asked for.
        PodsNotReady,
        /// A tier was asked to have no pods.
        NoReplicas,
        /// A pod does not answer, so its state is not known.
        Unreachable,
        /// Run by somebody else; whether it serves shows in connect and logic.
        External,
        /// No redis is the master; Sentinel is about to choose one.
        NoMaster,
        /// A person has to decide; the message says what to run.
        NeedsDecision,
        /// Redis can't write its file, most likely as its volume is full, and refuses writes.
        DiskFailing,
        /// Redis has used up its memory and refuses writes.
        MemoryFull,
        /// New pods have not become ready in the time that a Deployment allows; the old ones go on.
        ProgressDeadlineExceeded,
        /// A replica is missing or behind.
        ReplicaMissing,
        /// Redis fails over.
        FailingOver,
        /// Etcd lacks the majority it needs; it needs its members back.
        NoQuorum,
        /// An etcd member takes the place of a lost one.
        MemberReplacing,
        /// Volumes that held data are new or empty, and nothing has a copy; the message says how to go on.
        DataLost,
        /// A certificate is about to end.
        CertificateExpiring,
        /// `externalTrafficPolicy: Cluster`.
        ExternalTrafficCluster,
        /// Clients' addresses reach connect.
        AddressKept,
        /// Nothing is in conflict.
        NoConflict,
        /// The message lists what is in conflict.
        Conflict,
        /// Another part, named in the message, comes first.
        Waiting,
        /// A reason that this version of the operator does not know.
        Unrecognized,
    }
}

/// Reasons are texts in the schema, so that a newer operator's reasons fit an older definition.
impl JsonSchema for Reason {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Reason".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Z][A-Za-z]*$" })
    }
}

/// A name that is not known, as a newer operator may have written it, is [`Reason::Unrecognized`].
impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Ok(Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.name() == name)
            .unwrap_or(Self::Unrecognized))
    }
}
