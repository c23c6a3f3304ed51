//! A leader whose disk is slow makes all writers wait, and etcd keeps it: its heartbeats come in time. So the agent beside the
//! leader looks at how long the log took to write (`etcd_disk_wal_fsync_duration_seconds`, one of the metrics that every member
//! has at its clients' port), and gives the lead to a member that wrote the same in time meanwhile. Where none did, it stays: a
//! storage that all share is no better elsewhere.

use super::{Gateway, SILENCE};
use crate::channel::Channel;
use contract::control::FromAgent;
use contract::node::NodeConfig;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Nothing tells that a disk got slow: the member on this node is asked this often.
const LOOK: Duration = Duration::from_secs(1);
/// ... and this often from the first late write on.
const CLOSER: Duration = Duration::from_millis(250);
/// In so many looks in a row most writes were late, and it is the disk.
const LATE: u32 = 2;
/// After the lead was given away, or nobody was there to take it: each try stops writing for a moment.
const REST: Duration = Duration::from_secs(10);
/// A member answers in milliseconds.
const PATIENCE: Duration = Duration::from_millis(350);
/// A write is late after so many seconds: one of the histogram's bounds. A disk that is fit for etcd needs less than a third of
/// that for nearly all (its documentation, "Hardware recommendations").
const BOUND: &str = "0.032";
const SYNCS: &str = "etcd_disk_wal_fsync_duration_seconds";

/// What a member's metrics say of it since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Syncs {
    leads: bool,
    /// How often its log was written, and how often that took longer than [`BOUND`].
    all: u64,
    late: u64,
}

impl Syncs {
    /// Of Prometheus' text format; numbers are floats there, as Go prints them.
    fn read(text: &str) -> Option<Self> {
        let number = |name: &str| -> Option<u64> {
            let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))?;
            let value: f64 = value.trim().parse().ok()?;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count; others saturate")]
            (value >= 0.0).then_some(value as u64)
        };
        let all = number(&format!("{SYNCS}_count"))?;
        let in_time = number(&format!("{SYNCS}_bucket{{le=\"{BOUND}\"}}"))?;
        Some(Self { leads: number("etcd_server_is_leader")? == 1, all, late: all.saturating_sub(in_time) })
    }

    /// What came since; nothing of another start's.
    fn since(&self, before: &Self) -> Self {
        let more = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        Self { leads: self.leads, all: more(self.all, before.all), late: more(self.late, before.late) }
    }
}

/// What is to be done after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Another look, some time.
    Calm,
    /// One soon: writes were late. How the other members are doing from now on may matter.
    Closer,
    /// Another member is to lead; so many of so many writes were late in the last look.
    Give { late: u64, all: u64 },
}

/// What was seen so far. Pure.
#[derive(Debug, Default)]
struct Watch {
    last: Option<Syncs>,
    late: u32,
    suspects: bool,
}

impl Watch {
    /// Takes what the member on this node says, if it answers.
    fn step(&mut self, own: Option<Syncs>) -> Next {
        let last = std::mem::replace(&mut self.last, own);
        let Some((own, last)) = own.zip(last).filter(|(own, last)| own.leads && last.leads) else {
            (self.late, self.suspects) = (0, false);
            return Next::Calm;
        };
        let new = own.since(&last);
        match (new.late, new.all) {
            // It wrote nothing, or is still at it.
            (_, 0) => {}
            (0, _) => (self.late, self.suspects) = (0, false),
            (late, all) => {
                // The look in which it began has those of before, too.
                self.late = if self.suspects && late * 2 > all { self.late + 1 } else { 0 };
                self.suspects = true;
            }
        }
        match self.late {
            LATE.. => {
                (self.late, self.suspects) = (0, false);
                Next::Give { late: new.late, all: new.all }
            }
            _ if self.suspects => Next::Closer,
            _ => Next::Calm,
        }
    }
}

/// Who wrote in time meanwhile: of several the one that wrote most.
fn fit(before: &BTreeMap<String, Syncs>, now: &BTreeMap<String, Syncs>) -> Option<String> {
    let new = now.iter().filter_map(|(name, s)| Some((name, s.since(before.get(name)?))));
    let in_time = new.filter(|(_, s)| s.all > 0 && s.late == 0);
    in_time.max_by(|a, b| a.1.all.cmp(&b.1.all).then(b.0.cmp(a.0))).map(|(name, _)| name.clone())
}

/// In a thread of its own, for as long as this process is there.
pub(crate) fn look_out(config: &NodeConfig, channel: Channel) {
    let own = config.node.address;
    let others: BTreeMap<String, IpAddr> =
        config.members.iter().filter(|(_, a)| **a != own).map(|(n, a)| (n.clone(), *a)).collect();
    if others.is_empty() {
        return;
    }
    std::thread::spawn(move || {
        let (mut watch, mut local, mut before) = (Watch::default(), None, None);
        loop {
            let pause = match watch.step(ask(&mut local, IpAddr::V4(Ipv4Addr::LOCALHOST))) {
                Next::Calm => {
                    before = None;
                    LOOK
                }
                Next::Closer => {
                    before.get_or_insert_with(|| all(&others));
                    CLOSER
                }
                Next::Give { late, all: of } => {
                    let to = fit(&before.take().unwrap_or_default(), &all(&others));
                    if let Err(e) = give(to, &others, (late, of), channel) {
                        eprintln!("etcd's lead: {e}");
                        std::process::exit(1);
                    }
                    REST
                }
            };
            std::thread::sleep(pause);
        }
    });
}

/// Over a connection that is kept; after an error over a new one, as certificates may be others by now.
fn ask(kept: &mut Option<Gateway>, address: IpAddr) -> Option<Syncs> {
    let gateway = kept.take().or_else(|| Gateway::within(address, PATIENCE).ok())?;
    let syncs = gateway.metrics().ok().and_then(|text| Syncs::read(&text));
    *kept = syncs.is_some().then_some(gateway);
    syncs
}

fn all(members: &BTreeMap<String, IpAddr>) -> BTreeMap<String, Syncs> {
    members.iter().filter_map(|(name, address)| Some((name.clone(), ask(&mut None, *address)?))).collect()
}

fn give(
    to: Option<String>,
    others: &BTreeMap<String, IpAddr>,
    (late, all): (u64, u64),
    channel: Channel,
) -> Result<(), String> {
    let why = format!("{late} of {all} writes to etcd's log took longer than {BOUND} s");
    let Some((name, address)) = to.and_then(|name| others.get_key_value(&name)) else {
        return channel.say(&FromAgent::Tell { text: format!("{why}, and no other member's are in time") });
    };
    let moved = Gateway::to(*address).and_then(|g| g.status()).and_then(|status| {
        // One without a vote is refused there.
        Gateway::within(IpAddr::V4(Ipv4Addr::LOCALHOST), SILENCE)?.give_lead(status.id())
    });
    match moved {
        Ok(()) => channel.say(&FromAgent::Tell { text: format!("{why}: {name} leads now") }),
        Err(e) => channel.notice(format!("{why}, and {name} does not lead instead: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn syncs(all: u64, late: u64) -> Syncs {
        Syncs { leads: true, all, late }
    }

    /// What follows from looks, each with what was new in it: all writes, and the late ones.
    fn run(new: &[(u64, u64)]) -> Vec<Next> {
        let (mut watch, mut sum) = (Watch::default(), syncs(1000, 3));
        assert_eq!(watch.step(Some(sum)), Next::Calm, "there is nothing to compare with");
        let mut step = |(all, late): &(u64, u64)| {
            sum = syncs(sum.all + all, sum.late + late);
            watch.step(Some(sum))
        };
        new.iter().map(&mut step).collect()
    }

    #[test]
    fn a_disk_is_slow_when_most_writes_are_late_twice_in_a_row() {
        use Next::{Calm, Closer, Give};
        assert_eq!(
            run(&[(50, 0), (50, 2), (3, 3), (2, 2), (9, 0)]),
            [Calm, Closer, Closer, Give { late: 2, all: 2 }, Calm]
        );
        assert_eq!(
            run(&[(1, 1), (0, 0), (1, 1), (0, 0), (1, 1)])[3..],
            [Closer, Give { late: 1, all: 1 }],
            "one a second"
        );
        assert_eq!(run(&[(40, 1), (40, 1), (40, 1), (40, 1)]), [Closer; 4], "now and then one");
        assert_eq!(run(&[(2, 2), (2, 2), (5, 0), (2, 2)]), [Closer, Closer, Calm, Closer], "a hiccup");
    }

    #[test]
    fn a_follower_and_one_that_does_not_answer_give_nothing() {
        let mut watch = Watch::default();
        for all in 0..9 {
            assert_eq!(watch.step(Some(Syncs { leads: false, ..syncs(all, all) })), Next::Calm);
        }
        watch.step(Some(syncs(10, 10)));
        assert_eq!(watch.step(Some(syncs(12, 12))), Next::Closer);
        assert_eq!((watch.step(None), watch.step(Some(syncs(20, 20)))), (Next::Calm, Next::Calm), "since when?");
        // It started again.
        assert_eq!(watch.step(Some(syncs(4, 0))), Next::Calm);
    }

    #[test]
    fn who_wrote_in_time_leads() {
        let of = |all: &[(&str, u64, u64)]| -> BTreeMap<String, Syncs> {
            all.iter().map(|(n, all, late)| ((*n).to_owned(), syncs(*all, *late))).collect()
        };
        let before = of(&[("a", 100, 7), ("b", 100, 0), ("c", 100, 0), ("d", 100, 0)]);
        assert_eq!(fit(&before, &of(&[("a", 110, 7), ("b", 110, 0), ("c", 110, 1)])).as_deref(), Some("a"));
        assert_eq!(fit(&before, &of(&[("a", 110, 8), ("b", 110, 0), ("c", 111, 0)])).as_deref(), Some("c"));
        assert_eq!(fit(&before, &of(&[("a", 110, 9), ("b", 100, 0), ("e", 500, 0)])), None, "nothing is known of e");
        assert_eq!(fit(&BTreeMap::new(), &before), None);
    }

    #[test]
    fn reads_etcds_metrics() {
        let text = "# HELP etcd_disk_wal_fsync_duration_seconds The latency distributions of fsync called by WAL.\n\
                    etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.016\"} 1.200001e+06\n\
                    etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.032\"} 1.234567e+06\n\
                    etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 1.23457e+06\n\
                    etcd_disk_wal_fsync_duration_seconds_sum 12.3\n\
                    etcd_disk_wal_fsync_duration_seconds_count 1.23457e+06\n\
                    etcd_server_is_leader 1\n";
        assert_eq!(Syncs::read(text), Some(syncs(1_234_570, 3)));
        assert_eq!(Syncs::read(&text.replace("leader 1", "leader 0")).map(|s| s.leads), Some(false));
        assert_eq!(Syncs::read(&text.replace("_count 1.23457e+06", "_count NaN")), None);
        assert_eq!(Syncs::read("etcd_server_is_leader 1\n"), None);
    }

    proptest! {
        #[test]
        fn whatever_it_says_is_read_or_not(text in "(etcd_(server_is_leader|disk_wal_fsync_duration_seconds_(count|bucket.le=\"0.032\".)) [-+.e0-9a-zA-Z]{0,20}\n){0,6}") {
            if let Some(syncs) = Syncs::read(&text) {
                prop_assert!(syncs.late <= syncs.all);
            }
        }
    }
}
