use super::*;
use contract::network::NetworkConfig;
use contract::node::NodeConfig;

/// A seed of three members, as plain data.
pub(crate) fn seed() -> NodeSeed {
    let ca = serde_json::json!({ "cert": "-----BEGIN CERTIFICATE-----\n", "key": "-----BEGIN PRIVATE KEY-----\n" });
    let node: NodeConfig = serde_json::from_value(serde_json::json!({
        "version": 1,
        "roles": ["etcd"],
        "node": { "name": "etcd-1", "address": "10.77.0.31" },
        "cluster": { "name": "demo", "id": "3f9c2a7be1d04c55" },
        "members": { "etcd-1": "10.77.0.31", "etcd-2": "10.77.0.32", "etcd-3": "10.77.0.33" },
        "state": { "disk": "/dev/vda" },
        "pki": { "etcd_peer_ca": ca, "etcd_server_ca": ca, "etcd_client_ca": { "cert": "-----BEGIN CERTIFICATE-----\n" } },
    }))
    .expect("a configuration");
    NodeSeed {
        source: "test".into(),
        instance_id: None,
        node,
        network: NetworkConfig::default(),
        notices: vec![],
        not_before: 0,
    }
}

#[test]
fn the_plan_of_an_etcd_node() {
    let plan = plan(&seed()).expect("a plan");
    insta::assert_snapshot!(serde_json::to_string_pretty(&plan).expect("json"));
}

#[test]
fn chrony_only_with_servers() {
    let mut s = seed();
    s.node.ntp = vec!["10.0.0.1".into()];
    let plan = plan(&s).expect("a plan");
    assert!(plan.services.iter().any(|s| s.name == "chrony"));
    assert!(plan.files.iter().any(|f| f.content.starts_with("server 10.0.0.1 iburst\n")));
}
