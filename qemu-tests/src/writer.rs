//! A writer that remembers: one client per member, each writing its own keys, each key once. What was acknowledged must
//! be there for ever after.

use crate::cluster::Cluster;
use lab::probe::{Record, run};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between a client's writes, in guest time.
const EVERY: Duration = Duration::from_millis(20);
/// A write that takes longer is not acknowledged; it may have happened all the same. Guest time.
const PATIENCE: Duration = Duration::from_millis(300);

/// A writer at work.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    thread: JoinHandle<Record>,
}

/// What it leaves.
#[derive(Debug)]
pub struct Written {
    /// Keys whose write was acknowledged.
    pub acknowledged: BTreeSet<String>,
    /// When each was.
    pub record: Record,
}

impl Writer {
    /// Begins to write through these members; keys begin with `prefix`.
    pub fn start(cluster: &Cluster, members: &[&str], prefix: &str) -> Self {
        let clock = cluster.clock();
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
        let clients: Vec<_> = members
            .iter()
            .map(|member| {
                let client = cluster.client(member).patient(PATIENCE, clock);
                let (acknowledged, prefix, member) =
                    (Arc::clone(&acknowledged), prefix.to_owned(), (*member).to_owned());
                move |number: u64| {
                    let key = format!("{prefix}/{member}/{number}");
                    client.put(&key, &key)?;
                    acknowledged.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
                    Ok(())
                }
            })
            .collect();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || run(clock, EVERY, clients, &stopped));
        Self { stop, acknowledged, thread }
    }

    /// How many writes were acknowledged so far.
    pub fn count(&self) -> usize {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Stops.
    pub fn stop(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        let record = self.thread.join().expect("the writer");
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Written { acknowledged, record }
    }
}

impl Written {
    /// Asserts that nothing that was acknowledged is missing, read through a member.
    pub fn assert_kept(&self, cluster: &Cluster, member: &str, prefix: &str) {
        let there: BTreeSet<String> =
            cluster.client(member).keys(&format!("{prefix}/")).expect("read").into_iter().collect();
        let missing: Vec<_> = self.acknowledged.difference(&there).collect();
        assert!(missing.is_empty(), "{} acknowledged writes are missing: {missing:?}", missing.len());
        assert!(!self.acknowledged.is_empty(), "nothing was written at all");
    }

    /// One line of figures.
    pub fn tell(&self, what: &str) {
        let s = self.record.summary();
        println!(
            "{what}: {} acknowledged, {} failed, p50 {:.1} ms, p99 {:.1} ms, longest gap {:.0} ms (guest time)",
            s.answered, s.failed, s.p50_ms, s.p99_ms, s.gap_ms
        );
    }
}
