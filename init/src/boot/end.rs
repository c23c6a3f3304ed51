//! The end of the machine.

use super::log;
use contract::control::ShutdownKind;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::sync::mpsc;
use std::time::Duration;

/// Syncing a dead disk never returns; the machine ends all the same.
const SYNC: Duration = Duration::from_secs(30);

/// Everything that services left is killed, file systems are unmounted, and the machine ends. Errors are collected: none
/// of them stops the rest.
pub(crate) fn orderly(kind: ShutdownKind) -> ! {
    // Without a process left, none of this can fail in a way that matters.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    let mut problems = Vec::new();
    for target in ["/etc/kubernetes", "/opt/cni/bin", "/etc/cni/net.d", contract::paths::VAR] {
        unmount(target, &mut problems);
    }
    for problem in problems {
        log::say(&format!("unmounting: {problem}"));
    }
    log::say(match kind {
        ShutdownKind::Poweroff => "down: powering off",
        ShutdownKind::Reboot => "down: rebooting",
    });
    machine(kind)
}

fn unmount(target: &str, problems: &mut Vec<String>) {
    match umount2(target, MntFlags::empty()) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(e) => {
            problems.push(format!("{target}: {e}; made read-only instead"));
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            if let Err(e) = mount(None::<&str>, target, None::<&str>, flags, None::<&str>) {
                problems.push(format!("{target}: {e}"));
            }
        }
    }
}

/// Syncs, within a bound, and ends the machine at once.
pub(crate) fn machine(kind: ShutdownKind) -> ! {
    let (done, synced) = mpsc::channel();
    std::thread::spawn(move || {
        nix::unistd::sync();
        let _ = done.send(());
    });
    let _ = synced.recv_timeout(SYNC);
    let mode = match kind {
        ShutdownKind::Poweroff => RebootMode::RB_POWER_OFF,
        ShutdownKind::Reboot => RebootMode::RB_AUTOBOOT,
    };
    let Err(e) = reboot(mode);
    log::emergency(&format!("the kernel refused to end the machine: {e}"));
    park()
}

/// For ever.
pub(crate) fn park() -> ! {
    loop {
        nix::unistd::pause();
    }
}
