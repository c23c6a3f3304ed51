//! A cluster that runs becomes what its description says now: members of etcd come and go one at a time under writers; and, of
//! a Kubernetes, load balancers, workers and masters (`make soak`).

use qemu_tests::cluster::{Cluster, images, of, three};
use qemu_tests::kubectl::Kubectl;
use qemu_tests::writer::Writer;
use qemu_tests::{checkout, read};
use std::time::Duration;

/// Host seconds per guest second of up to five members, of which one boots.
const DILATION: f64 = 6.0;
/// etcd has a leader again.
const ELECTED: Duration = Duration::from_secs(20);

const FIRST: [&str; 3] = ["etcd-1", "etcd-2", "etcd-3"];

fn describe(cluster: &Cluster, text: &str) {
    std::fs::write(cluster.dir.path().join("cluster.toml"), text).expect("written");
}

fn apply(cluster: &Cluster, options: &[&str]) -> String {
    let images = images();
    let text = cluster.ok(&[&["apply", "--images", &images], options].concat());
    println!("{text}");
    text
}

#[test]
fn three_members_four_and_three_again() {
    there_and_back(4);
}

#[test]
#[ignore = "two come and go as one does: make soak"]
fn three_members_five_and_three_again() {
    there_and_back(5);
}

/// Three members become `members`, one after the other, and three again.
fn there_and_back(members: usize) {
    let cluster = Cluster::booted_at(DILATION);
    let last = format!("etcd-{members}");
    assert!(apply(&cluster, &[]).contains("is as"), "nothing to do");
    let writer = Writer::start(&cluster, &FIRST, "applied");
    describe(&cluster, &of(members));
    let told = apply(&cluster, &["--dry-run"]);
    assert!(
        told.contains(&format!("{last} starts")) && cluster.client("etcd-1").members().expect("listed").len() == 3,
        "{told}"
    );
    apply(&cluster, &[]);
    let client = cluster.client(&last);
    assert_eq!(client.members().expect("listed").len(), members);
    assert!(client.learners().expect("listed").is_empty());
    // They count: with as many of the first three gone, three are a majority.
    let gone = &FIRST[6 - members..];
    cluster.ok(&[&["kill"], gone].concat());
    // One of them may have led: etcd gives up what waits for the leader that is gone, and elects another.
    cluster.until("three write", ELECTED, || client.put("k", "by three").ok());
    cluster.ok(&[&["start"], gone].concat());

    // A role that changed is refused, and nothing is done.
    describe(
        &cluster,
        &of(members).replace("name = \"etcd-4\"\nroles = [\"etcd\"]", "name = \"etcd-4\"\nroles = [\"worker\"]"),
    );
    let (out, text) = cluster.run(&["apply", "--images", &images()]);
    assert_eq!(out.status.code(), Some(2), "{text}");

    describe(&cluster, &three());
    let told = apply(&cluster, &[]);
    assert!(told.contains("etcd-4 leaves etcd") && told.contains(&format!("{last} stops")), "{told}");
    for node in FIRST {
        let client = cluster.client(node);
        assert_eq!(client.members().expect("listed").len(), 3, "{node}");
        assert_eq!(client.get("k").expect("read").as_deref(), Some("by three"), "{node}");
    }
    assert_eq!(cluster.status().expect("up")["nodes"].as_array().map(Vec::len), Some(3));
    let written = writer.stop();
    written.tell(&format!("three, {members}, three"));
    FIRST.iter().for_each(|m| written.assert_kept(&cluster, m, "applied"));
}

/// One master and one load balancer; then two of both and a worker; then without the first master.
#[test]
#[ignore = "minutes of five VMs: make soak"]
fn a_kubernetes_grows_and_loses_its_first_master() {
    let all = read(&checkout().join("examples/stacked.toml"));
    let without = |names: &[&str]| {
        let is_of = |part: &str| names.iter().any(|n| part.contains(&format!("\nname = \"{n}\"")));
        let (nodes, lab) = all.split_once("\n[lab]").expect("a [lab] section");
        let parts: Vec<_> = nodes.split("[[node]]").filter(|p| !is_of(p)).collect();
        format!("{}\n[lab]{lab}", parts.join("[[node]]"))
    };
    let cluster = Cluster::new(&without(&["master-2", "master-3", "lb-2", "worker-1"]));
    cluster.up(&[]);
    let kubectl = Kubectl::of(&cluster);
    kubectl.ok(&["create", "configmap", "kept", "--from-literal=a=1"]);
    describe(&cluster, &without(&["master-3"]));
    apply(&cluster, &[]);
    let nodes = kubectl.ok(&["get", "nodes"]);
    assert_eq!(nodes.matches(" Ready ").count(), 3, "{nodes}");
    assert_eq!(cluster.client("master-2").members().expect("listed").len(), 2);

    describe(&cluster, &without(&["master-1", "master-3"]));
    apply(&cluster, &[]);
    let nodes = kubectl.ok(&["get", "nodes"]);
    assert!(!nodes.contains("master-1") && nodes.matches(" Ready ").count() == 2, "{nodes}");
    assert_eq!(cluster.client("master-2").members().expect("listed"), ["master-2"]);
    assert!(kubectl.ok(&["get", "configmap", "kept", "-o", "yaml"]).contains("a: \"1\""));
    // The virtual IP can move: the new load balancer is one.
    cluster.ok(&["kill", "lb-1"]);
    kubectl.until("the API answers", Duration::from_secs(20), || kubectl.run(&["get", "--raw", "/readyz"]));
}
