//! Last words. PID 1's death is a kernel panic whose own message says nothing, so the hook speaks first.

use super::{end, log};
use contract::control::ShutdownKind;
use std::sync::atomic::{AtomicBool, Ordering};

static STAY: AtomicBool = AtomicBool::new(false);

/// `panic=0` on the command line: stay up for diagnosis.
pub(crate) fn set_stay(on: bool) {
    STAY.store(on, Ordering::Relaxed);
}

/// Installs the hook: one record with place and text, sync, reboot. It never returns, so nothing unwinds.
pub(crate) fn install() {
    std::panic::set_hook(Box::new(|info| {
        log::emergency(&format!("PANIC in PID 1: {info}"));
        stop();
    }));
}

/// The end of a boot that cannot go on: reboot, or with `panic=0` stay.
pub(crate) fn stop() -> ! {
    if STAY.load(Ordering::Relaxed) {
        log::emergency("staying up for diagnosis (panic=0)");
        end::park();
    }
    end::machine(ShutdownKind::Reboot);
}
