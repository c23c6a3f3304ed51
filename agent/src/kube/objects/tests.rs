use super::*;
use contract::node::NodeConfig;

pub(super) fn config() -> NodeConfig {
    serde_json::from_value(json!({
        "version": 1, "roles": ["master", "etcd"], "state": "ephemeral",
        "node": { "name": "master-1", "address": "10.77.0.11" },
        "cluster": { "name": "demo", "id": "3f9c2a7be1d04c55", "endpoint": "10.77.0.10:6443" },
        "members": { "master-1": "10.77.0.11" },
        "masters": { "master-1": "10.77.0.11" },
        "kubernetes": {
            "bootstrap_tokens": { "worker-1": "abcdef.0123456789abcdef" },
            "workers": { "worker-1": "10.77.0.41" },
        },
    }))
    .expect("a configuration")
}

#[test]
fn the_objects_of_a_cluster() {
    let text: String = all(&config(), true).iter().map(|o| format!("{}\n{:#}\n", o.path, o.value)).collect();
    insta::assert_snapshot!(text);
}

#[test]
fn no_resolver_no_forward_no_cni_no_flannel() {
    let mut config = config();
    config.cluster.cni = Some(Cni::None);
    let text: String = all(&config, false).iter().map(|o| format!("{} {}\n", o.path, o.value)).collect();
    assert!(!text.contains("forward") && !text.contains("flannel"));
}
