//! rtnetlink (rtnetlink(7)), with the crate `netlink-packet-route` for the messages.

use super::socket::Socket;
use contract::network::Route;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange, RuleUidRange};
use netlink_packet_route::{AddressFamily as Family, IpProtocol, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

/// The rules of [`Netlink::keep_from`]: after the local addresses (0), before all routes (32766). Their protocol is that of what
/// the administrator sets.
const KEPT_FROM: u32 = 1000;
/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR.
const GROUPS: u32 = 1 | 0x10 | 0x100;

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// The permanent address, else the current one.
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) driver: Option<String>,
    pub(crate) up: bool,
}

/// A socket.
#[derive(Debug)]
pub(crate) struct Netlink(Socket);

impl Netlink {
    /// For requests, or to listen to changes.
    pub(crate) fn open(listen: bool) -> Result<Self, String> {
        Socket::open(SockProtocol::NetlinkRoute, if listen { GROUPS } else { 0 }).map(Self)
    }

    /// Reads away what changed: that something did is all that is asked for.
    pub(crate) fn drain(&self) {
        self.0.drain();
    }

    fn request(&mut self, payload: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>, Errno> {
        self.0.request(payload, flags)
    }

    /// All links.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>, String> {
        let answers = self
            .request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)
            .map_err(|e| format!("listing links: {e}"))?;
        Ok(answers
            .into_iter()
            .filter_map(|a| if let RouteNetlinkMessage::NewLink(l) = a { link(&l) } else { None })
            .collect())
    }

    /// All addresses that can be used, with their links.
    pub(crate) fn addresses(&mut self) -> Result<Vec<(u32, IpAddr)>, String> {
        let answers = self
            .request(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)
            .map_err(|e| format!("listing addresses: {e}"))?;
        Ok(answers
            .into_iter()
            .filter_map(|a| if let RouteNetlinkMessage::NewAddress(a) = a { Some(a) } else { None })
            // Duplicate detection is not over yet: nobody could bind it.
            .filter(|a| !a.header.flags.contains(AddressHeaderFlags::Tentative))
            .filter_map(|a| {
                let local = a
                    .attributes
                    .iter()
                    .find_map(|x| if let AddressAttribute::Local(ip) = x { Some(*ip) } else { None });
                let own = a
                    .attributes
                    .iter()
                    .find_map(|x| if let AddressAttribute::Address(ip) = x { Some(*ip) } else { None });
                Some((a.header.index, local.or(own)?))
            })
            .collect())
    }

    /// The link's address of a neighbour that this node speaks to; none of one that it has not found.
    pub(crate) fn neighbour(&mut self, index: u32, ip: IpAddr) -> Result<Option<Vec<u8>>, String> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(ip);
        let answers = self
            .request(RouteNetlinkMessage::GetNeighbour(message), NLM_F_DUMP)
            .map_err(|e| format!("listing neighbours: {e}"))?;
        let is_its = |a: &NeighbourAttribute| match a {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => ip == IpAddr::V4(*a),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => ip == IpAddr::V6(*a),
            _ => false,
        };
        let of = |n: NeighbourMessage| {
            let found = n.header.ifindex == index && n.attributes.iter().any(is_its);
            n.attributes.into_iter().filter(|_| found).find_map(|a| match a {
                NeighbourAttribute::LinkLayerAddress(a) => Some(a),
                _ => None,
            })
        };
        Ok(answers
            .into_iter()
            .filter_map(|a| if let RouteNetlinkMessage::NewNeighbour(n) = a { Some(n) } else { None })
            .find_map(of))
    }

    /// Sets a link up.
    pub(crate) fn set_up(&mut self, index: u32, mtu: Option<u32>) -> Result<(), String> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        self.request(RouteNetlinkMessage::SetLink(message), NLM_F_ACK)
            .map(|_| ())
            .map_err(|e| format!("setting the link up: {e}"))
    }

    /// Adds an address; one that is there already is no error.
    pub(crate) fn add_address(&mut self, index: u32, net: IpNet) -> Result<(), String> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let message = RouteNetlinkMessage::NewAddress(address_message(index, net));
        self.request(message, flags).map(|_| ()).map_err(|e| format!("adding {net}: {e}"))
    }

    /// Removes an address; one that is not there is no error.
    pub(crate) fn remove_address(&mut self, index: u32, net: IpNet) -> Result<(), String> {
        match self.request(RouteNetlinkMessage::DelAddress(address_message(index, net)), NLM_F_ACK) {
            Ok(_) | Err(Errno::EADDRNOTAVAIL) => Ok(()),
            Err(e) => Err(format!("removing {net}: {e}")),
        }
    }

    /// Adds a route; one that is there already is no error.
    pub(crate) fn add_route(&mut self, index: u32, route: &Route) -> Result<(), String> {
        let mut header = RouteHeader {
            address_family: family(route.to.addr()),
            destination_prefix_length: route.to.prefix_len(),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: if route.via.is_some() { RouteScope::Universe } else { RouteScope::Link },
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        if route.on_link && route.via.is_some() {
            header.flags = RouteFlags::Onlink;
        }
        let mut message = RouteMessage::default();
        message.header = header;
        message.attributes.push(RouteAttribute::Oif(index));
        if route.to.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(address(route.to.addr())));
        }
        message.attributes.extend(route.via.map(|v| RouteAttribute::Gateway(address(v))));
        message.attributes.extend(route.metric.map(RouteAttribute::Priority));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        match self.request(RouteNetlinkMessage::NewRoute(message), flags) {
            Ok(_) | Err(Errno::EEXIST) => Ok(()),
            Err(e) => Err(format!("adding the route to {}: {e}", route.to)),
        }
    }

    /// New connections of a user's to a port are refused at once (ENETUNREACH), and what is sent over the others goes nowhere; one
    /// that is kept from it already is no error.
    pub(crate) fn keep_from(&mut self, user: u32, port: SocketAddr) -> Result<(), String> {
        let mut message = rule(family(port.ip()), user);
        message.header.action = RuleAction::Unreachable;
        message.header.dst_len = if port.is_ipv4() { 32 } else { 128 };
        let ports = RulePortRange { start: port.port(), end: port.port() };
        message.attributes.extend([
            RuleAttribute::Destination(port.ip()),
            RuleAttribute::IpProtocol(IpProtocol::Tcp),
            RuleAttribute::DestinationPortRange(ports),
        ]);
        match self.request(RouteNetlinkMessage::NewRule(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
            Ok(_) | Err(Errno::EEXIST) => Ok(()),
            Err(e) => Err(format!("keeping a user from {port}: {e}")),
        }
    }

    /// A user is kept from no port any more.
    pub(crate) fn reach_all(&mut self, user: u32) -> Result<(), String> {
        for family in [Family::Inet, Family::Inet6] {
            // One at a time goes.
            while match self.request(RouteNetlinkMessage::DelRule(rule(family, user)), NLM_F_ACK) {
                Ok(_) => true,
                // ... or the kernel has no IPv6.
                Err(Errno::ENOENT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP) => false,
                Err(e) => return Err(format!("letting a user reach all: {e}")),
            } {}
        }
        Ok(())
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn address_message(index: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(net.addr());
    message.header.index = index;
    message.header.prefix_len = net.prefix_len();
    if net.addr().is_ipv6() {
        // The address is this node's by declaration; waiting for duplicates would cost a second of every boot.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    message
}

fn rule(family: Family, user: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    message.attributes = vec![
        RuleAttribute::Priority(KEPT_FROM),
        RuleAttribute::Protocol(RouteProtocol::Static),
        RuleAttribute::UidRange(RuleUidRange { start: user, end: user }),
    ];
    message
}

fn family(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::Inet } else { Family::Inet6 }
}

fn address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(a) => RouteAddress::Inet(a),
        IpAddr::V6(a) => RouteAddress::Inet6(a),
    }
}

fn link(message: &LinkMessage) -> Option<Link> {
    let find = |f: fn(&LinkAttribute) -> Option<Vec<u8>>| message.attributes.iter().find_map(f);
    let name = find(|a| if let LinkAttribute::IfName(n) = a { Some(n.clone().into_bytes()) } else { None })?;
    let permanent = find(|a| if let LinkAttribute::PermAddress(m) = a { Some(m.clone()) } else { None });
    let current = find(|a| if let LinkAttribute::Address(m) = a { Some(m.clone()) } else { None });
    let name = String::from_utf8(name).ok()?;
    let driver = std::fs::read_link(format!("/sys/class/net/{name}/device/driver")).ok();
    Some(Link {
        index: message.header.index,
        mac: permanent.or(current).and_then(|m| m.try_into().ok()),
        driver: driver.and_then(|d| Some(d.file_name()?.to_string_lossy().into_owned())),
        up: message.header.flags.contains(LinkFlags::Up),
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_every_machine_has() {
        let mut n = Netlink::open(false).expect("netlink");
        let lo = n.links().expect("links").into_iter().find(|l| l.name == "lo").expect("lo");
        assert!(n.addresses().expect("addresses").contains(&(lo.index, IpAddr::from([127, 0, 0, 1]))));
    }

    /// In a network of its own, which is root's to have; whoever else runs this sees that it is refused.
    #[test]
    fn a_user_is_kept_from_one_port_and_then_reaches_all() {
        if let Err(e) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            assert!(!nix::unistd::geteuid().is_root(), "{e}");
            return;
        }
        let mut n = Netlink::open(false).expect("netlink");
        let lo = n.links().expect("links").into_iter().find(|l| l.name == "lo").expect("lo");
        n.set_up(lo.index, None).expect("up");
        // To be routed it must be another machine's.
        let to = "192.0.2.0/24".parse().expect("a network");
        n.add_route(lo.index, &Route { to, via: None, metric: None, on_link: false }).expect("a route");
        let user = nix::unistd::geteuid().as_raw();
        let reaches = |port: u16| {
            let to = SocketAddr::from(([192, 0, 2, 1], port));
            let tried = std::net::TcpStream::connect_timeout(&to, std::time::Duration::from_millis(50));
            tried.expect_err("nobody is there").kind() != std::io::ErrorKind::NetworkUnreachable
        };
        assert!(reaches(2379));
        for _ in 0..2 {
            n.keep_from(user, SocketAddr::from(([192, 0, 2, 1], 2379))).expect("kept");
            n.keep_from(user, "[2001:db8::1]:2379".parse().expect("an address")).expect("kept");
        }
        assert!(!reaches(2379) && reaches(2380));
        n.reach_all(user + 1).expect("nothing to do");
        assert!(!reaches(2379));
        n.reach_all(user).expect("reached");
        assert!(reaches(2379));
    }
}
