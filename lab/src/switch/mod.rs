//! A learning Ethernet switch in this process, a frame per datagram on unix sockets: what QEMU's `dgram` netdev speaks.
//!
//! [`fabric`] decides (pure), [`fault`] is what may happen to a frame, [`pcap`] writes down what passed; here is only the
//! thread that carries frames. Times are the guest's.

mod fabric;
mod fault;
mod pcap;

pub use fabric::Counters;
pub use fault::Faults;

use crate::clock::Clock;
use anyhow::{Context, Result, bail};
use fabric::Fabric;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt};
use nix::sys::time::{TimeSpec, TimeValLike};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A frame is at most this long: QEMU's own bound for what a guest may send (NET_BUFSIZE).
const FRAME_MAX: usize = 4096 + 65_536;
/// Frames taken from one port before the others have their turn.
const TURN: usize = 64;
/// Frames that wait for a machine that does not take them; more are dropped, as a switch does.
const WAITING: usize = 1024;
/// Bytes a socket may hold: the kernel's default would be full after some hundred frames.
const BUFFER: usize = 4 << 20;

/// What the carrying thread and its owner share.
#[derive(Debug)]
struct Shared {
    fabric: Fabric,
    wires: BTreeMap<usize, Wire>,
    captures: BTreeMap<usize, pcap::Pcap>,
    flying: BinaryHeap<Reverse<Flying>>,
    sequence: u64,
    paused: bool,
    ended: bool,
}

#[derive(Debug)]
struct Wire {
    socket: Arc<OwnedFd>,
    waiting: VecDeque<Arc<[u8]>>,
}

/// A frame on its way: ordered by the moment, then by arrival.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    at: Duration,
    sequence: u64,
    to: usize,
    frame: Arc<[u8]>,
}

/// The switch. It ends when this is dropped.
#[derive(Debug)]
pub struct Switch {
    shared: Arc<Mutex<Shared>>,
    wake: Arc<EventFd>,
    clock: Clock,
    began: Instant,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Switch {
    /// Without ports. The same `seed` gives the same faults for the same traffic.
    pub fn new(clock: Clock, seed: u64) -> Result<Self> {
        let shared = Arc::new(Mutex::new(Shared {
            fabric: Fabric::new(seed),
            wires: BTreeMap::new(),
            captures: BTreeMap::new(),
            flying: BinaryHeap::new(),
            sequence: 0,
            paused: false,
            ended: false,
        }));
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let began = Instant::now();
        let carrier = Carrier { shared: Arc::clone(&shared), wake: Arc::clone(&wake), clock, began };
        let thread = std::thread::Builder::new().name("switch".into()).spawn(move || carrier.run())?;
        Ok(Self { shared, wake, clock, began, thread: Some(thread) })
    }

    /// Plugs a cable into the port of this name (made when it is new) and answers its other end, for QEMU. A cable that
    /// was there before is pulled out.
    pub fn plug(&self, name: &str) -> Result<OwnedFd> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)
                .context("making a cable")?;
        for end in [&ours, &theirs] {
            setsockopt(end, sockopt::SndBuf, &BUFFER)?;
        }
        let mut s = self.lock();
        let port = s.fabric.port(name);
        s.wires.insert(port, Wire { socket: Arc::new(ours), waiting: VecDeque::new() });
        drop(s);
        self.wake();
        Ok(theirs)
    }

    /// The names of its ports.
    pub fn ports(&self) -> Vec<String> {
        self.lock().fabric.ports.iter().map(|p| p.name.clone()).collect()
    }

    /// Sets the faults of a port: of frames from the node, and of frames to it.
    pub fn set(&self, port: &str, from_node: Faults, to_node: Faults) -> Result<()> {
        if let Some(problem) = from_node.problem().or_else(|| to_node.problem()) {
            bail!("{problem}");
        }
        let mut s = self.lock();
        let i = known(&s, port)?;
        s.fabric.set(i, from_node, to_node);
        drop(s);
        self.wake();
        Ok(())
    }

    /// Divides the network: ports of different sets do not hear each other, a port in none of them hears all. With a protocol of
    /// IP's only packets of it are lost, as by a firewall.
    pub fn divide(&self, sets: &[Vec<String>], protocol: Option<u8>) -> Result<()> {
        let mut s = self.lock();
        let sets: Result<Vec<BTreeSet<usize>>> =
            sets.iter().map(|set| set.iter().map(|n| known(&s, n)).collect()).collect();
        s.fabric.divide(sets?, protocol);
        Ok(())
    }

    /// Takes all faults away.
    pub fn heal(&self) {
        self.lock().fabric.heal();
    }

    /// What passed each port.
    pub fn counters(&self) -> BTreeMap<String, Counters> {
        self.lock().fabric.ports.iter().map(|p| (p.name.clone(), p.counters.clone())).collect()
    }

    /// Begins to write down what a port receives and sends, in the format that tcpdump and Wireshark read.
    pub fn capture(&self, port: &str, path: &Path) -> Result<()> {
        let mut s = self.lock();
        let i = known(&s, port)?;
        let pcap = pcap::Pcap::create(path).with_context(|| format!("making {}", path.display()))?;
        s.captures.insert(i, pcap);
        Ok(())
    }

    /// Holds everything; what machines send waits in their sockets.
    pub fn pause(&self) {
        self.lock().paused = true;
        self.wake();
    }

    /// Goes on.
    pub fn resume(&self) {
        self.lock().paused = false;
        self.wake();
    }

    /// The machines were exchanged for others: frames on their way are of another time.
    pub fn clear(&self) {
        let mut s = self.lock();
        s.flying.clear();
        s.wires.values_mut().for_each(|w| w.waiting.clear());
        s.fabric.forget();
    }

    /// Guest time since the switch began.
    pub fn now(&self) -> Duration {
        self.clock.guest(self.began.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A counter that is full wakes just as well.
        let _ = self.wake.write(1);
    }
}

fn known(s: &Shared, port: &str) -> Result<usize> {
    s.fabric.ports.iter().position(|p| p.name == port).with_context(|| {
        let names: Vec<_> = s.fabric.ports.iter().map(|p| p.name.as_str()).collect();
        format!("the switch has no port `{port}`; it has {}", names.join(", "))
    })
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.lock().ended = true;
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's own.
struct Carrier {
    shared: Arc<Mutex<Shared>>,
    wake: Arc<EventFd>,
    clock: Clock,
    began: Instant,
}

impl Carrier {
    fn run(&self) {
        let mut buffer = vec![0; FRAME_MAX];
        loop {
            let mut s = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            if s.ended {
                return;
            }
            let now = self.clock.guest(self.began.elapsed());
            if !s.paused {
                s.take_in(now, &mut buffer);
                s.deliver(now);
            }
            let timeout = s.flying.peek().filter(|_| !s.paused).map(|Reverse(f)| {
                let left = self.clock.host(f.at.saturating_sub(self.clock.guest(self.began.elapsed())));
                TimeSpec::nanoseconds(i64::try_from(left.as_nanos()).unwrap_or(i64::MAX))
            });
            let sockets: Vec<(Arc<OwnedFd>, PollFlags)> = s
                .wires
                .values()
                .filter(|_| !s.paused)
                .map(|w| {
                    let out = if w.waiting.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
                    (Arc::clone(&w.socket), PollFlags::POLLIN | out)
                })
                .collect();
            for capture in s.captures.values_mut() {
                // A capture is for people; the traffic goes on without it.
                let _ = capture.flush();
            }
            drop(s);
            let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
            fds.extend(sockets.iter().map(|(s, flags)| PollFd::new(s.as_fd(), *flags)));
            // An interrupted wait is one in which nothing happened.
            let _ = ppoll(&mut fds, timeout, None);
            let _ = self.wake.read();
        }
    }
}

impl Shared {
    /// Takes frames in from all ports, in turns.
    fn take_in(&mut self, now: Duration, buffer: &mut [u8]) {
        let ports: Vec<(usize, Arc<OwnedFd>)> = self.wires.iter().map(|(i, w)| (*i, Arc::clone(&w.socket))).collect();
        for (port, socket) in ports {
            for _ in 0..TURN {
                // No more frames, or a machine that ended: its cable stays until another is plugged in.
                let Ok(length) = recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) else { break };
                if length == 0 {
                    break;
                }
                let frame = &buffer[..length];
                self.write_down(port, now, frame);
                let deliveries = self.fabric.pass(now, port, frame);
                if deliveries.is_empty() {
                    continue;
                }
                let frame: Arc<[u8]> = frame.into();
                for d in deliveries {
                    if d.at <= now {
                        self.send(now, d.to, Arc::clone(&frame));
                    } else {
                        self.sequence += 1;
                        let sequence = self.sequence;
                        self.flying.push(Reverse(Flying { at: d.at, sequence, to: d.to, frame: Arc::clone(&frame) }));
                    }
                }
            }
        }
    }

    /// Sends what is due, and what waited.
    fn deliver(&mut self, now: Duration) {
        while self.flying.peek().is_some_and(|Reverse(f)| f.at <= now) {
            if let Some(Reverse(f)) = self.flying.pop() {
                self.send(now, f.to, f.frame);
            }
        }
        for wire in self.wires.values_mut() {
            while let Some(frame) = wire.waiting.front() {
                if would_block(&wire.socket, frame) {
                    break;
                }
                wire.waiting.pop_front();
            }
        }
    }

    fn send(&mut self, now: Duration, port: usize, frame: Arc<[u8]>) {
        self.write_down(port, now, &frame);
        let Some(wire) = self.wires.get_mut(&port) else { return };
        let counters = &mut self.fabric.ports[port].counters;
        counters.frames_out += 1;
        counters.bytes_out += frame.len() as u64;
        if wire.waiting.is_empty() && !would_block(&wire.socket, &frame) {
            return;
        }
        if wire.waiting.len() < WAITING {
            wire.waiting.push_back(frame);
        } else {
            counters.overrun += 1;
        }
    }

    fn write_down(&mut self, port: usize, at: Duration, frame: &[u8]) {
        if let Some(pcap) = self.captures.get_mut(&port)
            && pcap.frame(at, frame).is_err()
        {
            self.captures.remove(&port);
        }
    }
}

/// Sends; whether it is to be tried again when the socket has room. Any other failure is a machine that is gone.
fn would_block(socket: &OwnedFd, frame: &[u8]) -> bool {
    use nix::errno::Errno;
    let sent = send(socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
    matches!(sent, Err(Errno::EAGAIN | Errno::ENOBUFS))
}

#[cfg(test)]
mod tests;
