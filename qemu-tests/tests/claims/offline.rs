//! Without a gateway a cluster is offline: no process of it has a socket that leaves this machine's unix ones, and its
//! nodes still come up and tell what they do.

use qemu_tests::cluster::{Cluster, images};
use qemu_tests::{checkout, read};
use std::collections::BTreeSet;

/// Inodes of all sockets that speak IP.
fn internet_sockets() -> BTreeSet<String> {
    let files = ["tcp", "tcp6", "udp", "udp6", "raw", "raw6", "icmp", "packet"];
    let lines = files.iter().flat_map(|f| {
        let text = std::fs::read_to_string(format!("/proc/net/{f}")).unwrap_or_default();
        text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    });
    // The inode is the tenth field (proc_pid_net(5)); of packet sockets the last one.
    lines.filter_map(|l| l.split_whitespace().nth(if l.contains(':') { 9 } else { 8 }).map(str::to_owned)).collect()
}

/// Sockets of a process.
fn sockets(pid: u32) -> BTreeSet<String> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").flatten();
    let names = links.filter_map(|e| std::fs::read_link(e.path()).ok());
    names.filter_map(|n| Some(n.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect()
}

#[test]
fn a_cluster_without_a_gateway_has_no_way_out() {
    let text = read(&checkout().join("examples/etcd-single.toml"));
    let (text, _) = text.split_once("forward =").expect("a forward");
    let cluster = Cluster::new(&format!("{text}gateway = false\n"));
    let (out, said) = cluster.run(&["up", "--images", &images()]);
    assert!(out.status.success() && said.contains("no etcd member can be asked from here"), "{said}");
    let status = cluster.status().expect("up");
    assert_eq!(status["nodes"][0]["state"], "ready");
    assert_eq!(status["forwards"].as_array().map(Vec::len), Some(0));
    let mut pids = cluster.pids();
    pids.push(u32::try_from(status["keeper_pid"].as_u64().expect("a pid")).expect("a pid"));
    let internet = internet_sockets();
    for pid in pids {
        let own = sockets(pid);
        assert!(!own.is_empty(), "process {pid} has its channels");
        let out: Vec<_> = own.intersection(&internet).collect();
        assert!(out.is_empty(), "process {pid} has a way out: {out:?}");
    }
    // The switch carries the node's frames to nobody.
    assert!(status["switch"]["gateway"].is_null());
    assert!(cluster.ok(&["logs", "etcd-1", "etcd"]).contains("ready to serve client requests"));
}
