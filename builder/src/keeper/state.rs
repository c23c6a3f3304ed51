//! In which state a node is: pure, from what it said.

use contract::report::BootReport;
use lab::voice::Line;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A node as the keeper sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeStatus {
    pub(crate) name: String,
    pub(crate) roles: Vec<String>,
    pub(crate) address: String,
    pub(crate) state: State,
    /// QEMU's process.
    pub(crate) pid: Option<u32>,
    /// Guest milliseconds since power on.
    pub(crate) uptime_ms: u64,
    /// Its last line.
    pub(crate) said: String,
    /// The number of the seeding that it has; none = it does not know yet what it is.
    pub(crate) generation: Option<u64>,
    /// It holds the virtual IP, by its own word.
    pub(crate) holds_vip: bool,
    pub(crate) services: Vec<ServiceStatus>,
    /// Its console's log.
    pub(crate) console: PathBuf,
}

/// A service of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceStatus {
    pub(crate) name: String,
    /// Guest milliseconds since kernel start; none = it is not ready.
    pub(crate) ready_ms: Option<u64>,
    pub(crate) restarts: u32,
}

/// The state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// No power.
    Off,
    /// It does not know yet what it is.
    Booting,
    /// It knows its roles, but not all of them are ready.
    Waiting,
    /// It found nothing to be.
    Maintenance,
    /// It cannot go on: see its console.
    Stopped,
    /// All roles are ready.
    Ready,
}

impl State {
    /// For tables.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Booting => "booting",
            Self::Waiting => "waiting",
            Self::Maintenance => "maintenance",
            Self::Stopped => "stopped",
            Self::Ready => "ready",
        }
    }
}

/// Decides. `console` are the lines of the console that matter: a node that stops early has no other voice.
pub(crate) fn state(on: bool, console: &[String], lines: &[Line], report: Option<&BootReport>) -> State {
    if !on {
        return State::Off;
    }
    if console.iter().any(|l| l.contains("quorate: STOPPED") || l.contains("Kernel panic")) {
        return State::Stopped;
    }
    let mut state = State::Booting;
    for line in lines {
        if line.text.starts_with("MAINTENANCE") {
            state = State::Maintenance;
        } else if began(line).is_some() {
            state = State::Waiting;
        } else if line.text.starts_with("mounts ok") {
            // It started again.
            state = State::Booting;
        } else if line.text.starts_with("all ready") {
            state = State::Ready;
        }
    }
    let unready = report.is_some_and(|r| r.services.iter().any(|s| s.ready_ms.is_none()));
    if state == State::Ready && unready { State::Waiting } else { state }
}

/// Which seeding a node has since it started, by its own word (`init/src/seek.rs`, `init/src/replan.rs`).
pub(crate) fn generation(lines: &[Line]) -> Option<u64> {
    let of = |line: &Line| {
        let took = || line.text.strip_prefix("generation ")?.split_once(": ")?.0.parse().ok();
        began(line).or_else(took)
    };
    let since = lines.iter().rposition(|l| l.text.starts_with("mounts ok")).unwrap_or(0);
    lines[since..].iter().rev().find_map(of)
}

/// That a node knows what it is, and of which seeding. Its agent is called `node`, too, and has lines of its own.
fn began(line: &Line) -> Option<u64> {
    line.text.strip_prefix("node ")?.rsplit_once(", generation ")?.1.parse().ok()
}

/// Whether a node holds the virtual IP: what it said last of it since it started.
pub(crate) fn holds_vip(lines: &[Line]) -> bool {
    lines.iter().fold(false, |holds, line| {
        let text = &line.text;
        (holds || text.contains("holds the virtual IP"))
            && !text.contains("does not hold the virtual IP")
            && !text.starts_with("mounts ok")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::report::ServiceReport;

    fn lines(texts: &[&str]) -> Vec<Line> {
        texts.iter().map(|t| Line { ms: 0, text: (*t).into(), heard: std::time::Instant::now() }).collect()
    }

    #[test]
    fn from_what_it_said() {
        let say = |texts: &[&str]| state(true, &[], &lines(texts), None);
        assert_eq!(state(false, &[], &lines(&["all ready"]), None), State::Off);
        assert_eq!(say(&["mounts ok (1 ms)"]), State::Booting);
        assert_eq!(say(&["mounts ok", "MAINTENANCE: no role runs"]), State::Maintenance);
        assert_eq!(say(&["MAINTENANCE: x", "node etcd-1 with etcd from y, generation 1"]), State::Waiting);
        assert_eq!(say(&["node etcd-1 with etcd from y, generation 1", "all ready (1 ms)"]), State::Ready);
        assert_eq!(say(&["all ready (1 ms)", "node failed: x; again in 100 ms", "node ready (0 ms)"]), State::Ready);
        assert_eq!(say(&["all ready (1 ms)", "mounts ok (1 ms)"]), State::Booting, "it started again");
        let console = ["[ 1.0] quorate: STOPPED: no root".to_owned()];
        assert_eq!(state(true, &console, &[], None), State::Stopped);
    }

    #[test]
    fn the_seeding_that_it_took() {
        let said = ["generation 2: etcd started anew, node read again", "node: x", "generation 4 is not taken: no"];
        assert_eq!(generation(&lines(&said)), Some(2));
        assert_eq!(generation(&lines(&["generation 2: a", "mounts ok (1 ms)"])), None, "it started again");
        let began = "node etcd-1 with etcd from nocloud:/dev/vdb, generation 3";
        assert_eq!(generation(&lines(&["mounts ok", "generation 3 of nocloud:/dev/vdb replaces 1", began])), Some(3));
    }

    #[test]
    fn the_last_word_of_the_virtual_ip_counts() {
        let (takes, gives) =
            ("node: holds the virtual IP 10.0.0.1", "node: does not hold the virtual IP 10.0.0.1 any more");
        assert!(holds_vip(&lines(&[takes])) && holds_vip(&lines(&[takes, gives, takes])));
        assert!(!holds_vip(&lines(&[])) && !holds_vip(&lines(&[takes, gives])));
        assert!(!holds_vip(&lines(&[takes, "mounts ok (1 ms)"])), "it started again");
    }

    #[test]
    fn a_service_that_fails_later_counts() {
        let mut report = BootReport { services: vec![ServiceReport::default()], ..BootReport::default() };
        assert_eq!(state(true, &[], &lines(&["all ready"]), Some(&report)), State::Waiting);
        report.services[0].ready_ms = Some(7);
        assert_eq!(state(true, &[], &lines(&["all ready"]), Some(&report)), State::Ready);
    }
}
