//! CoreDNS: names of services and pods, and everybody else's where the node knows a resolver.

use super::{Object, account, binding, config_map, container, host_path, mount, object, role};
use contract::kube::DNS_NUMBER;
use contract::node::NodeConfig;
use serde_json::{Value, json};

const NAME: &str = "coredns";
/// kubeadm's name of the service, which others look for.
const SERVICE: &str = "kube-dns";

pub(super) fn objects(config: &NodeConfig, resolver: bool) -> Vec<Object> {
    let rules = json!([
        { "apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"] },
        { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
    ]);
    vec![
        account(NAME),
        role("system:coredns", &rules),
        binding("system:coredns", "system:coredns", "ServiceAccount", NAME),
        config_map(NAME, "Corefile", &corefile(config, resolver)),
        deployment(config, resolver),
        service(config),
    ]
}

/// kubeadm's, but for `forward`: it does not start where `/etc/resolv.conf` names nobody.
fn corefile(config: &NodeConfig, resolver: bool) -> String {
    let forward = if resolver { "    forward . /etc/resolv.conf {\n       max_concurrent 1000\n    }\n" } else { "" };
    format!(
        ".:53 {{\n    errors\n    health {{\n       lameduck 5s\n    }}\n    ready\n    kubernetes {} in-addr.arpa ip6.arpa {{\n       \
         pods insecure\n       fallthrough in-addr.arpa ip6.arpa\n       ttl 30\n    }}\n    prometheus :9153\n{forward}    \
         cache 30 {{\n       disable success {domain}\n       disable denial {domain}\n    }}\n    loop\n    reload\n    loadbalance\n}}\n",
        config.dns_domain(),
        domain = config.dns_domain(),
    )
}

fn deployment(config: &NodeConfig, resolver: bool) -> Object {
    let labels = json!({ "k8s-app": SERVICE });
    let probe = |path: &str, port: u16| json!({ "httpGet": { "path": path, "port": port, "scheme": "HTTP" } });
    let ports: Vec<Value> = [("dns", 53, "UDP"), ("dns-tcp", 53, "TCP"), ("metrics", 9153, "TCP")]
        .map(|(name, port, protocol)| json!({ "name": name, "containerPort": port, "protocol": protocol }))
        .into();
    let own = container(
        NAME,
        &["/usr/bin/coredns", "-conf", "/etc/coredns/Corefile"],
        json!({
            "ports": ports,
            "resources": { "limits": { "memory": "170Mi" }, "requests": { "cpu": "100m", "memory": "70Mi" } },
            "livenessProbe": probe("/health", 8080),
            "readinessProbe": { "httpGet": probe("/ready", 8181)["httpGet"], "periodSeconds": 2 },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] },
            },
            "volumeMounts": [mount("program", "/usr/bin/coredns", true), mount("config", "/etc/coredns", true)],
        }),
    );
    let spread = json!([{
        "weight": 100,
        "podAffinityTerm": { "labelSelector": { "matchLabels": labels }, "topologyKey": "kubernetes.io/hostname" },
    }]);
    let pod = json!({
        "priorityClassName": "system-cluster-critical",
        "serviceAccountName": NAME,
        "tolerations": [
            { "key": "CriticalAddonsOnly", "operator": "Exists" },
            { "key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule" },
        ],
        "nodeSelector": { "kubernetes.io/os": "linux" },
        "affinity": { "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": spread } },
        "dnsPolicy": "Default",
        "containers": [own],
        "volumes": [
            host_path("program", "/usr/bin/coredns", "File"),
            { "name": "config", "configMap": { "name": NAME } },
        ],
    });
    // A pod's resolv.conf is the node's at the moment it began: where a resolver appears later, other pods must begin.
    let resolver = json!({ "quorate.invalid/resolver": resolver.to_string() });
    // One on a cluster of one node: a second would fall with it.
    let nodes = config.masters.len() + config.kubernetes().workers.len();
    let spec = json!({
        "replicas": if nodes > 1 { 2 } else { 1 },
        "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 1 } },
        "selector": { "matchLabels": labels },
        "template": { "metadata": { "labels": labels, "annotations": resolver }, "spec": pod },
    });
    object(
        "apps/v1",
        "Deployment",
        NAME,
        json!({ "metadata": { "name": NAME, "namespace": "kube-system", "labels": labels }, "spec": spec }),
    )
}

fn service(config: &NodeConfig) -> Object {
    let ports: Vec<Value> = [("dns", 53, "UDP"), ("dns-tcp", 53, "TCP"), ("metrics", 9153, "TCP")]
        .map(|(name, port, protocol)| json!({ "name": name, "port": port, "protocol": protocol, "targetPort": port }))
        .into();
    let labels =
        json!({ "k8s-app": SERVICE, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS" });
    let more = json!({
        "metadata": { "name": SERVICE, "namespace": "kube-system", "labels": labels },
        "spec": { "clusterIP": config.service_address(DNS_NUMBER), "selector": { "k8s-app": SERVICE }, "ports": ports },
    });
    object("v1", "Service", SERVICE, more)
}
