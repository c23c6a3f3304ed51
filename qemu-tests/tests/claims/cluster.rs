//! `cluster up` ends with a healthy cluster and leaves a keeper; a second `up` finds what runs; `down`, Ctrl-C and the
//! keeper's death leave no VM, no socket and no temporary file behind.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use qemu_tests::cluster::{Cluster, images, three, wait_gone};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

fn end(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), signal).expect("sent");
}

/// Everything of a cluster's that is a process or a socket is gone.
fn assert_nothing_left(cluster: &Cluster, pids: &[u32]) {
    pids.iter().for_each(|pid| wait_gone(*pid));
    let entries = std::fs::read_dir(cluster.dir.path()).expect("listed").flatten();
    let left: Vec<_> = entries.map(|e| e.file_name()).filter(|n| n.to_string_lossy().ends_with(".sock")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// `up` that is interrupted while the nodes boot.
fn up_until_it_boots(cluster: &Cluster, more: &[&str]) -> (Child, impl Iterator<Item = String>, Vec<u32>) {
    let mut up = cluster.command(&[&["up", "--images", &images()], more].concat());
    let mut up = up.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("started");
    let mut lines = BufReader::new(up.stderr.take().expect("its stderr")).lines().map_while(Result::ok);
    lines.find(|l| l.contains("quorate: mounts ok")).expect("it boots");
    let mut pids = cluster.pids();
    pids.push(u32::try_from(cluster.status().expect("up")["keeper_pid"].as_u64().expect("a pid")).expect("a pid"));
    (up, lines, pids)
}

#[test]
fn comes_up_and_goes_without_a_trace() {
    let cluster = Cluster::new(&three());
    let text = cluster.up(&[]);
    for want in ["etcd-2 [", "quorate: all ready", "IS LEADER", "PEER ADDRS", "talk to it:"] {
        assert!(text.contains(want), "{text}\n-- expected: {want}");
    }
    let pids = cluster.pids();
    assert_eq!(pids.len(), 3);
    cluster.client("etcd-1").put("a", "1").expect("written through one");
    assert_eq!(cluster.client("etcd-3").get("a").expect("read").as_deref(), Some("1"), "read through another");

    cluster.up(&[]);
    assert_eq!(cluster.pids(), pids, "a second up finds what runs");
    let environment = cluster.ok(&["env"]);
    assert!(environment.contains("export ETCDCTL_ENDPOINTS='https://127.0.0.1:"), "{environment}");

    // The node's voice needs no network.
    cluster.ok(&["cut", "etcd-2"]);
    let log = cluster.ok(&["logs", "etcd-2", "etcd", "-n", "5000"]);
    assert!(log.contains("ready to serve client requests"), "{log}");
    assert!(cluster.ok(&["logs", "etcd-2"]).contains("all ready"));
    let (out, text) = cluster.run(&["logs", "etcd-2", "nginx"]);
    assert!(!out.status.success() && text.contains("there is none; there are") && text.contains("etcd"), "{text}");
    let (out, text) = cluster.run(&["signal", "etcd-2", "nginx", "kill"]);
    assert!(!out.status.success() && text.contains("nginx does not run"), "{text}");
    assert!(cluster.ok(&["console", "etcd-2", "--no-follow"]).contains("quorate: all ready"));
    cluster.ok(&["reboot", "etcd-2", "--no-wait"]);
    cluster.ok(&["heal"]);
    cluster.up(&[]);
    let (out, text) = cluster.run(&["kill", "etcd-9"]);
    assert!(!out.status.success() && text.contains("there are etcd-1, etcd-2, etcd-3"), "{text}");

    assert!(cluster.ok(&["down"]).contains("demo is down"));
    assert_nothing_left(&cluster, &pids);
    assert_eq!(cluster.run(&["status"]).0.status.code(), Some(1));
    let timeline = qemu_tests::read(&cluster.state().join("timeline.txt"));
    assert!(timeline.contains("shutting down (Reboot): the host asked for it"), "{timeline}");

    // Other secrets, the same name: the disks are somebody else's.
    let id = cluster.dir.path().join("demo.secrets/id");
    let own = qemu_tests::read(&id);
    std::fs::write(&id, "0000000000000000\n").expect("written");
    let (out, text) = cluster.run(&["up", "--images", &images()]);
    assert!(!out.status.success() && text.contains("belong to another cluster named demo"), "{text}");
    std::fs::write(&id, own).expect("written");

    // Ctrl-C while it comes up.
    let (mut up, mut lines, pids) = up_until_it_boots(&cluster, &[]);
    end(up.id(), Signal::SIGINT);
    lines.find(|l| l.contains("interrupted; the cluster is down")).expect("said so");
    assert_eq!(up.wait().expect("ended").code(), Some(130));
    assert_nothing_left(&cluster, &pids);

    // `up` is killed without a word: the cluster goes on, until the process ends that it is to end with.
    let mut job = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat");
    let (mut up, _, pids) = up_until_it_boots(&cluster, &["--pid", &job.id().to_string()]);
    end(up.id(), Signal::SIGKILL);
    up.wait().expect("ended");
    assert_eq!(cluster.pids().len(), 3);
    job.kill().expect("killed");
    assert_nothing_left(&cluster, &pids);
    job.wait().expect("ended");
    let (out, text) = cluster.run(&["up", "--pid", &job.id().to_string(), "--images", &images()]);
    assert!(!out.status.success() && text.contains("which the cluster is to end with"), "{text}");

    // The keeper dies without a word: the kernel ends its VMs, and `down` has nothing left to do.
    let (mut up, _, pids) = up_until_it_boots(&cluster, &[]);
    end(*pids.last().expect("the keeper"), Signal::SIGKILL);
    assert!(!up.wait().expect("ended").success());
    pids.iter().for_each(|pid| wait_gone(*pid));
    assert!(cluster.ok(&["down"]).contains("was not up"));
}
