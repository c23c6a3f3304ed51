//! From a cluster's description to the machines of the lab: pure but for finding free state.

use super::spec::{Dilation, Node, Spec, bytes};
use crate::place::Refused;
use anyhow::{Context, Result};
use contract::image::Manifest;
use contract::node::{Role, State};
use lab::accel::Accel;
use lab::clock::Clock;
use lab::command::{Disk, Machine};
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
pub(crate) fn state_dir(spec: &Spec) -> PathBuf {
    crate::dirs::state().join("quorate").join(&spec.cluster.name)
}

/// Accelerator and clock of the whole lab.
pub(crate) fn pace(spec: &Spec) -> Result<(Accel, Clock)> {
    let accel = Accel::choose(&spec.lab.accel, &crate::dirs::cache())?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let factor = match &spec.lab.dilation {
        Dilation::Factor(f) => *f,
        Dilation::Word(w) if w == "auto" => accel.dilation(spec.nodes.len(), cores),
        Dilation::Word(w) => {
            return Err(Refused(vec![format!("lab.dilation: expected a number or \"auto\", found \"{w}\"")]).into());
        }
    };
    Ok((accel, Clock::new(factor)?))
}

/// The machines.
pub(crate) fn machines(spec: &Spec, images: &Path, seeds: &Path) -> Result<Vec<Machine>> {
    let (accel, clock) = pace(spec)?;
    let dir = state_dir(spec);
    let state_bytes = bytes(&spec.lab.state_size).context("lab.state_size: expected a size like \"8GiB\"")?;
    spec.nodes
        .iter()
        .map(|node| {
            let image = image_of(node, images)?;
            let mut disks = Vec::new();
            if let State::Disk(_) = node.state.as_ref().context("state")? {
                let path = dir.join(format!("{}.qcow2", node.name));
                lab::disk::qcow2(&path, state_bytes)?;
                disks.push(Disk { path, format: "qcow2", serial: "state".into(), read_only: false });
            }
            disks.push(Disk {
                path: std::path::absolute(seeds.join(&node.name).join("seed.iso"))?,
                format: "raw",
                serial: "seed".into(),
                read_only: true,
            });
            let memory = node.roles.iter().map(|r| memory(spec, *r)).sum::<Result<u64>>()?;
            let cmdline = std::fs::read_to_string(image.join("cmdline"))?.trim().to_owned();
            let forwards = spec.lab.forward.iter().filter(|f| f.to.ip() == node.address.addr());
            Ok(Machine {
                name: node.name.clone(),
                kernel: image.join("vmlinuz"),
                initrd: image.join("initrd"),
                cmdline,
                memory,
                disks,
                mac: Some(node.mac.clone()),
                forwards: forwards.map(|f| (f.host, f.to)).collect(),
                serial: None,
                accel,
                clock,
                dir: dir.clone(),
            })
        })
        .collect()
}

fn memory(spec: &Spec, role: Role) -> Result<u64> {
    match spec.lab.memory.get(&role) {
        Some(text) => bytes(text)
            .map(|b| b >> 20)
            .with_context(|| format!("lab.memory.{role}: expected \"512MiB\", found {text}")),
        None => Ok(default_memory(role)),
    }
}

/// The image named, or the one with the fewest roles that has all of the node's.
fn image_of(node: &Node, images: &Path) -> Result<PathBuf> {
    let read = |dir: &Path| -> Option<Manifest> {
        serde_json::from_str(&std::fs::read_to_string(dir.join("manifest.json")).ok()?).ok()
    };
    if let Some(name) = &node.image {
        let dir = images.join(name);
        read(&dir).with_context(|| format!("node {}: no image at {}", node.name, dir.display()))?;
        return Ok(dir);
    }
    let mut found: Vec<(usize, PathBuf)> = std::fs::read_dir(images)
        .with_context(|| format!("looking for images in {}; hint: `quorate image build etcd`", images.display()))?
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
            "node {}: no image in {} has the roles {}; hint: `quorate image build etcd`",
            node.name,
            images.display(),
            roles.join(", ")
        )
    })
}
