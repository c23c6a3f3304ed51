//! uevents: what the kernel says of devices (`NETLINK_KOBJECT_UEVENT`; lib/kobject_uevent.c).

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket, sockopt::RcvBuf,
};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The kernel's group of listeners.
const KERNEL: u32 = 1;
/// A message is at most this long (UEVENT_BUFFER_SIZE and a header).
const MESSAGE: usize = 8192;
/// A storm of devices at boot must fit. Bytes.
const QUEUE: usize = 4 << 20;

/// The socket.
#[derive(Debug)]
pub(crate) struct Uevents(OwnedFd);

/// A message: its fields.
pub(crate) type Fields = BTreeMap<String, String>;

impl Uevents {
    /// Begins to listen.
    pub(crate) fn open() -> Result<Self, String> {
        let open = || -> nix::Result<OwnedFd> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let fd = socket(AddressFamily::Netlink, SockType::Datagram, flags, SockProtocol::NetlinkKObjectUEvent)?;
            setsockopt(&fd, RcvBuf, &QUEUE)?;
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL))?;
            Ok(fd)
        };
        open().map(Self).map_err(|e| format!("listening to uevents: {e}"))
    }

    /// The next message from the kernel; none now. `Err` = some were lost: look at everything again.
    pub(crate) fn next(&self) -> Result<Option<Fields>, ()> {
        let mut buffer = [0; MESSAGE];
        loop {
            return match recvfrom::<NetlinkAddr>(self.0.as_raw_fd(), &mut buffer) {
                // Other processes may send to the group; only the kernel's word counts.
                Ok((_, Some(from))) if from.pid() != 0 => continue,
                Ok((n, _)) => Ok(Some(parse(&buffer[..n]))),
                Err(Errno::EINTR) => continue,
                Err(Errno::ENOBUFS) => Err(()),
                Err(_) => Ok(None),
            };
        }
    }
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `action@path`, then `KEY=VALUE`, each ended by a NUL.
pub(crate) fn parse(message: &[u8]) -> Fields {
    message
        .split(|b| *b == 0)
        .skip(1)
        .filter_map(|f| {
            let text = String::from_utf8_lossy(f);
            text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_the_kernels_messages() {
        let f = parse(b"add@/devices/pci0000:00/virtio1/block/vdb\0ACTION=add\0SUBSYSTEM=block\0DEVNAME=vdb\0");
        assert_eq!((f["ACTION"].as_str(), f["DEVNAME"].as_str()), ("add", "vdb"));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
