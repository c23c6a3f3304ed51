//! The control plane's static pods.
//!
//! Flags are kubeadm 1.37's (`kubeadm.rs` holds the comparison and the reason of each difference), hardened: each program
//! runs as a user of its own, on a read-only root, without capabilities, and reads a directory of its own with the
//! certificates and keys that are its to know. Directories, because a mounted file would stay what it was when the agent
//! renews it.

use super::super::{NodePlan, directory};
use super::json;
use contract::kube::{self, Component};
use contract::node::{NodeConfig, Role};
use contract::ports::{API, CONTROLLERS, ETCD_CLIENT, SCHEDULER};
use contract::{paths, users};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// The audit log: files of so many megabytes, so many of them.
const AUDIT_MEGABYTES: u32 = 100;
const AUDIT_FILES: u32 = 4;
/// Who leads renews within `RENEW` and is believed for `LEASE`; who does not looks every `RETRY`: a dead leader's work is
/// taken over after 4 to 5 s instead of 15 to 17. An election of etcd, which nobody can write through, takes a second.
const LEASE: &str = "4s";
const RENEW: &str = "3s";
const RETRY: &str = "500ms";
/// A node that has not been heard of for so long is NotReady, 50 s by default; a quarter of its lease
/// (`kubelet.rs`) is how often it is heard of, so that four words in a row must be lost.
const NODE_GRACE: &str = "16s";
/// ... and this often that is looked at, 5 s by default.
const NODE_LOOK: &str = "2s";
/// An apiserver that stops ends its watches within this, each in order (k8s.io/apiserver, pkg/server/genericapiserver.go). Without
/// it they go on, and it with them, for a minute or until it is killed.
const WATCHES_END: &str = "2s";

/// Adds them to a plan.
pub(super) fn add(config: &NodeConfig, plan: &mut NodePlan) -> Result<(), String> {
    plan.directories.push(directory(paths::MANIFESTS_PLANNED, 0o700, users::ROOT));
    plan.directories.push(directory(paths::AUDIT, 0o700, users::APISERVER));
    for c in kube::CONTROL_PLANE {
        plan.directories.push(directory(&c.dir(), 0o700, c.user));
    }
    let own =
        |name: &str, value: Value| json(&format!("{}/{name}", kube::APISERVER.dir()), 0o600, users::APISERVER, &value);
    plan.files.extend([
        own("audit-policy.json", audit_policy()),
        own("authentication.json", authentication()),
        own("admission.json", admission()),
        own("encryption.json", encryption(config)?),
    ]);
    for (component, pod) in [
        (kube::APISERVER, apiserver(config)),
        (kube::CONTROLLER_MANAGER, controllers(config)),
        (kube::SCHEDULER, scheduler()),
    ] {
        plan.files.push(json(&component.planned(), 0o600, users::ROOT, &pod));
    }
    Ok(())
}

/// A probe of kubeadm's, on the pod's named port.
fn probe(path: &str, host: &str, times: &[(&str, u32)]) -> Value {
    let mut probe = json!({ "httpGet": { "host": host, "path": path, "port": "probe-port", "scheme": "HTTPS" }, "timeoutSeconds": 15 });
    for (key, value) in times {
        probe[*key] = (*value).into();
    }
    probe
}

/// kubeadm's times. The startup probe looks sooner and more often: a pod counts as started, and is ready, only after it.
const STARTUP: &[(&str, u32)] = &[("periodSeconds", 1), ("failureThreshold", 240)];
const LIVENESS: &[(&str, u32)] = &[("initialDelaySeconds", 10), ("periodSeconds", 10), ("failureThreshold", 8)];
const READINESS: &[(&str, u32)] = &[("periodSeconds", 1), ("failureThreshold", 3)];

struct Probes {
    host: String,
    port: u16,
    alive: &'static str,
    ready: Option<&'static str>,
}

fn pod(component: Component, command: Vec<String>, cpu: &str, probes: &Probes, more: &[(&str, &str, bool)]) -> Value {
    let program = format!("/usr/bin/{}", component.name);
    let dir = component.dir();
    let mut mounts = vec![("program", program.as_str(), true, "File"), ("own", dir.as_str(), true, "Directory")];
    mounts.extend(more.iter().map(|(name, path, read_only)| (*name, *path, *read_only, "Directory")));
    let mut container = json!({
        "name": component.name,
        "image": kube::PAUSE_IMAGE,
        "imagePullPolicy": "Never",
        "command": std::iter::once(program.clone()).chain(command).collect::<Vec<_>>(),
        "ports": [{ "name": "probe-port", "containerPort": probes.port, "protocol": "TCP" }],
        "startupProbe": probe(probes.alive, &probes.host, STARTUP),
        "livenessProbe": probe(probes.alive, &probes.host, LIVENESS),
        "resources": { "requests": { "cpu": cpu } },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": mounts
            .iter()
            .map(|(name, path, read_only, _)| json!({ "name": name, "mountPath": path, "readOnly": read_only }))
            .collect::<Vec<_>>(),
    });
    if let Some(path) = probes.ready {
        container["readinessProbe"] = probe(path, &probes.host, READINESS);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": component.name,
            "namespace": "kube-system",
            "labels": { "component": component.name, "tier": "control-plane" },
        },
        "spec": {
            "hostNetwork": true,
            "priority": 2_000_001_000,
            "priorityClassName": "system-node-critical",
            "securityContext": {
                "seccompProfile": { "type": "RuntimeDefault" },
                "runAsNonRoot": true,
                "runAsUser": component.user,
                "runAsGroup": component.user,
            },
            "containers": [container],
            "volumes": mounts
                .iter()
                .map(|(name, path, _, kind)| json!({ "name": name, "hostPath": { "path": path, "type": kind } }))
                .collect::<Vec<_>>(),
        },
    })
}

fn words(flags: &[(&str, String)]) -> Vec<String> {
    flags.iter().map(|(k, v)| format!("--{k}={v}")).collect()
}

/// The apiserver's flags, pure: also what `kubeadm.rs` compares.
pub(super) fn apiserver_flags(config: &NodeConfig) -> Vec<(&'static str, String)> {
    let own = |file: &str| format!("{}/{file}", kube::APISERVER.dir());
    let address = config.node.address;
    // A member's apiserver has that member as its only etcd: it is as near and as well as the node is.
    let etcd: Vec<String> = if config.roles.contains(&Role::Etcd) {
        vec![format!("https://127.0.0.1:{ETCD_CLIENT}")]
    } else {
        config.members.values().map(|a| format!("https://{}", SocketAddr::new(*a, ETCD_CLIENT))).collect()
    };
    vec![
        ("admission-control-config-file", own("admission.json")),
        ("advertise-address", address.to_string()),
        ("allow-privileged", "true".into()),
        ("audit-log-maxbackup", AUDIT_FILES.to_string()),
        ("audit-log-maxsize", AUDIT_MEGABYTES.to_string()),
        ("audit-log-path", format!("{}/audit.log", paths::AUDIT)),
        ("audit-policy-file", own("audit-policy.json")),
        ("authentication-config", own("authentication.json")),
        ("authorization-mode", "Node,RBAC".into()),
        // HAProxy has the same port on the virtual IP, perhaps on this very node.
        ("bind-address", address.to_string()),
        ("client-ca-file", own("ca.crt")),
        ("enable-admission-plugins", "NodeRestriction".into()),
        ("enable-bootstrap-token-auth", "true".into()),
        ("encryption-provider-config", own("encryption.json")),
        ("etcd-cafile", own("etcd-server-ca.crt")),
        ("etcd-certfile", own("etcd-client.crt")),
        ("etcd-keyfile", own("etcd-client.key")),
        ("etcd-servers", etcd.join(",")),
        ("kubelet-certificate-authority", own("ca.crt")),
        ("kubelet-client-certificate", own("kubelet-client.crt")),
        ("kubelet-client-key", own("kubelet-client.key")),
        ("kubelet-preferred-address-types", "InternalIP,ExternalIP,Hostname".into()),
        ("profiling", "false".into()),
        ("proxy-client-cert-file", own("front-proxy-client.crt")),
        ("proxy-client-key-file", own("front-proxy-client.key")),
        ("requestheader-allowed-names", "front-proxy-client".into()),
        ("requestheader-client-ca-file", own("front-proxy-ca.crt")),
        ("requestheader-extra-headers-prefix", "X-Remote-Extra-".into()),
        ("requestheader-group-headers", "X-Remote-Group".into()),
        ("requestheader-username-headers", "X-Remote-User".into()),
        ("secure-port", API.to_string()),
        ("service-account-issuer", format!("https://kubernetes.default.svc.{}", config.dns_domain())),
        ("service-account-key-file", own("sa.pub")),
        ("service-account-signing-key-file", own("sa.key")),
        ("service-cluster-ip-range", config.service_subnet().to_string()),
        ("shutdown-watch-termination-grace-period", WATCHES_END.into()),
        ("tls-cert-file", own("server.crt")),
        ("tls-min-version", "VersionTLS12".into()),
        ("tls-private-key-file", own("server.key")),
    ]
}

fn apiserver(config: &NodeConfig) -> Value {
    let probes = Probes {
        host: config.node.address.to_string(),
        port: API,
        // With etcd in it a lost quorum would restart every apiserver, into a back-off of minutes.
        alive: "/livez?exclude=etcd",
        ready: Some("/readyz"),
    };
    pod(kube::APISERVER, words(&apiserver_flags(config)), "250m", &probes, &[("audit", paths::AUDIT, false)])
}

/// The controller manager's flags.
pub(super) fn controllers_flags(config: &NodeConfig) -> Vec<(&'static str, String)> {
    let own = |file: &str| format!("{}/{file}", kube::CONTROLLER_MANAGER.dir());
    vec![
        ("allocate-node-cidrs", "true".into()),
        ("authentication-kubeconfig", own("kubeconfig")),
        ("authorization-kubeconfig", own("kubeconfig")),
        ("bind-address", "127.0.0.1".into()),
        ("client-ca-file", own("ca.crt")),
        ("cluster-cidr", config.pod_subnet().to_string()),
        ("cluster-name", "kubernetes".into()),
        ("cluster-signing-cert-file", own("ca.crt")),
        ("cluster-signing-key-file", own("ca.key")),
        ("controllers", "*,bootstrapsigner,tokencleaner".into()),
        // Forty controllers make a client of their own each, one after the other: at 20 requests a second that is most of
        // the time between an API that is ready and a node that is.
        ("kube-api-burst", "400".into()),
        ("kube-api-qps", "200".into()),
        ("kubeconfig", own("kubeconfig")),
        ("leader-elect", "true".into()),
        ("leader-elect-lease-duration", LEASE.into()),
        ("leader-elect-renew-deadline", RENEW.into()),
        ("leader-elect-retry-period", RETRY.into()),
        ("node-monitor-grace-period", NODE_GRACE.into()),
        ("node-monitor-period", NODE_LOOK.into()),
        ("profiling", "false".into()),
        ("requestheader-client-ca-file", own("front-proxy-ca.crt")),
        ("root-ca-file", own("ca.crt")),
        ("service-account-private-key-file", own("sa.key")),
        ("service-cluster-ip-range", config.service_subnet().to_string()),
        ("tls-cert-file", own("server.crt")),
        ("tls-private-key-file", own("server.key")),
        ("use-service-account-credentials", "true".into()),
    ]
}

fn controllers(config: &NodeConfig) -> Value {
    let probes = Probes { host: "127.0.0.1".into(), port: CONTROLLERS, alive: "/healthz", ready: None };
    pod(kube::CONTROLLER_MANAGER, words(&controllers_flags(config)), "200m", &probes, &[])
}

/// The scheduler's flags.
pub(super) fn scheduler_flags() -> Vec<(&'static str, String)> {
    let own = |file: &str| format!("{}/{file}", kube::SCHEDULER.dir());
    vec![
        ("authentication-kubeconfig", own("kubeconfig")),
        ("authorization-kubeconfig", own("kubeconfig")),
        ("bind-address", "127.0.0.1".into()),
        ("kubeconfig", own("kubeconfig")),
        ("leader-elect", "true".into()),
        ("leader-elect-lease-duration", LEASE.into()),
        ("leader-elect-renew-deadline", RENEW.into()),
        ("leader-elect-retry-period", RETRY.into()),
        ("profiling", "false".into()),
        ("tls-cert-file", own("server.crt")),
        ("tls-private-key-file", own("server.key")),
    ]
}

fn scheduler() -> Value {
    let probes = Probes { host: "127.0.0.1".into(), port: SCHEDULER, alive: "/livez", ready: Some("/readyz") };
    pod(kube::SCHEDULER, words(&scheduler_flags()), "100m", &probes, &[])
}

/// Who did what, without what was said: bodies hold secrets. Once per request, when it was answered; a watch is told of when it
/// begins, too.
///
/// Not that somebody asked whether the server is well, nor that those renew their leases who lead or keep a node, or look whether
/// another one did: twenty such requests a second would push all else out of the log within hours.
fn audit_policy() -> Value {
    let leases = json!([{ "group": "coordination.k8s.io", "resources": ["leases"] }]);
    let renewed = ["get", "update"];
    let leaders = ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"];
    json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            { "level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*"] },
            { "level": "None", "users": leaders, "verbs": renewed, "resources": leases },
            { "level": "None", "userGroups": ["system:nodes"], "verbs": renewed, "resources": leases },
            { "level": "Metadata" },
        ],
    })
}

/// Without credentials one may ask whether the server is well, and nothing else.
fn authentication() -> Value {
    let paths = ["/livez", "/readyz", "/healthz"].map(|p| json!({ "path": p }));
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthenticationConfiguration",
        "anonymous": { "enabled": true, "conditions": paths },
    })
}

/// Namespaces that say nothing get Pod Security's `baseline`, and a warning about what is not `restricted`.
fn admission() -> Value {
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": [{
            "name": "PodSecurity",
            "configuration": {
                "apiVersion": "pod-security.admission.config.k8s.io/v1",
                "kind": "PodSecurityConfiguration",
                "defaults": {
                    "enforce": "baseline", "enforce-version": "latest",
                    "audit": "restricted", "audit-version": "latest",
                    "warn": "restricted", "warn-version": "latest",
                },
                "exemptions": { "usernames": [], "runtimeClasses": [], "namespaces": ["kube-system"] },
            },
        }],
    })
}

/// Secrets at rest.
fn encryption(config: &NodeConfig) -> Result<Value, String> {
    let key = config.kubernetes().encryption_key.ok_or("quorate.kubernetes.encryption_key is missing")?;
    Ok(json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{
            "resources": ["secrets"],
            // What was written before there was a key can still be read.
            "providers": [{ "secretbox": { "keys": [{ "name": "seed", "secret": key }] } }, { "identity": {} }],
        }],
    }))
}
