//! What people see of a running cluster: the live lines of `up`, tables, and how to talk to it.

use super::machines::state_dir;
use super::seed::dir_of;
use super::spec::Spec;
use crate::cli::Format;
use crate::keeper::Status;
use crate::keeper::client::{status as ask_status, which};
use anyhow::{Context, Result, bail};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// `cluster status`.
pub(crate) fn status(file: Option<&Path>, format: Format) -> Result<()> {
    let (file, spec) = which(file)?;
    let status = ask_status(&spec.cluster.name)?;
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Format::Text => {
            nodes(&status);
            println!();
            etcd_tables(&spec, &file, &status)?;
        }
    }
    Ok(())
}

/// The nodes, as a table.
pub(crate) fn nodes(status: &Status) {
    println!(
        "{}: {:?}, a guest second is {} of the host's; up for {} s of the guests'",
        status.cluster,
        status.accel,
        status.dilation,
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
}

/// The end of `up`: the tables, and how to talk to it.
pub(crate) fn ready(spec: &Spec, path: &Path) -> Result<()> {
    let status = ask_status(&spec.cluster.name)?;
    nodes(&status);
    println!();
    etcd_tables(spec, path, &status)?;
    let own = std::env::current_exe().map_or_else(|_| "quorate".into(), |p| p.display().to_string());
    let file = path.display();
    println!("\ntalk to it:\n  eval \"$({own} cluster env {file})\"; etcdctl member list");
    if let (Some(api), Some(vip)) = (status.api, spec.cluster.virtual_ip()) {
        let ca = std::path::absolute(dir_of(spec, path, "seed"))?.join("cluster-ca.crt");
        println!("  curl --cacert {} https://{api}/readyz   # the virtual IP {vip}", ca.display());
    }
    println!("end it:\n  {own} cluster down {file}");
    Ok(())
}

/// Variables for etcdctl.
fn etcd_environment(spec: &Spec, file: &Path, status: &Status) -> Result<Vec<(&'static str, String)>> {
    let seeds = std::path::absolute(dir_of(spec, file, "seed"))?;
    let file_of = |n: &str| seeds.join(n).display().to_string();
    // The host's timeouts are in real time, the guest's clock may be slower.
    let seconds = format!("{}s", 5.0 * status.dilation);
    let endpoints: Vec<_> = status.etcd.values().map(|a| format!("https://{a}")).collect();
    Ok(vec![
        ("ETCDCTL_ENDPOINTS", endpoints.join(",")),
        ("ETCDCTL_CACERT", file_of("etcd-server-ca.crt")),
        ("ETCDCTL_CERT", file_of("etcd-admin.crt")),
        ("ETCDCTL_KEY", file_of("etcd-admin.key")),
        ("ETCDCTL_DIAL_TIMEOUT", seconds.clone()),
        ("ETCDCTL_COMMAND_TIMEOUT", seconds),
    ])
}

/// etcd's own word: members, who leads, who is healthy. Members of nodes that are off are left out of the last two.
fn etcd_tables(spec: &Spec, file: &Path, status: &Status) -> Result<()> {
    let on = |name: &str| status.nodes.iter().any(|n| n.name == name && n.state == crate::keeper::state::State::Ready);
    let reachable: Vec<_> = status.etcd.iter().filter(|(n, _)| on(n)).map(|(_, a)| format!("https://{a}")).collect();
    if reachable.is_empty() {
        println!("no etcd member can be asked from here");
        return Ok(());
    }
    let etcdctl = etcdctl(spec)?;
    for verb in [["member", "list"], ["endpoint", "status"], ["endpoint", "health"]] {
        let out = Command::new(&etcdctl)
            .envs(etcd_environment(spec, file, status)?)
            .env("ETCDCTL_ENDPOINTS", reachable.join(","))
            .args(["-w", "table"])
            .args(verb)
            .status()
            .context("running etcdctl")?;
        if !out.success() {
            bail!("etcdctl {} ended with {out}", verb.join(" "));
        }
    }
    Ok(())
}

/// `cluster env`.
pub(crate) fn env(file: Option<&Path>) -> Result<()> {
    let (file, spec) = which(file)?;
    let status = ask_status(&spec.cluster.name)?;
    for (key, value) in etcd_environment(&spec, &file, &status)? {
        println!("export {key}={}", quoted(&value));
    }
    if let Some(dir) = etcdctl(&spec)?.parent() {
        println!("export PATH={}:\"$PATH\"", quoted(&dir.display().to_string()));
    }
    Ok(())
}

/// For a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// etcdctl as the image has it: taken from the component's build, or the one on the path.
fn etcdctl(spec: &Spec) -> Result<PathBuf> {
    let own = state_dir(&spec.cluster.name).join("bin/etcdctl");
    let built = || -> Result<Vec<u8>> {
        let recipe = crate::component::Recipe::read(Path::new("profiles"), "etcd")?;
        let store = crate::store::Store::at(crate::dirs::cache().join("quorate"))?;
        let parts = crate::component::go::Toolchain::find(true)?.built(&recipe, &store).context("etcd is not built")?;
        store.get(&parts["etcdctl"]).context("etcdctl is not in the store")
    };
    if own.exists() {
        return Ok(own);
    }
    if let Ok(bytes) = built() {
        crate::store::write_whole_mode(&own, &bytes, 0o755)?;
        return Ok(own);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|d| d.join("etcdctl")).find(|f| f.is_file());
    found.context("no etcdctl: neither built here (`quorate image build etcd`) nor on the PATH")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_and_times() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(seconds(12_034), "   12.034");
    }
}
