//! The keeper process: owns the cluster on its main thread (the VMs end with it) and does what it is asked, one thing
//! after the other; what goes on is handed to threads.

use super::client::socket;
use super::owner::Owner;
use super::state::{NodeStatus, ServiceStatus, generation, holds_vip, state};
use super::stream::{self, Followed, end, send};
use super::{Answer, Request, Status};
use crate::cli::cluster::Lab;
use crate::cluster::machines::{self, state_dir};
use crate::cluster::seed::dir_of;
use crate::cluster::spec::{self, Spec};
use anyhow::{Context, Result};
use contract::node::Role;
use contract::ports::{ETCD_CLIENT, SNAPSHOTS};
use contract::voice::ToNode;
use lab::accel::Accel;
use lab::cluster::Cluster;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// An orderly shutdown takes about a guest second; a node that is not up yet does not hear the button, and an etcd leader
/// whose followers are all going too waits for seconds for one to hand over to. Nothing is lost by cutting its power then.
const GRACE: Duration = Duration::from_secs(2);
/// A node answers on its port at once or never.
const ANSWER: Duration = Duration::from_secs(10);
/// A request is one short line. Bytes.
const REQUEST_MAX: u64 = 64 << 10;

enum Ask {
    Asked(UnixStream, Request),
    /// SIGTERM or SIGHUP, or the end of whom the cluster ends with.
    Interrupted,
}

struct Keeper {
    spec: Spec,
    file: PathBuf,
    accel: Accel,
    cluster: Cluster,
}

/// `cluster keep`.
pub(crate) fn keep(file: &Path, lab: &Lab, only: &[String], restore: Option<&str>) -> Result<()> {
    let file = std::path::absolute(file)?;
    let spec = spec::read(&file)?;
    let path = socket(&spec.cluster.name);
    // A socket left behind by a keeper that was killed: nobody listens on it, or `up` would have found out.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| format!("listening on {}", path.display()))?;
    let bound = Bound(path);
    let (sender, asks) = mpsc::channel();
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP])?;
    let interrupted = sender.clone();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            // Nobody hears it when the keeper ends anyway.
            drop(interrupted.send(Ask::Interrupted));
        }
    });
    if let Some(pid) = lab.pid {
        let owner = Owner::open(pid)?;
        let ended = sender.clone();
        std::thread::spawn(move || {
            owner.wait();
            eprintln!("the process {pid} ended: the cluster ends with it");
            drop(ended.send(Ask::Interrupted));
        });
    }
    let (plan, accel) = machines::plan(&spec, &file, lab)?;
    let mut cluster = Cluster::new(&plan)?;
    match restore {
        Some(name) => cluster.restore(&machines::snapshot_dir(&spec, name)?)?,
        None if only.is_empty() => cluster.boot_all()?,
        None => only.iter().try_for_each(|n| cluster.boot(n))?,
    }
    println!("listening");
    std::thread::spawn(move || accept(&listener, &sender));
    let mut keeper = Keeper { spec, file, accel, cluster };
    let mut last = None;
    // Borrowed: who asks while the cluster goes down waits for the end of it, and does not take it for one that is off.
    for ask in &asks {
        match ask {
            Ask::Interrupted => break,
            Ask::Asked(client, Request::Down) => {
                keeper.shut_down();
                last = Some(client);
                break;
            }
            Ask::Asked(client, Request::End) => {
                last = Some(client);
                break;
            }
            Ask::Asked(client, request) => keeper.answer(client, request),
        }
    }
    keeper.write_timeline();
    drop(keeper);
    drop(bound);
    drop(asks);
    if let Some(client) = last {
        end(client, Ok(()));
    }
    Ok(())
}

/// The socket's file, gone with its listener.
struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn accept(listener: &UnixListener, sender: &mpsc::Sender<Ask>) {
    for stream in listener.incoming().flatten() {
        let sender = sender.clone();
        // A client that says nothing holds up nobody.
        std::thread::spawn(move || {
            let mut line = Vec::new();
            if BufReader::new((&stream).take(REQUEST_MAX)).read_until(b'\n', &mut line).is_err() || line.is_empty() {
                return;
            }
            match serde_json::from_slice(&line) {
                Ok(request) => drop(sender.send(Ask::Asked(stream, request))),
                Err(e) => end(stream, Err(anyhow::anyhow!("the keeper does not understand: {e}"))),
            }
        });
    }
}

impl Keeper {
    fn answer(&mut self, mut client: UnixStream, request: Request) {
        let result = match request {
            Request::Status => {
                let status = self.status();
                send(&mut client, &Answer::Status(Box::new(status)));
                Ok(())
            }
            Request::Report { node } => self.cluster.vm(&node).map(|vm| {
                let report = vm.voice.report().map(Box::new);
                send(&mut client, &Answer::Report { report });
            }),
            Request::Timeline => {
                send(&mut client, &Answer::Timeline { events: self.cluster.timeline() });
                Ok(())
            }
            Request::Reload { images } => self.reload(&images),
            Request::Forget { node } => self.forget(&node),
            Request::Follow { .. } | Request::Logs { .. } | Request::Console { .. } | Request::Signal { .. } => {
                return self.stream(client, request);
            }
            other => self.act(other),
        };
        end(client, result);
    }

    fn act(&mut self, request: Request) -> Result<()> {
        let c = &mut self.cluster;
        match request {
            Request::Kill { nodes } => nodes.iter().try_for_each(|n| c.kill(n)),
            Request::Start { nodes } => nodes.iter().try_for_each(|n| c.boot(n)),
            Request::Reboot { nodes, hard: true } => nodes.iter().try_for_each(|n| c.reset(n)),
            Request::Reboot { nodes, hard: false } => nodes.iter().try_for_each(|n| c.reboot(n)),
            Request::Clock { nodes, seconds } => {
                let on = c.names().into_iter().filter(|n| nodes.is_empty() && c.is_on(n)).collect::<Vec<_>>();
                for node in nodes.iter().chain(&on) {
                    c.vm(node)?.voice.say(&ToNode::Clock { seconds })?;
                    c.note(node, &format!("clock {seconds:+} s"));
                }
                Ok(())
            }
            Request::Stop { node } => c.power_button(&node),
            Request::Replan { node } => {
                c.vm(&node)?.voice.say(&ToNode::Replan)?;
                c.note(&node, "reads its seed again");
                Ok(())
            }
            Request::Impair { nodes, from, to } => c.impair(&nodes, &from, &to),
            Request::Divide { sets, protocol } => c.divide(&sets, protocol),
            Request::SlowDisk { nodes, operations } => c.slow_disks(&nodes, operations),
            Request::Heal => c.heal(),
            Request::Capture { node, out } => c.switch().capture(&node, &out),
            Request::Save { name } => c.save(&machines::snapshot_dir(&self.spec, &name)?),
            Request::Restore { name } => c.restore(&machines::snapshot_dir(&self.spec, &name)?),
            _ => anyhow::bail!("not something to do"),
        }
    }

    /// What is there stays as it is.
    fn reload(&mut self, images: &Path) -> Result<()> {
        let spec = spec::read(&self.file)?;
        let seeds = dir_of(&spec, &self.file, "seed");
        let known = self.cluster.names();
        let machines = machines::machines(&spec, images, &seeds, self.accel, self.cluster.clock())?;
        machines.into_iter().filter(|m| !known.contains(&m.name)).for_each(|m| self.cluster.add(m));
        if let Some(gateway) = self.cluster.gateway() {
            for (_, to) in machines::forwards(&spec) {
                gateway.forward(to)?;
            }
        }
        self.spec = spec;
        Ok(())
    }

    fn forget(&mut self, node: &str) -> Result<()> {
        self.cluster.remove(node)?;
        self.spec.nodes.retain(|n| n.name != node);
        // A name that comes back is another node's: it must not find this one's identity.
        let disk = state_dir(&self.spec.cluster.name).join(format!("{node}.qcow2"));
        match std::fs::remove_file(&disk) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("removing {}", disk.display()))
            }
            _ => Ok(()),
        }
    }

    fn stream(&mut self, client: UnixStream, request: Request) {
        let clock = self.cluster.clock();
        match request {
            Request::Follow { nodes, patience } => {
                let names = if nodes.is_empty() { self.cluster.names() } else { nodes };
                let mut followed = Vec::new();
                for name in names {
                    let from = self.cluster.said_before(&name);
                    if let Ok(vm) = self.cluster.vm(&name) {
                        let (voice, console) = (vm.voice.clone(), vm.console.clone());
                        followed.push(Followed { name, voice, console, complaints: vm.complaints.clone(), from });
                    }
                }
                std::thread::spawn(move || {
                    stream::follow(client, followed, clock.host(Duration::from_secs_f64(patience)));
                });
            }
            Request::Logs { node, service, lines, follow } => match self.cluster.vm(&node) {
                Ok(vm) => {
                    let voice = vm.voice.clone();
                    std::thread::spawn(move || match service {
                        Some(s) => stream::log(client, &voice, &s, lines, follow, clock.host(ANSWER)),
                        None => stream::said(client, &voice, lines, follow),
                    });
                }
                Err(e) => end(client, Err(e)),
            },
            Request::Signal { node, service, signal } => match self.cluster.vm(&node).map(|vm| vm.voice.clone()) {
                Ok(voice) => {
                    self.cluster.note(&node, &format!("{} for {service}", signal.word()));
                    let bound = clock.host(ANSWER);
                    std::thread::spawn(move || end(client, voice.signal(&service, signal, bound)));
                }
                Err(e) => end(client, Err(e)),
            },
            Request::Console { node, follow } => match self.cluster.vm(&node) {
                Ok(vm) => {
                    let console = vm.console.clone();
                    std::thread::spawn(move || stream::console(client, &console, follow));
                }
                Err(e) => end(client, Err(e)),
            },
            _ => end(client, Ok(())),
        }
    }

    fn status(&mut self) -> Status {
        let forwards: Vec<(SocketAddr, SocketAddr)> =
            self.cluster.gateway().map(|g| g.forwards().to_vec()).unwrap_or_default();
        let here = |to: SocketAddr| forwards.iter().find(|(_, t)| *t == to).map(|(h, _)| *h);
        let nodes = &self.spec.nodes;
        let members = |port| {
            let with = nodes.iter().filter(|n| n.roles.contains(&Role::Etcd));
            with.filter_map(|n| Some((n.name.clone(), here(SocketAddr::new(n.address.addr(), port))?))).collect()
        };
        let (etcd, snapshots) = (members(ETCD_CLIENT), members(SNAPSHOTS));
        let api = machines::api(&self.spec).and_then(here);
        let cluster = &mut self.cluster;
        let nodes = self.spec.nodes.iter().map(|n| node_status(cluster, n, &state_dir(&self.spec.cluster.name)));
        Status {
            nodes: nodes.collect(),
            cluster: self.spec.cluster.name.clone(),
            file: self.file.clone(),
            accel: self.accel,
            dilation: self.cluster.clock().factor(),
            now_ms: self.cluster.now_ms(),
            keeper_pid: std::process::id(),
            forwards,
            etcd,
            snapshots,
            api,
            switch: self.cluster.switch().counters(),
        }
    }

    fn shut_down(&mut self) {
        let names = self.cluster.names();
        // Cut off, a node could not hand its part over: the faults go first.
        if let Err(e) = self.cluster.heal() {
            eprintln!("quorate: {e:#}");
        }
        for name in &names {
            // One that does not hear the button, or not in time, loses its power with the rest.
            let _ = self.cluster.power_button(name);
        }
        let clock = self.cluster.clock();
        let deadline = Instant::now() + clock.host(GRACE);
        for name in &names {
            let left = deadline.saturating_duration_since(Instant::now());
            let _ = self.cluster.wait_end(name, clock.guest(left));
        }
    }

    /// What happened, for whoever comes later.
    fn write_timeline(&self) {
        let text: String = self.cluster.timeline().iter().map(crate::cluster::show::event_line).collect();
        let path = state_dir(&self.spec.cluster.name).join("timeline.txt");
        if let Err(e) = crate::store::write_whole(&path, text.as_bytes()) {
            eprintln!("{}: {e:#}", path.display());
        }
    }
}

fn node_status(cluster: &mut Cluster, node: &spec::Node, dir: &Path) -> NodeStatus {
    let (uptime, from) = (cluster.uptime_ms(&node.name), cluster.said_before(&node.name));
    let mut status = NodeStatus {
        name: node.name.clone(),
        roles: node.roles.iter().map(ToString::to_string).collect(),
        address: node.address.addr().to_string(),
        state: state(false, &[], &[], None),
        pid: None,
        uptime_ms: 0,
        said: String::new(),
        generation: None,
        holds_vip: false,
        services: vec![],
        console: dir.join(format!("{}.console.log", node.name)),
    };
    let Ok(vm) = cluster.vm(&node.name) else { return status };
    let (lines, report) = (vm.voice.lines(from), vm.voice.report());
    status.state = state(true, &vm.console.since(0), &lines, report.as_ref());
    status.pid = Some(vm.pid());
    status.uptime_ms = uptime;
    status.holds_vip = holds_vip(&lines);
    status.generation = generation(&lines);
    status.said = lines.last().map(|l| l.text.clone()).unwrap_or_default();
    status.services = report
        .map(|r| r.services)
        .unwrap_or_default()
        .into_iter()
        .map(|s| ServiceStatus { name: s.name, ready_ms: s.ready_ms, restarts: s.restarts })
        .collect();
    status
}
