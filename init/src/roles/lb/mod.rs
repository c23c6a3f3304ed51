//! The role lb: HAProxy in front of all masters, and Keepalived holding the virtual IP.
//!
//! | question | file |
//! |---|---|
//! | to whom does a connection go? | `haproxy.rs` |
//! | who holds the virtual IP? | `keepalived.rs` |
//!
//! No script asks whether HAProxy is well: keepalived is bound to it, so that PID 1 stops keepalived (which tells its peers)
//! in the moment in which HAProxy ends or, by the word of the agent that asks it, hangs. That keepalived itself hangs the agent
//! sees, too (agent/src/lb/keepalived.rs).

mod haproxy;
mod keepalived;

use super::{File, NodePlan, directory, owned};
use contract::control::condition::{ADDRESS, LINK};
use contract::lb::{DRAIN_MS, HAND_OVER_MS};
use contract::node::NodeConfig;
use contract::service::{Ready, ReloadSignal, Service, StopSignal};
use contract::{paths, users};

/// Adds it to a plan.
pub(crate) fn add(config: &NodeConfig, plan: &mut NodePlan) -> Result<(), String> {
    plan.directories.push(directory(paths::LB, 0o755, users::ROOT));
    plan.directories.push(directory(&format!("{}/sock", paths::LB), 0o750, users::HAPROXY));
    let cluster_ca = config.pki.cluster_ca.as_ref().ok_or("quorate.pki.cluster_ca is missing")?;
    plan.files.push(file(&format!("{}/ca.crt", paths::PKI), cluster_ca.cert.clone()));
    plan.files.push(file(HAPROXY_CFG, haproxy::configuration(config)));
    plan.services.push(haproxy_service());
    if let Some((vip, text)) = config.virtual_ip().zip(keepalived::configuration(config)) {
        plan.files.push(file(KEEPALIVED_CONF, text));
        // As long as the agent has not said otherwise.
        plan.files.push(file(keepalived::HOLDING, "0\n".into()));
        plan.files.push(file(keepalived::MASTERS, "0\n".into()));
        plan.services.push(keepalived_service(&vip.to_string()));
    }
    Ok(())
}

const HAPROXY_CFG: &str = "/run/quorate/lb/haproxy.cfg";
const KEEPALIVED_CONF: &str = "/run/quorate/lb/keepalived.conf";

/// To start the program that waits for the peer, and to end it.
const MARGIN_MS: u64 = 500;

fn file(path: &str, content: String) -> File {
    File { path: path.into(), mode: 0o644, owner: users::ROOT, content }
}

fn haproxy_service() -> Service {
    // With a master process, which keeps the listening sockets over a reload, and says READY=1.
    let command = owned(&["/usr/sbin/haproxy", "-Ws", "-f", HAPROXY_CFG]);
    Service {
        user: users::HAPROXY,
        needs: owned(&[ADDRESS]),
        stop: StopSignal::Usr1,
        stop_ms: Some(DRAIN_MS.into()),
        reload: Some(ReloadSignal::Usr2),
        ready: Ready::Notify,
        pids_max: Some(64),
        ..Service::of("haproxy", command)
    }
}

fn keepalived_service(vip: &str) -> Service {
    let command = owned(&[
        "/usr/sbin/keepalived",
        "--dont-fork",
        "--log-console",
        "--vrrp",
        "--use-file",
        KEEPALIVED_CONF,
        "--pid",
        "/run/quorate/lb/keepalived.pid",
        "--vrrp_pid",
        "/run/quorate/lb/vrrp.pid",
    ]);
    Service {
        needs: owned(&[ADDRESS, LINK]),
        bound_to: owned(&["haproxy"]),
        // One that was killed leaves the address behind, and its peer takes it: nobody may hold it twice.
        after: owned(&[paths::AGENT, "drop-vip", vip]),
        // HAProxy, which is stopped next, takes connections until its peer has the address: nobody is refused in between.
        farewell: owned(&[paths::AGENT, "hand-over-vip", vip]),
        farewell_ms: u64::from(HAND_OVER_MS) + MARGIN_MS,
        reload: Some(ReloadSignal::Hup),
        // It can say READY=1, but says it only to a PID 1 that is called systemd.
        ready: Ready::Started,
        pids_max: Some(64),
        ..Service::of("keepalived", command)
    }
}

#[cfg(test)]
mod tests;
