//! Listens whether a router that is none of ours uses the same virtual router id: two clusters with one id on one network
//! take each other's addresses away. Only what reaches this node is heard: multicast, or unicast meant for it.

use crate::channel::Channel;
use contract::node::NodeConfig;
use nix::errno::Errno;
use nix::sys::socket::{
    IpMembershipRequest, Ipv6MembershipRequest, SockaddrStorage, recvfrom, setsockopt,
    sockopt::{IpAddMembership, Ipv6AddMembership},
};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// IANA's protocol number.
const VRRP: i32 = 112;
/// The groups of VRRP (RFC 9568, 5.1.1.2 and 5.1.2.2).
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// Longer packets are cut off: only the first bytes are looked at.
const PACKET: usize = 128;
/// So many strangers are told; more would only fill the report.
const TOLD_MAX: usize = 10;

/// In a thread of its own. That it cannot listen is told, and no reason not to balance.
pub(super) fn listen(config: &NodeConfig, vip: IpAddr, channel: Channel) {
    let Some(lb) = &config.lb else { return };
    let known: BTreeSet<IpAddr> = lb.peers.iter().map(|p| p.address).collect();
    let (own, id) = (config.node.address, lb.virtual_router_id);
    std::thread::spawn(move || {
        let result = open(own, vip).and_then(|fd| {
            let mut told = BTreeSet::new();
            loop {
                let Some((from, found)) = receive(&fd, vip.is_ipv4())? else { continue };
                if Some(found) == id && !known.contains(&from) && told.len() < TOLD_MAX && told.insert(from) {
                    let text = format!(
                        "{from} advertises the virtual router id {found}, which is this cluster's: they would take each \
                         other's addresses away; hint: [lb] virtual_router_id"
                    );
                    channel.notice(text).map_err(io::Error::other)?;
                }
            }
        });
        let result: io::Result<()> = result;
        if let Err(e) = result {
            eprintln!("listening to other VRRP routers: {e}");
        }
    });
}

/// A socket that hears what VRRP routers tell this node.
pub(super) fn open(own: IpAddr, vip: IpAddr) -> io::Result<OwnedFd> {
    let fd = raw(if vip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 })?;
    match own {
        IpAddr::V4(ip) => setsockopt(&fd, IpAddMembership, &IpMembershipRequest::new(GROUP_V4, Some(ip)))?,
        IpAddr::V6(_) => setsockopt(&fd, Ipv6AddMembership, &Ipv6MembershipRequest::new(GROUP_V6))?,
    }
    Ok(fd)
}

/// A raw socket of VRRP's: nix knows only the protocols that it names.
#[expect(unsafe_code, reason = "socket(2) with a protocol number")]
fn raw(family: i32) -> io::Result<OwnedFd> {
    // SAFETY: constants go in; the descriptor that comes out belongs to nobody else.
    unsafe {
        match libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, VRRP) {
            fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The next packet's sender and virtual router id; none for what is no VRRP.
pub(super) fn receive(fd: &OwnedFd, ipv4: bool) -> io::Result<Option<(IpAddr, u8)>> {
    let mut packet = [0; PACKET];
    let (length, from) = match recvfrom::<SockaddrStorage>(fd.as_raw_fd(), &mut packet) {
        Ok((n, Some(from))) => (n, from),
        Ok(_) | Err(Errno::EINTR) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let v4 = from.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
    let from = v4.or_else(|| from.as_sockaddr_in6().map(|a| IpAddr::from(a.ip())));
    Ok(from.zip(router_id(&packet[..length.min(PACKET)], ipv4)))
}

/// The virtual router id of an advertisement (RFC 9568, 5.2). An IPv4 raw socket delivers the IP header too.
fn router_id(packet: &[u8], ipv4: bool) -> Option<u8> {
    let header = if ipv4 { usize::from(packet.first()? & 0x0f) * 4 } else { 0 };
    match packet.get(header..)? {
        // Version 2 or 3, type 1.
        [0x21 | 0x31, id, ..] => Some(*id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_advertisement() {
        let mut packet = vec![0x45; 20];
        packet.extend([0x31, 77, 110, 1, 0, 10]);
        assert_eq!(router_id(&packet, true), Some(77));
        assert_eq!(router_id(&packet[20..], false), Some(77));
        packet[20] = 0x41;
        assert_eq!(router_id(&packet, true), None);
    }

    proptest! {
        #[test]
        fn never_panics(packet in prop::collection::vec(any::<u8>(), 0..128), ipv4: bool) {
            let _ = router_id(&packet, ipv4);
        }
    }
}
