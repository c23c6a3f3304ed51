//! ARP (RFC 826) of one interface, as far as it is about one address: what others say, and what this node says.

use crate::net::netlink::Link;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socket};
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// An Ethernet header and a packet of ARP. Longer frames are padded: only this is looked at.
const FRAME: usize = 14 + 28;

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// What somebody else said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// That it is theirs.
    Has(Mac),
    /// They ask whose it is, and have none themselves (a probe, RFC 5227, 1.1).
    Asks,
    /// Nothing of this address.
    Other,
}

/// An interface's ARP.
#[derive(Debug)]
pub(super) struct Arp {
    fd: OwnedFd,
    /// Where the kernel tells the interface's own address, which may change, as that of a bond does.
    own: PathBuf,
}

impl Arp {
    /// Of an interface.
    pub(super) fn open(link: &Link) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // It hears nothing before it is bound.
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        bind(&fd, link.index)?;
        Ok(Self { fd, own: format!("/sys/class/net/{}/address", link.name).into() })
    }

    /// Tells everybody that the address is this interface's (an announcement, RFC 5227, 3).
    pub(super) fn announce(&self, address: Ipv4Addr) -> io::Result<()> {
        self.say(address, address)
    }

    /// Asks everybody whose it is, in the name of nobody: whoever has it is to say so.
    pub(super) fn probe(&self, address: Ipv4Addr) -> io::Result<()> {
        self.say(Ipv4Addr::UNSPECIFIED, address)
    }

    fn say(&self, source: Ipv4Addr, target: Ipv4Addr) -> io::Result<()> {
        let own = std::fs::read_to_string(&self.own)?.trim().parse::<EthernetAddress>();
        let EthernetAddress(own) = own.map_err(|()| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        send(self.fd.as_raw_fd(), &frame(own, source, target), MsgFlags::empty())?;
        Ok(())
    }

    /// The next frame, as far as it is about the address; none when there is no more.
    pub(super) fn hear(&self, address: Ipv4Addr) -> io::Result<Option<Heard>> {
        let mut buffer = [0; FRAME];
        loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(n) => return Ok(Some(heard(&buffer[..n], address).unwrap_or(Heard::Other))),
                Err(Errno::EAGAIN) => return Ok(None),
                // It was set down; it may come up again.
                Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsFd for Arp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// nix makes no addresses of links (packet(7)).
#[expect(unsafe_code, reason = "bind(2) with a sockaddr_ll")]
fn bind(fd: &OwnedFd, index: u32) -> io::Result<()> {
    let word = |n: i32| u16::try_from(n).map_err(io::Error::other);
    let (family, protocol) = (word(libc::AF_PACKET)?, word(libc::ETH_P_ARP)?);
    let index = i32::try_from(index).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: it is all integers, of which zero is one; bind reads as many bytes as it has.
    unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = family;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = index;
        match libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// A request to everybody.
fn frame(own: Mac, source: Ipv4Addr, target: Ipv4Addr) -> [u8; FRAME] {
    let own = EthernetAddress(own);
    let mut bytes = [0; FRAME];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    EthernetRepr { src_addr: own, dst_addr: EthernetAddress::BROADCAST, ethertype: EthernetProtocol::Arp }
        .emit(&mut frame);
    ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: own,
        source_protocol_addr: source,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    }
    .emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}

/// What a frame from somewhere else says of the address.
fn heard(bytes: &[u8], address: Ipv4Addr) -> Option<Heard> {
    let frame = EthernetFrame::new_checked(bytes).ok()?;
    let packet = ArpPacket::new_checked(frame.payload()).ok()?;
    match ArpRepr::parse(&packet).ok()? {
        ArpRepr::EthernetIpv4 { source_hardware_addr: EthernetAddress(mac), source_protocol_addr: ip, .. }
            if ip == address =>
        {
            Some(Heard::Has(mac))
        }
        ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_protocol_addr: Ipv4Addr::UNSPECIFIED,
            target_protocol_addr: ip,
            ..
        } if ip == address => Some(Heard::Asks),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);

    #[test]
    fn what_is_said_is_heard() {
        let own = [2, 0, 0, 0, 0, 1];
        let announcement = frame(own, VIP, VIP);
        assert_eq!(heard(&announcement, VIP), Some(Heard::Has(own)));
        assert_eq!(heard(&announcement, Ipv4Addr::new(10, 77, 0, 11)), None);
        assert_eq!(heard(&frame(own, Ipv4Addr::UNSPECIFIED, VIP), VIP), Some(Heard::Asks));
        assert_eq!(heard(&frame(own, Ipv4Addr::new(10, 77, 0, 2), VIP), VIP), None, "a client that looks for it");
        assert_eq!(heard(&announcement[..41], VIP), None);
    }

    /// In a network of its own, which is root's to have; whoever else runs this sees that it is refused.
    #[test]
    fn an_interface_of_the_kernel() {
        if let Err(e) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            assert!(!nix::unistd::geteuid().is_root(), "{e}");
            return;
        }
        let mut netlink = crate::net::netlink::Netlink::open(false).expect("netlink");
        let lo = netlink.links().expect("links").into_iter().find(|l| l.name == "lo").expect("lo");
        let arp = Arp::open(&lo).expect("open");
        assert!(arp.announce(VIP).is_err(), "it is down");
        netlink.set_up(lo.index, None).expect("up");
        // What poll(2) wakes for: that it was down.
        assert_eq!(arp.hear(VIP).expect("heard"), None);
        // The loopback brings everything back.
        arp.announce(VIP).expect("said");
        arp.probe(VIP).expect("asked");
        let all = || arp.hear(VIP).expect("heard");
        assert_eq!([all(), all(), all()], [Some(Heard::Has([0; 6])), Some(Heard::Asks), None]);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = heard(&bytes, VIP);
        }
    }
}
