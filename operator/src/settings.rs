//! What the operator itself is told.

use std::time::Duration;

use im_runtime::settings::{Program, Reader};

/// The process.
pub const PROGRAM: Program =
    Program { name: "im-operator", about: "Runs ImClusters on Kubernetes: builds, upgrades and heals them." };

/// How long the end of the process may take: long enough to finish a visit and give the Lease back.
pub const DRAIN: Duration = Duration::from_secs(20);

/// Where Kubernetes tells a pod its namespace.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Everything the operator is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The namespaces to work in; empty: all.
    pub watch_namespaces: Vec<String>,
    /// The operator's own namespace: its Lease is there, and policies let its pods in.
    pub namespace: String,
    /// The operator's own image, which redis' pods begin with.
    pub operator_image: String,
    /// Whether replicas elect one that works.
    pub leader_election: bool,
    /// The Lease's name.
    pub lease_name: String,
    /// How long others wait for a leader that is not heard.
    pub lease_duration: Duration,
    /// ImClusters visited at a time.
    pub visits: usize,
    /// After so long an ImCluster is visited even if nothing happened.
    pub revisit: Duration,
    /// How often connect pods are asked for their connections.
    pub drain_interval: Duration,
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
                .text("operator_image", "The operator's own image: new redis pods begin with it.")
                .or_computed(format!("imcluster/operator:{}", im_runtime::version::VERSION), "this release's"),
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
        }
    }

    /// How the one that works is elected. `identity` is this replica's.
    pub fn election(&self, identity: String) -> crate::leader::Options {
        crate::leader::Options {
            namespace: self.namespace.clone(),
            name: self.lease_name.clone(),
            identity,
            duration: self.lease_duration,
            renew_deadline: self.lease_duration * 2 / 3,
            retry: self.lease_duration * 2 / 15,
        }
    }
}

fn namespace(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let outer = |c: Option<char>| c.is_some_and(|c| inner(c) && c != '-');
    let good = text.len() <= 63 && text.chars().all(inner) && outer(text.chars().next()) && outer(text.chars().last());
    if good { Ok(text.to_owned()) } else { Err("a name of a-z, 0-9 and -, of 63 characters at most".to_owned()) }
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
    fn nothing_needs_to_be_said_and_names_are_checked() {
        let settings = |environment: &[(&str, &str)]| {
            let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
            load(PROGRAM, Settings::read, [], environment)
        };
        assert!(settings(&[]).unwrap().watch_namespaces.is_empty());
        assert_eq!(settings(&[("IM_WATCH_NAMESPACES", "a, b-2")]).unwrap().watch_namespaces, ["a", "b-2"]);
        let Err(Stop::Mistakes(mistakes)) =
            settings(&[("IM_WATCH_NAMESPACES", "No_Name"), ("IM_LEASE_DURATION", "1s")])
        else {
            panic!("no mistakes")
        };
        let fields: Vec<&str> = mistakes.iter().map(|mistake| mistake.field.as_str()).collect();
        assert_eq!(fields, ["watch_namespaces", "lease_duration"]);
    }

    #[test]
    fn a_leader_gives_up_before_another_takes_over() {
        let election = load(PROGRAM, Settings::read, [], []).unwrap().election("a".to_owned());
        assert!(election.renew_deadline + election.retry < election.duration);
    }
}
