//! The virtual IP as the kernel has it.
//!
//! Whoever holds it has it on the loopback too, and keeps it there for [`contract::lb::DRAIN_MS`] when keepalived takes it off
//! the interface: without an address of its own the kernel would drop what is on its way here, and could not send what HAProxy
//! has to say. Requests in flight would hang until their clients lose patience; so they are answered, or refused at once. The
//! network is told of the new holder only (`arp_ignore` and `arp_announce` of the image; IPv6 answers per interface by itself).

use super::stranger;
use crate::net::netlink::{Link, Netlink};
use contract::lb::HAND_OVER_MS;
use contract::node::NodeConfig;
use contract::paths;
use contract::seed::NodeSeed;
use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The index of the loopback interface, in every network namespace (`LOOPBACK_IFINDEX`, include/net/net_namespace.h).
const LOOPBACK: u32 = 1;

/// The link that has an address.
pub(super) fn link_of(netlink: &mut Netlink, address: IpAddr) -> Result<Link, String> {
    let found = netlink.addresses()?.into_iter().find(|(_, a)| *a == address);
    let (index, _) = found.ok_or_else(|| format!("no interface has {address}"))?;
    let link = netlink.links()?.into_iter().find(|l| l.index == index);
    link.ok_or_else(|| format!("the interface with {address} is gone"))
}

/// Whether this node holds the address: it is on an interface of the network.
pub(super) fn is_here(netlink: &mut Netlink, vip: IpAddr) -> Result<bool, String> {
    Ok(netlink.addresses()?.iter().any(|(index, a)| *a == vip && *index != LOOPBACK))
}

/// Puts the address on the loopback, so that connections may end when it has moved.
pub(super) fn keep(netlink: &mut Netlink, vip: IpAddr) -> Result<(), String> {
    // An address of its own, never a source for others: keepalived's prefix.
    netlink.add_address(LOOPBACK, IpNet::from(vip))
}

/// ... and takes it away from there.
pub(super) fn let_go(netlink: &mut Netlink, vip: IpAddr) -> Result<(), String> {
    netlink.remove_address(LOOPBACK, IpNet::from(vip))
}

/// The verb `drop-vip ADDRESS`: takes the address off every link of the network; run each time keepalived ended, because one
/// that was killed leaves it behind.
pub(crate) fn drop(vip: &str) -> Result<(), String> {
    let vip: IpAddr = vip.parse().map_err(|_| format!("`{vip}` is no address"))?;
    let mut netlink = Netlink::open(false)?;
    for (index, address) in netlink.addresses()? {
        if address == vip && index != LOOPBACK {
            netlink.remove_address(index, IpNet::from(vip))?;
            println!("took {vip} away, which keepalived left behind");
        }
    }
    Ok(())
}

/// The verb `hand-over-vip ADDRESS`: as `drop-vip`, on a node that stops; then waits until a peer advertises that it has the
/// address. HAProxy is stopped after that.
pub(crate) fn hand_over(vip: &str) -> Result<(), String> {
    drop(vip)?;
    let text = std::fs::read(paths::NODE_JSON).map_err(|e| format!("{}: {e}", paths::NODE_JSON))?;
    let seed: NodeSeed = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", paths::NODE_JSON))?;
    wait_for_peer(&seed.node).map_err(|e| format!("waiting for a peer that has {vip}: {e}"))
}

fn wait_for_peer(config: &NodeConfig) -> std::io::Result<()> {
    let Some((lb, vip)) = config.lb.as_ref().zip(config.virtual_ip()) else { return Ok(()) };
    let is_peer = |from: IpAddr| from != config.node.address && lb.peers.iter().any(|p| p.address == from);
    if !lb.peers.iter().any(|p| is_peer(p.address)) {
        return Ok(());
    }
    let heard = stranger::open(config.node.address, vip)?;
    let deadline = Instant::now() + Duration::from_millis(HAND_OVER_MS.into());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(heard.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::ZERO))? == 0 {
            println!("no peer took {vip} within {HAND_OVER_MS} ms");
            return Ok(());
        }
        match stranger::receive(&heard, vip.is_ipv4())? {
            Some((from, id)) if Some(id) == lb.virtual_router_id && is_peer(from) => return Ok(()),
            _ => {}
        }
    }
}
