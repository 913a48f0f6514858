//! What `podOverrides` may not ask for, so that whoever may write ImClusters gets no more of a node than a pod that Kubernetes'
//! Pod Security Standard "restricted" lets run: no privileges, nothing of the host, not root.

use k8s_openapi::api::core::v1::{Container, PodSecurityContext, PodTemplateSpec, SecurityContext};
use serde_json::Value;

use super::Problem;

/// Why, and who can change it.
const WHY: &str = "pods of ImClusters are confined: leave it out, or start the operator with IM_PRIVILEGED_PODS=true";
/// Volumes that are nothing of the host's.
const VOLUMES: [&str; 9] = [
    "name",
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
/// The only capability that "restricted" lets a container add.
const HARMLESS: &str = "NET_BIND_SERVICE";
/// Annotations by which older Kubernetes takes AppArmor profiles.
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// What of a part of a pod template would reach beyond the pod.
pub(super) fn problems(field: &str, template: &PodTemplateSpec) -> Vec<Problem> {
    let mut found = Found {
        problems: Vec::new(),
    };
    let annotations = template
        .metadata
        .iter()
        .flat_map(|metadata| metadata.annotations.iter().flatten());
    for (name, profile) in annotations {
        found.note(
            name.starts_with(APP_ARMOR) && profile == "unconfined",
            || format!("{field}.metadata.annotations.{name}"),
        );
    }
    let Some(spec) = &template.spec else {
        return found.problems;
    };
    let at = |name: &str| format!("{field}.spec.{name}");
    for (name, set) in [
        ("hostNetwork", spec.host_network),
        ("hostPID", spec.host_pid),
        ("hostIPC", spec.host_ipc),
    ] {
        found.note(set == Some(true), || at(name));
    }
    if let Some(context) = &spec.security_context {
        found.pod(&at("securityContext"), context);
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let Ok(Value::Object(parts)) = serde_json::to_value(volume) else {
            continue;
        };
        for part in parts
            .keys()
            .filter(|part| !VOLUMES.contains(&part.as_str()))
        {
            found.note(true, || format!("{}[{index}].{part}", at("volumes")));
        }
    }
    let all = [
        ("containers", Some(&spec.containers)),
        ("initContainers", spec.init_containers.as_ref()),
    ];
    for (list, containers) in all {
        for (index, container) in containers.into_iter().flatten().enumerate() {
            found.container(&format!("{}[{index}]", at(list)), container);
        }
    }
    found.note(
        spec.ephemeral_containers
            .as_ref()
            .is_some_and(|list| !list.is_empty()),
        || at("ephemeralContainers"),
    );
    found.problems
}

struct Found {
    problems: Vec<Problem>,
}

impl Found {
    fn note(&mut self, wrong: bool, field: impl FnOnce() -> String) {
        if wrong {
            self.problems.push(Problem::new(field(), WHY));
        }
    }

    fn pod(&mut self, at: &str, context: &PodSecurityContext) {
        self.note(context.run_as_non_root == Some(false), || {
            format!("{at}.runAsNonRoot")
        });
        self.note(context.run_as_user == Some(0), || format!("{at}.runAsUser"));
        self.note(
            context
                .sysctls
                .as_ref()
                .is_some_and(|list| !list.is_empty()),
            || format!("{at}.sysctls"),
        );
        self.note(context.se_linux_options.is_some(), || {
            format!("{at}.seLinuxOptions")
        });
        self.note(context.windows_options.is_some(), || {
            format!("{at}.windowsOptions")
        });
        self.profile(
            at,
            "seccompProfile",
            context
                .seccomp_profile
                .as_ref()
                .map(|profile| profile.type_.as_str()),
        );
        self.profile(
            at,
            "appArmorProfile",
            context
                .app_armor_profile
                .as_ref()
                .map(|profile| profile.type_.as_str()),
        );
    }

    fn container(&mut self, at: &str, container: &Container) {
        for (index, port) in container.ports.iter().flatten().enumerate() {
            self.note(port.host_port.is_some_and(|port| port != 0), || {
                format!("{at}.ports[{index}].hostPort")
            });
        }
        if let Some(context) = &container.security_context {
            self.context(&format!("{at}.securityContext"), context);
        }
    }

    fn context(&mut self, at: &str, context: &SecurityContext) {
        self.note(context.privileged == Some(true), || {
            format!("{at}.privileged")
        });
        self.note(context.allow_privilege_escalation == Some(true), || {
            format!("{at}.allowPrivilegeEscalation")
        });
        self.note(context.run_as_non_root == Some(false), || {
            format!("{at}.runAsNonRoot")
        });
        self.note(context.run_as_user == Some(0), || format!("{at}.runAsUser"));
        self.note(context.se_linux_options.is_some(), || {
            format!("{at}.seLinuxOptions")
        });
        self.note(context.windows_options.is_some(), || {
            format!("{at}.windowsOptions")
        });
        let added = context
            .capabilities
            .iter()
            .flat_map(|capabilities| capabilities.add.iter().flatten());
        self.note(
            added.into_iter().any(|capability| capability != HARMLESS),
            || format!("{at}.capabilities.add"),
        );
        self.note(
            context
                .proc_mount
                .as_deref()
                .is_some_and(|mount| mount != "Default"),
            || format!("{at}.procMount"),
        );
        self.profile(
            at,
            "seccompProfile",
            context
                .seccomp_profile
                .as_ref()
                .map(|profile| profile.type_.as_str()),
        );
        self.profile(
            at,
            "appArmorProfile",
            context
                .app_armor_profile
                .as_ref()
                .map(|profile| profile.type_.as_str()),
        );
    }

    fn profile(&mut self, at: &str, field: &str, profile: Option<&str>) {
        self.note(profile == Some("Unconfined"), || format!("{at}.{field}"));
    }
}
