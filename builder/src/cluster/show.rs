//! What people see of a running cluster: the live lines of `up`, tables, and how to talk to it.

use super::leaders::{self, Leaders};
use super::seed::dir_of;
use super::spec::Spec;
use super::talk;
use crate::cli::Format;
use crate::keeper::Status;
use crate::keeper::client::{status as ask_status, which};
use anyhow::Result;
use lab::accel::Accel;
use std::io::{IsTerminal, Write};
use std::path::Path;

/// A line of a board is cut to this: one that the terminal wraps would spoil the board.
const WIDTH: usize = 110;

/// Every node's last line: redrawn on a terminal, one line after the other elsewhere.
pub(crate) struct Board {
    nodes: Vec<(String, String)>,
    live: bool,
    drawn: bool,
}

impl Board {
    /// Of these nodes.
    pub(crate) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let live = std::io::stderr().is_terminal();
        Self { nodes: names.map(|n| (n.to_owned(), "power on".to_owned())).collect(), live, drawn: false }
    }

    /// A node said something.
    pub(crate) fn said(&mut self, node: &str, ms: u64, text: &str) {
        let line = format!("[{}] quorate: {text}", seconds(ms));
        if !self.live {
            eprintln!("{node} {line}");
            return;
        }
        if let Some((_, last)) = self.nodes.iter_mut().find(|(n, _)| n == node) {
            *last = line;
        }
        let mut out = std::io::stderr().lock();
        if self.drawn {
            let _ = write!(out, "\x1b[{}A", self.nodes.len());
        }
        self.drawn = true;
        for (name, last) in &self.nodes {
            let line: String = format!("{name:<14} {last}").chars().take(WIDTH).collect();
            let _ = writeln!(out, "\r\x1b[K{line}");
        }
    }
}

/// Seconds with milliseconds, aligned.
fn seconds(ms: u64) -> String {
    format!("{:>5}.{:03}", ms / 1000, ms % 1000)
}

/// A line of a timeline.
pub(crate) fn event_line(event: &lab::cluster::Event) -> String {
    format!("{} {:<14} {}\n", seconds(event.ms), event.who, event.what)
}

/// `cluster status --watch` looks this often.
const WATCH: std::time::Duration = std::time::Duration::from_secs(1);

/// What `status` tells: the keeper's word, and the cluster's own.
#[derive(serde::Serialize)]
struct Seen {
    #[serde(flatten)]
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    leaders: Option<Leaders>,
}

impl Seen {
    fn now(spec: &Spec, file: &Path, local: bool) -> Result<Self> {
        let status = ask_status(&spec.cluster.name)?;
        Ok(Self { leaders: (!local).then(|| leaders::ask(spec, file, &status)), status })
    }

    fn print(&self) {
        nodes(&self.status);
        self.leaders.iter().filter_map(Leaders::line).for_each(|line| println!("{line}"));
    }
}

/// Until Ctrl-C, or until the cluster is down.
fn follow(spec: &Spec, file: &Path, format: Format, local: bool) -> Result<()> {
    loop {
        let seen = Seen::now(spec, file, local)?;
        match format {
            Format::Json => println!("{}", serde_json::to_string(&seen)?),
            Format::Text => {
                if std::io::stdout().is_terminal() {
                    print!("\x1b[H\x1b[2J");
                }
                seen.print();
            }
        }
        std::thread::sleep(WATCH);
    }
}

/// `cluster status`.
pub(crate) fn status(file: Option<&Path>, format: Format, watch: bool, local: bool) -> Result<()> {
    let (file, spec) = which(file)?;
    if watch {
        return follow(&spec, &file, format, local);
    }
    let seen = Seen::now(&spec, &file, local)?;
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&seen)?),
        Format::Text => {
            seen.print();
            if !local {
                talk::tables(&spec, &file, &seen.status)?;
            }
        }
    }
    Ok(())
}

/// How VMs run: what somebody wants to know who waits for them.
pub(crate) fn pace(accel: Accel, dilation: f64) -> String {
    let how = match accel {
        Accel::Kvm => "with KVM",
        Accel::Tcg => "emulated without KVM",
    };
    format!("{how}, a guest second is {} of the host's", (dilation * 10.0).round() / 10.0)
}

/// The nodes, as a table.
pub(crate) fn nodes(status: &Status) {
    println!(
        "{}: {}; up for {} s of the guests'",
        status.cluster,
        pace(status.accel, status.dilation),
        status.now_ms / 1000
    );
    println!("{:<14} {:<12} {:<15} {:<12} {:>10}  SERVICES", "NODE", "ROLES", "ADDRESS", "STATE", "UP");
    for n in &status.nodes {
        let service = |s: &crate::keeper::state::ServiceStatus| match (s.ready_ms, s.restarts) {
            (Some(_), 0) => s.name.clone(),
            (Some(_), r) => format!("{} (restarted {r} times)", s.name),
            (None, _) => format!("{} (not ready)", s.name),
        };
        let services: Vec<_> = n.services.iter().map(service).collect();
        let up = if n.pid.is_some() { seconds(n.uptime_ms) } else { "-".into() };
        println!(
            "{:<14} {:<12} {:<15} {:<12} {:>10}  {}",
            n.name,
            n.roles.join(","),
            n.address,
            n.state.word(),
            up,
            services.join(" ")
        );
        if n.pid.is_some() && n.state != crate::keeper::state::State::Ready {
            println!("{:<14} said last: {}", "", n.said);
        }
    }
    holders(status);
}

/// Where the virtual IP is, in the cluster's own words.
fn holders(status: &Status) {
    let holders: Vec<_> = status.nodes.iter().filter(|n| n.holds_vip).map(|n| n.name.as_str()).collect();
    let has_balancers = status.nodes.iter().any(|n| n.services.iter().any(|s| s.name == "keepalived"));
    match holders[..] {
        [] if has_balancers => println!("nobody holds the virtual IP"),
        [] => {}
        _ => println!("the virtual IP is held by {}", holders.join(" and ")),
    }
}

/// The end of `up`: the tables, and how to talk to it.
pub(crate) fn ready(spec: &Spec, path: &Path) -> Result<()> {
    let seen = Seen::now(spec, path, false)?;
    seen.print();
    let status = seen.status;
    talk::tables(spec, path, &status)?;
    let own = std::env::current_exe().map_or_else(|_| "quorate".into(), |p| p.display().to_string());
    let file = path.display();
    let example = if talk::has_kubernetes(&status) { "kubectl get pods -A" } else { "etcdctl member list" };
    println!("\ntalk to it:\n  eval \"$({own} cluster env {file})\"; {example}");
    if let Some(api) = status.api {
        let ca = std::path::absolute(dir_of(spec, path, "seed"))?.join("cluster-ca.crt");
        let endpoint = spec.endpoint().unwrap_or_default();
        println!("  curl --cacert {} https://{api}/readyz   # {endpoint}", ca.display());
    }
    println!("end it:\n  {own} cluster down {file}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_slow_it_is() {
        assert_eq!(pace(Accel::Tcg, 64.0 / 3.0), "emulated without KVM, a guest second is 21.3 of the host's");
        assert_eq!(pace(Accel::Kvm, 1.0), "with KVM, a guest second is 1 of the host's");
    }

    #[test]
    fn times() {
        assert_eq!(seconds(12_034), "   12.034");
    }
}
