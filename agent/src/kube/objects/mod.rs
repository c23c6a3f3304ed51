//! What every cluster contains: pure, from the configuration to objects of the API.
//!
//! What kubeadm makes and is not here: the ConfigMaps `kubeadm-config`, `kubelet-config` and `cluster-info` with the roles to
//! read them, the ClusterRole `kubeadm:get-nodes` and the bindings for token joins. They are what `kubeadm join` reads; a
//! node of quorate has all of it in its seed, and its request for a certificate is approved by `approve.rs`.

mod dns;
mod flannel;
mod proxy;
mod rbac;

use contract::kube::PAUSE_IMAGE;
use contract::node::{Cni, NodeConfig};
use serde_json::{Value, json};

/// An object and where it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) path: String,
    pub(super) value: Value,
}

/// Everything, in an order in which nothing needs what comes later.
pub(super) fn all(config: &NodeConfig, resolver: bool) -> Vec<Object> {
    let mut all = rbac::objects(config);
    all.extend(proxy::objects(config));
    if config.cluster.cni != Some(Cni::None) {
        all.extend(flannel::objects(config));
    }
    all.extend(dns::objects(config, resolver));
    all
}

/// What the API is to know of a master's node.
pub(super) fn master_node(config: &NodeConfig) -> Object {
    let labels = json!({
        "node-role.kubernetes.io/control-plane": "",
        "node.kubernetes.io/exclude-from-external-load-balancers": "",
    });
    let value = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": config.name(), "labels": labels } });
    Object { path: format!("/api/v1/nodes/{}", config.name()), value }
}

/// An object of a kind that lives in no namespace, or in `kube-system`.
fn object(group_version: &str, kind: &str, name: &str, more: Value) -> Object {
    let root = if group_version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{group_version}") };
    let (plural, namespaced) = match kind {
        "ClusterRole" => ("clusterroles", false),
        "ClusterRoleBinding" => ("clusterrolebindings", false),
        "ServiceAccount" => ("serviceaccounts", true),
        "ConfigMap" => ("configmaps", true),
        "Secret" => ("secrets", true),
        "Service" => ("services", true),
        "DaemonSet" => ("daemonsets", true),
        _ => ("deployments", true),
    };
    let mut value = json!({ "apiVersion": group_version, "kind": kind, "metadata": { "name": name } });
    let mut path = format!("{root}/{plural}/{name}");
    if namespaced {
        value["metadata"]["namespace"] = NAMESPACE.into();
        path = format!("{root}/namespaces/{NAMESPACE}/{plural}/{name}");
    }
    if let (Value::Object(into), Value::Object(more)) = (&mut value, more) {
        into.extend(more);
    }
    Object { path, value }
}

const NAMESPACE: &str = "kube-system";
const RBAC: &str = "rbac.authorization.k8s.io/v1";

fn account(name: &str) -> Object {
    object("v1", "ServiceAccount", name, json!({}))
}

fn config_map(name: &str, file: &str, content: &str) -> Object {
    object("v1", "ConfigMap", name, json!({ "data": { file: content } }))
}

fn role(name: &str, rules: &Value) -> Object {
    object(RBAC, "ClusterRole", name, json!({ "rules": rules }))
}

/// Gives a cluster role to a user, a group or a service account.
fn binding(name: &str, role: &str, kind: &str, subject: &str) -> Object {
    let mut subject = json!({ "kind": kind, "name": subject });
    if kind == "ServiceAccount" {
        subject["namespace"] = NAMESPACE.into();
    } else {
        subject["apiGroup"] = "rbac.authorization.k8s.io".into();
    }
    let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role });
    object(RBAC, "ClusterRoleBinding", name, json!({ "roleRef": role, "subjects": [subject] }))
}

/// A container of a program that lies in the node's root: the image is the one that every node has.
fn container(name: &str, command: &[&str], more: Value) -> Value {
    let mut container = json!({
        "name": name, "image": PAUSE_IMAGE, "imagePullPolicy": "Never", "command": command,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    if let (Value::Object(into), Value::Object(more)) = (&mut container, more) {
        into.extend(more);
    }
    container
}

/// What a program of the node's network is sure of. Whatever asks for nothing shares the weight of one such pod
/// (`cpu.weight` of the group of those, 1), so a busy pod, or a control plane that starts, left it next to nothing. flannel's
/// own manifest asks for 100m; a control plane, DNS and two of these fit into one processor.
fn share() -> Value {
    json!({ "requests": { "cpu": "50m" } })
}

fn host_path(name: &str, path: &str, kind: &str) -> Value {
    json!({ "name": name, "hostPath": { "path": path, "type": kind } })
}

/// The API leaves `readOnly` out where it is false, and an object is compared with what the API tells.
fn mount(name: &str, path: &str, read_only: bool) -> Value {
    let mut mount = json!({ "name": name, "mountPath": path });
    if read_only {
        mount["readOnly"] = true.into();
    }
    mount
}

/// A kubeconfig for a pod of the host's network: the API by its endpoint, because the service's address is what kube-proxy
/// makes; the account by its token, which the kubelet renews.
fn pod_kubeconfig(config: &NodeConfig) -> String {
    const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
    let endpoint = config.cluster.endpoint.as_deref().unwrap_or_default();
    let user = json!({ "tokenFile": format!("{ACCOUNT}/token") });
    crate::pki::files::kubeconfig(&format!("https://{endpoint}"), &format!("{ACCOUNT}/ca.crt"), &user)
}

/// One pod on each node, whatever its taints: what the node's network is made of.
fn daemon(name: &str, spec: Value) -> Object {
    let labels = json!({ "k8s-app": name });
    let mut pod = json!({
        "hostNetwork": true,
        "priorityClassName": "system-node-critical",
        "serviceAccountName": name,
        "tolerations": [{ "operator": "Exists" }],
        "nodeSelector": { "kubernetes.io/os": "linux" },
    });
    if let (Value::Object(into), Value::Object(more)) = (&mut pod, spec) {
        into.extend(more);
    }
    let template = json!({ "metadata": { "labels": labels }, "spec": pod });
    let spec = json!({ "selector": { "matchLabels": labels }, "updateStrategy": { "type": "RollingUpdate" }, "template": template });
    object("apps/v1", "DaemonSet", name, json!({ "spec": spec }))
}

#[cfg(test)]
mod tests;
