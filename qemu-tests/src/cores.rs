//! What two cores bear at a time. All tests are threads of one process, so that whoever needs a core asks here: a test that
//! waits holds none, and the long boot of one node leaves the other core to a second.

use std::sync::{Condvar, Mutex, PoisonError};

/// Free ones.
static CORES: (Mutex<usize>, Condvar) = (Mutex::new(2), Condvar::new());

/// One core, or both, given back with this value.
#[derive(Debug)]
pub struct Turn(usize);

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
        Self(cores)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *CORES.0.lock().unwrap_or_else(PoisonError::into_inner) += self.0;
        CORES.1.notify_all();
    }
}
