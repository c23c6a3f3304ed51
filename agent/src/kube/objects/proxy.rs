//! kube-proxy, which makes services' addresses work on each node. In nftables mode: iptables is in no image.

use super::{Object, account, binding, config_map, container, daemon, host_path, mount, pod_kubeconfig, share};
use contract::node::NodeConfig;
use contract::ports::{PROXY_HEALTH, PROXY_METRICS};
use serde_json::json;

const NAME: &str = "kube-proxy";
const DIR: &str = "/etc/kube-proxy";

pub(super) fn objects(config: &NodeConfig) -> Vec<Object> {
    let settings = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": config.pod_subnet().to_string(),
        "clientConnection": { "kubeconfig": format!("{DIR}/kubeconfig") },
        "healthzBindAddress": format!("0.0.0.0:{PROXY_HEALTH}"),
        "metricsBindAddress": format!("127.0.0.1:{PROXY_METRICS}"),
        // The image's sysctls have set it.
        "conntrack": { "maxPerCore": 0 },
    });
    let mut files = config_map(NAME, "config.json", &format!("{settings:#}"));
    files.value["data"]["kubeconfig"] = pod_kubeconfig(config).into();
    let command = ["/usr/bin/kube-proxy", "--config=/etc/kube-proxy/config.json", "--hostname-override=$(NODE_NAME)"];
    let pod = json!({
        "containers": [container(NAME, &command, json!({
            "env": [{ "name": "NODE_NAME", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } }],
            "resources": share(),
            "securityContext": { "privileged": true, "runAsUser": 0 },
            // It calls nft, which needs its libraries.
            "volumeMounts": [mount("usr", "/usr", true), mount("config", DIR, true), mount("modules", "/lib/modules", true)],
        }))],
        "volumes": [
            host_path("usr", "/usr", "Directory"),
            host_path("modules", "/usr/lib/modules", "DirectoryOrCreate"),
            { "name": "config", "configMap": { "name": NAME } },
        ],
    });
    vec![
        account(NAME),
        binding("kubeadm:node-proxier", "system:node-proxier", "ServiceAccount", NAME),
        files,
        daemon(NAME, pod),
    ]
}
