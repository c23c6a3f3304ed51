//! Clusters of VMs, driven as a user drives them: by the `quorate cluster` commands, each cluster with state and sockets
//! of its own. As many run at a time as two cores bear ([`crate::cores`]).
//!
//! A test that fails leaves its evidence in `target/evidence/<test>/`: consoles, logs, boot reports, the switch's
//! counters and a timeline over all nodes in guest time.

use crate::cores::Turn;
use crate::{checkout, etcd::Client, image, program};
use anyhow::{Context, Result, ensure};
use lab::clock::Clock;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Host seconds per guest second of a cluster that is restored: one that runs bears less than one that boots.
const RESTORED: f64 = 4.5;
/// A state of a node is looked at this often: commands answer, they do not tell. Host time.
const LOOK: Duration = Duration::from_millis(200);

/// A cluster. It ends with this value.
#[derive(Debug)]
pub struct Cluster {
    /// cluster.toml, seeds, state.
    pub dir: tempfile::TempDir,
    _turn: Turn,
}

/// The example of three members.
pub fn three() -> String {
    crate::read(&checkout().join("examples/etcd.toml"))
}

/// The example's members, and more of them.
pub fn of(members: usize) -> String {
    let text = three();
    let (nodes, lab) = text.split_once("\n[lab]").expect("a [lab] section");
    let more = (4..=members).map(|i| {
        format!(
            "\n[[node]]\nname = \"etcd-{i}\"\nroles = [\"etcd\"]\naddress = \"10.77.0.3{i}/24\"\n\
             mac = \"52:54:00:77:00:3{i}\"\nstate = {{ disk = \"/dev/vda\" }}\n"
        )
    });
    format!("{nodes}{}\n[lab]{lab}", more.collect::<String>())
}

/// How many nodes `cluster up` boots with these options.
fn booted(description: &str, up: &[&str]) -> usize {
    let only = up.iter().skip_while(|o| **o != "--only").nth(1);
    only.map_or_else(|| description.matches("[[node]]").count(), |names| names.split(',').count())
}

/// A cluster that was booted, and is kept for whoever wants it restored.
#[derive(Debug)]
pub struct Saved {
    kept: PathBuf,
    factor: f64,
}

impl Cluster {
    /// With this description; nothing runs yet.
    pub fn new(description: &str) -> Self {
        Self::where_run(booted(description, &[]), description)
    }

    /// The same where no more than so many of its nodes run at a time.
    fn where_run(nodes: usize, description: &str) -> Self {
        let turn = Turn::for_nodes(nodes);
        let dir = crate::directory().expect("a directory");
        std::fs::write(dir.path().join("cluster.toml"), description).expect("written");
        Self { dir, _turn: turn }
    }

    /// Three members that are up: booted once per process, restored for every caller, and then at a smaller factor of
    /// the clock than a boot of all three needs.
    pub fn booted() -> Self {
        Self::booted_at(RESTORED)
    }

    /// The same at another factor, for those who add to it.
    pub fn booted_at(most: f64) -> Self {
        static BOOTED: OnceLock<Saved> = OnceLock::new();
        Self::restored(&BOOTED, "three", &three(), &[], 3, most, |_| ())
    }

    /// A cluster that is up: booted once per `saved` and kept when it has `settled`, restored for every caller with `most` host
    /// seconds per guest second at most, who has no more than so many `nodes` run at a time.
    pub fn restored(
        saved: &OnceLock<Saved>,
        name: &str,
        description: &str,
        up: &[&str],
        nodes: usize,
        most: f64,
        settled: impl FnOnce(&Self),
    ) -> Self {
        // Whoever waits for the boot holds no cores meanwhile.
        let Saved { kept: first, factor } = saved.get_or_init(|| {
            let cluster = Self::where_run(booted(description, up), description);
            cluster.up(up);
            settled(&cluster);
            let factor = cluster.clock().factor();
            cluster.ok(&["save", "booted"]);
            let nodes = cluster.status().expect("it is up")["nodes"].as_array().cloned().expect("nodes");
            let on: Vec<&str> = nodes.iter().filter(|n| n["pid"].is_u64()).filter_map(|n| n["name"].as_str()).collect();
            cluster.ok(&[&["kill"], &on[..]].concat());
            // A value of a static is never dropped, so what is to be shared lies with the build.
            let kept = checkout().join("target/booted").join(name);
            let _ = std::fs::remove_dir_all(&kept);
            copy(cluster.dir.path(), &kept);
            cluster.end();
            Saved { kept, factor }
        });
        let cluster = Self::where_run(nodes, description);
        for part in ["demo.secrets", "demo.seed"] {
            copy(&first.join(part), &cluster.dir.path().join(part));
        }
        let snapshots = cluster.state().join("snapshots");
        std::fs::create_dir_all(&snapshots).expect("made");
        std::os::unix::fs::symlink(first.join("state/quorate/demo/snapshots/booted"), snapshots.join("booted"))
            .expect("linked");
        let options = with_images(&[], up);
        cluster
            .ok(&[&["restore", "booted", "--dilation", &factor.min(most).to_string()], &words(&options)[..]].concat());
        cluster
    }

    /// A command of `quorate cluster` on it.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut c = Command::new(program("quorate"));
        c.current_dir(checkout()).arg("cluster").args(words);
        c.env("XDG_STATE_HOME", self.dir.path().join("state")).env("XDG_RUNTIME_DIR", self.dir.path());
        let file = self.dir.path().join("cluster.toml");
        // A test run that is killed leaves no VMs.
        if matches!(words.first(), Some(&("up" | "restore"))) && !words.contains(&"--pid") {
            c.args(["--pid", &std::process::id().to_string()]);
        }
        match words.first() {
            Some(&("up" | "status" | "down" | "env" | "seed" | "apply")) => c.arg(file),
            _ => c.arg("--cluster").arg(file),
        };
        c
    }

    /// Runs a command of `quorate etcd` on it; its status, and all that it printed.
    pub fn etcd(&self, words: &[&str]) -> (Output, String) {
        let like = self.command(&[]);
        let mut etcd = Command::new(program("quorate"));
        // As a command of `quorate cluster`, but for that word.
        etcd.current_dir(checkout()).arg("etcd").args(words).args(like.get_args().skip(1));
        etcd.envs(like.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let out = etcd.output().expect("run");
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        (out, text)
    }

    /// Runs a command; its status, and all that it printed.
    pub fn run(&self, words: &[&str]) -> (Output, String) {
        let out = self.command(words).output().expect("run");
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        (out, text)
    }

    /// Runs a command that has to succeed.
    pub fn ok(&self, words: &[&str]) -> String {
        let (out, text) = self.run(words);
        assert!(out.status.success(), "quorate cluster {}: {}\n{text}", words.join(" "), out.status);
        text
    }

    /// Brings it up.
    pub fn up(&self, options: &[&str]) -> String {
        let options = with_images(options, options);
        self.ok(&[&["up"], &words(&options)[..]].concat())
    }

    /// What runs.
    pub fn status(&self) -> Result<Value> {
        let (out, text) = self.run(&["status", "--format", "json", "--local"]);
        ensure!(out.status.success(), "{text}");
        serde_json::from_slice(&out.stdout).context("reading the status")
    }

    /// A node's part of it.
    pub fn node(&self, name: &str) -> Value {
        let status = self.status().expect("it is up");
        let nodes = status["nodes"].as_array().expect("nodes");
        nodes.iter().find(|n| n["name"] == name).cloned().unwrap_or_default()
    }

    /// The lab's clock.
    pub fn clock(&self) -> Clock {
        let factor = self.status().expect("it is up")["dilation"].as_f64().expect("a factor");
        Clock::new(factor).expect("a clock")
    }

    /// Where a member is reached from here.
    pub fn endpoint(&self, node: &str) -> SocketAddr {
        let status = self.status().expect("it is up");
        status["etcd"][node].as_str().expect("an endpoint").parse().expect("an address")
    }

    /// Where the API is reached from here, at the virtual IP.
    pub fn api(&self) -> SocketAddr {
        self.status().expect("it is up")["api"].as_str().expect("a forward to it").parse().expect("an address")
    }

    /// Where an address of the lab is reached from here.
    pub fn forwarded(&self, to: &str) -> SocketAddr {
        let status = self.status().expect("it is up");
        let all = status["forwards"].as_array().expect("forwards");
        let found = all.iter().find(|f| f[1] == to).unwrap_or_else(|| panic!("no forward to {to}"));
        found[0].as_str().expect("an address").parse().expect("an address")
    }

    /// How far the clocks of a restored cluster are behind this machine's: since it was saved they stood still. To the minute.
    pub fn behind(&self) -> Duration {
        let saved = self.state().join("snapshots/booted");
        let at = std::fs::metadata(&saved).and_then(|m| m.modified()).expect("a saved state");
        at.elapsed().expect("of the past")
    }

    /// A client of one member.
    pub fn client(&self, node: &str) -> Client {
        Client::new(self.endpoint(node), &self.seeds(), self.clock()).expect("a client")
    }

    /// Waits until a node's last words, or its state, are as wanted.
    pub fn wait_for(&self, node: &str, what: &str, guest: Duration, wanted: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + self.clock().host(guest);
        loop {
            let now = self.node(node);
            if wanted(&now) {
                return;
            }
            assert!(Instant::now() < deadline, "node {node}: waited {guest:?} for {what}; it is {now:#}");
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until something is so, guest time; answers what was found.
    pub fn until<T>(&self, what: &str, guest: Duration, look: impl Fn() -> Option<T>) -> T {
        let deadline = Instant::now() + self.clock().host(guest);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "within {guest:?}: {what}");
            std::thread::sleep(LOOK);
        }
    }

    /// The member that leads.
    pub fn leader(&self) -> String {
        self.leads().expect("a leader")
    }

    /// ... if there is one just now.
    pub fn leads(&self) -> Option<String> {
        let mut names = std::collections::BTreeMap::new();
        let mut leader = None;
        for node in ["etcd-1", "etcd-2", "etcd-3"] {
            if let Ok((id, sees)) = self.client(node).leader() {
                leader = leader.or(sees);
                names.insert(id, node.to_owned());
            }
        }
        names.remove(&leader?)
    }

    /// Ends it at once.
    pub fn end(&self) {
        let (out, text) = self.run(&["down", "--wipe"]);
        assert!(out.status.success(), "{text}");
    }

    /// Seeds of a cluster of the same name, id and nodes, but with CAs of its own.
    pub fn stranger(like: &Self) -> PathBuf {
        Self::stranger_with(like, &crate::read(&like.dir.path().join("cluster.toml")))
    }

    /// Seeds of another description with the same name and id.
    pub fn stranger_with(like: &Self, description: &str) -> PathBuf {
        let dir = like.dir.path().join("stranger");
        std::fs::create_dir_all(dir.join("demo.secrets")).expect("made");
        std::fs::write(dir.join("cluster.toml"), description).expect("written");
        std::fs::copy(like.dir.path().join("demo.secrets/id"), dir.join("demo.secrets/id")).expect("copied");
        let out = Command::new(program("quorate")).args(["cluster", "seed"]).arg(dir.join("cluster.toml")).output();
        let out = out.expect("run");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        dir.join("demo.seed")
    }

    /// Seeds of the same cluster after something in its secrets was changed.
    pub fn reseeded(&self, edit: impl FnOnce(&Path)) -> PathBuf {
        let dir = self.dir.path().join("reseeded");
        copy(&self.dir.path().join("demo.secrets"), &dir.join("demo.secrets"));
        edit(&dir.join("demo.secrets"));
        let file = dir.join("cluster.toml");
        std::fs::copy(self.dir.path().join("cluster.toml"), &file).expect("copied");
        let out = Command::new(program("quorate")).args(["cluster", "seed"]).arg(&file).output().expect("run");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        dir.join("demo.seed")
    }

    /// An empty disk of another size than the description says.
    pub fn blank_disk(&self, node: &str, bytes: u64) {
        lab::disk::qcow2(&self.state().join(format!("{node}.qcow2")), bytes).expect("a disk");
    }

    /// Its seeds.
    pub fn seeds(&self) -> PathBuf {
        self.dir.path().join("demo.seed")
    }

    /// Where the lab keeps disks, consoles and snapshots.
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state/quorate/demo")
    }

    /// Process ids of its VMs.
    pub fn pids(&self) -> Vec<u32> {
        let status = self.status().expect("it is up");
        let nodes = status["nodes"].as_array().expect("nodes");
        nodes.iter().filter_map(|n| u32::try_from(n["pid"].as_u64()?).ok()).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let name = std::thread::current().name().unwrap_or("test").replace("::", "-");
            let out = checkout().join("target/evidence").join(name);
            let _ = std::fs::remove_dir_all(&out);
            let text = out.display().to_string();
            let exported = self.run(&["export", &text]).0.status.success();
            if !exported && self.state().exists() {
                // The keeper is gone: what it left is what there is.
                copy_matching(&self.state(), &out, |n| n.ends_with(".log") || n.ends_with(".txt"));
            }
            let timeline = std::fs::read_to_string(out.join("timeline.txt")).unwrap_or_default();
            let last: Vec<_> = timeline.lines().rev().take(30).collect();
            let last: Vec<_> = last.into_iter().rev().collect();
            eprintln!("evidence of the failure is in {text}; the last lines of its timeline:\n{}", last.join("\n"));
        }
        // A cluster that is not up any more has nothing to end.
        let _ = self.run(&["down", "--wipe"]);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed").flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type() {
            Ok(t) if t.is_dir() => copy(&path, &to),
            Ok(t) if t.is_file() => drop(std::fs::copy(&path, &to).expect("copied")),
            // Sockets.
            _ => {}
        }
    }
}

fn copy_matching(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) {
    let _ = std::fs::create_dir_all(to);
    for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
        if wanted(&entry.file_name().to_string_lossy()) {
            let _ = std::fs::copy(entry.path(), to.join(entry.file_name()));
        }
    }
}

/// Where images are.
pub fn images() -> String {
    image().parent().expect("out").display().to_string()
}

/// Options with the images that `like` names, else those that `make` built.
fn with_images(options: &[&str], like: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = options.iter().map(|&o| o.to_owned()).collect();
    if !options.contains(&"--images") {
        let named = like.iter().position(|&o| o == "--images").and_then(|i| like.get(i + 1));
        all.extend(["--images".into(), named.map_or_else(images, |&n| n.to_owned())]);
    }
    all
}

fn words(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

/// A process that was killed is gone within this.
const GONE: Duration = Duration::from_secs(20);

/// Waits until a process that is not our child is gone: it ends without telling us.
pub fn wait_gone(pid: u32) {
    let deadline = Instant::now() + GONE;
    while Path::new(&format!("/proc/{pid}/cmdline")).exists() {
        assert!(Instant::now() < deadline, "process {pid} is still there");
        std::thread::sleep(LOOK);
    }
}
