//! Two load balancers in front of three stand-ins of masters, and clients that ask through the virtual IP.

use crate::checkout;
use crate::cluster::{Cluster, Saved};
use anyhow::ensure;
use lab::probe::api::{Client, Held};
use lab::probe::{Record, run};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// All nodes that run: etcd is not needed here.
pub const NODES: &str = "lb-1,lb-2,master-1,master-2,master-3";
/// Host seconds per guest second while they boot.
pub const DILATION: &str = "13";
/// ... and while they do little.
const RESTORED: f64 = 4.0;
/// Clients that ask at the same time, each over a new connection every so often, patient for so long. Guest time. The
/// longest gap is known as exactly as the patience shared by the clients.
const CLIENTS: usize = 4;
const EVERY: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_millis(100);
/// What a load balancer says when it weighs less for want of masters.
pub const LOST: &str = "reaches no master";
/// What it says when it weighs as much as before.
pub const BACK: &str = "reaches masters again";
/// Every check of masters that answer has succeeded within this, and a load balancer without masters said so; twice what it
/// takes. Guest time.
const CHECKED: Duration = Duration::from_secs(1);
/// It is forgiven within this (guest time).
const FORGIVEN: Duration = Duration::from_secs(10);
/// One load balancer alone holds the virtual IP within this (guest time).
const AGREED: Duration = Duration::from_secs(5);
/// A stand-in answers its control port within this (guest time).
const TOLD: Duration = Duration::from_secs(5);
/// A request that took longer is worth a line of its own.
const STALL: Duration = Duration::from_secs(1);
/// All streams are open within this (guest time).
const OPEN: Duration = Duration::from_secs(15);
/// What is counted and not announced is looked for this often. Host time.
const LOOK: Duration = Duration::from_millis(50);
/// A stream is opened within so many tries.
const OPENS: usize = 5;

/// Stand-ins behind load balancers, with a way to each stand-in's control port.
pub fn description() -> String {
    let text = crate::read(&checkout().join("qemu-tests/standin/lb.toml"));
    let ways = (1..=3).map(|i| format!("{{ host = \"127.0.0.1:0\", to = \"10.77.0.1{i}:6440\" }}"));
    // Straight to one of them, beside the virtual IP.
    let straight = "{ host = \"127.0.0.1:0\", to = \"10.77.0.11:6443\" }".to_owned();
    let ways: Vec<_> = ways.chain([straight]).collect();
    text.replace("forward = []", &format!("forward = [{}]", ways.join(", ")))
}

/// It is up, and one of the load balancers holds the virtual IP.
pub fn balanced() -> Cluster {
    static BOOTED: OnceLock<Saved> = OnceLock::new();
    let up = ["--only", NODES, "--dilation", DILATION];
    let nodes = NODES.split(',').count();
    let cluster = Cluster::restored(&BOOTED, "balanced", &description(), &up, nodes, RESTORED, settled);
    wait_served(&cluster);
    holder(&cluster);
    cluster
}

/// A load balancer that was up before the masters weighs less until it is forgiven (agent/src/lb/watch.rs), and the virtual IP
/// moves on account of that: here it has.
fn settled(cluster: &Cluster) {
    wait_served(cluster);
    // The checks of the one that does not serve may not have seen the masters yet, and nothing tells when they have.
    std::thread::sleep(cluster.clock().host(CHECKED));
    cluster.until("each load balancer reaches masters", FORGIVEN, || {
        let count = |node: &str, what: &str| said(cluster, node).iter().filter(|line| line.contains(what)).count();
        ["lb-1", "lb-2"].iter().all(|node| count(node, LOST) == count(node, BACK)).then_some(())
    });
    holder(cluster);
}

/// A client of the API that is as patient as those of a probe.
pub fn client(cluster: &Cluster) -> Client {
    Client::new(cluster.api(), &cluster.seeds(), PATIENCE, cluster.clock()).expect("a client")
}

/// Waits until the virtual IP answers.
pub fn wait_served(cluster: &Cluster) {
    let client = client(cluster);
    let deadline = Instant::now() + cluster.clock().host(Duration::from_secs(15));
    while let Err(e) = client.get("/readyz") {
        assert!(Instant::now() < deadline, "the virtual IP does not answer: {e:#}");
    }
}

/// Tells a stand-in how to behave: `not-ready`, `starting`, `ready`, `hang`, `slow 300`, `well`.
pub fn tell(cluster: &Cluster, master: usize, word: &str) {
    let stream = TcpStream::connect(cluster.forwarded(&format!("10.77.0.1{master}:6440"))).expect("its control port");
    stream.set_read_timeout(Some(cluster.clock().host(TOLD))).expect("a bound");
    writeln!(&stream, "{word}").expect("told");
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).expect("an answer");
    assert_eq!(answer.trim(), "ok");
}

/// Everything that a node said, one line each.
pub fn said(cluster: &Cluster, node: &str) -> Vec<String> {
    cluster.ok(&["logs", node]).lines().map(String::from).collect()
}

/// Who took and gave the virtual IP, in the order of a node's lines.
pub fn holds(cluster: &Cluster, node: &str) -> bool {
    let word = |line: &String| {
        line.contains("holds the virtual IP")
            .then_some(true)
            .or_else(|| line.contains("does not hold").then_some(false))
    };
    said(cluster, node).iter().filter_map(word).next_back().unwrap_or(false)
}

/// The load balancer that holds the virtual IP, and the other one. Two that took it at the same moment, as they do when
/// they boot together, agree within an advertisement or two: that is waited for.
pub fn holder(cluster: &Cluster) -> (&'static str, &'static str) {
    let deadline = Instant::now() + cluster.clock().host(AGREED);
    loop {
        match (holds(cluster, "lb-1"), holds(cluster, "lb-2")) {
            (true, false) => return ("lb-1", "lb-2"),
            (false, true) => return ("lb-2", "lb-1"),
            both => assert!(Instant::now() < deadline, "the virtual IP is held by lb-1, lb-2: {both:?}"),
        }
    }
}

/// Clients at work.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    record: JoinHandle<Record>,
    held: Vec<JoinHandle<Held>>,
}

impl Probe {
    /// Begins to ask, and to hold so many streams.
    pub fn start(cluster: &Cluster, streams: usize) -> Self {
        Self::patient(cluster, streams, PATIENCE)
    }

    /// With clients that wait longer: what stalls is seen as slow, and not as a failure.
    pub fn patient(cluster: &Cluster, streams: usize, patience: Duration) -> Self {
        let clock = cluster.clock();
        let client = Client::new(cluster.api(), &cluster.seeds(), patience, clock).expect("a client");
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (client, answered) = (client.clone(), Arc::clone(&answered));
                move |_| {
                    let body = client.get("/name")?;
                    ensure!(body.starts_with("master-"), "answered {body}");
                    answered.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                }
            })
            .collect();
        let open = Arc::new(AtomicUsize::new(0));
        let held: Vec<_> = (0..streams)
            .map(|_| {
                let (client, stop, open) = (client.clone(), Arc::clone(&stop), Arc::clone(&open));
                std::thread::spawn(move || {
                    // As any client: one that is refused by a master that just goes asks again.
                    let opened = || {
                        open.fetch_add(1, Ordering::Relaxed);
                    };
                    let tries = (0..OPENS).map(|_| client.hold_telling("/watch", clock, &stop, opened));
                    tries.into_iter().find_map(Result::ok).expect("a stream")
                })
            })
            .collect();
        // Only a stream that is open can be cut.
        let deadline = Instant::now() + clock.host(OPEN);
        while open.load(Ordering::Relaxed) < streams {
            assert!(Instant::now() < deadline, "{open:?} of {streams} streams are open");
            std::thread::sleep(LOOK);
        }
        let stopped = Arc::clone(&stop);
        let record = std::thread::spawn(move || run(clock, EVERY, clients, &stopped));
        Self { stop, answered, record, held }
    }

    /// Waits until so many more requests were answered.
    pub fn more(&self, cluster: &Cluster, count: usize) {
        let deadline = Instant::now() + cluster.clock().host(Duration::from_secs(15));
        let wanted = self.answered.load(Ordering::Relaxed) + count;
        while self.answered.load(Ordering::Relaxed) < wanted {
            assert!(Instant::now() < deadline, "{:?} of {wanted} answers", self.answered);
            std::thread::sleep(LOOK);
        }
    }

    /// Stops.
    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let held = self.held.into_iter().map(|h| h.join().expect("a stream's thread")).collect();
        Seen { record: self.record.join().expect("the probe"), held }
    }
}

/// What clients saw.
#[derive(Debug)]
pub struct Seen {
    /// Of the requests.
    pub record: Record,
    /// Of the streams.
    pub held: Vec<Held>,
}

impl Seen {
    /// One line of figures; answers the longest gap.
    pub fn tell(&self, what: &str) -> Duration {
        let s = self.record.summary();
        println!(
            "{what}: {} answered, {} failed, p50 {:.1} ms, p99 {:.1} ms, slowest {:.0} ms, longest gap {:.0} ms (guest time)",
            s.answered, s.failed, s.p50_ms, s.p99_ms, s.max_ms, s.gap_ms
        );
        for s in self.record.samples.iter().filter(|s| s.ended.saturating_sub(s.sent) > STALL) {
            let (sent, ended) = (s.sent.as_secs_f64(), s.ended.as_secs_f64());
            println!("  a request of {sent:.2} s ended at {ended:.2} s: {}", s.error.as_deref().unwrap_or("answered"));
        }
        for held in &self.held {
            let how = held.cut.as_deref().unwrap_or("not cut");
            println!(
                "  a stream: {how} after {:.1} s, longest silence {:.2} s",
                held.lasted.as_secs_f64(),
                held.silence.as_secs_f64()
            );
        }
        self.record.longest_gap().1
    }

    /// Streams that were cut.
    pub fn cut(&self) -> usize {
        self.held.iter().filter(|h| h.cut.is_some()).count()
    }
}
