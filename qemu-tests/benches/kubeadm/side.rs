//! A cluster to measure: its machines in the lab, and what lets the one who measures in.

use super::disk;
use super::node::{ALL, Role, VIP};
use super::pki::Authority;
use anyhow::{Context, Result, ensure};
use base64::Engine;
use lab::accel::Accel;
use lab::clock::Clock;
use lab::cluster::{Cluster, Plan};
use lab::command::{Disk, Lan, Machine};
use lab::probe::{api, etcd};
use qemu_tests::{checkout, image_of, program, read};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// MiB, of both.
const MASTER: u64 = 2048;
const WORKER: u64 = 1024;
const BALANCER: u64 = 512;
/// A script's disk is so large: the shell reads blank lines to its end.
const SCRIPT: usize = 64 << 10;

/// A CA's certificate, and a client's certificate and key: PEM.
struct Pass {
    ca: String,
    client: (String, String),
}

/// One of the two.
pub(crate) struct Side {
    /// For people.
    pub(crate) name: &'static str,
    /// Its machines.
    pub(crate) cluster: Cluster,
    api: Pass,
    etcd: Pass,
    // Gone with it.
    _dir: TempDir,
}

fn memory(role: Role) -> u64 {
    match role {
        Role::First | Role::Master => MASTER,
        Role::Worker => WORKER,
        Role::Balancer => BALANCER,
    }
}

/// What is the same on both sides.
struct Common {
    accel: Accel,
    clock: Clock,
    dir: TempDir,
}

impl Common {
    fn new(dilation: f64) -> Result<Self> {
        // Disks: not where a small tmpfs may lie.
        let mut dir = tempfile::Builder::new().prefix("kubeadm-").tempdir_in(checkout().join("target"))?;
        dir.disable_cleanup(std::env::var_os("QUORATE_KEEP").is_some());
        let accel = Accel::choose("auto", &qemu_tests::cache())?;
        Ok(Self { accel, clock: Clock::new(dilation)?, dir })
    }

    fn machine(
        &self,
        name: &str,
        number: u8,
        files: (PathBuf, PathBuf, String),
        memory: u64,
        disks: Vec<Disk>,
    ) -> Machine {
        Machine {
            name: name.into(),
            kernel: files.0,
            initrd: files.1,
            cmdline: files.2,
            memory,
            disks,
            mac: Some(format!("52:54:00:77:00:{number}")),
            lan: Lan::Cable,
            serial: None,
            accel: self.accel,
            clock: self.clock,
            date: None,
            dir: self.dir.path().to_owned(),
        }
    }

    fn cluster(&self, machines: Vec<Machine>) -> Result<Cluster> {
        Cluster::new(&Plan {
            machines,
            forwards: vec![],
            gateway: true,
            tftp: None,
            seed: 1,
            clock: self.clock,
            dir: self.dir.path().to_owned(),
        })
    }
}

fn disk(path: PathBuf, format: &'static str, serial: &str, read_only: bool) -> Disk {
    Disk { path, format, serial: serial.into(), read_only }
}

impl Side {
    /// `examples/stacked.toml` with the images that are built.
    pub(crate) fn ours(dilation: f64) -> Result<Self> {
        let common = Common::new(dilation)?;
        let file = common.dir.path().join("cluster.toml");
        std::fs::copy(checkout().join("examples/stacked.toml"), &file)?;
        let out = Command::new(program("quorate")).args(["cluster", "seed"]).arg(&file).output()?;
        ensure!(out.status.success(), "seeding: {}", String::from_utf8_lossy(&out.stderr));
        let seeds = common.dir.path().join("demo.seed");
        let machines = ALL.iter().map(|p| {
            let image = image_of(match p.role {
                Role::First | Role::Master => "master-etcd",
                Role::Worker => "worker",
                Role::Balancer => "lb",
            });
            let mut disks = vec![];
            if p.role != Role::Balancer {
                let path = common.dir.path().join(format!("{}.qcow2", p.name));
                lab::disk::qcow2(&path, 8 << 30)?;
                disks.push(disk(path, "qcow2", "state", false));
            }
            disks.push(disk(seeds.join(p.name).join("seed.iso"), "raw", "seed", true));
            let files = (image.join("vmlinuz"), image.join("initrd"), read(&image.join("cmdline")).trim().to_owned());
            Ok(common.machine(p.name, p.number, files, memory(p.role), disks))
        });
        let cluster = common.cluster(machines.collect::<Result<_>>()?)?;
        let conf: Value = serde_json::from_str(&read(&seeds.join("admin.conf"))).context("admin.conf")?;
        let user = &conf["users"][0]["user"];
        let decoded = |v: &Value| -> Result<String> {
            let bytes = base64::engine::general_purpose::STANDARD.decode(v.as_str().context("base64")?)?;
            Ok(String::from_utf8(bytes)?)
        };
        let pair = (decoded(&user["client-certificate-data"])?, decoded(&user["client-key-data"])?);
        let api = Pass { ca: read(&seeds.join("cluster-ca.crt")), client: pair };
        let pair = (read(&seeds.join("etcd-admin.crt")), read(&seeds.join("etcd-admin.key")));
        let etcd = Pass { ca: read(&seeds.join("etcd-server-ca.crt")), client: pair };
        Ok(Self { name: "ours", cluster, api, etcd, _dir: common.dir })
    }

    /// As kubeadm's guides have it.
    pub(crate) fn kubeadm(dilation: f64) -> Result<Self> {
        let base = disk::base()?;
        let common = Common::new(dilation)?;
        let api = Authority::make("kubernetes", "system:masters")?;
        let etcd = Authority::make("etcd-ca", "measures")?;
        let machines = ALL.iter().map(|p| {
            let root = common.dir.path().join(format!("{}.qcow2", p.name));
            above(&base.root, &root)?;
            let script = common.dir.path().join(format!("{}.sh", p.name));
            let text = p.script(&api, &etcd);
            ensure!(text.len() < SCRIPT, "the script of {} is too long", p.name);
            std::fs::write(&script, format!("{text}{}", "\n".repeat(SCRIPT - text.len())))?;
            let disks = vec![disk(root, "qcow2", "root", false), disk(script, "raw", "script", true)];
            let files = (base.kernel.clone(), base.initrd.clone(), p.cmdline());
            Ok(common.machine(p.name, p.number, files, memory(p.role), disks))
        });
        let cluster = common.cluster(machines.collect::<Result<_>>()?)?;
        let pass = |a: Authority| Pass { ca: a.cert, client: a.client };
        Ok(Self { name: "kubeadm's guides", cluster, api: pass(api), etcd: pass(etcd), _dir: common.dir })
    }

    fn forward(&mut self, to: &str) -> Result<SocketAddr> {
        self.cluster.gateway().context("no gateway")?.forward(to.parse()?)
    }

    /// The administrator, at the virtual IP.
    pub(crate) fn admin(&mut self, patience: Duration) -> Result<api::Client> {
        let to = self.forward(&format!("{VIP}:6443"))?;
        let pair = (&*self.api.client.0, &*self.api.client.1);
        api::Client::with(to, &self.api.ca, Some(pair), patience, self.cluster.clock())
    }

    /// The load balancer that holds the virtual IP: the one that the guide gives priority, and that takes it first of ours.
    pub(crate) fn holder(&mut self) -> Result<String> {
        let mut holder = "lb-1".to_owned();
        for name in ["lb-1", "lb-2"] {
            let lines = self.cluster.vm(name)?.voice.lines(0);
            let word = lines.iter().rfind(|l| l.text.contains("the virtual IP") && l.text.contains("hold"));
            if word.is_some_and(|l| l.text.contains("holds the virtual IP")) {
                holder = name.to_owned();
            }
        }
        Ok(holder)
    }

    /// The master whose member of etcd leads.
    pub(crate) fn etcd_leader(&mut self) -> Result<String> {
        for p in ALL.iter().filter(|p| matches!(p.role, Role::First | Role::Master)) {
            let to = self.forward(&format!("{}:2379", p.address()))?;
            let pair = (&*self.etcd.client.0, &*self.etcd.client.1);
            let (id, leader) = etcd::Client::with(to, &self.etcd.ca, Some(pair), self.cluster.clock())?.leader()?;
            if leader == Some(id) {
                return Ok(p.name.to_owned());
            }
        }
        anyhow::bail!("no member of etcd leads")
    }

    /// The last words of each machine, where it did not go well.
    pub(crate) fn tell(&mut self) {
        for name in self.cluster.names() {
            let Ok(vm) = self.cluster.vm(&name) else { continue };
            let lines = vm.console.since(vm.console.len().saturating_sub(25));
            println!("-- {name}:\n  {}", lines.join("\n  "));
        }
    }
}

/// A disk that begins as another one.
fn above(base: &Path, path: &Path) -> Result<()> {
    let make = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"];
    let out = Command::new("qemu-img").args(make).arg(base).arg(path).output();
    let out = out.context("running qemu-img; hint: apt-get install qemu-utils")?;
    ensure!(out.status.success(), "qemu-img: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}
