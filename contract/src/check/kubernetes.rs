//! What masters and workers must be told, and what they must not know.

use super::Checker;
use crate::node::{NodeConfig, Role};

/// 32 bytes as base64: 43 letters and one `=`.
fn is_key(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    text.len() == 44 && text.strip_suffix('=').is_some_and(|t| t.bytes().all(letter))
}

pub(super) fn check(c: &mut Checker, config: &NodeConfig) {
    let key = "quorate.kubernetes";
    let (is_master, k) = (config.roles.contains(&Role::Master), config.kubernetes());
    if !config.has_kubelet() {
        return c.unless(config.kubernetes.is_none(), key, || {
            "stands on a node without `master` or `worker`: it must not travel there".into()
        });
    }
    c.unless(config.cluster.endpoint.is_some(), "quorate.cluster.endpoint", || {
        "is missing; every kubelet and client reaches the API by it".into()
    });
    for (node, token) in &k.bootstrap_tokens {
        // k8s.io/cluster-bootstrap/token/api: BootstrapTokenPattern.
        let part =
            |text: &str, n| text.len() == n && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let good = token.split_once('.').is_some_and(|(id, secret)| part(id, 6) && part(secret, 16));
        c.unless(good, &format!("{key}.bootstrap_tokens.{node}"), || {
            "expected six and sixteen lower-case letters or digits, with a dot between".into()
        });
    }
    for taint in &k.taints {
        let good = taint.rsplit_once(':').is_some_and(|(key, effect)| {
            !key.is_empty() && ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect)
        });
        c.unless(good, &format!("{key}.taints"), || {
            format!("`{taint}`: expected key:Effect or key=value:Effect with NoSchedule, PreferNoSchedule or NoExecute")
        });
    }
    let (pods, services) = (config.pod_subnet(), config.service_subnet());
    c.unless(
        !pods.contains(&services.addr()) && !services.contains(&pods.addr()),
        "quorate.cluster.pod_subnet",
        || format!("{pods} and the services' {services} overlap"),
    );
    let own = config.node.address;
    c.unless(!pods.contains(&own) && !services.contains(&own), "quorate.node.address", || {
        format!("{own} is an address of pods ({pods}) or services ({services})")
    });
    if is_master {
        let good = k.encryption_key.as_deref().is_some_and(is_key);
        c.unless(good, &format!("{key}.encryption_key"), || "expected 32 bytes as base64".into());
        match config.masters.get(config.name()) {
            Some(a) if *a == own => {}
            Some(a) => c.say("quorate.masters", format!("{} has {a} there, and {own} in node.address", config.name())),
            None => c.say(
                "quorate.masters",
                format!("this node `{}` has the role master, but is not among them", config.name()),
            ),
        }
    } else {
        c.unless(k.encryption_key.is_none(), &format!("{key}.encryption_key"), || {
            "on a node without `master`: it must not travel there".into()
        });
        c.unless(k.workers.is_empty(), &format!("{key}.workers"), || {
            "on a node without `master`: it must not travel there".into()
        });
        let own = [config.name()];
        c.unless(k.bootstrap_tokens.keys().eq(own), &format!("{key}.bootstrap_tokens"), || {
            format!("expected one for `{}`, and no other node's", config.name())
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::check::check;
    use crate::network::NetworkConfig;
    use crate::node::NodeConfig;
    use serde_json::{Value, json};

    /// The problems of a master or a worker, changed by a JSON pointer's value; null takes it away.
    fn problems(role: &str, pointer: &str, value: Value) -> String {
        let cert = "-----BEGIN CERTIFICATE-----\n";
        let ca = json!({ "cert": cert, "key": "-----BEGIN PRIVATE KEY-----\n" });
        let is_master = role == "master";
        let mut config = json!({
            "version": 1, "roles": [role], "state": "ephemeral",
            "node": { "name": "n-1", "address": "10.77.0.11" },
            "cluster": { "name": "demo", "id": "3f9c2a7be1d04c55", "endpoint": "10.77.0.10:6443", "pod_subnet": null },
            "members": {}, "masters": {},
            "kubernetes": { "bootstrap_tokens": { "n-1": "abcdef.0123456789abcdef" }, "taints": [], "workers": {}, "encryption_key": null },
            "pki": { "cluster_ca": { "cert": cert }, "service_account": null },
        });
        if is_master {
            config["members"] = json!({ "etcd-1": "10.77.0.31" });
            config["masters"] = json!({ "n-1": "10.77.0.11" });
            config["kubernetes"]["encryption_key"] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into();
            config["pki"] = json!({
                "cluster_ca": ca, "front_proxy_ca": ca, "etcd_client_ca": ca, "etcd_server_ca": { "cert": cert },
                "service_account": { "key": "-----BEGIN PRIVATE KEY-----\n" },
            });
        }
        if !pointer.is_empty() {
            *config.pointer_mut(pointer).expect("a place") = value;
        }
        let config: NodeConfig = serde_json::from_value(config).expect("the schema");
        let lan =
            crate::network::Ethernet { addresses: vec!["10.77.0.11/24".parse().expect("a net")], ..Default::default() };
        check(&config, &NetworkConfig { ethernets: vec![lan] }).iter().map(|p| format!("{p}\n")).collect()
    }

    #[test]
    fn masters_and_workers_are_checked() {
        assert_eq!(problems("master", "", Value::Null), "");
        assert_eq!(problems("worker", "", Value::Null), "");
        let cases = [
            ("master", "/pki/cluster_ca/key", Value::Null, "quorate.pki.cluster_ca.key: is missing"),
            ("master", "/pki/service_account", Value::Null, "quorate.pki.service_account: is missing"),
            ("master", "/pki/etcd_client_ca/key", Value::Null, "quorate.pki.etcd_client_ca.key: is missing"),
            ("master", "/kubernetes/encryption_key", json!("c2hvcnQ="), "expected 32 bytes as base64"),
            ("master", "/masters", json!({ "n-2": "10.77.0.12" }), "has the role master, but is not among them"),
            ("master", "/masters", json!({ "n-1": "10.77.0.12" }), "n-1 has 10.77.0.12 there"),
            ("master", "/cluster/endpoint", Value::Null, "quorate.cluster.endpoint: is missing"),
            ("master", "/cluster/pod_subnet", json!("10.96.0.0/16"), "and the services' 10.96.0.0/12 overlap"),
            ("master", "/cluster/pod_subnet", json!("10.77.0.0/16"), "10.77.0.11 is an address of pods"),
            ("worker", "/kubernetes/bootstrap_tokens", json!({}), "expected one for `n-1`, and no other node's"),
            (
                "worker",
                "/kubernetes/bootstrap_tokens",
                json!({ "n-1": "abcdef.0123456789abcdef", "n-2": "fedcba.0123456789abcdef" }),
                "and no other node's",
            ),
            (
                "worker",
                "/kubernetes/bootstrap_tokens/n-1",
                json!("ABCDEF.0123456789abcdef"),
                "expected six and sixteen",
            ),
            ("worker", "/kubernetes/workers", json!({ "n-1": "10.77.0.41" }), "it must not travel there"),
            ("worker", "/kubernetes/encryption_key", json!("AAAA"), "on a node without `master`"),
            ("worker", "/kubernetes/taints", json!(["gpu"]), "`gpu`: expected key:Effect"),
            ("worker", "/pki/cluster_ca", Value::Null, "quorate.pki.cluster_ca.cert: is missing"),
        ];
        for (role, pointer, value, want) in cases {
            let found = problems(role, pointer, value);
            assert!(found.contains(want), "{role} {pointer}: {found}\n-- expected: {want}");
        }
        let key = json!({ "cert": "-----BEGIN CERTIFICATE-----\n", "key": "-----BEGIN PRIVATE KEY-----\n" });
        let told = problems("worker", "/pki/cluster_ca", key);
        assert!(told.contains("on a node without `master`: it must not travel there"), "{told}");
    }
}
