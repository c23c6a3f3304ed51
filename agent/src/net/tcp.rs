//! The kernel's TCP connections (sock_diag(7)): those to a peer that is gone are ended, and those of clients that are better off
//! elsewhere, as `ss --kill` does.
//!
//! Who has a connection to a machine without power learns of it when the kernel gives up sending, seconds later, and sends
//! its requests there until then.

use super::socket::Socket;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_TCP, SockDiagDestroy, SockDiagMessage};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use std::net::{IpAddr, SocketAddr};

/// Ends all connections of this node's network to a peer: whoever has one reads ECONNABORTED. Answers how many there were.
pub(crate) fn abort(peer: SocketAddr) -> Result<usize, String> {
    end(peer.ip(), |id| (id.destination_address, id.destination_port) == (peer.ip(), peer.port()))
}

/// The same with those to a service of this node that come from such addresses: it reads ECONNABORTED, its clients that their
/// connection was reset.
pub(crate) fn abort_clients(service: SocketAddr, whose: impl Fn(IpAddr) -> bool) -> Result<usize, String> {
    end(service.ip(), |id| {
        (id.source_address, id.source_port) == (service.ip(), service.port()) && whose(id.destination_address)
    })
}

fn end(family: IpAddr, which: impl Fn(&SocketId) -> bool) -> Result<usize, String> {
    let mut socket = Socket::open(SockProtocol::NetlinkSockDiag, 0)?;
    let listed: Vec<SockDiagMessage> =
        socket.request(about(empty(family)), NLM_F_DUMP).map_err(|e| format!("listing connections: {e}"))?;
    let ids = listed.into_iter().filter_map(|message| match message {
        SockDiagMessage::InetResponse(response) => Some(response.header.socket_id),
        _ => None,
    });
    let mut ended = 0;
    for id in ids.filter(which) {
        let (from, to) = (id.source_address, id.destination_address);
        match socket.request::<_, SockDiagMessage>(SockDiagDestroy::new(about(id)), NLM_F_ACK) {
            Ok(_) => ended += 1,
            // It ended by itself since.
            Err(Errno::ENOENT) => {}
            Err(e) => return Err(format!("ending a connection from {from} to {to}: {e}")),
        }
    }
    Ok(ended)
}

/// Of any connection.
fn empty(family: IpAddr) -> SocketId {
    if family.is_ipv4() { SocketId::new_v4() } else { SocketId::new_v6() }
}

/// That one, or all where it is empty.
fn about(id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family: if id.source_address.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::ESTABLISHED,
        socket_id: id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read};
    use std::net::{TcpListener, TcpStream};

    /// That is root's; whoever else runs this sees that it is refused.
    #[test]
    fn connections_to_a_peer_end_and_others_stay() {
        let listener = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (gone, there) = (listener(), listener());
        let peer = |l: &TcpListener| l.local_addr().expect("an address");
        let connect = |l: &TcpListener| TcpStream::connect(peer(l)).expect("connected");
        let (mut first, mut second, other) = (connect(&gone), connect(&gone), connect(&there));
        let _accepted = [gone.accept(), gone.accept(), there.accept()].map(|a| a.expect("accepted"));
        match abort(peer(&gone)) {
            Ok(ended) => {
                assert_eq!(ended, 2);
                for stream in [&mut first, &mut second] {
                    let e = stream.read(&mut [0; 1]).expect_err("ended");
                    assert_eq!(e.kind(), ErrorKind::ConnectionAborted);
                }
            }
            Err(e) => assert!(!nix::unistd::geteuid().is_root() && e.contains("EPERM"), "{e}"),
        }
        assert!(other.take_error().expect("asked").is_none());
        // The same from the other side.
        assert_eq!(abort_clients(peer(&there), |from| from != peer(&there).ip()).unwrap_or(0), 0, "somebody else's");
        match abort_clients(peer(&there), |from| from == peer(&there).ip()) {
            Ok(ended) => {
                assert_eq!(ended, 1);
                assert_eq!((&other).read(&mut [0; 1]).expect_err("ended").kind(), ErrorKind::ConnectionReset);
            }
            Err(e) => assert!(!nix::unistd::geteuid().is_root() && e.contains("EPERM"), "{e}"),
        }
        assert_eq!(abort(peer(&listener())).unwrap_or(0), 0, "nobody has one");
    }
}
