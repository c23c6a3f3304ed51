//! The cluster's objects are what `objects/` says: at every boot and on a timer, by server-side apply, so that one that was
//! deleted comes back and a field that somebody else set stays.

use super::Told;
use super::api::{Api, Failure};
use super::objects::{self, Object};
use crate::channel::Channel;
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
pub(super) fn see_to_it(config: &NodeConfig, resolver: bool, channel: Channel) -> Result<(), String> {
    let all = objects::all(config, resolver);
    let mut told = Told::new(channel, QUIET);
    let mut done = false;
    loop {
        match apply(config, &all) {
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
