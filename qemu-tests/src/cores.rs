//! What two cores bear at a time. All tests are threads of one process, so that whoever needs a core asks here: a test that
//! waits holds none, and the long boot of one node leaves the other core to a second. How long each had them is printed: what
//! `make test` takes is the sum of that (`--nocapture` shows it).
//!
//! Who takes one core is let in before who takes both, and the longest first: otherwise the last of them would have one core
//! for minutes while the other is idle.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

const CORES: usize = 2;
/// The beginnings of the longest tests' names, the longest first.
const LONGEST: [&str; 3] = ["kubernetes::renewal::", "kubernetes::", "clock::"];

static GATE: (Mutex<Gate>, Condvar) = (Mutex::new(Gate { free: CORES, waiting: Vec::new() }), Condvar::new());

#[derive(Debug)]
struct Gate {
    free: usize,
    /// The places in the order of those who wait.
    waiting: Vec<usize>,
}

impl Gate {
    fn is_open(&self, cores: usize, place: usize) -> bool {
        self.free >= cores && self.waiting.iter().all(|other| *other >= place)
    }
}

/// Its place in the order; several may have the same.
fn place(test: &str, cores: usize) -> usize {
    let long = LONGEST.iter().position(|name| test.starts_with(name)).unwrap_or(LONGEST.len());
    if cores == CORES { LONGEST.len() + 1 } else { long }
}

fn test() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

/// One core, or both, given back with this value.
#[derive(Debug)]
pub struct Turn {
    cores: usize,
    since: Instant,
    before: Ticks,
}

/// What all processors together did since the machine is up, in ticks (proc_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    idle: u64,
    all: u64,
}

impl Ticks {
    fn now() -> Self {
        Self::of(&crate::read(std::path::Path::new("/proc/stat")))
    }

    fn of(stat: &str) -> Self {
        let line = stat.lines().next().unwrap_or_default();
        // user, nice, system, idle, iowait, irq, softirq, steal; what guests had is part of user and nice.
        let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
        Self { idle: ticks.iter().skip(3).take(2).sum(), all: ticks.iter().sum() }
    }

    /// Per cent, of what has passed since `before`.
    fn busy(self, before: Self) -> u64 {
        let (idle, all) = (self.idle.saturating_sub(before.idle), self.all.saturating_sub(before.all));
        100 * all.saturating_sub(idle) / all.max(1)
    }
}

impl Turn {
    /// Waits for a core: one VM has one processor.
    pub fn one() -> Self {
        Self::of(1)
    }

    /// Waits for both: builds take what there is.
    pub fn both() -> Self {
        Self::of(CORES)
    }

    /// Waits for the cores that so many nodes need: one node has one, more nodes have both.
    pub fn for_nodes(nodes: usize) -> Self {
        Self::of(nodes.clamp(1, CORES))
    }

    /// A test that failed poisons nothing: each has a directory of its own.
    fn of(cores: usize) -> Self {
        let place = place(&test(), cores);
        let mut gate = GATE.0.lock().unwrap_or_else(PoisonError::into_inner);
        gate.waiting.push(place);
        let mut gate = GATE.1.wait_while(gate, |g| !g.is_open(cores, place)).unwrap_or_else(PoisonError::into_inner);
        gate.free -= cores;
        if let Some(own) = gate.waiting.iter().position(|other| *other == place) {
            gate.waiting.swap_remove(own);
        }
        // Whoever had to let this one go first may have the other core.
        GATE.1.notify_all();
        Self { cores, since: Instant::now(), before: Ticks::now() }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        GATE.0.lock().unwrap_or_else(PoisonError::into_inner).free += self.cores;
        GATE.1.notify_all();
        let (seconds, busy) = (self.since.elapsed().as_secs_f64(), Ticks::now().busy(self.before));
        println!("{} had {} of {CORES} cores for {seconds:.0} s, the machine was {busy} % busy", test(), self.cores);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_busy_the_machine_was() {
        let before = Ticks::of("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\n");
        assert_eq!(before, Ticks { idle: 850, all: 1000 });
        assert_eq!(Ticks::of("cpu  160 10 55 820 55 0 0 0 9 9").busy(before), 75);
        assert_eq!(before.busy(before), 0);
        assert!(Ticks::now().all > 0);
    }

    #[test]
    fn the_longest_that_take_one_core_are_first_and_who_takes_both_is_last() {
        let order =
            ["kubernetes::renewal::two", "kubernetes::power_is_lost", "clock::a", "damage::b"].map(|t| place(t, 1));
        assert!(order.is_sorted() && order[3] < place("kubernetes::worker::c", 2));
        let gate = |free, waiting: &[usize]| Gate { free, waiting: waiting.to_vec() };
        let (single, both) = (order[3], place("lb::d", 2));
        assert!(gate(1, &[single, both]).is_open(1, single));
        assert!(!gate(2, &[single, both]).is_open(2, both), "a core would be idle afterwards");
        assert!(!gate(1, &[both]).is_open(2, both), "one is missing");
        assert!(gate(2, &[both, both]).is_open(2, both));
        assert!(!gate(0, &[single]).is_open(1, single));
    }
}
