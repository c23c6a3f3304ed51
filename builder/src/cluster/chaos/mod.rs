//! `quorate chaos`: the fault table against a cluster of its own, row by row, each from the same saved state; what was
//! measured is kept, and a row that was measured is not run again.
//!
//! | question | file |
//! |---|---|
//! | which cluster is broken, and of what is a figure? | `subject.rs` |
//! | what is done to whom? | `rows.rs`, as data |
//! | what do clients see meanwhile? | `measure.rs` |
//! | how slowly does the clock go? | `pace.rs` |
//! | is the watch told of everything? | `watch.rs` |
//! | what changed? | `changed.rs` |
//! | what is kept and shown? | `report.rs`; `timeline.rs` draws |

mod changed;
mod measure;
mod pace;
mod report;
mod rows;
mod subject;
mod timeline;
mod watch;

use super::leaders::{self, Leaders};
use super::machines::{snapshot_dir, state_dir};
use super::secrets::Secrets;
use super::seed::dir_of;
use super::spec::Spec;
use super::talk::administrator;
use super::up;
use crate::cli::Format;
use crate::cli::cluster::Lab;
use crate::keeper::client::{ask, status, tell};
use crate::keeper::state::State;
use crate::keeper::{Request, Status};
use crate::place::Refused;
use anyhow::{Context, Result, ensure};
use contract::node::Role;
use lab::clock::Clock;
use lab::probe::api::Client;
use lab::switch::Faults;
use report::Results;
use rows::{Notice, Row, Step, Whom};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The snapshot that every row begins with.
const SAVED: &str = "chaos";
/// Before the first fault, guest time: the probe has its pace by then.
const CALM: Duration = Duration::from_secs(2);
/// Nodes may take so long until they are ready again, guest seconds.
const PATIENCE: f64 = 180.0;
/// A cluster has noticed within this, guest time: Kubernetes' own defaults are a minute.
const NOTICED: Duration = Duration::from_secs(90);
/// ... and is asked this often, guest time.
const LOOK: Duration = Duration::from_millis(250);

/// Runs it.
pub(crate) fn run(args: &crate::cli::Chaos) -> Result<()> {
    if args.list {
        rows::ROWS.iter().for_each(|r| println!("{:<20} {}", r.name, r.words("--minutes")));
        return Ok(());
    }
    let wanted = rows::named(&args.rows).map_err(|e| Refused(vec![e]))?;
    // Whatever becomes of this process, no VMs are left.
    let lab = Lab { pid: args.lab.pid.or_else(|| std::process::id().try_into().ok()), ..args.lab.clone() };
    let file = args.file.as_deref().context("which cluster? hint: quorate chaos examples/stacked.toml")?;
    let dir = file.with_extension("chaos");
    let (own, spec) = subject::cluster(file, &dir)?;
    let has = |role: &Role| spec.nodes.iter().any(|n| n.roles.contains(role));
    let subject = subject::digest(&own, &spec, &lab)?;
    let mut results = Results::read(&dir, &subject)?;
    let (rows, other): (Vec<&Row>, Vec<&Row>) = wanted.into_iter().partition(|r| r.needs.iter().all(has));
    other.iter().for_each(|r| eprintln!("quorate: {}: this cluster has no such node", r.name));
    let open = rows.iter().filter(|r| args.again || !results.has(r, args.minutes));
    let open: Vec<&&Row> = open.collect();
    let mut failed = Vec::new();
    if !open.is_empty() {
        let borne = ready(&own, &spec, &lab, &subject)?;
        // A row that cannot be measured says so; the others are measured nevertheless.
        for row in open {
            eprintln!("quorate: {}: {}", row.name, row.words(&args.minutes.to_string()));
            let pace = pace::of_row(row, borne);
            go_back(&own, &spec, &lab, pace)?;
            match measured(&own, &spec, row, args.minutes) {
                Ok((figures, picture)) => {
                    results.keep(row, args.minutes, pace, figures)?;
                    crate::store::write_whole(&picture_of(&dir, row), picture.as_bytes())?;
                }
                Err(e) => {
                    let said = format!("{}: {e:#}", row.name);
                    eprintln!("quorate: {said}");
                    failed.push(said);
                }
            }
        }
        // The saved state is kept for the next time; VMs are not.
        tell(&spec.cluster.name, &Request::End)?;
    }
    match args.format {
        Format::Json => println!("{}", results.json()?),
        Format::Text => {
            print!("{}", results.table(&rows));
            println!("Timelines: {}", dir.join("timelines").display());
        }
    }
    let lost = results.lost(&rows);
    ensure!(lost.is_empty(), "acknowledged writes were lost, or reads went back in time:\n{}", lost.join("\n"));
    let alarms = results.alarms(&rows);
    ensure!(alarms.is_empty(), "nothing was done, and all the same:\n{}", alarms.join("\n"));
    ensure!(failed.is_empty(), "rows that could not be measured:\n{}", failed.join("\n"));
    Ok(())
}

/// A saved state.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    /// Of what.
    subject: String,
    /// Host seconds per guest second of its boot.
    boot: f64,
    /// ... at which it goes on, unless another is asked for; none while nobody tried.
    pace: Option<f64>,
}

/// Sees to it that there is a saved state; answers at which pace it goes on.
fn ready(own: &Path, spec: &Spec, lab: &Lab, subject: &str) -> Result<f64> {
    let kept = own.with_file_name("saved.json");
    let keep = |saved: &Saved| crate::store::write_whole(&kept, &serde_json::to_vec(saved)?);
    let saved: Option<Saved> = std::fs::read(&kept).ok().and_then(|t| serde_json::from_slice(&t).ok());
    let is_there = snapshot_dir(spec, SAVED)?.exists();
    let mut saved = match saved.filter(|s| s.subject == subject && is_there) {
        Some(saved) => saved,
        None => {
            let saved = Saved { subject: subject.into(), boot: save(own, spec, lab)?, pace: None };
            keep(&saved)?;
            saved
        }
    };
    match (lab.dilation, saved.pace) {
        // What is asked for now counts: it is what the hint about a busy machine leads to.
        (Some(asked), _) => pace::of_boot(asked),
        (None, Some(pace)) => Ok(pace),
        (None, None) => {
            let pace = pace::borne(own, spec, lab, pace::of_boot(saved.boot)?)?;
            saved.pace = Some(pace);
            keep(&saved)?;
            Ok(pace)
        }
    }
}

/// To the saved state, at this pace: a clock that runs cannot be given another one.
fn go_back(own: &Path, spec: &Spec, lab: &Lab, pace: f64) -> Result<()> {
    // Apart by more than a number loses on its way as text.
    if status(&spec.cluster.name).is_ok_and(|now| (now.dilation - pace).abs() > 1e-6) {
        tell(&spec.cluster.name, &Request::End)?;
    }
    up::go_back(own, spec, SAVED, &Lab { dilation: Some(pace), ..lab.clone() })
}

/// Boots it and saves it; answers at how many host seconds per guest second.
fn save(own: &Path, spec: &Spec, lab: &Lab) -> Result<f64> {
    let name = &spec.cluster.name;
    // What is there is of another subject, or half of one. Of this cluster's own only: `bring_up` looks at whose it is.
    if status(name).is_ok() {
        tell(name, &Request::End)?;
    }
    let state = state_dir(name);
    let own_id = Secrets::open(&dir_of(spec, own, "secrets"))?.id;
    if std::fs::read_to_string(state.join("cluster-id")).is_ok_and(|id| id.trim() == own_id) {
        std::fs::remove_dir_all(&state).with_context(|| format!("removing {}", state.display()))?;
    }
    up::bring_up(own, spec, lab, &[], false, up::Patience(PATIENCE))?;
    let now = status(name)?;
    measure::prepare(&administrator(spec, own, &now, CALM)?)?;
    tell(name, &Request::Save { name: SAVED.into() })?;
    tell(name, &Request::End)?;
    Ok(now.dilation)
}

/// A row's timeline.
fn picture_of(dir: &Path, row: &Row) -> PathBuf {
    dir.join("timelines").join(format!("{}.svg", row.name))
}

/// The figures, and the timeline as SVG.
fn measured(own: &Path, spec: &Spec, row: &Row, minutes: u32) -> Result<(measure::Figures, String)> {
    let now = status(&spec.cluster.name)?;
    let clock = Clock::new(now.dilation)?;
    let client = administrator(spec, own, &now, measure::PATIENCE)?;
    let patient = administrator(spec, own, &now, NOTICED)?;
    let before = changed::counts(spec, own, &now, &patient)?;
    let led = leaders::ask(spec, own, &now);
    let began = Instant::now();
    let (mut last, mut noticed, mut healthy) = (began, None, Duration::ZERO);
    let mut struck = None;
    let mut marks: Vec<timeline::Mark> = Vec::new();
    let mut told = measure::around(&client, clock, row.asked, || {
        let mut mark = |text: String| marks.push((clock.guest(began.elapsed()), text));
        std::thread::sleep(clock.host(CALM));
        for step in row.steps {
            match step {
                Step::Until(notice) => {
                    until(own, spec, &client, *notice, &led)?;
                    noticed = Some(last.elapsed());
                    mark(notice.word().into());
                }
                // How long nothing is done, not waits for an event.
                Step::Calm(ms) => std::thread::sleep(clock.host(Duration::from_millis(*ms))),
                Step::Minutes => std::thread::sleep(clock.host(Duration::from_secs(60) * minutes)),
                _ => {
                    last = Instant::now();
                    mark(step.word());
                    done(own, spec, *step)?;
                    struck.get_or_insert_with(|| clock.guest(began.elapsed()));
                }
            }
        }
        let all = spec.nodes.iter().map(|n| n.name.clone()).collect();
        let mut answers = ask(&spec.cluster.name, &Request::Follow { nodes: all, patience: PATIENCE })?;
        while answers.next()?.is_some() {}
        healthy = last.elapsed();
        mark("all ready".into());
        Ok(())
    })?;
    let after = changed::counts(spec, own, &status(&spec.cluster.name)?, &patient)?;
    told.figures.changed = changed::between(&before, &after);
    let early = marks.first().map_or(0, |(at, _)| told.failed_by(*at));
    if early > 0 {
        let hint = "this machine is too busy for that pace; hint: a higher --dilation";
        eprintln!("quorate: {}: {early} requests failed before anything was done: {hint}", row.name);
    }
    if let Some(at) = struck {
        let (new, until) = told.failed_since(at);
        told.figures.failed_new = new;
        told.figures.failed_until_ms = until.as_secs_f64() * 1000.0;
    }
    told.figures.healthy_ms = clock.guest(healthy).as_secs_f64() * 1000.0;
    told.figures.noticed_ms = noticed.map(|n| clock.guest(n).as_secs_f64() * 1000.0);
    let picture = timeline::draw(&row.words(&minutes.to_string()), &told, &marks);
    Ok((told.figures, picture))
}

/// Waits until the cluster, which was led so, has noticed: nobody announces it to those outside.
fn until(own: &Path, spec: &Spec, client: &Client, notice: Notice, led: &Leaders) -> Result<()> {
    let now = status(&spec.cluster.name)?;
    let clock = Clock::new(now.dilation)?;
    let deadline = Instant::now() + clock.host(NOTICED);
    let off: Vec<_> = now.nodes.iter().filter(|n| n.state == State::Off).map(|n| n.name.as_str()).collect();
    // One that is off counts as none.
    let another = |leads: Option<String>, before: &Option<String>| -> Result<bool> {
        let before = before.as_ref().context("who led before is not known: nobody answered then")?;
        Ok(leads.is_some_and(|l| l != *before))
    };
    loop {
        let is_so = match notice {
            Notice::TakenOver => another(leaders::ask(spec, own, &now).controller_manager, &led.controller_manager)?,
            Notice::Scheduled => another(leaders::ask(spec, own, &now).scheduler, &led.scheduler)?,
            Notice::Served => measure::is_served(client),
            Notice::NotReady => off.iter().all(|n| measure::is_ready(client, n).is_ok_and(|r| !r)),
        };
        if is_so {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "nothing of the kind within {NOTICED:?}: {notice:?}");
        std::thread::sleep(clock.host(LOOK));
    }
}

fn done(own: &Path, spec: &Spec, step: Step) -> Result<()> {
    let name = &spec.cluster.name;
    let now = status(name)?;
    let nodes = |whom| found(own, spec, &now, whom);
    let off = || now.nodes.iter().filter(|n| n.state == State::Off).map(|n| n.name.clone()).collect::<Vec<_>>();
    let cut = Faults { cut: true, ..Faults::default() };
    match step {
        Step::Kill(whom) => tell(name, &Request::Kill { nodes: nodes(whom)? }),
        Step::Start => tell(name, &Request::Start { nodes: off() }),
        Step::Wipe => off().iter().try_for_each(|node| {
            let disk = state_dir(name).join(format!("{node}.qcow2"));
            if !disk.exists() {
                // It runs from memory: there is nothing to lose but what is lost.
                return Ok(());
            }
            std::fs::remove_file(&disk).with_context(|| format!("removing {}", disk.display()))?;
            lab::disk::qcow2(&disk, spec.lab.state_size)
        }),
        Step::Reboot(whom) => tell(name, &Request::Reboot { nodes: nodes(whom)?, hard: false }),
        Step::Cut(whom) => tell(name, &Request::Impair { nodes: nodes(whom)?, from: cut.clone(), to: cut }),
        Step::InTurn => {
            let all: Vec<String> = spec.nodes.iter().map(|n| n.name.clone()).collect();
            up::reboot_in_turn(spec, &all, &all, false, up::Patience(PATIENCE))
        }
        Step::Bad { loss, delay_ms, jitter_ms } => {
            // Half of it on the way to a node, half on the way from it.
            let half = |n: u8| f64::from(n) / 2.0;
            let bad = Faults {
                loss: half(loss) / 100.0,
                delay_ms: half(delay_ms),
                jitter_ms: half(jitter_ms),
                ..Faults::default()
            };
            let all = spec.nodes.iter().map(|n| n.name.clone()).collect();
            tell(name, &Request::Impair { nodes: all, from: bad.clone(), to: bad })
        }
        Step::Apart(whom, role) | Step::Firewall(whom, role, _) => {
            let some = nodes(whom)?;
            let with = spec.nodes.iter().filter(|n| n.roles.contains(&role) && !some.contains(&n.name));
            let others = with.map(|n| n.name.clone()).collect();
            let protocol = if let Step::Firewall(.., protocol) = step { Some(protocol) } else { None };
            tell(name, &Request::Divide { sets: vec![some, others], protocol })
        }
        Step::Slow(whom, operations) => tell(name, &Request::SlowDisk { nodes: nodes(whom)?, operations }),
        Step::Heal => tell(name, &Request::Heal),
        Step::Signal(whom, service, signal) => {
            let runs_it = |n: &String| {
                let is_master = spec.nodes.iter().any(|s| s.name == *n && s.roles.contains(&Role::Master));
                is_master && contract::kube::CONTROL_PLANE.iter().any(|c| c.name == service)
            };
            let runs = |n: &String| {
                runs_it(n) || now.nodes.iter().any(|s| s.name == *n && s.services.iter().any(|s| s.name == service))
            };
            nodes(whom)?
                .into_iter()
                .filter(runs)
                .try_for_each(|node| tell(name, &Request::Signal { node, service: service.into(), signal }))
        }
        Step::Clock(seconds) => tell(name, &Request::Clock { nodes: vec![], seconds }),
        // Waits are `measured`'s.
        Step::Until(_) | Step::Calm(_) | Step::Minutes => Ok(()),
    }
}

/// Their names.
fn found(own: &Path, spec: &Spec, now: &Status, whom: Whom) -> Result<Vec<String>> {
    let holder = now.nodes.iter().find(|n| n.holds_vip).map(|n| n.name.clone());
    let leaders = leaders::ask(spec, own, now);
    let one = match whom {
        Whom::Two(role) => {
            let with = spec.nodes.iter().filter(|n| n.roles.contains(&role)).map(|n| n.name.clone());
            return Ok(with.take(2).collect());
        }
        Whom::First(role) => {
            let mut with = spec.nodes.iter().filter(|n| n.roles.contains(&role)).map(|n| n.name.clone());
            with.next().context("no node has that role")?
        }
        Whom::All => return Ok(spec.nodes.iter().map(|n| n.name.clone()).collect()),
        Whom::Holder => holder.context("nobody holds the virtual IP")?,
        Whom::Leader => leaders.etcd.context("etcd has no leader")?,
        Whom::Controllers => leaders.controller_manager.context("no controller manager does the work")?,
        Whom::Scheduler => leaders.scheduler.context("no scheduler does the work")?,
        Whom::Some(role) => {
            let busy = [holder, leaders.etcd, leaders.controller_manager];
            let with = spec.nodes.iter().filter(|n| n.roles.contains(&role)).map(|n| n.name.clone());
            let with: Vec<String> = with.collect();
            let free = with.iter().find(|n| !busy.iter().flatten().any(|b| b == *n));
            free.or_else(|| with.first()).cloned().context("no node has that role")?
        }
    };
    Ok(vec![one])
}
