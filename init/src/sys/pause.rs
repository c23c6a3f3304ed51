//! The first process of every pod: this program under the name `/pause`, in the one image that quorate's own pods are made
//! of. It holds the pod's namespaces, and where a pod shares its process ids it takes the status of orphans.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Until it is told to end.
pub(crate) fn run() -> ! {
    let wanted: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD].into_iter().collect();
    let blocked = wanted.thread_block();
    while blocked.is_ok() {
        match wanted.wait() {
            Ok(Signal::SIGCHLD) => {
                // Signals coalesce: all that ended.
                let any = Pid::from_raw(-1);
                while waitpid(any, Some(WaitPidFlag::WNOHANG)).is_ok_and(|s| s.pid().is_some()) {}
            }
            Ok(_) => std::process::exit(0),
            Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    std::process::exit(1)
}
