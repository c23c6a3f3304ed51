//! keepalived.conf (keepalived.conf(5) of 2.3).
//!
//! VRRPv3 (RFC 9568) in unicast between the load balancers that the configuration names. Whoever holds the virtual IP keeps
//! it while all are alike, by weight and not by `nopreempt`: with that a holder that reaches no master could never be
//! relieved. Base priorities are 110, 109, …; two files written by the agent are added: [`HOLDING`], 20 on the node that
//! holds the address, and [`MASTERS`], -50 where no master is reached (agent/src/lb/watch.rs says how long).

use contract::lb::TELLS_AGAIN_S;
use contract::node::{NodeConfig, Peer};
use contract::paths::LB;

/// What holding the virtual IP adds to the priority.
pub(super) const HOLDING: &str = "/run/quorate/lb/holding";
/// What reaching no master takes away.
pub(super) const MASTERS: &str = "/run/quorate/lb/masters";
/// The first load balancer's priority.
const FIRST: usize = 110;
/// The holder of an IPv6 address tells the network where it is this often, in seconds: two that held it and meet again settle who
/// keeps it in a tenth of a second; but when the one that gives up told last, others send to it until they are told again. Of an
/// IPv4 address the agent tells, which knows when not to (agent/src/lb/announce.rs).
const TELL_S: u32 = 1;
/// Of the kernel's real-time scheduler (sched(7)): a busy node must not miss its own advertisements.
const REAL_TIME: u32 = 50;
/// It may run for so long without ever waiting, in microseconds of its processor's time; then the kernel kills it (RLIMIT_RTTIME,
/// getrlimit(2)). Keepalived's own 10 ms are three of the kernel's ticks: on nodes that a snapshot had brought back, whose
/// emulator had everything to translate anew, that was over in three of four tries, and the virtual IP moved for nothing.
/// Peers notice one that spins after 0.3 s.
const RUNS_AT_MOST: u32 = 1_000_000;

/// The file; none where there is no virtual IP.
pub(super) fn configuration(config: &NodeConfig) -> Option<String> {
    let lb = config.lb.as_ref()?;
    let vip = config.virtual_ip()?;
    let router = lb.virtual_router_id?;
    let own = config.node.address;
    let name = config.name();
    let priority = FIRST.saturating_sub(lb.peers.iter().position(|p| p.name == name)?);
    let peers: Vec<&Peer> = lb.peers.iter().filter(|p| p.name != name).collect();
    let lines: String = peers.iter().map(|p| format!("        {}\n", p.address)).collect();
    // Alone there is nobody to tell. Without a list keepalived would speak to the multicast group; an empty one is a fault.
    let unicast = match peers.is_empty() {
        true => String::new(),
        false => format!("    unicast_src_ip {own}\n    unicast_peer {{\n{lines}    }}\n"),
    };
    let prefix = if vip.is_ipv4() { 32 } else { 128 };
    let refresh = if vip.is_ipv4() { 0 } else { TELL_S };
    let advert = f64::from(lb.advert_ms) / 1000.0;
    Some(format!(
        "\
# Made by quorate-init from the node's configuration at each boot; why it is so stands in init/src/roles/lb/keepalived.rs.
global_defs {{
    router_id {name}
    vrrp_version 3
    vrrp_rt_priority {REAL_TIME}
    vrrp_rlimit_rttime {RUNS_AT_MOST}
    vrrp_no_swap
    vrrp_garp_master_delay {TELLS_AGAIN_S}
    vrrp_garp_master_repeat 5
    vrrp_garp_master_refresh {refresh}
    vrrp_garp_lower_prio_repeat 5
    vrrp_higher_prio_send_advert true
}}

# $LINK: the interface with the node's address, found by the agent.
include {LB}/link.conf

track_file holding {{
    file {HOLDING}
    weight 1
}}
track_file masters {{
    file {MASTERS}
    weight 1
}}

vrrp_instance api {{
    state BACKUP
    interface $LINK
    virtual_router_id {router}
    priority {priority}
    advert_int {advert}
{unicast}    virtual_ipaddress {{
        {vip}/{prefix} dev $LINK
    }}
    track_file {{
        holding
        masters
    }}
}}
"
    ))
}
