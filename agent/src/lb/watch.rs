//! What follows from what HAProxy answered: pure.

use crate::hung::{self, Silence};
use contract::lb::SOUND;
use std::time::Duration;

/// What holding the virtual IP adds to a node's priority: more than the base priorities differ.
pub(crate) const HOLDING: i32 = 20;
/// What reaching no master takes away: more than that, and holding, make up for.
pub(crate) const NO_MASTER: i32 = -50;
/// How long a node must have seen another state of things before it weighs itself anew. Load balancers that lose all
/// masters in one moment see so at moments that differ by a check of HAProxy's, and by what the machines are busy with:
/// whoever holds the address says that it is lost last, and that it is back first, or the address would move for nothing.
struct Hesitation {
    /// No master for so long, and the node is worth less than one that reaches some.
    lost: Duration,
    /// With a master for so long it counts again.
    regained: Duration,
}
/// More than what two load balancers may differ by: the time between two health checks, and [`ASK`].
const HOLDER: Hesitation = Hesitation { lost: Duration::from_millis(500), regained: Duration::from_secs(1) };
/// Who reaches a master now and then must not be given the address each time.
const OTHERS: Hesitation = Hesitation { lost: Duration::ZERO, regained: Duration::from_secs(5) };
/// So many questions in a row without an answer, and HAProxy hangs.
const SILENT: u32 = 2;
/// ... of one that has not answered yet: it may be starting, which takes a tenth of a second.
const STARTS: u32 = 25;

/// HAProxy tells nobody that it hangs: it is asked this often.
pub(crate) const ASK: Duration = Duration::from_millis(200);
/// A server that is down for so long gets no new connection, and none is in the making: each was made, or has timed out.
const SETTLED: Duration = Duration::from_millis(contract::lb::SETTLED_MS as u64);
/// A master that has served for so long can take the clients of another: those that were late together are back at moments that
/// differ by less.
const STEADY: Duration = Duration::from_secs(1);
/// Where no other master could take its clients, one that is busy is not told from one that is dead before so long.
const ALONE: Duration = Duration::from_secs(5);

/// What HAProxy answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Masters {
    /// Whether each server is up, in the order of [`contract::lb::servers`].
    pub(crate) up: Vec<bool>,
    /// What HAProxy counts of each master's checks, up to [`SOUND`] (`contract::lb`); none: it did not tell.
    pub(crate) health: Vec<Option<u32>>,
}

impl Masters {
    /// Whether a master is up and its last check succeeded.
    fn is_sound(&self, master: usize) -> bool {
        self.health[master] == Some(SOUND)
    }

    /// Whether a master is neither alive nor, as its last check succeeded, about to be.
    fn is_dead(&self, master: usize) -> bool {
        !self.up[master] && self.health[master].is_none_or(|h| h == 0)
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// A server of the last resort is to get no new connections: its master is dead.
    MarkDown(String),
    /// A server is dead: its connections are to be cut.
    Cut(String),
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
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    haproxy: hung::Watch,
    /// Since when a master was reached, or none was.
    since: Option<(bool, Duration)>,
    weight: i32,
    /// In the order of [`contract::lb::servers`]: each master has one in the first half, which is up as long as the master is
    /// alive, ready or not, and one in the second, the last resort's.
    servers: Vec<Server>,
    /// Since when each master serves.
    serve: Vec<Option<Duration>>,
}

/// A server of HAProxy's.
#[derive(Clone, Debug)]
struct Server {
    name: String,
    /// Since when it is down, until its connections were cut.
    down: Option<Duration>,
    cut: bool,
}

impl Watch {
    /// Over these servers, [`contract::lb::servers`].
    pub(crate) fn of(servers: Vec<String>) -> Self {
        // Which connections there are from before, nobody knows: a server that is down at first loses them.
        let server = |name| Server { name, down: None, cut: false };
        let serve = vec![None; servers.len() / 2];
        let servers = servers.into_iter().map(server).collect();
        Self { haproxy: hung::Watch::of(SILENT, STARTS), since: None, weight: 0, servers, serve }
    }

    /// Whether this node reaches a master, as far as it weighs.
    pub(crate) fn serves(&self) -> bool {
        self.weight == 0
    }

    /// How long until it is to be asked again.
    pub(crate) fn patience(&self, now: Duration) -> Duration {
        let due =
            self.servers.iter().filter_map(|s| (s.down? + SETTLED).checked_sub(now).filter(|left| !left.is_zero()));
        due.min().unwrap_or(ASK).min(ASK)
    }

    fn cuts(&mut self, now: Duration, seen: &Masters) -> Vec<Decision> {
        let masters = self.serve.len();
        let (alive, started) = seen.up.split_at(masters);
        for (since, serves) in self.serve.iter_mut().zip(alive.iter().zip(started).map(|(a, s)| *a && *s)) {
            *since = serves.then(|| since.unwrap_or(now));
        }
        // Clients that are turned away from a master need one that answers: where all are late, one that is busy is better
        // than none, and to lose all clients at once would make it busier. Those that stopped to answer in one moment are known
        // to be down at moments that differ by 0.3 s: one fails its check in the handshake, after `CONNECT`, and another one
        // that had just made it after `CHECK` (`init/src/roles/lb/haproxy.rs`). But each has failed its first check by then.
        let steady = |since: &Option<Duration>| since.is_some_and(|s| now.saturating_sub(s) >= STEADY);
        let serve = &self.serve;
        let takes = |(m, since): (usize, &Option<Duration>)| steady(since) && seen.is_sound(m);
        let others = |master: usize| serve.iter().enumerate().any(|s| s.0 != master && takes(s));
        let mut decisions = Vec::new();
        for (i, server) in self.servers.iter_mut().enumerate() {
            let master = i % masters;
            if seen.up[i] {
                (server.down, server.cut) = (None, false);
                if !alive[master] && others(master) {
                    decisions.push(Decision::MarkDown(server.name.clone()));
                }
            } else if !server.cut {
                let down = now.saturating_sub(*server.down.get_or_insert(now));
                // On a network that loses packets two checks in a row are lost now and then: the next one succeeds.
                if down >= SETTLED && (seen.is_dead(master) && others(master) || down >= ALONE) {
                    (server.down, server.cut) = (None, true);
                    decisions.push(Decision::Cut(server.name.clone()));
                }
            }
        }
        decisions
    }

    /// Takes an answer, or that there was none, at a moment, and whether this node holds the virtual IP.
    pub(crate) fn step(&mut self, now: Duration, holds: bool, answer: Result<Masters, Silence>) -> Vec<Decision> {
        let hangs = self.haproxy.step(answer.as_ref().map(drop).map_err(Clone::clone)).map(Decision::Hangs);
        match answer {
            Ok(masters) => {
                let mut decisions = self.cuts(now, &masters);
                decisions.extend(self.masters(now, holds, &masters));
                decisions
            }
            Err(Silence::Absent) => {
                // The one that starts next has connections of its own, to whatever is down by then.
                self.servers.iter_mut().for_each(|s| (s.down, s.cut) = (None, false));
                vec![]
            }
            Err(Silence::Mute(_)) => hangs.into_iter().collect(),
        }
    }

    fn masters(&mut self, now: Duration, holds: bool, masters: &Masters) -> Option<Decision> {
        let hesitation = if holds { HOLDER } else { OTHERS };
        let some = masters.up[..self.serve.len()].contains(&true);
        let since = match self.since {
            Some((s, since)) if s == some => since,
            _ => now,
        };
        self.since = Some((some, since));
        let for_so_long = now.saturating_sub(since);
        if some && self.weight != 0 && for_so_long >= hesitation.regained {
            self.weight = 0;
            return Some(Decision::Weighs { weight: 0, why: "reaches masters again".into() });
        }
        if !some && self.weight == 0 && for_so_long >= hesitation.lost {
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

    /// Over one master.
    fn watch() -> Watch {
        Watch::of(vec!["ready/a".into(), "started/a".into()])
    }

    /// A master that is alive, or not; its last resort is late to tell.
    fn masters(alive: bool) -> Masters {
        Masters { up: vec![alive, true], health: vec![Some(if alive { SOUND } else { 0 })] }
    }

    /// A holder's decisions but for cuts.
    fn run(watch: &mut Watch, from_ms: u64, answers: &[Result<bool, ()>]) -> Vec<(u64, Decision)> {
        run_as(true, watch, from_ms, answers)
    }

    fn run_as(holds: bool, watch: &mut Watch, from_ms: u64, answers: &[Result<bool, ()>]) -> Vec<(u64, Decision)> {
        let times = (0..).map(|i| from_ms + 200 * i);
        let step = |(at, answer): (u64, &Result<bool, ()>)| {
            let answer = answer.map(masters).map_err(|()| Silence::Mute("timed out".into()));
            let decisions = watch.step(Duration::from_millis(at), holds, answer).into_iter();
            decisions.filter(|d| !matches!(d, Decision::Cut(_))).map(move |d| (at, d)).collect::<Vec<_>>()
        };
        times.zip(answers).flat_map(step).collect()
    }

    #[test]
    fn one_that_starts_is_not_one_that_hangs() {
        let mut watch = watch();
        assert!(run(&mut watch, 0, &[Err(()); 20]).is_empty());
        assert!(run(&mut watch, 4000, &[Ok(true), Err(()), Ok(true)]).is_empty(), "one silence is none");
        let said = run(&mut watch, 5000, &[Err(()); 20]);
        assert_eq!(said.len(), 1, "said once until it answers again: {said:?}");
        // It was killed and starts again: refused is not hung.
        watch.step(Duration::from_secs(20), true, Ok(masters(true)));
        for i in 0..9 {
            assert!(watch.step(Duration::from_secs(21 + i), true, Err(Silence::Absent)).is_empty());
        }
        assert!(run(&mut watch, 40_000, &[Err(()); 9]).is_empty(), "not before it answered");
        assert!(said[0].0 == 5200 && matches!(&said[0].1, Decision::Hangs(w) if w.contains("timed out")));
    }

    #[test]
    fn a_node_without_masters_weighs_less_and_is_forgiven_late() {
        let mut watch = watch();
        assert!(run(&mut watch, 0, &[Ok(true); 5]).is_empty());
        let said = run(&mut watch, 1000, &[Ok(false); 20]);
        assert!(matches!(said[..], [(1600, Decision::Weighs { weight: NO_MASTER, .. })]), "{said:?}");
        // It was taken away. A master comes and goes: nothing.
        assert!(run_as(false, &mut watch, 5000, &[Ok(true), Ok(true), Ok(false), Ok(true)]).is_empty());
        let said = run_as(false, &mut watch, 6000, &[Ok(true); 30]);
        assert!(matches!(said[..], [(10_600, Decision::Weighs { weight: 0, .. })]), "{said:?}");
    }

    #[test]
    fn where_all_lose_the_masters_the_holder_weighs_most_all_the_time() {
        let (mut holder, mut other) = (watch(), watch());
        // It sees what happens as long before the other as it can.
        let seen: Vec<_> =
            [(true, 10), (false, 50), (true, 50)].iter().flat_map(|(n, times)| vec![Ok(*n); *times]).collect();
        let mut weights: Vec<(u64, bool, i32)> = Vec::new();
        let changes = [(true, run_as(true, &mut holder, 0, &seen)), (false, run_as(false, &mut other, 400, &seen))];
        for (holds, decisions) in changes {
            weights.extend(decisions.into_iter().filter_map(|(at, decision)| match decision {
                Decision::Weighs { weight, .. } => Some((at, holds, weight)),
                _ => None,
            }));
        }
        weights.sort_unstable();
        assert_eq!(weights, [(2400, false, NO_MASTER), (2600, true, NO_MASTER), (13_000, true, 0), (17_400, false, 0)]);
    }

    /// Over two masters.
    fn two() -> Watch {
        Watch::of(["ready/a", "ready/b", "started/a", "started/b"].map(String::from).into())
    }

    /// What is decided at a moment, of what is up then.
    fn at(watch: &mut Watch, ms: u64, up: [u8; 4]) -> String {
        health_at(watch, ms, up, [up[0], up[1]].map(|up| if up == 1 { SOUND } else { 0 }))
    }

    fn health_at(watch: &mut Watch, ms: u64, up: [u8; 4], health: [u32; 2]) -> String {
        let answer = Ok(Masters { up: up.map(|u| u == 1).into(), health: health.map(Some).into() });
        let decisions = watch.step(Duration::from_millis(ms), true, answer).into_iter();
        let text = decisions.filter_map(|d| match d {
            Decision::Cut(server) => Some(format!("cut {server}")),
            Decision::MarkDown(server) => Some(format!("mark down {server}")),
            _ => None,
        });
        text.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_server_that_is_down_loses_its_connections_once_and_not_too_soon() {
        let mut watch = two();
        assert_eq!(at(&mut watch, 0, [1, 1, 1, 1]), "");
        assert_eq!(at(&mut watch, 2100, [1, 0, 1, 1]), "mark down started/b", "one may be in the making");
        for ms in [2200, 2300] {
            assert_eq!(at(&mut watch, ms, [1, 0, 1, 0]), "");
        }
        assert_eq!(at(&mut watch, 2320, [1, 0, 1, 0]), "cut ready/b");
        assert_eq!(at(&mut watch, 2420, [1, 0, 1, 0]), "cut started/b");
        assert_eq!(at(&mut watch, 2600, [1, 1, 1, 0]), "");
        assert_eq!(at(&mut watch, 2700, [1, 0, 1, 0]), "", "down again");
        assert_eq!(at(&mut watch, 2800, [1, 1, 1, 1]), "", "and up before it settled");
        assert_eq!(at(&mut watch, 3100, [1, 0, 1, 0]), "");
        assert_eq!(at(&mut watch, 3320, [1, 0, 1, 0]), "cut ready/b, cut started/b");
        watch.step(Duration::from_millis(3500), true, Err(Silence::Absent));
        assert_eq!(at(&mut watch, 3600, [1, 0, 1, 0]), "");
        assert_eq!(at(&mut watch, 3820, [1, 0, 1, 0]), "cut ready/b, cut started/b", "a HAProxy that started again");
    }

    #[test]
    fn the_last_one_keeps_its_connections_for_long() {
        let mut watch = two();
        assert_eq!(at(&mut watch, 0, [1, 1, 1, 1]), "");
        // Both are late; then the other one is alive, but has not started.
        assert_eq!(at(&mut watch, 10_000, [0, 0, 1, 1]), "");
        for ms in [11_000, 12_000, 13_000, 14_900] {
            assert_eq!(at(&mut watch, ms, [0, 1, 1, 0]), "");
        }
        assert_eq!(at(&mut watch, 15_000, [0, 1, 1, 0]), "cut ready/a", "dead, whoever else is");
        assert_eq!(at(&mut watch, 15_100, [0, 1, 1, 1]), "");
        assert_eq!(at(&mut watch, 16_100, [0, 1, 1, 1]), "mark down started/a", "now there is another");
        // Both are late, and are back one after the other.
        assert_eq!(at(&mut watch, 20_000, [1, 1, 1, 1]), "");
        assert_eq!(at(&mut watch, 22_000, [0, 0, 0, 0]), "");
        assert_eq!(at(&mut watch, 23_000, [0, 1, 0, 1]), "");
        assert_eq!(at(&mut watch, 23_900, [1, 1, 1, 1]), "");
        // One is not back.
        assert_eq!(at(&mut watch, 31_000, [0, 0, 0, 0]), "");
        assert_eq!(at(&mut watch, 32_000, [0, 1, 0, 1]), "");
        assert_eq!(at(&mut watch, 33_000, [0, 1, 0, 1]), "cut ready/a, cut started/a");
    }

    #[test]
    fn one_that_has_just_failed_a_check_takes_nobodys_clients() {
        let mut watch = two();
        assert_eq!(at(&mut watch, 0, [1, 1, 1, 1]), "");
        assert_eq!(health_at(&mut watch, 2000, [1, 0, 1, 1], [SOUND - 1, 0]), "", "both are late");
        assert_eq!(health_at(&mut watch, 2220, [1, 0, 1, 1], [SOUND - 1, 0]), "");
        assert_eq!(at(&mut watch, 2300, [0, 0, 1, 1]), "");
        // And where it was lost on the way:
        assert_eq!(at(&mut watch, 5000, [1, 1, 1, 1]), "");
        assert_eq!(health_at(&mut watch, 7000, [1, 0, 1, 1], [SOUND - 1, 0]), "");
        assert_eq!(health_at(&mut watch, 7300, [1, 0, 1, 1], [SOUND, 0]), "cut ready/b, mark down started/b");
    }

    #[test]
    fn one_whose_checks_succeed_again_keeps_its_connections() {
        let mut watch = two();
        let again = [SOUND, 1];
        assert_eq!(at(&mut watch, 0, [1, 1, 1, 1]), "");
        assert_eq!(at(&mut watch, 2000, [1, 0, 1, 1]), "mark down started/b");
        assert_eq!(health_at(&mut watch, 2220, [1, 0, 1, 0], again), "", "the next one succeeded");
        assert_eq!(at(&mut watch, 2420, [1, 1, 1, 0]), "");
        assert_eq!(at(&mut watch, 2620, [1, 1, 1, 0]), "", "the last resort's checks are a little later");
        assert_eq!(at(&mut watch, 2820, [1, 1, 1, 1]), "");
        // It was the last one that succeeded.
        assert_eq!(at(&mut watch, 4000, [1, 0, 1, 1]), "mark down started/b");
        assert_eq!(health_at(&mut watch, 4220, [1, 0, 1, 0], again), "");
        assert_eq!(at(&mut watch, 4440, [1, 0, 1, 0]), "cut ready/b, cut started/b");
        // Every second one does, which is no master to be connected to.
        assert_eq!(at(&mut watch, 5000, [1, 1, 1, 1]), "");
        assert_eq!(at(&mut watch, 6000, [1, 0, 1, 1]), "mark down started/b");
        for ms in [7000, 8000, 9000, 10_999] {
            assert_eq!(health_at(&mut watch, ms, [1, 0, 1, 0], again), "");
        }
        assert_eq!(health_at(&mut watch, 12_000, [1, 0, 1, 0], again), "cut ready/b, cut started/b");
    }

    #[test]
    fn it_is_asked_in_the_moment_in_which_a_cut_is_due() {
        let mut watch = two();
        let patience = |watch: &Watch, ms| watch.patience(Duration::from_millis(ms));
        at(&mut watch, 1900, [1, 0, 1, 0]);
        assert_eq!(patience(&watch, 1910), ASK, "no sooner than otherwise");
        assert_eq!(patience(&watch, 2100), Duration::from_millis(20));
        at(&mut watch, 2119, [0, 0, 0, 0]);
        assert_eq!(patience(&watch, 2120), ASK, "one that waits for another to be there is not due");
    }

    proptest! {
        /// Whatever a holder sees: the weight changes at most every half a second, and only between its two values.
        #[test]
        fn weights_alternate(answers in prop::collection::vec(prop::option::of(prop::bool::ANY), 0..200)) {
            let mut watch = watch();
            let mut last = (0, Duration::ZERO);
            for (i, answer) in (0_u32..).zip(answers) {
                let now = Duration::from_millis(200) * i;
                let answer = answer.map(masters).ok_or(Silence::Mute(String::new()));
                for decision in watch.step(now, true, answer) {
                    if let Decision::Weighs { weight, .. } = decision {
                        prop_assert!(weight != last.0 && (weight == 0 || weight == NO_MASTER));
                        prop_assert!(now - last.1 >= HOLDER.lost);
                        last = (weight, now);
                    }
                }
            }
        }
    }
}
