//! How QEMU is called: from a machine's description to arguments, pure; and which descriptors it inherits.

use crate::accel::Accel;
use crate::clock::Clock;
use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The network that every lab has.
pub const SUBNET: &str = "net=10.77.0.0/24,host=10.77.0.1,dns=10.77.0.3,dhcpstart=10.77.0.200";

/// A machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its name, for logs.
    pub name: String,
    /// Kernel image.
    pub kernel: PathBuf,
    /// Initramfs.
    pub initrd: PathBuf,
    /// Kernel command line, without what dilation adds.
    pub cmdline: String,
    /// MiB.
    pub memory: u64,
    /// In the order of their names: vda, vdb, …
    pub disks: Vec<Disk>,
    /// NIC; none = no network at all.
    pub mac: Option<String>,
    /// What the NIC is plugged into.
    pub lan: Lan,
    /// SMBIOS type 1 serial number.
    pub serial: Option<String>,
    /// How it runs.
    pub accel: Accel,
    /// How fast its clock runs.
    pub clock: Clock,
    /// What its hardware clock says at power on, seconds since the epoch; none = this machine's time.
    pub date: Option<i64>,
    /// Where its logs go.
    pub dir: PathBuf,
}

/// What a NIC is plugged into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lan {
    /// A network of its own, with QEMU's user networking; ports of this machine that lead to the guest.
    Own(Vec<(SocketAddr, SocketAddr)>),
    /// A cable of a [`crate::switch::Switch`].
    Cable,
}

/// A disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Image file.
    pub path: PathBuf,
    /// `raw` or `qcow2`.
    pub format: &'static str,
    /// Serial number, as the guest sees it.
    pub serial: String,
    /// Never written to.
    pub read_only: bool,
}

/// File descriptor that QEMU's monitor speaks on.
pub(crate) const QMP_FD: i32 = 9;
/// Of the node's voice.
pub(crate) const VOICE_FD: i32 = 10;
/// Of a cable.
pub(crate) const LAN_FD: i32 = 11;
/// Of what its loader loads first.
pub(crate) const PRELOAD_FD: i32 = 12;
/// Of the firmware that it is to begin with.
pub(crate) const FIRMWARE_FD: i32 = 13;
/// What a child inherits is moved up here first: a descriptor must not lie where another one is to go.
const ABOVE: i32 = 100;

/// Lets a child inherit descriptors under these numbers.
#[expect(unsafe_code, reason = "dup2 between fork and exec")]
pub(crate) fn inherit(command: &mut Command, fds: &[(BorrowedFd<'_>, i32)]) -> Result<()> {
    for (fd, number) in fds {
        let number = *number;
        let moved = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(ABOVE)).context("a descriptor for QEMU")?;
        // SAFETY: it was made just now, and belongs to nobody else.
        let moved = unsafe { OwnedFd::from_raw_fd(moved) };
        // SAFETY: dup2(2) is async-signal-safe; the descriptor stays open as long as the command.
        unsafe {
            command.pre_exec(move || {
                if libc::dup2(moved.as_raw_fd(), number) < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
            });
        }
    }
    Ok(())
}

/// Lets a child inherit a file with these bytes under this number: in memory, at `/proc/self/fd/NUMBER`, with no name that
/// somebody else's could have, and gone with those who have it open.
pub(crate) fn inherit_bytes(command: &mut Command, name: &str, bytes: &[u8], number: i32) -> Result<()> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC).context("a file in memory")?);
    file.write_all(bytes).context("writing a file in memory")?;
    inherit(command, &[(file.as_fd(), number)])
}

impl Machine {
    /// QEMU's arguments; with a saved state the machine goes on from there, once it is told to.
    pub fn arguments(&self, saved: Option<&Path>) -> Vec<String> {
        let mut a: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| a.extend(words.iter().map(ToString::to_string));
        add(&["-name", &self.name, "-M", "pc"]);
        add(&self.accel.arguments());
        add(&["-m", &self.memory.to_string(), "-nodefaults", "-no-user-config", "-display", "none"]);
        // It goes as fast as the guest does, and goes on from where it was when a saved machine does: a node that starts again
        // must not find itself hours ahead of the others, which trust no certificate of the future.
        add(&["-rtc", &format!("base={},clock=vm", self.date.map_or_else(|| "utc".into(), date))]);
        add(&["-kernel", &text(&self.kernel), "-initrd", &text(&self.initrd)]);
        add(&["-append", &format!("{}{}{}", self.cmdline, self.accel.cmdline(), self.clock.cmdline())]);
        add(&["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
        add(&["-chardev", &format!("socket,id=qmp,fd={QMP_FD}"), "-mon", "chardev=qmp,mode=control"]);
        add(&["-device", "virtio-rng-pci"]);
        if let Some(serial) = &self.serial {
            // A comma separates QEMU's options; doubled it stands for itself.
            add(&["-smbios", &format!("type=1,serial={}", serial.replace(',', ",,"))]);
        }
        for (i, disk) in self.disks.iter().enumerate() {
            let id = format!("disk{i}");
            add(&["-blockdev", &disk.blockdev(&id)]);
            add(&["-device", &format!("virtio-blk-pci,drive={id},id={id}-device,serial={}", disk.serial)]);
        }
        add(&["-device", "virtio-serial-pci", "-chardev", &format!("socket,id=voice,fd={VOICE_FD}")]);
        add(&["-device", &format!("virtserialport,chardev=voice,name={}", contract::voice::PORT)]);
        if let Some(mac) = &self.mac {
            let netdev = match &self.lan {
                Lan::Own(forwards) => {
                    let to = |(host, guest): &(SocketAddr, SocketAddr)| {
                        format!(",hostfwd=tcp:{}:{}-{}:{}", host.ip(), host.port(), guest.ip(), guest.port())
                    };
                    format!("user,id=lan,{SUBNET}{}", forwards.iter().map(to).collect::<String>())
                }
                Lan::Cable => format!("dgram,id=lan,local.type=fd,local.str={LAN_FD}"),
            };
            add(&["-netdev", &netdev, "-device", &format!("virtio-net-pci,netdev=lan,mac={mac}")]);
        }
        if let Some(saved) = saved {
            // The shell reads the rest as it stands: what matters to it is quoted.
            let path = text(saved).replace('\'', r"'\''");
            add(&["-S", "-incoming", &format!("exec:cat '{path}'")]);
        }
        a
    }
}

impl Disk {
    /// Its `-blockdev` option, which is also QMP's `blockdev-add` when read as JSON.
    pub fn blockdev(&self, id: &str) -> String {
        serde_json::json!({
            "driver": self.format,
            "node-name": id,
            "read-only": self.read_only,
            "file": { "driver": "file", "filename": text(&self.path) },
        })
        .to_string()
    }
}

/// As QEMU wants it, UTC.
fn date(seconds: i64) -> String {
    let at = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

fn text(path: &std::path::Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_as_arguments() {
        let m = Machine {
            name: "etcd-1".into(),
            kernel: "/i/vmlinuz".into(),
            initrd: "/i/initrd".into(),
            cmdline: "console=ttyS0".into(),
            memory: 512,
            disks: vec![Disk { path: "/s/a,b.iso".into(), format: "raw", serial: "seed".into(), read_only: true }],
            mac: Some("52:54:00:77:00:31".into()),
            lan: Lan::Own(vec![(
                "127.0.0.1:0".parse().expect("an address"),
                "10.77.0.31:2379".parse().expect("an address"),
            )]),
            serial: Some("ds=nocloud;s=http://10.77.0.1:80/a,b/".into()),
            accel: Accel::Tcg,
            clock: Clock::new(1.0).expect("real time"),
            date: Some(1_795_661_280),
            dir: "/tmp".into(),
        };
        let line = m.arguments(Some(Path::new("/s/it's"))).join(" ");
        for want in [
            "-accel tcg,thread=single -cpu max,-erms,-fsrm -smp 1",
            "-rtc base=2026-11-26T02:48:00,clock=vm",
            "-append console=ttyS0 clearcpuid=cx16 mitigations=off init_on_alloc=0",
            "hostfwd=tcp:127.0.0.1:0-10.77.0.31:2379",
            "serial=ds=nocloud;s=http://10.77.0.1:80/a,,b/",
            r#""filename":"/s/a,b.iso""#,
            "virtserialport,chardev=voice,name=quorate.report",
            r"-S -incoming exec:cat '/s/it'\''s'",
        ] {
            assert!(line.contains(want), "{line}\n-- expected: {want}");
        }
    }
}
