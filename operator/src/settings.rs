//! What the operator itself is told.

use std::time::Duration;

use im_runtime::settings::{Program, Reader};

use crate::validate::Pods;

/// The process.
pub const PROGRAM: Program = Program {
    name: "im-operator",
    about: "Runs ImClusters on Kubernetes: builds, upgrades and heals them.",
};

/// How long the end of the process may take: long enough to finish a visit and give the Lease back.
pub const DRAIN: Duration = Duration::from_secs(20);

/// Where Kubernetes tells a pod its namespace.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Where a pod's resolver is told the names to try.
const RESOLVER: &str = "/etc/resolv.conf";

/// Everything the operator is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The namespaces to work in; empty: all.
    pub(crate) watch_namespaces: Vec<String>,
    /// The operator's own namespace: its Lease is there, and policies let its pods in.
    pub(crate) namespace: String,
    /// The operator's own image, which redis' pods begin with.
    pub(crate) operator_image: String,
    /// What the names of the cluster's Services end with.
    pub(crate) cluster_domain: String,
    /// What pods of ImClusters may ask of their nodes.
    pub(crate) pods: Pods,
    /// Whether replicas elect one that works.
    pub(crate) leader_election: bool,
    /// The Lease's name.
    pub(crate) lease_name: String,
    /// How long others wait for a leader that is not heard.
    pub(crate) lease_duration: Duration,
    /// ImClusters visited at a time.
    pub(crate) visits: usize,
    /// After so long an ImCluster is visited even if nothing happened.
    pub(crate) revisit: Duration,
    /// How often connect pods are asked for their connections.
    pub(crate) drain_interval: Duration,
    /// How long each phase of a change of an internal authority takes at least.
    pub(crate) authority_pause: Duration,
}

impl Settings {
    /// Asks for them.
    pub fn read(from: &mut Reader<'_>) -> Self {
        from.group("Kubernetes");
        let own = std::fs::read_to_string(OWN_NAMESPACE).map(|text| text.trim().to_owned());
        Self {
            watch_namespaces: from
                .list(
                    "watch_namespaces",
                    "name",
                    namespace,
                    String::clone,
                    "The namespaces to work in. None given: all, which needs rights in the whole Kubernetes cluster.",
                )
                .or(Vec::new()),
            namespace: from
                .text(
                    "namespace",
                    "The operator's own namespace: its Lease is there, and network policies let its pods in.",
                )
                .check(|text| namespace(text).map(drop))
                .or_computed(own.unwrap_or_else(|_| "default".to_owned()), "the pod's"),
            operator_image: from
                .text("operator_image", "The operator's own image: pods of redis, Sentinel and etcd begin with it, unless `spec.images.init` says otherwise.")
                .or_computed(format!("imcluster/operator:{}", im_runtime::version::VERSION), "this release's"),
            cluster_domain: from
                .text(
                    "cluster_domain",
                    "What the names of Services end with in this Kubernetes cluster, behind `NAME.NAMESPACE.svc.`.",
                )
                .check(|text| domain(text).map(drop))
                .or_computed(
                    std::fs::read_to_string(RESOLVER).ok().as_deref().and_then(searched).unwrap_or("cluster.local").to_owned(),
                    "what the pod's resolver searches, or else `cluster.local`",
                ),
            pods: match from
                .boolean(
                    "privileged_pods",
                    "Whether `podOverrides` may ask for privileges, for what is the node's, and for root. Whoever may write ImClusters then may do anything on the nodes.",
                )
                .or(false)
            {
                true => Pods::Privileged,
                false => Pods::Confined,
            },
            leader_election: from
                .boolean(
                    "leader_election",
                    "Whether replicas elect one that works. Off only where no second one can run.",
                )
                .or(true),
            lease_name: from
                .text("lease_name", "The name of the Lease with which replicas elect one that works.")
                .check(|text| namespace(text).map(drop))
                .or("im-operator".to_owned()),
            lease_duration: from
                .duration("lease_duration", "How long other replicas wait for a leader that is not heard.")
                .within(Duration::from_secs(6)..=Duration::from_secs(300))
                .or(Duration::from_secs(15)),
            visits: from.integer("visits", "ImClusters worked on at a time.").within(1..=64).or(4),
            revisit: from
                .duration("revisit", "After so long an ImCluster is looked at even if nothing happened.")
                .within(Duration::from_secs(10)..=Duration::from_secs(3600))
                .or(Duration::from_secs(600)),
            drain_interval: from
                .duration("drain_interval", "How often connect pods are asked for their connections and drains.")
                .within(Duration::from_secs(1)..=Duration::from_secs(60))
                .or(Duration::from_secs(5)),
            authority_pause: from
                .duration(
                    "authority_pause",
                    "How long each of the two phases of a change of an internal authority takes at least: until kubelets have brought its Secrets to the pods, and processes have read them.",
                )
                .within(Duration::from_secs(60)..=Duration::from_secs(86_400))
                .or(Duration::from_secs(300)),
        }
    }

    /// How the one that works is elected. `identity` is this replica's.
    pub(crate) fn election(&self, identity: String) -> crate::kubernetes::election::Options {
        crate::kubernetes::election::Options {
            namespace: self.namespace.clone(),
            name: self.lease_name.clone(),
            identity,
            duration: self.lease_duration,
            renew_deadline: self.lease_duration * 2 / 3,
            retry: self.lease_duration * 2 / 15,
        }
    }
}

/// The domain behind `svc.` in the names that a resolver tries.
fn searched(configuration: &str) -> Option<&str> {
    let lists = configuration
        .lines()
        .filter_map(|line| line.trim().strip_prefix("search"));
    let found = lists
        .flat_map(str::split_whitespace)
        .find_map(|name| name.strip_prefix("svc."))?;
    let found = found.trim_end_matches('.');
    domain(found).is_ok().then_some(found)
}

fn domain(text: &str) -> Result<String, String> {
    let good = text.len() <= 190 && text.split('.').all(|label| namespace(label).is_ok());
    if good {
        Ok(text.to_owned())
    } else {
        Err("names of a-z, 0-9 and - with dots between them".to_owned())
    }
}

fn namespace(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let outer = |c: Option<char>| c.is_some_and(|c| inner(c) && c != '-');
    let good = text.len() <= 63
        && text.chars().all(inner)
        && outer(text.chars().next())
        && outer(text.chars().last());
    if good {
        Ok(text.to_owned())
    } else {
        Err("a name of a-z, 0-9 and -, of 63 characters at most".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use im_runtime::documentation;
    use im_runtime::settings::{Stop, load};

    use super::*;

    #[test]
    fn the_documentation_lists_every_setting() {
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let wanted = documentation::settings(PROGRAM, DRAIN, Settings::read);
        documentation::check(&document, PROGRAM.name, &wanted).unwrap();
    }

    #[test]
    fn the_domain_is_what_the_resolver_searches() {
        let kubernetes = "nameserver 10.96.0.10\nsearch chat.svc.shop.example svc.shop.example shop.example\noptions ndots:5\n";
        assert_eq!(searched(kubernetes), Some("shop.example"));
        assert_eq!(searched("search chat.svc.a.b svc.a.b. a.b"), Some("a.b"));
        assert_eq!(searched("nameserver 1.1.1.1\nsearch example.org\n"), None);
        assert_eq!(searched("search svc.a_b"), None);
        assert!(domain("cluster.local").is_ok() && domain("").is_err() && domain("a..b").is_err());
    }

    #[test]
    fn nothing_needs_to_be_said_and_names_are_checked() {
        let settings = |environment: &[(&str, &str)]| {
            let environment = environment
                .iter()
                .map(|(name, value)| (name.into(), value.into()));
            load(PROGRAM, Settings::read, [], environment)
        };
        assert!(settings(&[]).unwrap().watch_namespaces.is_empty());
        assert_eq!(
            settings(&[("IM_WATCH_NAMESPACES", "a, b-2")])
                .unwrap()
                .watch_namespaces,
            ["a", "b-2"]
        );
        let Err(Stop::Mistakes(mistakes)) = settings(&[
            ("IM_WATCH_NAMESPACES", "No_Name"),
            ("IM_LEASE_DURATION", "1s"),
        ]) else {
            panic!("no mistakes")
        };
        let fields: Vec<&str> = mistakes
            .iter()
            .map(|mistake| mistake.field.as_str())
            .collect();
        assert_eq!(fields, ["watch_namespaces", "lease_duration"]);
    }

    #[test]
    fn a_leader_gives_up_before_another_takes_over() {
        let election = load(PROGRAM, Settings::read, [], [])
            .unwrap()
            .election("a".to_owned());
        assert!(election.renew_deadline + election.retry < election.duration);
    }
}
