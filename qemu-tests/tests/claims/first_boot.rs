//! Members find together on their first boot: all at once; with one late, for whom the others wait
//! and say so; with one cut off in the middle of it; five of them. `QUORATE_COLD_BOOTS` and `QUORATE_LATE_SECONDS` (guest
//! time) make more of it: `make soak`.

use qemu_tests::cluster::{Cluster, images, of, three};
use std::process::Stdio;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

/// What is written through one is read through the others, and all of them know of each other.
fn assert_one_cluster(cluster: &Cluster, members: usize) {
    let first = cluster.client("etcd-1");
    first.put("k", "v").expect("written");
    for i in 1..=members {
        let client = cluster.client(&format!("etcd-{i}"));
        assert_eq!(client.get("k").expect("read").as_deref(), Some("v"), "through etcd-{i}");
        assert_eq!(client.members().expect("listed").len(), members);
    }
    assert!(first.learners().expect("listed").is_empty());
}

#[test]
#[ignore = "whatever needs three members boots them so: make soak"]
fn three_from_cold_again_and_again() {
    let cluster = Cluster::new(&three());
    for round in 1..=setting("QUORATE_COLD_BOOTS", 1) {
        cluster.up(&[]);
        assert_one_cluster(&cluster, 3);
        let now = cluster.status().expect("up")["now_ms"].as_u64().expect("a time");
        println!("round {round}: three from cold in {now} ms of guest time");
        cluster.end();
    }
}

#[test]
#[ignore = "minutes of five VMs: make soak"]
fn five_from_cold() {
    let cluster = Cluster::new(&of(5));
    cluster.up(&[]);
    assert_one_cluster(&cluster, 5);
}

#[test]
fn the_others_wait_for_a_late_one_and_say_so() {
    let cluster = Cluster::new(&three());
    let late = setting("QUORATE_LATE_SECONDS", 2);
    let patience = format!("{}s", late + 60);
    let mut up = cluster.command(&["up", "--only", "etcd-1,etcd-2", "--timeout", &patience, "--images", &images()]);
    let mut up = up.stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("started");
    let waits = |n: &serde_json::Value| n["said"].as_str().is_some_and(|s| s.contains("etcd-3 did not answer yet"));
    // The first answers: a keeper that is only just starting does not.
    while cluster.status().is_err() {
        std::thread::sleep(Duration::from_millis(100));
    }
    for node in ["etcd-1", "etcd-2"] {
        cluster.wait_for(node, "its wait", SOON, waits);
    }
    // How late it is, not a wait for an event.
    std::thread::sleep(cluster.clock().host(Duration::from_secs(late)));
    for node in ["etcd-1", "etcd-2"] {
        assert!(waits(&cluster.node(node)), "still");
    }
    cluster.ok(&["start", "etcd-3"]);
    assert!(up.wait().expect("ended").success(), "up ends when those that it started are ready");
    assert_one_cluster(&cluster, 3);
}

#[test]
#[ignore = "minutes; the late one shows the wait: make soak"]
fn one_is_cut_off_during_the_first_boot() {
    let cluster = Cluster::new(&three());
    let mut up = cluster.command(&["up", "--images", &images()]);
    let mut up = up.stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("started");
    while cluster.status().is_err() {
        std::thread::sleep(Duration::from_millis(100));
    }
    // Its agent begins to ask and to answer at this moment.
    cluster.wait_for("etcd-3", "its network", SOON, |n| {
        n["said"].as_str().is_some_and(|s| s.starts_with("network ready") || s.starts_with("node"))
    });
    cluster.ok(&["cut", "etcd-3"]);
    // Either the others have heard it, and form without it; or they wait for it. Never may there be two clusters.
    std::thread::sleep(cluster.clock().host(Duration::from_secs(3)));
    cluster.ok(&["heal"]);
    assert!(up.wait().expect("ended").success());
    assert_one_cluster(&cluster, 3);
}
