//! The virtual IP moves: whatever becomes of the load balancer that holds it, clients that ask again get an answer, and
//! afterwards one node holds it, once. Gaps are printed in guest time; `make bench` measures them.

use qemu_tests::balancer::{BACK, LOST, Probe, Seen, balanced, description, holder, holds, said, wait_served};
use qemu_tests::cluster::Cluster;
use std::time::{Duration, Instant};

/// A machine boots within this, and anything else is over.
const SOON: Duration = Duration::from_secs(20);
/// What is beyond is a failure, whatever the figures are.
const OUTAGE: Duration = Duration::from_secs(3);

/// What clients see while something happens to the holder, given its name and the other's.
fn under_probe(cluster: &Cluster, what: &str, happens: impl FnOnce(&str, &str)) -> Seen {
    let (first, second) = holder(cluster);
    let probe = Probe::start(cluster, 0);
    probe.more(cluster, 40);
    happens(first, second);
    probe.more(cluster, 80);
    let seen = probe.stop();
    let gap = seen.tell(what);
    assert!(gap < OUTAGE, "{what}: no answer for {gap:?}");
    seen
}

/// Waits until a condition that nobody announces holds.
fn wait_until(cluster: &Cluster, what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + cluster.clock().host(SOON);
    while !holds() {
        assert!(Instant::now() < deadline, "waited {SOON:?} until {what}");
    }
}

fn wait_holder(cluster: &Cluster, node: &str) {
    let other = if node == "lb-1" { "lb-2" } else { "lb-1" };
    wait_until(cluster, &format!("{node} alone holds the virtual IP"), || {
        holds(cluster, node) && !holds(cluster, other)
    });
}

fn count(cluster: &Cluster, node: &str, what: &str) -> usize {
    said(cluster, node).iter().filter(|l| l.contains(what)).count()
}

const TAKES: &str = "holds the virtual IP";

#[test]
fn power_loss_of_the_holder_and_its_return() {
    let cluster = balanced();
    let (first, second) = holder(&cluster);
    let mut taken = 0;
    under_probe(&cluster, "power loss of the holder", |first, second| {
        // Only now: two that boot together may both have it for a moment.
        taken = count(&cluster, second, TAKES);
        cluster.ok(&["kill", first]);
    });
    cluster.ok(&["start", first]);
    assert_eq!(holder(&cluster), (second, first), "it stays where it is");
    assert_eq!(count(&cluster, second, TAKES), taken + 1, "it came up once");
}

#[test]
fn graceful_reboot_of_the_holder() {
    let cluster = balanced();
    let (first, second) = holder(&cluster);
    under_probe(&cluster, "graceful reboot of the holder", |first, _| {
        drop(cluster.ok(&["reboot", first, "--no-wait"]));
    });
    wait_holder(&cluster, second);
    // The address goes first, then what serves it.
    // The node's last words are on its console: its own port goes with it.
    let console = || cluster.ok(&["console", first, "--no-follow"]);
    wait_until(&cluster, "haproxy stopped", || console().contains("haproxy stopped"));
    let lines = console();
    let keepalived = lines.find("keepalived stopped");
    assert!(keepalived.is_some() && keepalived < lines.find("haproxy stopped"), "{lines}");
}

#[test]
fn the_holder_is_cut_off_and_comes_back() {
    let cluster = balanced();
    let (first, second) = holder(&cluster);
    under_probe(&cluster, "link of the holder cut", |first, _| drop(cluster.ok(&["cut", first])));
    wait_until(&cluster, "both hold it", || holds(&cluster, first) && holds(&cluster, second));
    let probe = Probe::start(&cluster, 0);
    cluster.ok(&["heal"]);
    wait_until(&cluster, "one gave it up", || holds(&cluster, first) != holds(&cluster, second));
    probe.more(&cluster, 40);
    assert!(probe.stop().tell("both held it, and met") < OUTAGE);
    // They have been through a pause, too: that of the snapshot.
    for node in [first, second] {
        let log = cluster.ok(&["logs", node, "keepalived"]);
        assert!(!log.contains("died: Respawning"), "the kernel killed it:\n{log}");
    }
}

#[test]
fn the_load_balancers_do_not_hear_each_other() {
    let cluster = balanced();
    let (first, second) = holder(&cluster);
    under_probe(&cluster, "load balancers divided", |_, _| {
        cluster.ok(&["divide", "lb-1", "lb-2"]);
        wait_until(&cluster, "both hold it", || holds(&cluster, first) && holds(&cluster, second));
        cluster.ok(&["heal"]);
        wait_until(&cluster, "one gave it up", || holds(&cluster, first) != holds(&cluster, second));
    });
}

/// As a firewall does that nobody told of VRRP: both hold the address for as long as it is there. One of them tells the network
/// so, and nobody's connection is cut.
#[test]
fn a_firewall_lets_vrrp_not_pass() {
    let cluster = balanced();
    holder(&cluster);
    cluster.ok(&["divide", "lb-1", "lb-2", "--protocol", "112"]);
    wait_until(&cluster, "both hold it", || holds(&cluster, "lb-1") && holds(&cluster, "lb-2"));
    let text = "lb-1 has the virtual IP 10.77.0.10, too";
    wait_until(&cluster, "it is said", || count(&cluster, "lb-2", text) == 1);
    let probe = Probe::start(&cluster, 4);
    // Several times what the one that speaks lets pass from one time to the next.
    std::thread::sleep(cluster.clock().host(Duration::from_secs(4)));
    cluster.ok(&["heal"]);
    wait_holder(&cluster, "lb-1");
    probe.more(&cluster, 40);
    let seen = probe.stop();
    seen.tell("no VRRP");
    assert_eq!(seen.cut(), 0);

    cluster.ok(&["divide", "lb-1", "lb-2", "--protocol", "112"]);
    wait_until(&cluster, "it is said again", || count(&cluster, "lb-2", text) == 2);
    // The other one waits until it has not heard it for long enough.
    let probe = Probe::start(&cluster, 0);
    cluster.ok(&["kill", "lb-1"]);
    probe.more(&cluster, 80);
    probe.stop().tell("no VRRP, and the one that speaks loses power");
}

#[test]
fn haproxy_is_killed_hangs_and_flaps() {
    let cluster = balanced();
    let (first, second) = holder(&cluster);
    under_probe(&cluster, "HAProxy killed", |first, _| drop(cluster.ok(&["signal", first, "haproxy", "kill"])));
    wait_holder(&cluster, second);
    under_probe(&cluster, "HAProxy hangs", |first, _| drop(cluster.ok(&["signal", first, "haproxy", "stop"])));
    wait_holder(&cluster, first);
    assert_eq!(count(&cluster, second, "haproxy failed: no answer to the agent"), 1);
    // On the holder it crashes again and again: the address leaves, and does not return.
    let ready = |node: &str| {
        let node = cluster.node(node);
        let services = node["services"].as_array().cloned().unwrap_or_default();
        services.iter().any(|s| s["name"] == "haproxy" && s["ready_ms"].is_u64())
    };
    while count(&cluster, first, "keepalived waits until haproxy, which keeps failing, has run for 60 s") == 0 {
        wait_until(&cluster, "haproxy is ready", || ready(first));
        cluster.ok(&["signal", first, "haproxy", "kill"]);
        wait_until(&cluster, "haproxy is gone", || !ready(first));
    }
    wait_holder(&cluster, second);
    wait_until(&cluster, "haproxy is ready", || ready(first));
    let node = cluster.node(first);
    assert_eq!(node["state"], "waiting", "shown: {node:#}");
    wait_served(&cluster);
}

#[test]
fn keepalived_is_killed_and_leaves_nothing_behind() {
    let cluster = balanced();
    let (first, second) = holder(&cluster);
    under_probe(&cluster, "keepalived killed", |first, _| drop(cluster.ok(&["signal", first, "keepalived", "kill"])));
    let lines = said(&cluster, first).join("\n");
    let gone = lines.find("does not hold the virtual IP").expect("taken away");
    assert!(lines.rfind("keepalived ready").is_some_and(|back| back > gone), "before it came back\n{lines}");
    wait_until(&cluster, "one holds it", || holds(&cluster, first) != holds(&cluster, second));
}

/// Nobody can ask Keepalived anything: that it does nothing tells. On the other node nobody would take the address when it is
/// needed.
#[test]
fn keepalived_hangs_on_the_holder_and_on_the_other() {
    let cluster = balanced();
    let (first, second) = holder(&cluster);
    let failed = |node: &str| count(&cluster, node, "keepalived failed: it does nothing");
    let hangs = |node: &str| drop(cluster.ok(&["signal", node, "keepalived", "stop"]));
    under_probe(&cluster, "keepalived hangs", |first, _| hangs(first));
    wait_holder(&cluster, second);
    assert_eq!(failed(first), 1);
    wait_until(&cluster, "it is back", || count(&cluster, first, "keepalived ready") == 2);

    let began = Instant::now();
    hangs(first);
    wait_until(&cluster, "it is back again", || count(&cluster, first, "keepalived ready") == 3);
    println!("on the other it is back after {:.1} s", cluster.clock().guest(began.elapsed()).as_secs_f64());
    assert_eq!((failed(first), failed(second)), (2, 0));
    under_probe(&cluster, "power loss of the holder after that", |holder, _| drop(cluster.ok(&["kill", holder])));
    assert!(holds(&cluster, first));
}

#[test]
fn a_holder_that_reaches_no_master_is_relieved_and_nobody_flaps_when_there_is_none() {
    let cluster = balanced();
    let (first, second) = holder(&cluster);
    // Both may have come up before the masters.
    let both = |what: &str| [first, second].map(|node| count(&cluster, node, what));
    let ([lost, _], [back, _]) = (both(LOST), both(BACK));
    // The other load balancer, and the clients, are in neither set.
    cluster.ok(&["divide", first, "master-1,master-2,master-3"]);
    wait_holder(&cluster, second);
    assert_eq!(count(&cluster, first, LOST), lost + 1);
    wait_served(&cluster);
    cluster.ok(&["heal"]);
    wait_until(&cluster, "it is forgiven", || count(&cluster, first, BACK) == back + 1);
    wait_holder(&cluster, second);

    let takes = both(TAKES);
    let each_once_more = |what: &str, before: [usize; 2]| {
        wait_until(&cluster, &format!("each {what}"), || both(what) == before.map(|n| n + 1));
        // Three times what a move takes, not a wait for an event.
        std::thread::sleep(cluster.clock().host(Duration::from_secs(2)));
        assert_eq!(both(TAKES), takes, "it stays when each {what}");
    };
    let (lost, back) = (both(LOST), both(BACK));
    cluster.ok(&["kill", "master-1", "master-2", "master-3"]);
    each_once_more(LOST, lost);
    cluster.ok(&["start", "master-1", "master-2", "master-3"]);
    wait_served(&cluster);
    each_once_more(BACK, back);
}

#[test]
fn one_alone_serves_and_both_come_back_together() {
    let cluster = balanced();
    cluster.ok(&["kill", "lb-1", "lb-2"]);
    cluster.ok(&["start", "lb-2"]);
    wait_served(&cluster);
    cluster.ok(&["kill", "lb-2"]);
    cluster.ok(&["start", "lb-1", "lb-2"]);
    wait_served(&cluster);
    wait_until(&cluster, "one holds it", || holds(&cluster, "lb-1") != holds(&cluster, "lb-2"));
    assert_eq!(cluster.node("lb-1")["state"], "ready");
    assert_eq!(cluster.node("lb-2")["state"], "ready");
}

/// Another cluster's load balancer with the same virtual router id: whoever hears it says so.
#[test]
fn a_stranger_with_the_same_router_id_is_reported() {
    let cluster = balanced();
    let (first, second) = holder(&cluster);
    // The second knows no other load balancer any more, but uses the id that the two had.
    let text = description();
    let (before, rest) = text.split_once(&format!("[[node]]\nname = \"{first}\"")).expect("its node");
    let end = ["[[node]]", "[lab]"].iter().filter_map(|next| rest.find(next)).min().expect("what follows");
    let alone = Cluster::stranger_with(&cluster, &format!("{before}{}", &rest[end..]));
    cluster.ok(&["kill", second]);
    let seed = format!("{second}/seed.iso");
    std::fs::copy(alone.join(&seed), cluster.seeds().join(&seed)).expect("exchanged");
    cluster.ok(&["start", second]);
    let text = format!("10.77.0.2{} advertises the virtual router id", &first[3..]);
    wait_until(&cluster, "it is reported", || count(&cluster, second, &text) == 1);
}
