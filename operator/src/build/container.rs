//! Containers and volumes: what is the same in every tier's.

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource,
    ExecAction, HTTPGetAction, KeyToPath, Lifecycle, LifecycleHandler, ObjectFieldSelector, Probe,
    SeccompProfile, SecretKeySelector, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Building;
use super::names;
use crate::api::Tier;

/// Where a tier's certificate is found in its pods.
pub(crate) const TLS_FOLDER: &str = "/etc/imcluster/tls";

/// A volume and where the main container sees it.
pub(super) struct Mounted {
    pub(crate) volume: Volume,
    pub(crate) mount: VolumeMount,
}

/// Keys of a Secret as files: key and file name.
pub(super) fn secret(volume: &str, secret: &str, items: &[(&str, &str)], folder: &str) -> Mounted {
    let source = SecretVolumeSource {
        secret_name: Some(secret.to_owned()),
        items: Some(items.iter().map(|&(key, file)| path(key, file)).collect()),
        default_mode: Some(0o440),
        optional: None,
    };
    Mounted {
        volume: Volume {
            name: volume.to_owned(),
            secret: Some(source),
            ..Default::default()
        },
        mount: mount(volume, folder, true),
    }
}

/// Keys of a ConfigMap as files of the same names.
pub(super) fn config_map(volume: &str, config_map: &str, keys: &[String], folder: &str) -> Mounted {
    let source = ConfigMapVolumeSource {
        name: config_map.to_owned(),
        items: Some(keys.iter().map(|key| path(key, key)).collect()),
        default_mode: Some(0o440),
        optional: None,
    };
    Mounted {
        volume: Volume {
            name: volume.to_owned(),
            config_map: Some(source),
            ..Default::default()
        },
        mount: mount(volume, folder, true),
    }
}

/// The tier's certificate and the authority's.
pub(super) fn tls(cluster: &str, tier: Tier) -> Mounted {
    let items = [
        ("tls.crt", "tls.crt"),
        ("tls.key", "tls.key"),
        ("ca.crt", "ca.crt"),
    ];
    secret("tls", &names::tls_name(cluster, tier), &items, TLS_FOLDER)
}

fn path(key: &str, file: &str) -> KeyToPath {
    KeyToPath {
        key: key.to_owned(),
        path: file.to_owned(),
        mode: None,
    }
}

pub(super) fn mount(volume: &str, folder: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: folder.to_owned(),
        read_only: read_only.then_some(true),
        ..Default::default()
    }
}

pub(super) fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..Default::default()
    }
}

pub(super) fn variable(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.into()),
        value_from: None,
    }
}

/// A variable with a key of a Secret.
pub(super) fn from_secret(name: &str, secret: &str, key: &str) -> EnvVar {
    let key = SecretKeySelector {
        name: secret.to_owned(),
        key: key.to_owned(),
        optional: None,
    };
    let source = EnvVarSource {
        secret_key_ref: Some(key),
        ..Default::default()
    };
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(source),
    }
}

/// A variable with a fact of the pod, such as `metadata.name`.
pub(super) fn field(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector {
        api_version: Some("v1".to_owned()),
        field_path: path.to_owned(),
    };
    let source = EnvVarSource {
        field_ref: Some(field),
        ..Default::default()
    };
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(source),
    }
}

/// No privilege, nothing written outside of volumes: what the restricted Pod Security Standard asks for, and more.
pub(super) fn security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..Default::default()
    }
}

/// Asks this path of a named port.
pub(super) fn http_probe(path: &str, port: &str, period: i32, failures: i32) -> Probe {
    let get = HTTPGetAction {
        path: Some(path.to_owned()),
        port: IntOrString::String(port.to_owned()),
        scheme: Some("HTTP".to_owned()),
        ..Default::default()
    };
    Probe {
        http_get: Some(get),
        ..probe(period, failures)
    }
}

/// Asks a redis or a Sentinel on this port for any answer: one that is loading, or wants a password first, lives.
pub(super) fn redis_probe(port: i32, period: i32, failures: i32) -> Probe {
    Probe {
        exec: Some(redis_cli(port, &["ping"])),
        ..probe(period, failures)
    }
}

/// Says something to the redis or Sentinel on this port of the same pod.
pub(super) fn redis_cli(port: i32, words: &[&str]) -> ExecAction {
    let port = port.to_string();
    let [cert, key, authority] =
        ["tls.crt", "tls.key", "ca.crt"].map(|file| format!("{TLS_FOLDER}/{file}"));
    let address = ["redis-cli", "-h", "127.0.0.1", "-p", &port];
    let tls = [
        "--tls", "--cert", &cert, "--key", &key, "--cacert", &authority,
    ];
    let words = address
        .iter()
        .chain(&tls)
        .chain(words)
        .map(|&word| word.to_owned());
    ExecAction {
        command: Some(words.collect()),
    }
}

/// Does this in a container before it is told to end.
pub(super) fn before_end(handler: LifecycleHandler) -> Lifecycle {
    Lifecycle {
        pre_stop: Some(handler),
        ..Default::default()
    }
}

fn probe(period: i32, failures: i32) -> Probe {
    Probe {
        period_seconds: Some(period),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        success_threshold: Some(1),
        ..Default::default()
    }
}

/// A container of a tier, named for it, that runs this image.
pub(super) fn container(building: &Building<'_>, tier: Tier, image: &str) -> Container {
    Container {
        name: tier.name().to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some(building.valid.spec().images.pull_policy.name().to_owned()),
        security_context: Some(security()),
        ..Default::default()
    }
}

/// A container that runs `im-operator` before a pod's own begins.
pub(super) fn init(
    building: &Building<'_>,
    name: &str,
    args: Vec<String>,
    mounts: Vec<VolumeMount>,
) -> Container {
    let mut init = container(building, Tier::Cluster, &building.inputs.init_image);
    init.name = name.to_owned();
    init.command = Some(vec!["im-operator".to_owned()]);
    init.args = Some(args);
    init.volume_mounts = Some(mounts);
    init
}

/// Writes the file that a redis or Sentinel starts with for the first time; see [`crate::init::seed`].
pub(super) fn seed(building: &Building<'_>, file: &str, text: &str) -> Container {
    let args = ["seed", "--file", file, "--text", text]
        .map(str::to_owned)
        .to_vec();
    init(building, "seed", args, vec![mount("data", "/data", false)])
}
