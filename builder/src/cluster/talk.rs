//! etcdctl and kubectl: which program, told what, so that it reaches a cluster of VMs through the gateway.

use super::machines::state_dir;
use super::secrets::Secrets;
use super::seed::{admin_conf, dir_of};
use super::spec::Spec;
use crate::digest::sha256;
use crate::keeper::Status;
use crate::keeper::client::{status as ask_status, which};
use crate::store::{Store, write_whole_mode};
use anyhow::{Context, Result, bail, ensure};
use contract::node::Role;
use lab::clock::Clock;
use lab::probe::api::Client;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Variables for etcdctl and kubectl.
fn environment(spec: &Spec, file: &Path, status: &Status) -> Result<Vec<(&'static str, String)>> {
    let seeds = std::path::absolute(dir_of(spec, file, "seed"))?;
    let file_of = |n: &str| seeds.join(n).display().to_string();
    // The host's timeouts are in real time, the guest's clock may be slower.
    let seconds = format!("{}s", 5.0 * status.dilation);
    let endpoints: Vec<_> = status.etcd.values().map(|a| format!("https://{a}")).collect();
    let mut all = vec![
        ("ETCDCTL_ENDPOINTS", endpoints.join(",")),
        ("ETCDCTL_CACERT", file_of("etcd-server-ca.crt")),
        ("ETCDCTL_CERT", file_of("etcd-admin.crt")),
        ("ETCDCTL_KEY", file_of("etcd-admin.key")),
        ("ETCDCTL_DIAL_TIMEOUT", seconds.clone()),
        ("ETCDCTL_COMMAND_TIMEOUT", seconds),
    ];
    if has_kubernetes(status) {
        all.push(("KUBECONFIG", kubeconfig(spec, file, status)?.display().to_string()));
    }
    Ok(all)
}

/// The administrator, at the virtual IP.
pub(crate) fn administrator(spec: &Spec, file: &Path, now: &Status, patience: Duration) -> Result<Client> {
    let secrets = Secrets::open(&dir_of(spec, file, "secrets"))?;
    let (ca, admin) = (secrets.authority("cluster-ca")?.cert, secrets.kubernetes_admin()?);
    let to = now.api.context("the API cannot be reached from here; hint: lab.gateway = true")?;
    Client::with(to, &ca, Some((&admin.cert, &admin.key)), patience, Clock::new(now.dilation)?)
}

/// A snapshot of one member's data, whole or not at all: etcdctl writes beside the file, and checks what it wrote.
pub(crate) fn save_snapshot(spec: &Spec, file: &Path, status: Option<&Status>, member: &str, out: &Path) -> Result<()> {
    let seeds = std::path::absolute(dir_of(spec, file, "seed"))?;
    let address = spec.nodes.iter().find(|n| n.name == member).map(|n| n.address.addr());
    let own = || Some(std::net::SocketAddr::new(address?, contract::ports::ETCD_CLIENT));
    let at = status.map_or_else(own, |s| s.etcd.get(member).copied());
    let at = at.with_context(|| format!("{member} cannot be reached from here"))?;
    let seconds = format!("{}s", (5.0 * status.map_or(1.0, |s| s.dilation)).ceil());
    let mut command = Command::new(program(spec, "etcd", "etcdctl")?);
    command.arg(format!("--endpoints=https://{at}")).arg(format!("--dial-timeout={seconds}"));
    for (flag, name) in [("cacert", "etcd-server-ca.crt"), ("cert", "etcd-admin.crt"), ("key", "etcd-admin.key")] {
        command.arg(format!("--{flag}={}", seeds.join(name).display()));
    }
    let done = command.args(["snapshot", "save"]).arg(out).output().context("running etcdctl")?;
    let said = String::from_utf8_lossy(&done.stderr);
    let last = said.lines().last().unwrap_or_default();
    anyhow::ensure!(done.status.success(), "{}", last.trim());
    Ok(())
}

/// Whether there is a Kubernetes to talk to.
pub(crate) fn has_kubernetes(status: &Status) -> bool {
    status.api.is_some() && status.nodes.iter().any(|n| n.services.iter().any(|s| s.name == "kubelet"))
}

/// `admin.conf` as it is from this machine: the API by the gateway's port, which the apiserver's certificate names (127.0.0.1).
fn kubeconfig(spec: &Spec, file: &Path, status: &Status) -> Result<PathBuf> {
    let secrets = Secrets::open(&dir_of(spec, file, "secrets"))?;
    let api = status.api.context("the API has no port on this machine")?;
    let path = state_dir(&spec.cluster.name).join("kubeconfig");
    let ca = secrets.authority("cluster-ca")?.cert;
    let text = admin_conf(&format!("https://{api}"), &ca, &secrets.kubernetes_admin()?);
    write_whole_mode(&path, text.as_bytes(), 0o600)?;
    Ok(path)
}

/// What etcd and Kubernetes say of themselves.
pub(crate) fn tables(spec: &Spec, file: &Path, status: &Status) -> Result<()> {
    let runs = |name: &str, service: &str| {
        let node = status.nodes.iter().find(|n| n.name == name);
        node.is_some_and(|n| n.pid.is_some() && n.services.iter().any(|s| s.name == service && s.ready_ms.is_some()))
    };
    let on = |name: &str| runs(name, "etcd");
    let members: Vec<_> = status.etcd.iter().filter(|(n, _)| on(n)).map(|(_, a)| format!("https://{a}")).collect();
    if members.is_empty() {
        println!("\nno etcd member can be asked from here");
    } else {
        println!();
        for verb in [["member", "list"], ["endpoint", "status"], ["endpoint", "health"]] {
            let mut command = Command::new(program(spec, "etcd", "etcdctl")?);
            command.envs(environment(spec, file, status)?).env("ETCDCTL_ENDPOINTS", members.join(","));
            run(command.args(["-w", "table"]).args(verb))?;
        }
    }
    let masters = spec.nodes.iter().filter(|n| n.roles.contains(&Role::Master));
    if has_kubernetes(status) && !masters.clone().any(|n| runs(&n.name, "kubelet")) {
        println!("\nno master is ready: the API is not asked");
    } else if has_kubernetes(status) {
        println!();
        let mut command = Command::new(program(spec, "kubernetes", "kubectl")?);
        let patience = format!("--request-timeout={}s", (10.0 * status.dilation).ceil());
        run(command.envs(environment(spec, file, status)?).args(["get", "nodes", "-o", "wide", &patience]))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let out = command.status().with_context(|| format!("running {}", command.get_program().display()))?;
    if !out.success() {
        let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        bail!("{} {} ended with {out}", command.get_program().display(), words.join(" "));
    }
    Ok(())
}

/// `cluster env`.
pub(crate) fn env(file: Option<&Path>) -> Result<()> {
    let (file, spec) = which(file)?;
    let status = ask_status(&spec.cluster.name)?;
    for (key, value) in environment(&spec, &file, &status)? {
        println!("export {key}={}", quoted(&value));
    }
    if has_kubernetes(&status) {
        program(&spec, "kubernetes", "kubectl")?;
    }
    if let Some(dir) = program(&spec, "etcd", "etcdctl")?.parent() {
        println!("export PATH={}:\"$PATH\"", quoted(&dir.display().to_string()));
    }
    Ok(())
}

/// For a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A client as the image's component has it: taken from its build, or what was taken before, or the one on the path.
fn program(spec: &Spec, component: &str, name: &str) -> Result<PathBuf> {
    let own = state_dir(&spec.cluster.name).join("bin").join(name);
    let taken = || -> Result<()> {
        let recipe = crate::component::Recipe::read(Path::new("profiles"), component)?;
        let store = Store::at(crate::dirs::cache().join("quorate"))?;
        let mirrors = crate::debian::mirror::Mirrors::default();
        let go = if recipe.is_compiled() { Some(crate::component::go::Toolchain::find(true)?) } else { None };
        let is_built = go.as_ref().is_none_or(|go| go.built(&recipe, &store).is_some());
        ensure!(is_built, "{component} is not built");
        let parts = recipe.make(go.as_ref(), &crate::fetch::Fetcher::new(mirrors, true), &store)?;
        let digest = parts.get(name).with_context(|| format!("{component} has no {name}"))?;
        take(&store, digest, &own)
    };
    let why = match taken() {
        Ok(()) => return Ok(own),
        Err(_) if own.exists() => return Ok(own),
        Err(why) => why,
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|d| d.join(name)).find(|f| f.is_file());
    found.with_context(|| {
        format!("no {name}: {why:#}, and none on the PATH; hint: `quorate image build` from the repository")
    })
}

/// Makes `own` the program with this digest, unless it is: what was taken before may be of another version.
fn take(store: &Store, digest: &str, own: &Path) -> Result<()> {
    if std::fs::read(own).is_ok_and(|bytes| sha256(&bytes) == digest) {
        return Ok(());
    }
    let bytes = store.get(digest).with_context(|| format!("{digest} is not in the store"))?;
    write_whole_mode(own, &bytes, 0o755)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_taken_before_gives_way_to_another_build() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::at(dir.path().join("store")).expect("a store");
        let own = dir.path().join("bin/kubectl");
        let is = || std::fs::read(&own).expect("there");
        for version in [&b"1.36"[..], b"1.37", b"1.37"] {
            take(&store, &store.put(version).expect("kept"), &own).expect("taken");
            assert_eq!(is(), version);
        }
        assert!(take(&store, &sha256(b"1.38"), &own).is_err(), "it is not in the store");
        assert_eq!(is(), b"1.37", "what was there stays");
    }

    #[test]
    fn quoting() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
