//! Etcd: one member or three, formed once from empty volumes; after that a member with an empty volume only ever joins.

use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::container::{self, Mounted, container, field, http_probe, mount, port, tls};
use super::pod::{Parts, template};
use super::workload::{Stateful, Unhealthy, common, headless, service_port, stateful_set};
use super::{Building, monitor, names, quantity};
use crate::api::Tier;

/// The init container in which a pod with an empty volume waits until the members have taken it in.
pub(crate) const JOIN: &str = "join";

const DATA: &str = "/var/lib/etcd";
const GRACE: i64 = 30;
const QUOTA: u64 = 2 * 1024 * 1024 * 1024;

pub(super) fn objects(building: &mut Building<'_>) {
    let (valid, inputs) = (building.valid, building.inputs);
    let etcd = &valid.spec().etcd;
    common(building, Tier::Etcd, Unhealthy::IfHealthyBudget);
    let ports = vec![
        service_port("client", names::ETCD_CLIENT_PORT),
        service_port("peer", names::ETCD_PEER_PORT),
    ];
    headless(building, Tier::Etcd, ports);

    let said = building.ignored.len();
    let timeless = pods(building, false);
    let mut template = timeless.clone();
    if inputs.etcd_existing {
        // What is in conflict was said once.
        building.ignored.truncate(said);
        template = pods(building, true);
    }
    // That a cluster exists by now is no reason to restart its members.
    let counts = Some(timeless);
    let stateful = Stateful {
        tier: Tier::Etcd,
        replicas: etcd.replicas,
        storage: &etcd.storage,
        template,
        counts,
    };
    stateful_set(building, stateful);
    monitor::pods(building, Tier::Etcd, "metrics");
}

fn pods(building: &mut Building<'_>, existing: bool) -> PodTemplateSpec {
    let (valid, inputs) = (building.valid, building.inputs);
    let etcd = &valid.spec().etcd;
    let mut container = container(building, Tier::Etcd, &inputs.runs.etcd.image);
    container.command = Some(vec!["etcd".to_owned()]);
    container.args = Some(arguments(building, existing));
    container.ports = Some(vec![
        port("client", names::ETCD_CLIENT_PORT),
        port("peer", names::ETCD_PEER_PORT),
        port("metrics", names::ETCD_METRICS_PORT),
    ]);
    container.env = Some(vec![field("POD_NAME", "metadata.name")]);
    container.volume_mounts = Some(vec![mount("data", DATA, false)]);
    container.startup_probe = Some(http_probe("/livez", "metrics", 5, 120));
    container.readiness_probe = Some(http_probe("/readyz", "metrics", 5, 3));
    container.liveness_probe = Some(http_probe("/livez", "metrics", 10, 6));
    let tls = tls(valid.name(), Tier::Etcd);
    let init = if existing {
        vec![join(building, &tls)]
    } else {
        Vec::new()
    };
    template(
        building,
        Parts {
            tier: Tier::Etcd,
            pod: &etcd.pod,
            field: "spec.etcd",
            run: &inputs.runs.etcd,
            container,
            init,
            volumes: vec![tls],
            labels: Default::default(),
            grace: GRACE,
        },
    )
}

/// Waits with an empty volume; see [`crate::init::join`].
fn join(building: &Building<'_>, tls: &Mounted) -> Container {
    let valid = building.valid;
    let host = format!(
        "$(POD_NAME).{}",
        names::service_host(valid.name(), valid.namespace(), Tier::Etcd)
    );
    let args = [
        "join",
        "--data",
        &format!("{DATA}/data"),
        "--peer",
        &format!("https://{host}:{}", names::ETCD_PEER_PORT),
        "--members",
        &names::etcd_endpoints(valid).join(","),
        "--tls",
        container::TLS_FOLDER,
    ];
    let mounts = vec![mount("data", DATA, false), tls.mount.clone()];
    let mut join = container::init(building, JOIN, args.map(str::to_owned).to_vec(), mounts);
    join.env = Some(vec![field("POD_NAME", "metadata.name")]);
    join
}

fn arguments(building: &Building<'_>, existing: bool) -> Vec<String> {
    let valid = building.valid;
    let (cluster, namespace) = (valid.name(), valid.namespace());
    let host = format!(
        "$(POD_NAME).{}",
        names::service_host(cluster, namespace, Tier::Etcd)
    );
    let (client, peer) = (names::ETCD_CLIENT_PORT, names::ETCD_PEER_PORT);
    let member = |ordinal| {
        let name = format!("{}-{ordinal}", names::object_name(cluster, Tier::Etcd));
        format!(
            "{name}=https://{}:{peer}",
            names::pod_host(cluster, namespace, Tier::Etcd, ordinal)
        )
    };
    let members: Vec<String> = (0..valid.spec().etcd.replicas).map(member).collect();
    let state = if existing { "existing" } else { "new" };
    let folder = container::TLS_FOLDER;
    vec![
        "--name=$(POD_NAME)".to_owned(),
        format!("--data-dir={DATA}/data"),
        format!("--listen-client-urls=https://0.0.0.0:{client}"),
        format!("--advertise-client-urls=https://{host}:{client}"),
        format!("--listen-peer-urls=https://0.0.0.0:{peer}"),
        format!("--initial-advertise-peer-urls=https://{host}:{peer}"),
        format!("--initial-cluster={}", members.join(",")),
        format!("--initial-cluster-state={state}"),
        format!("--initial-cluster-token={}", valid.uid()),
        format!(
            "--listen-metrics-urls=http://0.0.0.0:{}",
            names::ETCD_METRICS_PORT
        ),
        format!("--cert-file={folder}/tls.crt"),
        format!("--key-file={folder}/tls.key"),
        format!("--trusted-ca-file={folder}/ca.crt"),
        "--client-cert-auth=true".to_owned(),
        format!("--peer-cert-file={folder}/tls.crt"),
        format!("--peer-key-file={folder}/tls.key"),
        format!("--peer-trusted-ca-file={folder}/ca.crt"),
        "--peer-client-cert-auth=true".to_owned(),
        // Who has a certificate of this tier is a member; where it comes from changes with every pod.
        "--peer-cert-allowed-hostname=im-etcd".to_owned(),
        "--peer-skip-client-san-verification=true".to_owned(),
        "--auto-compaction-mode=periodic".to_owned(),
        "--auto-compaction-retention=1h".to_owned(),
        format!(
            "--quota-backend-bytes={}",
            quota(&valid.spec().etcd.storage.size, building.inputs.etcd_volume)
        ),
    ]
}

/// What etcd's file may take, in bytes: three quarters of the volume, as its log and snapshots are there too, and no more than
/// is written anew within seconds. Beyond it writes are refused, which is better than a full volume. `there`: how large the
/// smallest volume is, which may have to grow yet to the size that is asked for.
fn quota(size: &Quantity, there: Option<u64>) -> u64 {
    quantity::bytes(size)
        .into_iter()
        .chain(there)
        .min()
        .map_or(QUOTA, |bytes| (bytes / 4 * 3).min(QUOTA))
}
