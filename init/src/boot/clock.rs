//! The clock's floor: no machine's clock may stand before a moment that is known to be past.

use super::log;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use std::fs;

/// Milliseconds since the kernel started, suspended time included.
pub(crate) fn boottime_ms() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap_or_else(|_| TimeSpec::new(0, 0));
    u64::try_from(now.tv_sec() * 1000 + now.tv_nsec() / 1_000_000).unwrap_or(0)
}

/// The latest of these; the time last saved on the state disk counts too.
pub(crate) fn floor(known: &[u64]) -> u64 {
    let saved = fs::read_to_string(contract::paths::SAVED_TIME).ok().and_then(|t| t.trim().parse().ok());
    known.iter().copied().chain(saved).max().unwrap_or(0)
}

/// Sets the clock forward to the floor, never back.
pub(crate) fn raise(floor: u64) {
    let Ok(now) = clock_gettime(ClockId::CLOCK_REALTIME) else { return };
    let Ok(floor) = i64::try_from(floor) else { return };
    if now.tv_sec() < floor {
        match clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(floor, 0)) {
            Ok(()) => log::say(&format!(
                "the clock stood {} s before a time known to be past; set forward",
                floor - now.tv_sec()
            )),
            Err(e) => log::say(&format!("setting the clock: {e}")),
        }
    }
}

/// Lets the clock jump.
pub(crate) fn step(seconds: i64) {
    let Ok(now) = clock_gettime(ClockId::CLOCK_REALTIME) else { return };
    let Some(then) = now.tv_sec().checked_add(seconds) else { return };
    match clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(then, now.tv_nsec())) {
        Ok(()) => log::say(&format!("the clock was set by {seconds:+} s")),
        Err(e) => log::say(&format!("setting the clock: {e}")),
    }
}
