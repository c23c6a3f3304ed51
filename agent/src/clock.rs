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

/// The words of an error, short and with this node's clock where they say that a certificate is out of its time: whoever
/// reads that should look at the clock first. The same for a minute: what is told when it changes is not told every second.
pub(crate) fn named(why: &str) -> String {
    // rustls: "certificate expired: verification time 1859000000 (UNIX), but ..."
    let is_about_time = ["certificate expired", "certificate not valid yet"].iter().any(|w| why.contains(w));
    let now = i64::try_from(now()).ok().and_then(|n| time::OffsetDateTime::from_unix_timestamp(n).ok());
    match now.filter(|_| is_about_time) {
        Some(now) => {
            let (short, _) = why.split_once(": verification time").unwrap_or((why, ""));
            format!("{short}; this node's clock says {} {:02}:{:02} UTC", now.date(), now.hour(), now.minute())
        }
        None => why.to_owned(),
    }
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

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn a_certificate_out_of_its_time_names_the_clock() {
        let late = "io: invalid peer certificate: certificate expired: verification time 1859000000 (UNIX), but (1 seconds ago)";
        let said = named(late);
        assert!(
            said.starts_with("io: invalid peer certificate: certificate expired; this node's clock says 20"),
            "{said}"
        );
        assert!(said.ends_with(" UTC"), "{said}");
        assert!(named("certificate not valid yet: verification time 1").contains("; this node's clock"));
        assert_eq!(named("io: Connection refused"), "io: Connection refused");
    }
}
