//! Certificates get old while a cluster runs: the clocks jump, and nobody who is connected, or connects, notices.

use qemu_tests::cluster::{Cluster, three};
use qemu_tests::writer::Writer;
use std::time::Duration;

const ALL: [&str; 3] = ["etcd-1", "etcd-2", "etcd-3"];
/// Guest time.
const SOON: Duration = Duration::from_secs(20);
/// Writes between one event and the next.
const MORE: usize = 90;

/// Two thirds of 30 minutes, twice: the first certificates have ended then, and so have those of whoever did not renew.
#[test]
fn two_renewals_under_writers_and_a_watch() {
    let cluster = Cluster::new(&format!("{}\n[pki]\nleaf_minutes = 30\n", three()));
    cluster.up(&[]);
    let clock = cluster.clock();
    let writer = Writer::start(&cluster, &ALL, "renewed");
    std::thread::scope(|scope| {
        let held = {
            let (client, lasts) = (cluster.client("etcd-2"), clock.host(Duration::from_secs(4)));
            scope.spawn(move || client.hold("watched", lasts))
        };
        for round in 1..=2 {
            let enough = writer.count() + MORE;
            cluster.until("writes", SOON, || (writer.count() >= enough).then_some(()));
            cluster.ok(&["clock", "+20m"]);
            for member in ALL {
                cluster.until(&format!("{member} renews for the {round}. time"), SOON, || {
                    let told = cluster.ok(&["logs", member]).matches("the node's certificates are new").count();
                    (told == round).then_some(())
                });
            }
        }
        let enough = writer.count() + MORE;
        cluster.until("writes", SOON, || (writer.count() >= enough).then_some(()));
        let cut = held.join().expect("no panic").expect("a watch");
        assert_eq!(cut, None, "the watch lasted");
    });
    let written = writer.stop();
    written.tell("two renewals");
    assert_eq!(written.record.summary().failed, 0);

    // Who comes back needs certificates that are still good, its own and the others'.
    cluster.ok(&["signal", "etcd-1", "etcd", "kill"]);
    cluster.wait_for("etcd-1", "it is a member again", SOON, |n| {
        let services = n["services"].as_array().cloned().unwrap_or_default();
        let etcd = services.into_iter().find(|s| s["name"] == "etcd").unwrap_or_default();
        etcd["restarts"] == 1 && etcd["ready_ms"].is_u64()
    });
    // Set back before their beginning: they are made anew, and this machine, whose clock did not jump, believes them again.
    cluster.ok(&["clock", "-40m"]);
    cluster.until("etcd-1 is believed", SOON, || cluster.client("etcd-1").put("again", "1").ok());
    ALL.iter().for_each(|m| written.assert_kept(&cluster, m, "renewed"));
}
