//! What agents and PID 1 say to each other: one JSON message per SOCK_SEQPACKET record.
//!
//! Each agent has one channel, made by PID 1, on file descriptor [`CHANNEL_FD`]. An unknown message ends the agent.
//! An agent that dies leaves its last word standing until it is back.

use crate::network::NetworkConfig;
use crate::seed::{NoSeed, NodeSeed};
use serde::{Deserialize, Serialize};

/// The channel's file descriptor in an agent.
pub const CHANNEL_FD: i32 = 3;
/// A message is at most this long, in bytes; a seed is the largest.
pub const MESSAGE_MAX: usize = 192 << 10;

/// Conditions that agents report and services need.
pub mod condition {
    /// The declared address is on an interface.
    pub const ADDRESS: &str = "address";
    /// Leaves are on disk.
    pub const PKI: &str = "pki";
    /// The membership decision stands in etcd's environment file.
    pub const MEMBER: &str = "member";
    /// etcd saw a leader and the mark is on disk.
    pub const FORMED: &str = "formed";
    /// The snapshot that this member is to restore is there, or there is none to restore.
    pub const SNAPSHOT: &str = "snapshot";
    /// The clock is synchronised, or no longer waited for.
    pub const TIME: &str = "time";
    /// The interface of the virtual IP stands in keepalived's `link.conf`.
    pub const LINK: &str = "link";
    /// etcd serves the apiserver of this master, which is about to start.
    pub const STORE: &str = "store";
    /// On a master: the apiserver of this node is ready. On a worker: the API is there for its kubelet.
    pub const API: &str = "api";
    /// The cluster's objects were applied once, or others of the cluster see to them.
    pub const OBJECTS: &str = "objects";
    /// The API says that this node is Ready.
    pub const NODE_READY: &str = "node-ready";
    /// All conditions.
    pub const ALL: &[&str] = &[ADDRESS, PKI, MEMBER, FORMED, SNAPSHOT, TIME, LINK, STORE, API, OBJECTS, NODE_READY];
}

/// From an agent to PID 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromAgent {
    /// A condition holds.
    Done {
        /// Which.
        condition: String,
    },
    /// What the agent waits for, or found odd; shown on the console and in the report.
    Notice {
        /// For people.
        text: String,
    },
    /// Something worth a line of the console that is nothing odd.
    Tell {
        /// For people.
        text: String,
    },
    /// The host sends a signal to a service's processes; the answer is [`ToAgent::Signalled`].
    Signal {
        /// Which.
        service: String,
        /// What.
        signal: crate::voice::ServiceSignal,
    },
    /// The clock jumps by so many seconds: the host says so.
    Clock {
        /// At most [`crate::voice::CLOCK_STEP_MAX`] either way.
        seconds: i64,
    },
    /// The source may have another configuration: look, and take it when its generation is higher.
    Replan,
    /// A service hangs: it is ended without a word, and started again.
    Fault {
        /// Which.
        service: String,
        /// Why.
        why: String,
    },
    /// A device needs a module: its modalias.
    Module {
        /// As sysfs shows it.
        modalias: String,
    },
    /// A block device appeared or changed: worth looking for a seed again.
    Media {
        /// Device node.
        device: String,
    },
    /// End the machine.
    Shutdown {
        /// How.
        kind: ShutdownKind,
        /// Who asked.
        why: String,
    },
    /// The metadata agent's answer.
    Seed {
        /// What was found.
        seed: Box<NodeSeed>,
    },
    /// The metadata agent's other answer.
    NoSeed {
        /// Why not.
        why: NoSeed,
    },
}

/// What the metadata agent is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetadataRequest {
    /// `/proc/cmdline`.
    pub cmdline: String,
    /// SMBIOS serial number, as sysfs has it (only root can read it).
    pub dmi_serial: String,
    /// Block devices small enough to be a seed, whole disks and partitions.
    pub media: Vec<String>,
}

/// From PID 1 to an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToAgent {
    /// To `metadata`: look.
    Metadata {
        /// At these.
        request: MetadataRequest,
    },
    /// To `network`: bring this up, and say `done(address)` when `address` is there.
    Network {
        /// The configuration.
        config: NetworkConfig,
        /// The declared address; none = any address will do (the seed is still to be fetched).
        address: Option<std::net::IpAddr>,
    },
    /// A service's state changed.
    Service {
        /// Which.
        name: String,
        /// Whether it is ready.
        ready: bool,
    },
    /// To `devices`, of each [`FromAgent::Signal`], in their order: the processes have it.
    Signalled {
        /// Why none has.
        problem: Option<String>,
    },
}

/// How the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShutdownKind {
    /// Power off.
    Poweroff,
    /// Start again.
    Reboot,
}
