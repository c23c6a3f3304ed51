//! `quorate etcd …`: snapshots of a cluster's data, and the way back to one.

use super::seed::{self, dir_of};
use super::spec::Spec;
use super::{talk, up};
use crate::cli::Format;
use crate::cli::cluster::Which;
use crate::cli::etcd::{EtcdArgs, EtcdCommand as Command};
use crate::keeper::client::{status, tell, which};
use crate::keeper::state::State;
use crate::keeper::{Request, Status};
use crate::place::Refused;
use crate::progress;
use anyhow::{Context, Result, bail, ensure};
use contract::node::Role;
use contract::ports::SNAPSHOTS;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// Members answer in milliseconds, or are away. Guest time.
const ANSWER: Duration = Duration::from_secs(5);
/// A member that starts again waits for its snapshot after some seconds; one that an operator has to start, after minutes.
/// Guest time.
const LAB_PATIENCE: Duration = Duration::from_secs(90);
const PATIENCE: Duration = Duration::from_secs(1800);
/// It is asked this often, guest time: nobody tells that it waits.
const AGAIN: Duration = Duration::from_millis(500);
/// Until all is ready again, guest seconds: Kubernetes' programs find their data a billion revisions later.
const READY: f64 = 180.0;
/// A copy of gigabytes takes minutes.
const COPY: Duration = Duration::from_secs(3600);
/// etcd ends a snapshot with the SHA-256 of what is before (`etcdutl/snapshot`), and a database is made of pages.
const SUM: u64 = 32;
const PAGE: u64 = 512;

/// Dispatches.
pub(crate) fn run(args: &EtcdArgs) -> Result<()> {
    match &args.command {
        Command::Snapshot { out, member, which } => snapshot(which, out, member.as_deref()),
        Command::Snapshots { format, which } => snapshots(which, *format),
        Command::Fetch { node, name, out, which } => fetch(which, node, name, out.as_deref()),
        Command::Restore { snapshot, member, send_only, which } => {
            restore(which, snapshot, member.as_deref(), *send_only)
        }
    }
}

/// A cluster's members, as they are reached from here.
struct Members {
    spec: Spec,
    file: std::path::PathBuf,
    /// Of the VMs, where it runs as such.
    status: Option<Status>,
    snapshots: BTreeMap<String, SocketAddr>,
    /// Host seconds per guest second.
    pace: f64,
}

impl Members {
    fn of(w: &Which) -> Result<Self> {
        let (file, spec) = which(w.file.as_deref())?;
        let status = status(&spec.cluster.name).ok();
        let snapshots = match &status {
            Some(s) => s.snapshots.clone(),
            None => addresses(&spec),
        };
        ensure!(!snapshots.is_empty(), "no etcd member can be reached from here; hint: lab.gateway = true");
        let pace = status.as_ref().map_or(1.0, |s| s.dilation);
        Ok(Self { spec, file, status, snapshots, pace })
    }

    fn at(&self, node: &str) -> Result<SocketAddr> {
        let known = || self.snapshots.keys().cloned().collect::<Vec<_>>().join(", ");
        self.snapshots.get(node).copied().with_context(|| format!("no member `{node}`; there are {}", known()))
    }

    fn host(&self, guest: Duration) -> Duration {
        guest.mul_f64(self.pace)
    }

    fn agent(&self, bound: Duration) -> Result<ureq::Agent> {
        let seeds = dir_of(&self.spec, &self.file, "seed");
        let read = |n: &str| std::fs::read_to_string(seeds.join(n)).with_context(|| format!("reading {n}"));
        let (cert, key) = (read("etcd-admin.crt")?, read("etcd-admin.key")?);
        let config = lab::probe::tls::agent(&read("etcd-server-ca.crt")?, Some((&cert, &key)))?;
        let connect = Some(self.host(ANSWER));
        Ok(config.timeout_connect(connect).timeout_global(Some(bound)).http_status_as_error(false).build().into())
    }
}

/// Where members are without a lab.
fn addresses(spec: &Spec) -> BTreeMap<String, SocketAddr> {
    let members = spec.nodes.iter().filter(|n| n.roles.contains(&Role::Etcd));
    members.map(|n| (n.name.clone(), SocketAddr::new(n.address.addr(), SNAPSHOTS))).collect()
}

fn snapshot(w: &Which, out: &Path, member: Option<&str>) -> Result<()> {
    let members = Members::of(w)?;
    let names = match member {
        Some(name) => vec![name.to_owned()],
        None => members.snapshots.keys().cloned().collect(),
    };
    let mut why = Vec::new();
    for name in names {
        members.at(&name)?;
        match talk::save_snapshot(&members.spec, &members.file, members.status.as_ref(), &name, out) {
            Ok(()) => {
                let (bytes, sum) = examine(out)?;
                println!("{}: {} kB of {name}, sha256 {sum}", out.display(), bytes / 1000);
                return Ok(());
            }
            Err(e) => why.push(format!("{name}: {e:#}")),
        }
    }
    bail!("no member gave a snapshot:\n{}", why.join("\n"))
}

/// As a member lists it.
#[derive(Debug, Deserialize, Serialize)]
struct Kept {
    name: String,
    bytes: u64,
    /// Seconds since the epoch.
    taken: i64,
}

/// What a member answers.
#[derive(Debug, Serialize)]
struct Shelf {
    node: String,
    snapshots: Vec<Kept>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn snapshots(w: &Which, format: Format) -> Result<()> {
    let members = Members::of(w)?;
    let agent = members.agent(members.host(ANSWER))?;
    let ask = |to: SocketAddr| -> Result<Vec<Kept>> {
        let answer = agent.get(format!("https://{to}/snapshots")).call()?;
        let text = answer.into_body().read_to_string()?;
        serde_json::from_str(&text).with_context(|| format!("it said {}", text.trim()))
    };
    let shelf = |(node, to): (&String, &SocketAddr)| match ask(*to) {
        Ok(snapshots) => Shelf { node: node.clone(), snapshots, error: None },
        Err(e) => Shelf { node: node.clone(), snapshots: Vec::new(), error: Some(format!("{e:#}")) },
    };
    let shelves: Vec<Shelf> = members.snapshots.iter().map(shelf).collect();
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&shelves)?),
        Format::Text => {
            for shelf in &shelves {
                let node = &shelf.node;
                match &shelf.error {
                    Some(e) => println!("{node:<16} does not answer: {e}"),
                    None if shelf.snapshots.is_empty() => println!("{node:<16} none yet"),
                    None => {}
                }
                for k in &shelf.snapshots {
                    let taken = jiff::Timestamp::from_second(k.taken).map(|t| t.to_string()).unwrap_or_default();
                    println!("{node:<16} {:<24} {taken:<22} {:>9} kB", k.name, k.bytes / 1000);
                }
            }
        }
    }
    ensure!(shelves.iter().any(|s| s.error.is_none()), "no member answers");
    Ok(())
}

fn fetch(w: &Which, node: &str, name: &str, out: Option<&Path>) -> Result<()> {
    let members = Members::of(w)?;
    let to = members.at(node)?;
    let out = out.unwrap_or_else(|| Path::new(name));
    let answer = members.agent(COPY)?.get(format!("https://{to}/snapshots/{name}")).call()?;
    let status = answer.status();
    if !status.is_success() {
        bail!("{node}: {}", answer.into_body().read_to_string()?.trim());
    }
    let dir = out.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut incoming = tempfile::NamedTempFile::new_in(dir).with_context(|| format!("writing to {}", dir.display()))?;
    std::io::copy(&mut answer.into_body().into_reader(), &mut incoming)?;
    incoming.as_file().sync_all()?;
    let (bytes, sum) = examine(incoming.path())?;
    incoming.persist(out).with_context(|| format!("writing {}", out.display()))?;
    println!("{}: {} kB, sha256 {sum}", out.display(), bytes / 1000);
    Ok(())
}

/// Length and digest of a snapshot; an error where it is none, or not whole.
fn examine(path: &Path) -> Result<(u64, String)> {
    let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    let length = file.metadata()?.len();
    let refused = |why: &str| {
        let hint = "hint: `quorate etcd snapshot` takes one";
        anyhow::Error::from(Refused(vec![format!("{}: {why}; {hint}", path.display())]))
    };
    if length <= SUM || length % PAGE != SUM {
        return Err(refused(
            "expected a snapshot of etcd's with its digest at the end (a copy of its `db` file has none)",
        ));
    }
    let mut sum = Sha256::new();
    let mut reader = BufReader::new(file).take(length - SUM);
    let mut buffer = [0; 64 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            n => sum.update(&buffer[..n]),
        }
    }
    let mut end = Vec::new();
    reader.into_inner().read_to_end(&mut end)?;
    if sum.clone().finalize()[..] != end[..] {
        return Err(refused("it is damaged: its digest is another than the one at its end"));
    }
    sum.update(&end);
    Ok((length, sum.finalize().iter().map(|b| format!("{b:02x}")).collect()))
}

fn restore(w: &Which, snapshot: &Path, member: Option<&str>, send_only: bool) -> Result<()> {
    let (bytes, sha256) = examine(snapshot)?;
    let members = Members::of(w)?;
    let first = members.spec.nodes.iter().find(|n| n.roles.contains(&Role::Etcd)).map(|n| n.name.clone());
    let (spec, file) = (&members.spec, &members.file);
    let wanted = if send_only {
        let wanted =
            seed::restore(&dir_of(spec, file, "seed"))?.context("no restore was begun: there is nothing to send to")?;
        ensure!(wanted.sha256 == sha256, "the members' seeds name another snapshot, {}", wanted.sha256);
        wanted
    } else {
        let member = member.map(String::from).or(first).context("no member")?;
        members.at(&member)?;
        seed::begin_restore(spec, file, &member, &sha256)?
    };
    let (names, member) = (members.snapshots.keys().cloned().collect::<Vec<_>>(), wanted.member);
    let patience = match &members.status {
        Some(now) if !send_only => {
            progress::say(&format!("{} start again with their new seeds", names.join(", ")));
            let is_on = |n: &&String| now.nodes.iter().any(|s| s.name == **n && s.state != State::Off);
            let on = names.iter().filter(is_on).cloned().collect();
            tell(&spec.cluster.name, &Request::Kill { nodes: on })?;
            tell(&spec.cluster.name, &Request::Start { nodes: names.clone() })?;
            LAB_PATIENCE
        }
        Some(_) => LAB_PATIENCE,
        None => {
            let dir = dir_of(spec, file, "seed");
            println!(
                "Give {} their new seeds from {} and start them again.\nThis command waits for {member}; when it was \
                 interrupted, --send-only goes on.",
                names.join(", "),
                dir.display()
            );
            PATIENCE
        }
    };
    progress::say(&format!("{member} takes the snapshot, {} kB", bytes / 1000));
    send(&members, &member, snapshot, bytes, patience)?;
    if members.status.is_some() {
        up::follow(spec, &[], up::Patience(READY))?;
    }
    println!(
        "restored: revisions go on a billion higher; what the members had is kept on each of them until the next restore"
    );
    Ok(())
}

/// Until it was taken: a member that starts does not listen yet, or still asks the others.
fn send(members: &Members, member: &str, snapshot: &Path, bytes: u64, patience: Duration) -> Result<()> {
    let url = format!("https://{}/restore", members.at(member)?);
    let agent = members.agent(COPY)?;
    let deadline = Instant::now() + members.host(patience);
    let mut told = String::new();
    loop {
        let put = agent.put(&url).header("content-length", bytes.to_string());
        let why = match put.send(File::open(snapshot)?) {
            Ok(answer) => {
                let status = answer.status().as_u16();
                let text = answer.into_body().read_to_string().unwrap_or_default();
                match status {
                    201 => return Ok(()),
                    409 => text.trim().to_owned(),
                    _ => bail!("{member}: {}", text.trim()),
                }
            }
            Err(e) => e.to_string(),
        };
        if why != told {
            progress::say(&format!("{member}: {why}"));
            told.clone_from(&why);
        }
        ensure!(
            Instant::now() < deadline,
            "{member} takes no snapshot: {why}; hint: its console says what it waits for"
        );
        std::thread::sleep(members.host(AGAIN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_snapshot_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.db");
        let page = vec![7; 512];
        let good = [&page[..], &Sha256::digest(&page)[..]].concat();
        std::fs::write(&path, &good).expect("written");
        let (bytes, sum) = examine(&path).expect("good");
        assert_eq!((bytes, sum), (544, crate::digest::sha256(&good)));
        let mut damaged = good.clone();
        damaged[3] ^= 1;
        for (bad, word) in [
            (&page[..], "its `db` file has none"),
            (&damaged[..], "damaged"),
            (&good[..32], "expected"),
            (&[], "expected"),
        ] {
            std::fs::write(&path, bad).expect("written");
            let e = examine(&path).expect_err(word);
            assert!(e.is::<Refused>() && e.to_string().contains(word), "{e}");
        }
    }
}
