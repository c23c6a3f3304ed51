//! What etcd's members need now and then: a snapshot of each one's data, room given back after compaction, and a way out when
//! the quota is used up.
//!
//! Snapshots are each member's own. The rest is done by the agent beside the leader, for all members: so one is defragmented
//! at a time, and the leader last (a member answers nobody meanwhile: etcd's documentation, "Maintenance").
//! Revisions are compacted by the apiserver; here only when nothing can be written any more.

use super::{Gateway, Status, rotation};
use crate::channel::Channel;
use crate::clock;
use contract::node::{NodeConfig, State};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Members are looked at this often: nobody announces an alarm.
const LOOK: Duration = Duration::from_secs(10);
/// Between two rounds of defragmentation: members are silent meanwhile. Where nothing can be written sooner.
const ROUNDS: Duration = Duration::from_secs(3600);
const URGENT_ROUNDS: Duration = Duration::from_secs(120);
/// Old revisions go one after the other; those of a gigabyte take seconds.
const COMPACTING: Duration = Duration::from_secs(300);
/// A member copies its data when it is defragmented; a gigabyte takes seconds.
const DEFRAGMENTING: Duration = Duration::from_secs(300);
/// A snapshot is as long as the data.
const TAKING: Duration = Duration::from_secs(1800);
/// Of a quota: what is worth giving back at least, from where on people are told, and up to where writing goes on after it
/// was used up. Percent.
const WORTH: u64 = 6;
const FULL: u64 = 80;
const ROOM: u64 = 95;

/// A member as the leader's agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) is_leader: bool,
    /// Its file, what of it is in use, what it may be. Bytes.
    pub(crate) size: u64,
    pub(crate) in_use: u64,
    pub(crate) quota: u64,
    /// Nothing can be written: the quota is, or was, used up.
    pub(crate) alarm: bool,
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chore {
    /// Old revisions go.
    Forget,
    /// A member gives room back.
    Defragment(String),
    /// Writing goes on, if there is room now.
    Disarm,
    /// To people.
    Say(String),
}

/// Decides. `all`: no member is missing. `since`: the last round, none = there was none yet.
pub(crate) fn plan(members: &[Seen], all: bool, since: Option<Duration>) -> Vec<Chore> {
    let is_time = |rounds| since.is_none_or(|s| s >= rounds);
    let mut order: Vec<&Seen> = members.iter().collect();
    order.sort_by_key(|m| m.is_leader);
    let defragment = |m: &&Seen| Chore::Defragment(m.name.clone());
    if members.iter().any(|m| m.alarm) {
        // Each member is silent for a while, and what is in use does not shrink by it: not over and over.
        if !is_time(URGENT_ROUNDS) {
            return Vec::new();
        }
        let rooms = order.iter().map(defragment);
        return std::iter::once(Chore::Forget).chain(rooms).chain([Chore::Disarm]).collect();
    }
    let is_worth = |m: &&&Seen| {
        let idle = m.size.saturating_sub(m.in_use);
        idle >= m.quota / 100 * WORTH && idle >= m.size / 2
    };
    let fragmented: Vec<Chore> = order.iter().filter(is_worth).map(defragment).collect();
    if all && is_time(ROUNDS) && !fragmented.is_empty() {
        return fragmented;
    }
    let full = order.iter().filter(|m| m.quota > 0 && m.in_use >= m.quota / 100 * FULL);
    // Without numbers that change: it is told once.
    let say = |_: &&Seen| {
        Chore::Say(format!(
            "etcd's data takes more than {FULL} % of its quota, and when that is used up nothing is written; hint: delete, or \
             raise etcd.quota"
        ))
    };
    full.map(say).take(1).collect()
}

/// Whether there is room again after a round.
pub(crate) fn has_room(members: &[Seen]) -> bool {
    members.iter().all(|m| m.size < m.quota / 100 * ROOM)
}

/// In a thread of its own, for ever.
pub(crate) fn start(config: &NodeConfig, channel: Channel) {
    let mut upkeep = Upkeep { config: config.clone(), channel, since: clock::now(), round: None, told: String::new() };
    std::thread::spawn(move || {
        loop {
            // Nothing of this is what a node waits for: what failed is said, and tried again.
            if let Err(e) = upkeep.once() {
                eprintln!("etcd's upkeep: {e}");
            }
            std::thread::sleep(LOOK);
        }
    });
}

struct Upkeep {
    config: NodeConfig,
    channel: Channel,
    /// Since when there could have been a snapshot, seconds since the epoch.
    since: u64,
    /// When members were defragmented last.
    round: Option<Instant>,
    /// What was said last.
    told: String,
}

impl Upkeep {
    fn once(&mut self) -> Result<(), String> {
        let own = Gateway::local()?.status()?;
        self.snapshot(&own)?;
        if !own.is_leader() {
            return Ok(());
        }
        let (members, all) = self.look();
        for chore in plan(&members, all, self.round.map(|r| r.elapsed())) {
            self.do_it(&chore, &own)?;
        }
        Ok(())
    }

    fn say(&mut self, text: String) -> Result<(), String> {
        if self.told != text {
            self.channel.notice(text.clone())?;
            self.told = text;
        }
        Ok(())
    }

    fn snapshot(&mut self, own: &Status) -> Result<(), String> {
        let etcd = self.config.etcd_settings();
        let every = u64::from(etcd.snapshot_minutes) * 60;
        let now = clock::now();
        self.since = self.since.min(now);
        // In memory they would be lost with what they are of.
        if !matches!(self.config.state, State::Disk(_)) || !rotation::is_due(&rotation::list(), self.since, every, now)
        {
            return Ok(());
        }
        let keep = usize::try_from(etcd.snapshots).unwrap_or(usize::MAX);
        if keep == 0 {
            return Ok(());
        }
        let gateway = Gateway::within(Ipv4Addr::LOCALHOST.into(), TAKING)?;
        if let Err(e) = rotation::add(keep, own.size, now, |out| gateway.snapshot(out)) {
            self.say(format!("no snapshot of etcd's data: {e}"))?;
        }
        Ok(())
    }

    /// The members that answer, and whether those are all: while one does not, it is no time for another one to be silent.
    fn look(&self) -> (Vec<Seen>, bool) {
        let seen = |(name, address): (&String, &std::net::IpAddr)| -> Result<Seen, String> {
            let s = Gateway::to(*address)?.status()?;
            let (is_leader, alarm) = (s.is_leader(), s.has_alarm());
            let name = name.clone();
            Ok(Seen { name, is_leader, size: s.size, in_use: s.in_use, quota: s.quota, alarm })
        };
        let seen: Vec<Seen> = self.config.members.iter().map(seen).filter_map(Result::ok).collect();
        let all = seen.len() == self.config.members.len();
        (seen, all)
    }

    fn do_it(&mut self, chore: &Chore, own: &Status) -> Result<(), String> {
        match chore {
            Chore::Forget => {
                self.say("etcd used up its quota: old revisions go, and members give room back".into())?;
                Gateway::within(Ipv4Addr::LOCALHOST.into(), COMPACTING)?.forget_before(own.revision())
            }
            Chore::Defragment(name) => {
                let address = self.config.members.get(name).ok_or("no such member")?;
                self.round = Some(Instant::now());
                Gateway::within(*address, DEFRAGMENTING)?.defragment()
            }
            Chore::Disarm if has_room(&self.look().0) => {
                Gateway::to(Ipv4Addr::LOCALHOST.into())?.disarm()?;
                self.say("etcd has room again: writing goes on".into())
            }
            Chore::Disarm => {
                self.say("etcd's quota is used up by what is in use; hint: delete, or raise etcd.quota".into())
            }
            Chore::Say(text) => self.say(text.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(name: &str, is_leader: bool, size: u64, in_use: u64) -> Seen {
        Seen { name: name.into(), is_leader, size, in_use, quota: 1000, alarm: false }
    }

    #[test]
    fn the_leader_is_the_last() {
        let members = [seen("a", true, 900, 100), seen("b", false, 900, 100), seen("c", false, 900, 800)];
        let both = vec![Chore::Defragment("b".into()), Chore::Defragment("a".into())];
        assert_eq!(plan(&members, true, None), both, "and who uses its file is left alone");
        assert_eq!(plan(&members, true, Some(ROUNDS)), both);
        for say in [plan(&members, true, Some(ROUNDS / 2)), plan(&members, false, None)] {
            assert!(matches!(&say[..], [Chore::Say(_)]), "{say:?}");
        }
        assert_eq!(plan(&[seen("a", true, 50, 1)], true, None), [], "not worth the silence");
    }

    #[test]
    fn out_of_an_alarm() {
        let mut members = [seen("a", true, 1000, 500), seen("b", false, 1000, 500)];
        members[1].alarm = true;
        let all = ["b", "a"].map(|n| Chore::Defragment(n.into()));
        let [b, a] = all;
        assert_eq!(plan(&members, false, None), [Chore::Forget, b, a, Chore::Disarm], "also while one is missing");
        assert_eq!(plan(&members, true, Some(LOOK)), [], "what is in use does not shrink by trying");
        assert!(!has_room(&members) && has_room(&[seen("a", true, 900, 900)]));
    }
}
