//! A netlink socket (netlink(7)), blocking: requests with their answers, or word of what changes.

use netlink_packet_core::{
    NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The kernel's dumps come in pieces of at most 32 KiB.
const BUFFER: usize = 64 << 10;

/// An open one.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Of a protocol; `groups` is the mask of what it listens to, 0 = it is for requests.
    pub(super) fn open(protocol: SockProtocol, groups: u32) -> Result<Self, String> {
        let open = || -> nix::Result<OwnedFd> {
            let flags =
                if groups == 0 { SockFlag::SOCK_CLOEXEC } else { SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK };
            let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
            Ok(fd)
        };
        Ok(Self { fd: open().map_err(|e| format!("opening netlink: {e}"))?, sequence: 0 })
    }

    /// Reads away what changed: that something did is all that is asked for.
    pub(super) fn drain(&self) {
        let mut buffer = [0; 8192];
        while matches!(recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT), Ok(1..) | Err(Errno::ENOBUFS)) {}
    }

    /// Sends a request and collects the answers until the kernel says done.
    pub(super) fn request<Q: NetlinkSerializable, A: NetlinkDeserializable>(
        &mut self,
        payload: Q,
        flags: u16,
    ) -> Result<Vec<A>, Errno> {
        self.sequence += 1;
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(payload));
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        send(self.fd.as_raw_fd(), &buffer, MsgFlags::empty())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut at = 0;
            while at < n {
                let message = NetlinkMessage::<A>::deserialize(&buffer[at..n]).map_err(|_| Errno::EBADMSG)?;
                let length = usize::try_from(message.header.length).unwrap_or(0);
                // An answer to an earlier, given-up request is none to this one.
                let ours = message.header.sequence_number == self.sequence;
                match message.payload {
                    NetlinkPayload::Done(_) if ours => return Ok(answers),
                    NetlinkPayload::Error(e) if ours => {
                        return match e.code {
                            None => Ok(answers),
                            Some(code) => Err(Errno::from_raw(-code.get())),
                        };
                    }
                    NetlinkPayload::InnerMessage(inner) if ours => answers.push(inner),
                    _ => {}
                }
                // Messages are padded to four bytes.
                at += length.max(16).div_ceil(4) * 4;
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
