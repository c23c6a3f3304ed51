//! `cluster up`, `restore` and `down`: starts the keeper, shows what the nodes say until all are ready, ends it.
//!
//! Ctrl-C during `up` ends the keeper; after `up` the cluster stays until `down`; the keeper's death ends every QEMU.

use super::machines::{snapshot_dir, state_dir};
use super::seed::{self, dir_of};
use super::show;
use super::spec::Spec;
use crate::cli::cluster::{Lab, Which};
use crate::keeper::client::{ask, socket, status, tell, which};
use crate::keeper::{Answer, Request};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// How long nodes may take until they are ready: seconds of the guests' time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience(pub(crate) f64);

impl Default for Patience {
    /// A node that is not ready after so long will hardly be.
    fn default() -> Self {
        Self(60.0)
    }
}

/// Ctrl-C was heard during `up`.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// `cluster up`.
pub(crate) fn up(file: Option<&Path>, lab: &Lab, only: &[String], retain: bool, patience: Patience) -> Result<()> {
    let (file, spec) = which(file)?;
    bring_up(&file, &spec, lab, only, retain, patience)?;
    show::ready(&spec, &file)
}

/// Seeds where that is due, powers on, waits until all are ready.
pub(crate) fn bring_up(
    file: &Path,
    spec: &Spec,
    lab: &Lab,
    only: &[String],
    retain: bool,
    patience: Patience,
) -> Result<()> {
    spec.warnings.iter().for_each(|w| eprintln!("quorate: {}: warning: {w}", file.display()));
    let name = &spec.cluster.name;
    let (runs, current) = (status(name).is_ok(), seed::is_current(spec, file)?);
    match (runs, current) {
        (true, false) => eprintln!(
            "quorate: {} changed since its nodes were seeded; what runs is as it was; hint: `quorate cluster apply`",
            file.display()
        ),
        (false, false) => drop(seed::write(spec, file)?),
        (_, true) => {}
    }
    end_on_interrupt(name)?;
    if runs {
        say_without_effect(name, lab);
    } else {
        let started = claim_state(spec, file).and_then(|()| start_keeper(spec, file, lab, only, None));
        wait_if_interrupted();
        started?;
    }
    let came_up = if runs { Ok(()) } else { say_pace(name) };
    let came_up = came_up.and_then(|()| follow(spec, only, patience));
    wait_if_interrupted();
    if let Err(e) = came_up {
        // What ran before is not this command's to end, whatever trouble a node of it is in.
        if retain || runs {
            return Err(e.context("left as it is; `quorate cluster logs` and `console` show more, `down` ends it"));
        }
        let _ = tell(name, &Request::End);
        return Err(e.context(format!(
            "{name} did not come up and is down again (--retain leaves it); its consoles and timeline.txt are in {}",
            state_dir(name).display()
        )));
    }
    Ok(())
}

fn say_pace(name: &str) -> Result<()> {
    let status = status(name)?;
    let vms = status.nodes.iter().filter(|n| n.pid.is_some()).count();
    crate::progress::say(&format!("VMs: {vms}, {}", show::pace(status.accel, status.dilation)));
    Ok(())
}

/// `cluster restore`.
pub(crate) fn restore(file: Option<&Path>, name: &str, lab: &Lab) -> Result<()> {
    let (file, spec) = which(file)?;
    if status(&spec.cluster.name).is_ok() {
        say_without_effect(&spec.cluster.name, lab);
    }
    go_back(&file, &spec, name, lab)?;
    show::nodes(&status(&spec.cluster.name)?);
    Ok(())
}

/// Everything as it was saved, whether it runs or not.
pub(crate) fn go_back(file: &Path, spec: &Spec, name: &str, lab: &Lab) -> Result<()> {
    snapshot_dir(spec, name)?;
    if status(&spec.cluster.name).is_ok() {
        tell(&spec.cluster.name, &Request::Restore { name: name.into() })?;
    } else {
        end_on_interrupt(&spec.cluster.name)?;
        let result = claim_state(spec, file).and_then(|()| start_keeper(spec, file, lab, &[], Some(name)));
        wait_if_interrupted();
        result?;
    }
    Ok(())
}

/// What a keeper that runs was told when it started.
fn say_without_effect(name: &str, lab: &Lab) {
    let given =
        [("--accel", lab.accel.is_some()), ("--dilation", lab.dilation.is_some()), ("--pid", lab.pid.is_some())];
    let given: Vec<&str> = given.into_iter().filter(|(_, is)| *is).map(|(option, _)| option).collect();
    if !given.is_empty() {
        eprintln!(
            "quorate: {name} runs already: {} has no effect; hint: `quorate cluster down` first",
            given.join(", ")
        );
    }
}

/// Shows what nodes say until they are ready.
pub(crate) fn wait(w: &Which, nodes: &[String], no_wait: bool) -> Result<()> {
    if no_wait {
        return Ok(());
    }
    let (_, spec) = which(w.file.as_deref())?;
    follow(&spec, nodes, Patience::default())
}

/// Reboots nodes, all where none is named, one after the other: the next one only when every node of the cluster that runs
/// is ready, so that no more than one is ever missed.
pub(crate) fn in_turn(w: &Which, nodes: &[String], hard: bool) -> Result<()> {
    let (_, spec) = which(w.file.as_deref())?;
    let name = &spec.cluster.name;
    let running = status(name)?.nodes.into_iter().filter(|n| n.pid.is_some()).map(|n| n.name);
    let running: Vec<String> = running.collect();
    let turns = if nodes.is_empty() { &running } else { nodes };
    reboot_in_turn(&spec, turns, &running, hard, Patience::default())
}

/// Reboots `turns`, each only when all of `running` are ready.
pub(crate) fn reboot_in_turn(
    spec: &Spec,
    turns: &[String],
    running: &[String],
    hard: bool,
    patience: Patience,
) -> Result<()> {
    for node in turns {
        all_ready(spec, running)?;
        println!("{node} starts again");
        tell(&spec.cluster.name, &Request::Reboot { nodes: vec![node.clone()], hard })?;
        follow(spec, std::slice::from_ref(node), patience)?;
    }
    all_ready(spec, running)
}

/// Waits until every node that runs is ready, without a word.
pub(crate) fn all_running_ready(spec: &Spec) -> Result<()> {
    let nodes = status(&spec.cluster.name)?.nodes.into_iter().filter(|n| n.pid.is_some()).map(|n| n.name);
    all_ready(spec, &nodes.collect::<Vec<_>>())
}

/// Waits until these nodes are ready, without a word.
fn all_ready(spec: &Spec, nodes: &[String]) -> Result<()> {
    let request = Request::Follow { nodes: nodes.to_vec(), patience: Patience::default().0 };
    let mut answers = ask(&spec.cluster.name, &request)?;
    while answers.next()?.is_some() {}
    Ok(())
}

/// Shows the nodes' own lines until all are ready.
pub(crate) fn follow(spec: &Spec, only: &[String], patience: Patience) -> Result<()> {
    let names: Vec<&str> = match only {
        [] => spec.nodes.iter().map(|n| n.name.as_str()).collect(),
        some => some.iter().map(String::as_str).collect(),
    };
    let mut board = show::Board::new(names.into_iter());
    let mut answers = ask(&spec.cluster.name, &Request::Follow { nodes: only.to_vec(), patience: patience.0 })?;
    while let Some(answer) = answers.next()? {
        if let Answer::Said { node, ms, text } = answer {
            board.said(&node, ms, &text);
        }
    }
    Ok(())
}

/// The nodes' disks are of one cluster: another one of the same name (another checkout, new secrets) must not meet
/// them, because a node keeps the identity of its disk.
fn claim_state(spec: &Spec, file: &Path) -> Result<()> {
    let own = super::secrets::Secrets::open(&dir_of(spec, file, "secrets"))?.id;
    let dir = state_dir(&spec.cluster.name);
    let path = dir.join("cluster-id");
    match std::fs::read_to_string(&path) {
        Ok(id) if id.trim() == own => Ok(()),
        Ok(id) => bail!(
            "the disks in {} belong to another cluster named {} (id {}, this one has {own}); hint: `quorate cluster down \
             {} --wipe` forgets them",
            dir.display(),
            spec.cluster.name,
            id.trim(),
            file.display()
        ),
        Err(_) => crate::store::write_whole(&path, format!("{own}\n").as_bytes()),
    }
}

/// Starts the keeper in a process group of its own and waits until it listens.
fn start_keeper(spec: &Spec, file: &Path, lab: &Lab, only: &[String], restore: Option<&str>) -> Result<()> {
    let dir = state_dir(&spec.cluster.name);
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let log_path = dir.join("keeper.log");
    let log = std::fs::File::create(&log_path)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["cluster", "keep"]).arg(std::path::absolute(file)?);
    command.arg("--images").arg(std::path::absolute(&lab.images)?);
    if let Some(accel) = &lab.accel {
        command.args(["--accel", accel]);
    }
    if let Some(factor) = lab.dilation {
        command.args(["--dilation", &factor.to_string()]);
    }
    if let Some(pid) = lab.pid {
        command.args(["--pid", &pid.to_string()]);
    }
    if !only.is_empty() {
        command.args(["--only", &only.join(",")]);
    }
    if let Some(name) = restore {
        command.args(["--restore", name]);
    }
    // Of its own process group: the terminal's Ctrl-C is for `up`, which then tells the keeper.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).process_group(0);
    let mut child = command.spawn().context("starting the keeper")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    if line.trim() != "listening" {
        let said = std::fs::read_to_string(&log_path).unwrap_or_default();
        let said = said.trim().trim_start_matches("quorate: ");
        bail!("{}", if said.is_empty() { "the keeper ended before it listened, without a word" } else { said });
    }
    Ok(())
}

fn end_on_interrupt(name: &str) -> Result<()> {
    let path = socket(name);
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            INTERRUPTED.store(true, Ordering::SeqCst);
            if let (Ok(mut s), Ok(end)) = (UnixStream::connect(&path), serde_json::to_string(&Request::End)) {
                let _ = writeln!(s, "{end}");
                // The keeper closes the connection when the VMs are gone.
                let _ = std::io::copy(&mut s, &mut std::io::sink());
            }
            eprintln!("\nquorate: interrupted; the cluster is down");
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// The thread that hears Ctrl-C ends this process when the VMs are gone.
fn wait_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// `cluster down`.
pub(crate) fn down(file: Option<&Path>, wipe: bool) -> Result<()> {
    let (_, spec) = which(file)?;
    let name = &spec.cluster.name;
    if status(name).is_ok() {
        // Disks that are forgotten anyway need no orderly end.
        tell(name, if wipe { &Request::End } else { &Request::Down })?;
        println!("{name} is down");
    } else {
        println!("{name} was not up");
    }
    if wipe && state_dir(name).exists() {
        std::fs::remove_dir_all(state_dir(name))?;
        println!("its nodes' disks and snapshots are gone");
    }
    Ok(())
}
