//! The roles master and worker: one kubelet on one containerd, and on a master the control plane as static pods.
//!
//! | question | file |
//! |---|---|
//! | what runs containers? | `containerd.rs` |
//! | what is the kubelet told? | `kubelet.rs` |
//! | which static pods, with which flags? | `control_plane.rs`; compared with kubeadm's in `kubeadm.rs` |
//!
//! No registry is needed: every pod of quorate's own is made of one tiny image that lies in the root, and its program comes
//! from the root too, by a read-only hostPath. Static pods are planned here, and moved by the agent to where the kubelet
//! looks as soon as what they need is there: an apiserver that waits for etcd would only be restarted.

mod containerd;
mod control_plane;
#[cfg(test)]
mod kubeadm;
mod kubelet;

use super::{File, NodePlan, directory};
use contract::node::{NodeConfig, Role};
use contract::{paths, users};
use serde_json::Value;

/// Adds them to a plan: once, whichever of the two roles the node has.
pub(crate) fn add(config: &NodeConfig, plan: &mut NodePlan) -> Result<(), String> {
    // Of these the kernel asks for none by itself: the first is wanted by a file system that the kubelet looks for, the
    // second by nothing but the sysctls below.
    plan.modules.extend(["overlay", "br_netfilter", "nf_conntrack"].map(String::from));
    // Without it a pod that reaches a service's pod on its own node gets the answer from an address it never asked.
    for table in ["iptables", "ip6tables"] {
        plan.sysctl.push((format!("net.bridge.bridge-nf-call-{table}"), "1".into()));
    }
    // A connection of every pod is tracked; kube-proxy is told to leave this alone.
    plan.sysctl.push(("net.netfilter.nf_conntrack_max".into(), "131072".into()));
    plan.directories.extend([
        directory("/var/lib/containerd", 0o711, users::ROOT),
        directory("/run/containerd", 0o711, users::ROOT),
        directory(paths::KUBELET, 0o755, users::ROOT),
        directory(paths::POD_LOGS, 0o755, users::ROOT),
        directory("/var/log/containers", 0o755, users::ROOT),
        directory(paths::MANIFESTS, 0o700, users::ROOT),
        directory(paths::CNI_BIN, 0o755, users::ROOT),
        directory(paths::CNI_NET, 0o755, users::ROOT),
        directory(&format!("{}/kubelet", paths::PKI), 0o755, users::ROOT),
    ]);
    containerd::add(plan);
    kubelet::add(config, plan)?;
    if config.roles.contains(&Role::Master) {
        control_plane::add(config, plan)?;
    }
    Ok(())
}

/// A file of JSON, which is YAML too.
fn json(path: &str, mode: u32, owner: u32, value: &Value) -> File {
    File { path: path.into(), mode, owner, content: format!("{value:#}\n") }
}

#[cfg(test)]
mod tests;
