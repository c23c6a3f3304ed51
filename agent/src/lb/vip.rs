//! The virtual IP as the kernel has it.

use crate::net::netlink::Netlink;
use ipnet::IpNet;
use std::net::IpAddr;

/// The name of the link that has an address.
pub(super) fn link_of(netlink: &mut Netlink, address: IpAddr) -> Result<String, String> {
    let found = netlink.addresses()?.into_iter().find(|(_, a)| *a == address);
    let (index, _) = found.ok_or_else(|| format!("no interface has {address}"))?;
    let link = netlink.links()?.into_iter().find(|l| l.index == index);
    link.map(|l| l.name).ok_or_else(|| format!("the interface with {address} is gone"))
}

/// Whether this node has the address.
pub(super) fn is_here(netlink: &mut Netlink, vip: IpAddr) -> Result<bool, String> {
    Ok(netlink.addresses()?.iter().any(|(_, a)| *a == vip))
}

/// The verb `drop-vip ADDRESS`: takes the address off every link; run each time keepalived ended, because one that was
/// killed leaves it behind.
pub(crate) fn drop(vip: &str) -> Result<(), String> {
    let vip: IpAddr = vip.parse().map_err(|_| format!("`{vip}` is no address"))?;
    let mut netlink = Netlink::open(false)?;
    for (index, address) in netlink.addresses()? {
        if address == vip {
            // keepalived's prefix: an address of its own, never a source for others.
            netlink.remove_address(index, IpNet::from(vip))?;
            println!("took {vip} away, which keepalived left behind");
        }
    }
    Ok(())
}
