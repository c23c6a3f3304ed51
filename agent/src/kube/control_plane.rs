//! Static pods start when what they need is there, and so does the kubelet, and the API's readiness is known.
//!
//! An apiserver without etcd ends after a while and is restarted ever later, and so do the others without an apiserver. So
//! each manifest is moved to where the kubelet looks only then: the apiserver's when etcd answers, the others' when the
//! apiserver of this node is ready. (When it only listens it may refuse their mirror pods: one was missing when all else
//! was ready then, and that 0.3 s earlier.)
//!
//! Three apiservers that start at the same moment on an empty etcd all create the same objects, and stall each other: the
//! first master goes ahead, the others follow when it listens, or after a bound.

use super::Told;
use super::api::Api;
use crate::channel::Channel;
use crate::etcd;
use contract::control::FromAgent;
use contract::control::condition::{API, STORE};
use contract::kube::{self, Component};
use contract::node::NodeConfig;
use contract::ports;
use contract::users;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Neither etcd nor the apiserver announces that it is ready; each is asked this often.
const ASK: Duration = Duration::from_millis(100);
/// An apiserver that is ready is asked this often whether it still is: what a load balancer hears is as old as this.
const READY: Duration = Duration::from_millis(250);
/// The first apiserver on an empty etcd is ready within three seconds of processor time.
const HEAD_START: Duration = Duration::from_secs(8);
/// A connection in the same network.
const CONNECT: Duration = Duration::from_millis(200);
/// Waits shorter than this are nothing to speak of.
const QUIET: Duration = Duration::from_secs(10);

/// Starts the control plane, and then keeps `is_ready` what it is.
pub(super) fn watch(config: &NodeConfig, is_ready: &AtomicBool, channel: Channel) -> Result<(), String> {
    let mut told = Told::new(channel, QUIET);
    while let Err(why) = etcd::serves_apiserver(config) {
        told.say(format!("the apiserver waits for etcd: {why}"))?;
        std::thread::sleep(ASK);
    }
    let_the_first_begin(config);
    start(kube::APISERVER)?;
    channel.done(STORE)?;
    let mut began = false;
    loop {
        let well = Api::local(config).and_then(|api| api.is_well("/readyz"));
        is_ready.store(well.is_ok(), Ordering::Relaxed);
        match well {
            Ok(()) if !began => {
                began = true;
                channel.say(&FromAgent::Tell { text: "the apiserver of this node is ready".into() })?;
                start(kube::CONTROLLER_MANAGER)?;
                start(kube::SCHEDULER)?;
                channel.done(API)?;
            }
            Ok(()) => {}
            Err(e) => told.say(format!("the apiserver of this node is not ready: {e}"))?,
        }
        std::thread::sleep(if began { READY } else { ASK });
    }
}

/// Moves a manifest over: written beside under a name that the kubelet passes over, and renamed.
fn start(component: Component) -> Result<(), String> {
    let (from, to) = (component.planned(), component.manifest());
    let text = fs::read_to_string(&from).map_err(|e| format!("{from}: {e}"))?;
    if fs::read_to_string(&to).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let path = Path::new(&to);
    let beside = path.with_file_name(format!(".{}.new", component.name));
    crate::pki::write_file(&beside, &text, 0o600, users::ROOT).map_err(|e| format!("{}: {e}", beside.display()))?;
    fs::rename(&beside, path).map_err(|e| format!("{to}: {e}"))
}

/// Only on an empty etcd: with data in it there is nothing to create.
fn let_the_first_begin(config: &NodeConfig) {
    let first = config.masters.iter().next();
    let Some((_, address)) = first.filter(|(name, _)| name.as_str() != config.name()) else { return };
    if etcd::has_keys(config, b"/registry/").unwrap_or(true) {
        return;
    }
    let deadline = Instant::now() + HEAD_START;
    let api = SocketAddr::new(*address, ports::API);
    // It listens only after it has begun to serve.
    while TcpStream::connect_timeout(&api, CONNECT).is_err() && Instant::now() < deadline {
        std::thread::sleep(ASK);
    }
}
