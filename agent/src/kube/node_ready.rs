//! Whether this node is Ready in the API's eyes: what the kubelet says of it, and what a pod network adds.
//!
//! A node that starts again within `node-monitor-grace-period` finds itself Ready, by what its kubelet said before: only what
//! was said in this boot counts, or those who start nodes again one after the other would go on before this one is back.

use super::Told;
use super::api::{Api, Failure};
use crate::channel::Channel;
use contract::control::condition::NODE_READY;
use contract::node::{Cni, NodeConfig, Role};
use serde_json::Value;
use std::time::Duration;

/// Asked this often until it is.
const ASK: Duration = Duration::from_millis(250);
/// A node takes seconds to become ready; what takes longer is told.
const QUIET: Duration = Duration::from_secs(15);

/// The kubelet tells the API what stands in it (`status.nodeInfo.bootID`), with all else that it says of the node.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Says `done` once.
pub(super) fn watch(config: &NodeConfig, channel: Channel) -> Result<(), String> {
    let mut told = Told::new(channel, QUIET);
    let path = format!("/api/v1/nodes/{}", config.name());
    // Without a pod network of ours nobody knows when one comes: to be there is enough.
    let wants_network = config.cluster.cni != Some(Cni::None);
    let boot = std::fs::read_to_string(BOOT_ID).map_err(|e| format!("{BOOT_ID}: {e}"))?;
    loop {
        let api = match config.roles.contains(&Role::Master) {
            true => Api::local(config),
            false => Api::as_kubelet(config),
        };
        match api.map_err(Failure::Other).and_then(|api| api.get(&path)) {
            Ok(node) if !is_of(&node, boot.trim()) => {
                told.say("the kubelet has said nothing of the node since it started".into())?;
            }
            Ok(node) => match why_not(&node) {
                Some(why) if wants_network => told.say(format!("the node is not Ready: {why}"))?,
                _ => return channel.done(NODE_READY),
            },
            Err(Failure::NotFound) => told.say("the kubelet has not registered the node yet".into())?,
            Err(e) => told.say(format!("the node is not known to be Ready: {e}"))?,
        }
        std::thread::sleep(ASK);
    }
}

/// Whether what the API has of the node was said in this boot.
fn is_of(node: &Value, boot: &str) -> bool {
    node["status"]["nodeInfo"]["bootID"] == boot
}

/// The message of the condition Ready where it is not True.
fn why_not(node: &Value) -> Option<String> {
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|c| c["type"] == "Ready");
    match ready {
        None => Some("the kubelet has said nothing yet".into()),
        Some(c) if c["status"] == "True" => None,
        Some(c) => Some(c["message"].as_str().unwrap_or("it does not say why").chars().take(300).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::{is_of, why_not};
    use serde_json::json;

    #[test]
    fn what_was_said_before_it_started_again_is_old() {
        let node =
            json!({"status": {"nodeInfo": {"bootID": "a"}, "conditions": [{"type": "Ready", "status": "True"}]}});
        assert!(is_of(&node, "a") && !is_of(&node, "b") && !is_of(&json!({}), "a"));
    }

    #[test]
    fn ready_is_what_the_condition_says() {
        let node = |status: &str| json!({"status": {"conditions": [{"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": status, "message": "no network"}]}});
        assert_eq!(why_not(&node("True")), None);
        assert_eq!(why_not(&node("False")).as_deref(), Some("no network"));
        assert!(why_not(&json!({})).is_some());
    }
}
