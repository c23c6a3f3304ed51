//! What stands beside the leaves: the CAs that verify others, the keys that sign tokens, and kubeconfigs that name all of
//! them. Pure. Kubeconfigs name files instead of holding them: only those are read again when they are renewed.

use contract::kube;
use contract::node::{NodeConfig, Role};
use contract::ports::API;
use contract::{paths, users};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// A file below [`paths::PKI`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PkiFile {
    pub(crate) name: String,
    pub(crate) content: String,
    pub(crate) mode: u32,
    pub(crate) owner: u32,
}

fn public(name: String, content: &str) -> PkiFile {
    PkiFile { name, content: content.into(), mode: 0o644, owner: users::ROOT }
}

/// The files of a node with a kubelet.
pub(crate) fn files(config: &NodeConfig) -> Result<Vec<PkiFile>, String> {
    if !config.has_kubelet() {
        return Ok(Vec::new());
    }
    let missing = |what: &str| format!("quorate.{what} is missing");
    let ca = config.pki.cluster_ca.as_ref().ok_or_else(|| missing("pki.cluster_ca"))?;
    let mut files = vec![public("ca.crt".into(), &ca.cert), public("kubelet/ca.crt".into(), &ca.cert)];
    if !config.roles.contains(&Role::Master) {
        let tokens = config.kubernetes().bootstrap_tokens;
        let token = tokens.get(config.name()).ok_or_else(|| missing("kubernetes.bootstrap_tokens of this node"))?;
        let endpoint = config.cluster.endpoint.as_deref().ok_or_else(|| missing("cluster.endpoint"))?;
        let ca = format!("{}/kubelet/ca.crt", paths::PKI);
        let text = kubeconfig(&format!("https://{endpoint}"), &ca, &json!({ "token": token }));
        let name = kube::KUBELET_BOOTSTRAP_CONF.trim_start_matches(paths::PKI).trim_start_matches('/').to_owned();
        files.push(PkiFile { mode: 0o600, ..public(name, &text) });
        return Ok(files);
    }
    let ca_key = ca.key.as_ref().ok_or_else(|| missing("pki.cluster_ca.key"))?;
    let front = config.pki.front_proxy_ca.as_ref().ok_or_else(|| missing("pki.front_proxy_ca"))?;
    let etcd = config.pki.etcd_server_ca.as_ref().ok_or_else(|| missing("pki.etcd_server_ca"))?;
    let signer = config.pki.service_account.as_ref().ok_or_else(|| missing("pki.service_account"))?;
    let pair = KeyPair::from_pem(&signer.key).map_err(|e| format!("quorate.pki.service_account: {e}"))?;
    let secret = |c: kube::Component, name: &str, content: &str| PkiFile {
        name: format!("{}/{name}", c.name),
        content: content.into(),
        mode: 0o600,
        owner: c.user,
    };
    let of = |c: kube::Component, name: &str, content: &str| public(format!("{}/{name}", c.name), content);
    let (api, controllers) = (kube::APISERVER, kube::CONTROLLER_MANAGER);
    files.extend([
        of(api, "ca.crt", &ca.cert),
        of(api, "front-proxy-ca.crt", &front.cert),
        of(api, "etcd-server-ca.crt", &etcd.cert),
        of(api, "sa.pub", &public_key(&pair)),
        secret(api, "sa.key", &signer.key),
        of(controllers, "ca.crt", &ca.cert),
        of(controllers, "front-proxy-ca.crt", &front.cert),
        secret(controllers, "ca.key", ca_key),
        secret(controllers, "sa.key", &signer.key),
        of(kube::SCHEDULER, "ca.crt", &ca.cert),
        public("agent/ca.crt".into(), &ca.cert),
    ]);
    // To the apiserver of this node: it is there when this node is.
    let local = format!("https://{}", SocketAddr::new(config.node.address, API));
    for (dir, owner) in
        [(controllers.name, controllers.user), (kube::SCHEDULER.name, kube::SCHEDULER.user), ("kubelet", users::ROOT)]
    {
        let path = |file: &str| format!("{}/{dir}/{file}", paths::PKI);
        let user = json!({ "client-certificate": path("client.crt"), "client-key": path("client.key") });
        let content = kubeconfig(&local, &path("ca.crt"), &user);
        files.push(PkiFile { name: format!("{dir}/kubeconfig"), content, mode: 0o600, owner });
    }
    Ok(files)
}

/// PKIX, PEM.
fn public_key(pair: &KeyPair) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(pair.subject_public_key_info());
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|c| std::str::from_utf8(c).ok()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

/// A kubeconfig with one cluster and one user (`k8s.io/client-go/tools/clientcmd/api/v1`).
pub(crate) fn kubeconfig(server: &str, ca: &str, user: &Value) -> String {
    let value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "quorate", "cluster": { "server": server, "certificate-authority": ca } }],
        "users": [{ "name": "quorate", "user": user }],
        "contexts": [{ "name": "quorate", "context": { "cluster": "quorate", "user": "quorate" } }],
        "current-context": "quorate",
    });
    format!("{value:#}\n")
}
