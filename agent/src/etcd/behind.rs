//! Whether the etcd behind this node's apiserver does its work: who finds out (`slow.rs` of a member beside it, `gone.rs` of
//! others) tells who has to know.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where it does not, the apiserver's new clients are sent elsewhere. When that lasts, those that are connected had better leave:
/// from this moment on.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    leave: Mutex<Option<Instant>>,
    changed: Condvar,
}

impl Behind {
    /// An election is over after so long, and load balancers know that new clients are to go elsewhere.
    pub(super) const LASTS: Duration = Duration::from_secs(3);

    /// It does not, or too slowly; if it still is at that moment, clients had better leave.
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

    /// Whether it does not.
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

    #[test]
    fn what_is_slow_for_a_moment_is_not_slow_for_long() {
        let (behind, long) = (Behind::default(), Duration::from_millis(200));
        let began = Instant::now();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                behind.until_clients_leave(began);
                Instant::now()
            });
            behind.set_slow(began + long);
            assert!(behind.is_slow());
            behind.set_well();
            assert!(!behind.is_slow());
            let again = Instant::now() + long;
            behind.set_slow(again);
            assert!(waits.join().expect("it waited") >= again);
        });
        let later = Instant::now() + long;
        behind.until_clients_leave(later);
        assert!(Instant::now() >= later);
    }
}
