//! `make bench`, the lab's part: figures of a cluster of three, each next to a peer or a floor of the same run.

use anyhow::{Context, Result, ensure};
use lab::clock::Clock;
use lab::probe::{Record, etcd::Client, run};
use lab::switch::Switch;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use qemu_tests::cluster::{Cluster, three};
use qemu_tests::{checkout, image, initrd_facts, read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ALL: [&str; 3] = ["etcd-1", "etcd-2", "etcd-3"];
/// Between a client's writes, and the bound of one, in guest time.
const EVERY: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_millis(300);
/// Before and after a fault, in guest time.
const CALM: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    println!("## the switch");
    switch()?;
    println!("## cold start, save, restore");
    let cluster = starts()?;
    println!("## a node at rest");
    at_rest(&cluster)?;
    println!("## writes, in guest time");
    writes(&cluster)?;
    drop(cluster);
    writes_without_vms()
}

/// One sender, one receiver, frames of 1514 bytes; how many arrive in a second.
fn blast(from: &OwnedFd, to: &OwnedFd) -> f64 {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.resize(1514, 0);
    // Both ends are learned.
    let mut back = frame.clone();
    back[5] = 1;
    back[11] = 2;
    let _ = send(to.as_raw_fd(), &back, MsgFlags::empty());
    let stop = AtomicBool::new(false);
    let lasts = Duration::from_secs(2);
    let began = Instant::now();
    let count = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if send(from.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT).is_err() {
                    wait(from, nix::poll::PollFlags::POLLOUT);
                }
            }
        });
        let mut buffer = vec![0; 2048];
        let mut count = 0_u32;
        while began.elapsed() < lasts {
            match recv(to.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(1514) => count += 1,
                Ok(_) => {}
                Err(_) => wait(to, nix::poll::PollFlags::POLLIN),
            }
        }
        stop.store(true, Ordering::Relaxed);
        count
    });
    f64::from(count) / began.elapsed().as_secs_f64()
}

fn wait(fd: &OwnedFd, what: nix::poll::PollFlags) {
    let mut fds = [nix::poll::PollFd::new(fd.as_fd(), what)];
    let _ = nix::poll::poll(&mut fds, 100_u8);
}

fn cable() -> Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::Datagram, None, flags)?)
}

fn switch() -> Result<()> {
    let tell =
        |what: &str, frames: f64| println!("{what}: {frames:.0} frames/s, {:.2} Gbit/s", frames * 1514.0 * 8.0 / 1e9);
    let (a, b) = cable()?;
    let floor = blast(&a, &b);
    tell("a socket pair alone (the floor)", floor);
    let ours = Switch::new(Clock::new(1.0)?, 1)?;
    let through = blast(&ours.plug("a")?, &ours.plug("b")?);
    tell("our switch, from port to port", through);
    let (a, theirs_a) = cable()?;
    let (b, theirs_b) = cable()?;
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", "none", "-nodefaults", "-display", "none", "-monitor", "none"]);
    for (i, fd) in [&theirs_a, &theirs_b].into_iter().enumerate() {
        // Inherited: the pair is not close-on-exec.
        qemu.arg("-netdev").arg(format!("dgram,id=d{i},local.type=fd,local.str={}", fd.as_raw_fd()));
        qemu.arg("-netdev").arg(format!("hubport,id=h{i},hubid=0,netdev=d{i}"));
    }
    let mut qemu = qemu.stderr(Stdio::null()).spawn().context("starting QEMU")?;
    let peer = blast(&a, &b);
    qemu.kill()?;
    qemu.wait()?;
    tell("QEMU's own hub between the same ends", peer);
    println!("ours is {:.2} times QEMU's", through / peer);
    Ok(())
}

fn starts() -> Result<Cluster> {
    let single = Cluster::new(&read(&checkout().join("examples/etcd-single.toml")));
    let one = cold(&single)?;
    drop(single);
    let cluster = Cluster::new(&three());
    let all = cold(&cluster)?;
    println!(
        "three nodes take {:.2} times the guest time of one, {:.2} times the wall time",
        all.0 / one.0,
        all.1 / one.1
    );
    let timed = |words: &[&str]| {
        let began = Instant::now();
        cluster.ok(words);
        began.elapsed().as_secs_f64()
    };
    println!("save: {:.2} s", timed(&["save", "booted"]));
    println!("restore: {:.2} s", timed(&["restore", "booted"]));
    Ok(cluster)
}

/// A first boot: guest seconds until the last node is ready, and wall seconds of the whole command.
fn cold(cluster: &Cluster) -> Result<(f64, f64)> {
    let began = Instant::now();
    cluster.up(&[]);
    let wall = began.elapsed().as_secs_f64();
    let status = cluster.status()?;
    let nodes = status["nodes"].as_array().context("nodes")?;
    let ready = nodes.iter().flat_map(|n| n["services"].as_array().into_iter().flatten());
    let last = ready.filter_map(|s| s["ready_ms"].as_f64()).fold(0.0, f64::max) / 1000.0;
    println!(
        "cold up of {} node(s): {last:.2} s of guest time (x {}), {wall:.1} s of wall time",
        nodes.len(),
        status["dilation"]
    );
    Ok((last, wall))
}

fn at_rest(cluster: &Cluster) -> Result<()> {
    let ticks = |pid: u32| -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        Ok(fields[11].parse::<f64>()? + fields[12].parse::<f64>()?)
    };
    let pids = cluster.pids();
    let before: Result<Vec<f64>> = pids.iter().map(|p| ticks(*p)).collect();
    let lasts = Duration::from_secs(20);
    std::thread::sleep(lasts);
    for (i, (pid, before)) in pids.iter().zip(before?).enumerate() {
        let share = (ticks(*pid)? - before) / 100.0 / lasts.as_secs_f64() * 100.0;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default().trim().to_owned();
        println!("node {}: {share:.1} % of a core, {rss} resident (512 MiB given)", i + 1);
    }
    Ok(())
}

/// Writers on all members while something happens after a while.
fn under_writers(clients: Vec<Client>, clock: Clock, happens: impl FnOnce() + Send) -> Record {
    let stop = AtomicBool::new(false);
    let clients: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(i, c)| {
            let c = c.patient(PATIENCE, clock);
            move |n: u64| c.put(&format!("bench/{i}"), &n.to_string())
        })
        .collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(clock.host(CALM));
            happens();
            std::thread::sleep(clock.host(CALM));
            stop.store(true, Ordering::Relaxed);
        });
        run(clock, EVERY, clients, &stop)
    })
}

fn tell(what: &str, record: &Record) {
    let s = record.summary();
    println!(
        "{what}: {} writes, p50 {:.1} ms, p99 {:.1} ms, longest gap {:.0} ms ({} failed)",
        s.answered, s.p50_ms, s.p99_ms, s.gap_ms, s.failed
    );
}

fn writes(cluster: &Cluster) -> Result<()> {
    let clock = cluster.clock();
    let clients = || ALL.iter().map(|n| cluster.client(n)).collect::<Vec<_>>();
    tell("nothing happens", &under_writers(clients(), clock, || {}));
    for (what, verb) in
        [("the leader is killed (goal 1000 ms)", "kill"), ("the leader is stopped in order (goal 300 ms)", "reboot")]
    {
        cluster.ok(&["restore", "booted"]);
        let leader = cluster.leader();
        let words: Vec<&str> = if verb == "kill" { vec![verb, &leader] } else { vec![verb, &leader, "--no-wait"] };
        tell(what, &under_writers(clients(), clock, || drop(cluster.ok(&words))));
    }
    Ok(())
}

/// The same three etcd processes with the same certificates' kinds on this machine, without VMs.
fn writes_without_vms() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let etcd = extract_etcd(dir.path())?;
    let pki = qemu_tests::host_pki::HostPki::make(dir.path())?;
    let start = |i: u16| -> Result<Child> {
        let name = format!("m{i}");
        let url = |port: u16| format!("https://127.0.0.1:{}", port + i);
        let list: Vec<String> = (0..3).map(|j| format!("m{j}=https://127.0.0.1:{}", 23_800 + j)).collect();
        let log = std::fs::File::create(dir.path().join(format!("{name}.log")))?;
        let mut c = Command::new(&etcd);
        c.args([
            format!("--name={name}"),
            format!("--data-dir={}", dir.path().join(&name).display()),
            format!("--initial-cluster={}", list.join(",")),
            format!("--listen-client-urls={}", url(23_790)),
            format!("--advertise-client-urls={}", url(23_790)),
            format!("--listen-peer-urls={}", url(23_800)),
            format!("--initial-advertise-peer-urls={}", url(23_800)),
            "--heartbeat-interval=50".into(),
            "--election-timeout=500".into(),
            "--client-cert-auth".into(),
            "--peer-client-cert-auth".into(),
        ]);
        for (flag, file) in [("cert-file", "leaf.crt"), ("key-file", "leaf.key"), ("trusted-ca-file", "ca.crt")] {
            for prefix in ["", "peer-"] {
                c.arg(format!("--{prefix}{flag}={}", dir.path().join(file).display()));
            }
        }
        c.stdout(Stdio::null()).stderr(log);
        lab::vm::die_with_parent(&mut c);
        Ok(c.spawn()?)
    };
    let mut members: Vec<Child> = (0..3).map(start).collect::<Result<_>>()?;
    let clock = Clock::new(1.0)?;
    let client = |i: u16| -> Result<Client> {
        let to = SocketAddr::from(([127, 0, 0, 1], 23_790 + i));
        Client::with(to, &pki.ca, Some((&pki.cert, &pki.key)), clock)
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while client(0)?.put("ready", "1").is_err() {
        ensure!(Instant::now() < deadline, "etcd on the host did not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    let clients = || (0..3).map(client).collect::<Result<Vec<_>>>();
    tell(
        "peer, the same on the host without VMs (real time): nothing happens",
        &under_writers(clients()?, clock, || {}),
    );
    let leader = (0..3_u16)
        .find(|i| client(*i).and_then(|c| c.leader()).is_ok_and(|(id, leader)| Some(id) == leader))
        .context("a leader")?;
    let pid = members[usize::from(leader)].id();
    let killed = under_writers(clients()?, clock, || {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap_or(0)),
            nix::sys::signal::Signal::SIGKILL,
        );
    });
    tell("peer, on the host: the leader is killed", &killed);
    for member in &mut members {
        let _ = member.kill();
        member.wait()?;
    }
    Ok(())
}

/// etcd out of the image's root.
fn extract_etcd(dir: &Path) -> Result<std::path::PathBuf> {
    let initrd = std::fs::read(image().join("initrd"))?;
    let (_, root) = initrd_facts(&initrd)?;
    std::fs::write(dir.join("root.img"), &initrd[root])?;
    let out = Command::new("unsquashfs")
        .args(["-q", "-n", "-d"])
        .arg(dir.join("root"))
        .arg(dir.join("root.img"))
        .arg("usr/bin/etcd")
        .output()
        .context("running unsquashfs")?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(dir.join("root/usr/bin/etcd"))
}
