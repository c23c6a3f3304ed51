//! What two cores bear at a time. All tests are threads of one process, so that whoever needs a core asks here: a test that
//! waits holds none, and the long boot of one node leaves the other core to a second. How long each had them is printed: what
//! `make test` takes is the sum of that (`--nocapture` shows it).

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Free ones.
static CORES: (Mutex<usize>, Condvar) = (Mutex::new(2), Condvar::new());

/// One core, or both, given back with this value.
#[derive(Debug)]
pub struct Turn {
    cores: usize,
    since: Instant,
}

impl Turn {
    /// Waits for a core: one VM has one processor.
    pub fn one() -> Self {
        Self::of(1)
    }

    /// Waits for both: builds take what there is.
    pub fn both() -> Self {
        Self::of(2)
    }

    /// Waits for the cores that so many nodes need: one node has one, more nodes have both.
    pub fn for_nodes(nodes: usize) -> Self {
        Self::of(nodes.clamp(1, 2))
    }

    /// A test that failed poisons nothing: each has a directory of its own.
    fn of(cores: usize) -> Self {
        let free = CORES.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = CORES.1.wait_while(free, |f| *f < cores).unwrap_or_else(PoisonError::into_inner);
        *free -= cores;
        Self { cores, since: Instant::now() }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *CORES.0.lock().unwrap_or_else(PoisonError::into_inner) += self.cores;
        CORES.1.notify_all();
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        println!("{test} had {} of 2 cores for {:.0} s", self.cores, self.since.elapsed().as_secs_f64());
    }
}
