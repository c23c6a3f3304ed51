//! The other placements of the same roles: etcd on nodes of its own, and three nodes that are everything. All from cold at once.

use qemu_tests::cluster::Cluster;
use qemu_tests::kubectl::Kubectl;
use qemu_tests::{checkout, read};
use std::time::Duration;

/// Host seconds per guest second of eight nodes that boot on two cores.
const DILATION: &str = "36";
/// ... and when they run.
const RESTORED: &str = "16";
const SOON: Duration = Duration::from_secs(40);
/// From power on to all ready.
const BOOT: Duration = Duration::from_secs(120);

/// Boots an example and expects these Kubernetes nodes; then goes on at another pace.
fn booted(example: &str, nodes: &[&str]) -> (Cluster, Kubectl) {
    let cluster = Cluster::new(&read(&checkout().join("examples").join(example)));
    let began = std::time::Instant::now();
    println!("{}", cluster.up(&["--dilation", DILATION, "--timeout", "180s"]));
    println!("{example}: up after {:.0} s of wall time", began.elapsed().as_secs_f64());
    assert_eq!(Kubectl::of(&cluster).ready_nodes().expect("the nodes"), nodes);
    let kubectl = Kubectl::restored_at(&cluster, RESTORED);
    (cluster, kubectl)
}

fn services(cluster: &Cluster, node: &str) -> Vec<String> {
    let services = cluster.node(node)["services"].as_array().cloned().unwrap_or_default();
    services.iter().filter_map(|s| Some(s["name"].as_str()?.to_owned())).collect()
}

fn is_ready_again(cluster: &Cluster, node: &str) {
    cluster.ok(&["start", node, "--no-wait"]);
    cluster.wait_for(node, "it is ready again", BOOT, |n| n["state"] == "ready");
}

/// The API is written to, at the virtual IP.
fn is_written(kubectl: &Kubectl, name: &str) {
    let written = kubectl.until(&format!("{name} is written"), SOON, || {
        match kubectl.run(&["create", "configmap", name]) {
            // The answer to an earlier try was lost, what it did was not.
            Err(e) if e.contains("already exists") => Ok(e),
            other => other,
        }
    });
    println!("{}", written.trim());
}

#[test]
#[ignore = "twenty minutes on two cores: `make soak` runs it"]
fn etcd_on_nodes_of_its_own() {
    let (cluster, kubectl) = booted("external.toml", &["master-1", "master-2", "worker-1"]);
    assert!(!services(&cluster, "master-1").contains(&"etcd".to_owned()));
    assert!(!read(&cluster.seeds().join("master-1/user-data")).contains("etcd_peer_ca"), "no key of a member");
    let leader = cluster.leader();
    cluster.ok(&["kill", &leader]);
    is_written(&kubectl, "without-the-leader");
    for master in ["master-1", "master-2"] {
        cluster.until(&format!("{master} lets go of it"), SOON, || {
            let logs = cluster.ok(&["logs", master]);
            let said =
                logs.lines().find(|l| l.contains(&format!("etcd of {leader} (")) && l.contains("does not answer"));
            said.map(|l| assert!(l.contains("connections to it are ended") && !l.contains(": 0 connections"), "{l}"))
        });
    }
    is_ready_again(&cluster, &leader);
    cluster.ok(&["kill", "master-1"]);
    is_written(&kubectl, "without-a-master");
    is_ready_again(&cluster, "master-1");
    kubectl.until("all are Ready", SOON, || match kubectl.ready_nodes()?.len() {
        3 => Ok(()),
        n => Err(format!("{n} are")),
    });
}

#[test]
#[ignore = "twenty minutes on two cores: `make soak` runs it"]
fn three_nodes_that_are_everything() {
    let (cluster, kubectl) = booted("compact.toml", &["node-1", "node-2", "node-3", "worker-1"]);
    for service in ["etcd", "kubelet", "haproxy", "keepalived"] {
        assert!(services(&cluster, "node-1").contains(&service.to_owned()), "{service}");
    }
    let holder = || ["node-1", "node-2", "node-3"].into_iter().find(|n| cluster.node(n)["holds_vip"] == true);
    let first = holder().expect("one holds the virtual IP");
    cluster.ok(&["signal", first, "haproxy", "kill"]);
    kubectl.until("the address is elsewhere", SOON, || match holder() {
        Some(node) if node != first => Ok(()),
        other => Err(format!("{other:?}")),
    });
    is_written(&kubectl, "without-a-proxy");
    let second = holder().expect("one holds it");
    cluster.ok(&["kill", second]);
    is_written(&kubectl, "without-a-node");
    is_ready_again(&cluster, second);
}
