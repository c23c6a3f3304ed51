//! `make bench`, the load balancer's part: what clients of the virtual IP notice, ours beside kubeadm's guide on the same
//! programs, in the same VMs, with the same probe, in one run. Gaps are in guest time. Words after `--` choose rows whose
//! names have one of them: `cargo bench -p qemu-tests --bench lb -- black-holed throughput`.

use anyhow::{Context, Result};
use lab::probe::api::Client;
use qemu_tests::balancer::{DILATION, NODES, Probe, Seen, description, holder, tell, wait_served};
use qemu_tests::cluster::{Cluster, images};
use qemu_tests::{BOOT, Node, READY, image_of};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Host seconds per guest second of five VMs that run already and do little. At 4 two cores do not bear it: the emulator
/// translates the other load balancer's code while clients wait, and a third of the gaps is twice as long as the rest.
const RESTORED: &str = "8";
/// Before and after a fault, in guest time.
const CALM: Duration = Duration::from_millis(500);
/// A gap that is longer is explained by what the nodes said.
const TELL: Duration = Duration::from_millis(500);
/// A client this patient sees a stall, and not a failure.
const PATIENT: Duration = Duration::from_secs(20);

fn main() -> Result<()> {
    if wanted("a load balancer") {
        node()?;
    }
    let ours = Lab::new("ours", &description());
    let rows = ours.rows(20, 2, 5);
    if wanted("throughput") {
        throughput(&ours)?;
    }
    drop(ours);
    let guide = description().replace("roles = [\"lb\"]", "image = \"test/guide\"\nroles = [\"lb\"]");
    let guide = Lab::new("kubeadm's guide", &guide);
    let beside = guide.rows(2, 1, 1);
    println!("## longest time without an answer, ms: least, median, most of the runs");
    for ((what, ours), (_, guide)) in rows.iter().zip(&beside).filter(|(o, g)| !o.1.is_empty() || !g.1.is_empty()) {
        println!("{what}: ours {}; kubeadm's guide {}", spread(ours), spread(guide));
    }
    Ok(())
}

/// Whether a row was asked for.
fn wanted(row: &str) -> bool {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    words.is_empty() || words.iter().any(|w| row.contains(w.as_str()))
}

fn spread(gaps: &[f64]) -> String {
    let mut gaps = gaps.to_vec();
    gaps.sort_by(f64::total_cmp);
    let at = |i: usize| gaps.get(i).copied().unwrap_or(f64::NAN);
    format!("{:.0} / {:.0} / {:.0} ({} runs)", at(0), at(gaps.len() / 2), at(gaps.len().saturating_sub(1)), gaps.len())
}

/// Size, boot and memory of one load balancer.
fn node() -> Result<()> {
    println!("## a load balancer");
    let size = |file: &str| -> Result<f64> {
        Ok(f64::from(u32::try_from(std::fs::metadata(image_of("lb").join(file))?.len())?) / 1e6)
    };
    let (kernel, initrd) = (size("vmlinuz")?, size("initrd")?);
    println!("kernel + initrd: {kernel:.1} + {initrd:.1} = {:.1} MB (goal 35)", kernel + initrd);
    let node = Node::seeded(|t| t)?;
    let ca = qemu_tests::read(&node.path("demo.seed/cluster-ca.crt"));
    let config = serde_json::json!({ "quorate": {
        "version": 1, "roles": ["lb"], "state": "ephemeral",
        "node": { "name": "etcd-1", "address": "10.77.0.31" },
        "cluster": { "name": "demo", "id": "3f9c2a7be1d04c55", "endpoint": "10.77.0.10:6443" },
        "masters": { "master-1": "10.77.0.11", "master-2": "10.77.0.12", "master-3": "10.77.0.13" },
        "lb": { "virtual_router_id": 77, "peers": [
            { "name": "etcd-1", "address": "10.77.0.31" }, { "name": "lb-2", "address": "10.77.0.22" },
        ]},
        "pki": { "cluster_ca": { "cert": ca } },
    }});
    let seed = node.write_medium("lb.iso", &format!("#cloud-config\n{config}\n"))?;
    let mut machine = node.machine_of(&image_of("lb"), vec![seed])?;
    machine.memory = 256;
    machine.cmdline += " quorate.log=debug";
    let mut vm = lab::vm::Vm::start(&machine)?;
    vm.wait_for(READY, BOOT)?;
    vm.wait_for("quorate: memory", BOOT)?;
    vm.wait_for("holds the virtual IP", BOOT)?;
    for line in vm.console.since(0) {
        if ["quorate: memory", "quorate: all ready", "holds the virtual IP"].iter().any(|w| line.contains(w)) {
            println!("{line}");
        }
    }
    Ok(())
}

/// A cluster that is restored before each run.
struct Lab {
    name: &'static str,
    cluster: Cluster,
}

/// What happened, and the gaps of each run in ms.
type Rows = Vec<(&'static str, Vec<f64>)>;

impl Lab {
    fn new(name: &'static str, description: &str) -> Self {
        println!("## {name}");
        let cluster = Cluster::new(description);
        cluster.up(&["--only", NODES, "--dilation", DILATION]);
        wait_served(&cluster);
        cluster.ok(&["save", "booted"]);
        cluster.ok(&["down"]);
        cluster.ok(&["restore", "booted", "--images", &images(), "--dilation", RESTORED]);
        Self { name, cluster }
    }

    fn fresh(&self) -> &Cluster {
        self.cluster.ok(&["restore", "booted"]);
        wait_served(&self.cluster);
        &self.cluster
    }

    fn is_ours(&self) -> bool {
        self.name == "ours"
    }

    /// So many runs of the power loss, of the others, and of the master that is gone without a word.
    fn rows(&self, losses: usize, others: usize, holes: usize) -> Rows {
        // kubeadm's guide has no line that tells; its first load balancer is the one with the higher priority.
        let first = || if self.is_ours() { holder(&self.cluster).0 } else { "lb-1" };
        let signal = |service: &'static str, signal: &'static str| {
            move |c: &Cluster, first: &str| drop(c.ok(&["signal", first, service, signal]))
        };
        let after = Duration::from_millis(1500);
        // The guide's script wants ten failures, 3 s apart.
        let hang = if self.is_ours() { Duration::from_secs(3) } else { Duration::from_secs(45) };
        let runs = |what: &'static str, n: usize, after: Duration, happens: &dyn Fn(&Cluster, &str)| {
            let name = format!("{}, {what}", self.name);
            let gaps = (0..if wanted(&name) { n } else { 0 }).map(|_| {
                let cluster = self.fresh();
                let first = first();
                let seen = around(cluster, 0, None, after, || happens(cluster, first));
                let gap = seen.tell(&name);
                if gap > TELL {
                    tell_why(cluster);
                }
                gap.as_secs_f64() * 1000.0
            });
            (what, gaps.collect::<Vec<_>>())
        };
        let loss = if self.is_ours() { after } else { Duration::from_secs(5) };
        let mut rows = vec![
            runs("the holder loses power (goal 500)", losses, loss, &|c, first| drop(c.ok(&["kill", first]))),
            runs("the holder is rebooted in order (goal 150)", others, loss, &|c, first| {
                drop(c.ok(&["reboot", first, "--no-wait"]));
            }),
            runs("HAProxy is killed (goal 200)", others, loss, &signal("haproxy", "kill")),
            runs("HAProxy hangs", if self.is_ours() { others } else { 1 }, hang, &signal("haproxy", "stop")),
        ];
        rows.extend(self.black_hole(holes));
        rows
    }

    /// A master that is gone without a word: how long a request stalls, and a stream hangs.
    fn black_hole(&self, runs: usize) -> Rows {
        let (mut stalls, mut hangs) = (Vec::new(), Vec::new());
        let name = format!("{}, a master is black-holed", self.name);
        for _ in 0..if wanted(&name) { runs } else { 0 } {
            let cluster = self.fresh();
            let lasts = if self.is_ours() { Duration::from_secs(3) } else { Duration::from_secs(25) };
            let seen = around(cluster, 3, Some(PATIENT), lasts, || drop(cluster.ok(&["cut", "master-2"])));
            seen.tell(&name);
            stalls.push(seen.record.summary().max_ms);
            hangs.push(seen.held.iter().map(|h| h.silence.as_secs_f64() * 1000.0).fold(0.0, f64::max));
        }
        vec![
            ("a master is black-holed: slowest request (goal 600)", stalls),
            ("... longest silence of a stream until it was reset (goal 1000), or the run was over", hangs),
        ]
    }
}

/// The last of what happened, on one axis.
fn tell_why(cluster: &Cluster) {
    let out = cluster.dir.path().join("why");
    cluster.ok(&["export", &out.display().to_string()]);
    let timeline = qemu_tests::read(&out.join("timeline.txt"));
    let lines: Vec<&str> = timeline.lines().collect();
    lines[lines.len().saturating_sub(12)..].iter().for_each(|l| println!("    {l}"));
}

/// Clients at work before, while and after something happens.
fn around(
    cluster: &Cluster,
    streams: usize,
    patience: Option<Duration>,
    after: Duration,
    happens: impl FnOnce(),
) -> Seen {
    let probe = match patience {
        None => Probe::start(cluster, streams),
        Some(p) => Probe::patient(cluster, streams, p),
    };
    probe.more(cluster, 10);
    // How long each part lasts, not waits for events.
    std::thread::sleep(cluster.clock().host(CALM));
    happens();
    std::thread::sleep(cluster.clock().host(after));
    probe.stop()
}

/// Through HAProxy, and straight to a master, by the same gateway.
fn throughput(lab: &Lab) -> Result<()> {
    println!("## throughput, per guest second");
    let cluster = lab.fresh();
    // Only one master, so that both ways end at the same one.
    for master in [2, 3] {
        tell(cluster, master, "not-ready");
    }
    let clock = cluster.clock();
    let direct = cluster.forwarded("10.77.0.11:6443");
    let mut figures = Vec::new();
    for (what, to) in [("straight to a master", direct), ("through HAProxy", cluster.api())] {
        let client = Client::new(to, &cluster.seeds(), PATIENT, clock)?;
        let lasts = Duration::from_secs(2);
        let stop = AtomicBool::new(false);
        let count = std::thread::scope(|scope| {
            let asks = (0..8).map(|_| {
                scope.spawn(|| {
                    let mut count = 0_u32;
                    while !stop.load(Ordering::Relaxed) {
                        count += u32::from(client.get("/name").is_ok());
                    }
                    count
                })
            });
            let asks: Vec<_> = asks.collect();
            std::thread::sleep(clock.host(lasts));
            stop.store(true, Ordering::Relaxed);
            asks.into_iter().map(|a| a.join().unwrap_or(0)).sum::<u32>()
        });
        let rate = f64::from(count) / lasts.as_secs_f64();
        let bytes = 8_000_000_u32;
        let began = Instant::now();
        client.get(&format!("/bytes/{bytes}")).context("a large body")?;
        let took = clock.guest(began.elapsed()).as_secs_f64();
        let gbit = f64::from(bytes) * 8.0 / 1e9 / took;
        println!("{what}: {rate:.0} connections/s (TLS, one request each), {gbit:.3} Gbit/s over one");
        figures.push((rate, gbit));
    }
    if let [(rate, gbit), (rate_lb, gbit_lb)] = figures[..] {
        println!("through HAProxy: {:.2} of the connections, {:.2} of the bits", rate_lb / rate, gbit_lb / gbit);
    }
    Ok(())
}
