//! etcd's data: snapshots that members keep by themselves, a quota that is used up, and the way back to a snapshot after a
//! majority lost its disks.

use qemu_tests::cluster::Cluster;
use qemu_tests::{checkout, read};
use serde_json::Value;
use std::time::{Duration, Instant};

const ALL: [&str; 3] = ["etcd-1", "etcd-2", "etcd-3"];
/// Guest time.
const SOON: Duration = Duration::from_secs(40);

fn etcd_ok(cluster: &Cluster, words: &[&str]) -> String {
    let (out, text) = cluster.etcd(words);
    assert!(out.status.success(), "quorate etcd {}: {}\n{text}", words.join(" "), out.status);
    text
}

fn lose_disk(cluster: &Cluster, node: &str) {
    std::fs::remove_file(cluster.state().join(format!("{node}.qcow2"))).expect("it had one");
    cluster.blank_disk(node, 8 << 30);
}

/// Snapshots by node, as they are listed.
fn kept(cluster: &Cluster, node: &str) -> Vec<String> {
    let (out, text) = cluster.etcd(&["snapshots", "--format", "json"]);
    let all: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {text}"));
    let shelf = all.as_array().and_then(|a| a.iter().find(|s| s["node"] == node)).expect("its shelf");
    let names = shelf["snapshots"].as_array().expect("a list").iter();
    names.map(|s| s["name"].as_str().expect("a name").to_owned()).collect()
}

/// Old revisions of one key use the quota up; then it is time for a snapshot.
#[test]
fn a_used_up_quota_is_cured_and_snapshots_are_kept() {
    let description = read(&checkout().join("examples/etcd-single.toml"));
    let cluster = Cluster::new(&description.replace("4GiB", "16MiB"));
    // One VM has both cores for itself: the clock need not be as slow as usual.
    cluster.up(&["--dilation", "3"]);
    let file = |name: &str| cluster.dir.path().join(name).display().to_string();
    let big = "x".repeat(1 << 20);
    let client = cluster.client("etcd-1");
    client.put("kept", "1").expect("written");
    let refused = (0..200).find_map(|_| client.put("big", &big).err()).expect("the quota is used up");
    assert!(format!("{refused:#}").contains("space exceeded"), "{refused:#}");
    cluster.until("writing goes on by itself", SOON, || client.put("after", "1").ok());
    // The node tells of it after etcd has taken the alarm back, and writing goes on in between.
    cluster.until("the node's word of it", SOON, || {
        let told = cluster.ok(&["logs", "etcd-1"]);
        (told.contains("etcd used up its quota") && told.contains("etcd has room again")).then_some(())
    });
    assert_eq!(client.get("kept").expect("read").as_deref(), Some("1"));

    assert_eq!(kept(&cluster, "etcd-1"), Vec::<String>::new());
    cluster.ok(&["clock", "+7h"]);
    let name = cluster.until("a snapshot", SOON, || kept(&cluster, "etcd-1").pop());
    etcd_ok(&cluster, &["fetch", "etcd-1", &name, &file("fetched.db")]);
    let (_, text) = cluster.etcd(&["fetch", "etcd-1", "etcd-1.db", &file("none.db")]);
    assert!(text.contains("there is no such snapshot"), "{text}");
    assert!(!std::path::Path::new(&file("none.db")).exists());
    // A member of one is restored as well as one of many.
    client.put("kept", "2").expect("written");
    cluster.ok(&["clock", "-7h"]);
    cluster.until("it is believed again", SOON, || cluster.client("etcd-1").get("kept").ok());
    etcd_ok(&cluster, &["restore", &file("fetched.db")]);
    assert_eq!(cluster.client("etcd-1").get("kept").expect("read").as_deref(), Some("1"));
}

/// Two of three lose their disks, and the third alone can write nothing.
#[test]
fn the_way_back_after_a_majority_lost_its_disks() {
    let cluster = Cluster::booted();
    let file = |name: &str| cluster.dir.path().join(name).display().to_string();
    let client = cluster.client("etcd-1");
    client.put("kept", "1").expect("written");
    etcd_ok(&cluster, &["snapshot", &file("now.db")]);
    client.put("late", "1").expect("written");

    // A damaged one is refused before anything is done.
    let mut bytes = std::fs::read(file("now.db")).expect("there");
    bytes[5000] ^= 1;
    std::fs::write(file("damaged.db"), &bytes).expect("written");
    let (out, text) = cluster.etcd(&["restore", &file("damaged.db")]);
    assert!(out.status.code() == Some(2) && text.contains("damaged"), "{text}");
    client.put("late", "2").expect("the cluster goes on");

    cluster.ok(&["kill", "etcd-2", "etcd-3"]);
    lose_disk(&cluster, "etcd-2");
    lose_disk(&cluster, "etcd-3");
    client.put("late", "3").expect_err("no majority");
    etcd_ok(&cluster, &["snapshot", &file("survivor.db"), "--member", "etcd-1"]);
    let began = Instant::now();
    let text = etcd_ok(&cluster, &["restore", &file("now.db"), "--member", "etcd-2"]);
    println!("restored in {:.1} s of guest time", cluster.clock().guest(began.elapsed()).as_secs_f64());
    assert!(text.contains("restored"), "{text}");
    for node in ALL {
        let client = cluster.client(node);
        assert_eq!(client.get("kept").expect("read").as_deref(), Some("1"), "{node}");
        assert_eq!(client.get("late").expect("read"), None, "{node}");
        assert_eq!(client.members().expect("listed").len(), 3, "{node}");
        assert!(client.learners().expect("listed").is_empty(), "{node}");
    }
    let client = cluster.client("etcd-3");
    client.put("new", "1").expect("written");
    assert!(client.revision().expect("a revision") > 1_000_000_000, "watches see that they must begin anew");

    // Later nothing is restored again, and who loses his disk comes back as ever: also the one that took the snapshot.
    cluster.ok(&["kill", "etcd-2"]);
    lose_disk(&cluster, "etcd-2");
    cluster.ok(&["start", "etcd-2"]);
    cluster.ok(&["reboot", "etcd-1"]);
    for node in ALL {
        assert_eq!(cluster.client(node).get("new").expect("read").as_deref(), Some("1"), "{node}");
    }
}
