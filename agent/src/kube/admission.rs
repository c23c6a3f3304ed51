//! A worker's kubelet starts when the API lets it in: with its token for the first time, or with a certificate that it has
//! already (then at once: its pods do not wait for the API). A kubelet that is turned away tries again ever later.

use super::Told;
use super::api::{Api, Failure};
use crate::channel::Channel;
use contract::control::condition::API;
use contract::kube;
use contract::node::NodeConfig;
use std::path::Path;
use std::time::Duration;

/// Asked this often.
const ASK: Duration = Duration::from_millis(250);
/// Masters need some seconds to boot.
const QUIET: Duration = Duration::from_secs(15);
/// Whoever holds a token may make requests and nothing else, so the answer to this is no; but it is not "who are you?".
const ANYTHING: &str = "/api/v1/nodes";

/// Says `done` once.
pub(super) fn wait(config: &NodeConfig, channel: Channel) -> Result<(), String> {
    let mut told = Told::new(channel, QUIET);
    while !Path::new(kube::KUBELET_OWN_CERT).exists() {
        match Api::with_token(config).map_err(Failure::Other).and_then(|api| api.get(ANYTHING)) {
            Ok(_) | Err(Failure::Forbidden | Failure::NotFound) => break,
            Err(Failure::Unauthorized) => {
                told.say("the kubelet waits: the API does not know this node's token (yet)".into())?;
            }
            Err(Failure::Other(e)) => told.say(format!("the kubelet waits for the API: {e}"))?,
        }
        std::thread::sleep(ASK);
    }
    channel.done(API)
}
