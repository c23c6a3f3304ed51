//! Time dilation: an emulated guest is ten to twenty times slower than the processor, so its clock runs slower by about
//! the same factor. Its timeouts then fire when they would on real hardware, and its seconds mean something.
//!
//! The idea: Gupta et al., "To Infinity and Beyond: Time-Warped Network Emulation", NSDI 2006. The means: QEMU takes its
//! virtual clock from `clock_gettime`, which libfaketime (Debian package `faketime`) scales, and `ppoll.c` what libfaketime
//! leaves out.

use crate::command::{PRELOAD_FD, inherit_bytes};
use anyhow::{Result, ensure};
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// libfaketime for threaded programs, where Debian puts it.
pub const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// `ppoll.c`, compiled.
const PPOLL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ppoll.so"));

/// Host seconds per guest second that a clock can have.
pub const FACTORS: RangeInclusive<f64> = 1.0..=100.0;

/// Converts between the guest's time and the host's. Nothing else in the lab does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clock {
    factor: f64,
}

impl Clock {
    /// A guest second lasts `factor` host seconds; 1 = no dilation.
    pub fn new(factor: f64) -> Result<Self> {
        ensure!(FACTORS.contains(&factor), "dilation {factor}: expected {} to {}", FACTORS.start(), FACTORS.end());
        ensure!(
            factor == 1.0 || Path::new(FAKETIME).exists(),
            "dilation needs libfaketime; hint: apt-get install faketime"
        );
        Ok(Self { factor })
    }

    /// The factor.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// How long the host waits for so much guest time.
    pub fn host(&self, guest: Duration) -> Duration {
        guest.mul_f64(self.factor)
    }

    /// How much guest time passes in so much host time.
    pub fn guest(&self, host: Duration) -> Duration {
        host.div_f64(self.factor)
    }

    /// A QEMU process that is started by this command is under this clock.
    pub(crate) fn rule(&self, command: &mut Command) -> Result<()> {
        command.envs(self.environment());
        if self.factor == 1.0 {
            return Ok(());
        }
        // In memory: the loader separates paths by spaces and colons, and a user's directory may have them.
        inherit_bytes(command, "ppoll.so", PPOLL, PRELOAD_FD)
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        if self.factor == 1.0 {
            return Vec::new();
        }
        vec![
            ("LD_PRELOAD", format!("/proc/self/fd/{PRELOAD_FD}:{FAKETIME}")),
            ("QUORATE_DILATION", self.factor.to_string()),
            ("FAKETIME", format!("+0 x{}", 1.0 / self.factor)),
            ("FAKETIME_DONT_RESET", "1".to_owned()),
        ]
    }

    /// What the guest's kernel must know: its TSC is not scaled, and timer checks that count loops would fail.
    pub fn cmdline(&self) -> &'static str {
        if self.factor == 1.0 { "" } else { " tsc=unstable clocksource=hpet no_timer_check lpj=4000000" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_both_ways() {
        let c = Clock { factor: 10.0 };
        assert_eq!(c.host(Duration::from_millis(200)), Duration::from_secs(2));
        assert_eq!(c.guest(Duration::from_secs(2)), Duration::from_millis(200));
        assert!(c.environment().iter().any(|(k, v)| *k == "FAKETIME" && v == "+0 x0.1"));
        let real = Clock { factor: 1.0 };
        assert!(real.environment().is_empty() && real.cmdline().is_empty());
        assert!(Clock::new(0.5).is_err());
    }
}
