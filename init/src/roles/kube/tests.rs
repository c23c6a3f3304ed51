use crate::roles::plan;
use crate::roles::tests::seed;
use contract::node::NodeConfig;
use contract::seed::NodeSeed;
use serde_json::json;

/// A stacked master with kubeadm's subnets, and its address as in `kubeadm/`.
pub(super) fn config() -> NodeConfig {
    let ca = json!({ "cert": "-----BEGIN CERTIFICATE-----\n", "key": "-----BEGIN PRIVATE KEY-----\n" });
    serde_json::from_value(json!({
        "version": 1,
        "roles": ["master", "etcd"],
        "node": { "name": "m1", "address": "10.0.2.15" },
        "cluster": { "name": "demo", "id": "3f9c2a7be1d04c55", "endpoint": "10.0.2.15:6443" },
        "members": { "m1": "10.0.2.15" },
        "masters": { "m1": "10.0.2.15" },
        "kubernetes": { "encryption_key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" },
        "state": { "disk": "/dev/vda" },
        "pki": {
            "cluster_ca": ca, "front_proxy_ca": ca, "service_account": { "key": "-----BEGIN PRIVATE KEY-----\n" },
            "etcd_peer_ca": ca, "etcd_server_ca": ca, "etcd_client_ca": ca,
        },
    }))
    .expect("a configuration")
}

fn planned(node: NodeConfig) -> String {
    let plan = plan(&NodeSeed { node, ..seed() }).expect("a plan");
    serde_json::to_string_pretty(&plan).expect("json")
}

#[test]
fn the_plan_of_a_stacked_master() {
    insta::assert_snapshot!(planned(config()));
}

#[test]
fn the_plan_of_a_worker() {
    let mut worker = config();
    worker.roles = [contract::node::Role::Worker].into();
    worker.node.name = Some("w1".into());
    worker.members.clear();
    worker.masters.clear();
    worker.kubernetes = serde_json::from_value(json!({
        "bootstrap_tokens": { "w1": "abcdef.0123456789abcdef" }, "labels": { "disk": "fast" }, "taints": ["gpu=yes:NoExecute"], "max_pods": 40,
    }))
    .expect("settings");
    insta::assert_snapshot!(planned(worker));
}

/// A master that is a worker as well has one kubelet, and no taint.
#[test]
fn one_kubelet_for_two_roles() {
    let mut single = config();
    single.roles.insert(contract::node::Role::Worker);
    let text = planned(single);
    assert_eq!(text.matches("\"name\": \"kubelet\"").count(), 1);
    assert!(!text.contains("registerWithTaints"));
}
