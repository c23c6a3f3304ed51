//! What the agent `node` does on a load balancer, beside all else: it asks HAProxy through its own front door whether it
//! answers and how many masters it reaches, and weighs this node for keepalived.
//!
//! | question | file |
//! |---|---|
//! | what follows from what was seen? | `watch.rs`, pure |
//! | does HAProxy answer? | `ask.rs` |
//! | who has the virtual IP? | `vip.rs` |
//! | who tells the network where it is? | `announce.rs`, by `arp.rs` |
//! | does another router use our id? | `stranger.rs` |
//! | does keepalived hang? | `keepalived.rs` |

mod announce;
mod arp;
mod ask;
mod keepalived;
mod stranger;
pub(crate) mod vip;
mod watch;

use crate::channel::Channel;
use crate::net::netlink::Netlink;
use announce::Announcer;
use contract::control::FromAgent;
use contract::control::condition::LINK;
use contract::node::NodeConfig;
use contract::{paths, users};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use watch::{Decision, Watch};

/// See [`contract::lb::DRAIN_MS`].
const DRAIN: Duration = Duration::from_millis(contract::lb::DRAIN_MS as u64);

/// Goes on for ever; its end is an error of this process.
pub(crate) fn guard(config: &NodeConfig, channel: Channel) -> Result<(), String> {
    let vip = config.virtual_ip();
    // Listening comes before looking: an address that changes in between is heard of.
    let events = Netlink::open(true)?;
    let mut netlink = Netlink::open(false)?;
    let mut announcer = None;
    if let Some(vip) = vip {
        let link = vip::link_of(&mut netlink, config.node.address)?;
        announcer = Announcer::on(&link, config, channel)?;
        write("link.conf", &format!("$LINK={}\n", link.name))?;
        // What an agent before this one wrote: this one has seen nothing yet.
        write("masters", "0\n")?;
        channel.done(LINK)?;
        stranger::listen(config, vip, channel);
        keepalived::look_out(config, &link.name, channel);
    }
    let servers = contract::lb::servers(config);
    let mut watch = Watch::of(servers.clone());
    let began = Instant::now();
    let mut next = began;
    let mut held = None;
    // Until when the loopback has the address that was given up.
    let mut kept: Option<Instant> = None;
    loop {
        if let Some(vip) = vip {
            let holds = vip::is_here(&mut netlink, vip)?;
            if held != Some(holds) {
                // Of one that was killed there may be something left.
                if holds {
                    vip::keep(&mut netlink, vip)?;
                } else if held.is_none() {
                    vip::let_go(&mut netlink, vip)?;
                }
                kept = (held == Some(true)).then(|| Instant::now() + DRAIN);
                held = Some(holds);
                write("holding", &format!("{}\n", if holds { watch::HOLDING } else { 0 }))?;
                tell_holding(vip, holds, began, channel)?;
            }
            if kept.take_if(|until| Instant::now() >= *until).is_some() {
                vip::let_go(&mut netlink, vip)?;
            }
        }
        if Instant::now() >= next {
            for decision in watch.step(began.elapsed(), held == Some(true), ask::haproxy(&servers)) {
                act(decision, vip, channel)?;
            }
            next = Instant::now() + watch.patience(began.elapsed());
        }
        let until = kept.map_or(next, |until| until.min(next));
        match &mut announcer {
            None => drop(wait(&[events.as_fd()], until)?),
            Some(announcer) => {
                announcer.is(held == Some(true), watch.serves());
                speak(announcer, &events, until, &mut netlink)?;
            }
        }
        events.drain();
    }
}

/// Until there is something else to do, however much others say.
fn speak(announcer: &mut Announcer, events: &Netlink, until: Instant, netlink: &mut Netlink) -> Result<(), String> {
    loop {
        announcer.tell();
        let next = announcer.due().map_or(until, |due| due.min(until));
        match wait(&[events.as_fd(), announcer.as_fd()], next)? {
            Some(1) => announcer.hear(netlink)?,
            _ => return Ok(()),
        }
        if Instant::now() >= until {
            return Ok(());
        }
    }
}

fn act(decision: Decision, vip: Option<IpAddr>, channel: Channel) -> Result<(), String> {
    match decision {
        Decision::MarkDown(server) => match ask::mark_down(&server) {
            Ok(()) => Ok(()),
            Err(e) => channel.notice(format!("{server} is to get no new connections, but HAProxy says: {e}")),
        },
        Decision::Cut(server) => match ask::cut(&server) {
            Ok(()) => channel.say(&FromAgent::Tell { text: format!("{server} is down: its connections are cut") }),
            Err(e) => channel.notice(format!("{server} is down, but its connections are not cut: {e}")),
        },
        Decision::Hangs(why) => channel.say(&FromAgent::Fault { service: "haproxy".into(), why }),
        Decision::Weighs { weight, why } => {
            if vip.is_some() {
                write("masters", &format!("{weight}\n"))?;
            }
            channel.say(&FromAgent::Tell { text: why })
        }
    }
}

fn tell_holding(vip: IpAddr, holds: bool, began: Instant, channel: Channel) -> Result<(), String> {
    if holds {
        return channel.say(&FromAgent::Tell { text: format!("holds the virtual IP {vip}") });
    }
    // That it does not have it yet is nothing to speak of.
    if began.elapsed() < watch::ASK {
        return Ok(());
    }
    channel.say(&FromAgent::Tell { text: format!("does not hold the virtual IP {vip} any more") })
}

/// What keepalived reads: it is told of the change by the file system.
fn write(name: &str, text: &str) -> Result<(), String> {
    let path = Path::new(paths::LB).join(name);
    crate::pki::write_file(&path, text, 0o644, users::ROOT).map_err(|e| format!("{}: {e}", path.display()))
}

/// Which of them has something to read, if any before this moment.
fn wait(of: &[BorrowedFd<'_>], until: Instant) -> Result<Option<usize>, String> {
    let left = until.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
    let mut fds: Vec<PollFd<'_>> = of.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    match poll(&mut fds, timeout) {
        Ok(_) => Ok(fds.iter().position(|fd| fd.any() == Some(true))),
        Err(nix::errno::Errno::EINTR) => Ok(None),
        Err(e) => Err(format!("waiting: {e}")),
    }
}
