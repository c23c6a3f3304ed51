//! Certificates get old under a Kubernetes, and nobody who asks it at its virtual IP notices. One node that is everything.

use lab::probe::api::Client;
use lab::probe::{Record, run};
use qemu_tests::Ends;
use qemu_tests::cluster::Cluster;
use qemu_tests::kubectl::{Kubectl, program, template, workload};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long certificates last, minutes. They begin an hour before they are made.
pub(super) const LEAF_MINUTES: u64 = 90;
/// Host seconds per guest second, as many as its boot has: when the clock jumps everybody makes new connections at once, and a
/// load balancer's check, which waits 0.2 s, must not be late for want of a processor.
const RESTORED: f64 = 17.0;
/// Guest time: something comes; a request is answered; requests follow each other.
const SOON: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(5);
const PACE: Duration = Duration::from_millis(50);
/// The watch is held for as long as there are writes, and never for longer than this.
const HOLD: Duration = Duration::from_secs(300);
/// Answers between one event and the next.
const MORE: u64 = 100;
const OBJECT: &str = "/api/v1/namespaces/default/configmaps/renewed";
const WATCH: &str =
    "/api/v1/namespaces/default/configmaps?watch=true&fieldSelector=metadata.name%3Drenewed&timeoutSeconds=3600";

fn renewals(cluster: &Cluster) -> usize {
    cluster.ok(&["logs", "node-1"]).matches("the node's certificates are new").count()
}

/// How often each container in `kube-system` has started again.
fn restarts(kubectl: &Kubectl) -> Vec<(String, u64)> {
    let pods = kubectl.get(&["pods", "-n", "kube-system"]).expect("pods");
    let all = pods["items"].as_array().cloned().unwrap_or_default();
    let one = |p: &Value| {
        let name = p["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let starts = p["status"]["containerStatuses"].as_array().into_iter().flatten();
        (name, starts.filter_map(|c| c["restartCount"].as_u64()).sum())
    };
    all.iter().map(one).collect()
}

/// What asks and writes until it is told to stop, and the watch beside it.
fn around(
    client: &Client,
    cluster: &Cluster,
    answered: &AtomicU64,
    work: impl FnOnce(),
) -> (Record, Option<String>, usize) {
    let (clock, stop, over) = (cluster.clock(), AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (stop, over) = (&stop, &over);
        let held = scope.spawn(move || {
            let mut events = 0;
            let held = client.follow(WATCH, clock, HOLD, |bytes| {
                events += bytes.iter().filter(|b| **b == b'\n').count();
                over.load(Ordering::Relaxed)
            });
            (held.expect("a watch"), events)
        });
        let asking = scope.spawn(move || {
            let count = |done: anyhow::Result<String>| {
                answered.fetch_add(u64::from(done.is_ok()), Ordering::Relaxed);
                done.map(drop)
            };
            let read = |_| count(client.get(OBJECT));
            let write = |n: u64| count(client.merge(OBJECT, &json!({ "data": { "number": n.to_string() } })));
            let clients: Vec<Box<dyn FnMut(u64) -> anyhow::Result<()> + Send>> =
                vec![Box::new(read), Box::new(read), Box::new(write)];
            run(clock, PACE, clients, stop)
        });
        let ends = (Ends(stop), Ends(over));
        work();
        drop(ends.0);
        let record = asking.join().expect("no panic");
        // The watch ends with the next event.
        drop(ends.1);
        client.merge(OBJECT, &json!({ "data": { "number": "the last" } })).expect("written");
        let (held, events) = held.join().expect("no panic");
        (record, held.cut, events)
    })
}

/// Two thirds of their life, twice: the first certificates have ended then, the apiserver's and those of whoever asks it.
#[test]
fn two_renewals_of_a_kubernetes_at_its_virtual_ip() {
    let (cluster, kubectl) = super::restored(1, RESTORED);
    // Clients believe their own clock, which does not jump: the nodes' begins 75 minutes behind it and ends 45 ahead, so that
    // each certificate in its turn is good by both. A clock that is set back behind a certificate's making renews it; in two
    // steps, because one that is not good yet is none for HAProxy's checks.
    let back = (75 * 60_u64).checked_sub(cluster.behind().as_secs()).filter(|s| *s > 240);
    let back = back.expect("saved less than 70 minutes ago");
    let mut made = renewals(&cluster);
    for _ in 0..2 {
        made += 1;
        cluster.ok(&["clock", &format!("-{}s", back / 2)]);
        cluster.until("certificates by that clock", SOON, || (renewals(&cluster) == made).then_some(()));
    }
    let client = kubectl.client(&cluster, PATIENCE);
    cluster.until("an object", SOON, || {
        let object = json!({ "metadata": { "name": "renewed" }, "data": { "number": "none" } });
        client.post("/api/v1/namespaces/default/configmaps", &object).ok()
    });
    let before = restarts(&kubectl);
    let answered = AtomicU64::new(0);
    let more = |what: &str| {
        let enough = answered.load(Ordering::Relaxed) + MORE;
        cluster.until(what, SOON, || (answered.load(Ordering::Relaxed) >= enough).then_some(()));
    };
    let (record, cut, events) = around(&client, &cluster, &answered, || {
        more("answers before");
        for round in 1..=2 {
            cluster.ok(&["clock", "+60m"]);
            let made = made + round;
            cluster.until(&format!("renewal {round}"), SOON, || (renewals(&cluster) == made).then_some(()));
            more("answers after a renewal");
        }
    });
    let summary = record.summary();
    println!("{summary:?}, {events} events of the watch");
    let errors: Vec<_> = record.samples.iter().filter_map(|s| s.error.as_ref()).collect();
    assert_eq!(summary.failed, 0, "{errors:?}");
    assert_eq!(cut, None, "the watch lasted");
    assert!(events as u64 > MORE / 2, "it was told of the writes: {events}");
    let after = restarts(&kubectl);
    assert!(before.iter().all(|p| after.contains(p)), "nobody had to start again: {before:?}, then {after:?}");

    // The first certificates have ended: whoever works now has new ones. Controllers, scheduler, kubelet; and the apiserver
    // as the kubelet's client.
    kubectl.apply(&program());
    kubectl.apply(&workload(
        "Deployment",
        "after",
        &template("after", &["serve", "8080"], &json!({}), &[]),
        &json!({}),
    ));
    let pod = kubectl.pods("after", 1, SOON).remove(0).1;
    kubectl.until("its logs", SOON, || match kubectl.run(&["logs", &pod])? {
        text if text.contains("serving on 8080") => Ok(()),
        text => Err(text),
    });
}
