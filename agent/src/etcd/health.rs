//! Whether the etcd behind this node's apiserver does its work: who finds out (`slow.rs` of a member beside it, `gone.rs` of
//! others) tells who has to know.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where it does not, the apiserver's new clients are sent elsewhere. When that lasts, those that are connected had better leave:
/// from this moment on.
#[derive(Debug, Default)]
pub(crate) struct Health {
    leave: Mutex<Option<Instant>>,
    changed: Condvar,
}

impl Health {
    /// An election is over after so long, and load balancers know that new clients are to go elsewhere.
    pub(super) const LASTS: Duration = Duration::from_secs(3);

    /// It does not, or too slowly; if it still is at that moment, clients had better leave.
    pub(super) fn set_unhealthy(&self, leave: Instant) {
        self.set(Some(leave));
    }

    /// It does its work.
    pub(super) fn set_healthy(&self) {
        self.set(None);
    }

    fn set(&self, leave: Option<Instant>) {
        *self.leave.lock().unwrap_or_else(PoisonError::into_inner) = leave;
        self.changed.notify_all();
    }

    /// Whether it does.
    pub(crate) fn is_healthy(&self) -> bool {
        self.leave.lock().unwrap_or_else(PoisonError::into_inner).is_none()
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
    fn what_ails_for_a_moment_does_not_send_clients_away() {
        let (health, long) = (Health::default(), Duration::from_millis(200));
        let began = Instant::now();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                health.until_clients_leave(began);
                Instant::now()
            });
            health.set_unhealthy(began + long);
            assert!(!health.is_healthy());
            health.set_healthy();
            assert!(health.is_healthy());
            let again = Instant::now() + long;
            health.set_unhealthy(again);
            assert!(waits.join().expect("it waited") >= again);
        });
        let later = Instant::now() + long;
        health.until_clients_leave(later);
        assert!(Instant::now() >= later);
    }
}
