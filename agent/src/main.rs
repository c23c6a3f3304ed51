//! `quorate-agent`: one verb per process, supervised by PID 1.
//!
//! **May enter:** what parses what others wrote, speaks TLS, HTTP or netlink, and can be restarted at any moment.
//! **May not enter:** starting programs (PID 1 alone does), roles (they are planned in `init/src/roles`).
//!
//! | verb | what it does | file |
//! |---|---|---|
//! | `metadata` | finds and understands the seed, once; as a user of its own | `source.rs` |
//! | `devices` | coldplug and uevents: modules, `/dev/disk/by-*`, media, the power button, the port to the host | `devices.rs`, `disk_names.rs`, `voice/` |
//! | `network` | links, addresses, routes, DHCP, late NICs | `net/` |
//! | `node` | leaf certificates, etcd membership, a master's and a kubelet's Kubernetes, the saved time, a load balancer's health, programs that hang | `node.rs`, `pki/`, `chores.rs`, `membership/`, `kube/`, `lb/`, `hung.rs` |
//! | `drain` | waits for the node's stop, and sends its pods elsewhere before | `kube/drain.rs` |
//! | `drop-vip` | takes a virtual IP away that keepalived left behind, once | `lb/vip.rs` |
//! | `hand-over-vip` | waits until a peer has the virtual IP of a load balancer that stops, once | `lb/vip.rs` |
//! | `restore-etcd`, `take-restored` | a snapshot becomes etcd's data, once | `membership/restore.rs` |
//! | `log` | writes what services print | `logs.rs` |

mod channel;
mod chores;
mod clock;
mod devices;
mod disk_names;
mod etcd;
mod https;
mod hung;
mod kube;
mod lb;
mod logs;
mod membership;
mod net;
mod node;
mod pki;
mod source;
mod space;
mod uevent;
mod voice;

use std::process::ExitCode;

fn main() -> ExitCode {
    let verb = std::env::args().nth(1);
    let words: Vec<String> = std::env::args().skip(2).collect();
    let result = match verb.as_deref() {
        Some("metadata") => source::run(),
        Some("devices") => devices::run(),
        Some("network") => net::run(),
        Some("node") => node::run(),
        Some("log") => logs::run(),
        Some("drain") => kube::drain::run(),
        Some("drop-vip") => lb::vip::drop(words.first().map_or("", String::as_str)),
        Some("hand-over-vip") => lb::vip::hand_over(words.first().map_or("", String::as_str)),
        Some("restore-etcd") => membership::restore::make(&words),
        Some("take-restored") => membership::restore::take(&words),
        _ => {
            Err("expected one of metadata, devices, network, node, log, drain, drop-vip, hand-over-vip, restore-etcd, \
                 take-restored; PID 1 starts this program"
                .into())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("quorate-agent {}: {e}", verb.unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}
