//! The verb `node`: leaf certificates, etcd's membership, Kubernetes' part, the chores. It may be restarted at any moment: every step
//! finds out anew what is done already.

use crate::channel::{Channel, Told};
use crate::membership::decide::{Answer, Decision, Own, decide};
use crate::membership::join;
use crate::membership::mark::{self, Mark};
use crate::membership::question::{self, Identity};
use crate::membership::restore::{self, Rule};
use crate::membership::{digest, initial_cluster};
use crate::{chores, clock, etcd, hung, kube, lb, pki};
use contract::control::condition::{FORMED, MEMBER, PKI, SNAPSHOT};
use contract::node::{NodeConfig, Role};
use contract::ports::MEMBERSHIP;
use contract::seed::NodeSeed;
use contract::{paths, users};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// While deciding the others are asked this often: a leader takes ten times as long to appear, so that on a parallel
/// first boot nobody takes a cluster that is just forming for one that is there.
const ASK: Duration = Duration::from_millis(50);
/// A wait is told when its reason changes, and at most this often otherwise.
const TELL: Duration = Duration::from_secs(30);
/// etcd does not announce that it sees a leader; it is asked this often until it does.
const LEADER: Duration = Duration::from_millis(100);
/// The first member of a new cluster serves its peers within half a second.
const HEAD_START: Duration = Duration::from_millis(1500);
/// A cluster that does not take a member in yet is asked this often: it wants its own members connected for some seconds.
const TAKE_IN: Duration = Duration::from_millis(500);

static SEES_LEADER: AtomicBool = AtomicBool::new(false);

pub(crate) fn run() -> Result<(), String> {
    let channel = Channel;
    let text = std::fs::read(paths::NODE_JSON).map_err(|e| format!("{}: {e}", paths::NODE_JSON))?;
    let seed: NodeSeed = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", paths::NODE_JSON))?;
    let config = seed.node.clone();
    let issued = clock::now();
    pki::write_all(&config, issued)?;
    channel.done(PKI)?;
    hung::look_out(&config, channel);
    if config.roles.contains(&Role::Lb) {
        balance(&config, channel);
    }
    if config.has_kubelet() {
        kube::look_after(&seed, channel)?;
    }
    if config.roles.contains(&Role::Etcd) {
        member(&config, channel)?;
    }
    chores::for_ever(&config, issued, channel)
}

/// Looks after the load balancer, in a thread of its own.
fn balance(config: &NodeConfig, channel: Channel) {
    let config = config.clone();
    std::thread::spawn(move || {
        if let Err(e) = lb::guard(&config, channel) {
            eprintln!("the load balancer: {e}");
            std::process::exit(1);
        }
    });
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
    let awaited = etcd::serve::start(config.node.address, config.etcd_settings().quota_bytes)?;
    restore_first(config, &identity, &awaited, channel)?;
    decide_and_tell(config, &identity, channel)?;
    // From here on etcd runs, or is about to.
    let mut told = None;
    loop {
        if let Ok(status) = etcd::Gateway::local().and_then(|g| g.status())
            && status.sees_leader()
        {
            if mark::read(mark_path)? != Some(Mark::Formed) {
                mark::write(mark_path, &Mark::Formed)?;
            }
            SEES_LEADER.store(true, Ordering::Relaxed);
            if !status.is_learner {
                etcd::upkeep::start(config, channel);
                etcd::lead::look_out(config, channel);
                return channel.done(FORMED);
            }
            // A cluster gives a vote to nobody who has not caught up.
            if let Err(e) = join::promote(config, status.id()) {
                tell(&mut told, format!("etcd waits for its vote: {e}"), channel)?;
            }
        }
        wait(channel, LEADER)?;
    }
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
            leader: SEES_LEADER.load(Ordering::Relaxed) && etcd::sees_leader(),
            restore: restore::number().unwrap_or_default(),
        };
        if let Err(e) = question::serve(&listener, &identity, answer) {
            eprintln!("answering members: {e}");
            std::process::exit(1);
        }
    });
    Ok(())
}

/// Carries out a restore that the seed asks for, while etcd does not run yet.
fn restore_first(
    config: &NodeConfig,
    identity: &Identity,
    awaited: &etcd::serve::Awaited,
    channel: Channel,
) -> Result<(), String> {
    let own = restore::number()?;
    let Some(wanted) = config.etcd_settings().restore.filter(|w| w.number > own) else {
        return channel.done(SNAPSHOT);
    };
    let mut told = None;
    let mut begun = false;
    if env_of_etcd().exists() {
        // It was started in this boot: this process was not there for a while, or has a new seed.
        return channel
            .notice("etcd's data is to be replaced by a snapshot's: that is done when this node starts again");
    }
    loop {
        match restore::rule(restore::number()?, Some(&wanted), config.name(), &question::ask_all(identity, config)) {
            Rule::Done => return channel.done(SNAPSHOT),
            Rule::Wait(why) => tell(&mut told, format!("etcd waits: {why}"), channel)?,
            Rule::BeginEmpty => {
                restore::put_aside(wanted.number)?;
                restore::settle(wanted.number)?;
            }
            // PID 1 does it: what it takes is a program of its own.
            Rule::Restore if begun => {}
            Rule::Restore => {
                if etcd::serve::to_restore(wanted.number).exists() {
                    channel.done(SNAPSHOT)?;
                    begun = true;
                } else {
                    restore::put_aside(wanted.number)?;
                    awaited.expect(&wanted);
                    let digest = &wanted.sha256[..12];
                    tell(
                        &mut told,
                        format!("etcd waits: the snapshot {digest}… that `quorate etcd restore` sends"),
                        channel,
                    )?;
                }
            }
        }
        wait(channel, ASK)?;
    }
}

fn decide_and_tell(config: &NodeConfig, identity: &Identity, channel: Channel) -> Result<(), String> {
    let mark_path = Path::new(paths::ETCD_MARK);
    let mut own =
        Own { mark: mark::read(mark_path)?, log: mark::has_log(Path::new(paths::ETCD_DATA)), digest: digest(config) };
    let mut told: Option<(String, Instant)> = None;
    let mut refused: Option<(String, Instant)> = None;
    let mut attempt = 0;
    let mut led;
    let restored = restore::number()?;
    loop {
        let others = question::ask_all(identity, config);
        if let Rule::Wait(why) = restore::rule(restored, None, config.name(), &others) {
            tell(&mut told, format!("etcd waits: {why}"), channel)?;
            wait(channel, ASK)?;
            continue;
        }
        let others = restore::of_the_same(restored, others);
        led = others.values().flatten().any(|a| a.leader);
        let decision = decide(&own, &others, config.etcd_settings().bootstrap);
        match restore::but_not_anew(restored, decision) {
            Decision::Resume => break,
            Decision::Bootstrap => {
                mark::write(mark_path, &Mark::Bootstrapping { digest: own.digest.clone() })?;
                let_the_first_begin(config, identity, channel)?;
                break;
            }
            Decision::Join(whom) => {
                let through = &whom[attempt % whom.len()];
                attempt += 1;
                tell(&mut told, format!("{} see a leader: joining with a new identity", whom.join(", ")), channel)?;
                // A leader was seen, so the cluster is formed, and this node's place in the static list is about to be given
                // up: from here on it joins anew, whenever it ends (the model found what happens otherwise: `model.rs`).
                if own.mark != Some(Mark::Formed) {
                    mark::write(mark_path, &Mark::Formed)?;
                    own.mark = Some(Mark::Formed);
                }
                match join::join(config, through) {
                    Ok(list) => {
                        return start_etcd(&list, "existing", true, channel);
                    }
                    Err(e) => {
                        tell(&mut refused, format!("etcd waits: {through} does not take it in yet: {e}"), channel)?;
                    }
                }
                wait(channel, TAKE_IN)?;
            }
            Decision::Wait(why) => tell(&mut told, format!("etcd waits: {why}"), channel)?,
        }
        wait(channel, ASK)?;
    }
    start_etcd(&initial_cluster(config), "new", led, channel)
}

/// An etcd that bootstraps asks each of its peers, one second each, whether it is known already; peers that all start at
/// the same moment listen but do not answer yet. So the first of the list goes ahead (nobody listens yet: it is refused at
/// once), and the others follow when it serves. Only haste depends on it: who does not serve in time is not waited for.
fn let_the_first_begin(config: &NodeConfig, identity: &Identity, channel: Channel) -> Result<(), String> {
    let Some((_, address)) = config.members.iter().next().filter(|(name, _)| name.as_str() != config.name()) else {
        return Ok(());
    };
    let deadline = Instant::now() + HEAD_START;
    while !question::serves_peers(identity, *address) && Instant::now() < deadline {
        wait(channel, ASK)?;
    }
    Ok(())
}

/// Tells etcd its list (an etcd that has data does not look at it), and whether to compare its data with the others' before
/// it serves. They can answer only where they serve already: members that all start at once (after a power cut, say)
/// would each wait for the others until etcd gives up, 6 s later. Corruption that nobody could look for then is found by
/// the comparison at each compaction.
fn start_etcd(list: &str, state: &str, led: bool, channel: Channel) -> Result<(), String> {
    let text = format!(
        "ETCD_INITIAL_CLUSTER={list}\nETCD_INITIAL_CLUSTER_STATE={state}\n\
         ETCD_FEATURE_GATES=InitialCorruptCheck={led},CompactHashCheck=true\n"
    );
    let path = env_of_etcd();
    pki::write_file(&path, &text, 0o644, users::ROOT).map_err(|e| format!("{}: {e}", path.display()))?;
    channel.done(MEMBER)
}

/// What etcd is started with; there from then on until the node starts again.
fn env_of_etcd() -> PathBuf {
    Path::new(paths::ENV).join("etcd")
}

fn tell(told: &mut Told, text: String, channel: Channel) -> Result<(), String> {
    channel.notice_anew(told, TELL, text)
}
