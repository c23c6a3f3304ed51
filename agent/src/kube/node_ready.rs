//! Whether this node is Ready in the API's eyes: what the kubelet says of it, and what a pod network adds.

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

/// Says `done` once.
pub(super) fn watch(config: &NodeConfig, channel: Channel) -> Result<(), String> {
    let mut told = Told::new(channel, QUIET);
    let path = format!("/api/v1/nodes/{}", config.name());
    // Without a pod network of ours nobody knows when one comes: to be there is enough.
    let wants_network = config.cluster.cni != Some(Cni::None);
    loop {
        let api = match config.roles.contains(&Role::Master) {
            true => Api::local(config),
            false => Api::as_kubelet(config),
        };
        match api.map_err(Failure::Other).and_then(|api| api.get(&path)) {
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
    use super::why_not;
    use serde_json::json;

    #[test]
    fn ready_is_what_the_condition_says() {
        let node = |status: &str| json!({"status": {"conditions": [{"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": status, "message": "no network"}]}});
        assert_eq!(why_not(&node("True")), None);
        assert_eq!(why_not(&node("False")).as_deref(), Some("no network"));
        assert!(why_not(&json!({})).is_some());
    }
}
