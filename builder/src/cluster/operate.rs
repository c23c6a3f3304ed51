//! What is done to a running cluster: each command is one request to the keeper.

use crate::cli::cluster::{Cut, Which};
use crate::keeper::client::{ask, tell, which};
use crate::keeper::{Answer, Request};
use crate::place::Refused;
use anyhow::{Context, Result};
use contract::kube::CONTROL_PLANE;
use contract::node::Role;
use contract::report::BootReport;
use lab::switch::Faults;
use std::io::Write;
use std::path::Path;

/// Asks for something that is only done.
pub(crate) fn request(w: &Which, request: &Request) -> Result<()> {
    let (_, spec) = which(w.file.as_deref())?;
    tell(&spec.cluster.name, request)
}

/// Prints the lines of an answer.
pub(crate) fn print(w: &Which, request: &Request) -> Result<()> {
    let (_, spec) = which(w.file.as_deref())?;
    let mut answers = ask(&spec.cluster.name, request)?;
    let mut out = std::io::stdout().lock();
    while let Some(answer) = answers.next()? {
        if let Answer::Line { text } = answer
            && writeln!(out, "{text}").and_then(|()| out.flush()).is_err()
        {
            // Whoever read (`head`, `less`) has seen enough.
            return Ok(());
        }
    }
    Ok(())
}

/// `cluster cut`: without numbers nothing passes.
pub(crate) fn cut(cut: &Cut) -> Result<()> {
    let faults = faults(cut);
    let side = |other_only: bool| if other_only { Faults::default() } else { faults.clone() };
    let r = Request::Impair { nodes: cut.nodes.clone(), from: side(cut.to), to: side(cut.from) };
    request(&cut.which, &r)
}

fn faults(cut: &Cut) -> Faults {
    let numbers = Faults {
        cut: false,
        delay_ms: cut.delay.unwrap_or(0.0),
        jitter_ms: cut.jitter.unwrap_or(0.0),
        loss: cut.loss.unwrap_or(0.0),
        reorder: cut.reorder.unwrap_or(0.0),
        duplicate: cut.duplicate.unwrap_or(0.0),
        bandwidth: cut.bandwidth.unwrap_or(0),
    };
    if numbers == Faults::default() { Faults { cut: true, ..numbers } } else { numbers }
}

/// `cluster divide`.
pub(crate) fn divide(w: &Which, sets: &[String], protocol: Option<u8>) -> Result<()> {
    let sets = sets.iter().map(|s| s.split(',').map(str::to_owned).collect()).collect();
    request(w, &Request::Divide { sets, protocol })
}

/// `cluster heal`.
pub(crate) fn heal(w: &Which, nodes: &[String]) -> Result<()> {
    if nodes.is_empty() {
        return request(w, &Request::Heal);
    }
    request(w, &Request::Impair { nodes: nodes.to_vec(), from: Faults::default(), to: Faults::default() })
}

/// Boot reports of these nodes, or of all that run.
pub(crate) fn reports(file: Option<&Path>, nodes: &[String]) -> Result<Vec<(String, BootReport)>> {
    let (_, spec) = which(file)?;
    let status = crate::keeper::client::status(&spec.cluster.name)?;
    let on = status.nodes.iter().filter(|n| n.pid.is_some()).map(|n| n.name.clone());
    let names = if nodes.is_empty() { on.collect() } else { nodes.to_vec() };
    let mut reports = Vec::new();
    for node in names {
        match ask(&spec.cluster.name, &Request::Report { node: node.clone() })?.next()? {
            Some(Answer::Report { report: Some(report) }) => reports.push((node, *report)),
            _ => anyhow::bail!("{node} has told of no boot yet; hint: `quorate cluster status`"),
        }
    }
    Ok(reports)
}

/// A boot report from a file, by the file's name.
pub(crate) fn report_of(file: &Path) -> Result<(String, BootReport)> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let report = serde_json::from_str(&text).map_err(|e| Refused(vec![format!("{}: {e}", file.display())]))?;
    Ok((file.display().to_string(), report))
}

/// `cluster export`: consoles, logs, boot reports, counters and a timeline over all nodes.
pub(crate) fn export(w: &Which, out: &Path) -> Result<()> {
    let (_, spec) = which(w.file.as_deref())?;
    let name = &spec.cluster.name;
    let status = crate::keeper::client::status(name)?;
    let write = |file: &str, bytes: &[u8]| crate::store::write_whole(&out.join(file), bytes);
    write("status.json", &serde_json::to_vec_pretty(&status)?)?;
    if let Some(Answer::Timeline { events }) = ask(name, &Request::Timeline)?.next()? {
        let text: String = events.iter().map(super::show::event_line).collect();
        write("timeline.txt", text.as_bytes())?;
    }
    for node in &status.nodes {
        let console = std::fs::read(&node.console).unwrap_or_default();
        write(&format!("{}/console.log", node.name), &console)?;
        // A node that is off tells nothing; its console is there.
        if let Ok(Some(Answer::Report { report: Some(report) })) =
            ask(name, &Request::Report { node: node.name.clone() }).and_then(|mut a| a.next())
        {
            write(&format!("{}/boot.json", node.name), &serde_json::to_vec_pretty(&report)?)?;
        }
        let services = node.services.iter().map(|s| s.name.as_str());
        // What does not come up cannot be asked of the API.
        let is_master = node.roles.iter().any(|r| *r == Role::Master.to_string());
        let containers = CONTROL_PLANE.iter().filter(|_| is_master).map(|c| c.name);
        for service in services.chain(containers).filter(|_| node.pid.is_some()) {
            let r = Request::Logs {
                node: node.name.clone(),
                service: Some(service.into()),
                lines: contract::voice::LOG_LINES_MAX,
                follow: false,
            };
            let mut text = String::new();
            let mut read = || -> Result<()> {
                let mut answers = ask(name, &r)?;
                while let Some(answer) = answers.next()? {
                    if let Answer::Line { text: line } = answer {
                        text += &line;
                        text.push('\n');
                    }
                }
                Ok(())
            };
            // A node that does not answer any more: what it said before is evidence all the same.
            if let Err(e) = read() {
                text += &format!("quorate: {e:#}\n");
            }
            write(&format!("{}/{service}.log", node.name), text.as_bytes())?;
        }
    }
    println!("{}", std::path::absolute(out).context("naming it")?.display());
    Ok(())
}
