//! Behind the virtual IP masters come and go: a dead one loses its connections soon, one that is not ready loses none, and
//! new connections find one that answers. Figures are printed in guest time; `make bench` measures them.

use qemu_tests::balancer::{Probe, balanced, client, tell, wait_served};
use qemu_tests::cluster::Cluster;
use std::time::Duration;

/// What is beyond is a failure, whatever the figures are.
const OUTAGE: Duration = Duration::from_secs(3);
/// Some for each master.
const STREAMS: usize = 9;
/// A master that has just come gets little at first (`slowstart`): so long.
const SLOW_START: Duration = Duration::from_secs(5);

/// Streams on all masters and clients, while something happens to the first one.
fn with_streams(cluster: &Cluster, what: &str, happens: impl FnOnce()) -> qemu_tests::balancer::Seen {
    let probe = Probe::start(cluster, STREAMS);
    probe.more(cluster, 40);
    happens();
    // A dead master is known within a second, and its streams are cut then: twice that, not a wait for an event.
    std::thread::sleep(cluster.clock().host(Duration::from_secs(2)));
    probe.more(cluster, 40);
    let seen = probe.stop();
    assert!(seen.tell(what) < OUTAGE, "{what}");
    seen
}

#[test]
fn a_dead_masters_streams_are_cut_soon_and_no_others() {
    let cluster = balanced();
    // Not a wait for an event: nothing tells that all masters get as much.
    std::thread::sleep(cluster.clock().host(SLOW_START));
    let seen = with_streams(&cluster, "a master loses power", || drop(cluster.ok(&["kill", "master-1"])));
    assert!((1..STREAMS).contains(&seen.cut()), "those of one master: {}", seen.cut());
    for held in seen.held.iter().filter(|h| h.cut.is_some()) {
        assert!(held.silence < OUTAGE, "cut after {:?}", held.silence);
    }
    cluster.ok(&["start", "master-1"]);

    let seen = with_streams(&cluster, "a master is black-holed", || drop(cluster.ok(&["cut", "master-2"])));
    assert!((1..STREAMS).contains(&seen.cut()), "those of one master: {}", seen.cut());
    cluster.ok(&["heal"]);

    let seen = with_streams(&cluster, "a master hangs", || {
        tell(&cluster, 3, "hang");
        // It is known to be dead after three checks of half a second.
        std::thread::sleep(cluster.clock().host(Duration::from_secs(1)));
    });
    // The others have only just come back, and get little at first: all streams may be its.
    assert!(seen.cut() >= 1, "those of one master: {}", seen.cut());
    tell(&cluster, 3, "well");
    wait_served(&cluster);

    // In one moment, as they have where they wait for the same.
    let of = &cluster;
    let all = |word: &str| std::thread::scope(|s| (1..=3).for_each(|m| drop(s.spawn(move || tell(of, m, word)))));
    let seen = with_streams(&cluster, "all masters have too much to do", || {
        all("hang");
        // Longer than it takes to find that one is dead while others are not.
        std::thread::sleep(cluster.clock().host(Duration::from_millis(1500)));
        all("well");
    });
    assert_eq!(seen.cut(), 0, "there is nowhere else to go");
}

#[test]
#[ignore = "minutes: make soak"]
fn masters_that_are_not_ready_lose_no_stream() {
    let cluster = balanced();
    // Two that boot together may both have had the address: streams to the one that gave it up end when the other one tells
    // the network again, within a second. Not a wait for an event: nobody announces that.
    std::thread::sleep(cluster.clock().host(SLOW_START));
    let all = |word: &str| (1..=3).for_each(|m| tell(&cluster, m, word));
    let seen = with_streams(&cluster, "no master is ready for two seconds", || {
        all("not-ready");
        std::thread::sleep(cluster.clock().host(Duration::from_secs(2)));
        // None is ready, all are alive: clients are served all the same.
        client(&cluster).get("/name").expect("served by the last resort");
        all("ready");
    });
    assert_eq!(seen.cut(), 0, "an election of etcd cuts no watch");

    // One that is not ready gets nobody new.
    tell(&cluster, 1, "not-ready");
    std::thread::sleep(cluster.clock().host(Duration::from_secs(1)));
    let names: Vec<_> = (0..12).map(|_| client(&cluster).get("/name").expect("served")).collect();
    assert!(names.iter().all(|n| n != "master-1"), "{names:?}");
    tell(&cluster, 1, "ready");

    let seen = with_streams(&cluster, "a master is slow", || {
        // Twice for each check: before the handshake, and before the answer.
        tell(&cluster, 2, "slow 150");
        std::thread::sleep(cluster.clock().host(Duration::from_secs(3)));
        tell(&cluster, 2, "well");
    });
    assert_eq!(seen.cut(), 0, "slow is not dead");
}
