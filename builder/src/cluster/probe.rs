//! `cluster probe`: one client per etcd member, or some of the API's, each asking every few milliseconds; answers and gaps in guest time.

use super::seed::dir_of;
use crate::cli::Format;
use crate::cli::cluster::Probe;
use crate::keeper::client::{status, which};
use anyhow::{Context, Result, ensure};
use lab::clock::Clock;
use lab::probe::{api, etcd::Client, run};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A client's request, given its number.
type Ask = Box<dyn FnMut(u64) -> Result<()> + Send>;
/// So many ask the API: while one waits in vain, another may be answered already.
const API_CLIENTS: usize = 4;

/// A long connection that did not last.
#[derive(Debug, serde::Serialize)]
struct Cut {
    node: String,
    after_ms: f64,
    how: String,
}

impl Cut {
    fn of(node: String, held: Result<Option<(Duration, String)>>, clock: Clock) -> Option<Self> {
        let (after, how) = held.unwrap_or_else(|e| Some((Duration::ZERO, format!("{e:#}"))))?;
        Some(Self { node, after_ms: clock.guest(after).as_secs_f64() * 1000.0, how })
    }
}

/// Runs it.
pub(crate) fn probe(args: &Probe) -> Result<()> {
    let (file, spec) = which(args.which.file.as_deref())?;
    let status = status(&spec.cluster.name)?;
    let clock = Clock::new(status.dilation)?;
    let seeds = dir_of(&spec, &file, "seed");
    let guest = |ms: f64| Duration::from_secs_f64(ms / 1000.0);
    let stop = AtomicBool::new(false);
    let mut clients: Vec<Ask> = Vec::new();
    if args.api {
        let to =
            status.api.context("the API has no virtual IP that can be reached from here; hint: lab.gateway = true")?;
        let client = api::Client::new(to, &seeds, guest(args.timeout), clock)?;
        for _ in 0..API_CLIENTS {
            let client = client.clone();
            clients.push(Box::new(move |_| client.get("/readyz").map(|_| ())));
        }
    } else {
        ensure!(!status.etcd.is_empty(), "no etcd member can be reached from here; hint: lab.gateway = true");
    }
    for (node, to) in status.etcd.iter().filter(|_| !args.api) {
        let connect = {
            let (to, seeds, timeout) = (*to, seeds.clone(), guest(args.timeout));
            move || Client::new(to, &seeds, clock).map(|c| c.patient(timeout, clock))
        };
        let mut client = connect()?;
        let (key, read, reconnect) = (format!("quorate/probe/{node}"), args.read, args.reconnect);
        clients.push(Box::new(move |number| {
            if reconnect {
                client = connect()?;
            }
            if read { client.get(&key).map(|_| ()) } else { client.put(&key, &number.to_string()) }
        }));
    }
    let (record, cuts) = std::thread::scope(|scope| {
        let held: Vec<_> = status
            .etcd
            .iter()
            .flat_map(|(node, to)| (0..args.hold).map(move |_| (node, *to)))
            .map(|(node, to)| {
                let seeds = &seeds;
                scope.spawn(move || {
                    let cut = Client::new(to, seeds, clock)
                        .and_then(|c| c.hold("quorate/probe", clock.host(guest(args.lasts))));
                    (node.clone(), cut)
                })
            })
            .collect();
        let stopper = scope.spawn(|| {
            // How long the probe lasts, not a wait for an event.
            std::thread::sleep(clock.host(guest(args.lasts)));
            stop.store(true, Ordering::Relaxed);
        });
        let record = run(clock, guest(args.every), clients, &stop);
        let _ = stopper.join();
        let cuts = held.into_iter().filter_map(|h| h.join().ok()).filter_map(|(node, cut)| Cut::of(node, cut, clock));
        (record, cuts.collect::<Vec<_>>())
    });
    let summary = record.summary();
    match args.format {
        Format::Json => {
            let all = serde_json::json!({ "requests": summary, "held": args.hold * status.etcd.len(), "cut": cuts });
            println!("{}", serde_json::to_string_pretty(&all)?);
        }
        Format::Text => {
            println!(
                "{} answered, {} failed in {:.1} s of guest time (a guest second is {} of the host's)",
                summary.answered,
                summary.failed,
                record.lasted.as_secs_f64(),
                status.dilation
            );
            println!("p50 {:.1} ms, p99 {:.1} ms, slowest {:.1} ms", summary.p50_ms, summary.p99_ms, summary.max_ms);
            println!("longest time without an answer: {:.0} ms, from {:.0} ms on", summary.gap_ms, summary.gap_at_ms);
            print!("{}", record.histogram());
            if args.hold > 0 {
                println!("{} long connections held, {} of them cut", args.hold * status.etcd.len(), cuts.len());
                cuts.iter().for_each(|c| println!("cut: to {} after {:.0} ms: {}", c.node, c.after_ms, c.how));
            }
            let mut errors: Vec<_> = record.samples.iter().filter_map(|s| s.error.as_deref()).collect();
            errors.sort_unstable();
            errors.dedup();
            errors.iter().take(5).for_each(|e| println!("failed: {e}"));
        }
    }
    Ok(())
}
