//! A worker's kubelet starts when the API answers and it has a certificate: one that it has from an earlier boot, or the first
//! one, which is asked for here with the node's token (`enrolment.rs`).
//!
//! Without the API it could do nothing: which pods are its own it has from there alone. It asks again ever later, up to half
//! a minute apart, and where all nodes boot at once (after a power cut, say) the masters need some seconds longer.
//!
//! The kubelet could ask by itself (TLS bootstrap). It begins all its watches before the answer is there, as nobody; they
//! are turned away and try again ever later, each at its own time. A pod that comes before the list of services is put off
//! for ten seconds or more ("services have not yet been read at least once"), which cost a fresh worker half its start.

use super::Told;
use super::api::{Api, Failure};
use super::enrolment::{Enrolment, is_enrolled};
use crate::channel::Channel;
use crate::clock::now;
use contract::control::condition::API;
use contract::node::NodeConfig;
use std::time::{Duration, Instant};

/// Asked this often.
const ASK: Duration = Duration::from_millis(250);
/// Masters need some seconds to boot.
const QUIET: Duration = Duration::from_secs(15);
/// Those that answer first need some more until they know the nodes' tokens.
const TOKENS: Duration = Duration::from_secs(5);

/// Says `done` once.
pub(super) fn wait(config: &NodeConfig, channel: Channel) -> Result<(), String> {
    let mut told = Told::new(channel, QUIET);
    let mut enrolment = Enrolment::new(config)?;
    let mut unknown: Option<Instant> = None;
    while is_enrolled(now()) {
        match Api::with_token(config).and_then(|api| api.is_well("/readyz")) {
            Ok(()) => return channel.done(API),
            Err(e) => told.say(format!("the kubelet waits for the API: {e}"))?,
        }
        std::thread::sleep(ASK);
    }
    while !is_enrolled(now()) {
        match Api::with_token(config).map_err(Failure::Other).and_then(|api| enrolment.go_on(&api, now())) {
            Ok(None) => {}
            Ok(Some(waits)) => told.say(format!("the kubelet waits: {waits}"))?,
            Err(Failure::Unauthorized) => {
                if unknown.get_or_insert_with(Instant::now).elapsed() >= TOKENS {
                    told.speak();
                }
                told.say("the kubelet waits: the API does not know this node's token (yet)".into())?;
            }
            Err(Failure::Stranger(e)) => {
                // Nothing that masters do while they boot.
                told.speak();
                told.say(format!("the kubelet waits for the API: {e}"))?;
            }
            Err(e) => told.say(format!("the kubelet waits for the API: {e}"))?,
        }
        std::thread::sleep(ASK);
    }
    channel.done(API)
}
