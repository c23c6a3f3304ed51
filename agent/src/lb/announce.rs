//! Tells the network where the virtual IP is. Keepalived does when it takes it, and a second later, and nobody would tell
//! those that missed it: whoever holds the address goes on.
//!
//! Load balancers that do not hear each other, because a firewall lets VRRP (IP's protocol 112) not pass or a network is divided,
//! all hold it. Each serves; but each that tells the network takes the clients of another one, and their connections are cut. So
//! one speaks, the first of those that reach a master, and often; another one only if it does not hear that one: seldom, in a
//! network so divided that it cannot, and at once when the first gave the address up. IPv4 only: of IPv6 Keepalived goes on to
//! tell (init/src/roles/lb/keepalived.rs).

use super::arp::{Arp, Heard, Mac};
use crate::channel::Channel;
use crate::net::netlink::{Link, Netlink};
use contract::lb::TELLS_AGAIN_S;
use contract::node::{NodeConfig, Peer};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// The first one tells this often.
const OFTEN: Duration = Duration::from_secs(1);
/// ... and any other one.
const SELDOM: Duration = Duration::from_secs(10);
/// One that was not heard for so long has not told: three times in a row.
const SILENT: Duration = Duration::from_secs(3);
/// Keepalived that takes the address tells at once and once more ([`TELLS_AGAIN_S`]): clients that the first one took back in
/// between would be moved twice more. So it waits until the other one has been quiet for longer than that ...
const LULL: Duration = Duration::from_millis(TELLS_AGAIN_S as u64 * 1000 + 200);
/// ... but not until it is taken for silent itself.
const LONGEST: Duration = Duration::from_millis(2800);
/// Whoever asks is answered at most so often: anybody may ask.
const ANSWER: Duration = Duration::from_millis(100);
/// Two have the address for this long: not for the moments in which it moves, nor until a Keepalived that hangs is ended.
const BOTH: Duration = Duration::from_secs(5);
/// So many frames are read before there is time for other things: a network may be full of them.
const TURN: usize = 64;
/// So many strangers are told; more would only fill the report.
const TOLD_MAX: usize = 10;

/// Who else has the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// A load balancer that comes before this one.
    Before,
    /// One that comes after it.
    After,
}

/// When this node is to tell: pure. Times are since it began.
#[derive(Clone, Debug, Default)]
struct Plan {
    /// No load balancer comes before this one.
    first: bool,
    /// Since when it holds the address.
    holds: Option<Duration>,
    serves: bool,
    told: Duration,
    /// When one before this one was heard.
    before: Option<Duration>,
    /// When one after it was heard.
    after: Option<Duration>,
    asked: bool,
    /// Since when another load balancer has it, too, and when that was heard last; it is said once.
    both: Option<(Duration, Duration)>,
    said: bool,
    /// Who is no load balancer of this cluster and has it, since when that is known, and whether it was said.
    strangers: BTreeMap<Mac, (Duration, bool)>,
}

impl Plan {
    /// When it is to tell next; none as long as nothing changes.
    fn due(&self) -> Option<Duration> {
        self.holds.filter(|_| self.serves)?;
        Some(match self.before {
            _ if self.asked => self.told + ANSWER,
            Some(heard) => heard + SILENT,
            None => {
                let lull = self.after.map_or(self.told, |heard| (heard + LULL).min(self.told + LONGEST));
                lull.max(self.told + if self.first { OFTEN } else { SELDOM })
            }
        })
    }

    fn tells(&mut self, now: Duration) {
        (self.told, self.before, self.asked) = (now, None, false);
    }

    /// Whether this node has the address, and reaches a master. Answers whether it gave up to tell.
    fn is(&mut self, now: Duration, holds: bool, serves: bool) -> bool {
        let told = self.holds.is_some() && self.serves;
        if holds && self.holds.is_none() {
            // Keepalived tells.
            self.tells(now);
            (self.both, self.said) = (None, false);
        }
        self.holds = holds.then(|| self.holds.unwrap_or(now));
        self.serves = serves;
        told && !(holds && serves)
    }

    /// Somebody asked.
    fn asked(&mut self) {
        (self.asked, self.before) = (true, None);
    }

    /// Another load balancer told. Answers whether that is to be said.
    fn hears(&mut self, now: Duration, who: Who) -> bool {
        match who {
            Who::Before => self.before = Some(now),
            Who::After => self.after = Some(now),
        }
        // Who speaks seldom is heard seldom.
        let goes_on = |(_, last): &(Duration, Duration)| now.saturating_sub(*last) < SELDOM + SILENT;
        let since = self.both.filter(goes_on).map_or(now, |(since, _)| since);
        self.both = Some((since, now));
        let for_so_long = now.saturating_sub(since);
        self.holds.is_some() && for_so_long >= BOTH && !std::mem::replace(&mut self.said, true)
    }

    /// Whoever is no load balancer told. Answers whether that is to be said: a load balancer that has just started may not be
    /// known yet, but tells again.
    fn hears_stranger(&mut self, now: Duration, mac: Mac) -> bool {
        if !self.has_had(now) || (self.strangers.len() >= TOLD_MAX && !self.strangers.contains_key(&mac)) {
            return false;
        }
        let (since, said) = self.strangers.entry(mac).or_insert((now, false));
        now.saturating_sub(*since) >= OFTEN && !std::mem::replace(said, true)
    }

    /// Whether it has the address for long enough to wonder who else has it.
    fn has_had(&self, now: Duration) -> bool {
        self.holds.is_some_and(|since| now.saturating_sub(since) >= BOTH)
    }
}

/// Who tells the network.
#[derive(Debug)]
pub(super) struct Announcer {
    arp: Arp,
    index: u32,
    vip: Ipv4Addr,
    peers: Vec<Peer>,
    /// This node's place among them.
    own: usize,
    plan: Plan,
    began: Instant,
    channel: Channel,
}

impl Announcer {
    /// On the link of the virtual IP; none for IPv6.
    pub(super) fn on(link: &Link, config: &NodeConfig, channel: Channel) -> Result<Option<Self>, String> {
        let (Some(lb), Some(IpAddr::V4(vip))) = (&config.lb, config.virtual_ip()) else { return Ok(None) };
        // Keepalived has no configuration without it, either.
        let Some(own) = lb.peers.iter().position(|p| p.name == config.name()) else { return Ok(None) };
        let arp = Arp::open(link).map_err(|e| format!("speaking ARP on {}: {e}", link.name))?;
        Ok(Some(Self {
            arp,
            index: link.index,
            vip,
            peers: lb.peers.clone(),
            own,
            plan: Plan { first: own == 0, ..Plan::default() },
            began: Instant::now(),
            channel,
        }))
    }

    /// Whether this node holds the address, and reaches a master.
    pub(super) fn is(&mut self, holds: bool, serves: bool) {
        if self.plan.is(self.began.elapsed(), holds, serves) {
            // Another one that has it tells now where it is. One that cannot ask is not heard of, either.
            let _ = self.arp.probe(self.vip);
        }
    }

    /// When it is to [tell](Self::tell).
    pub(super) fn due(&self) -> Option<Instant> {
        self.plan.due().map(|due| self.began + due)
    }

    /// Tells the network, if it is time to.
    pub(super) fn tell(&mut self) {
        let now = self.began.elapsed();
        if self.plan.due().is_some_and(|due| due <= now) {
            // On a link that is down there is nobody to tell; the next time comes.
            let _ = self.arp.announce(self.vip);
            self.plan.tells(now);
        }
    }

    /// Takes in what others said; what is too much for a turn waits for the next.
    pub(super) fn hear(&mut self, netlink: &mut Netlink) -> Result<(), String> {
        for _ in 0..TURN {
            match self.arp.hear(self.vip).map_err(|e| format!("hearing ARP: {e}"))? {
                None => break,
                Some(Heard::Asks) => self.plan.asked(),
                Some(Heard::Has(mac)) => self.has(mac, netlink)?,
                Some(Heard::Other) => {}
            }
        }
        Ok(())
    }

    fn has(&mut self, mac: Mac, netlink: &mut Netlink) -> Result<(), String> {
        let now = self.began.elapsed();
        let mut found = None;
        for (i, peer) in self.peers.iter().enumerate() {
            if i != self.own && netlink.neighbour(self.index, peer.address)?.is_some_and(|m| m == mac) {
                found = Some((if i < self.own { Who::Before } else { Who::After }, peer));
            }
        }
        let vip = self.vip;
        match found {
            Some((who, peer)) if self.plan.hears(now, who) => self.channel.notice(format!(
                "{} has the virtual IP {vip}, too: the load balancers do not hear each other; hint: let VRRP (IP protocol 112) pass \
                 between them",
                peer.name
            )),
            None if self.plan.hears_stranger(now, mac) => {
                let mac = mac.map(|b| format!("{b:02x}")).join(":");
                self.channel.notice(format!(
                    "{mac}, which is no load balancer of this cluster, has the virtual IP {vip}, too: they take each other's \
                     clients away; hint: give one of them another address"
                ))
            }
            _ => Ok(()),
        }
    }
}

impl AsFd for Announcer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.arp.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// One that holds the address from 10 s on.
    fn holder(first: bool) -> Plan {
        let mut plan = Plan { first, ..Plan::default() };
        assert!(plan.due().is_none());
        assert!(!plan.is(ms(10_000), true, true));
        plan
    }

    #[test]
    fn the_first_one_speaks() {
        let (mut first, mut second) = (holder(true), holder(false));
        assert_eq!((first.due(), second.due()), (Some(ms(11_000)), Some(ms(20_000))));
        // They hear each other.
        for s in 11..30 {
            first.tells(ms(1000 * s));
            assert_eq!(second.hears(ms(1000 * s), Who::Before), s == 16, "at {s} s");
            assert_eq!(second.due(), Some(ms(1000 * s + 3000)), "not as long as it is heard");
        }
        // The first one is gone; the second speaks at once, and then seldom.
        second.tells(ms(32_000));
        assert_eq!(second.due(), Some(ms(42_000)));
        let heard = [15_000, 32_000, 42_000, 52_000].map(|at| first.hears(ms(at), Who::After));
        assert_eq!(heard, [false, false, true, false], "once is when it moves");
        assert_eq!(first.due(), Some(ms(31_800)), "it goes on");
    }

    /// Keepalived of the second one tells when it takes the address, and a second later.
    #[test]
    fn the_first_one_waits_until_the_other_has_told() {
        let mut first = holder(true);
        for (told, heard, due) in [(20_000, 20_900, 22_100), (30_100, 31_000, 32_200), (40_900, 41_000, 42_200)] {
            first.tells(ms(told));
            first.hears(ms(heard - 1000), Who::After);
            assert!(first.due() >= Some(ms(heard)), "not in between");
            first.hears(ms(heard), Who::After);
            assert_eq!(first.due(), Some(ms(due)));
        }
        // One that never stops does not make it silent.
        for heard in 43..46 {
            first.hears(ms(1000 * heard), Who::After);
        }
        assert_eq!(first.due(), Some(ms(43_700)));
        first.tells(ms(50_000));
        assert_eq!(first.due(), Some(ms(51_000)), "long ago");
    }

    #[test]
    fn who_gives_up_asks_and_who_has_it_tells_at_once() {
        let (mut first, mut second) = (holder(true), holder(false));
        second.hears(ms(11_000), Who::Before);
        assert!(first.is(ms(11_500), true, false), "it reaches no master any more");
        assert_eq!(first.due(), None);
        assert!(!first.is(ms(11_600), false, false), "it does not speak any more");
        second.asked();
        assert_eq!(second.due(), Some(ms(10_100)), "long ago");
        second.tells(ms(11_500));
        assert_eq!(second.due(), Some(ms(21_500)));
        second.asked();
        assert_eq!(second.due(), Some(ms(11_600)), "not whenever somebody asks");
        assert!(second.is(ms(12_000), false, true));
        second.asked();
        assert_eq!(second.due(), None, "it is not here");
    }

    #[test]
    fn a_stranger_is_told_of_once() {
        let mut plan = holder(true);
        let mac = |n: u8| [2, 0, 0, 0, 0, n];
        assert!(!plan.hears_stranger(ms(12_000), mac(1)), "it may be a load balancer that has just started");
        assert!(!plan.hears_stranger(ms(15_000), mac(1)));
        assert!(!plan.hears_stranger(ms(15_900), mac(1)));
        assert!(plan.hears_stranger(ms(16_000), mac(1)) && !plan.hears_stranger(ms(17_000), mac(1)));
        let told =
            (0..=255).filter(|n| [20_000, 21_000].map(|at| plan.hears_stranger(ms(at), mac(*n))) == [false, true]);
        assert_eq!(told.count(), TOLD_MAX - 1);
    }

    proptest! {
        /// Whatever happens: it tells only while it holds the address and reaches a master, never more often than it answers,
        /// and never goes quiet for good.
        #[test]
        fn it_tells_of_what_it_has(first: bool, steps in prop::collection::vec((0_u64..3000, 0..5_u8), 0..200)) {
            let (mut plan, mut now, mut last) = (Plan { first, ..Plan::default() }, Duration::ZERO, None);
            let (mut holds, mut serves) = (false, true);
            for (after, what) in steps {
                now += ms(after);
                match what {
                    0 => holds = !holds,
                    1 => serves = !serves,
                    2 => plan.asked(),
                    3 => drop(plan.hears(now, Who::Before)),
                    _ => drop(plan.hears(now, Who::After)),
                }
                plan.is(now, holds, serves);
                prop_assert_eq!(plan.due().is_some(), holds && serves);
                if let Some(due) = plan.due() {
                    prop_assert!(due <= now + SELDOM);
                    if due <= now {
                        prop_assert!(last.is_none_or(|l| now - l >= ANSWER));
                        plan.tells(now);
                        last = Some(now);
                    }
                }
            }
        }
    }
}
