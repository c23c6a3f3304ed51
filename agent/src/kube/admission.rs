//! A worker's kubelet starts when it has a certificate: one that it has from an earlier boot (then at once: its pods do not
//! wait for the API), or the first one, which is asked for here with the node's token (`enrolment.rs`).
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
use std::time::Duration;

/// Asked this often.
const ASK: Duration = Duration::from_millis(250);
/// Masters need some seconds to boot.
const QUIET: Duration = Duration::from_secs(15);

/// Says `done` once.
pub(super) fn wait(config: &NodeConfig, channel: Channel) -> Result<(), String> {
    let mut told = Told::new(channel, QUIET);
    let mut enrolment = Enrolment::new(config)?;
    while !is_enrolled(now()) {
        match Api::with_token(config).map_err(Failure::Other).and_then(|api| enrolment.go_on(&api, now())) {
            Ok(None) => {}
            Ok(Some(waits)) => told.say(format!("the kubelet waits: {waits}"))?,
            Err(Failure::Unauthorized) => {
                told.say("the kubelet waits: the API does not know this node's token (yet)".into())?;
            }
            Err(e) => told.say(format!("the kubelet waits for the API: {}", with_clock(&e.to_string())))?,
        }
        std::thread::sleep(ASK);
    }
    channel.done(API)
}

/// Whoever finds a certificate too old or too new should look at the clock first.
fn with_clock(why: &str) -> String {
    let is_about_time = ["expired", "not valid yet"].iter().any(|w| why.contains(w));
    let now = i64::try_from(now()).ok().and_then(|n| time::OffsetDateTime::from_unix_timestamp(n).ok());
    match now.filter(|_| is_about_time) {
        Some(now) => format!("{why}; this node's clock says {now}"),
        None => why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::with_clock;

    #[test]
    fn a_certificate_out_of_its_time_names_the_clock() {
        let said = with_clock("io: invalid peer certificate: certificate expired: verification time 1859000000");
        assert!(said.contains("; this node's clock says 2"), "{said}");
        assert_eq!(with_clock("io: Connection refused"), "io: Connection refused");
    }
}
