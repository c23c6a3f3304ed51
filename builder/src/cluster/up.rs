//! Clusters of VMs on this machine.
//!
//! `up` starts one background process, the keeper (`quorate cluster keep`), which owns the QEMU processes. `up`, `status`
//! and `down` are its clients over a unix socket: one request line, answer lines until the end. Ctrl-C during `up` ends
//! the keeper; after `up` the cluster stays until `down`; the keeper's death ends every QEMU.

use super::machines::{machines, pace, state_dir};
use super::spec::{self, Spec};
use super::{seed, seed::dir_of};
use crate::cli::Format;
use anyhow::{Context, Result, bail};
use lab::vm::Vm;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// What a node prints when everything it runs is ready.
const READY: &str = "quorate: all ready";
/// An orderly shutdown takes a fraction of a guest second; a node that is not up yet does not hear the button.
const GRACE: Duration = Duration::from_secs(5);
/// Ctrl-C was heard during `up`.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// A node that is not ready after so much of its own time will hardly be.
const PATIENCE: Duration = Duration::from_secs(120);

/// What runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    cluster: String,
    /// A guest second in host seconds.
    dilation: f64,
    nodes: Vec<NodeStatus>,
    etcd: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct NodeStatus {
    name: String,
    pid: u32,
    ready: bool,
    /// Last line of its own on the console.
    said: String,
    console: PathBuf,
}

/// A unix socket's path has 108 bytes at most, so it lies in the runtime directory under a short name.
fn socket(spec: &Spec) -> PathBuf {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let key = crate::digest::sha256(state_dir(spec).as_os_str().as_encoded_bytes());
    dir.join(format!("quorate-{}-{}.sock", spec.cluster.name, &key[..8]))
}

fn ask(spec: &Spec, request: &str) -> Result<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect(socket(spec)).context("no keeper answers: the cluster is not up")?;
    writeln!(stream, "{request}")?;
    Ok(BufReader::new(stream))
}

fn fetch_status(spec: &Spec) -> Result<Status> {
    let mut line = String::new();
    ask(spec, "status")?.read_line(&mut line)?;
    serde_json::from_str(&line).context("reading the keeper's answer")
}

/// `cluster up`.
pub(crate) fn up(file: &Path, images: &Path) -> Result<()> {
    let spec = spec::read(file)?;
    spec.warnings.iter().for_each(|w| eprintln!("quorate: {}: warning: {w}", file.display()));
    if !dir_of(&spec, file, "seed").exists() {
        seed::write(&spec, file)?;
    }
    if fetch_status(&spec).is_err() {
        claim_state(&spec, file)?;
        start_keeper(&spec, file, images)?;
    }
    end_on_interrupt(&spec)?;
    let came_up = follow_until_ready(&spec);
    if INTERRUPTED.load(Ordering::SeqCst) {
        // The thread that hears Ctrl-C ends this process when the VMs are gone.
        loop {
            std::thread::park();
        }
    }
    came_up?;
    show(&spec, file)
}

/// Passes the nodes' own lines on until all are ready; a cluster that does not come up is ended.
fn follow_until_ready(spec: &Spec) -> Result<()> {
    for line in ask(spec, "follow")?.lines() {
        let line = line.context("the keeper ended")?;
        if let Some(why) = line.strip_prefix("FAILED ") {
            let _ = ask(spec, "end");
            bail!("{why}");
        }
        eprintln!("{line}");
    }
    Ok(())
}

/// The nodes' disks are of one cluster: another one of the same name (another checkout, new secrets) must not meet
/// them, because a node keeps the identity of its disk.
fn claim_state(spec: &Spec, file: &Path) -> Result<()> {
    let own = super::secrets::Secrets::open(&dir_of(spec, file, "secrets"))?.id;
    let path = state_dir(spec).join("cluster-id");
    match std::fs::read_to_string(&path) {
        Ok(id) if id.trim() == own => Ok(()),
        Ok(id) => bail!(
            "the disks in {} belong to another cluster named {} (id {}, this one has {own}); hint: `quorate cluster down \
             {} --wipe` forgets them",
            state_dir(spec).display(),
            spec.cluster.name,
            id.trim(),
            file.display()
        ),
        Err(_) => crate::store::write_whole(&path, format!("{own}\n").as_bytes()),
    }
}

/// Starts the keeper in a session of its own and waits until it listens.
fn start_keeper(spec: &Spec, file: &Path, images: &Path) -> Result<()> {
    let dir = state_dir(spec);
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let log_path = dir.join("keeper.log");
    let log = std::fs::File::create(&log_path)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["cluster", "keep"]).arg(std::path::absolute(file)?).arg("--images").arg(std::path::absolute(images)?);
    // Of its own process group: the terminal's Ctrl-C is for `up`, which then tells the keeper.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).process_group(0);
    let mut child = command.spawn().context("starting the keeper")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    if line.trim() != "listening" {
        bail!("the keeper did not start: {}", std::fs::read_to_string(&log_path).unwrap_or_default().trim());
    }
    Ok(())
}

fn end_on_interrupt(spec: &Spec) -> Result<()> {
    let path = socket(spec);
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            INTERRUPTED.store(true, Ordering::SeqCst);
            if let Ok(mut s) = UnixStream::connect(&path) {
                let _ = writeln!(s, "end");
                // The keeper closes the connection when the VMs are gone.
                let _ = std::io::copy(&mut s, &mut std::io::sink());
            }
            eprintln!("\nquorate: interrupted; the cluster is down");
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// `cluster status`.
pub(crate) fn status(file: &Path, format: Format) -> Result<()> {
    let spec = spec::read(file)?;
    match format {
        Format::Text => show(&spec, file),
        Format::Json => {
            println!("{}", serde_json::to_string_pretty(&fetch_status(&spec)?)?);
            Ok(())
        }
    }
}

/// `cluster down`.
pub(crate) fn down(file: &Path, wipe: bool) -> Result<()> {
    let spec = spec::read(file)?;
    match ask(&spec, "down") {
        Ok(mut answer) => {
            std::io::copy(&mut answer, &mut std::io::sink())?;
            println!("{} is down", spec.cluster.name);
        }
        Err(_) => println!("{} was not up", spec.cluster.name),
    }
    if wipe && state_dir(&spec).exists() {
        std::fs::remove_dir_all(state_dir(&spec))?;
        println!("its nodes' disks are gone");
    }
    Ok(())
}

/// etcd's own status, and how to talk to it.
fn show(spec: &Spec, file: &Path) -> Result<()> {
    let status = fetch_status(spec)?;
    for n in &status.nodes {
        println!("{:<16} {:<8} pid {:<8} {}", n.name, if n.ready { "ready" } else { "waiting" }, n.pid, n.said);
    }
    if status.etcd.is_empty() {
        return Ok(());
    }
    let seeds = std::path::absolute(dir_of(spec, file, "seed"))?;
    let file_of = |n: &str| seeds.join(n).display().to_string();
    let arguments = [
        format!("--endpoints={}", status.etcd.join(",")),
        format!("--cacert={}", file_of("etcd-server-ca.crt")),
        format!("--cert={}", file_of("etcd-admin.crt")),
        format!("--key={}", file_of("etcd-admin.key")),
    ];
    let etcdctl = etcdctl(spec)?;
    // The host's timeouts are in real time, the guest's clock may be slower.
    let seconds = 5.0 * status.dilation;
    for verb in [["endpoint", "status"], ["endpoint", "health"]] {
        let out = Command::new(&etcdctl)
            .args(&arguments)
            .args([format!("--dial-timeout={seconds}s"), format!("--command-timeout={seconds}s"), "-w=table".into()])
            .args(verb)
            .status()
            .context("running etcdctl")?;
        if !out.success() {
            bail!("etcdctl {} ended with {out}", verb.join(" "));
        }
    }
    println!("\ntalk to it:\n  {} \\\n    {} member list", etcdctl.display(), arguments.join(" \\\n    "));
    let own = std::env::current_exe().map_or_else(|_| "quorate".into(), |p| p.display().to_string());
    println!("end it:\n  {own} cluster down {}", file.display());
    Ok(())
}

/// etcdctl as the image has it: taken from the component's build, or the one on the path.
fn etcdctl(spec: &Spec) -> Result<PathBuf> {
    let own = state_dir(spec).join("bin/etcdctl");
    let built = || -> Result<Vec<u8>> {
        let recipe = crate::component::Recipe::read(Path::new("profiles"), "etcd")?;
        let store = crate::store::Store::at(crate::dirs::cache().join("quorate"))?;
        let parts = crate::component::go::Toolchain::find(true)?.built(&recipe, &store).context("etcd is not built")?;
        store.get(&parts["etcdctl"]).context("etcdctl is not in the store")
    };
    if let Ok(bytes) = built() {
        crate::store::write_whole_mode(&own, &bytes, 0o755)?;
        return Ok(own);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|d| d.join("etcdctl")).find(|f| f.is_file());
    found.context("no etcdctl: neither built here (`quorate image build etcd`) nor on the PATH")
}

/// What the keeper's threads tell the one that owns the VMs.
enum Ask {
    Status(UnixStream),
    Follow(UnixStream),
    /// The power button, and then the end.
    Down(UnixStream),
    /// The end, at once.
    End(UnixStream),
    Interrupted,
}

/// `cluster keep`: owns the VMs. They were made by this thread and end with it.
pub(crate) fn keep(file: &Path, images: &Path) -> Result<()> {
    let spec = spec::read(file)?;
    let path = socket(&spec);
    // A socket left behind by a keeper that was killed: nobody listens on it, or `up` would have found out.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| format!("listening on {}", path.display()))?;
    let seeds = dir_of(&spec, file, "seed");
    let mut vms = Vec::new();
    for machine in machines(&spec, images, &seeds)? {
        vms.push((Vm::start(&machine)?, machine));
    }
    let mut etcd = Vec::new();
    for (vm, machine) in &mut vms {
        for (_, to) in &machine.forwards {
            let host: SocketAddr = vm.forwarded(*to)?;
            if to.port() == contract::ports::ETCD_CLIENT {
                etcd.push(format!("https://{host}"));
            }
        }
    }
    let (_, clock) = pace(&spec)?;
    println!("listening");
    let (sender, asks) = mpsc::channel();
    accept(listener, sender.clone());
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP])?;
    std::thread::spawn(move || signals.forever().next().map(|_| sender.send(Ask::Interrupted)));
    for ask in asks {
        match ask {
            Ask::Status(mut s) => {
                let nodes = vms.iter().map(|(vm, m)| node_status(vm, m)).collect();
                let status =
                    Status { cluster: spec.cluster.name.clone(), dilation: clock.factor(), nodes, etcd: etcd.clone() };
                let _ = writeln!(s, "{}", serde_json::to_string(&status)?);
            }
            Ask::Follow(s) => {
                let consoles: Vec<_> = vms.iter().map(|(vm, m)| (m.name.clone(), vm.console.clone())).collect();
                let bound = clock.host(PATIENCE);
                std::thread::spawn(move || follow(s, &consoles, bound));
            }
            Ask::Down(s) => {
                for (vm, _) in &mut vms {
                    // One that does not hear the button, or not in time, loses its power with the rest.
                    let _ = vm.power_button();
                }
                for (vm, _) in &mut vms {
                    let _ = vm.wait_end(GRACE);
                }
                drop(vms);
                let _ = std::fs::remove_file(&path);
                drop(s);
                return Ok(());
            }
            Ask::End(s) => {
                drop(vms);
                let _ = std::fs::remove_file(&path);
                drop(s);
                return Ok(());
            }
            Ask::Interrupted => break,
        }
    }
    let _ = std::fs::remove_file(&path);
    Ok(())
}

fn accept(listener: UnixListener, sender: mpsc::Sender<Ask>) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut line = String::new();
            if BufReader::new(&stream).read_line(&mut line).is_err() {
                continue;
            }
            let ask = match line.trim() {
                "status" => Ask::Status(stream),
                "follow" => Ask::Follow(stream),
                "down" => Ask::Down(stream),
                "end" => Ask::End(stream),
                _ => continue,
            };
            if sender.send(ask).is_err() {
                return;
            }
        }
    });
}

fn node_status(vm: &Vm, machine: &lab::command::Machine) -> NodeStatus {
    let lines = vm.console.since(0);
    let said = lines.iter().rev().find(|l| l.contains("quorate: ")).cloned().unwrap_or_default();
    NodeStatus {
        name: machine.name.clone(),
        pid: vm.pid(),
        ready: vm.has_said(READY),
        said,
        console: machine.dir.join(format!("{}.console.log", machine.name)),
    }
}

/// Sends every node's own lines until all are ready, or says which node failed.
fn follow(mut client: UnixStream, consoles: &[(String, lab::console::Console)], bound: Duration) {
    for (name, console) in consoles {
        let mut at = 0;
        loop {
            match console.wait(at, bound, &format!("node {name}"), |l| l.contains("quorate: ")) {
                Ok((line, next)) => {
                    at = next;
                    if writeln!(client, "{name} {line}").is_err() || line.contains(READY) {
                        break;
                    }
                    if line.contains("quorate: MAINTENANCE") || line.contains("quorate: STOPPED") {
                        let _ = writeln!(client, "FAILED node {name} is not coming up; see its console log");
                        return;
                    }
                }
                Err(e) => {
                    let _ = writeln!(client, "FAILED {}", format!("{e:#}").replace('\n', " | "));
                    return;
                }
            }
        }
    }
}
