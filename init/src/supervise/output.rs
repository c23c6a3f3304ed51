//! What services print: the last lines of each are kept for when it fails, all of it goes on to the agent that writes
//! logs. Reading never blocks, and neither does passing on: what does not fit is counted and dropped.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe2, read, write};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Lines kept per service.
const KEPT: usize = 50;
/// A longer line is cut.
const LINE_MAX: usize = 1000;

/// A service's output.
#[derive(Debug)]
pub(crate) struct Output {
    reader: OwnedFd,
    partial: Vec<u8>,
    last: VecDeque<String>,
    /// The other end is closed: waiting on it would return at once, for ever.
    pub(crate) closed: bool,
}

/// A pipe: the reader of which does not block, and the writer for a child.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((reader, writer))
}

impl Output {
    /// Of a pipe's reader.
    pub(crate) fn new(reader: OwnedFd) -> Self {
        Self { reader, partial: Vec::new(), last: VecDeque::new(), closed: false }
    }

    /// Reads the whole lines that are there.
    pub(crate) fn read(&mut self) -> Vec<String> {
        let mut buffer = [0; 8192];
        let mut lines = Vec::new();
        // Bounded: a service that prints without end must not keep PID 1 from everything else.
        for _ in 0..16 {
            match read(&self.reader, &mut buffer) {
                Ok(0) => {
                    if !self.partial.is_empty() {
                        lines.push(take(&mut self.partial));
                    }
                    self.closed = true;
                    break;
                }
                Ok(n) => {
                    for &byte in &buffer[..n] {
                        if byte == b'\n' || self.partial.len() >= LINE_MAX {
                            lines.push(take(&mut self.partial));
                        }
                        if byte != b'\n' {
                            self.partial.push(byte);
                        }
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        self.keep(&lines);
        lines
    }

    fn keep(&mut self, lines: &[String]) {
        for line in lines {
            if self.last.len() == KEPT {
                self.last.pop_front();
            }
            self.last.push_back(line.clone());
        }
    }

    /// The last `n` lines.
    pub(crate) fn tail(&self, n: usize) -> Vec<String> {
        self.last.iter().rev().take(n).rev().cloned().collect()
    }
}

fn take(bytes: &mut Vec<u8>) -> String {
    let text = String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control() || *c == '\t').collect();
    bytes.clear();
    text
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// The pipe to the agent that writes logs: `service<TAB>line`.
#[derive(Debug)]
pub(crate) struct Forward {
    writer: OwnedFd,
    /// Lines that did not fit.
    pub(crate) dropped: u64,
}

impl Forward {
    /// Makes it; the other end is the agent's stdin.
    pub(crate) fn new() -> io::Result<(Self, OwnedFd)> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((Self { writer, dropped: 0 }, reader))
    }

    /// Passes a line on. A write of less than PIPE_BUF bytes is whole or not at all.
    pub(crate) fn line(&mut self, service: &str, line: &str) {
        let text = format!("{service}\t{line}\n");
        if write(&self.writer, text.as_bytes()).is_err() {
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_and_keeps_lines() {
        let (reader, writer) = pipe().expect("a pipe");
        let mut out = Output::new(reader);
        write(&writer, b"one\ntw").expect("written");
        assert_eq!(out.read(), ["one"]);
        write(&writer, b"o\x07\n").expect("written");
        write(&writer, &[b'x'; 2500]).expect("written");
        let lines = out.read();
        assert_eq!((lines.len(), out.closed, &*lines[0]), (3, false, "two"));
        drop(writer);
        let lines = out.read();
        assert_eq!((lines[0].len(), out.closed), (500, true));
        assert_eq!(out.tail(2).len(), 2);
    }

    #[test]
    fn a_full_pipe_drops_instead_of_blocking() {
        let (mut forward, _reader) = Forward::new().expect("a pipe");
        for _ in 0..10_000 {
            forward.line("etcd", "a line of some length that fills the pipe");
        }
        assert!(forward.dropped > 0);
    }
}
