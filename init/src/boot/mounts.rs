//! Mounts as a table, with a reason per row.

use super::Stop;
use nix::mount::{MsFlags, mount};
use std::path::Path;

struct Row {
    source: &'static str,
    target: &'static str,
    kind: &'static str,
    flags: MsFlags,
    data: &'static str,
    #[expect(dead_code, reason = "for the reader of the table")]
    why: &'static str,
}

const SAFE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);
const FILES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// In the initramfs; moved along when the root is switched.
const EARLY: &[Row] = &[
    Row {
        source: "proc",
        target: "/proc",
        kind: "proc",
        flags: SAFE,
        data: "",
        why: "command line, memory, every process",
    },
    Row { source: "sysfs", target: "/sys", kind: "sysfs", flags: SAFE, data: "", why: "devices and their names" },
    Row {
        source: "devtmpfs",
        target: "/dev",
        kind: "devtmpfs",
        flags: DEVICES,
        data: "mode=0755",
        why: "device nodes",
    },
    Row {
        source: "tmpfs",
        target: "/run",
        kind: "tmpfs",
        flags: FILES,
        data: "mode=0755,size=20%",
        why: "what ends with the boot",
    },
];

/// In the root.
const LATE: &[Row] = &[
    Row {
        source: "devpts",
        target: "/dev/pts",
        kind: "devpts",
        flags: DEVICES,
        data: "mode=0620,gid=5,ptmxmode=0666",
        why: "terminals of kubectl exec",
    },
    Row {
        source: "tmpfs",
        target: "/dev/shm",
        kind: "tmpfs",
        flags: FILES,
        data: "mode=1777",
        why: "POSIX shared memory",
    },
    Row {
        source: "cgroup2",
        target: "/sys/fs/cgroup",
        kind: "cgroup2",
        flags: SAFE,
        data: "nsdelegate,memory_recursiveprot",
        why: "one group per service",
    },
    Row {
        source: "tmpfs",
        target: "/tmp",
        kind: "tmpfs",
        flags: FILES,
        data: "mode=1777,size=20%",
        why: "the root is read-only",
    },
    Row {
        source: "bpf",
        target: "/sys/fs/bpf",
        kind: "bpf",
        flags: SAFE,
        data: "mode=0700",
        why: "programs that a pod network pins",
    },
    Row {
        source: "tmpfs",
        target: "/etc/kubernetes",
        kind: "tmpfs",
        flags: SAFE,
        data: "mode=0755,size=16m",
        why: "keys never touch a disk",
    },
];

/// What moves into the new root.
pub(crate) const MOVED: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

fn all(rows: &[Row]) -> Result<(), Stop> {
    for row in rows {
        let failed = |e: std::io::Error| Stop(format!("mounting {} on {}: {e}", row.kind, row.target));
        // The initramfs brings no directories; in the read-only root they are there.
        if !Path::new(row.target).exists() {
            std::fs::create_dir_all(row.target).map_err(failed)?;
        }
        mount(Some(row.source), row.target, Some(row.kind), row.flags, Some(row.data)).map_err(|e| failed(e.into()))?;
    }
    Ok(())
}

/// Before the root is there.
pub(crate) fn early() -> Result<(), Stop> {
    all(EARLY)
}

/// In the root. Mounts of a container that are to be seen outside, and the other way, need everything to be shared; what is
/// mounted below a shared mount later is shared too.
pub(crate) fn late() -> Result<(), Stop> {
    all(LATE)?;
    let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, shared, None::<&str>).map_err(|e| Stop(format!("sharing mounts: {e}")))
}

/// RAM for what would be on the state partition.
pub(crate) fn ephemeral_var() -> Result<(), Stop> {
    mount(Some("tmpfs"), contract::paths::VAR, Some("tmpfs"), MsFlags::MS_NODEV, Some("mode=0755,size=60%"))
        .map_err(|e| Stop(format!("mounting RAM on /var: {e}")))
}
