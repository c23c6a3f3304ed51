//! Who leads: of etcd's members, and of the programs of the control plane of which one at a time does the work. Asked of the
//! cluster itself, through the gateway's ports.

use super::seed::dir_of;
use super::spec::Spec;
use super::talk::{administrator, has_kubernetes};
use crate::keeper::Status;
use anyhow::{Result, ensure};
use lab::clock::Clock;
use lab::probe::etcd;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// Who does not answer within this (guest time) is not waited for: `status` is asked when something is broken, too.
const PATIENCE: Duration = Duration::from_secs(1);
/// Leases of the control plane (`k8s.io/component-base/config`, `leaderElection`).
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

/// Names of nodes; none = nobody, or nobody who answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Leaders {
    pub(crate) etcd: Option<String>,
    pub(crate) controller_manager: Option<String>,
    pub(crate) scheduler: Option<String>,
}

/// Asks all at once.
pub(crate) fn ask(spec: &Spec, file: &Path, status: &Status) -> Leaders {
    let seeds = dir_of(spec, file, "seed");
    let Ok(clock) = Clock::new(status.dilation) else { return Leaders::default() };
    std::thread::scope(|scope| {
        let members: Vec<_> = status
            .etcd
            .iter()
            .filter(|(name, _)| is_on(status, name))
            .map(|(name, at)| {
                let seeds = &seeds;
                scope.spawn(move || {
                    let client = etcd::Client::new(*at, seeds, clock).ok()?.patient(PATIENCE, clock);
                    let (id, leader) = client.leader().ok()?;
                    Some((name.clone(), id, leader))
                })
            })
            .collect();
        let lease = |name: &'static str| scope.spawn(move || holder(spec, file, status, name).ok().flatten());
        let leases = [lease("kube-controller-manager"), lease("kube-scheduler")];
        let said: Vec<_> = members.into_iter().filter_map(|m| m.join().ok().flatten()).collect();
        let [controller_manager, scheduler] = leases.map(|l| l.join().ok().flatten());
        Leaders { etcd: led_by(&said), controller_manager, scheduler }
    })
}

fn is_on(status: &Status, node: &str) -> bool {
    status.nodes.iter().any(|n| n.name == node && n.pid.is_some())
}

/// Of (name, id, whom it sees as its leader): the one that most see.
fn led_by(said: &[(String, String, Option<String>)]) -> Option<String> {
    let votes = |id: &str| said.iter().filter(|(_, _, sees)| sees.as_deref() == Some(id)).count();
    let leader = said.iter().max_by_key(|(_, id, _)| votes(id)).filter(|(_, id, _)| votes(id) > 0)?;
    Some(leader.0.clone())
}

/// The node on which the holder of a lease runs; none where that node is off.
fn holder(spec: &Spec, file: &Path, status: &Status, lease: &str) -> Result<Option<String>> {
    ensure!(has_kubernetes(status), "no API");
    let client = administrator(spec, file, status, PATIENCE)?;
    let lease: Value = serde_json::from_str(&client.get(&format!("{LEASES}/{lease}"))?)?;
    Ok(node_of(lease["spec"]["holderIdentity"].as_str().unwrap_or_default()).filter(|n| is_on(status, n)))
}

/// A master's apiserver, as the API knows its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiserverPod {
    /// The members that its flags name.
    pub(crate) etcd_servers: BTreeSet<String>,
    pub(crate) is_ready: bool,
}

/// Asks for it.
pub(crate) fn apiserver_of(
    spec: &Spec,
    file: &Path,
    now: &Status,
    node: &str,
    bound: Duration,
) -> Result<ApiserverPod> {
    let path = format!("/api/v1/namespaces/kube-system/pods/kube-apiserver-{node}");
    let pod = administrator(spec, file, now, bound)?.get(&path)?;
    Ok(apiserver_pod(&serde_json::from_str(&pod)?))
}

fn apiserver_pod(pod: &Value) -> ApiserverPod {
    let container = &pod["spec"]["containers"][0];
    let words = ["command", "args"].map(|k| container[k].as_array().cloned().unwrap_or_default());
    let words = words.iter().flatten().filter_map(Value::as_str);
    let servers = words.filter_map(|w| w.strip_prefix("--etcd-servers=")).flat_map(|s| s.split(','));
    let ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
    ApiserverPod {
        etcd_servers: servers.map(String::from).collect(),
        is_ready: pod["status"]["conditions"].as_array().is_some_and(|c| c.iter().any(ready)),
    }
}

/// A holder's identity is its host's name, `_` and a number of its own.
fn node_of(identity: &str) -> Option<String> {
    identity.rsplit_once('_').map(|(node, _)| node.to_owned()).filter(|n| !n.is_empty())
}

impl Leaders {
    /// A line for people; none where nothing leads anything.
    pub(crate) fn line(&self) -> Option<String> {
        let all = [
            ("etcd", &self.etcd),
            ("the controller manager", &self.controller_manager),
            ("the scheduler", &self.scheduler),
        ];
        let known: Vec<_> = all.iter().filter_map(|(what, who)| Some(format!("{what} {}", who.as_ref()?))).collect();
        (!known.is_empty()).then(|| format!("leaders: {}", known.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_most_see() {
        let said = |name: &str, id: &str, sees: Option<&str>| (name.to_owned(), id.to_owned(), sees.map(String::from));
        let cut_off = [said("a", "1", Some("1")), said("b", "2", Some("3")), said("c", "3", Some("3"))];
        assert_eq!(led_by(&cut_off).as_deref(), Some("c"));
        assert_eq!(led_by(&[said("a", "1", None), said("b", "2", Some("3"))]), None, "that one did not answer");
        assert_eq!(led_by(&[]), None);
    }

    #[test]
    fn an_apiserver_pod() {
        let pod = serde_json::json!({
            "spec": { "containers": [{ "command": ["kube-apiserver", "--etcd-servers=https://a:1,https://b:1"] }] },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        let pod = apiserver_pod(&pod);
        assert!(pod.is_ready && pod.etcd_servers.len() == 2 && pod.etcd_servers.contains("https://b:1"), "{pod:?}");
        let other = apiserver_pod(&serde_json::json!("no pod"));
        assert!(!other.is_ready && other.etcd_servers.is_empty());
    }

    #[test]
    fn words() {
        assert_eq!(node_of("master-1_4b0c").as_deref(), Some("master-1"));
        assert_eq!(node_of("strange"), None);
        let leaders = Leaders { etcd: Some("a".into()), scheduler: Some("b".into()), ..Leaders::default() };
        assert_eq!(leaders.line().as_deref(), Some("leaders: etcd a, the scheduler b"));
        assert_eq!(Leaders::default().line(), None);
    }
}
