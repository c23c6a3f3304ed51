//! A member whose disk is slow, or stands still, answers late, and still it answers: apiservers that have all members ask it
//! every third time, those beside it each time. So a master's agent asks each member what only a majority knows, as its
//! apiserver does, and where one answers much later than another one does it is left alone for a while: by an apiserver that has
//! others, with a rule of this node's routing that holds for the apiserver only, or by the load balancers' new clients, where
//! the apiserver has but the one beside it.
//!
//! What is compared is the same question, asked from the same machine in the same seconds: where the machine or its network is
//! slow, all are. One member at a time, and of three at least: the others are a majority.

use super::connection::Connection;
use super::gone::Heard;
use super::{Gateway, silent};
use crate::channel::Channel;
use crate::net::{netlink::Netlink, tcp};
use contract::control::FromAgent;
use contract::node::NodeConfig;
use contract::ports::ETCD_CLIENT;
use contract::users::APISERVER;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Nothing tells that a member is slow: each is asked this often (half a millisecond of etcd's).
const ASK: Duration = Duration::from_millis(500);
/// What takes longer counts as this.
const PATIENCE: Duration = Duration::from_secs(1);
/// The middle one of so many answers is what a member takes: two stalls are none of its disk's.
const LOOKS: usize = 5;
/// A member that answers sooner is not slow, whatever others do: a network between two towns takes as long.
const LATE: Duration = Duration::from_millis(40);
/// ... and slow is one that takes so many times as long as another.
const TIMES: u32 = 4;
/// It is back when it takes less than half of [`LATE`], or this many times as long as another, and was left for so long.
const BACK_TIMES: u32 = 2;
const REST: Duration = Duration::from_secs(10);

/// Of fewer the others are no majority.
const MEMBERS: usize = 3;
/// One that has started is late at first, and may be the next that others lean on: it was quick once, or answers for so long.
const STARTS: Duration = Duration::from_secs(20);

/// What is to be done about a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// It is to be left alone, and no other one: what it takes, and what another does.
    Leave { takes: Duration, another: Duration },
    /// It is one of them again.
    Back,
}

/// What was seen so far. Pure.
#[derive(Debug)]
struct Watch {
    members: Vec<Seen>,
    /// The only one that may be left.
    own: Option<usize>,
    left: Option<(usize, Duration)>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    /// What it took for the last answers.
    took: VecDeque<Duration>,
    /// Since when it answers.
    since: Option<Duration>,
    /// It was quick since then.
    known: bool,
}

impl Seen {
    fn step(&mut self, now: Duration, took: Option<Duration>) {
        let Some(took) = took else {
            *self = Self::default();
            return;
        };
        self.took.truncate(LOOKS - 1);
        self.took.push_front(took);
        let since = *self.since.get_or_insert(now);
        self.known |= self.takes().is_some_and(|t| t < LATE) || now.saturating_sub(since) >= STARTS;
    }

    /// What it takes, once it has answered often enough.
    fn takes(&self) -> Option<Duration> {
        let mut all: Vec<_> = self.took.iter().copied().collect();
        all.sort_unstable();
        (all.len() == LOOKS).then(|| all[LOOKS / 2])
    }
}

impl Watch {
    fn of(members: usize, own: Option<usize>) -> Self {
        Self { members: vec![Seen::default(); members], own, left: None }
    }

    fn takes(&self, member: usize) -> Option<Duration> {
        self.members[member].takes()
    }

    /// Takes how long a member took for an answer; none = it is not there.
    fn step(&mut self, member: usize, now: Duration, took: Option<Duration>) -> Option<Decision> {
        self.members[member].step(now, took);
        let takes = self.takes(member)?;
        let may = self.own.is_none_or(|own| own == member) && self.members[member].known;
        let slow = |takes: Duration, another: Duration| takes >= LATE && takes >= another * TIMES;
        let left = self.left.map(|(m, _)| m);
        let others = (0..self.members.len()).filter(|m| *m != member && Some(*m) != left);
        let another = others.filter_map(|m| self.takes(m)).min();
        let Some((left, since)) = self.left else {
            return another.filter(|a| may && slow(takes, *a)).map(|a| self.leave(member, now, takes, a));
        };
        if left == member {
            let rested = now.saturating_sub(since) >= REST;
            let well = another.is_some_and(|a| takes < LATE / 2 || takes < a * BACK_TIMES);
            // It is better than nobody.
            return (another.is_none() || rested && well).then(|| self.back());
        }
        // A slow leader makes all answer late, the quickest by chance: until another one leads it may be left instead of it.
        let wrong = self.takes(left).filter(|l| slow(takes, *l))?;
        if may {
            return Some(self.leave(member, now, takes, wrong));
        }
        (self.own.is_some() && another.is_none_or(|a| !slow(wrong, a))).then(|| self.back())
    }

    fn leave(&mut self, member: usize, now: Duration, takes: Duration, another: Duration) -> Decision {
        self.left = Some((member, now));
        Decision::Leave { takes, another }
    }

    fn back(&mut self) -> Decision {
        self.left = None;
        Decision::Back
    }
}

/// Asks all members for as long as this process is there, each in a thread of its own. `own_is_slow`: new clients are to be sent
/// elsewhere, as the member beside this node's apiserver is slow.
pub(crate) fn look_out(config: &NodeConfig, own_is_slow: &Arc<AtomicBool>, channel: Channel) -> Result<(), String> {
    if config.members.len() < MEMBERS {
        return Ok(());
    }
    let own = config.members.values().position(|a| *a == config.node.address);
    // An agent before this one may have left one.
    Netlink::open(false)?.reach_all(APISERVER)?;
    let watch = Arc::new(Mutex::new(Watch::of(config.members.len(), own)));
    let began = Instant::now();
    for (i, (name, address)) in config.members.clone().into_iter().enumerate() {
        let (watch, own_is_slow) = (Arc::clone(&watch), Arc::clone(own_is_slow));
        std::thread::spawn(move || {
            let mut member = Connection::new(|| Gateway::as_apiserver(address, PATIENCE));
            loop {
                let asked = Instant::now();
                let took = member.ask(takes, Option::is_some).flatten();
                // Held until it is done: what another thread decides comes after it.
                let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
                let done = match watch.step(i, began.elapsed(), took) {
                    None => Ok(()),
                    Some(decision) if own.is_some() => weigh(decision, &own_is_slow, channel),
                    Some(decision) => act(decision, &name, address, channel),
                };
                drop(watch);
                if let Err(e) = done {
                    eprintln!("etcd's slow members: {e}");
                    std::process::exit(1);
                }
                std::thread::sleep(ASK.saturating_sub(asked.elapsed()));
            }
        });
    }
    Ok(())
}

/// Of the member beside this node's apiserver.
fn weigh(decision: Decision, own_is_slow: &AtomicBool, channel: Channel) -> Result<(), String> {
    let (slow, text) = match decision {
        Decision::Leave { takes, another } => {
            (true, format!("etcd of this node {}: new clients are sent elsewhere", compared(takes, another)))
        }
        Decision::Back => (false, "etcd of this node is as quick as others again".to_owned()),
    };
    own_is_slow.store(slow, Ordering::Relaxed);
    channel.say(&FromAgent::Tell { text })
}

/// Of another one's.
fn act(decision: Decision, name: &str, address: IpAddr, channel: Channel) -> Result<(), String> {
    let mut netlink = Netlink::open(false)?;
    let etcd = SocketAddr::new(address, ETCD_CLIENT);
    let (done, text) = match decision {
        Decision::Leave { takes, another } => (
            // What is under way is lost; what comes next would be late.
            netlink
                .reach_all(APISERVER)
                .and_then(|()| netlink.keep_from(APISERVER, etcd))
                .and_then(|()| tcp::abort(etcd))
                .map(drop),
            format!("etcd of {name} ({address}) {}: it is left alone", compared(takes, another)),
        ),
        Decision::Back => {
            (netlink.reach_all(APISERVER), format!("etcd of {name} ({address}) is as quick as others again"))
        }
    };
    match done {
        Ok(()) => channel.say(&FromAgent::Tell { text }),
        Err(e) => channel.notice(format!("{text}, but {e}")),
    }
}

fn compared(takes: Duration, another: Duration) -> String {
    format!("answers after {} ms, another one after {} ms", takes.as_millis(), another.as_millis())
}

/// How long a member takes to answer what a majority knows; none = it is not there.
fn takes(member: &Gateway) -> Option<Duration> {
    let asked = Instant::now();
    match member.agrees() {
        Ok(true) => Some(asked.elapsed().min(PATIENCE)),
        // It has no leader, or no vote.
        Ok(false) => Some(PATIENCE),
        // One whose disk stands still says what it has in memory; one without power says nothing (`gone.rs`).
        Err(e) if silent(&e) => (member.is_there() == Heard::Answer).then_some(PATIENCE),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Rounds of half a second, each with what the members took; what was decided in which.
    fn run(watch: &mut Watch, from: usize, rounds: &[[u64; 3]]) -> Vec<(usize, usize, bool)> {
        let mut decided = Vec::new();
        for (round, took) in (from..).zip(rounds) {
            for (member, took) in took.iter().enumerate() {
                let took = (*took > 0).then(|| ms(*took));
                let decision = watch.step(member, ms(500 * round as u64), took);
                decided.extend(decision.map(|d| (round, member, d != Decision::Back)));
            }
        }
        decided
    }

    #[test]
    fn one_that_is_much_slower_than_another_is_left_for_a_while() {
        let mut watch = Watch::of(3, None);
        assert!(run(&mut watch, 0, &[[5, 6, 4]; 10]).is_empty());
        let slow = [[5, 90, 4], [5, 200, 4], [5, 30, 4], [5, 150, 4], [5, 90, 4]];
        assert_eq!(run(&mut watch, 10, &slow), [(13, 1, true)], "the third that is late");
        assert!(run(&mut watch, 15, &[[300, 900, 4]; 10]).is_empty(), "one at a time");
        assert_eq!(run(&mut watch, 25, &[[300, 9, 4]; 5]), [(28, 0, true)], "that one instead");
        assert_eq!(run(&mut watch, 30, &[[4, 900, 4]; 5]), [(32, 1, true)]);
        assert!(run(&mut watch, 35, &[[4, 9, 4]; 17]).is_empty(), "it is well, but has not rested");
        assert_eq!(run(&mut watch, 52, &[[4, 9, 4]; 9]), [(52, 1, false)]);
    }

    #[test]
    fn where_all_are_slow_or_nobody_else_is_there_none_is_left() {
        let mut watch = Watch::of(3, None);
        assert!(run(&mut watch, 0, &[[60, 150, 50]; 20]).is_empty(), "the machine is busy");
        assert!(run(&mut watch, 20, &[[5, 39, 5]; 20]).is_empty(), "late, but not slow");
        assert!(run(&mut watch, 40, &[[0, 400, 0]; 20]).is_empty());
        // Left, and then the others go.
        assert_eq!(run(&mut watch, 60, &[[5, 400, 5]; 5]), [(65 - 1, 1, true)]);
        assert_eq!(run(&mut watch, 65, &[[5, 400, 0], [0, 400, 0]]), [(66, 1, false)]);
    }

    #[test]
    fn one_that_starts_is_not_slow() {
        let mut watch = Watch::of(3, None);
        assert!(run(&mut watch, 0, &[[5, 300, 5]; 40]).is_empty());
        assert_eq!(run(&mut watch, 40, &[[5, 300, 5]; 9]), [(40, 1, true)], "it stays so");
        let mut watch = Watch::of(3, None);
        assert!(run(&mut watch, 0, &[[5, 300, 5], [5, 300, 5], [5, 5, 5], [5, 5, 5], [5, 5, 5]]).is_empty());
        assert_eq!(run(&mut watch, 5, &[[5, 300, 5]; 9]), [(7, 1, true)]);
        assert!(run(&mut watch, 14, &[[5, 0, 5], [5, 300, 5]]).is_empty());
    }

    #[test]
    fn a_master_with_a_member_of_its_own_weighs_that_one_only() {
        let mut watch = Watch::of(3, Some(2));
        assert!(run(&mut watch, 0, &[[5, 400, 5]; 9]).is_empty());
        assert_eq!(run(&mut watch, 9, &[[5, 400, 90]; 9]), [(11, 2, true)]);
        // It was another one that led, and was slow.
        assert_eq!(run(&mut watch, 18, &[[5, 400, 9]; 9]), [(21, 1, false)]);
    }

    /// What a member's end may do, a connection for each question.
    #[test]
    fn what_takes_how_long() {
        use std::io::{Read, Write};
        let long = |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let huge = 2 << 20;
        // What it says to the question; whether it is alive, if it is asked that, too; what follows.
        let (quick, late, gone) = (Some(true), Some(false), None);
        for (said, livez, follows) in [
            (format!("{}{{}}", long(2)), "", quick),
            ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".into(), "", late),
            (long(9) + "cut", "", gone),
            (long(huge) + &"x".repeat(huge), "", gone),
            ("nothing that is HTTP\r\n\r\n".into(), "", gone),
            (String::new(), "", gone),
            ("SILENT".into(), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", late),
            ("SILENT".into(), "", gone),
        ] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let url = format!("http://{}", listener.local_addr().expect("an address"));
            let config = ureq::Agent::config_builder().timeout_global(Some(ms(200))).http_status_as_error(false);
            let member = Gateway { agent: config.build().into(), url };
            let shown: String = said.chars().take(50).collect();
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    let mut silent = None;
                    for answer in [said.as_str(), livez] {
                        let (mut stream, _) = listener.accept().expect("asked");
                        let asked = stream.read(&mut [0; 1024]).expect("the question");
                        assert!(asked > 0);
                        if answer == "SILENT" {
                            silent = Some(stream);
                            continue;
                        }
                        // Whoever reads no further is told no more.
                        let _ = stream.write_all(answer.as_bytes());
                        break;
                    }
                    drop(silent);
                });
                let took = takes(&member);
                assert_eq!(took.map(|t| t < PATIENCE), follows, "{shown}: {took:?}");
            });
        }
    }

    proptest! {
        /// Whatever they take: one at a time is left, and for its time unless nobody else is there.
        #[test]
        fn one_at_a_time(rounds in prop::collection::vec([0_u64..200, 0_u64..200, 0_u64..200], 0..200)) {
            let mut watch = Watch::of(3, None);
            let mut left = None;
            for (round, member, leave) in run(&mut watch, 0, &rounds) {
                if leave {
                    prop_assert_ne!(left.map(|(m, _)| m), Some(member));
                    left = Some((member, round));
                    continue;
                }
                let Some((m, since)) = left.take() else { return Err(TestCaseError::fail("nobody was left")) };
                prop_assert_eq!(m, member);
                let lately = |o: usize| rounds[round.saturating_sub(LOOKS)..=round].iter().any(|r| r[o] == 0) || round < LOOKS;
                let nobody = (0..3).filter(|o| *o != m).all(lately);
                prop_assert!(nobody || ms(500 * (round - since) as u64) >= REST);
            }
        }
    }
}
