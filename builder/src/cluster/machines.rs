//! From a cluster's description to the lab's plan: which machines, on which network, under which clock.

use super::seed::dir_of;
use super::spec::{Node, Spec};
use crate::cli::cluster::Lab;
use anyhow::{Context, Result, ensure};
use contract::image::Manifest;
use contract::node::{Role, State};
use contract::ports::{ETCD_CLIENT, SNAPSHOTS};
use lab::accel::Accel;
use lab::clock::Clock;
use lab::cluster::Plan;
use lab::command::{Disk, Lan, Machine};
use lab::gateway::Tftp;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// MiB of memory where cluster.toml says nothing, by role.
fn default_memory(role: Role) -> u64 {
    match role {
        Role::Master => 2048,
        Role::Etcd => 512,
        Role::Lb => 256,
        Role::Worker => 1024,
    }
}

/// Where a cluster's VMs keep their disks and logs.
pub(crate) fn state_dir(name: &str) -> PathBuf {
    crate::dirs::state().join("quorate").join(name)
}

/// Where a snapshot lies.
pub(crate) fn snapshot_dir(spec: &Spec, name: &str) -> Result<PathBuf> {
    ensure!(contract::check::is_label(name), "snapshot `{name}`: expected lower-case letters, digits and inner dashes");
    Ok(state_dir(&spec.cluster.name).join("snapshots").join(name))
}

/// Accelerator and clock of the whole lab.
fn pace(spec: &Spec, lab: &Lab) -> Result<(Accel, Clock)> {
    let accel = Accel::choose(lab.accel.as_ref().unwrap_or(&spec.lab.accel), &crate::dirs::cache())?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let wished = lab.dilation.or(spec.lab.dilation);
    let factor = wished.unwrap_or_else(|| accel.dilation(spec.nodes.len(), cores));
    Ok((accel, Clock::new(factor)?))
}

/// The whole lab of a cluster.
pub(crate) fn plan(spec: &Spec, file: &Path, lab: &Lab) -> Result<(Plan, Accel)> {
    let (accel, clock) = pace(spec, lab)?;
    let machines = machines(spec, &lab.images, &dir_of(spec, file, "seed"), accel, clock)?;
    let forwards = if spec.lab.gateway { forwards(spec) } else { Vec::new() };
    let tftp = spec.lab.tftp.clone().map(|t| Tftp { dir: file.with_file_name("").join(t.dir), ..t });
    let dir = state_dir(&spec.cluster.name);
    Ok((Plan { machines, forwards, gateway: spec.lab.gateway, tftp, seed: spec.lab.seed, clock, dir }, accel))
}

/// Ports of this machine: those that are named, and a free one or two for each etcd member and for the API.
pub(crate) fn forwards(spec: &Spec) -> Vec<(SocketAddr, SocketAddr)> {
    let mut all: Vec<_> = spec.lab.forward.iter().map(|f| (f.host, f.to)).collect();
    let members = spec.nodes.iter().filter(|n| n.roles.contains(&Role::Etcd));
    let members = members.flat_map(|n| [ETCD_CLIENT, SNAPSHOTS].map(|port| SocketAddr::new(n.address.addr(), port)));
    for to in members.chain(api(spec)) {
        if all.iter().all(|(_, t)| *t != to) {
            all.push((SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0), to));
        }
    }
    all
}

/// Where clients outside the lab find the API: the endpoint, where that is an address.
pub(crate) fn api(spec: &Spec) -> Option<SocketAddr> {
    spec.endpoint()?.parse().ok()
}

/// The machines.
pub(crate) fn machines(spec: &Spec, images: &Path, seeds: &Path, accel: Accel, clock: Clock) -> Result<Vec<Machine>> {
    let dir = state_dir(&spec.cluster.name);
    spec.nodes
        .iter()
        .map(|node| {
            let image = image_of(node, images)?;
            let mut disks = Vec::new();
            if let Some(State::Disk(_)) = &node.state {
                let path = dir.join(format!("{}.qcow2", node.name));
                lab::disk::qcow2(&path, spec.lab.state_size)?;
                disks.push(Disk { path, format: "qcow2", serial: "state".into(), read_only: false });
            }
            disks.push(Disk {
                path: std::path::absolute(seeds.join(&node.name).join("seed.iso"))?,
                format: "raw",
                serial: "seed".into(),
                read_only: true,
            });
            let memory = node.roles.iter().map(|r| memory(spec, *r)).sum();
            let cmdline = std::fs::read_to_string(image.join("cmdline"))?.trim().to_owned();
            Ok(Machine {
                name: node.name.clone(),
                kernel: image.join("vmlinuz"),
                initrd: image.join("initrd"),
                cmdline,
                memory,
                disks,
                mac: Some(node.mac.clone()),
                lan: Lan::Cable,
                serial: None,
                accel,
                clock,
                date: None,
                dir: dir.clone(),
            })
        })
        .collect()
}

/// MiB.
fn memory(spec: &Spec, role: Role) -> u64 {
    spec.lab.memory.get(&role).map_or_else(|| default_memory(role), |bytes| bytes >> 20)
}

/// One of them is for every node.
const MAKE_IMAGES: &str =
    "hint: `quorate image build universal` makes one with all roles, --images names where they are";

/// The image named, or the one with the fewest roles that has all of the node's.
pub(crate) fn image_of(node: &Node, images: &Path) -> Result<PathBuf> {
    let read = |dir: &Path| -> Option<Manifest> {
        serde_json::from_str(&std::fs::read_to_string(dir.join("manifest.json")).ok()?).ok()
    };
    if let Some(name) = &node.image {
        let dir = images.join(name);
        read(&dir).with_context(|| format!("node {}: no image at {}", node.name, dir.display()))?;
        return Ok(dir);
    }
    let mut found: Vec<(usize, PathBuf)> = std::fs::read_dir(images)
        .with_context(|| format!("looking for images in {}; {MAKE_IMAGES}", images.display()))?
        .flatten()
        .filter_map(|e| {
            let manifest = read(&e.path())?;
            let has = node.roles.iter().all(|r| manifest.roles.iter().any(|m| m == r.word()));
            has.then(|| (manifest.roles.len(), e.path()))
        })
        .collect();
    found.sort();
    let roles: Vec<_> = node.roles.iter().map(ToString::to_string).collect();
    found.into_iter().next().map(|(_, p)| p).with_context(|| {
        format!(
            "node {}: no image in {} has the roles {}; {MAKE_IMAGES}",
            node.name,
            images.display(),
            roles.join(", ")
        )
    })
}
