//! The cluster's objects are what `objects/` says: at every boot and on a timer, by server-side apply, so that one that was
//! deleted comes back and a field that somebody else set stays.

use super::Told;
use super::api::{Api, Failure};
use super::objects::{self, Object};
use crate::channel::Channel;
use crate::net::dns::RESOLV_CONF;
use contract::control::condition::OBJECTS;
use contract::node::NodeConfig;
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
        match apply(config, &objects::all(config, resolver)) {
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

fn apply(config: &NodeConfig, all: &[Object]) -> Result<(), String> {
    let api = Api::local(config)?;
    api.is_well("/readyz")?;
    for object in all {
        api.apply(&object.path, &object.value).map_err(|e| format!("{}: {e}", object.path))?;
    }
    // Its own labels a kubelet may not set; and a node that is not there must not be made by applying to it.
    let node = objects::master_node(config);
    match api.get(&node.path) {
        Ok(_) => api.apply(&node.path, &node.value).map(|_| ()).map_err(|e| format!("{}: {e}", node.path)),
        Err(Failure::NotFound) => Err(format!("{}: the kubelet has not registered it yet", node.path)),
        Err(e) => Err(format!("{}: {e}", node.path)),
    }
}

#[cfg(test)]
mod tests {
    use super::names_a_resolver;

    #[test]
    fn resolvers_in_resolv_conf() {
        assert!(names_a_resolver("search a.b\nnameserver 10.77.0.3\n"));
        assert!(!names_a_resolver("# nameserver 10.77.0.3\nsearch a.b\n"));
        assert!(!names_a_resolver(""));
    }
}
