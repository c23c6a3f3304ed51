//! What may happen to a frame between a node and the switch: nothing, or one of the faults that real networks have.
//! Pure: the moment and the dice are given.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What waits for a slow link, at most, before frames are dropped at its tail. Guest time.
const QUEUE: Duration = Duration::from_millis(200);

/// The faults of one direction of a port. Times are the guest's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Nothing passes.
    pub cut: bool,
    /// Added to each frame.
    pub delay_ms: f64,
    /// Added beside the delay: evenly distributed from nothing to this.
    pub jitter_ms: f64,
    /// Share of frames that are lost, 0 to 1.
    pub loss: f64,
    /// Share of frames that overtake the delay: they are sent at once. 0 to 1.
    pub reorder: f64,
    /// Share of frames that arrive twice, 0 to 1.
    pub duplicate: f64,
    /// Bits per second; 0 = as fast as it goes.
    pub bandwidth: u64,
}

impl Faults {
    /// Why these numbers cannot be.
    pub fn problem(&self) -> Option<String> {
        for (name, share) in [("loss", self.loss), ("reorder", self.reorder), ("duplicate", self.duplicate)] {
            if !(0.0..=1.0).contains(&share) {
                return Some(format!("{name}: expected 0 to 1, found {share}"));
            }
        }
        for (name, ms) in [("delay", self.delay_ms), ("jitter", self.jitter_ms)] {
            if !(0.0..=60_000.0).contains(&ms) {
                return Some(format!("{name}: expected 0 to 60000 ms, found {ms}"));
            }
        }
        None
    }
}

/// One direction of a port.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    pub(crate) faults: Faults,
    /// When the last frame will have left a link of limited bandwidth.
    free_at: Duration,
}

impl Link {
    /// When copies of a frame that enters at `now` leave; none = it is lost. `die` answers numbers from 0 up to 1.
    pub(crate) fn pass(&mut self, now: Duration, bytes: usize, mut die: impl FnMut() -> f64) -> Vec<Duration> {
        let f = &self.faults;
        if f.cut || (f.loss > 0.0 && die() < f.loss) {
            return Vec::new();
        }
        let mut at = now;
        if f.bandwidth > 0 {
            if self.free_at.saturating_sub(now) > QUEUE {
                return Vec::new();
            }
            #[expect(
                clippy::cast_precision_loss,
                reason = "a frame has few bits, and links of 2^52 bit/s do not exist"
            )]
            let takes = Duration::from_secs_f64(bytes as f64 * 8.0 / f.bandwidth as f64);
            self.free_at = self.free_at.max(now) + takes;
            at = self.free_at;
        }
        let overtakes = f.reorder > 0.0 && die() < f.reorder;
        if !overtakes && (f.delay_ms > 0.0 || f.jitter_ms > 0.0) {
            let jitter = if f.jitter_ms > 0.0 { die() * f.jitter_ms } else { 0.0 };
            at += Duration::from_secs_f64((f.delay_ms + jitter) / 1000.0);
        }
        if f.duplicate > 0.0 && die() < f.duplicate { vec![at, at] } else { vec![at] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::from_secs(1);

    fn link(faults: Faults) -> Link {
        Link { faults, ..Link::default() }
    }

    #[test]
    fn each_fault() {
        let die = |v: f64| move || v;
        assert_eq!(link(Faults::default()).pass(T, 100, die(0.0)), [T], "none: at once, without a die");
        assert!(link(Faults { cut: true, ..Faults::default() }).pass(T, 100, die(0.9)).is_empty());
        let lossy = Faults { loss: 0.05, ..Faults::default() };
        assert!(link(lossy.clone()).pass(T, 100, die(0.04)).is_empty());
        assert_eq!(link(lossy).pass(T, 100, die(0.06)), [T]);
        let slow = Faults { delay_ms: 20.0, jitter_ms: 10.0, ..Faults::default() };
        assert_eq!(link(slow.clone()).pass(T, 100, die(0.5)), [T + Duration::from_millis(25)]);
        let reordering = Faults { reorder: 0.6, ..slow };
        assert_eq!(link(reordering).pass(T, 100, die(0.5)), [T]);
        assert_eq!(link(Faults { duplicate: 1.0, ..Faults::default() }).pass(T, 100, die(0.5)), [T, T]);
    }

    #[test]
    fn bandwidth_queues_and_then_drops() {
        // 1000 bytes take 8 ms.
        let mut l = link(Faults { bandwidth: 1_000_000, ..Faults::default() });
        assert_eq!(l.pass(T, 1000, || 0.0), [T + Duration::from_millis(8)]);
        assert_eq!(l.pass(T, 1000, || 0.0), [T + Duration::from_millis(16)]);
        let passed = (0..100).filter(|_| !l.pass(T, 1000, || 0.0).is_empty()).count();
        assert_eq!(passed, 24, "200 ms of queue");
        assert_eq!(l.pass(T * 2, 1000, || 0.0), [T * 2 + Duration::from_millis(8)], "drained meanwhile");
    }

    #[test]
    fn impossible_numbers() {
        assert!(Faults { loss: 1.5, ..Faults::default() }.problem().is_some());
        assert!(Faults { delay_ms: f64::NAN, ..Faults::default() }.problem().is_some());
        assert!(Faults { loss: 0.5, ..Faults::default() }.problem().is_none());
    }
}
