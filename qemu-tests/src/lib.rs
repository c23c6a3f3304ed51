//! What the tests in VMs share. Each file under `tests/claims/` is one claim; they drive binaries and images, and link neither
//! builder nor init nor agent.
//!
//! The Makefile builds what they need: the programs below `$QUORATE_BIN` and the image in `out/etcd`.

pub mod balancer;
pub mod cluster;
pub mod cores;
mod file_server;
pub mod host_pki;
pub mod kubectl;
pub mod own_image;
pub mod writer;

pub use file_server::{serve, tls_for, tls_of};
pub use lab::probe::etcd;

use anyhow::{Context, Result, ensure};
use contract::image::ImageInfo;
use lab::accel::Accel;
use lab::clock::Clock;
use lab::command::{Disk, Lan, Machine};
use lab::vm::Vm;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// A boot takes one to three guest seconds; more than this is a failure.
pub const BOOT: Duration = Duration::from_secs(15);
/// Anything that follows an event within a running node.
pub const SOON: Duration = Duration::from_secs(10);
/// What a node prints when everything runs.
pub const READY: &str = "quorate: all ready";

/// Whoever loops until this is set ends when it goes out of scope, also in a panic: a scope waits for its threads.
#[derive(Debug)]
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The checkout.
pub fn checkout() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the checkout")
}

/// A program that the Makefile built.
pub fn program(name: &str) -> PathBuf {
    let target = std::env::var_os("QUORATE_BIN").map_or_else(|| checkout().join("target"), PathBuf::from);
    let path = target.join("debug").join(name);
    assert!(path.exists(), "{} is missing: run the tests by `make test`", path.display());
    path
}

/// The built image of an etcd member.
pub fn image() -> PathBuf {
    image_of("etcd")
}

/// A built image.
pub fn image_of(profile: &str) -> PathBuf {
    let path = checkout().join("out").join(profile);
    assert!(path.join("initrd").exists(), "{} is missing: run the tests by `make test`", path.display());
    path
}

/// A node in a directory of its own: seed, disk, logs.
#[derive(Debug)]
pub struct Node {
    /// Where all of it lies; gone with the test, unless it failed.
    pub dir: TempDir,
    clock: Clock,
    accel: Accel,
    _turn: cores::Turn,
}

/// A directory for one test, gone with it; those that test runs left which were killed go first.
pub fn directory() -> std::io::Result<TempDir> {
    const OURS: &str = "quorate-test-";
    static SWEPT: Once = Once::new();
    // One process at a time: another one's new directory is not locked yet.
    let turn = File::open(std::env::temp_dir())?;
    turn.lock()?;
    SWEPT.call_once(|| {
        for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
            let is_left = || Some(File::open(entry.path()).ok()?.try_lock().is_ok());
            let is_ours = entry.file_name().to_string_lossy().starts_with(OURS);
            if is_ours && entry.file_type().is_ok_and(|t| t.is_dir()) && is_left() == Some(true) {
                // What cannot be removed is in nobody's way.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    });
    let kept = std::env::var_os("QUORATE_KEEP").is_some();
    let mut dir = tempfile::Builder::new().prefix(if kept { "quorate-kept-" } else { OURS }).tempdir()?;
    // What a failing test leaves is its evidence.
    dir.disable_cleanup(kept);
    // Locked for as long as this process is there, however it ends.
    let held = File::open(dir.path())?;
    held.lock()?;
    std::mem::forget(held);
    Ok(dir)
}

/// Of the dilation that suits a guest: two such nodes, a core each, wait half of their time.
const PACE: f64 = 0.8;

/// The member's address in the lab.
pub const ADDRESS: &str = "10.77.0.31";

impl Node {
    /// Seeds a node from the shipped example, changed by `edit`.
    pub fn seeded(edit: impl Fn(String) -> String) -> Result<Self> {
        let turn = cores::Turn::one();
        let dir = directory()?;
        let accel = Accel::choose(&std::env::var("QUORATE_ACCEL").unwrap_or_else(|_| "auto".into()), &cache())?;
        let clock = Clock::new((accel.dilation(1, 2) * PACE).max(1.0))?;
        let node = Self { dir, clock, accel, _turn: turn };
        let text = std::fs::read_to_string(checkout().join("examples/etcd-single.toml"))?;
        std::fs::write(node.path("cluster.toml"), edit(text))?;
        node.seed()?;
        Ok(node)
    }

    /// Seeds again: a higher generation.
    pub fn seed(&self) -> Result<()> {
        let out = Command::new(program("quorate")).args(["cluster", "seed"]).arg(self.path("cluster.toml")).output()?;
        ensure!(out.status.success(), "seeding: {}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    }

    /// A path in the node's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The lab's clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The seed medium.
    pub fn seed_disk(&self) -> Disk {
        self.medium("demo.seed/etcd-1/seed.iso")
    }

    /// A file as a read-only medium.
    pub fn medium(&self, name: &str) -> Disk {
        Disk { path: self.path(name), format: "raw", serial: "seed".into(), read_only: true }
    }

    /// The state disk, made when it is missing.
    pub fn state_disk(&self) -> Result<Disk> {
        let path = self.path("state.qcow2");
        lab::disk::qcow2(&path, 2 << 30)?;
        Ok(Disk { path, format: "qcow2", serial: "state".into(), read_only: false })
    }

    /// The machine with these disks.
    pub fn machine(&self, disks: Vec<Disk>) -> Result<Machine> {
        self.machine_of(&image(), disks)
    }

    /// The machine with another image.
    pub fn machine_of(&self, image: &Path, disks: Vec<Disk>) -> Result<Machine> {
        Ok(Machine {
            name: "etcd-1".into(),
            kernel: image.join("vmlinuz"),
            initrd: image.join("initrd"),
            cmdline: std::fs::read_to_string(image.join("cmdline"))?.trim().to_owned(),
            memory: 512,
            disks,
            mac: Some("52:54:00:77:00:31".into()),
            lan: Lan::Own(vec![("127.0.0.1:0".parse()?, format!("{ADDRESS}:2379").parse()?)]),
            serial: None,
            accel: self.accel,
            clock: self.clock,
            date: None,
            dir: self.dir.path().to_owned(),
        })
    }

    /// Boots with these disks.
    pub fn boot(&self, disks: Vec<Disk>) -> Result<Vm> {
        Vm::start(&self.machine(disks)?)
    }

    /// Boots with state disk and seed, until everything runs.
    pub fn boot_ready(&self) -> Result<Vm> {
        let mut vm = self.boot(vec![self.state_disk()?, self.seed_disk()])?;
        vm.wait_for(READY, BOOT)?;
        Ok(vm)
    }

    /// A client of the node's etcd.
    pub fn etcd(&self, vm: &mut Vm) -> Result<etcd::Client> {
        let to: SocketAddr = vm.forwarded(format!("{ADDRESS}:2379").parse()?)?;
        etcd::Client::new(to, &self.path("demo.seed"), self.clock)
    }

    /// Replaces the seed medium by one with other user-data.
    pub fn write_medium(&self, name: &str, user_data: &str) -> Result<Disk> {
        let dir = self.path(&format!("{name}.d"));
        std::fs::create_dir_all(&dir)?;
        for file in ["meta-data", "network-config"] {
            std::fs::copy(self.path("demo.seed/etcd-1").join(file), dir.join(file))?;
        }
        std::fs::write(dir.join("user-data"), user_data)?;
        let out = Command::new("genisoimage")
            .args(["-quiet", "-V", "cidata", "-r", "-J", "-o"])
            .arg(self.path(name))
            .arg(&dir)
            .output()
            .context("running genisoimage; hint: apt-get install genisoimage")?;
        ensure!(out.status.success(), "genisoimage: {}", String::from_utf8_lossy(&out.stderr));
        Ok(self.medium(name))
    }

    /// The node's user-data.
    pub fn user_data(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.path("demo.seed/etcd-1/user-data"))?)
    }
}

/// Where answers of probes are remembered.
pub fn cache() -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from)
}

/// `image.json` of an initramfs, and where `root.img` begins and ends in it.
pub fn initrd_facts(initrd: &[u8]) -> Result<(ImageInfo, std::ops::Range<usize>)> {
    // After init's archive, which is compressed.
    let first = zstd::zstd_safe::find_frame_compressed_size(initrd);
    let mut at = first.map_err(|e| anyhow::anyhow!("zstd's error {e}"))?.next_multiple_of(4);
    // cpio newc: 110 bytes of hexadecimal fields, the name, padding, the data, padding (each to 4 bytes).
    let mut info = None;
    loop {
        let header = std::str::from_utf8(initrd.get(at..at + 110).context("a header")?)?;
        let field = |i: usize| usize::from_str_radix(&header[6 + 8 * i..14 + 8 * i], 16);
        let (size, name_size) = (field(6)?, field(11)?);
        let name = std::str::from_utf8(&initrd[at + 110..at + 110 + name_size - 1])?;
        let data = (at + 110 + name_size).next_multiple_of(4);
        match name {
            "image.json" => info = Some(serde_json::from_slice(&initrd[data..data + size])?),
            "root.img" => return Ok((info.context("image.json comes first")?, data..data + size)),
            "TRAILER!!!" => anyhow::bail!("no root.img"),
            _ => {}
        }
        at = (data + size).next_multiple_of(4);
    }
}

/// Ends a test whose tool is missing: loudly where it is a developer's, as a failure in CI.
pub fn missing(tool: &str) {
    assert!(std::env::var_os("CI").is_none(), "{tool} is missing");
    eprintln!("SKIPPED: {tool} is missing");
}

/// Reads a file below a path, for assertions.
pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
