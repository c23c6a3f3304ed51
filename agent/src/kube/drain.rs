//! The verb `drain`: its stop is what a node does before it stops. It takes no new pods (cordon) and sends its ordinary ones
//! elsewhere by the API's evictions, which respect disruption budgets: bounded, because the node stops anyway. A node that
//! comes back takes pods again, if it was this that cordoned it and not an operator.
//!
//! The kubelet's own graceful shutdown listens to logind, which is not here, and asks nobody.

use super::api::{Api, Failure};
use crate::channel::Channel;
use contract::control::FromAgent;
use contract::node::{NodeConfig, Role};
use contract::paths;
use contract::seed::NodeSeed;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::{Value, json};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// All of it; PID 1 waits a little longer (`init/src/roles/kube/kubelet.rs`).
const BOUND: Duration = Duration::from_secs(20);
/// Nobody announces that a pod is gone from here; a budget that forbids an eviction may allow it soon.
const ASK: Duration = Duration::from_millis(500);
/// Who cordoned the node, so that nobody else's cordon is undone.
const MARK: &str = "quorate.invalid/stops";

pub(crate) fn run() -> Result<(), String> {
    let terminate: SigSet = [Signal::SIGTERM].into_iter().collect();
    terminate.thread_block().map_err(|e| e.to_string())?;
    let signals = SignalFd::with_flags(&terminate, SfdFlags::SFD_CLOEXEC).map_err(|e| e.to_string())?;
    let text = std::fs::read(paths::NODE_JSON).map_err(|e| format!("{}: {e}", paths::NODE_JSON))?;
    let seed: NodeSeed = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", paths::NODE_JSON))?;
    let config = seed.node;
    let mut is_back = false;
    loop {
        is_back = is_back || take_pods_again(&config).is_ok();
        let bound = if is_back {
            PollTimeout::NONE
        } else {
            PollTimeout::try_from(ASK.as_millis()).unwrap_or(PollTimeout::MAX)
        };
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, bound).is_ok_and(|n| n > 0) {
            break;
        }
    }
    let told = match drain(&config) {
        Ok(text) => FromAgent::Tell { text },
        Err(e) => FromAgent::Notice { text: format!("pods are not sent elsewhere: {e}") },
    };
    Channel.say(&told)
}

fn api(config: &NodeConfig) -> Result<Api, String> {
    if config.roles.contains(&Role::Master) { Api::local(config) } else { Api::as_kubelet(config) }
}

fn path(config: &NodeConfig) -> String {
    format!("/api/v1/nodes/{}", config.name())
}

fn take_pods_again(config: &NodeConfig) -> Result<(), String> {
    let api = api(config)?;
    let node = api.get(&path(config)).map_err(|e| e.to_string())?;
    if node["metadata"]["annotations"][MARK].is_null() {
        return Ok(());
    }
    let back = json!({ "metadata": { "annotations": { MARK: null } }, "spec": { "unschedulable": null } });
    api.merge(&path(config), &back).map(|_| ()).map_err(|e| e.to_string())
}

fn drain(config: &NodeConfig) -> Result<String, String> {
    if config.masters.len() + config.kubernetes().workers.len() == 1 {
        return Ok("no other node could take the pods".into());
    }
    let deadline = Instant::now() + BOUND;
    let api = api(config)?;
    let node = api.get(&path(config)).map_err(|e| e.to_string())?;
    if node["spec"]["unschedulable"] != true {
        let stops = json!({ "metadata": { "annotations": { MARK: "yes" } }, "spec": { "unschedulable": true } });
        api.merge(&path(config), &stops).map_err(|e| e.to_string())?;
    }
    let list = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", config.name());
    let mut first = None;
    loop {
        let pods = api.get(&list).map_err(|e| e.to_string())?;
        let left: Vec<(&str, &str)> = pods["items"].as_array().into_iter().flatten().filter_map(evictable).collect();
        let number = *first.get_or_insert(left.len());
        if left.is_empty() {
            return Ok(format!("{number} pods went elsewhere"));
        }
        if Instant::now() >= deadline {
            let names: Vec<_> = left.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
            return Err(format!("not within {} s: {}", BOUND.as_secs(), names.join(", ")));
        }
        for (namespace, name) in left {
            let eviction = json!({
                "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "namespace": namespace, "name": name },
            });
            // One that is refused (a budget) is asked for again; one that goes already is not there any more some day.
            let _: Result<Value, Failure> =
                api.post(&format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction"), &eviction);
        }
        std::thread::sleep(ASK);
    }
}

/// Namespace and name of a pod that could run elsewhere: none that belongs to the node (of a DaemonSet, a static one), none
/// that is over.
fn evictable(pod: &Value) -> Option<(&str, &str)> {
    let meta = &pod["metadata"];
    let owners = meta["ownerReferences"].as_array();
    let of_the_node = owners.into_iter().flatten().any(|o| o["kind"] == "DaemonSet" || o["kind"] == "Node")
        || !meta["annotations"]["kubernetes.io/config.mirror"].is_null();
    let is_over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    (!of_the_node && !is_over).then_some((meta["namespace"].as_str()?, meta["name"].as_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_node_stays() {
        let pod = |owner: &str, phase: &str| {
            json!({
                "metadata": { "namespace": "default", "name": "a", "ownerReferences": [{ "kind": owner }] },
                "status": { "phase": phase },
            })
        };
        assert_eq!(evictable(&pod("ReplicaSet", "Running")), Some(("default", "a")));
        assert_eq!(evictable(&pod("ReplicaSet", "Pending")), Some(("default", "a")));
        for (owner, phase) in [("DaemonSet", "Running"), ("Node", "Running"), ("Job", "Succeeded")] {
            assert_eq!(evictable(&pod(owner, phase)), None, "{owner} {phase}");
        }
        let mirror = json!({ "metadata": { "namespace": "a", "name": "b", "annotations": { "kubernetes.io/config.mirror": "x" } } });
        assert_eq!(evictable(&mirror), None);
    }
}
