//! A program that hangs tells nobody: its process is there, and its kernel takes connections for it. Those of this node that
//! all else needs are asked; PID 1 ends one that does not answer, and starts it again.
//!
//! That there is an answer is all that is asked for, whatever it says: a kubelet or an etcd that is not well for a reason of its
//! own (a slow disk, no leader) would not be better for a restart. HAProxy is asked by `lb/`, more often, and keepalived is looked
//! at there; the apiserver and the other static pods have the kubelet's liveness probes.

use crate::channel::Channel;
use contract::control::FromAgent;
use contract::node::{NodeConfig, Role};
use contract::{paths, ports};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Nothing tells that a program hangs: all are asked this often.
const ASK: Duration = Duration::from_secs(5);
/// ... and this often while one has not answered yet.
const ASK_FIRST: Duration = Duration::from_millis(500);
/// It answers within milliseconds; on a node that is busy it may be late.
const PATIENCE: Duration = Duration::from_secs(3);
/// So many questions in a row without an answer, and it hangs: 13 to 18 seconds. A node is not Ready after 16, and kubeadm's etcd
/// is given 80.
const SILENT: u32 = 3;
/// ... of one that has not answered yet, and may be starting: half a minute. All of these listen only when they are about to
/// answer.
const STARTS: u32 = 10;

/// Of a server of HTTP: its mux has an answer for that, and looks at nothing for it.
const HTTP: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
/// The beginning of HTTP/2, which gRPC speaks: the preface and empty settings (RFC 9113, 3.4), to be answered with settings.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Nobody listens: it is not there, or only starting. PID 1 sees that for itself.
    Absent,
    /// Somebody listens, but does not answer as he should.
    Mute(String),
}

/// What was heard of one program so far. Pure.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    /// So many silences in a row.
    bears: u32,
    /// ... of one that has not answered.
    starts: u32,
    /// It answered once since it was last given up.
    answered: bool,
    silent: u32,
}

impl Watch {
    /// It hangs after `bears` silences in a row; before its first answer, when it may only be starting, after `starts`.
    pub(crate) fn of(bears: u32, starts: u32) -> Self {
        Self { bears, starts, answered: false, silent: 0 }
    }

    /// Takes what came of a question; answers why it hangs, each time that it does.
    pub(crate) fn step(&mut self, heard: Result<(), Silence>) -> Option<String> {
        match heard {
            Ok(()) => (self.answered, self.silent) = (true, 0),
            Err(Silence::Absent) => (self.answered, self.silent) = (false, 0),
            Err(Silence::Mute(why)) => {
                self.silent += 1;
                let bears = if self.answered { self.bears } else { self.starts };
                if self.silent >= bears {
                    (self.answered, self.silent) = (false, 0);
                    return Some(format!("{why}, {bears} times in a row"));
                }
            }
        }
        None
    }
}

/// A program, and where it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    service: &'static str,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// A port of the loopback.
    Port(u16),
    /// A socket's file.
    Socket(&'static str),
}

/// Those of a node.
fn asked(config: &NodeConfig) -> Vec<Asked> {
    let mut all = Vec::new();
    if config.roles.contains(&Role::Etcd) {
        all.push(Asked { service: "etcd", at: At::Port(ports::ETCD_METRICS) });
    }
    if config.has_kubelet() {
        all.push(Asked { service: "containerd", at: At::Socket(paths::CONTAINERD_SOCK) });
        all.push(Asked { service: "kubelet", at: At::Port(ports::KUBELET_HEALTH) });
    }
    all
}

/// Asks for as long as this process is there: each in a thread of its own, as one that hangs makes whoever asks it wait.
pub(crate) fn look_out(config: &NodeConfig, channel: Channel) {
    for asked in asked(config) {
        std::thread::spawn(move || {
            let mut watch = Watch::of(SILENT, STARTS);
            loop {
                let began = Instant::now();
                if let Some(why) = watch.step(ask(asked.at))
                    && let Err(e) = channel.say(&FromAgent::Fault { service: asked.service.into(), why })
                {
                    eprintln!("whether {} hangs: {e}", asked.service);
                    std::process::exit(1);
                }
                let every = if watch.answered { ASK } else { ASK_FIRST };
                std::thread::sleep(every.saturating_sub(began.elapsed()));
            }
        });
    }
}

fn ask(at: At) -> Result<(), Silence> {
    let heard = match at {
        At::Port(port) => {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            TcpStream::connect_timeout(&address, PATIENCE).and_then(|stream| {
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                answers(stream, HTTP)
            })
        }
        At::Socket(path) => local(path, PATIENCE).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            answers(stream, HTTP2)
        }),
    };
    heard.map_err(|e| match e.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Silence::Mute(format!("no answer within {PATIENCE:?}")),
        // Refused, or cut short: its kernel says that there is nobody, or was.
        _ => Silence::Absent,
    })
}

/// One byte will do; an end is none.
fn answers(mut stream: impl Read + Write, question: &[u8]) -> std::io::Result<()> {
    stream.write_all(question)?;
    stream.read_exact(&mut [0])
}

/// A connection to a local socket. Where its owner takes none any more, and the kernel's queue for it is full, the standard
/// library's would wait for ever: `SO_SNDTIMEO` bounds it (unix(7), socket(7)), and later writes.
pub(crate) fn local(path: &str, bound: Duration) -> std::io::Result<UnixStream> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(bound.as_secs().cast_signed(), bound.subsec_micros().into()))?;
    match connect(fd.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => Ok(UnixStream::from(fd)),
        Err(Errno::EAGAIN) => Err(ErrorKind::TimedOut.into()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    fn mute() -> Result<(), Silence> {
        Err(Silence::Mute("no answer in time".into()))
    }

    /// The questions, counted from 1, at which it is said to hang.
    fn said(watch: &mut Watch, heard: &[Result<(), Silence>]) -> Vec<usize> {
        (1..).zip(heard).filter(|(_, h)| watch.step((*h).clone()).is_some()).map(|(i, _)| i).collect()
    }

    #[test]
    fn one_that_answered_hangs_sooner_than_one_that_may_be_starting() {
        let mut watch = Watch::of(3, 10);
        assert_eq!(said(&mut watch, &vec![mute(); 25]), [10, 20]);
        let heard = [Ok(()), mute(), mute(), Ok(()), mute(), mute(), Err(Silence::Absent), mute(), mute(), mute()];
        assert!(said(&mut watch, &heard).is_empty(), "never thrice in a row since it answered");
        // It is ended, and the next one starts.
        assert_eq!(said(&mut watch, &[&[Ok(())][..], &vec![mute(); 12]].concat()), [4]);
        let why = [Ok(()), mute(), mute(), mute()].map(|h| watch.step(h));
        assert_eq!(why[3].as_deref(), Some("no answer in time, 3 times in a row"));
    }

    /// What a program's end may do: it answers, whatever that is; it ends; it hangs; nobody is there.
    #[test]
    fn what_is_an_answer_and_what_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let connected = || {
            let stream = local(path.to_str().expect("UTF-8"), Duration::from_millis(50)).expect("its kernel takes it");
            stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a bound");
            stream
        };
        for (said, there) in [(&b"\0"[..], true), (b"HTTP/1.0 404 Not Found", true), (b"", false)] {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().expect("asked");
                    let _ = stream.read(&mut [0; 99]).expect("the question");
                    stream.write_all(said).expect("answered");
                });
                let heard = answers(connected(), HTTP2).map_err(|e| e.kind());
                assert_eq!(heard, if there { Ok(()) } else { Err(ErrorKind::UnexpectedEof) }, "{said:?}");
            });
        }
        assert_eq!(answers(connected(), HTTP2).map_err(|e| e.kind()), Err(ErrorKind::WouldBlock), "it hangs");
        drop(listener);
        assert_eq!(ask(At::Socket("/nonexistent/sock")), Err(Silence::Absent));
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        assert_eq!(ask(At::Port(port)), Err(Silence::Absent), "refused");
    }

    /// The kernel's queue for a program that takes no connections fills: the wait for a place in it ends.
    #[test]
    fn connecting_to_one_that_hangs_is_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sock");
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        nix::sys::socket::bind(fd.as_raw_fd(), &UnixAddr::new(&path).expect("a name")).expect("bound");
        nix::sys::socket::listen(&fd, nix::sys::socket::Backlog::new(1).expect("small")).expect("listening");
        let path = path.to_str().expect("UTF-8");
        let taken: Vec<_> = (0..8).map(|_| local(path, Duration::from_millis(20))).collect();
        let kind = |r: &std::io::Result<UnixStream>| r.as_ref().err().map(std::io::Error::kind);
        assert_eq!((kind(&taken[0]), kind(&taken[7])), (None, Some(ErrorKind::TimedOut)));
    }
}
