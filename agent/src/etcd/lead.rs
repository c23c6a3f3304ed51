//! A leader whose disk is slow makes all writers wait, and etcd keeps it: its heartbeats come in time. So the agent beside the
//! leader looks at how long the log took to write (`etcd_disk_wal_fsync_duration_seconds`, one of the metrics that every member
//! has at its clients' port), and gives the lead to a member that wrote the same in time meanwhile. Where none did, it stays: a
//! storage that all share is no better elsewhere.

use super::connection::Connection;
use super::{Gateway, SILENCE};
use crate::channel::{Channel, Told};
use contract::control::FromAgent;
use contract::node::NodeConfig;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Nothing tells that a disk got slow: the member on this node is asked this often whether it leads (a millisecond of etcd's), and
/// one that does for its metrics (six), which tell that, too.
const LOOK: Duration = Duration::from_secs(1);
/// ... and this often from the first late write on.
const CLOSER: Duration = Duration::from_millis(250);
/// In so many looks in a row writes took longer than [`BOUND`] on average, and it is the disk.
const LATE: u32 = 2;
/// After the lead was given away, or nobody was there to take it: each try stops writing for a moment.
const REST: Duration = Duration::from_secs(10);
/// A member answers in milliseconds.
const PATIENCE: Duration = Duration::from_millis(350);
/// A write is late after so many seconds: one of the histogram's bounds, and three times what is usually asked of a disk for the
/// slowest of a hundred.
const BOUND: &str = "0.032";
const BOUND_MS: f64 = 32.0;
/// What stays as it is is told again this late.
const AGAIN: Duration = Duration::from_secs(3600);
const SYNCS: &str = "etcd_disk_wal_fsync_duration_seconds";
const LEADS: &str = "etcd_server_is_leader";

/// A member's writes since it started: how many, how many of them took longer than [`BOUND`], and how long all took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Syncs {
    all: u64,
    late: u64,
    ms: f64,
}

impl Syncs {
    /// Of Prometheus' text format; numbers are floats there, as Go prints them. An error names what is missing.
    fn read(text: &str) -> Result<Self, String> {
        let value = |name: String| value(text, &name);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count; others saturate")]
        let count = |name| value(name).map(|v| v as u64);
        let all = count(format!("{SYNCS}_count"))?;
        let in_time = count(format!("{SYNCS}_bucket{{le=\"{BOUND}\"}}"))?;
        let ms = value(format!("{SYNCS}_sum"))? * 1000.0;
        Ok(Self { all, late: all.saturating_sub(in_time), ms })
    }

    /// What came since; nothing of another start's.
    fn since(&self, before: &Self) -> Self {
        match self.all.checked_sub(before.all) {
            Some(all) => Self { all, late: self.late.saturating_sub(before.late), ms: self.ms - before.ms },
            None => *self,
        }
    }

    /// How long one took on average; 0 where there is none.
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    fn mean_ms(&self) -> f64 {
        if self.all == 0 { 0.0 } else { self.ms / self.all as f64 }
    }
}

/// A number in Prometheus' text format.
fn value(text: &str, name: &str) -> Result<f64, String> {
    let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse::<f64>().ok());
    value.filter(|v| *v >= 0.0).ok_or_else(|| format!("etcd's metrics have no number `{name}`"))
}

/// What is to be done after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Another look, some time.
    Calm,
    /// One soon: writes were late. How the other members are doing from now on may matter.
    Closer,
    /// Another member is to lead; so many writes took so long on average in the last look, ms.
    Give { all: u64, mean: u64 },
}

/// What was seen so far. Pure.
#[derive(Debug, Default)]
struct Watch {
    last: Option<Syncs>,
    late: u32,
    suspects: bool,
}

impl Watch {
    /// Takes what the member on this node says, if it leads.
    fn step(&mut self, own: Option<Syncs>) -> Next {
        let last = std::mem::replace(&mut self.last, own);
        let Some((own, last)) = own.zip(last) else {
            (self.late, self.suspects) = (0, false);
            return Next::Calm;
        };
        let new = own.since(&last);
        match (new.late, new.all) {
            // It wrote nothing, or is still at it.
            (_, 0) => {}
            (0, _) => (self.late, self.suspects) = (0, false),
            _ => {
                // The look in which it began has those of before, too. On average, and not most of them: a disk that many use
                // has a quick moment now and then, and all wait for the next write again.
                self.late = if self.suspects && new.mean_ms() > BOUND_MS { self.late + 1 } else { 0 };
                self.suspects = true;
            }
        }
        match self.late {
            LATE.. => {
                (self.late, self.suspects) = (0, false);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people")]
                let mean = new.mean_ms() as u64;
                Next::Give { all: new.all, mean }
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
        let local = Connection::new(|| Gateway::within(IpAddr::V4(Ipv4Addr::LOCALHOST), PATIENCE));
        let mut lookout = Lookout { others, channel, watch: Watch::default(), local, before: None, told: None };
        loop {
            match lookout.once() {
                Ok(pause) => std::thread::sleep(pause),
                Err(e) => {
                    eprintln!("etcd's lead: {e}");
                    std::process::exit(1);
                }
            }
        }
    });
}

/// The writes of a member, if it leads. One that led in the last look is asked for its metrics only: the version of its storage,
/// which is a part of its status, waits while a commit is on its way to the disk (server/storage/backend/batch_tx.go), so that a
/// slow one was known for slow after 2 to 5 seconds, as its commits left it time to answer.
fn writes_of_leader(member: &Gateway, led: bool) -> Result<Option<Result<Syncs, String>>, String> {
    if !led && !member.status()?.is_leader() {
        return Ok(None);
    }
    member.metrics().map(|text| read_of_leader(&text)).map_err(|e| e.to_string())
}

/// The same, of its metrics.
fn read_of_leader(text: &str) -> Option<Result<Syncs, String>> {
    match value(text, LEADS) {
        Ok(leads) => (leads > 0.0).then(|| Syncs::read(text)),
        Err(e) => Some(Err(e)),
    }
}

struct Lookout<O> {
    others: BTreeMap<String, IpAddr>,
    channel: Channel,
    watch: Watch,
    /// The member on this node.
    local: Connection<O>,
    /// The others' writes when the first was late.
    before: Option<BTreeMap<String, Syncs>>,
    told: Told,
}

impl<O: Fn() -> Result<Gateway, String>> Lookout<O> {
    /// One look, and what follows; answers how long until the next.
    fn once(&mut self) -> Result<Duration, String> {
        let led = self.watch.last.is_some();
        let own = match self.local.ask(|m| writes_of_leader(m, led), Result::is_ok) {
            Some(Ok(Some(Ok(syncs)))) => Some(syncs),
            Some(Ok(Some(Err(e)))) => {
                self.channel.notice_anew(&mut self.told, AGAIN, format!("{e}: a slow disk would go unnoticed"))?;
                None
            }
            Some(Ok(None)) => None,
            // Who waits for a disk may be late with this, too.
            Some(Err(_)) | None => return Ok(if led { CLOSER } else { LOOK }),
        };
        match self.watch.step(own) {
            Next::Calm => {
                self.before = None;
                Ok(LOOK)
            }
            Next::Closer => {
                self.before.get_or_insert_with(|| writes_of(&self.others));
                Ok(CLOSER)
            }
            Next::Give { all, mean } => {
                let before = self.before.take().unwrap_or_default();
                self.give(fit(&before, &writes_of(&self.others)), &format!("the last {all}: {mean} ms"))?;
                Ok(REST)
            }
        }
    }

    fn give(&mut self, to: Option<String>, last: &str) -> Result<(), String> {
        let slow = format!("writes to etcd's log take longer than {BOUND} s on average");
        let Some((name, address)) = to.and_then(|name| self.others.get_key_value(&name)) else {
            let text = format!("{slow}, and no other member's are in time; hint: etcd needs a faster disk");
            return self.channel.notice_anew(&mut self.told, AGAIN, text);
        };
        let moved = Gateway::to(*address).and_then(|g| g.status()).and_then(|status| {
            // One without a vote is refused there.
            Gateway::within(IpAddr::V4(Ipv4Addr::LOCALHOST), SILENCE)?.give_lead(status.id())
        });
        match moved {
            Ok(()) => self.channel.say(&FromAgent::Tell { text: format!("{slow} ({last}): {name} leads now") }),
            Err(e) => {
                let text = format!("{slow}, and {name} does not lead instead: {e}");
                self.channel.notice_anew(&mut self.told, AGAIN, text)
            }
        }
    }
}

/// Of those that answer.
fn writes_of(members: &BTreeMap<String, IpAddr>) -> BTreeMap<String, Syncs> {
    let of = |address: &IpAddr| Syncs::read(&Gateway::within(*address, PATIENCE).ok()?.metrics().ok()?).ok();
    members.iter().filter_map(|(name, address)| Some((name.clone(), of(address)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One in time takes 2 ms, a late one 100.
    #[expect(clippy::cast_precision_loss, reason = "few")]
    fn syncs(all: u64, late: u64) -> Syncs {
        Syncs { all, late, ms: (2 * (all - late) + 100 * late) as f64 }
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
    fn a_disk_is_slow_when_writes_are_late_on_average_twice_in_a_row() {
        use Next::{Calm, Closer, Give};
        assert_eq!(
            run(&[(50, 0), (50, 2), (3, 3), (2, 2), (9, 0)]),
            [Calm, Closer, Closer, Give { all: 2, mean: 100 }, Calm]
        );
        assert_eq!(
            run(&[(1, 1), (0, 0), (1, 1), (0, 0), (1, 1)])[3..],
            [Closer, Give { all: 1, mean: 100 }],
            "one a second"
        );
        assert_eq!(run(&[(5, 2), (2, 1), (5, 2)]), [Closer, Closer, Give { all: 5, mean: 41 }], "quick moments");
        assert_eq!(run(&[(40, 1), (40, 1), (40, 1), (40, 1)]), [Closer; 4], "now and then one");
        assert_eq!(run(&[(2, 2), (2, 2), (5, 0), (2, 2)]), [Closer, Closer, Calm, Closer], "a hiccup");
    }

    #[test]
    fn one_that_does_not_lead_or_answer_gives_nothing() {
        let mut watch = Watch::default();
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
                    etcd_disk_wal_fsync_duration_seconds_count 1.23457e+06\n";
        assert_eq!(Syncs::read(text), Ok(Syncs { all: 1_234_570, late: 3, ms: 12_300.0 }));
        for bad in ["", "NaN", "-1", "1 2", "many"] {
            let said = Syncs::read(&text.replace("_count 1.23457e+06", &format!("_count {bad}")));
            assert_eq!(said, Err(format!("etcd's metrics have no number `{SYNCS}_count`")), "{bad}");
        }
        let cut = Syncs::read(&text[..text.find("0.032").expect("there")]).expect_err("truncated");
        assert!(cut.contains("_count"), "{cut}");
        assert!(Syncs::read("").is_err());
        let led = |leads: &str| read_of_leader(&format!("# TYPE {LEADS} gauge\n{LEADS}{leads}\n{text}"));
        assert_eq!(led(" 1"), Some(Syncs::read(text)));
        assert_eq!(led(" 0"), None);
        for bad in ["", " ", " NaN", " yes", "_not 1"] {
            assert_eq!(led(bad), Some(Err(format!("etcd's metrics have no number `{LEADS}`"))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_it_says_is_read_or_not(text in "(etcd_disk_wal_fsync_duration_seconds_(count|sum|bucket.le=\"0.032\".) [-+.e0-9a-zA-Z]{0,20}\n){0,6}") {
            if let Ok(syncs) = Syncs::read(&text) {
                prop_assert!(syncs.late <= syncs.all);
            }
        }
    }
}
