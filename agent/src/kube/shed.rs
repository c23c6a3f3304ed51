//! Clients leave an apiserver that lacks its etcd.
//!
//! Load balancers send new clients elsewhere as soon as the etcd behind an apiserver is slow, has no leader or says nothing
//! (`ready.rs`), and leave those that are connected alone, which an election must not cut. When that lasts, they are badly off:
//! each request times out or is late, and HTTP/2 keeps the connection, as its pings are answered. So their connections are ended
//! once another master is known to serve: it answers through the load balancers, as it will answer them.

use super::api::Api;
use crate::channel::Channel;
use crate::etcd::health::Health;
use crate::net::tcp;
use contract::control::FromAgent;
use contract::node::{NodeConfig, Role};
use contract::ports::API;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Whether another master serves is asked again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// Some come back: pods have addresses of all masters, and balancers that do not ask this node send them as before.
const REST: Duration = Duration::from_secs(10);

/// Waits for it, and does it.
pub(super) fn watch(config: &NodeConfig, health: &Health, channel: Channel) -> Result<(), String> {
    if config.cluster.endpoint.is_none() {
        return Ok(());
    }
    let service = SocketAddr::new(config.node.address, API);
    let mut from = Instant::now();
    loop {
        health.until_clients_leave(from);
        from = Instant::now() + AGAIN;
        // Without an etcd that answers nobody says so.
        let elsewhere = Api::at_endpoint(config).and_then(|api| api.is_well("/readyz"));
        if elsewhere.is_err() || health.is_healthy() {
            continue;
        }
        from = Instant::now() + REST;
        match tcp::abort_clients(service, |client| goes(config, client)) {
            Ok(0) => {}
            Ok(ended) => channel.say(&FromAgent::Tell {
                text: format!("{ended} connections of clients are ended: another master has an etcd that is well"),
            })?,
            Err(e) => channel.notice(format!("clients stay, though another master has an etcd that is well: {e}"))?,
        }
    }
}

/// Whether a client from this address is one for another master: this node's own programs are for this one, unless it balances
/// the load, too.
fn goes(config: &NodeConfig, client: IpAddr) -> bool {
    client != config.node.address || config.roles.contains(&Role::Lb)
}
