//! A booted cluster, frozen: all VMs at one moment, with the switch paused. Booting costs minutes, restoring seconds.
//!
//! A snapshot is a directory: `snapshot.json`, and of each node the machine's state (`NODE.state`, QEMU's migration
//! stream) and its disks (`NODE.N.qcow2`). The guests' clocks go on from where they were; the factor of the lab's clock
//! may be another one.

use crate::cluster::Cluster;
use crate::command::Machine;
use crate::vm::Vm;
use anyhow::{Context, Result, bail, ensure};
use contract::voice::ToNode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// QEMU tells of a migration's end by an event that a client must have asked for beforehand; asking is as good.
const POLL: Duration = Duration::from_millis(20);
/// A machine's memory is written in a second or two; host time, because the guest stands still.
const BOUND: Duration = Duration::from_secs(180);
/// A node that is asked to tell everything does so at once. Guest time.
const TELLS: Duration = Duration::from_secs(2);
/// Bytes per second: no limit, in QEMU's words.
const UNLIMITED: u64 = 1 << 50;

/// `snapshot.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Schema: 2.
    pub version: u32,
    /// What their clocks said, milliseconds since the epoch.
    pub date_ms: i64,
    /// Nodes that were on.
    pub nodes: BTreeMap<String, Frozen>,
}

/// A node of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frozen {
    /// Guest milliseconds since its kernel started.
    pub uptime_ms: u64,
    /// The machine must be the same: QEMU's arguments but for the command line's clock and the paths.
    pub machine: String,
}

/// What of a machine its frozen state depends on.
fn shape(m: &Machine) -> Result<String> {
    let sums = m.initrd.with_file_name("SHA256SUMS");
    let image = std::fs::read_to_string(&sums).with_context(|| format!("reading {}", sums.display()))?;
    let disks: Vec<_> = m.disks.iter().map(|d| (d.format, &d.serial, d.read_only)).collect();
    Ok(json!({ "memory": m.memory, "mac": m.mac, "disks": disks, "accel": m.accel, "image": image }).to_string())
}

fn state_file(dir: &Path, node: &str) -> PathBuf {
    dir.join(format!("{node}.state"))
}

fn disk_file(dir: &Path, node: &str, disk: usize) -> PathBuf {
    dir.join(format!("{node}.{disk}.qcow2"))
}

impl Cluster {
    /// Freezes all nodes that are on, writes them to `dir`, and lets them go on.
    pub fn save(&mut self, dir: &Path) -> Result<()> {
        ensure!(!dir.exists(), "the snapshot {} exists already", dir.display());
        let parent = dir.parent().context("a snapshot needs a place")?;
        std::fs::create_dir_all(parent)?;
        let beside = dir.with_extension("part");
        let _ = std::fs::remove_dir_all(&beside);
        std::fs::create_dir(&beside).with_context(|| format!("making {}", beside.display()))?;
        let names: Vec<String> = self.names().into_iter().filter(|n| self.is_on(n)).collect();
        ensure!(!names.is_empty(), "no node is on");
        self.switch.pause();
        let result = self.freeze(&names, &beside);
        for name in &names {
            // One that ended meanwhile shows as off; the others must go on.
            if let Ok(vm) = self.vm(name) {
                let _ = vm.qmp().run("cont", &json!({}));
            }
        }
        self.switch.resume();
        match result {
            Ok(()) => std::fs::rename(&beside, dir)?,
            Err(e) => {
                let _ = std::fs::remove_dir_all(&beside);
                return Err(e);
            }
        }
        self.note("lab", &format!("saved {}", dir.display()));
        Ok(())
    }

    fn freeze(&mut self, names: &[String], dir: &Path) -> Result<()> {
        for name in names {
            self.vm(name)?.qmp().run("stop", &json!({}))?;
        }
        for name in names {
            let path = state_file(dir, name).display().to_string().replace('\'', r"'\''");
            let qmp = self.vm(name)?.qmp();
            qmp.run("migrate-set-parameters", &json!({ "max-bandwidth": UNLIMITED }))?;
            qmp.run("migrate", &json!({ "uri": format!("exec:cat > '{path}'") }))?;
        }
        let mut nodes = BTreeMap::new();
        for name in names {
            migrated(self.vm(name)?, name)?;
            let uptime_ms = self.uptime_ms(name);
            let machine = &self.place(name)?.machine;
            for (i, disk) in machine.disks.iter().enumerate().filter(|(_, d)| !d.read_only) {
                std::fs::copy(&disk.path, disk_file(dir, name, i)).context("copying a disk")?;
            }
            nodes.insert(name.clone(), Frozen { uptime_ms, machine: shape(machine)? });
        }
        let text = serde_json::to_vec_pretty(&Snapshot { version: 2, date_ms: self.date_ms(), nodes })?;
        std::fs::write(dir.join("snapshot.json"), text)?;
        Ok(())
    }

    /// Exchanges all VMs for those of a snapshot; nodes that were off in it are off then. Faults of the network are no part
    /// of a snapshot: all cables are whole afterwards.
    pub fn restore(&mut self, dir: &Path) -> Result<()> {
        let path = dir.join("snapshot.json");
        let text = std::fs::read(&path).with_context(|| format!("no snapshot at {}", dir.display()))?;
        let snapshot: Snapshot = serde_json::from_slice(&text).with_context(|| {
            format!("{}; hint: a snapshot of an earlier version: boot the cluster and save it anew", path.display())
        })?;
        for (name, frozen) in &snapshot.nodes {
            let now = shape(&self.place(name)?.machine)?;
            ensure!(
                now == frozen.machine,
                "node {name} is another machine, or has another image, than in the snapshot; hint: boot the cluster and \
                 save it anew"
            );
        }
        for name in self.names() {
            self.remember(&name);
        }
        self.switch.pause();
        self.switch.clear();
        self.switch.heal();
        let result = self.thaw(&snapshot, dir);
        self.switch.resume();
        if let Err(e) = result {
            // Half of a cluster would stand still for ever.
            self.names().iter().for_each(|name| self.remember(name));
            return Err(e.context("the snapshot could not be restored: all nodes are off now"));
        }
        self.note("lab", &format!("restored {}", dir.display()));
        Ok(())
    }

    fn thaw(&mut self, snapshot: &Snapshot, dir: &Path) -> Result<()> {
        for name in snapshot.nodes.keys() {
            let cable = self.switch.plug(name)?;
            let place = self.place(name)?;
            for (i, disk) in place.machine.disks.iter().enumerate().filter(|(_, d)| !d.read_only) {
                std::fs::copy(disk_file(dir, name, i), &disk.path).context("copying a disk")?;
            }
            place.vm = Some(Vm::start_on(&place.machine, Some(&cable), Some(&state_file(dir, name)))?);
        }
        for name in snapshot.nodes.keys() {
            migrated(self.vm(name)?, name)?;
        }
        let now = self.now_ms();
        self.epoch_ms = snapshot.date_ms.saturating_sub_unsigned(now);
        for (name, frozen) in &snapshot.nodes {
            let place = self.place(name)?;
            place.began_ms = now.saturating_sub(frozen.uptime_ms);
            place.said_before = 0;
            let vm = self.vm(name)?;
            vm.qmp().run("cont", &json!({}))?;
            vm.voice.say(&ToNode::Hello)?;
        }
        self.switch.resume();
        for name in snapshot.nodes.keys() {
            // It tells everything once more; a node that was frozen before it had a voice says nothing yet.
            let bound = self.clock.host(TELLS);
            self.vm(name)?.voice.wait_for_report(bound);
        }
        Ok(())
    }
}

/// Waits until a machine's state was written, or read.
fn migrated(vm: &mut Vm, name: &str) -> Result<()> {
    let deadline = Instant::now() + BOUND;
    loop {
        let answer = vm.qmp().run("query-migrate", &json!({})).with_context(|| format!("node {name}"))?;
        match answer["status"].as_str() {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => {
                bail!("node {name}: QEMU could not carry its state over: {}", answer["error-desc"])
            }
            _ => {}
        }
        ensure!(Instant::now() < deadline, "node {name}: its state was not carried over within {BOUND:?}");
        std::thread::sleep(POLL);
    }
}
