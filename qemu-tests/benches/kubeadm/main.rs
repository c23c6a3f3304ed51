//! The peer of the whole: a cluster as kubeadm's guides make it, of Debian with systemd, next to ours; the same programs, the
//! same lab, the same clients, one after the other in one run. Measured are the way from power on of all machines at once to
//! every node Ready, and what clients of the virtual IP notice when a machine loses power. All times are the guests'.
//!
//! `make bench-kubeadm`; not a part of `make bench`: it wants root and mmdebstrap, and takes one and a half hours. Words choose
//! a side (`ours`, `kubeadm`), that it is over when all nodes are Ready (`cold`, half of the time), or that only the peer's disk
//! is made (`disk`); `DILATION` is the host's seconds per guest second:
//! `DILATION=16 cargo bench -p qemu-tests --bench kubeadm -- kubeadm`. `QUORATE_KEEP=1` leaves disks and consoles.

mod disk;
mod node;
mod pki;
mod side;

use anyhow::{Context, Result, bail};
use lab::probe::{Record, api::Client, run_in_turn};
use node::VIP;
use serde_json::{Value, json};
use side::Side;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Two cores bear six VMs that boot so slowly, and no faster: at 10 our masters wait for the emulator most of the time, and their
/// API is ready after 37 s instead of 6.
const DILATION: f64 = 32.0;
/// Kubernetes nodes of the cluster.
const NODES: usize = 4;
/// From power on to every node Ready, at most.
const BOOT: Duration = Duration::from_secs(900);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// As a client of `chaos` asks.
const EVERY: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_millis(300);
/// Before something happens.
const CALM: Duration = Duration::from_secs(2);
const PATH: &str = "/api/v1/namespaces/default/configmaps";

/// What is told of a side: a name and guest seconds.
type Figures = Vec<(&'static str, f64)>;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    if let Some(word) = words.iter().find(|w| !["ours", "kubeadm", "cold", "disk"].contains(&w.as_str())) {
        bail!("`{word}`: expected ours, kubeadm, cold or disk");
    }
    let has = |word: &str| words.iter().any(|w| w == word);
    let both = has("ours") == has("kubeadm");
    let only_cold = has("cold");
    if words == ["disk"] {
        return disk::base().map(drop);
    }
    let dilation = std::env::var("DILATION").ok().map_or(Ok(DILATION), |d| d.parse()).context("DILATION: a number")?;
    println!("## a cluster of six: three masters with etcd, two load balancers, a worker; dilated {dilation}-fold");
    let mut ours = Figures::new();
    if both || has("ours") {
        ours = measure(&mut Side::ours(dilation)?, only_cold)?;
    }
    if both || has("kubeadm") {
        let theirs = measure(&mut Side::kubeadm(dilation)?, only_cold)?;
        if !ours.is_empty() {
            println!("## guest seconds: ours, kubeadm's guides, ratio");
        }
        for ((what, a), (_, b)) in ours.iter().zip(&theirs) {
            println!("{what}: {a:.2}  {b:.2}  {:.1}", b / a);
        }
    }
    Ok(())
}

fn measure(side: &mut Side, only_cold: bool) -> Result<Figures> {
    println!("## {}", side.name);
    let mut figures = cold(side)?;
    if only_cold {
        return Ok(figures);
    }
    let admin = side.admin(Duration::from_secs(10))?;
    for i in 0..2 {
        let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("c{i}") }, "data": { "n": "0" } });
        admin.post(PATH, &object)?;
    }
    let holder = side.holder()?;
    figures.extend(row(side, "the virtual IP's holder loses power", &holder, Duration::from_secs(8))?);
    let leader = side.etcd_leader()?;
    figures.extend(row(side, "the master whose etcd leads loses power", &leader, Duration::from_secs(20))?);
    Ok(figures)
}

/// All machines at once.
fn cold(side: &mut Side) -> Result<Figures> {
    side.cluster.boot_all()?;
    let began = Instant::now();
    let clock = side.cluster.clock();
    let since = || clock.guest(began.elapsed()).as_secs_f64();
    let admin = side.admin(Duration::from_secs(5))?;
    until(side, BOOT, &format!("{VIP} answers"), || admin.get("/readyz").map(drop))?;
    let api = since();
    println!("the API is ready at the virtual IP: {api:.1} s");
    let mut first = None;
    until(side, BOOT, "all nodes are Ready", || {
        let ready = ready(&admin)?;
        if ready.len() != first.replace(ready.len()).unwrap_or(usize::MAX) {
            println!("  Ready at {:.1} s: {ready:?}", since());
        }
        if ready.len() == NODES { Ok(()) } else { bail!("{ready:?}") }
    })?;
    let all = since();
    println!("all nodes are Ready: {all:.1} s ({:.0} s of wall time)", began.elapsed().as_secs_f64());
    Ok(vec![("power on to the API ready at the virtual IP", api), ("power on to all nodes Ready", all)])
}

/// The names of the nodes that are Ready.
fn ready(admin: &Client) -> Result<Vec<String>> {
    let nodes: Value = serde_json::from_str(&admin.get("/api/v1/nodes")?)?;
    let is_ready = |n: &&Value| {
        let all = n["status"]["conditions"].as_array();
        all.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let names = nodes["items"].as_array().into_iter().flatten().filter(is_ready);
    Ok(names.filter_map(|n| n["metadata"]["name"].as_str().map(String::from)).collect())
}

fn until<T>(side: &mut Side, most: Duration, what: &str, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let clock = side.cluster.clock();
    let deadline = Instant::now() + clock.host(most);
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(e) if Instant::now() > deadline => {
                side.tell();
                return Err(e.context(format!("within {most:?}: {what}")));
            }
            // No event tells; each look is a request.
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// Readers and writers at the virtual IP, before and after a machine's power is cut; it stays off.
fn row(side: &mut Side, what: &'static str, victim: &str, after: Duration) -> Result<Figures> {
    let clock = side.cluster.clock();
    let client = side.admin(PATIENCE)?;
    let stop = AtomicBool::new(false);
    let (reads, writes) = std::thread::scope(|scope| -> Result<(Record, Record)> {
        let client = &client;
        let read = move |i: u64| client.get(&format!("{PATH}/c{}", i % 2)).map(drop);
        let stop = &stop;
        let reads = scope.spawn(move || run_in_turn(clock, EVERY, vec![read; 4], stop));
        let writers = (0..2).map(|w| {
            move |i: u64| client.merge(&format!("{PATH}/c{w}"), &json!({ "data": { "n": i.to_string() } })).map(drop)
        });
        let writers: Vec<_> = writers.collect();
        let writes = scope.spawn(move || run_in_turn(clock, EVERY, writers, stop));
        // How long each part lasts, not waits for events.
        std::thread::sleep(clock.host(CALM));
        let killed = side.cluster.kill(victim);
        std::thread::sleep(clock.host(after));
        stop.store(true, Ordering::Relaxed);
        killed?;
        let joined =
            |t: std::thread::ScopedJoinHandle<'_, Record>| t.join().map_err(|_| anyhow::anyhow!("a probe's thread"));
        Ok((joined(reads)?, joined(writes)?))
    })?;
    let (r, w) = (reads.summary(), writes.summary());
    println!(
        "{what} ({victim}): reads {} ({} failed), longest gap {:.2} s; writes {} ({} failed), longest gap {:.2} s",
        r.answered + r.failed,
        r.failed,
        r.gap_ms / 1000.0,
        w.answered + w.failed,
        w.failed,
        w.gap_ms / 1000.0
    );
    Ok(vec![(what, r.gap_ms / 1000.0), ("... its writes", w.gap_ms / 1000.0)])
}
