//! The cluster's objects are what `objects/` says: at every boot by server-side apply, so that one that was deleted comes
//! back and a field that somebody else set stays. From then on they are read on a timer, and applied where something is
//! missing: an apply that changes nothing is a write all the same for whoever reads the audit log.

use super::Told;
use super::api::{Api, Failure};
use super::objects::{self, Object};
use crate::channel::Channel;
use crate::net::dns::RESOLV_CONF;
use contract::control::condition::OBJECTS;
use contract::node::NodeConfig;
use serde_json::Value;
use std::time::Duration;

/// A deleted object is back after this.
const AGAIN: Duration = Duration::from_secs(15);
/// What failed is tried again after this: an apiserver starts, a namespace is made.
const RETRY: Duration = Duration::from_millis(250);
/// Only after this is a failure worth a word.
const QUIET: Duration = Duration::from_secs(20);

/// For ever.
pub(super) fn see_to_it(config: &NodeConfig, channel: Channel) -> Result<(), String> {
    let mut told = Told::new(channel, QUIET);
    let mut done = false;
    loop {
        // A resolver may appear late, by DHCP or by a later seed.
        let resolver = std::fs::read_to_string(RESOLV_CONF).is_ok_and(|text| names_a_resolver(&text));
        match apply(config, &objects::all(config, resolver), done) {
            Ok(()) => {
                if !done {
                    channel.done(OBJECTS)?;
                    done = true;
                }
                std::thread::sleep(AGAIN);
            }
            Err(e) => {
                told.say(format!("the cluster's objects are not all there: {e}"))?;
                std::thread::sleep(RETRY);
            }
        }
    }
}

/// resolv.conf(5).
fn names_a_resolver(text: &str) -> bool {
    text.lines().any(|l| l.split_whitespace().next() == Some("nameserver"))
}

/// Those that are there as they should be are left alone if all were applied before.
fn apply(config: &NodeConfig, all: &[Object], before: bool) -> Result<(), String> {
    let api = Api::local(config)?;
    api.is_well("/readyz")?;
    for object in all {
        if before && api.get(&object.path).is_ok_and(|there| has(&there, &object.value)) {
            continue;
        }
        api.apply(&object.path, &object.value).map_err(|e| format!("{}: {e}", object.path))?;
    }
    // Its own labels a kubelet may not set; and a node that is not there must not be made by applying to it.
    let node = objects::master_node(config);
    match api.get(&node.path) {
        Ok(there) if before && has(&there, &node.value) => Ok(()),
        Ok(_) => api.apply(&node.path, &node.value).map(|_| ()).map_err(|e| format!("{}: {e}", node.path)),
        Err(Failure::NotFound) => Err(format!("{}: the kubelet has not registered it yet", node.path)),
        Err(e) => Err(format!("{}: {e}", node.path)),
    }
}

/// Whether an object has every field that is wanted, whatever else it has. In doubt it has not: a list to which somebody added
/// something, a quantity in other words, or a field that the API leaves out, is applied each time.
fn has(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            wanted.iter().all(|(field, wanted)| there.get(field).is_some_and(|there| has(there, wanted)))
        }
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len() && there.iter().zip(wanted).all(|(there, wanted)| has(there, wanted))
        }
        _ => there == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::{has, names_a_resolver};
    use serde_json::json;

    #[test]
    fn an_object_has_what_is_wanted_whatever_else_it_has() {
        let wanted = json!({
            "metadata": { "labels": { "role": "" } },
            "spec": { "containers": [{ "name": "a", "args": ["x"], "escalates": false }] },
        });
        let there = |labels, containers| {
            json!({
                "metadata": { "labels": labels, "uid": "1" }, "status": {},
                "spec": { "containers": containers, "replicas": 1 },
            })
        };
        let own = json!({ "name": "a", "args": ["x"], "escalates": false, "image": "defaulted" });
        let labels = json!({ "role": "", "mine": "yes" });
        assert!(has(&there(labels.clone(), json!([own])), &wanted));
        assert!(!has(&there(json!({}), json!([own])), &wanted), "an empty label is one");
        assert!(!has(&there(labels.clone(), json!([own, own])), &wanted), "more than is wanted");
        assert!(!has(&there(labels.clone(), json!([])), &wanted));
        let without = json!({ "name": "a", "args": ["x"] });
        assert!(!has(&there(labels.clone(), json!([without])), &wanted), "false is a word, too");
        let other = json!({ "name": "a", "args": ["y"], "escalates": false });
        assert!(!has(&there(labels, json!([other])), &wanted));
    }

    #[test]
    fn resolvers_in_resolv_conf() {
        assert!(names_a_resolver("search a.b\nnameserver 10.77.0.3\n"));
        assert!(!names_a_resolver("# nameserver 10.77.0.3\nsearch a.b\n"));
        assert!(!names_a_resolver(""));
    }
}
