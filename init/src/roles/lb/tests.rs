use crate::roles::tests::seed;
use contract::node::NodeConfig;
use contract::seed::NodeSeed;
use serde_json::json;

/// The nth of some load balancers, in front of three masters.
fn lb(nth: usize, count: usize, network: &str, vip: &str) -> NodeSeed {
    let ip = |host: usize| format!("{network}{host}");
    let peers: Vec<_> = (1..=count).map(|i| json!({ "name": format!("lb-{i}"), "address": ip(20 + i) })).collect();
    let masters: serde_json::Map<_, _> = (1..=3).map(|i| (format!("master-{i}"), json!(ip(10 + i)))).collect();
    let node: NodeConfig = serde_json::from_value(json!({
        "version": 1,
        "roles": ["lb"],
        "node": { "name": format!("lb-{nth}"), "address": ip(20 + nth) },
        "cluster": { "name": "demo", "id": "3f9c2a7be1d04c55", "endpoint": vip },
        "masters": masters,
        "lb": { "peers": peers, "virtual_router_id": 77 },
        "state": "ephemeral",
        "pki": { "cluster_ca": { "cert": "-----BEGIN CERTIFICATE-----\n" } },
    }))
    .expect("a configuration");
    NodeSeed { node, ..seed() }
}

fn file(seed: &NodeSeed, name: &str) -> String {
    let plan = crate::roles::plan(seed).expect("a plan");
    let path = format!("{}/{name}", contract::paths::LB);
    plan.files.into_iter().find(|f| f.path == path).map(|f| f.content).unwrap_or_default()
}

#[test]
fn the_first_of_two() {
    let seed = lb(1, 2, "10.77.0.", "10.77.0.10:6443");
    insta::assert_snapshot!("two.haproxy", file(&seed, "haproxy.cfg"));
    insta::assert_snapshot!("two.keepalived", file(&seed, "keepalived.conf"));
    let plan = crate::roles::plan(&seed).expect("a plan");
    let services: Vec<_> = plan.services.iter().filter(|s| ["haproxy", "keepalived"].contains(&&*s.name)).collect();
    insta::assert_snapshot!("two.services", serde_json::to_string_pretty(&services).expect("json"));
}

#[test]
fn the_last_of_three() {
    let mut seed = lb(3, 3, "10.77.0.", "10.77.0.10:6443");
    seed.node.lb.as_mut().expect("lb").advert_ms = 50;
    insta::assert_snapshot!("three.keepalived", file(&seed, "keepalived.conf"));
}

#[test]
fn ipv6() {
    let seed = lb(2, 2, "fd00:77::", "[fd00:77::10]:6443");
    insta::assert_snapshot!("ipv6.haproxy", file(&seed, "haproxy.cfg"));
    insta::assert_snapshot!("ipv6.keepalived", file(&seed, "keepalived.conf"));
}

#[test]
fn alone() {
    insta::assert_snapshot!("alone.keepalived", file(&lb(1, 1, "10.77.0.", "10.77.0.10:6443"), "keepalived.conf"));
}

/// Masters that balance themselves: HAProxy has the virtual IP, the apiserver the node's address.
#[test]
fn compact() {
    let mut seed = lb(1, 3, "10.77.0.", "10.77.0.10:6443");
    seed.node.node = serde_json::from_value(json!({ "name": "master-1", "address": "10.77.0.11" })).expect("a node");
    let lb = seed.node.lb.as_mut().expect("lb");
    lb.peers = (seed.node.masters.iter())
        .map(|(name, address)| contract::node::Peer { name: name.clone(), address: *address })
        .collect();
    insta::assert_snapshot!("compact.haproxy", file(&seed, "haproxy.cfg"));
    insta::assert_snapshot!("compact.keepalived", file(&seed, "keepalived.conf"));
}

/// Behind a cloud's load balancer: HAProxy on the node's own address, and no keepalived.
#[test]
fn external() {
    let mut seed = lb(1, 2, "10.77.0.", "api.demo.example:6443");
    seed.node.lb = serde_json::from_value(json!({ "provided_by": "external" })).expect("lb");
    insta::assert_snapshot!("external.haproxy", file(&seed, "haproxy.cfg"));
    assert_eq!(file(&seed, "keepalived.conf"), "");
    let plan = crate::roles::plan(&seed).expect("a plan");
    assert!(plan.services.iter().all(|s| s.name != "keepalived"));
}
