//! Three members survive what networks and machines do to them: nothing acknowledged is lost, and the cluster comes back
//! by itself. The gaps are printed, in guest time; `make bench` measures them.

use qemu_tests::cluster::Cluster;
use qemu_tests::writer::Writer;
use std::time::{Duration, Instant};

const ALL: [&str; 3] = ["etcd-1", "etcd-2", "etcd-3"];
/// An election and a start of etcd take a second or two.
const SOON: Duration = Duration::from_secs(15);
/// A program that does not answer, or stands still, is back within this: it is ended after 20 s at most.
const HUNG: Duration = Duration::from_secs(30);

/// Host seconds per guest second where only one client writes.
const ONE_WRITER: f64 = 5.0;

fn others(but: &str) -> Vec<&'static str> {
    ALL.into_iter().filter(|n| *n != but).collect()
}

/// Waits until so many more writes were acknowledged.
fn more(cluster: &Cluster, writer: &Writer, count: usize) {
    let deadline = Instant::now() + cluster.clock().host(SOON);
    let wanted = writer.count() + count;
    while writer.count() < wanted {
        assert!(Instant::now() < deadline, "{} of {wanted} writes within {SOON:?}", writer.count());
        // Writes are counted, not announced.
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn each_member_in_turn_is_killed_under_a_writer() {
    let cluster = Cluster::booted();
    for victim in ALL {
        let prefix = format!("kill/{victim}");
        let writer = Writer::start(&cluster, &ALL, &prefix);
        more(&cluster, &writer, 30);
        cluster.ok(&["kill", victim]);
        more(&cluster, &writer, 60);
        cluster.ok(&["start", victim]);
        more(&cluster, &writer, 30);
        let written = writer.stop();
        written.tell(&format!("{victim} killed and started again"));
        ALL.iter().for_each(|m| written.assert_kept(&cluster, m, &prefix));
    }
}

/// It does not end, and its kernel takes connections for it: the agent asks, and has it ended.
#[test]
#[ignore = "minutes: `make soak` runs it"]
fn a_member_that_hangs_is_started_again() {
    let cluster = Cluster::booted();
    let leader = cluster.leader();
    let writer = Writer::start(&cluster, &ALL, "hangs");
    more(&cluster, &writer, 30);
    cluster.ok(&["signal", &leader, "etcd", "stop"]);
    more(&cluster, &writer, 60);
    cluster.wait_for(&leader, "etcd is back", HUNG, |n| {
        let services = n["services"].as_array().cloned().unwrap_or_default();
        services.iter().any(|s| s["name"] == "etcd" && s["restarts"] == 1 && s["ready_ms"].is_u64())
    });
    more(&cluster, &writer, 30);
    let written = writer.stop();
    written.tell("the leader hangs, and is started again");
    ALL.iter().for_each(|m| written.assert_kept(&cluster, m, "hangs"));
}

/// Nobody asks them whether they hang: PID 1 sees that they stand still. Clients of etcd notice nothing.
#[test]
fn the_agents_of_a_member_are_killed_and_stopped() {
    let cluster = Cluster::booted_at(ONE_WRITER);
    let leader = cluster.leader();
    let writer = Writer::start(&cluster, &[&leader], "agents");
    more(&cluster, &writer, 30);
    for (signal, restarts, within) in [("kill", 1, SOON), ("stop", 2, HUNG)] {
        // The last one is who hears the host's word: whether it still answers is not what is asked.
        let agents = ["log", "network", "node", "devices"];
        agents.iter().for_each(|agent| drop(cluster.run(&["signal", &leader, agent, signal])));
        cluster.wait_for(&leader, &format!("all are back after {signal}"), within, |n| {
            let services = n["services"].as_array().cloned().unwrap_or_default();
            let back = |agent: &str| {
                services.iter().any(|s| s["name"] == agent && s["restarts"] == restarts && s["ready_ms"].is_u64())
            };
            n["state"] == "ready" && agents.into_iter().all(back)
        });
        more(&cluster, &writer, 30);
    }
    let written = writer.stop();
    written.tell("the agents are killed, and stopped");
    assert_eq!(written.record.summary().failed, 0, "writes failed");
    ALL.iter().for_each(|m| written.assert_kept(&cluster, m, "agents"));
}

#[test]
fn a_leader_cut_off_from_the_others_but_not_from_its_clients() {
    let cluster = Cluster::booted();
    let leader = cluster.leader();
    let rest = others(&leader);
    let writer = Writer::start(&cluster, &ALL, "leader");
    more(&cluster, &writer, 30);
    // The gateway, and so the clients, is in neither set.
    cluster.ok(&["divide", &leader, &rest.join(",")]);
    more(&cluster, &writer, 60);
    let alone = cluster.client(&leader);
    assert!(
        alone.patient(Duration::from_secs(1), cluster.clock()).put("alone", "1").is_err(),
        "one of three acknowledges"
    );
    let new = rest.iter().find_map(|n| cluster.client(n).leader().ok()).expect("asked").1;
    assert!(new.is_some(), "the two have a leader");
    cluster.ok(&["heal"]);
    more(&cluster, &writer, 30);
    let written = writer.stop();
    written.tell("leader cut off from the others");
    cluster.client(&leader).put("together", "1").expect("healed: written through the former leader");
    ALL.iter().for_each(|m| written.assert_kept(&cluster, m, "leader"));
}

/// etcd keeps a leader whose disk is slow; the agent beside it gives the lead away, unless all disks are.
#[test]
fn a_leader_whose_disk_is_slow_hands_over() {
    let cluster = Cluster::booted();
    let leader = cluster.leader();
    let writer = Writer::start(&cluster, &ALL, "slow");
    more(&cluster, &writer, 30);
    let began = Instant::now();
    cluster.ok(&["slow-disk", &leader]);
    let new = cluster.until("another one leads", SOON, || cluster.leads().filter(|new| *new != leader));
    println!("{new} leads after {:.1} s", cluster.clock().guest(began.elapsed()).as_secs_f64());
    more(&cluster, &writer, 60);
    let written = writer.stop();
    written.tell("the leader's disk is slow");
    ALL.iter().for_each(|m| written.assert_kept(&cluster, m, "slow"));
    let word = |node: &str, word: &str| cluster.ok(&["logs", node]).contains(word).then_some(());
    cluster.until("its agent's word", SOON, || word(&leader, &format!("{new} leads now")));

    let writer = Writer::start(&cluster, &ALL, "all slow");
    cluster.ok(&["slow-disk", ALL[0], ALL[1], ALL[2]]);
    cluster.until("the new one's word", SOON, || word(&new, "and no other member's are in time"));
    assert_eq!(cluster.leader(), new);
    cluster.ok(&["heal"]);
    more(&cluster, &writer, 30);
    let written = writer.stop();
    written.tell("all disks are slow");
    ALL.iter().for_each(|m| written.assert_kept(&cluster, m, "all slow"));
}

#[test]
#[ignore = "minutes: make soak"]
fn loss_and_delay() {
    let cluster = Cluster::booted();
    cluster.ok(&["cut", "etcd-1", "etcd-2", "etcd-3", "--delay", "10ms", "--loss", "2.5%"]);
    let writer = Writer::start(&cluster, &ALL, "lossy");
    let lasts: u64 = std::env::var("QUORATE_LOSS_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(10);
    // How long the network is bad, not a wait for an event.
    std::thread::sleep(cluster.clock().host(Duration::from_secs(lasts)));
    let written = writer.stop();
    written.tell("5 % loss and 20 ms between any two nodes");
    cluster.ok(&["heal"]);
    assert!(written.acknowledged.len() > 50, "{}", written.acknowledged.len());
    ALL.iter().for_each(|m| written.assert_kept(&cluster, m, "lossy"));
}

#[test]
fn all_lose_power_while_writing_and_again_while_they_boot() {
    let cluster = Cluster::booted();
    let writer = Writer::start(&cluster, &ALL, "dark");
    more(&cluster, &writer, 60);
    cluster.ok(&["kill", "etcd-1", "etcd-2", "etcd-3"]);
    let written = writer.stop();
    cluster.ok(&["start", "--no-wait", "etcd-1", "etcd-2", "etcd-3"]);
    // In the middle of the boot: one has its state disk already.
    cluster.wait_for("etcd-2", "its state disk", SOON, |n| {
        n["said"].as_str().is_some_and(|s| s.starts_with("network")) || n["state"] == "ready"
    });
    cluster.ok(&["kill", "etcd-1", "etcd-2", "etcd-3"]);
    cluster.ok(&["start", "etcd-1", "etcd-2", "etcd-3"]);
    ALL.iter().for_each(|m| written.assert_kept(&cluster, m, "dark"));
}

#[test]
fn a_member_that_lost_its_disk_joins_with_a_new_identity_and_a_stranger_does_not() {
    let cluster = Cluster::booted();
    let disk = cluster.state().join("etcd-3.qcow2");
    let lost = || {
        cluster.ok(&["kill", "etcd-3"]);
        std::fs::remove_file(&disk).expect("lost");
        cluster.blank_disk("etcd-3", 2 << 30);
    };
    let before = cluster.client("etcd-1").member_ids().expect("listed");
    cluster.client("etcd-1").put("before", "1").expect("written");

    // It is back some four seconds later, when what the leader writes to it has filled the connection and waits (five
    // seconds at most): the leader serves all others nevertheless while it takes the old identity out.
    lost();
    let writer = Writer::start(&cluster, &["etcd-1", "etcd-2"], "gone");
    more(&cluster, &writer, 400);
    writer.stop();
    let writer = Writer::start(&cluster, &["etcd-1", "etcd-2"], "back");
    let said = cluster.ok(&["start", "etcd-3"]);
    assert!(said.contains("joining with a new identity"), "{said}");
    let written = writer.stop();
    // It would serve nobody for 6 s if it waited for the answer to a first word that was lost.
    let took = said.split_once("etcd ready (").and_then(|(_, t)| t.split_once(" ms)")).expect(&said).0;
    assert!(took.parse::<u64>().expect("a number") < 5000, "it served after {took} ms");
    println!("a member that lost its disk had its vote {took} ms after etcd started");
    written.tell("a member that lost its disk joins");
    let (at, gap) = written.record.longest_gap();
    assert!(gap < Duration::from_millis(500), "nobody answered for {gap:?} from {at:?} on");
    written.assert_kept(&cluster, "etcd-3", "back");
    assert_eq!(cluster.client("etcd-3").get("before").expect("read").as_deref(), Some("1"));
    let after = cluster.client("etcd-1").member_ids().expect("listed");
    assert_eq!((before.len(), after.len()), (3, 3));
    assert_ne!(before, after, "a new identity");
    let learners = cluster.client("etcd-1").learners().expect("listed");
    assert!(learners.is_empty(), "it has its vote: {learners:?}");

    // A machine of the same name with other CAs: nobody answers it, and it starts nothing.
    let strange = Cluster::stranger(&cluster);
    let seed = cluster.seeds().join("etcd-3/seed.iso");
    std::fs::write(&seed, std::fs::read(strange.join("etcd-3/seed.iso")).expect("read")).expect("exchanged");
    lost();
    cluster.ok(&["start", "--no-wait", "etcd-3"]);
    cluster.wait_for("etcd-3", "its wait", SOON, |n| {
        n["said"].as_str().is_some_and(|s| s == "node: etcd waits: etcd-1, etcd-2 did not answer yet")
    });
    assert_eq!(cluster.client("etcd-1").member_ids().expect("listed"), after, "a stranger changes nothing");
}

#[test]
fn a_full_disk_on_one_member_is_that_members_trouble() {
    let cluster = Cluster::booted();
    // The state disk of etcd-3 is exchanged for a small one; it joins again.
    cluster.ok(&["kill", "etcd-3"]);
    std::fs::remove_file(cluster.state().join("etcd-3.qcow2")).expect("lost");
    cluster.blank_disk("etcd-3", 224 << 20);
    cluster.ok(&["start", "etcd-3"]);
    let client = cluster.client("etcd-1");
    let value = "x".repeat(1 << 20);
    let mut written = 0;
    while cluster.node("etcd-3")["state"] == "ready" && written < 300 {
        client.put(&format!("full/{written}"), &value).expect("the others acknowledge");
        written += 1;
    }
    cluster.wait_for("etcd-3", "its trouble", SOON, |n| n["state"] == "waiting");
    // Its log is on the disk that is full; PID 1 has its last words.
    let log = cluster.ok(&["logs", "etcd-3"]);
    assert!(log.contains("no space left on device"), "{log}");
    let deadline = Instant::now() + cluster.clock().host(SOON);
    while !cluster.ok(&["logs", "etcd-3"]).contains("the state disk is nearly full") {
        assert!(Instant::now() < deadline, "the agent says why");
    }
    client.put("after", "1").expect("two of three go on");
    assert_eq!(cluster.client("etcd-2").get("after").expect("read").as_deref(), Some("1"));
    println!("the disk of 224 MiB was full after {written} MiB of values");
}

#[test]
#[ignore = "minutes: `make soak` runs it"]
fn every_member_starts_again_in_turn_under_a_writer() {
    let cluster = Cluster::booted();
    let writer = Writer::start(&cluster, &ALL, "turn");
    more(&cluster, &writer, 30);
    let said = cluster.ok(&["reboot", "--in-turn"]);
    more(&cluster, &writer, 30);
    let turns: Vec<_> = said.lines().filter_map(|l| l.strip_suffix(" starts again")).collect();
    assert_eq!(turns, ALL, "{said}");
    let written = writer.stop();
    written.tell("each member started again in turn");
    // Whoever asks another member when one does not answer is never without an answer.
    let (at, gap) = written.record.longest_gap();
    assert!(gap < Duration::from_secs(1), "nobody answered for {gap:?} from {at:?} on");
    ALL.iter().for_each(|m| written.assert_kept(&cluster, m, "turn"));
}

#[test]
fn a_restored_cluster_is_the_saved_one() {
    let cluster = Cluster::booted();
    let client = |node: &str| cluster.client(node);
    client("etcd-1").put("before", "1").expect("written");
    cluster.ok(&["save", "two"]);
    client("etcd-2").put("after", "1").expect("the saved ones went on");
    cluster.ok(&["kill", "etcd-3"]);
    cluster.ok(&["cut", "etcd-1"]);
    cluster.ok(&["divide", "etcd-2", "etcd-3"]);
    cluster.ok(&["restore", "two"]);
    assert_eq!(client("etcd-3").get("before").expect("read").as_deref(), Some("1"));
    assert_eq!(client("etcd-3").get("after").expect("read"), None, "it had not happened yet");
    client("etcd-3").put("again", "1").expect("written");
    assert_eq!(client("etcd-1").get("again").expect("its cable is whole").as_deref(), Some("1"));
    let (out, text) = cluster.run(&["save", "two"]);
    assert!(!out.status.success() && text.contains("exists already"), "{text}");
    let (out, text) = cluster.run(&["restore", "three"]);
    assert!(!out.status.success() && text.contains("no snapshot at"), "{text}");
    assert_eq!(cluster.node("etcd-3")["state"], "ready", "a restore that cannot be changes nothing");

    // A damaged one: said so, and nothing stands still half-way.
    let state = cluster.state().join("snapshots/two/etcd-1.state");
    let bytes = std::fs::read(&state).expect("read");
    std::fs::write(&state, &bytes[..bytes.len() / 2]).expect("cut off");
    let (out, text) = cluster.run(&["restore", "two"]);
    assert!(!out.status.success() && text.contains("could not be restored: all nodes are off now"), "{text}");
    assert_eq!(cluster.node("etcd-3")["state"], "off");
    cluster.ok(&["start", "etcd-1", "etcd-2", "etcd-3"]);
}
