//! A member whose disk is slow, or stands still, answers late, and still it answers: apiservers that have all members ask it
//! every third time, those beside it each time. So a master's agent asks each member what only a majority knows, as its
//! apiserver does, and where one answers much later than another one does it is left alone for a while: by an apiserver that has
//! others, with a rule of this node's routing that holds for the apiserver only, or by the load balancers' new clients, where
//! the apiserver has but the one beside it.
//!
//! What is compared is the same question, asked from the same machine in the same seconds: where the machine or its network is
//! slow, all are. One member at a time, and of three at least: the others are a majority.
//!
//! One that hears this node, but not the other members, answers an apiserver nothing, and is known sooner: it says itself that it
//! has no leader, while another one knows what a majority knows. Of the one beside the apiserver its own word is enough.

use super::connection::Connection;
use super::health::Health;
use super::{Gateway, silent};
use crate::channel::Channel;
use crate::net::{netlink::Netlink, tcp};
use contract::control::FromAgent;
use contract::node::NodeConfig;
use contract::ports::ETCD_CLIENT;
use contract::users::APISERVER;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Nothing tells that a member is slow: each is asked this often (half a millisecond of etcd's).
const ASK: Duration = Duration::from_millis(500);
/// ... and this often while one has no leader. In an election none has; whoever is elected tells all others at once, with its
/// first entry.
const ASK_LED: Duration = Duration::from_millis(250);
/// What takes longer counts as this.
const PATIENCE: Duration = Duration::from_secs(1);
/// ... and of the one beside this node's apiserver as this: no network lies between.
const PATIENCE_BESIDE: Duration = Duration::from_millis(500);
/// The middle one of so many answers is what a member takes: two stalls are none of its disk's.
const LOOKS: usize = 5;
/// A member that answers sooner is not slow, whatever others do: a network between two towns takes as long.
const LATE: Duration = Duration::from_millis(40);
/// ... and slow is one that takes so many times as long as another.
const TIMES: u32 = 4;
/// It is back when it takes less than half of [`LATE`], or this many times as long as another, and was left for so long. Not so
/// long the one beside this node's apiserver that had no leader: after an election all would rest.
const BACK_TIMES: u32 = 2;
const REST: Duration = Duration::from_secs(10);

/// One that was only busy has rested by then.
const LASTS_SLOW: Duration = Duration::from_secs(15);

/// Of fewer the others are no majority.
const MEMBERS: usize = 3;
/// One that has started is late at first, and may be the next that others lean on: it was quick once, or answers for so long.
const STARTS: Duration = Duration::from_secs(20);

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// It answered after so long, or not in time, but is there.
    Took(Duration),
    /// It says that it has no leader.
    Leaderless,
    /// It is not there.
    Gone,
}

/// What is to be done about a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// It is to be left alone, and no other one.
    Leave(Why),
    /// It is one of them again.
    Back,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// What it takes, and what another does.
    Slow {
        takes: Duration,
        another: Duration,
    },
    Leaderless,
}

/// Whether a member that takes so long is slow, where another one takes so long.
fn is_slow(takes: Duration, another: Duration) -> bool {
    takes >= LATE && takes >= another * TIMES
}

/// What was seen so far. Pure.
#[derive(Debug)]
struct Watch {
    members: Vec<Seen>,
    /// The only one that may be left.
    own: Option<usize>,
    /// Which one, and before when it is not back.
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
    /// When it answered last so soon that one that does not is slow.
    quick: Option<Duration>,
    /// Since when it says that it has no leader.
    leaderless: Option<Duration>,
}

impl Seen {
    fn step(&mut self, now: Duration, look: Look) {
        match look {
            Look::Gone => {
                *self = Self::default();
                return;
            }
            Look::Leaderless => {
                self.leaderless.get_or_insert(now);
            }
            Look::Took(took) => {
                self.leaderless = None;
                if is_slow(PATIENCE, took) {
                    self.quick = Some(now);
                }
                self.took.truncate(LOOKS - 1);
                self.took.push_front(took);
            }
        }
        let since = *self.since.get_or_insert(now);
        self.known |= self.takes().is_some_and(|t| t < LATE) || now.saturating_sub(since) >= STARTS;
    }

    /// What it takes, once it has answered often enough; nothing while it has no leader.
    fn takes(&self) -> Option<Duration> {
        let mut all: Vec<_> = self.took.iter().copied().collect();
        all.sort_unstable();
        (self.leaderless.is_none() && all.len() == LOOKS).then(|| all[LOOKS / 2])
    }
}

impl Watch {
    fn of(members: usize, own: Option<usize>) -> Self {
        Self { members: vec![Seen::default(); members], own, left: None }
    }

    fn takes(&self, member: usize) -> Option<Duration> {
        self.members[member].takes()
    }

    /// Takes what came of a question to a member.
    fn step(&mut self, member: usize, now: Duration, look: Look) -> Option<Decision> {
        self.members[member].step(now, look);
        let may = self.own.is_none_or(|own| own == member) && self.members[member].known;
        if may && self.is_apart(member, now) {
            return Some(self.leave(member, now, Why::Leaderless));
        }
        let takes = self.takes(member)?;
        let left = self.left.map(|(m, _)| m);
        let others = (0..self.members.len()).filter(|m| *m != member && Some(*m) != left);
        let others = others.filter_map(|m| self.takes(m));
        // A leader answers sooner than those that have to ask it, the more so where the machines are busy: of two that weigh
        // their own, both would send their clients to its node. Of members of others one at a time is left anyway.
        let another = if self.own.is_some() { others.max() } else { others.min() };
        let Some((left, rests)) = self.left else {
            return another
                .filter(|a| may && is_slow(takes, *a))
                .map(|another| self.leave(member, now, Why::Slow { takes, another }));
        };
        if left == member {
            let well = another.is_some_and(|a| takes < LATE / 2 || takes < a * BACK_TIMES);
            // It is better than nobody.
            return (another.is_none() || now >= rests && well).then(|| self.back());
        }
        // A slow leader makes all answer late, the quickest by chance: until another one leads it may be left instead of it.
        let wrong = self.takes(left).filter(|l| is_slow(takes, *l))?;
        if may {
            return Some(self.leave(member, now, Why::Slow { takes, another: wrong }));
        }
        (self.own.is_some() && another.is_none_or(|a| !is_slow(wrong, a))).then(|| self.back())
    }

    /// Whether a member that is not left yet has no leader, and another one knew since what a majority knows. That one needs no
    /// median: what is late for want of a processor is no quick answer. Of this node's own nothing else is asked: who is cut off
    /// from the others hears of no other one, and where none has a leader, load balancers send clients to all.
    fn is_apart(&self, member: usize, now: Duration) -> bool {
        let left = self.left.map(|(m, _)| m);
        let Some(since) = self.members[member].leaderless.filter(|s| *s + ASK_LED <= now && left != Some(member))
        else {
            return false;
        };
        // Of two the first that was left: who is left in turn is left for a moment each.
        let taken = left.is_some_and(|l| self.members[l].leaderless.is_some());
        let mut others = self.members.iter().enumerate().filter(|(m, _)| *m != member);
        !taken && (self.own == Some(member) || others.any(|(_, seen)| seen.quick > Some(since)))
    }

    fn leave(&mut self, member: usize, now: Duration, why: Why) -> Decision {
        let rest = if self.own.is_some() && why == Why::Leaderless { Duration::ZERO } else { REST };
        self.left = Some((member, now + rest));
        Decision::Leave(why)
    }

    fn back(&mut self) -> Decision {
        self.left = None;
        Decision::Back
    }
}

/// Asks all members for as long as this process is there, each in a thread of its own.
pub(crate) fn look_out(config: &NodeConfig, health: &Arc<Health>, channel: Channel) -> Result<(), String> {
    if config.members.len() < MEMBERS {
        return Ok(());
    }
    let own = config.members.values().position(|a| *a == config.node.address);
    // An agent before this one may have left one.
    Netlink::open(false)?.reach_all(APISERVER)?;
    let watch = Arc::new(Mutex::new(Watch::of(config.members.len(), own)));
    let began = Instant::now();
    for (i, (name, address)) in config.members.clone().into_iter().enumerate() {
        let (watch, health) = (Arc::clone(&watch), Arc::clone(health));
        std::thread::spawn(move || {
            let patience = if own == Some(i) { PATIENCE_BESIDE } else { PATIENCE };
            let mut member = Connection::new(|| Gateway::as_apiserver(address, patience));
            let mut was_leaderless = false;
            loop {
                let asked = Instant::now();
                let look =
                    member.ask(|m| look(m, patience, was_leaderless), |l| *l != Look::Gone).unwrap_or(Look::Gone);
                was_leaderless = look == Look::Leaderless;
                // Held until it is done: what another thread decides comes after it.
                let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
                let done = match watch.step(i, began.elapsed(), look) {
                    None => Ok(()),
                    Some(decision) if own.is_some() => weigh(decision, &health, channel),
                    Some(decision) => act(decision, &name, address, channel),
                };
                drop(watch);
                if let Err(e) = done {
                    eprintln!("etcd's slow members: {e}");
                    std::process::exit(1);
                }
                let every = if was_leaderless { ASK_LED } else { ASK };
                std::thread::sleep(every.saturating_sub(asked.elapsed()));
            }
        });
    }
    Ok(())
}

/// Of the member beside this node's apiserver.
fn weigh(decision: Decision, health: &Health, channel: Channel) -> Result<(), String> {
    let text = match decision {
        Decision::Leave(why) => {
            health.set_unhealthy(Instant::now() + why.lasts());
            format!("etcd of this node {}: new clients are sent elsewhere", why.words())
        }
        Decision::Back => {
            health.set_healthy();
            "etcd of this node is as quick as others again".to_owned()
        }
    };
    channel.say(&FromAgent::Tell { text })
}

/// Of another one's.
fn act(decision: Decision, name: &str, address: IpAddr, channel: Channel) -> Result<(), String> {
    let mut netlink = Netlink::open(false)?;
    let etcd = SocketAddr::new(address, ETCD_CLIENT);
    let (done, text) = match decision {
        Decision::Leave(why) => (
            // What is under way is lost; what comes next would be late.
            netlink
                .reach_all(APISERVER)
                .and_then(|()| netlink.keep_from(APISERVER, etcd))
                .and_then(|()| tcp::abort(etcd))
                .map(drop),
            format!("etcd of {name} ({address}) {}: it is left alone", why.words()),
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

impl Why {
    /// Clients that are connected had better leave when it lasts so long.
    fn lasts(self) -> Duration {
        match self {
            Self::Slow { .. } => LASTS_SLOW,
            Self::Leaderless => Health::LASTS,
        }
    }

    fn words(self) -> String {
        match self {
            Self::Slow { takes, another } => {
                format!("answers after {} ms, another one after {} ms", takes.as_millis(), another.as_millis())
            }
            Self::Leaderless => "has no leader".into(),
        }
    }
}

/// How long a member takes to answer what a majority knows; where that is long, whether it has a leader. That it says from memory,
/// also where its disk stands still; one without power says nothing (`gone.rs`).
fn look(member: &Gateway, patience: Duration, was_leaderless: bool) -> Look {
    let has_none = |member: &Gateway| member.status().map(|s| !s.sees_leader());
    // Who has none would let this question wait.
    if was_leaderless && has_none(member) == Ok(true) {
        return Look::Leaderless;
    }
    let asked = Instant::now();
    let (took, mute) = match member.agrees() {
        Ok(true) => (asked.elapsed().min(patience), false),
        // It has no leader, or no vote.
        Ok(false) => (patience, false),
        Err(e) if silent(&e) => (patience, true),
        Err(_) => return Look::Gone,
    };
    if took < LATE {
        return Look::Took(took);
    }
    match has_none(member) {
        Ok(true) => Look::Leaderless,
        Err(_) if mute => Look::Gone,
        _ => Look::Took(took),
    }
}

#[cfg(test)]
mod tests;
