//! One cgroup (v2) per service: limits, and the only sure way to end everything a service left behind.
//!
//! Where there is no cgroup v2 (the tests in a PID namespace of a host with version 1), a group is nothing and a
//! service's processes are reached through their session's process group.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A service's cgroup; nothing where there is none.
#[derive(Clone, Debug)]
pub(crate) struct Group(Option<PathBuf>);

impl Group {
    /// No cgroup at all.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Makes a service's cgroup below `parent` and sets its limits.
    pub(crate) fn make(
        parent: Option<&Path>,
        name: &str,
        memory_max: Option<u64>,
        pids_max: Option<u64>,
    ) -> io::Result<Self> {
        let Some(parent) = parent else { return Ok(Self::none()) };
        let dir = parent.join(name);
        match fs::create_dir(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        for (file, limit) in [("memory.max", memory_max), ("pids.max", pids_max)] {
            let path = dir.join(file);
            // The file is absent where the controller is (a host's test, a kernel without it): a limit is a help, not a need.
            if let Some(limit) = limit.filter(|_| path.exists()) {
                fs::write(path, limit.to_string())?;
            }
        }
        Ok(Self(Some(dir)))
    }

    /// `cgroup.procs`, open for a child to write itself into.
    pub(crate) fn procs(&self) -> io::Result<Option<File>> {
        self.0.as_ref().map(|d| OpenOptions::new().write(true).open(d.join("cgroup.procs"))).transpose()
    }

    /// Kills everything in it. Answers whether there was a cgroup to do it with.
    pub(crate) fn kill(&self) -> bool {
        self.0.as_ref().is_some_and(|d| fs::write(d.join("cgroup.kill"), "1").is_ok())
    }

    /// The processes in it.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let text = self.0.as_ref().and_then(|d| fs::read_to_string(d.join("cgroup.procs")).ok()).unwrap_or_default();
        text.lines().filter_map(|l| l.parse().ok()).collect()
    }

    /// `cgroup.events`, which reports POLLPRI when the group becomes empty.
    pub(crate) fn events(&self) -> Option<File> {
        File::open(self.0.as_ref()?.join("cgroup.events")).ok()
    }
}

/// Whether nothing is left, as an open `cgroup.events` says.
pub(crate) fn is_empty(events: &mut File) -> bool {
    let mut text = String::new();
    let read = events.seek(SeekFrom::Start(0)).and_then(|_| events.read_to_string(&mut text));
    read.is_err() || text.lines().any(|l| l == "populated 0")
}

/// The service that a process belongs to, by the last part of its cgroup's path (`/proc/<pid>/cgroup`).
pub(crate) fn service_of(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|l| l.strip_prefix("0::"))?;
    let mut parts = path.rsplit('/');
    let name = parts.next()?;
    (parts.next() == Some("quorate")).then(|| name.to_owned())
}
