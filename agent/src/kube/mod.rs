//! What a node with a kubelet needs of its agent.
//!
//! | question | file |
//! |---|---|
//! | does the apiserver wait for a member of etcd that is gone, or slow? | `../etcd/gone.rs`, `../etcd/slow.rs` |
//! | when does a static pod start, and when is the API ready? | `control_plane.rs` |
//! | what does every cluster contain? | `objects/`, pure; `apply.rs` sees to it |
//! | when does a worker's kubelet start? | `admission.rs` |
//! | how does it come by its first certificate? | `enrolment.rs` |
//! | which kubelet gets a certificate? | `approve.rs` |
//! | do load balancers send clients here? | `ready.rs` |
//! | ... and those that are connected when they had better leave? | `shed.rs` |
//! | what does a node do before it stops? | `drain.rs`, a verb of its own |
//! | how is the API spoken to? | `api.rs` |
//!
//! Each looks after itself in a thread of its own, finds out anew what is done already, and never ends: what fails is told
//! once and tried again.

mod admission;
mod api;
mod apply;
mod approve;
mod control_plane;
pub(crate) mod drain;
mod enrolment;
mod node_ready;
mod objects;
mod ready;
mod shed;

use crate::channel::Channel;
use crate::etcd::health::Health;
use contract::node::Role;
use contract::seed::NodeSeed;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// What is told again only after so long.
const TELL: Duration = Duration::from_secs(30);

/// Begins to look after the node.
pub(crate) fn look_after(seed: &NodeSeed, channel: Channel) -> Result<(), String> {
    let config = Arc::new(seed.node.clone());
    if config.roles.contains(&Role::Master) {
        let is_ready = Arc::new(AtomicBool::new(false));
        let health = Arc::new(Health::default());
        ready::serve(&config, Arc::clone(&is_ready), Arc::clone(&health))?;
        crate::etcd::slow::look_out(&config, &health, channel)?;
        let own = Arc::clone(&config);
        forever("the control plane", move || control_plane::watch(&own, &is_ready, channel));
        let own = Arc::clone(&config);
        forever("the cluster's objects", move || apply::see_to_it(&own, channel));
        let own = Arc::clone(&config);
        forever("certificates", move || approve::watch(&own, channel));
        if !config.roles.contains(&Role::Etcd) {
            crate::etcd::gone::look_out(&config, &health, channel);
        }
        let own = Arc::clone(&config);
        forever("clients that had better leave", move || shed::watch(&own, &health, channel));
    }
    if !config.roles.contains(&Role::Master) {
        let own = Arc::clone(&config);
        forever("the API", move || admission::wait(&own, channel));
    }
    forever("the node", move || node_ready::watch(&config, channel));
    Ok(())
}

/// Runs something that ends only when this process cannot go on: PID 1 starts it anew.
fn forever(what: &'static str, work: impl FnOnce() -> Result<(), String> + Send + 'static) {
    std::thread::spawn(move || {
        if let Err(e) = work() {
            eprintln!("{what}: {e}");
            std::process::exit(1);
        }
    });
}

/// What is waited for, told when it changes, and now and then.
#[derive(Debug)]
struct Told {
    channel: Channel,
    last: Option<(String, Instant)>,
    /// Nothing is said before this: a start has its time.
    from: Instant,
}

impl Told {
    fn new(channel: Channel, quiet: Duration) -> Self {
        Self { channel, last: None, from: Instant::now() + quiet }
    }

    /// From now on whatever there is to say is said: it is no start's.
    fn speak(&mut self) {
        self.from = self.from.min(Instant::now());
    }

    fn say(&mut self, text: String) -> Result<(), String> {
        let known = self.last.as_ref().is_some_and(|(t, at)| *t == text && at.elapsed() < TELL);
        if known || Instant::now() < self.from {
            return Ok(());
        }
        self.channel.notice(text.clone())?;
        self.last = Some((text, Instant::now()));
        Ok(())
    }
}
