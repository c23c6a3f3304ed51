//! A running VM. Its QEMU process is owned: it ends when the [`Vm`] is dropped, and by the kernel's parent-death signal
//! when the owner crashes.

use crate::accel::QEMU;
use crate::clock::Clock;
use crate::command::{Disk, LAN_FD, Machine, QMP_FD, VOICE_FD, inherit};
use crate::console::Console;
use crate::gateway::forwarded;
use crate::qmp::Qmp;
use crate::voice::Voice;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Bytes of QEMU's complaints.
const WORTH_READING: u64 = 4096;
/// No event tells that a QEMU told to end has ended, within a bound.
const END_POLL: Duration = Duration::from_millis(20);

/// A VM.
#[derive(Debug)]
pub struct Vm {
    name: String,
    child: Child,
    qmp: Qmp,
    /// What it says.
    pub console: Console,
    /// What it says on its port.
    pub voice: Voice,
    /// What QEMU says of it.
    pub complaints: Complaints,
    clock: Clock,
    at: usize,
}

/// What QEMU wrote to its standard error since this VM started.
#[derive(Clone, Debug)]
pub struct Complaints {
    path: PathBuf,
    /// Bytes of VMs before it.
    from: u64,
}

impl Complaints {
    /// The beginning of it.
    pub fn text(&self) -> String {
        let mut bytes = Vec::new();
        // What cannot be read says nothing.
        if let Ok(mut file) = File::open(&self.path)
            && file.seek(SeekFrom::Start(self.from)).is_ok()
        {
            let _ = file.take(WORTH_READING).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The kernel kills a child when the thread that made it ends, however that happens.
#[expect(unsafe_code, reason = "prctl between fork and exec")]
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl(2) is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

impl Vm {
    /// Starts it.
    pub fn start(machine: &Machine) -> Result<Self> {
        Self::start_on(machine, None, None)
    }

    /// Starts it with a cable of a switch; with a saved state it stands still until it is told to go on.
    pub fn start_on(machine: &Machine, cable: Option<&OwnedFd>, saved: Option<&Path>) -> Result<Self> {
        std::fs::create_dir_all(&machine.dir).with_context(|| format!("making {}", machine.dir.display()))?;
        let place = |name: &str| machine.dir.join(format!("{}.{name}", machine.name));
        let log = |name: &str| {
            let path = place(name);
            // Added to: what earlier VMs of this place said is evidence too.
            File::options().create(true).append(true).open(&path).with_context(|| format!("making {}", path.display()))
        };
        let (ours, theirs) = UnixStream::pair().context("making QEMU's monitor channel")?;
        let mut command = Command::new(QEMU);
        command.args(machine.arguments(saved)).envs(machine.accel.environment());
        machine.clock.rule(&mut command)?;
        let stderr = log("qemu.log")?;
        let complaints = Complaints { path: place("qemu.log"), from: stderr.metadata().context("QEMU's log")?.len() };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        die_with_parent(&mut command);
        let (voice, their_voice) = UnixStream::pair().context("making the node's voice")?;
        let mut fds = vec![(theirs.as_fd(), QMP_FD), (their_voice.as_fd(), VOICE_FD)];
        fds.extend(cable.map(|c| (c.as_fd(), LAN_FD)));
        inherit(&mut command, &fds)?;
        let mut child =
            command.spawn().with_context(|| format!("starting {QEMU}; hint: apt-get install qemu-system-x86"))?;
        // The command holds copies of what the child inherited; QEMU's end must be nobody else's.
        drop((command, theirs, their_voice));
        let console = Console::default();
        let stdout = child.stdout.take().context("QEMU has no output")?;
        console.follow(stdout, log("console.log")?);
        let qmp = Qmp::new(ours).or_else(|e| {
            child.wait()?;
            Err(e.context(format!("QEMU did not start: {}", complaints.text().trim())))
        })?;
        let voice = Voice::follow(voice)?;
        Ok(Self { name: machine.name.clone(), child, qmp, console, voice, complaints, clock: machine.clock, at: 0 })
    }

    /// Its clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its monitor.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Waits for the next line that contains `needle`, for at most `guest` of the guest's time. Lines before it are
    /// passed over for good: waits follow the order of events.
    pub fn wait_for(&mut self, needle: &str, guest: Duration) -> Result<String> {
        let host = self.clock.host(guest);
        let found = self.console.wait(self.at, host, &format!("`{needle}` on {}", self.name), |l| l.contains(needle));
        let (line, at) = found?;
        self.at = at;
        Ok(line)
    }

    /// Whether a line since the last wait, or before it, contains `needle`.
    pub fn has_said(&self, needle: &str) -> bool {
        self.console.since(0).iter().any(|l| l.contains(needle))
    }

    /// Presses the power button.
    pub fn power_button(&mut self) -> Result<()> {
        self.qmp.run("system_powerdown", &json!({})).map(|_| ())
    }

    /// Resets the machine, as the reset button does: nothing is flushed.
    pub fn reset(&mut self) -> Result<()> {
        self.qmp.run("system_reset", &json!({})).map(|_| ())
    }

    /// Plugs a disk in.
    pub fn plug(&mut self, id: &str, disk: &Disk) -> Result<()> {
        self.qmp.run("blockdev-add", &serde_json::from_str(&disk.blockdev(id))?)?;
        let device =
            json!({ "driver": "virtio-blk-pci", "drive": id, "id": format!("{id}-device"), "serial": disk.serial });
        self.qmp.run("device_add", &device).map(|_| ())
    }

    /// From now on its first disk does at most so many operations in a second of the guest's time; 0 = as many as it can.
    pub fn slow_disk(&mut self, operations: u32) -> Result<()> {
        // The backend is of the virtio device inside, which has a path and no name.
        let limit = json!({
            "id": "/machine/peripheral/disk0-device/virtio-backend", "iops": operations, "iops_rd": 0, "iops_wr": 0, "bps": 0, "bps_rd": 0, "bps_wr": 0,
        });
        self.qmp.run("block_set_io_throttle", &limit).map(|_| ())
    }

    /// Asks the guest to let a disk go; it is gone when the guest has done so.
    pub fn unplug(&mut self, id: &str) -> Result<()> {
        self.qmp.run("device_del", &json!({ "id": format!("{id}-device") })).map(|_| ())
    }

    /// The host's side of the forward to a guest's address, where the host's port was left to QEMU.
    pub fn forwarded(&mut self, guest: SocketAddr) -> Result<SocketAddr> {
        forwarded(&self.qmp.human("info usernet")?, guest)
    }

    /// Sends a magic SysRq over the serial line: a break, then the key (the kernel's admin-guide/sysrq.rst). The guest
    /// needs `sysrq_always_enabled` on its command line.
    pub fn sysrq(&mut self, key: char) -> Result<()> {
        self.qmp.run("chardev-send-break", &json!({ "id": "console" }))?;
        self.type_in(key.to_string().as_bytes())
    }

    /// Waits until QEMU ended by itself.
    pub fn wait_end(&mut self, guest: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + self.clock.host(guest);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                let tail = self.console.since(self.console.len().saturating_sub(40));
                bail!("{} still runs; its last lines:\n  {}", self.name, tail.join("\n  "));
            }
            std::thread::sleep(END_POLL);
        }
    }

    /// Whether QEMU ended by itself.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Types on the serial console.
    pub fn type_in(&mut self, bytes: &[u8]) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("QEMU has no input")?;
        stdin.write_all(bytes).and_then(|()| stdin.flush()).context("typing on the console")
    }

    /// Cuts the power.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place's log outlives its VMs.
    #[test]
    fn complaints_of_earlier_vms_do_not_count() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("master-1.qemu.log");
        std::fs::write(&path, "KVM internal error. Suberror: 1\n").expect("written");
        let complaints = Complaints { path: path.clone(), from: 32 };
        assert_eq!(complaints.text(), "");
        std::fs::write(&path, "KVM internal error. Suberror: 1\nwarning: \u{20ac}\n").expect("written");
        assert_eq!(complaints.text(), "warning: \u{20ac}\n");
        assert_eq!(Complaints { path: dir.path().join("missing"), from: 0 }.text(), "");
    }
}
