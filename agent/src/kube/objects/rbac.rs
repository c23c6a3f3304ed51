//! Who may do what, beside what the apiserver makes itself; and the workers' tokens.

use super::{Object, binding, object};
use base64::Engine;
use contract::node::NodeConfig;
use serde_json::json;

/// Of the tokens' holders: they may ask for a certificate, and nothing else.
const BOOTSTRAPPERS: &str = "system:bootstrappers:quorate";

pub(super) fn objects(config: &NodeConfig) -> Vec<Object> {
    let mut all = vec![
        // Without it logs and exec are forbidden: the apiserver's own certificate to kubelets carries no group any more.
        binding(
            "kubeadm:apiserver-kubelet-client",
            "system:kubelet-api-admin",
            "User",
            "kube-apiserver-kubelet-client",
        ),
        // admin.conf is of this group.
        binding("kubeadm:cluster-admins", "cluster-admin", "Group", "kubeadm:cluster-admins"),
        binding("quorate:kubelet-bootstrap", "system:node-bootstrapper", "Group", BOOTSTRAPPERS),
        // A kubelet that renews its own certificate.
        binding(
            "kubeadm:node-autoapprove-certificate-rotation",
            "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
            "Group",
            "system:nodes",
        ),
    ];
    let tokens = config.kubernetes().bootstrap_tokens;
    all.extend(tokens.iter().filter_map(|(node, token)| {
        let (id, secret) = token.split_once('.')?;
        let text = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        // As the API tells it; `stringData` would never be found again.
        let data = json!({
            "description": text(&format!("the node {node}")),
            "token-id": text(id),
            "token-secret": text(secret),
            "usage-bootstrap-authentication": text("true"),
            "usage-bootstrap-signing": text("false"),
            "auth-extra-groups": text(BOOTSTRAPPERS),
        });
        let more = json!({ "type": "bootstrap.kubernetes.io/token", "data": data });
        Some(object("v1", "Secret", &format!("bootstrap-token-{id}"), more))
    }));
    all
}
