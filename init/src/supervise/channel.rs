//! The channels to agents: SOCK_SEQPACKET pairs with one JSON message per record ([`contract::control`]).

use contract::control::{FromAgent, MESSAGE_MAX, ToAgent};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt::SndBuf,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// PID 1's end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// What came out of a channel.
#[derive(Debug)]
pub(crate) enum Received {
    /// A message.
    Message(Box<FromAgent>),
    /// Something that is no message: the agent is ended.
    Garbage(String),
    /// Nothing now.
    Nothing,
    /// The other end is closed.
    Closed,
}

/// A pair: ours, and the agent's.
pub(crate) fn pair() -> io::Result<(Channel, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    for end in [&ours, &theirs] {
        setsockopt(end, SndBuf, &MESSAGE_MAX)?;
    }
    Ok((Channel(ours), theirs))
}

impl Channel {
    /// The next message.
    pub(crate) fn receive(&self) -> Received {
        let mut buffer = vec![0; MESSAGE_MAX];
        match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) => Received::Closed,
            Ok(n) => match serde_json::from_slice(&buffer[..n]) {
                Ok(message) => Received::Message(Box::new(message)),
                Err(e) => Received::Garbage(e.to_string()),
            },
            Err(Errno::EAGAIN | Errno::EINTR) => Received::Nothing,
            Err(_) => Received::Closed,
        }
    }

    /// Says something; an agent whose queue is full or that is gone hears it when it asks again at its next start.
    pub(crate) fn send(&self, message: &ToAgent) {
        if let Ok(bytes) = serde_json::to_vec(message) {
            let _ = send(self.0.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL);
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
