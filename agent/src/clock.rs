//! The one place of the agent that asks for the time.

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since the epoch.
#[expect(clippy::disallowed_methods, reason = "the one place")]
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Far beyond any clock, seconds since the epoch: the timer is there to be cancelled.
const NEVER: i64 = 1 << 40;

/// Readable when the clock was set (timerfd_create(2): `TFD_TIMER_CANCEL_ON_SET`).
#[derive(Debug)]
pub(crate) struct Steps(TimerFd);

impl Steps {
    pub(crate) fn new() -> Result<Self, String> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let steps = Self(TimerFd::new(ClockId::CLOCK_REALTIME, flags).map_err(|e| format!("a timer: {e}"))?);
        steps.arm()?;
        Ok(steps)
    }

    fn arm(&self) -> Result<(), String> {
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        self.0.set(Expiration::OneShot(TimeSpec::new(NEVER, 0)), flags).map_err(|e| format!("a timer: {e}"))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Takes note of what was readable.
    pub(crate) fn take(&self) -> Result<(), String> {
        match self.0.wait() {
            // What is read is the error that says so; it stays armed.
            Ok(()) | Err(Errno::ECANCELED | Errno::EAGAIN) => self.arm(),
            Err(e) => Err(format!("a timer: {e}")),
        }
    }
}
