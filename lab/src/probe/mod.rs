//! Clients that ask every few milliseconds, or hold a connection, and write down each answer and each gap between answers,
//! in guest time. [`etcd`] is a client of etcd's, [`api`] one of the API behind its
//! load balancers.

pub mod api;
pub mod etcd;
pub mod tls;

pub use tls::Pair;

use crate::clock::Clock;
use anyhow::Result;
use serde::Serialize;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// One request. Times are the guest's, since the probe began.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Which client asked.
    pub client: usize,
    /// When it was sent.
    pub sent: Duration,
    /// When it was answered, or given up.
    pub ended: Duration,
    /// What went wrong.
    pub error: Option<String>,
}

/// What a probe wrote down.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Record {
    /// In the order of their ends.
    pub samples: Vec<Sample>,
    /// How long it went on.
    pub lasted: Duration,
}

/// The summary of a record, in guest milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Requests that were answered.
    pub answered: usize,
    /// Requests that were not.
    pub failed: usize,
    /// Half of the answers took at most this.
    pub p50_ms: f64,
    /// 99 of 100 took at most this.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
    /// The longest time without an answer to anybody.
    pub gap_ms: f64,
    /// When that began, since the probe began.
    pub gap_at_ms: f64,
}

/// Runs one client per `request`, each in its own thread: a request every `every` (guest time; a slow answer delays the
/// next), until `stop` is set. A request gets its number.
pub fn run<F>(clock: Clock, every: Duration, clients: Vec<F>, stop: &AtomicBool) -> Record
where
    F: FnMut(u64) -> Result<()> + Send,
{
    ask(clock, every, clients, stop, |_, _| Duration::ZERO)
}

/// The same for clients who all ask the same address, where any of them sees that it is back: after failures they ask one after
/// the other. (Where each asks a member of its own, one that waits for its turn would be the only one that could tell.)
pub fn run_in_turn<F>(clock: Clock, every: Duration, clients: Vec<F>, stop: &AtomicBool) -> Record
where
    F: FnMut(u64) -> Result<()> + Send,
{
    let of = clients.len();
    ask(clock, every, clients, stop, |client, took| spread(client, of, took))
}

/// How long a client of so many waits after a request that failed after `took`. All that are stuck give up at the same
/// time, and would ask again at the same time: when whoever they ask is back just after that, the record would show a silence
/// of twice their patience. So they spread over it. One that was refused at once asks again at once.
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn spread(client: usize, of: usize, took: Duration) -> Duration {
    took.mul_f64(client as f64 / of as f64)
}

/// `pause` is how long a client waits after a request that failed after so long; host time.
fn ask<F>(
    clock: Clock,
    every: Duration,
    clients: Vec<F>,
    stop: &AtomicBool,
    pause: impl Fn(usize, Duration) -> Duration + Sync,
) -> Record
where
    F: FnMut(u64) -> Result<()> + Send,
{
    let began = Instant::now();
    let samples = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (client, mut request) in clients.into_iter().enumerate() {
            let (samples, pause) = (&samples, &pause);
            scope.spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let sent = began.elapsed();
                    let result = request(number);
                    number += 1;
                    let ended = began.elapsed();
                    let error = result.err().map(|e| format!("{e:#}"));
                    let pause = if error.is_some() { pause(client, ended - sent) } else { Duration::ZERO };
                    let sample = Sample { client, sent: clock.guest(sent), ended: clock.guest(ended), error };
                    samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                    // The pace of the requests, not a wait for an event.
                    std::thread::sleep((sent + clock.host(every)).max(ended + pause).saturating_sub(began.elapsed()));
                }
            });
        }
    });
    let mut samples = samples.into_inner().unwrap_or_else(PoisonError::into_inner);
    samples.sort_by_key(|s| s.ended);
    Record { samples, lasted: clock.guest(began.elapsed()) }
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

impl Record {
    fn answers(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(|s| s.error.is_none())
    }

    /// The longest time between two answers, whoever got them; its beginning and its length. The beginning and the end of
    /// the record count as answers.
    pub fn longest_gap(&self) -> (Duration, Duration) {
        let mut last = Duration::ZERO;
        let mut longest = (Duration::ZERO, Duration::ZERO);
        for at in self.answers().map(|s| s.ended).chain([self.lasted]) {
            if at.saturating_sub(last) > longest.1 {
                longest = (last, at.saturating_sub(last));
            }
            last = at;
        }
        longest
    }

    /// How many of the failed requests were followed by another failure of the same client: what somebody who tries once more
    /// would see.
    pub fn failed_twice(&self) -> usize {
        let mut by_client: std::collections::BTreeMap<usize, Vec<&Sample>> = std::collections::BTreeMap::new();
        self.samples.iter().for_each(|s| by_client.entry(s.client).or_default().push(s));
        let twice = |of: &Vec<&Sample>| of.windows(2).filter(|w| w[0].error.is_some() && w[1].error.is_some()).count();
        by_client.values().map(twice).sum()
    }

    /// The figures.
    pub fn summary(&self) -> Summary {
        let mut took: Vec<Duration> = self.answers().map(|s| s.ended.saturating_sub(s.sent)).collect();
        took.sort();
        let share = |percent: usize| took.get((took.len() * percent / 100).min(took.len().saturating_sub(1)));
        let at = |percent| share(percent).copied().map_or(f64::NAN, ms);
        let (gap_at, gap) = self.longest_gap();
        Summary {
            answered: took.len(),
            failed: self.samples.len() - took.len(),
            p50_ms: at(50),
            p99_ms: at(99),
            max_ms: took.last().copied().map_or(f64::NAN, ms),
            gap_ms: ms(gap),
            gap_at_ms: ms(gap_at),
        }
    }

    /// How many answers took up to how long: powers of two, in guest milliseconds.
    pub fn histogram(&self) -> String {
        let mut buckets = std::collections::BTreeMap::new();
        for s in self.answers() {
            let whole = u64::try_from(s.ended.saturating_sub(s.sent).as_millis()).unwrap_or(u64::MAX >> 1);
            *buckets.entry((whole + 1).next_power_of_two()).or_insert(0_usize) += 1;
        }
        let most = buckets.values().max().copied().unwrap_or(1);
        let line =
            |(up_to, n): (&u64, &usize)| format!("{up_to:>8} ms {n:>7} {}\n", "#".repeat((n * 40).div_ceil(most)));
        buckets.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(sent: u64, ended: u64, ok: bool) -> Sample {
        let t = Duration::from_millis;
        Sample { client: 0, sent: t(sent), ended: t(ended), error: (!ok).then(|| "refused".to_owned()) }
    }

    #[test]
    fn gaps_and_percentiles() {
        let samples = vec![sample(0, 3, true), sample(10, 12, true), sample(20, 500, false), sample(510, 530, true)];
        let record = Record { samples, lasted: Duration::from_millis(540) };
        let s = record.summary();
        assert_eq!((s.answered, s.failed), (3, 1));
        assert_eq!((s.gap_at_ms, s.gap_ms), (12.0, 518.0));
        assert_eq!((s.p50_ms, s.max_ms), (3.0, 20.0));
        assert_eq!(record.histogram().lines().count(), 2);
        let silent = Record { samples: vec![], lasted: Duration::from_secs(1) };
        assert_eq!(silent.longest_gap(), (Duration::ZERO, Duration::from_secs(1)));
    }

    #[test]
    fn who_asks_once_more_fails_less_often() {
        let of =
            |client, ok: &[bool]| ok.iter().map(move |ok| Sample { client, ..sample(0, 1, *ok) }).collect::<Vec<_>>();
        let samples = [of(0, &[true, false, true]), of(1, &[false, false, false, true])].concat();
        assert_eq!(Record { samples, lasted: Duration::from_secs(1) }.failed_twice(), 2);
    }

    #[test]
    fn who_gave_up_together_asks_in_turn() {
        let took = Duration::from_millis(300);
        let pauses: Vec<_> = (0..4).map(|client| spread(client, 4, took).as_millis()).collect();
        assert_eq!(pauses, [0, 75, 150, 225]);
        assert_eq!(spread(3, 4, Duration::ZERO), Duration::ZERO);
        // The second of two, after two failures, waits half of what the first one took.
        let stop = AtomicBool::new(false);
        let client = |number: u64| {
            std::thread::sleep(Duration::from_millis(20));
            stop.fetch_or(number == 1, Ordering::Relaxed);
            anyhow::bail!("no")
        };
        let clock = Clock::new(1.0).expect("real time");
        let record = run_in_turn(clock, Duration::from_millis(1), vec![client; 2], &stop);
        let second: Vec<_> = record.samples.iter().filter(|s| s.client == 1).collect();
        let again = second.get(1).map(|s| s.sent).unwrap_or(record.lasted);
        assert!(again >= second[0].ended + (second[0].ended - second[0].sent) / 2, "{record:?}");
    }

    #[test]
    fn asks_until_told_to_stop() {
        let stop = AtomicBool::new(false);
        let clock = Clock::new(1.0).expect("real time");
        let request = |n| {
            stop.store(n == 4, Ordering::Relaxed);
            anyhow::ensure!(n != 1, "no");
            Ok(())
        };
        let record = run(clock, Duration::from_millis(1), vec![request], &stop);
        assert_eq!((record.samples.len(), record.summary().failed), (5, 1));
    }
}
