//! Whether keepalived hangs, by what its group does: pure. Nobody can ask it anything, but in a group that lives a node either
//! holds the virtual IP or hears the one that does, but for a few tenths of a second. A node that does both has a keepalived that
//! does not hear that it was relieved; one that does neither has one that does not take over.
//!
//! Where only one of two hears the other (a cable that is cut one way) the one that hears gives up and both agree again.

use std::time::Duration;

/// A peer advertised within so many intervals: keepalived takes it for dead after three and the skew time (RFC 9568, 6.1).
const HEARD: u32 = 4;
/// For so many intervals both or neither ...
const ODD: u32 = 10;
/// ... and for so long: two that held it and meet have settled it in a tenth of a second, a takeover takes 0.4.
const ODD_AT_LEAST: Duration = Duration::from_secs(2);

/// What was seen so far.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    advert: Duration,
    /// It was as it should be since keepalived was last given up: one that only starts does neither.
    known: bool,
    /// Both, or neither, and since when.
    odd: Option<(bool, Duration)>,
}

impl Group {
    /// Of routers that advertise this often.
    pub(crate) fn of(advert: Duration) -> Self {
        Self { advert, known: false, odd: None }
    }

    /// Takes whether this node holds the address and when a peer last said that it does; answers why keepalived hangs.
    pub(crate) fn step(&mut self, now: Duration, holds: bool, heard: Option<Duration>) -> Option<String> {
        let hears = heard.is_some_and(|at| now.saturating_sub(at) <= self.advert * HEARD);
        if holds != hears {
            (self.known, self.odd) = (true, None);
            return None;
        }
        let since = match self.odd {
            Some((both, since)) if both == holds => since,
            _ => now,
        };
        self.odd = Some((holds, since));
        let long = now.saturating_sub(since);
        if !self.known || long < (self.advert * ODD).max(ODD_AT_LEAST) {
            return None;
        }
        (self.known, self.odd) = (false, None);
        let what = if holds {
            "this node holds the virtual IP, and a peer advertises that it does"
        } else {
            "nobody holds the virtual IP"
        };
        Some(format!("{what}: for {:.1} s", long.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said, by the moment: a step each 100 ms, in which this node holds it or not, and hears a peer or not.
    fn run(group: &mut Group, from: u64, seen: &[(bool, bool, u64)]) -> Vec<(u64, String)> {
        let mut now = from;
        let mut last = None;
        let mut said = Vec::new();
        for (holds, hears, times) in seen {
            for _ in 0..*times {
                let at = Duration::from_millis(now);
                if *hears {
                    last = Some(at);
                }
                said.extend(group.step(at, *holds, last).map(|why| (now, why)));
                now += 100;
            }
        }
        said
    }

    fn group() -> Group {
        Group::of(Duration::from_millis(100))
    }

    #[test]
    fn a_holder_that_was_relieved_and_does_not_hear_it_is_told_of_once() {
        let said = run(&mut group(), 0, &[(true, false, 10), (true, true, 60)]);
        assert_eq!(
            said,
            [(3000, "this node holds the virtual IP, and a peer advertises that it does: for 2.0 s".into())]
        );
    }

    #[test]
    fn one_that_does_not_take_over_is_told_of_once() {
        let said = run(&mut group(), 0, &[(false, true, 10), (false, false, 60)]);
        // For 0.4 s the last advertisement counts.
        assert_eq!(said, [(3400, "nobody holds the virtual IP: for 2.0 s".into())]);
    }

    #[test]
    fn what_a_live_group_does_is_nothing_odd() {
        // It starts, and waits long for what it needs; takes it; is cut off from a peer, meets it and keeps it, gives it up to
        // it, is without any for a moment, takes it again; alone all the time.
        let life = [(false, false, 90), (true, false, 9), (true, true, 3), (true, false, 9), (false, true, 9)];
        assert!(run(&mut group(), 0, &life).is_empty());
        assert!(run(&mut group(), 0, &[(false, true, 9), (false, false, 4), (true, false, 900)]).is_empty());
        let mut group = group();
        assert!(
            run(&mut group, 0, &[(true, false, 9), (true, true, 15), (false, false, 22)]).is_empty(),
            "one, then the other"
        );
    }

    #[test]
    fn slow_advertisements_have_more_time() {
        let mut group = Group::of(Duration::from_secs(1));
        let said = run(&mut group, 0, &[(false, true, 10), (false, false, 200)]);
        assert_eq!(said.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [15_000]);
    }
}
