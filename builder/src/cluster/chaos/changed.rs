//! What a row changed: elections, moves of the virtual IP, programs that started again, nodes that were taken for dead. In the
//! rows `quiet` and `idle`, where nothing is done, each of them is a false alarm. Counters that the cluster keeps itself, read before and after.

use super::super::seed::dir_of;
use super::super::spec::Spec;
use crate::keeper::client::ask;
use crate::keeper::{Answer, Request, Status};
use anyhow::{Context, Result};
use lab::clock::Clock;
use lab::probe::{api::Client, etcd};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a load balancer's agent says each time that its node takes the virtual IP, and that it takes a master for dead.
const SAID: [(&str, &str); 2] =
    [(": holds the virtual IP", "virtual IP taken"), (": its connections are cut", "a master taken for dead")];

/// A question is asked for so long until it is answered: what was done to the cluster may still cut a connection, and where it
/// was just restored at a quick pace its load balancers may know no master for a moment. Guest time.
const PATIENCE: Duration = Duration::from_secs(10);
/// ... and so often: a connection that is refused tells nobody when another one would not be. Guest time.
const AGAIN: Duration = Duration::from_millis(250);

/// Counters and moments by what they count.
pub(super) type Counts = BTreeMap<String, String>;

/// As they stand.
pub(super) fn counts(spec: &Spec, own: &Path, now: &Status, client: &Client) -> Result<Counts> {
    let mut all = Counts::new();
    let clock = Clock::new(now.dilation)?;
    let get = |path: &str| -> Result<Value> {
        let deadline = Instant::now() + clock.host(PATIENCE);
        loop {
            match client.get(path) {
                Ok(answer) => return Ok(serde_json::from_str(&answer)?),
                Err(e) if Instant::now() >= deadline => {
                    return Err(e.context(format!("asking for {path}, for {PATIENCE:?}")));
                }
                Err(_) => std::thread::sleep(clock.host(AGAIN)),
            }
        }
    };
    for name in ["kube-controller-manager", "kube-scheduler"] {
        let lease = get(&format!("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{name}"))?;
        all.insert(format!("leaders of {name}"), lease["spec"]["leaseTransitions"].to_string());
    }
    all.extend(restarts(&get("/api/v1/namespaces/kube-system/pods")?));
    all.extend(ready_since(&get("/api/v1/nodes")?));
    for node in now.nodes.iter().filter(|n| n.pid.is_some()) {
        let request = Request::Logs { node: node.name.clone(), service: None, lines: u32::MAX, follow: false };
        let mut answers = ask(&spec.cluster.name, &request)?;
        let mut lines = Vec::new();
        while let Some(answer) = answers.next()? {
            if let Answer::Line { text } = answer {
                lines.push(text);
            }
        }
        all.extend(said(&node.name, &lines));
    }
    if let Some(at) = now.etcd.values().next() {
        let etcd = etcd::Client::new(*at, &dir_of(spec, own, "seed"), clock)?;
        all.insert("terms of etcd".into(), etcd.term().context("asking etcd for its term")?);
    }
    Ok(all)
}

/// How often, where it was at all.
fn said(node: &str, lines: &[String]) -> Counts {
    let count = |words: &str| lines.iter().filter(|l| l.contains(words)).count();
    let of = |(words, what): &(&str, &str)| (format!("{what} by {node}"), count(words));
    SAID.iter().map(of).filter(|(_, n)| *n > 0).map(|(what, n)| (what, n.to_string())).collect()
}

fn items(list: &Value) -> impl Iterator<Item = (&str, &Value)> {
    list["items"].as_array().into_iter().flatten().filter_map(|i| Some((i["metadata"]["name"].as_str()?, i)))
}

fn restarts(pods: &Value) -> Counts {
    let count = |(name, pod): (&str, &Value)| {
        let containers = pod["status"]["containerStatuses"].as_array()?;
        let sum: u64 = containers.iter().filter_map(|c| c["restartCount"].as_u64()).sum();
        Some((format!("restarts of {name}"), sum.to_string()))
    };
    items(pods).filter_map(count).collect()
}

fn ready_since(nodes: &Value) -> Counts {
    let since = |(name, node): (&str, &Value)| {
        let conditions = node["status"]["conditions"].as_array()?;
        let ready = conditions.iter().find(|c| c["type"] == "Ready")?;
        let (is, since) = (ready["status"].as_str()?, ready["lastTransitionTime"].as_str()?);
        Some((format!("{name} Ready"), format!("{is} since {since}")))
    };
    items(nodes).filter_map(since).collect()
}

/// In words; what is not there before or after is told too.
pub(super) fn between(before: &Counts, after: &Counts) -> Vec<String> {
    let all: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let of = |counts: &Counts, key: &String| counts.get(key).map_or("-", String::as_str).to_owned();
    let differs = |key: &&String| before.get(*key) != after.get(*key);
    let text = |key: &String| format!("{key}: {}, then {}", of(before, key), of(after, key));
    all.into_iter().filter(differs).map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_differs_is_told() {
        let pods = |n: u64| json!({ "items": [{ "metadata": { "name": "a" }, "status": { "containerStatuses": [{ "restartCount": n }, { "restartCount": 1 }] } }] });
        let node = |is: &str| json!({ "items": [{ "metadata": { "name": "n" }, "status": { "conditions": [{ "type": "Ready", "status": is, "lastTransitionTime": "t" }] } }] });
        let before: Counts = restarts(&pods(1)).into_iter().chain(ready_since(&node("True"))).collect();
        assert!(between(&before, &before).is_empty());
        let after: Counts = restarts(&pods(2)).into_iter().chain(ready_since(&node("False"))).collect();
        assert_eq!(between(&before, &after), ["n Ready: True since t, then False since t", "restarts of a: 2, then 3"]);
        assert_eq!(between(&before, &Counts::new()).len(), 2);
    }

    #[test]
    fn what_a_load_balancer_says_is_counted() {
        let lines =
            ["[2.1] node: started/m is down: its connections are cut", "[2.3] node: holds the virtual IP 10.0.0.1"];
        let lines = [lines.to_vec(), vec![lines[0], "[9.0] node: reaches masters again"]].concat();
        let counts = said("lb-1", &lines.into_iter().map(str::to_owned).collect::<Vec<_>>());
        let expected = [("a master taken for dead by lb-1", "2"), ("virtual IP taken by lb-1", "1")];
        assert_eq!(counts, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert!(said("lb-2", &[]).is_empty());
    }
}
