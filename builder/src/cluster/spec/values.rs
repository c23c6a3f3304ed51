//! What the texts of `[etcd]`, `[lb]` and `[lab]` mean: times, sizes, and which of them fit together.

use super::Wrong;
use super::written::{Dilation, Forward, WrittenEtcd, WrittenLab, WrittenLb};
use contract::node::{ADVERT_MS, Etcd, Role};
use lab::{accel, clock};
use std::collections::BTreeMap;
use toml::Spanned;

/// `[lb]`, checked.
#[derive(Clone, Debug)]
pub(crate) struct Balancer {
    pub(crate) advert_ms: u32,
    /// None = from the cluster's id.
    pub(crate) virtual_router_id: Option<u8>,
}

/// `[lab]`, checked.
#[derive(Clone, Debug)]
pub(crate) struct Lab {
    /// One of `lab::accel::WORDS`.
    pub(crate) accel: String,
    /// None = what this machine needs.
    pub(crate) dilation: Option<f64>,
    /// Bytes, of roles that are named.
    pub(crate) memory: BTreeMap<Role, u64>,
    /// Bytes of a disk for the node's state.
    pub(crate) state_size: u64,
    pub(crate) forward: Vec<Forward>,
    /// Whether there is a way in and out of the network.
    pub(crate) gateway: bool,
    /// What the gateway serves to machines that boot from the network; a path is relative to the cluster's file.
    pub(crate) tftp: Option<lab::gateway::Tftp>,
    /// Of the dice that the network's faults are thrown with.
    pub(crate) seed: u64,
}

/// `[lab]`; what is wrong in it goes to `problems`.
pub(super) fn lab(w: WrittenLab, problems: &mut Vec<Wrong>) -> Lab {
    let accel = value("lab.accel", &w.accel, known_accel, &accel::WORDS.join(" or "), problems);
    let dilation = match w.dilation.get_ref() {
        Dilation::Word(word) if word == "auto" => None,
        Dilation::Factor(factor) if clock::FACTORS.contains(factor) => Some(*factor),
        other => {
            let (least, most) = (clock::FACTORS.start(), clock::FACTORS.end());
            let text = format!("lab.dilation: expected \"auto\" or a factor of {least} to {most}, found {other}");
            problems.push((w.dilation.span().start, text));
            None
        }
    };
    let memory = w.memory.iter().filter_map(|(role, text)| {
        let found = value(&format!("lab.memory.{role}"), text, bytes, "a size like \"512MiB\"", problems)?;
        Some((*role, found))
    });
    let memory = memory.collect();
    let state_size = value("lab.state_size", &w.state_size, bytes, "a size like \"8GiB\"", problems);
    Lab {
        accel: accel.unwrap_or_default(),
        dilation,
        memory,
        state_size: state_size.unwrap_or_default(),
        forward: w.forward,
        gateway: w.gateway,
        tftp: w.tftp,
        seed: w.seed,
    }
}

fn known_accel(word: &str) -> Option<String> {
    accel::WORDS.contains(&word).then(|| word.to_owned())
}

/// `[lb]`; what is wrong in it goes to `problems`.
pub(super) fn lb(w: &WrittenLb, problems: &mut Vec<Wrong>) -> Balancer {
    let mut wrong = |at: usize, text: String| problems.push((at, text));
    let advert_ms = milliseconds(w.advert.get_ref()).filter(|ms| (10..=40_000).contains(ms) && ms % 10 == 0);
    if advert_ms.is_none() {
        let text = format!("lb.advert: expected 10ms to 40s in steps of 10ms, found `{}`", w.advert.get_ref());
        wrong(w.advert.span().start, text);
    }
    let id = w.virtual_router_id.as_ref();
    if let Some(zero) = id.filter(|id| *id.get_ref() == 0) {
        wrong(zero.span().start, "lb.virtual_router_id: expected 1 to 255, found 0".into());
    }
    Balancer { advert_ms: advert_ms.unwrap_or(ADVERT_MS), virtual_router_id: id.map(|id| *id.get_ref()) }
}

/// `[etcd]`; what is wrong in it goes to `problems`.
pub(super) fn etcd(w: &WrittenEtcd, problems: &mut Vec<Wrong>) -> Etcd {
    let usual = Etcd::default();
    let time = "a time like \"50ms\"";
    let heartbeat_ms = value("etcd.heartbeat", &w.heartbeat, milliseconds, time, problems);
    let election_ms = value("etcd.election", &w.election, milliseconds, time, problems);
    if let (Some(heartbeat), Some(election)) = (heartbeat_ms, election_ms)
        && u64::from(election) < 10 * u64::from(heartbeat)
    {
        let text = format!("etcd.election: expected at least ten heartbeats, {} ms", 10 * u64::from(heartbeat));
        problems.push((w.election.span().start, text));
    }
    let quota_bytes = value("etcd.quota", &w.quota, bytes, "a size like \"4GiB\"", problems);
    let often = "a time like \"6h\", \"30m\" or \"0\"";
    let snapshot_minutes = value("etcd.snapshot_every", &w.snapshot_every, minutes, often, problems);
    Etcd {
        heartbeat_ms: heartbeat_ms.unwrap_or(usual.heartbeat_ms),
        election_ms: election_ms.unwrap_or(usual.election_ms),
        quota_bytes: quota_bytes.unwrap_or(usual.quota_bytes),
        snapshot_minutes: snapshot_minutes.unwrap_or(usual.snapshot_minutes),
        snapshots: w.snapshots,
        ..usual
    }
}

/// A text as `read` takes it; none, and a word in `problems`, where it is not what was `expected`.
fn value<T>(
    key: &str,
    text: &Spanned<String>,
    read: fn(&str) -> Option<T>,
    expected: &str,
    problems: &mut Vec<Wrong>,
) -> Option<T> {
    let found = read(text.get_ref());
    if found.is_none() {
        problems.push((text.span().start, format!("{key}: expected {expected}, found `{}`", text.get_ref())));
    }
    found
}

/// `50ms`, `2s`.
fn milliseconds(text: &str) -> Option<u32> {
    match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(n), _) => n.trim().parse().ok(),
        (None, Some(n)) => n.trim().parse::<u32>().ok()?.checked_mul(1000),
        (None, None) => None,
    }
}

/// `6h`, `30m`; `0` = never.
fn minutes(text: &str) -> Option<u32> {
    match (text.strip_suffix('h'), text.strip_suffix('m')) {
        (Some(n), _) => n.parse::<u32>().ok()?.checked_mul(60),
        (None, Some(n)) => n.parse().ok(),
        (None, None) => (text == "0").then_some(0),
    }
}

/// `512MiB`, `4GiB`.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = match (text.strip_suffix("GiB"), text.strip_suffix("MiB")) {
        (Some(n), _) => (n, 1 << 30),
        (None, Some(n)) => (n, 1 << 20),
        (None, None) => return None,
    };
    number.trim().parse::<u64>().ok()?.checked_mul(unit).filter(|b| *b > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(
            (bytes("512MiB"), bytes("4GiB"), bytes("4"), bytes("0MiB")),
            (Some(512 << 20), Some(4 << 30), None, None)
        );
        // 2^35 GiB are 2^65 bytes.
        assert_eq!((bytes("34359738368GiB"), bytes("-1GiB"), bytes("GiB"), bytes("")), (None, None, None, None));
    }

    #[test]
    fn times() {
        assert_eq!((milliseconds("50ms"), milliseconds("2 s")), (Some(50), Some(2000)));
        assert_eq!((milliseconds("50"), milliseconds("-1ms"), milliseconds("5000000s")), (None, None, None));
        assert_eq!((minutes("6h"), minutes("30m"), minutes("0")), (Some(360), Some(30), Some(0)));
        assert_eq!((minutes("6"), minutes("6d"), minutes("99999999h")), (None, None, None));
    }
}
