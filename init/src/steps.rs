//! Programs that the boot runs to their end: partitioning, formatting, checking. Bounded, through the one reaper.

use crate::boot::clock::boottime_ms;
use crate::supervise::output::{Output, pipe};
use crate::supervise::spawn::Reaper;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Formatting a large disk takes seconds; a minute means that the disk is broken.
const BOUND: u64 = 60_000;
/// Device nodes are made by the kernel without telling PID 1, which listens to no uevents: it looks, this often.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_BOUND: u64 = 5_000;

/// Runs steps.
#[derive(Debug)]
pub(crate) struct Steps<'a> {
    /// The one reaper.
    pub(crate) reaper: &'a mut Reaper,
    /// Where SIGCHLD arrives.
    pub(crate) signals: &'a SignalFd,
}

impl Steps<'_> {
    /// Runs a program; answers what it printed. The error ends with how it ended.
    pub(crate) fn read(&mut self, command: &[&str]) -> Result<String, String> {
        self.run(command, None)
    }

    /// Runs a program with a text on its stdin.
    pub(crate) fn feed(&mut self, command: &[&str], stdin: &str) -> Result<String, String> {
        let (reader, writer) = nix::unistd::pipe().map_err(|e| e.to_string())?;
        // Shorter than a pipe holds, so that this cannot block.
        nix::unistd::write(&writer, stdin.as_bytes()).map_err(|e| e.to_string())?;
        drop(writer);
        self.run(command, Some(reader))
    }

    fn run(&mut self, command: &[&str], stdin: Option<OwnedFd>) -> Result<String, String> {
        let (reader, writer) = pipe().map_err(|e| e.to_string())?;
        let mut output = Output::new(reader);
        let signals = self.signals;
        let mut text = String::new();
        let mut collect = |output: &mut Output| {
            for line in output.read() {
                text += &line;
                text.push('\n');
            }
        };
        let result = self.reaper.run(command, stdin, writer, BOUND, boottime_ms, |left| {
            let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            // SIGCHLD only wakes; other signals stay for the event loop, which drains children anyway.
            while let Ok(Some(info)) = signals.read_signal() {
                crate::supervise::run::remember(&info);
            }
            collect(&mut output);
        });
        collect(&mut output);
        result.map(|()| text).map_err(|how| {
            let said = output.tail(3).join("; ");
            if said.is_empty() { how } else { format!("{said}: {how}") }
        })
    }

    /// Waits for something that the kernel does on its own, within a bound.
    pub(crate) fn wait_for<T>(&mut self, what: &str, look: impl Fn() -> Option<T>) -> Result<T, String> {
        let deadline = boottime_ms() + LOOK_BOUND;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if boottime_ms() > deadline {
                return Err(format!("waited {LOOK_BOUND} ms for {what}"));
            }
            std::thread::sleep(LOOK);
        }
    }
}
