//! The kubelet: its configuration (`kubelet.config.k8s.io/v1beta1`) and its service.
//!
//! As kubeadm 1.37 writes it (`kubeadm.rs` compares), and for a node without systemd, with a read-only root, and hardened.
//! A master issues its own certificates; a worker asks for its own with its token (`--bootstrap-kubeconfig`), and the
//! masters' agent answers.

use super::super::{NodePlan, agent, owned};
use super::json;
use contract::control::condition::{ADDRESS, API, NODE_READY, OBJECTS, PKI, STORE};
use contract::kube;
use contract::node::{NodeConfig, Role};
use contract::ports;
use contract::service::{Kills, Ready, Service};
use contract::{paths, users};
use serde_json::{Value, json};

const CONFIG: &str = "/etc/kubernetes/kubelet.json";

/// How long pods may be sent elsewhere before the node stops, milliseconds: the agent's own bound (`agent/src/kube/drain.rs`)
/// and a margin.
const DRAIN_MS: u64 = 22_000;
/// How long pods may take to end when the node stops, seconds.
const PODS_STOP_S: u64 = 20;
/// ... and what stopping them takes beside, milliseconds.
const MARGIN_MS: u64 = 2000;

/// Adds it to a plan.
pub(super) fn add(config: &NodeConfig, plan: &mut NodePlan) -> Result<(), String> {
    plan.files.push(json(CONFIG, 0o644, users::ROOT, &configuration(config)?));
    let is_master = config.roles.contains(&Role::Master);
    let mut done = vec![NODE_READY];
    let mut needs = owned(&[ADDRESS, PKI, "containerd", "pause-image"]);
    if is_master {
        done.extend([API, OBJECTS]);
        // It asks the apiserver that it starts itself, and after each time in vain it waits longer, up to half a minute: a
        // new member of an old cluster had its pods up to 19 s after its apiserver was ready.
        needs.push(STORE.into());
    } else {
        // Until the API answers and it has a certificate (`agent/src/kube/admission.rs` says why).
        needs.push(API.into());
    }
    plan.services.push(Service {
        needs,
        ready: Ready::NotifyThenDone(owned(&done)),
        // A kubelet that comes back finds its pods as they were; at the end of the node they are stopped in order, after
        // it, because it would start them again.
        kills: Kills::Process,
        farewell: owned(&["/usr/bin/cri-stop", paths::CONTAINERD_SOCK, &PODS_STOP_S.to_string()]),
        farewell_ms: PODS_STOP_S * 1000 + MARGIN_MS,
        ..Service::of("kubelet", command(config))
    });
    // Nothing but what it does when it is stopped, before the kubelet is.
    plan.services.push(Service { needs: owned(&["kubelet"]), stop_ms: Some(DRAIN_MS), ..agent("drain") });
    Ok(())
}

fn command(config: &NodeConfig) -> Vec<String> {
    let mut flags = vec![
        ("config", CONFIG.to_owned()),
        ("root-dir", paths::KUBELET.to_owned()),
        ("hostname-override", config.name().to_owned()),
        ("node-ip", config.node.address.to_string()),
        ("cert-dir", format!("{}/pki", paths::KUBELET)),
    ];
    if config.roles.contains(&Role::Master) {
        flags.push(("kubeconfig", kube::KUBELET_CONF.to_owned()));
    } else {
        flags.push(("kubeconfig", kube::KUBELET_OWN_CONF.to_owned()));
        flags.push(("bootstrap-kubeconfig", kube::KUBELET_BOOTSTRAP_CONF.to_owned()));
    }
    let labels: Vec<String> = config.kubernetes().labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if !labels.is_empty() {
        flags.push(("node-labels", labels.join(",")));
    }
    let flags = flags.into_iter().map(|(k, v)| format!("--{k}={v}"));
    std::iter::once("/usr/bin/kubelet".to_owned()).chain(flags).collect()
}

pub(super) fn configuration(config: &NodeConfig) -> Result<Value, String> {
    let pki = format!("{}/kubelet", paths::PKI);
    let mut value = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": format!("{pki}/ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "cgroupDriver": "cgroupfs",
        "clusterDNS": [config.service_address(kube::DNS_NUMBER)],
        "clusterDomain": config.dns_domain(),
        "containerRuntimeEndpoint": format!("unix://{}", paths::CONTAINERD_SOCK),
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": ports::KUBELET_HEALTH,
        "staticPodPath": paths::MANIFESTS,
        // Renewed four times in that time (`control_plane.rs`, NODE_GRACE).
        "nodeLeaseDurationSeconds": 16,
        // A node that is back while it still counts as Ready says at first that it is not, and then only this often whether it
        // is (kubelet_node_status.go, `fastNodeStatusUpdate`); 10 s by default. Where nothing changed nothing is sent, and
        // the node is looked up in what the kubelet watches.
        "nodeStatusUpdateFrequency": "1s",
        // The default, but for whoever sets the one above.
        "nodeStatusReportFrequency": "5m",
        // Without systemd there is no other.
        "resolvConf": "/etc/resolv.conf",
        // The root is read-only.
        "volumePluginDir": format!("{}/volumeplugins", paths::KUBELET),
        "failSwapOn": false,
        // Hardening: facts of the CIS benchmark and of those who are careful.
        "address": config.node.address,
        "protectKernelDefaults": true,
        "seccompDefault": true,
        "serializeImagePulls": false,
        "streamingConnectionIdleTimeout": "5m",
        "tlsMinVersion": "VersionTLS13",
        // Its own graceful shutdown stays off: it listens to logind, and PID 1 ends pods in order.
    });
    let is_master = config.roles.contains(&Role::Master);
    let more = if is_master {
        json!({
            "rotateCertificates": false,
            "tlsCertFile": format!("{pki}/server.crt"),
            "tlsPrivateKeyFile": format!("{pki}/server.key"),
            // After a quorum came back its apiserver must not be waited for for minutes.
            "crashLoopBackOff": { "maxContainerRestartPeriod": "5s" },
        })
    } else {
        json!({ "rotateCertificates": true, "serverTLSBootstrap": true })
    };
    merge(&mut value, more);
    let taints = config.taints().iter().map(|t| taint(t)).collect::<Result<Vec<_>, _>>()?;
    if !taints.is_empty() {
        merge(&mut value, json!({ "registerWithTaints": taints }));
    }
    if let Some(most) = config.kubernetes().max_pods {
        merge(&mut value, json!({ "maxPods": most }));
    }
    Ok(value)
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

/// `key=value:Effect` or `key:Effect`.
fn taint(text: &str) -> Result<Value, String> {
    let (key, effect) = text.rsplit_once(':').ok_or_else(|| format!("the taint `{text}` has no effect"))?;
    let (key, value) = key.split_once('=').unwrap_or((key, ""));
    let mut taint = json!({ "key": key, "effect": effect });
    if !value.is_empty() {
        taint["value"] = value.into();
    }
    Ok(taint)
}
