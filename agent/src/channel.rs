//! The agent's end of its channel to PID 1 ([`contract::control`]).

use contract::control::{CHANNEL_FD, FromAgent, MESSAGE_MAX, ToAgent};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// What was said last, and when.
pub(crate) type Told = Option<(String, Instant)>;

/// The channel. There is one per process, on a descriptor that PID 1 chose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channel;

impl Channel {
    /// Says something. PID 1 that does not listen any more means that this process has no purpose: the error ends it.
    pub(crate) fn say(self, message: &FromAgent) -> Result<(), String> {
        let bytes = serde_json::to_vec(message).map_err(|e| e.to_string())?;
        match send(CHANNEL_FD, &bytes, MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(e) => Err(format!("telling PID 1: {e}")),
        }
    }

    /// A condition holds.
    pub(crate) fn done(self, condition: &str) -> Result<(), String> {
        self.say(&FromAgent::Done { condition: condition.into() })
    }

    /// For the console and the report.
    pub(crate) fn notice(self, text: impl Into<String>) -> Result<(), String> {
        self.say(&FromAgent::Notice { text: text.into() })
    }

    /// ... unless the last one was the same, and is not as old as `again`.
    pub(crate) fn notice_anew(self, told: &mut Told, again: Duration, text: String) -> Result<(), String> {
        if told.as_ref().is_none_or(|(last, at)| *last != text || at.elapsed() >= again) {
            self.notice(text.clone())?;
            *told = Some((text, Instant::now()));
        }
        Ok(())
    }

    /// The next message; waits for it.
    pub(crate) fn hear(self) -> Result<ToAgent, String> {
        let mut buffer = vec![0; MESSAGE_MAX];
        loop {
            match recv(CHANNEL_FD, &mut buffer, MsgFlags::empty()) {
                Ok(0) => return Err("PID 1 closed the channel".into()),
                Ok(n) => return serde_json::from_slice(&buffer[..n]).map_err(|e| format!("PID 1 said {e}")),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(format!("hearing PID 1: {e}")),
            }
        }
    }

    /// To wait on.
    #[expect(unsafe_code, reason = "a descriptor that PID 1 left open for this process")]
    pub(crate) fn fd(self) -> BorrowedFd<'static> {
        // SAFETY: PID 1 starts agents with this descriptor open, and nothing here closes it.
        unsafe { BorrowedFd::borrow_raw(CHANNEL_FD) }
    }
}
