//! Readiness: sd_notify(3) datagrams on one socket, the sender known by its credentials.

use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind, recvmsg, setsockopt, socket,
    sockopt::PassCred,
};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Longer datagrams are cut off: what is read of them stands at their beginning.
const DATAGRAM: usize = 4096;
/// `STATUS=` texts are kept to this length.
const STATUS_MAX: usize = 200;

/// The socket.
#[derive(Debug)]
pub(crate) struct Notify {
    fd: OwnedFd,
    path: String,
}

/// What a service said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// `READY=1`.
    pub(crate) ready: bool,
    /// `STATUS=`.
    pub(crate) status: Option<String>,
}

impl Notify {
    /// At a path, open to every user.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        let _ = std::fs::remove_file(path);
        let fd =
            socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        setsockopt(&fd, PassCred, &true)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        Ok(Self { fd, path: path.display().to_string() })
    }

    /// What services find in `NOTIFY_SOCKET`.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The next datagram: sender's pid and what it says.
    pub(crate) fn receive(&self) -> Option<(i32, Said)> {
        let mut buffer = [0; DATAGRAM];
        let mut iov = [IoSliceMut::new(&mut buffer)];
        let mut space = nix::cmsg_space!(libc::ucred);
        let message = recvmsg::<UnixAddr>(self.fd.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::empty()).ok()?;
        let pid = message.cmsgs().ok()?.find_map(|c| match c {
            ControlMessageOwned::ScmCredentials(c) => Some(c.pid()),
            _ => None,
        })?;
        let bytes = message.bytes;
        Some((pid, parse(&buffer[..bytes])))
    }
}

/// Only what is asked for is read: `READY=1` and `STATUS=`.
fn parse(datagram: &[u8]) -> Said {
    let mut said = Said::default();
    for line in datagram.split(|b| *b == b'\n') {
        if line == b"READY=1" {
            said.ready = true;
        } else if let Some(status) = line.strip_prefix(b"STATUS=") {
            let text = String::from_utf8_lossy(status);
            said.status = Some(text.chars().filter(|c| !c.is_control()).take(STATUS_MAX).collect());
        }
    }
    said
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_etcd_and_others_send() {
        assert!(parse(b"READY=1").ready);
        assert_eq!(parse(b"READY=1\nSTATUS=up\x1b[0m\nMAINPID=4"), Said { ready: true, status: Some("up[0m".into()) });
        assert_eq!(parse(b"READY=0\nXREADY=1"), Said::default());
    }

    #[test]
    fn the_sender_is_known() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let notify = Notify::at(&path).expect("a socket");
        let sender = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
        sender.send_to(b"READY=1", &path).expect("sent");
        let (pid, said) = notify.receive().expect("received");
        assert_eq!(pid, i32::try_from(std::process::id()).expect("a pid"));
        assert!(said.ready && notify.receive().is_none());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
