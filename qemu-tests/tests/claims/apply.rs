//! A cluster that runs becomes what its description says now: members of etcd come and go one at a time under writers; and, of
//! a Kubernetes, load balancers, workers and masters (`make soak`).

use lab::probe::run;
use qemu_tests::cluster::{Cluster, images, of, three};
use qemu_tests::kubectl::Kubectl;
use qemu_tests::writer::Writer;
use qemu_tests::{Ends, checkout, read};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Host seconds per guest second of up to five members, of which one boots.
const DILATION: f64 = 6.0;
/// ... of seven nodes that boot on two cores, and when they run.
const BOOTS: &str = "36";
const RUNS: &str = "14";
/// Guest time: a request is answered, or given up; the same client asks again.
const PATIENCE: Duration = Duration::from_secs(1);
const PACE: Duration = Duration::from_millis(50);
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

/// The example with these nodes left out, and with these words in their place.
fn example(name: &str, without: &[&str], more: &str) -> String {
    let all = read(&checkout().join("examples").join(name));
    let is_of = |part: &str| without.iter().any(|n| part.contains(&format!("\nname = \"{n}\"")));
    let (nodes, lab) = all.split_once("\n[lab]").expect("a [lab] section");
    let parts: Vec<_> = nodes.split("[[node]]").filter(|p| !is_of(p)).collect();
    format!("{}{more}\n[lab]{lab}", parts.join("[[node]]"))
}

/// One master and one load balancer; then two of both and a worker; then without the first master.
#[test]
#[ignore = "minutes of five VMs: make soak"]
fn a_kubernetes_grows_and_loses_its_first_master() {
    let without = |names: &[&str]| example("stacked.toml", names, "");
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

/// Where etcd is on nodes of its own, a member that comes or goes is one more or less that each apiserver knows: all of them start
/// again, one after the other, and whoever asks at the virtual IP, and once more where that failed, has an answer each time.
#[test]
#[ignore = "an hour of seven VMs: make soak"]
fn a_member_beside_masters_comes_and_another_one_goes() {
    let fourth = "\n[[node]]\nname = \"etcd-4\"\nroles = [\"etcd\"]\naddress = \"10.77.0.34/24\"\n\
                  mac = \"52:54:00:77:00:34\"\nstate = { disk = \"/dev/vda\" }\n";
    let cluster = Cluster::new(&example("external.toml", &["lb-2", "worker-1"], ""));
    cluster.up(&["--dilation", BOOTS, "--timeout", "180s"]);
    let kubectl = Kubectl::restored_at(&cluster, RUNS);
    let client = kubectl.client(&cluster, PATIENCE);
    let object = json!({ "metadata": { "name": "kept" }, "data": { "number": "none" } });
    cluster.until("an object", ELECTED, || client.post("/api/v1/namespaces/default/configmaps", &object).ok());
    let path = "/api/v1/namespaces/default/configmaps/kept";
    let known = |address: &str| {
        let pods = kubectl.ok(&["get", "pods", "-n", "kube-system", "-l", "component=kube-apiserver", "-o", "yaml"]);
        pods.lines().filter(|l| l.contains("--etcd-servers=") && l.contains(address)).count()
    };

    let stop = AtomicBool::new(false);
    let record = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let read = |_| client.get(path).map(drop);
            let write = |n: u64| client.merge(path, &json!({ "data": { "number": n.to_string() } })).map(drop);
            let clients: Vec<Box<dyn FnMut(u64) -> anyhow::Result<()> + Send>> =
                vec![Box::new(read), Box::new(read), Box::new(write)];
            run(cluster.clock(), PACE, clients, &stop)
        });
        let ends = Ends(&stop);
        describe(&cluster, &example("external.toml", &["lb-2", "worker-1"], fourth));
        apply(&cluster, &[]);
        assert_eq!(cluster.client("etcd-4").members().expect("listed").len(), 4);
        assert_eq!((known("10.77.0.34:"), known("10.77.0.31:")), (2, 2));

        describe(&cluster, &example("external.toml", &["etcd-1", "lb-2", "worker-1"], fourth));
        let told = apply(&cluster, &[]);
        assert!(told.contains("etcd-1 leaves etcd") && told.contains("etcd-1 stops"), "{told}");
        let members: BTreeSet<String> = cluster.client("etcd-4").members().expect("listed").into_iter().collect();
        assert_eq!(members, ["etcd-2", "etcd-3", "etcd-4"].map(String::from).into());
        assert_eq!((known("10.77.0.34:"), known("10.77.0.31:")), (2, 0));
        drop(ends);
        asking.join().expect("no panic")
    });
    let again = record.failed_twice();
    println!("{:?}, {again} failed again", record.summary());
    let errors: Vec<_> = record.samples.iter().filter_map(|s| s.error.as_ref()).collect();
    assert_eq!(again, 0, "{errors:?}");
    assert!(kubectl.ok(&["get", "configmap", "kept"]).contains("kept"));
}
