//! The switch as a pure function: a frame that enters at a port, to when it leaves at which others.
//!
//! Learning as IEEE 802.1D has it: a source address belongs to the port it was last seen at; unknown and group
//! addresses go to all. Seeded, so that the same frames at the same moments meet the same fate.

use super::fault::{Faults, Link};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Addresses learned; a guest that makes them up must not fill this process' memory.
const ADDRESSES_MAX: usize = 4096;
/// Destination and source address, and the type.
const HEADER: usize = 14;

/// A frame that is to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) to: usize,
    pub(crate) at: Duration,
}

/// What passed a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Frames from the node.
    pub frames_in: u64,
    /// Bytes from the node.
    pub bytes_in: u64,
    /// Frames to the node.
    pub frames_out: u64,
    /// Bytes to the node.
    pub bytes_out: u64,
    /// Frames from or to it that a fault took.
    pub lost: u64,
    /// Frames that its machine did not take in time.
    pub overrun: u64,
}

/// A port.
#[derive(Clone, Debug, Default)]
pub(crate) struct Port {
    pub(crate) name: String,
    /// From the node.
    pub(crate) inward: Link,
    /// To the node.
    pub(crate) outward: Link,
    pub(crate) counters: Counters,
}

/// The switch.
#[derive(Debug)]
pub(crate) struct Fabric {
    pub(crate) ports: Vec<Port>,
    /// Sets of ports that hear each other; a port in none of them hears all.
    partition: Vec<BTreeSet<usize>>,
    /// Only packets of this IP protocol meet the partition.
    protocol: Option<u8>,
    addresses: BTreeMap<[u8; 6], usize>,
    dice: fastrand::Rng,
}

impl Fabric {
    /// Without ports.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            ports: Vec::new(),
            partition: Vec::new(),
            protocol: None,
            addresses: BTreeMap::new(),
            dice: fastrand::Rng::with_seed(seed),
        }
    }

    /// A port of a name: the one there is, or a new one.
    pub(crate) fn port(&mut self, name: &str) -> usize {
        if let Some(i) = self.ports.iter().position(|p| p.name == name) {
            return i;
        }
        self.ports.push(Port { name: name.into(), ..Port::default() });
        self.ports.len() - 1
    }

    /// Takes a frame; answers where its copies go, and when.
    pub(crate) fn pass(&mut self, now: Duration, from: usize, frame: &[u8]) -> Vec<Delivery> {
        let bytes = frame.len();
        let counters = &mut self.ports[from].counters;
        counters.frames_in += 1;
        counters.bytes_in += bytes as u64;
        let (Some(to), Some(source)) = (address(frame, 0), address(frame, 6)) else { return Vec::new() };
        if bytes < HEADER {
            return Vec::new();
        }
        let dice = &mut self.dice;
        let entered = self.ports[from].inward.pass(now, bytes, || dice.f64());
        if entered.is_empty() {
            self.ports[from].counters.lost += 1;
            return Vec::new();
        }
        let group = to[0] & 1 == 1;
        if source[0] & 1 == 0 && (self.addresses.len() < ADDRESSES_MAX || self.addresses.contains_key(&source)) {
            self.addresses.insert(source, from);
        }
        let divided = self.protocol.is_none() || self.protocol == protocol(frame);
        let known = if group { None } else { self.addresses.get(&to).copied() };
        let mut deliveries = Vec::new();
        for to in 0..self.ports.len() {
            if to == from || known.is_some_and(|k| k != to) {
                continue;
            }
            if divided && !self.hears(from, to) {
                self.ports[to].counters.lost += 1;
                continue;
            }
            for &at in &entered {
                let dice = &mut self.dice;
                let left = self.ports[to].outward.pass(at, bytes, || dice.f64());
                self.ports[to].counters.lost += u64::from(left.is_empty());
                deliveries.extend(left.into_iter().map(|at| Delivery { to, at }));
            }
        }
        deliveries
    }

    fn hears(&self, a: usize, b: usize) -> bool {
        let set_of = |p: usize| self.partition.iter().position(|s| s.contains(&p));
        match (set_of(a), set_of(b)) {
            (Some(x), Some(y)) => x == y,
            _ => true,
        }
    }

    /// Sets the faults of a port's two directions.
    pub(crate) fn set(&mut self, port: usize, inward: Faults, outward: Faults) {
        self.ports[port].inward.faults = inward;
        self.ports[port].outward.faults = outward;
    }

    /// Divides the ports; an empty list unites them. With a protocol of IP's only for packets of it.
    pub(crate) fn divide(&mut self, sets: Vec<BTreeSet<usize>>, protocol: Option<u8>) {
        (self.partition, self.protocol) = (sets, protocol);
    }

    /// Forgets who is where: the machines were exchanged.
    pub(crate) fn forget(&mut self) {
        self.addresses.clear();
    }

    /// Takes all faults away.
    pub(crate) fn heal(&mut self) {
        self.divide(Vec::new(), None);
        for port in &mut self.ports {
            port.inward.faults = Faults::default();
            port.outward.faults = Faults::default();
        }
    }
}

fn address(frame: &[u8], at: usize) -> Option<[u8; 6]> {
    frame.get(at..at + 6)?.try_into().ok()
}

/// The protocol of an IP packet: of IPv6 without extension headers.
fn protocol(frame: &[u8]) -> Option<u8> {
    let at = match frame.get(HEADER - 2..HEADER)? {
        [0x08, 0x00] => 9,
        [0x86, 0xdd] => 6,
        _ => return None,
    };
    frame.get(HEADER + at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(to: u8, from: u8) -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0];
        if to == 0xff {
            f[..6].fill(0xff);
        }
        f.resize(60, 0);
        f
    }

    fn fabric(ports: usize) -> Fabric {
        let mut f = Fabric::new(1);
        for i in 0..ports {
            f.port(&format!("p{i}"));
        }
        f
    }

    fn reached(f: &mut Fabric, from: usize, frame: &[u8]) -> Vec<usize> {
        f.pass(Duration::ZERO, from, frame).into_iter().map(|d| d.to).collect()
    }

    #[test]
    fn floods_then_learns_then_follows_a_move() {
        let mut f = fabric(4);
        assert_eq!(reached(&mut f, 0, &frame(9, 1)), [1, 2, 3], "unknown: to all");
        assert_eq!(reached(&mut f, 3, &frame(1, 9)), [0]);
        assert_eq!(reached(&mut f, 0, &frame(9, 1)), [3]);
        assert_eq!(reached(&mut f, 1, &frame(0xff, 9)), [0, 2, 3], "the address announces itself elsewhere");
        assert_eq!(reached(&mut f, 0, &frame(9, 1)), [1]);
        assert_eq!(reached(&mut f, 0, &[1, 2, 3]), [0; 0], "a runt");
    }

    #[test]
    fn partitions_and_one_way_cuts() {
        let mut f = fabric(4);
        f.divide(vec![[0].into(), [1, 2].into()], None);
        assert_eq!(reached(&mut f, 0, &frame(0xff, 1)), [3], "port 3 is in no set");
        assert_eq!(reached(&mut f, 1, &frame(0xff, 2)), [2, 3]);
        f.heal();
        f.set(0, Faults { cut: true, ..Faults::default() }, Faults::default());
        assert_eq!(reached(&mut f, 0, &frame(0xff, 1)), [0; 0], "nothing comes from it");
        assert_eq!(reached(&mut f, 1, &frame(0xff, 2)), [0, 2, 3], "but it hears");
        assert_eq!(f.ports[0].counters.lost, 2, "one by the partition, one by the cut");
    }

    #[test]
    fn one_protocol_does_not_pass() {
        let mut f = fabric(3);
        f.divide(vec![[0].into(), [1].into()], Some(112));
        let mut vrrp = frame(0xff, 1);
        vrrp[23] = 112;
        assert_eq!(reached(&mut f, 0, &vrrp), [2]);
        assert_eq!(reached(&mut f, 0, &frame(0xff, 1)), [1, 2], "all else passes");
        vrrp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(reached(&mut f, 0, &vrrp), [1, 2], "no IP");
        vrrp[12..14].copy_from_slice(&[0x86, 0xdd]);
        vrrp[20] = 112;
        assert_eq!(reached(&mut f, 0, &vrrp), [2]);
    }

    #[test]
    fn the_same_seed_loses_the_same_frames() {
        let run = |seed| {
            let mut f = Fabric::new(seed);
            f.port("a");
            let b = f.port("b");
            f.set(b, Faults::default(), Faults { loss: 0.3, ..Faults::default() });
            (0..200).map(|_| f.pass(Duration::ZERO, 0, &frame(0xff, 1)).len()).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let lost = run(7).iter().filter(|n| **n == 0).count();
        assert!((30..90).contains(&lost), "{lost} of 200");
    }
}
