//! The only place that makes a process, and the only one that waits for one.
//!
//! Everything else would race with the reaper: `waitpid(-1)` takes any child's status, so nobody else may wait.

use super::cgroup::Group;
use super::step::ENDED_WELL;
use contract::control::CHANNEL_FD;
use contract::service::Service;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Where every program is looked for.
const PATH: &str = "/usr/sbin:/usr/bin";

/// What is known of the children, and statuses that were reaped while waiting for another.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    pids: BTreeMap<i32, String>,
    early: VecDeque<(String, String)>,
    /// Children of others that ended here.
    pub(crate) orphans: u64,
    /// Services whose process was stopped by a signal, or, with none, goes on; in order.
    pub(crate) suspended: Vec<(String, Option<Signal>)>,
}

/// What a child gets of the outside.
#[derive(Debug)]
pub(crate) struct Io {
    /// Its stdin; none = /dev/null.
    pub(crate) stdin: Option<OwnedFd>,
    /// stdout and stderr.
    pub(crate) output: OwnedFd,
    /// An agent's end of its channel.
    pub(crate) channel: Option<OwnedFd>,
}

impl Reaper {
    /// Starts a service's process.
    pub(crate) fn spawn(
        &mut self,
        service: &Service,
        env: &[(String, String)],
        io: Io,
        group: &Group,
    ) -> io::Result<i32> {
        let mut command = command(service, env)?;
        let stderr = io.output.try_clone()?;
        command.stdin(io.stdin.map_or_else(Stdio::null, Stdio::from)).stdout(io.output).stderr(stderr);
        let procs = group.procs()?;
        prepare(
            &mut command,
            procs.as_ref().map(AsRawFd::as_raw_fd),
            io.channel.as_ref().map(AsRawFd::as_raw_fd),
            service.user != 0,
        );
        #[expect(clippy::disallowed_methods, reason = "this is the one place that makes processes")]
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        self.pids.insert(pid, service.name.clone());
        // Dropping std's handle neither waits nor kills.
        drop(child);
        Ok(pid)
    }

    /// Every child that ended, with how it ended: by service name. Drains: signals coalesce.
    pub(crate) fn reap(&mut self) -> Vec<(String, String)> {
        let mut ended: Vec<_> = self.early.drain(..).collect();
        while let Some((pid, how)) = self.wait_one() {
            match self.pids.remove(&pid) {
                Some(name) => ended.push((name, how)),
                None => self.orphans += 1,
            }
        }
        ended
    }

    /// One status, if there is one.
    fn wait_one(&mut self) -> Option<(i32, String)> {
        loop {
            // A child that somebody stopped must be seen, not taken for a healthy one.
            let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED;
            return match waitpid(Pid::from_raw(-1), Some(flags)) {
                Ok(WaitStatus::Exited(pid, 0)) => Some((pid.as_raw(), ENDED_WELL.into())),
                Ok(WaitStatus::Exited(pid, code)) => Some((pid.as_raw(), format!("exit status {code}"))),
                Ok(WaitStatus::Signaled(pid, signal, _)) => Some((pid.as_raw(), format!("killed by {signal}"))),
                Ok(WaitStatus::Stopped(pid, signal)) => {
                    self.suspends(pid, Some(signal));
                    continue;
                }
                Ok(WaitStatus::Continued(pid)) => {
                    self.suspends(pid, None);
                    continue;
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => None,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => None,
            };
        }
    }

    fn suspends(&mut self, pid: Pid, by: Option<Signal>) {
        if let Some(name) = self.pids.get(&pid.as_raw()) {
            self.suspended.push((name.clone(), by));
        }
    }

    /// Runs a program to its end, within a bound: for the few steps of the boot that must be over before the next
    /// (partitioning, formatting). `wake` waits for SIGCHLD for at most the milliseconds given.
    pub(crate) fn run(
        &mut self,
        command: &[&str],
        stdin: Option<OwnedFd>,
        output: OwnedFd,
        bound: u64,
        now: impl Fn() -> u64,
        mut wake: impl FnMut(u64),
    ) -> Result<(), String> {
        const NAME: &str = "(step)";
        let service = Service::of(NAME, command.iter().map(ToString::to_string).collect());
        let io = Io { stdin, output, channel: None };
        let pid = self.spawn(&service, &[], io, &Group::none()).map_err(|e| format!("{}: {e}", command[0]))?;
        let deadline = now() + bound;
        loop {
            let ended = self.reap();
            let mut own = None;
            for (name, how) in ended {
                if name == NAME {
                    own = Some(how);
                } else {
                    self.early.push_back((name, how));
                }
            }
            match own {
                Some(how) if how == ENDED_WELL => return Ok(()),
                Some(how) => return Err(format!("{}: {how}", command[0])),
                None => {}
            }
            let left = deadline.saturating_sub(now());
            if left == 0 {
                // It may have ended this very moment.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                return Err(format!("{}: not over after {bound} ms", command[0]));
            }
            wake(left);
        }
    }

    /// The process of a service.
    pub(crate) fn pid_of(&self, name: &str) -> Option<i32> {
        self.pids.iter().find(|(_, n)| *n == name).map(|(p, _)| *p)
    }

    /// The service of a process.
    pub(crate) fn service_of(&self, pid: i32) -> Option<&str> {
        self.pids.get(&pid).map(String::as_str)
    }
}

fn command(service: &Service, env: &[(String, String)]) -> io::Result<Command> {
    let [program, arguments @ ..] = &service.command[..] else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command"));
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).envs(&service.env).envs(env.iter().map(|(k, v)| (k, v)));
    command.current_dir("/").uid(service.user).gid(service.user);
    Ok(command)
}

/// What happens between fork and exec: a session of its own, its cgroup, its channel, no new privileges.
#[expect(unsafe_code, reason = "the kernel's calls between fork and exec")]
fn prepare(command: &mut Command, procs: Option<RawFd>, channel: Option<RawFd>, bounded: bool) {
    // SAFETY: only async-signal-safe calls, no allocation; the descriptors stay open until the child was made.
    unsafe {
        command.pre_exec(move || {
            libc::setsid();
            // PID 1 blocks the signals it reads from a descriptor, and std hands the mask on.
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            if let Some(fd) = procs {
                // "0" is the writing process itself; the rights are those of whoever opened the file.
                if libc::write(fd, b"0".as_ptr().cast(), 1) != 1 {
                    return Err(io::Error::last_os_error());
                }
            }
            if let Some(fd) = channel
                && libc::dup2(fd, CHANNEL_FD) < 0
            {
                return Err(io::Error::last_os_error());
            }
            if bounded && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// A signal to a process, or to its whole session's group; one that is gone already is no error.
pub(crate) fn signal(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}
