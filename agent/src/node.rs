//! The verb `node`: leaf certificates, etcd's membership, the saved time. It may be restarted at any moment: every step
//! finds out anew what is done already.

use crate::channel::Channel;
use crate::membership::decide::{Answer, Decision, Own, decide};
use crate::membership::mark::{self, Mark};
use crate::membership::question::{self, Identity};
use crate::membership::{digest, initial_cluster};
use crate::{clock, etcd, pki};
use contract::control::condition::{FORMED, MEMBER, PKI};
use contract::node::{NodeConfig, Role};
use contract::ports::MEMBERSHIP;
use contract::seed::NodeSeed;
use contract::{paths, users};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// While deciding the others are asked this often: a leader takes ten times as long to appear, so that on a parallel
/// first boot nobody takes a cluster that is just forming for one that is there.
const ASK: Duration = Duration::from_millis(50);
/// A wait is told when its reason changes, and at most this often otherwise.
const TELL: Duration = Duration::from_secs(30);
/// etcd does not announce that it sees a leader; it is asked this often until it does.
const LEADER: Duration = Duration::from_millis(100);
/// The time is saved, and certificates are looked at, this often.
const CHORES: Duration = Duration::from_secs(60);
/// Of the saved time; a floor for the clock needs no more.
const SAVE_TIME: u64 = 600;

static SEES_LEADER: AtomicBool = AtomicBool::new(false);

pub(crate) fn run() -> Result<(), String> {
    let channel = Channel;
    let text = std::fs::read(paths::NODE_JSON).map_err(|e| format!("{}: {e}", paths::NODE_JSON))?;
    let seed: NodeSeed = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", paths::NODE_JSON))?;
    let config = seed.node;
    let mut issued = clock::now();
    pki::write_all(&config, issued)?;
    channel.done(PKI)?;
    if config.roles.contains(&Role::Etcd) {
        member(&config, channel)?;
    }
    let mut saved = 0;
    loop {
        wait(channel, CHORES)?;
        let now = clock::now();
        // Renewed at two thirds of their life, and when the clock was set back behind their beginning.
        let two_thirds = pki::life(&config) * 60 * 2 / 3;
        if now >= issued + two_thirds || now < issued {
            pki::write_all(&config, now)?;
            issued = now;
        }
        if now >= saved + SAVE_TIME {
            let text = now.to_string();
            let written = pki::write_file(Path::new(paths::SAVED_TIME), &text, 0o644, users::ROOT);
            if let Err(e) = written {
                channel.notice(format!("saving the time: {e}"))?;
            }
            saved = now;
        }
    }
}

/// Waits; what PID 1 says meanwhile is only a reason to look sooner.
fn wait(channel: Channel, bound: Duration) -> Result<(), String> {
    let timeout = PollTimeout::try_from(bound.as_millis()).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(channel.fd(), PollFlags::POLLIN)];
    if poll(&mut fds, timeout).is_ok_and(|n| n > 0) {
        channel.hear()?;
    }
    Ok(())
}

fn member(config: &NodeConfig, channel: Channel) -> Result<(), String> {
    let mark_path = Path::new(paths::ETCD_MARK);
    let identity = Identity::read()?;
    serve(config, &identity)?;
    decide_and_tell(config, &identity, channel)?;
    // From here on etcd runs, or is about to.
    while !etcd::sees_leader().unwrap_or(false) {
        wait(channel, LEADER)?;
    }
    SEES_LEADER.store(true, Ordering::Relaxed);
    if mark::read(mark_path)? != Some(Mark::Formed) {
        mark::write(mark_path, &Mark::Formed)?;
    }
    channel.done(FORMED)
}

/// Answers the other members' question, in a thread of its own.
fn serve(config: &NodeConfig, identity: &Identity) -> Result<(), String> {
    let listener = TcpListener::bind(SocketAddr::new(config.node.address, MEMBERSHIP))
        .map_err(|e| format!("listening on port {MEMBERSHIP}: {e}"))?;
    let identity = identity.clone();
    std::thread::spawn(move || {
        let answer = || Answer {
            // A mark that cannot be read stops this member elsewhere; here it must not pass for an empty one.
            mark: mark::read(Path::new(paths::ETCD_MARK)).unwrap_or(Some(Mark::Formed)),
            leader: SEES_LEADER.load(Ordering::Relaxed) && etcd::sees_leader().unwrap_or(false),
        };
        if let Err(e) = question::serve(&listener, &identity, answer) {
            eprintln!("answering members: {e}");
            std::process::exit(1);
        }
    });
    Ok(())
}

fn decide_and_tell(config: &NodeConfig, identity: &Identity, channel: Channel) -> Result<(), String> {
    let mark_path = Path::new(paths::ETCD_MARK);
    let own =
        Own { mark: mark::read(mark_path)?, log: mark::has_log(Path::new(paths::ETCD_DATA)), digest: digest(config) };
    let mut told: Option<(String, Instant)> = None;
    loop {
        let others = question::ask_all(identity, config);
        match decide(&own, &others, config.etcd_settings().bootstrap) {
            Decision::Resume => break,
            Decision::Bootstrap => {
                mark::write(mark_path, &Mark::Bootstrapping { digest: own.digest.clone() })?;
                break;
            }
            Decision::Join(whom) => {
                let text =
                    format!("{} see a leader: joining an existing cluster is not in this version", whom.join(", "));
                tell(&mut told, text, channel)?;
            }
            Decision::Wait(why) => tell(&mut told, format!("etcd waits: {why}"), channel)?,
        }
        wait(channel, ASK)?;
    }
    let text = format!("ETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_CLUSTER_STATE=new\n", initial_cluster(config));
    let path = Path::new(paths::ENV).join("etcd");
    pki::write_file(&path, &text, 0o644, users::ROOT).map_err(|e| format!("{}: {e}", path.display()))?;
    channel.done(MEMBER)
}

fn tell(told: &mut Option<(String, Instant)>, text: String, channel: Channel) -> Result<(), String> {
    let known = told.as_ref().is_some_and(|(t, at)| *t == text && at.elapsed() < TELL);
    if !known {
        channel.notice(text.clone())?;
        *told = Some((text, Instant::now()));
    }
    Ok(())
}
