//! Three masters with stacked etcd, two load balancers and a worker, all from cold at once: every node is Ready, services
//! work from each of them, the worker knows the API by the virtual IP only, one master may go, and one that hears no other keeps
//! no clients.

use qemu_tests::cluster::Cluster;
use qemu_tests::kubectl::{Kubectl, program, template, workload};
use qemu_tests::{checkout, read};
use serde_json::json;
use std::time::Duration;

/// Host seconds per guest second of six nodes that boot on two cores.
const DILATION: &str = "32";
/// ... and when they run.
const RESTORED: &str = "14";
const SOON: Duration = Duration::from_secs(40);
const NODES: [&str; 4] = ["master-1", "master-2", "master-3", "worker-1"];

#[test]
#[ignore = "twenty minutes on two cores: `make soak` runs it; one node shows the same in kubernetes/"]
fn six_nodes_from_cold_and_one_master_less() {
    let cluster = Cluster::new(&read(&checkout().join("examples/stacked.toml")));
    let began = std::time::Instant::now();
    let text = cluster.up(&["--dilation", DILATION, "--timeout", "180s"]);
    println!("{text}");
    println!("up after {:.0} s of wall time", began.elapsed().as_secs_f64());
    assert_eq!(Kubectl::of(&cluster).ready_nodes().expect("the nodes"), NODES);

    let kubectl = Kubectl::restored_at(&cluster, RESTORED);

    let pcap = cluster.dir.path().join("worker-1.pcap");
    cluster.ok(&["capture", "worker-1", &pcap.display().to_string()]);
    kubectl.apply(&program());
    let serves = json!({ "readinessProbe": { "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 } });
    let mut web = template("web", &["serve", "8080"], &serves, &[]);
    // On a master too; whoever tolerates all taints would stay on a node that is cordoned.
    web["spec"]["tolerations"] = json!([{ "key": "node-role.kubernetes.io/control-plane", "operator": "Exists" }]);
    // On the worker as long as that takes pods.
    let there =
        json!({ "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": ["worker-1"] }] });
    let preferred = json!([{ "weight": 100, "preference": there }]);
    web["spec"]["affinity"] =
        json!({ "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": preferred } });
    kubectl.apply(&workload("Deployment", "web", &web, &json!({})));
    kubectl.apply(&json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" }, "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] } }));
    let mut client = template("client", &["idle"], &json!({}), &[]);
    client["spec"]["tolerations"] = json!([{ "operator": "Exists" }]);
    kubectl.apply(&workload("DaemonSet", "client", &client, &json!({})));
    kubectl.pods("web", 1, SOON);
    let clients = kubectl.pods("client", NODES.len(), SOON);
    for (node, pod) in &clients {
        let answer = kubectl.until(&format!("an answer on {node}"), SOON, || kubectl.ask_from(pod, "web:80", "/"));
        assert!(answer.contains("from web-"), "{node}: {answer}");
    }
    let to = destinations(&std::fs::read(&pcap).expect("captured"));
    assert!(to.contains(&[10, 77, 0, 10]), "the virtual IP: {to:?}");

    // A node that stops in order sends its pods elsewhere first, and takes pods again when it is back.
    cluster.ok(&["reboot", "worker-1", "--no-wait"]);
    kubectl.until("its pod went to another node", SOON, || {
        let (node, _) = kubectl.pods("web", 1, SOON).remove(0);
        if node == "worker-1" { Err("it is still there".into()) } else { Ok(()) }
    });
    cluster.wait_for("worker-1", "it is ready again", Duration::from_secs(120), |n| n["state"] == "ready");
    kubectl.until("it takes pods again", SOON, || {
        let node = kubectl.get(&["node", "worker-1"])?;
        if node["spec"]["unschedulable"].is_null() { Ok(()) } else { Err("it is cordoned".into()) }
    });

    // One master less: the API goes on, and it comes back by itself.
    cluster.ok(&["kill", "master-2"]);
    kubectl.until("the API goes on", SOON, || kubectl.run(&["get", "pods"]));
    kubectl.ok(&["create", "configmap", "written-by-two"]);
    cluster.ok(&["start", "master-2", "--no-wait"]);
    cluster.wait_for("master-2", "it is ready again", Duration::from_secs(120), |n| n["state"] == "ready");
    assert_eq!(kubectl.ready_nodes().expect("the nodes"), NODES);

    // One that hears no other master has an etcd that answers nothing: whoever is connected to it goes to another one.
    let says = |word: &str| {
        kubectl.until(word, SOON, || {
            let log = cluster.ok(&["logs", "master-1"]);
            if log.contains(word) { Ok(()) } else { Err(format!("master-1 says:\n{log}")) }
        });
    };
    cluster.ok(&["divide", "master-1", "master-2,master-3"]);
    says("etcd of this node has no leader: new clients are sent elsewhere");
    says("connections of clients are ended");
    kubectl.until("the API goes on", SOON, || kubectl.run(&["get", "pods"]));
    cluster.ok(&["heal"]);
    says("etcd of this node is as quick as others again");
    assert_eq!(kubectl.ready_nodes().expect("the nodes"), NODES);
}

/// Where the worker's own connections to port 6443 went: of every TCP packet of a pcap file of Ethernet frames with IPv4
/// inside that came from 10.77.0.41. Its pods that ask the service `kubernetes` are among them, and go to a master as
/// kube-proxy chooses: that is what the service is.
fn destinations(pcap: &[u8]) -> std::collections::BTreeSet<[u8; 4]> {
    let mut found = std::collections::BTreeSet::new();
    let mut rest = pcap.get(24..).unwrap_or_default();
    while let Some((head, more)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
        let Some((frame, after)) = more.split_at_checked(length) else { break };
        rest = after;
        let Some(ip) = frame.get(14..).filter(|p| p.len() >= 40 && frame[12..14] == [8, 0] && p[9] == 6) else {
            continue;
        };
        let tcp = &ip[usize::from(ip[0] & 15) * 4..];
        if ip[12..16] == [10, 77, 0, 41] && tcp.get(2..4) == Some(&6443_u16.to_be_bytes()[..]) {
            found.insert([ip[16], ip[17], ip[18], ip[19]]);
        }
    }
    found
}
