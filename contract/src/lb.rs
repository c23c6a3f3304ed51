//! What HAProxy's configuration (init) and who watches over it (the agent) agree on.

use crate::node::NodeConfig;

/// A connection to a server in the same network takes a millisecond. One that is not answered within this is tried at the
/// next server. A health check's TLS handshake has the same bound, so it is no shorter: apiservers are busy at times.
pub const CONNECT_MS: u32 = 200;
/// A server that is down for so long, longer than a connection is in the making, and whose last check failed, too, is dead: its
/// connections are cut, if another master can take its clients.
pub const SETTLED_MS: u32 = 220;
const _: () = assert!(SETTLED_MS > CONNECT_MS);
/// A server is down when so many of its checks failed one after the other ...
pub const FALL: u32 = 2;
/// ... and up again when so many succeeded.
pub const RISE: u32 = 2;
/// What HAProxy counts a server's health up to (`srv_check_health` of `show servers state`, its management guide, 9.3): it is
/// there when its last check succeeded, and one less for each that failed since; of one that is down it is 0, and one more for
/// each that succeeded since the last that failed.
pub const SOUND: u32 = RISE + FALL - 1;
/// Connections to the virtual IP may go on for so long on a load balancer that gave it up, or that stops. New ones go to its
/// new holder; those of an external load balancer finish what they are about.
pub const DRAIN_MS: u32 = 3000;
/// Keepalived that takes the virtual IP tells the network at once, and again after so long (`vrrp_garp_master_delay`). Seconds.
pub const TELLS_AGAIN_S: u8 = 1;
/// A peer that is told that the holder stops has the virtual IP within two advertisements (RFC 9568, 6.1: the skew time); when
/// nobody takes it, nothing is won by waiting longer.
pub const HAND_OVER_MS: u32 = 500;
/// The backend of the masters that are ready, by their health and their own word; and the last resort's, of those
/// that have started.
pub const BACKENDS: [&str; 2] = ["ready", "started"];

/// HAProxy's names of its servers, `BACKEND/MASTER`, in the order in which its frontend `health` tells whether they are up.
pub fn servers(config: &NodeConfig) -> Vec<String> {
    let of = |backend: &str| config.masters.keys().map(move |name| format!("{backend}/{name}")).collect::<Vec<_>>();
    BACKENDS.iter().flat_map(|b| of(b)).collect()
}
