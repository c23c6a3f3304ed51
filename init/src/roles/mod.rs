//! What a node runs: from a seed to a [`NodePlan`], pure. Nothing here touches the system, and nothing branches on a
//! topology's name: roles are placed, that is all.

mod etcd;
mod kube;
mod lb;

use contract::node::Role;
use contract::paths;
use contract::seed::NodeSeed;
use contract::service::{Ready, Service};
use contract::users;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Everything that is made before services start, and the services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct NodePlan {
    /// Kernel modules that nobody asks for by himself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) modules: Vec<String>,
    /// Settings of the kernel that the image cannot have, because they come with a module: key and value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sysctl: Vec<(String, String)>,
    /// Made where they are missing.
    pub(crate) directories: Vec<Directory>,
    /// Written at each boot.
    pub(crate) files: Vec<File>,
    /// In the order of the report.
    pub(crate) services: Vec<Service>,
}

/// A directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Directory {
    pub(crate) path: String,
    pub(crate) mode: u32,
    pub(crate) owner: u32,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) mode: u32,
    pub(crate) owner: u32,
    pub(crate) content: String,
}

/// Memory of an agent that parses what others wrote. Bytes.
const METADATA_MEMORY: u64 = 64 << 20;
/// Memory of the other agents; a leak ends the agent, not the node.
const AGENT_MEMORY: u64 = 128 << 20;

fn directory(path: &str, mode: u32, owner: u32) -> Directory {
    Directory { path: path.into(), mode, owner }
}

fn agent(verb: &str) -> Service {
    Service {
        memory_max: Some(AGENT_MEMORY),
        pids_max: Some(64),
        agent: true,
        ..Service::of(verb, vec![paths::AGENT.into(), verb.into()])
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// The agent that reads and understands seeds: as a user of its own, with little memory.
pub(crate) fn metadata() -> Service {
    Service { user: users::QUORATE, memory_max: Some(METADATA_MEMORY), pids_max: Some(8), ..agent("metadata") }
}

/// What runs before it is known what the node is: the agent that hears of devices.
pub(crate) fn before_the_seed() -> Vec<Service> {
    // It carries the voice: what happens while the others stop is to be heard.
    vec![Service { last: true, ..agent("devices") }]
}

/// The agent that brings the network up; also before the seed, when that is on the network.
pub(crate) fn network() -> Service {
    let address = owned(&[contract::control::condition::ADDRESS]);
    Service { ready: Ready::Done(address.clone()), provides: address, ..agent("network") }
}

/// The plan of a node.
pub(crate) fn plan(seed: &NodeSeed) -> Result<NodePlan, String> {
    use contract::control::condition::{
        ADDRESS, API, FORMED, LINK, MEMBER, NODE_READY, OBJECTS, PKI, SNAPSHOT, STORE, TIME,
    };
    let config = &seed.node;
    let mut plan = NodePlan {
        modules: vec![],
        sysctl: vec![],
        directories: vec![
            directory(paths::STATE, 0o755, users::ROOT),
            directory(paths::LOG, 0o750, users::ROOT),
            directory(paths::ENV, 0o755, users::ROOT),
            directory(paths::PKI, 0o755, users::ROOT),
        ],
        files: names(seed),
        services: vec![Service { last: true, agent: false, ..agent("log") }, network()],
    };
    if !config.ntp.is_empty() {
        plan.files.push(chrony_conf(&config.ntp));
        plan.directories.push(directory("/run/chrony", 0o750, users::CHRONY));
        plan.services.push(Service {
            command: owned(&["/usr/sbin/chronyd", "-d", "-f", CHRONY_CONF, "-u", "_chrony"]),
            needs: owned(&[ADDRESS]),
            agent: false,
            ..agent("chrony")
        });
    }
    let mut done = owned(&[PKI]);
    if config.roles.contains(&Role::Etcd) {
        done.push(MEMBER.into());
    }
    plan.services.push(Service {
        needs: owned(&[ADDRESS]),
        provides: owned(&[PKI, MEMBER, FORMED, SNAPSHOT, TIME, LINK, STORE, API, OBJECTS, NODE_READY]),
        ready: Ready::Done(done),
        ..agent("node")
    });
    for role in &config.roles {
        match role {
            Role::Etcd => etcd::add(config, &mut plan),
            Role::Lb => lb::add(config, &mut plan)?,
            // Together they are one kubelet, below.
            Role::Master | Role::Worker => {}
        }
    }
    if config.has_kubelet() {
        kube::add(config, &mut plan)?;
    }
    Ok(plan)
}

const CHRONY_CONF: &str = "/run/quorate/etc/chrony.conf";

fn chrony_conf(servers: &[String]) -> File {
    let mut content: String = servers.iter().map(|s| format!("server {s} iburst\n")).collect();
    // A step is allowed while the clock was never right; later only slewing.
    content += "makestep 1.0 3\nrtcsync\ncmdport 0\nbindcmdaddress /\npidfile /run/chrony/chronyd.pid\n";
    File { path: CHRONY_CONF.into(), mode: 0o644, owner: users::ROOT, content }
}

/// hostname, hosts, machine-id: links in the read-only root point to them.
fn names(seed: &NodeSeed) -> Vec<File> {
    let config = &seed.node;
    let name = config.name();
    let file = |n: &str, content: String| File {
        path: format!("{}/{n}", paths::RUN_ETC),
        mode: 0o644,
        owner: users::ROOT,
        content,
    };
    let mut hosts = format!("127.0.0.1 localhost\n::1 localhost\n{} {name}\n", config.node.address);
    let others = config.members.iter().chain(&config.masters).filter(|(n, _)| n.as_str() != name);
    let mut lines: Vec<String> = others.map(|(n, a)| format!("{a} {n}\n")).collect();
    lines.sort();
    lines.dedup();
    hosts.extend(lines);
    // The same for the same node, whatever disk it has.
    let digest = Sha256::digest(format!("{}/{name}", config.cluster.id));
    let machine_id: String = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
    vec![file("hostname", format!("{name}\n")), file("hosts", hosts), file("machine-id", format!("{machine_id}\n"))]
}

#[cfg(test)]
pub(crate) mod tests;
