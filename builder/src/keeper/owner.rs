//! The process that a cluster ends with (`cluster up --pid`): a shell, a CI job, a test. Whoever is killed cannot say `down`.

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};

/// A process, by a descriptor that no other one with the same number can be mistaken for (pidfd_open(2)).
#[derive(Debug)]
pub(crate) struct Owner(OwnedFd);

impl Owner {
    /// The error says that there is none with this number.
    pub(crate) fn open(pid: i32) -> Result<Self> {
        let fd = match Pid::from_raw(pid.max(0)) {
            Some(pid) => pidfd_open(pid, PidfdFlags::empty()),
            None => Err(rustix::io::Errno::SRCH),
        };
        Ok(Self(fd.with_context(|| format!("--pid: the process {pid}, which the cluster is to end with"))?))
    }

    /// Returns when it has ended.
    pub(crate) fn wait(&self) {
        // A signal's handler interrupts it; nothing else makes it fail.
        while poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).is_err() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn its_end_is_seen_and_not_before() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat");
        let owner = Owner::open(child.id().try_into().expect("a number")).expect("it is there");
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || {
            owner.wait();
            ended.send(()).expect("heard");
        });
        assert_eq!(end.recv_timeout(Duration::from_millis(50)), Err(mpsc::RecvTimeoutError::Timeout), "it runs");
        // It ends, and is a zombie until somebody asks.
        drop(child.stdin.take());
        end.recv_timeout(Duration::from_secs(60)).expect("its end");
        child.wait().expect("waited for");
    }

    #[test]
    fn there_must_be_one() {
        for pid in [0, -1, i32::MAX] {
            let said = format!("{:#}", Owner::open(pid).expect_err("none"));
            assert_eq!(
                said,
                format!("--pid: the process {pid}, which the cluster is to end with: No such process (os error 3)")
            );
        }
    }
}
