//! Whether the member beside this node's apiserver does its work: who finds out (`slow.rs`) tells who has to know.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Where it is slow, or has no leader, the apiserver's new clients are sent elsewhere. When that lasts, those that are connected
/// had better leave: from this moment on.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    leave: Mutex<Option<Instant>>,
    changed: Condvar,
}

impl Beside {
    /// It is slow; if it still is at that moment, clients had better leave.
    pub(super) fn set_slow(&self, leave: Instant) {
        self.set(Some(leave));
    }

    /// It does its work.
    pub(super) fn set_well(&self) {
        self.set(None);
    }

    fn set(&self, leave: Option<Instant>) {
        *self.leave.lock().unwrap_or_else(PoisonError::into_inner) = leave;
        self.changed.notify_all();
    }

    /// Whether it is slow.
    pub(crate) fn is_slow(&self) -> bool {
        self.leave.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Waits until clients had better leave, and not before a moment. There is no bound: it may be well for years.
    pub(crate) fn until_clients_leave(&self, from: Instant) {
        let mut leave = self.leave.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Some(at) = *leave else {
                leave = self.changed.wait(leave).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = at.max(from).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            leave = self.changed.wait_timeout(leave, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_slow_for_a_moment_is_not_slow_for_long() {
        let (beside, long) = (Beside::default(), Duration::from_millis(200));
        let began = Instant::now();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                beside.until_clients_leave(began);
                Instant::now()
            });
            beside.set_slow(began + long);
            assert!(beside.is_slow());
            beside.set_well();
            assert!(!beside.is_slow());
            let again = Instant::now() + long;
            beside.set_slow(again);
            assert!(waits.join().expect("it waited") >= again);
        });
        let later = Instant::now() + long;
        beside.until_clients_leave(later);
        assert!(Instant::now() >= later);
    }
}
