//! The pod network: flannel with VXLAN, from `profiles/components/addons`.

use super::{Object, account, binding, config_map, container, daemon, host_path, mount, pod_kubeconfig, role, share};
use contract::node::NodeConfig;
use contract::paths::CNI_NET;
use contract::ports::VXLAN;
use serde_json::json;

const NAME: &str = "flannel";
const DIR: &str = "/etc/kube-flannel";

pub(super) fn objects(config: &NodeConfig) -> Vec<Object> {
    let pods = config.pod_subnet();
    let (four, six) = (pods.addr().is_ipv4(), pods.addr().is_ipv6());
    let mut network = json!({
        "EnableIPv4": four,
        "EnableIPv6": six,
        "EnableNFTables": true,
        "Backend": { "Type": "vxlan", "Port": VXLAN },
    });
    network[if four { "Network" } else { "IPv6Network" }] = pods.to_string().into();
    let mut files = config_map(NAME, "net-conf.json", &format!("{network:#}"));
    files.value["data"]["kubeconfig"] = pod_kubeconfig(config).into();
    let command = [
        "/usr/bin/flanneld",
        "--kubeconfig=/etc/kube-flannel/kubeconfig",
        "--public-ip=$(NODE_ADDRESS)",
        "--cni-conf=/etc/cni/net.d/10-flannel.conflist",
    ];
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let pod = json!({
        "containers": [container(NAME, &command, json!({
            "env": [field("NODE_NAME", "spec.nodeName"), field("NODE_ADDRESS", "status.hostIP")],
            "resources": share(),
            "securityContext": {
                "runAsUser": 0,
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"] },
            },
            "volumeMounts": [
                mount("usr", "/usr", true),
                mount("config", DIR, true),
                mount("cni", "/etc/cni/net.d", false),
            ],
        }))],
        "volumes": [
            host_path("usr", "/usr", "Directory"),
            host_path("cni", CNI_NET, "Directory"),
            { "name": "config", "configMap": { "name": NAME } },
        ],
    });
    // flannel's own chart gives these.
    let rules = json!([
        { "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] },
        { "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"] },
        { "apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"] },
    ]);
    vec![account(NAME), role(NAME, &rules), binding(NAME, NAME, "ServiceAccount", NAME), files, daemon(NAME, pod)]
}
