//! What follows from what HAProxy answered: pure.

use std::time::Duration;

/// What holding the virtual IP adds to a node's priority: more than the base priorities differ.
pub(crate) const HOLDING: i32 = 20;
/// What reaching no master takes away: more than that, and holding, make up for.
pub(crate) const NO_MASTER: i32 = -50;
/// No master for so long, and the node is worth less than one that reaches some. An election of etcd, or a switch port that
/// blinks, is over before.
const LOST: Duration = Duration::from_secs(1);
/// With a master for so long it counts again: one that comes and goes must not move the address each time.
const REGAINED: Duration = Duration::from_secs(5);
/// So many questions in a row without an answer, and HAProxy hangs.
const SILENT: u32 = 2;

/// What HAProxy answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Masters {
    /// Those that are alive and ready.
    pub(crate) ready: u32,
    /// Those that accept connections.
    pub(crate) reachable: u32,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Nobody listens: it is not there, or only starting. PID 1 sees that for itself.
    Absent,
    /// Somebody listens, but does not answer as he should.
    Mute(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// HAProxy hangs: why.
    Hangs(String),
    /// This node's weight changed.
    Weighs {
        /// 0 or [`NO_MASTER`].
        weight: i32,
        /// For people.
        why: String,
    },
}

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    /// It answered once since it was last given up: one that only starts is not taken for one that hangs.
    answered: bool,
    silent: u32,
    /// Since when a master was reached, or none was.
    since: Option<(bool, Duration)>,
    weight: i32,
}

impl Watch {
    /// Takes an answer, or that there was none, at a moment.
    pub(crate) fn step(&mut self, now: Duration, answer: Result<Masters, Silence>) -> Vec<Decision> {
        match answer {
            Ok(masters) => {
                (self.answered, self.silent) = (true, 0);
                self.masters(now, masters).into_iter().collect()
            }
            Err(Silence::Absent) => {
                (self.answered, self.silent) = (false, 0);
                vec![]
            }
            Err(Silence::Mute(why)) if self.answered => {
                self.silent += 1;
                if self.silent < SILENT {
                    return vec![];
                }
                (self.answered, self.silent) = (false, 0);
                vec![Decision::Hangs(format!("{SILENT} requests of the agent got no answer: {why}"))]
            }
            Err(Silence::Mute(_)) => vec![],
        }
    }

    fn masters(&mut self, now: Duration, masters: Masters) -> Option<Decision> {
        let some = masters.reachable > 0 || masters.ready > 0;
        let since = match self.since {
            Some((s, since)) if s == some => since,
            _ => now,
        };
        self.since = Some((some, since));
        let for_so_long = now.saturating_sub(since);
        if some && self.weight != 0 && for_so_long >= REGAINED {
            self.weight = 0;
            return Some(Decision::Weighs { weight: 0, why: "reaches masters again".into() });
        }
        if !some && self.weight == 0 && for_so_long >= LOST {
            self.weight = NO_MASTER;
            return Some(Decision::Weighs { weight: NO_MASTER, why: "reaches no master".into() });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(watch: &mut Watch, from_ms: u64, answers: &[Result<u32, ()>]) -> Vec<(u64, Decision)> {
        let times = (0..).map(|i| from_ms + 200 * i);
        let step = |(at, answer): (u64, &Result<u32, ()>)| {
            let answer =
                answer.map(|n| Masters { ready: n, reachable: n }).map_err(|()| Silence::Mute("timed out".into()));
            watch.step(Duration::from_millis(at), answer).into_iter().map(move |d| (at, d)).collect::<Vec<_>>()
        };
        times.zip(answers).flat_map(step).collect()
    }

    #[test]
    fn one_that_starts_is_not_one_that_hangs() {
        let mut watch = Watch::default();
        assert!(run(&mut watch, 0, &[Err(()); 20]).is_empty());
        assert!(run(&mut watch, 4000, &[Ok(3), Err(()), Ok(3)]).is_empty(), "one silence is none");
        let said = run(&mut watch, 5000, &[Err(()); 20]);
        assert_eq!(said.len(), 1, "said once until it answers again: {said:?}");
        // It was killed and starts again: refused is not hung.
        watch.step(Duration::from_secs(20), Ok(Masters { ready: 3, reachable: 3 }));
        for i in 0..9 {
            assert!(watch.step(Duration::from_secs(21 + i), Err(Silence::Absent)).is_empty());
        }
        assert!(run(&mut watch, 40_000, &[Err(()); 9]).is_empty(), "not before it answered");
        assert!(said[0].0 == 5200 && matches!(&said[0].1, Decision::Hangs(w) if w.contains("timed out")));
    }

    #[test]
    fn a_node_without_masters_weighs_less_and_is_forgiven_late() {
        let mut watch = Watch::default();
        assert!(run(&mut watch, 0, &[Ok(3); 5]).is_empty());
        let said = run(&mut watch, 1000, &[Ok(0); 20]);
        assert!(matches!(said[..], [(2000, Decision::Weighs { weight: NO_MASTER, .. })]), "{said:?}");
        // It comes and goes: nothing.
        assert!(run(&mut watch, 5000, &[Ok(1), Ok(1), Ok(0), Ok(1)]).is_empty());
        let said = run(&mut watch, 6000, &[Ok(1); 30]);
        assert!(matches!(said[..], [(10_600, Decision::Weighs { weight: 0, .. })]), "{said:?}");
    }

    proptest! {
        /// Whatever is seen: the weight changes at most once per second of no master, and only between its two values.
        #[test]
        fn weights_alternate(answers in prop::collection::vec(prop::option::of(0_u32..3), 0..200)) {
            let mut watch = Watch::default();
            let mut last = (0, Duration::ZERO);
            for (i, answer) in (0_u32..).zip(answers) {
                let now = Duration::from_millis(200) * i;
                let answer = answer.map(|n| Masters { ready: 0, reachable: n }).ok_or(Silence::Mute(String::new()));
                for decision in watch.step(now, answer) {
                    if let Decision::Weighs { weight, .. } = decision {
                        prop_assert!(weight != last.0 && (weight == 0 || weight == NO_MASTER));
                        prop_assert!(now - last.1 >= LOST);
                        last = (weight, now);
                    }
                }
            }
        }
    }
}
