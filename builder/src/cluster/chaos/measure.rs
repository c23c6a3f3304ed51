//! What clients of the API see at its virtual IP while something is done to the cluster: each request over a connection of
//! its own, and a watch (`watch.rs`). Writers count upwards; a reader that is told less than was
//! acknowledged before it asked has found a lost write, or a read that goes back in time. A write that was given up may still
//! arrive: it names the version that it changes, so that it never replaces a newer one.

use super::rows::Asked;
use super::watch::{self, Seen};
use anyhow::{Context, Result};
use lab::clock::Clock;
use lab::probe::{Record, Sample, api::Client, run_in_turn};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub(super) const PATH: &str = "/api/v1/namespaces/default/configmaps";
/// While one waits in vain, another may be answered already.
const READERS: usize = 4;
const WRITERS: usize = 2;
/// Between the requests of one client, guest time: 120 a second together, each with a TLS handshake, is what emulated masters
/// bear beside a boot ...
const MUCH: Duration = Duration::from_millis(50);
/// ... and where they are to have hardly anything to do: enough to see that they are there.
const LITTLE: Duration = Duration::from_secs(1);
/// A request that is not answered within this has failed, guest time: short, because whoever waits for somebody who is gone
/// does not see that another answers already; long enough for an emulated master that is busy.
pub(super) const PATIENCE: Duration = Duration::from_millis(300);
/// Characters of an error that is kept: what the API says of itself may be long.
const ERROR_MAX: usize = 120;
/// The watch is told the end by a write, which is tried so often.
const LAST_WRITES: u32 = 20;
/// ... and it is told within this: it is opened anew after six seconds. Guest time.
const LAST: Duration = Duration::from_secs(15);

/// What was seen. Times are guest milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// The longest time without an answer to any reader.
    pub(crate) read_gap_ms: f64,
    /// ... to any writer.
    pub(crate) write_gap_ms: f64,
    pub(crate) reads: usize,
    pub(crate) reads_failed: usize,
    pub(crate) writes: usize,
    pub(crate) writes_failed: usize,
    /// Of those that failed, how many failed again when their client asked the next time.
    #[serde(default)]
    pub(crate) failed_twice: usize,
    /// ... and how many were begun only after the first thing had been done (a signal: after its processes had it): the others
    /// were in flight then.
    #[serde(default)]
    pub(crate) failed_new: usize,
    /// ... the last of them so long after it: until then new requests failed.
    #[serde(default)]
    pub(crate) failed_until_ms: f64,
    /// What went wrong with those that failed, and how often.
    #[serde(default)]
    pub(crate) errors: BTreeMap<String, usize>,
    /// The slowest request that was answered.
    pub(crate) slowest_ms: f64,
    /// How often the watch was cut.
    pub(crate) watch_cut: usize,
    /// How often it had to begin anew, because what it had seen last is compacted.
    #[serde(default)]
    pub(crate) watch_anew: usize,
    /// What must never be: acknowledged, and not there.
    pub(crate) lost: Vec<String>,
    /// What was another before: leaders, the holder of the virtual IP, programs that started again, nodes' readiness.
    #[serde(default)]
    pub(crate) changed: Vec<String>,
    /// Until the cluster had noticed, where that is a question of the row.
    #[serde(default)]
    pub(crate) noticed_ms: Option<f64>,
    /// Until all nodes were ready, since the last thing that was done.
    pub(crate) healthy_ms: f64,
}

impl Figures {
    fn of(reads: &Record, writes: &Record, watch: &Seen, lost: Vec<String>) -> Self {
        let (r, w) = (reads.summary(), writes.summary());
        let mut errors = BTreeMap::new();
        for error in reads.samples.iter().chain(&writes.samples).filter_map(|s| s.error.as_deref()) {
            *errors.entry(error.chars().take(ERROR_MAX).collect()).or_insert(0) += 1;
        }
        Self {
            failed_twice: reads.failed_twice() + writes.failed_twice(),
            failed_new: 0,
            failed_until_ms: 0.0,
            errors,
            read_gap_ms: r.gap_ms,
            write_gap_ms: w.gap_ms,
            reads: r.answered + r.failed,
            reads_failed: r.failed,
            writes: w.answered + w.failed,
            writes_failed: w.failed,
            slowest_ms: r.max_ms.max(w.max_ms),
            watch_cut: watch.cut.len(),
            watch_anew: watch.anew,
            lost,
            changed: vec![],
            noticed_ms: None,
            healthy_ms: 0.0,
        }
    }
}

/// All that was written down of one row.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) figures: Figures,
    pub(super) reads: Record,
    pub(super) writes: Record,
    /// When the watch was cut, guest time since the clients began.
    pub(super) cut: Vec<Duration>,
}

impl Told {
    fn failed(&self) -> impl Iterator<Item = &Sample> {
        self.reads.samples.iter().chain(&self.writes.samples).filter(|s| s.error.is_some())
    }

    /// How many requests had failed by then, guest time since the clients began.
    pub(super) fn failed_by(&self, at: Duration) -> usize {
        self.failed().filter(|s| s.ended < at).count()
    }

    /// How many requests failed that were begun after `struck` (guest time since the clients began), and how long after it
    /// the last of them was.
    pub(super) fn failed_since(&self, struck: Duration) -> (usize, Duration) {
        let begun = || self.failed().filter_map(|s| s.sent.checked_sub(struck)).filter(|d| !d.is_zero());
        (begun().count(), begun().max().unwrap_or_default())
    }
}

fn counter(writer: usize) -> String {
    format!("chaos-{writer}")
}

/// Makes what the writers change; with a client that has more patience than those who measure.
pub(super) fn prepare(client: &Client) -> Result<()> {
    for writer in 0..WRITERS {
        let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": counter(writer) }, "data": { "n": "0" } });
        if client.get(&format!("{PATH}/{}", counter(writer))).is_ok() {
            continue;
        }
        client.post(PATH, &object).with_context(|| format!("making {}", counter(writer)))?;
    }
    Ok(())
}

/// Asks and writes while `act` is done.
pub(super) fn around(client: &Client, clock: Clock, asked: Asked, act: impl FnOnce() -> Result<()>) -> Result<Told> {
    let every = match asked {
        Asked::Much => MUCH,
        Asked::Little => LITTLE,
    };
    let stop = AtomicBool::new(false);
    let over = AtomicBool::new(false);
    let acknowledged: [AtomicU64; WRITERS] = Default::default();
    let all: [Mutex<Vec<u64>>; WRITERS] = Default::default();
    let lost = Mutex::new(Vec::new());
    let (reads, writes, seen, acted) = std::thread::scope(|scope| {
        let (stop, over, acknowledged, all, lost) = (&stop, &over, &acknowledged, &all, &lost);
        let reading = scope.spawn(move || {
            // Half of them read what one writer writes.
            let reader = |r: usize| move |_: u64| read(client, r % WRITERS, acknowledged, lost);
            run_in_turn(clock, every, (0..READERS).map(reader).collect(), stop)
        });
        let writing = scope.spawn(move || {
            let writer = |w: usize| {
                let mut version = None;
                move |n: u64| {
                    write(client, w, n + 1, &mut version, &acknowledged[w])?;
                    all[w].lock().unwrap_or_else(PoisonError::into_inner).push(n + 1);
                    Ok(())
                }
            };
            run_in_turn(clock, every, (0..WRITERS).map(writer).collect(), stop)
        });
        let (tell, told) = std::sync::mpsc::channel();
        let watching = scope.spawn(move || {
            let seen = watch::hold(client, clock, over);
            // Who waits for it no more has given it up.
            let _ = tell.send(());
            seen
        });
        let acted = act();
        stop.store(true, Ordering::Relaxed);
        let (reads, writes) = (reading.join(), writing.join());
        if (0..LAST_WRITES).any(|_| end(client).is_ok()) {
            let _ = told.recv_timeout(clock.host(LAST));
        }
        over.store(true, Ordering::Relaxed);
        (reads, writes, watching.join(), acted)
    });
    acted?;
    let panicked = |_| anyhow::anyhow!("a client of the probe panicked");
    let (reads, writes, seen) = (reads.map_err(panicked)?, writes.map_err(panicked)?, seen.map_err(panicked)?);
    let mut lost = lost.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (writer, numbers) in all.into_iter().enumerate() {
        lost.extend(seen.missed(&counter(writer), &numbers.into_inner().unwrap_or_else(PoisonError::into_inner)));
    }
    lost.extend(seen.wrong());
    Ok(Told { figures: Figures::of(&reads, &writes, &seen, lost), reads, writes, cut: seen.cut })
}

/// The last write, after which the watch has nothing to wait for.
fn end(client: &Client) -> Result<()> {
    client.merge(&format!("{PATH}/{}", counter(0)), &json!({ "data": { "n": watch::END } })).map(drop)
}

/// Whether an object is read: one by its name, without a version, comes from a majority of etcd.
pub(super) fn is_served(client: &Client) -> bool {
    client.get(&format!("{PATH}/{}", counter(0))).is_ok()
}

/// Whether the API says that a node is Ready.
pub(super) fn is_ready(client: &Client, node: &str) -> Result<bool> {
    let object: Value = serde_json::from_str(&client.get(&format!("/api/v1/nodes/{node}"))?)?;
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    Ok(conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

fn read(client: &Client, writer: usize, known: &[AtomicU64; WRITERS], lost: &Mutex<Vec<String>>) -> Result<()> {
    let known = known[writer].load(Ordering::SeqCst);
    let object: Value = serde_json::from_str(&client.get(&format!("{PATH}/{}", counter(writer)))?)?;
    let found = object["data"]["n"].as_str().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    if found < known {
        let text = format!("{} was {known} already, and {found} was read", counter(writer));
        lost.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
    Ok(())
}

/// `version` is what the API said last of the object's; none = it is not known, and asked for.
fn write(
    client: &Client,
    writer: usize,
    number: u64,
    version: &mut Option<String>,
    acknowledged: &AtomicU64,
) -> Result<()> {
    let path = format!("{PATH}/{}", counter(writer));
    let version_of = |text: &str| -> Result<String> {
        let object: Value = serde_json::from_str(text)?;
        Ok(object["metadata"]["resourceVersion"].as_str().context("an object without a version")?.to_owned())
    };
    let known = match version.take() {
        Some(known) => known,
        None => version_of(&client.get(&path)?)?,
    };
    let change = json!({ "metadata": { "resourceVersion": known }, "data": { "n": number.to_string() } });
    let answer = client.merge(&path, &change)?;
    acknowledged.store(number, Ordering::SeqCst);
    *version = Some(version_of(&answer)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_in_flight_are_told_from_new_ones() {
        let ms = Duration::from_millis;
        let sample = |sent, ok: bool| Sample {
            client: 0,
            sent: ms(sent),
            ended: ms(sent + 50),
            error: (!ok).then(|| "closed".into()),
        };
        let record = |samples| Record { samples, lasted: ms(400) };
        let reads = record(vec![sample(90, false), sample(110, false), sample(200, true)]);
        let told = Told { figures: Figures::default(), reads, writes: record(vec![sample(120, false)]), cut: vec![] };
        assert_eq!(told.failed_since(ms(100)), (2, ms(20)));
        assert_eq!((told.failed_by(ms(150)), told.failed_by(ms(100))), (1, 0));
    }
}
