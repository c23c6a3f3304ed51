//! Ours beside kubeadm's: every flag, key and field that kubeadm 1.37.2 writes is there with the same value, or stands in the
//! tables below with the reason. `kubeadm/` holds what it wrote; `KUBEADM.md` is made from this file by its test
//! (`QUORATE_BLESS=1 cargo test -p init kubeadm`).

use super::control_plane::{apiserver_flags, controllers_flags, scheduler_flags};
use super::tests::config;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// A flag or field, and why it is absent, added or of another value.
type Reasons = &'static [(&'static str, &'static str)];

const OWN_DIRECTORY: &str = "each program has a directory of its own, which it alone can read: a pod that is broken into \
    gives away what it knew, and no more";
const SERVING: &str = "else it makes an RSA key and signs it itself at each start";
const PROFILING: &str = "nobody asks for profiles; those who may could make the server work for them";

const APISERVER: Reasons = &[
    (
        "admission-control-config-file",
        "Pod Security: `baseline` is enforced where a namespace says nothing, `restricted` warned of",
    ),
    ("audit-log-maxbackup", "an audit log, rotated"),
    ("audit-log-maxsize", "an audit log, rotated"),
    ("audit-log-path", "an audit log"),
    ("audit-policy-file", "an audit log: who did what, without bodies, health checks and renewals of leases"),
    ("authentication-config", "anonymous requests see `/livez`, `/readyz` and `/healthz`, and nothing else"),
    ("bind-address", "HAProxy has the same port on the virtual IP, perhaps on the same node"),
    ("client-ca-file", OWN_DIRECTORY),
    ("encryption-provider-config", "secrets are encrypted at rest with a key from the seed"),
    ("etcd-cafile", OWN_DIRECTORY),
    ("etcd-certfile", OWN_DIRECTORY),
    ("etcd-keyfile", OWN_DIRECTORY),
    (
        "kubelet-certificate-authority",
        "kubelets' serving certificates are of the cluster's CA here, so they are verified",
    ),
    ("kubelet-client-certificate", OWN_DIRECTORY),
    ("kubelet-client-key", OWN_DIRECTORY),
    ("profiling", PROFILING),
    ("proxy-client-cert-file", OWN_DIRECTORY),
    ("proxy-client-key-file", OWN_DIRECTORY),
    ("requestheader-client-ca-file", OWN_DIRECTORY),
    ("service-account-key-file", OWN_DIRECTORY),
    ("service-account-signing-key-file", OWN_DIRECTORY),
    (
        "shutdown-watch-termination-grace-period",
        "when it ends it ends its watches, whose clients go elsewhere at once; else it waits for them until it is killed",
    ),
    ("tls-cert-file", OWN_DIRECTORY),
    ("tls-min-version", "said, so that a later default does not lower it"),
    ("tls-private-key-file", OWN_DIRECTORY),
];

const TAKEN_OVER: &str = "a dead leader's work is taken over after 4 to 5 s instead of 15 to 17";
const NOT_READY: &str = "a dead node is NotReady within 20 s instead of 55";

const CONTROLLER_MANAGER: Reasons = &[
    ("authentication-kubeconfig", OWN_DIRECTORY),
    ("authorization-kubeconfig", OWN_DIRECTORY),
    ("client-ca-file", OWN_DIRECTORY),
    ("cluster-signing-cert-file", OWN_DIRECTORY),
    ("cluster-signing-key-file", OWN_DIRECTORY),
    ("kube-api-burst", "it asks the apiserver of its own node, and at the default rate takes five seconds to start"),
    ("kube-api-qps", "it asks the apiserver of its own node, and at the default rate takes five seconds to start"),
    ("kubeconfig", OWN_DIRECTORY),
    ("leader-elect-lease-duration", TAKEN_OVER),
    ("leader-elect-renew-deadline", TAKEN_OVER),
    ("leader-elect-retry-period", TAKEN_OVER),
    ("node-monitor-grace-period", NOT_READY),
    ("node-monitor-period", NOT_READY),
    ("profiling", PROFILING),
    ("requestheader-client-ca-file", OWN_DIRECTORY),
    ("root-ca-file", OWN_DIRECTORY),
    ("service-account-private-key-file", OWN_DIRECTORY),
    ("tls-cert-file", SERVING),
    ("tls-private-key-file", SERVING),
];

const SCHEDULER: Reasons = &[
    ("authentication-kubeconfig", OWN_DIRECTORY),
    ("authorization-kubeconfig", OWN_DIRECTORY),
    ("kubeconfig", OWN_DIRECTORY),
    ("leader-elect-lease-duration", TAKEN_OVER),
    ("leader-elect-renew-deadline", TAKEN_OVER),
    ("leader-elect-retry-period", TAKEN_OVER),
    ("profiling", PROFILING),
    ("tls-cert-file", SERVING),
    ("tls-private-key-file", SERVING),
];

const KUBELET: Reasons = &[
    ("address", "the node's own address, not every one that it may get"),
    ("authentication.x509.clientCAFile", OWN_DIRECTORY),
    (
        "crashLoopBackOff.maxContainerRestartPeriod",
        "after a lost quorum came back its apiserver is not waited for for minutes",
    ),
    ("failSwapOn", "there is no swap; a kubelet that refuses to start for it would be no help"),
    ("nodeLeaseDurationSeconds", NOT_READY),
    ("nodeStatusReportFrequency", "the default, which setting `nodeStatusUpdateFrequency` alone would change"),
    (
        "nodeStatusUpdateFrequency",
        "a node that is back soon is looked at every second instead of every ten; only what changed is sent",
    ),
    (
        "protectKernelDefaults",
        "the image's sysctls are what the kubelet wants; one that is not is an error, not a change",
    ),
    ("registerWithTaints", "a control plane's taint, unless the node is a worker as well"),
    ("resolvConf", "there is no systemd-resolved"),
    (
        "rotateCertificates",
        "a master's agent makes and renews its kubelet's certificate; a worker's kubelet asks for its own",
    ),
    ("seccompDefault", "pods that say nothing get the runtime's filter of system calls"),
    ("serializeImagePulls", "one slow registry does not hold up all pods"),
    (
        "streamingConnectionIdleTimeout",
        "an exec session that nobody uses ends after five minutes instead of four hours",
    ),
    ("tlsCertFile", SERVING),
    ("tlsMinVersion", "only the apiserver asks it, and that speaks TLS 1.3"),
    ("tlsPrivateKeyFile", SERVING),
    ("volumePluginDir", "the root is read-only"),
];

/// What kubeadm's pods have that ours do otherwise: not by flag, for all three of them.
const PODS: Reasons = &[
    ("image, command", "one tiny image for all; the program is a read-only hostPath from the verified root"),
    ("livenessProbe of the apiserver", "`/livez?exclude=etcd`: with etcd a lost quorum restarts every apiserver"),
    ("securityContext", "a user of its own, no capabilities, a read-only root"),
    ("startupProbe", "every second instead of after ten: a pod is not ready before it"),
    ("volumes", "directories instead of files: a mounted file stays what it was when it is renewed"),
    ("annotations", "`kubeadm.kubernetes.io/*` are read by `kubeadm join` and `upgrade` only"),
];

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("kubeadm's YAML")
}

/// `--key=value` of a static pod's command.
fn flags(pod: &Value) -> BTreeMap<String, String> {
    let command = pod["spec"]["containers"][0]["command"].as_array().cloned().expect("a command");
    let flag = |w: &Value| {
        let (key, value) = w.as_str()?.strip_prefix("--")?.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    };
    command.iter().filter_map(flag).collect()
}

/// Leaves of a document by dotted path; zeros of Go, which mean the default, are left out.
fn leaves(value: &Value, path: &str, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| {
            leaves(v, &if path.is_empty() { k.clone() } else { format!("{path}.{k}") }, into);
        }),
        Value::Null => {}
        other => {
            let text = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
            if !["0s", "0", ""].contains(&text.as_str()) {
                into.insert(path.to_owned(), text);
            }
        }
    }
}

/// The rows of one table: every difference has its reason, and every reason its difference.
fn compare(ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>, reasons: Reasons) -> String {
    let known: BTreeMap<&str, &str> = reasons.iter().copied().collect();
    let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let differ: Vec<&String> = keys.into_iter().filter(|k| ours.get(*k) != theirs.get(*k)).collect();
    let unexplained: Vec<_> = differ.iter().filter(|k| !known.contains_key(k.as_str())).collect();
    assert!(unexplained.is_empty(), "differs from kubeadm without a reason: {unexplained:?}");
    let stale: Vec<_> = known.keys().filter(|k| !differ.iter().any(|d| d == *k)).collect();
    assert!(stale.is_empty(), "a reason for what does not differ: {stale:?}");
    let cell = |v: Option<&String>| v.map_or_else(|| "-".into(), |v| format!("`{v}`"));
    differ.iter().fold(String::new(), |mut rows, key| {
        let _ = writeln!(
            rows,
            "| `{key}` | {} | {} | {} |",
            cell(theirs.get(*key)),
            cell(ours.get(*key)),
            known[key.as_str()]
        );
        rows
    })
}

#[test]
fn every_difference_has_a_reason() {
    let config = config();
    let own =
        |flags: Vec<(&str, String)>| flags.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<BTreeMap<_, _>>();
    let mut doc = String::from(
        "# What kubeadm 1.37 writes, and what Quorate does otherwise\n\nMade by `init/src/roles/kube/kubeadm.rs`, whose test \
         keeps it true. What is not listed is the same.\n",
    );
    let mut table = |title: &str, rows: &str| {
        let _ = write!(doc, "\n## {title}\n\n| | kubeadm | Quorate | why |\n|---|---|---|---|\n{rows}");
    };
    let pods = [
        ("kube-apiserver", own(apiserver_flags(&config)), include_str!("kubeadm/kube-apiserver.yaml"), APISERVER),
        (
            "kube-controller-manager",
            own(controllers_flags(&config)),
            include_str!("kubeadm/kube-controller-manager.yaml"),
            CONTROLLER_MANAGER,
        ),
        ("kube-scheduler", own(scheduler_flags()), include_str!("kubeadm/kube-scheduler.yaml"), SCHEDULER),
    ];
    for (name, ours, theirs, reasons) in pods {
        table(name, &compare(&ours, &flags(&yaml(theirs)), reasons));
    }
    let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
    leaves(&super::kubelet::configuration(&config).expect("a configuration"), "", &mut ours);
    leaves(&yaml(include_str!("kubeadm/kubelet-config.yaml")), "", &mut theirs);
    // Lists and numbers of Go's zero, written out by kubeadm.
    theirs.retain(|k, _| !k.starts_with("logging."));
    table("KubeletConfiguration (a master's)", &compare(&ours, &theirs, KUBELET));
    let rows: String = PODS.iter().map(|(what, why)| format!("| {what} | | | {why} |\n")).collect();
    table("The pods themselves", &rows);

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/roles/kube/KUBEADM.md");
    if std::env::var_os("QUORATE_BLESS").is_some() {
        std::fs::write(path, &doc).expect("written");
    }
    assert_eq!(std::fs::read_to_string(path).expect("the table"), doc, "QUORATE_BLESS=1 writes it");
}
