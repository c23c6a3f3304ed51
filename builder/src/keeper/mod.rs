//! The keeper: one background process per cluster, which owns the VMs, the switch and the clock. The commands are its
//! clients over a unix socket: one line of JSON asks, lines of JSON answer, the last one is `done` or `failed`.
//!
//! | question | file |
//! |---|---|
//! | what can it be asked? | here |
//! | how do commands ask? | `client.rs` |
//! | what does it do? | `serve.rs`, and `stream.rs` for answers that go on |
//! | in which state is a node? | `state.rs`, pure |
//! | whom does it end with? | `owner.rs` |

pub(crate) mod client;
mod owner;
pub(crate) mod serve;
pub(crate) mod state;
mod stream;

use contract::voice::ServiceSignal;
use lab::cluster::Event;
use lab::switch::{Counters, Faults};
use serde::{Deserialize, Serialize};
use state::NodeStatus;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What it is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(crate) enum Request {
    /// What runs.
    Status,
    /// Every node's lines, until these nodes are ready (none = all that are on), at most so many seconds of the guests' time.
    Follow { nodes: Vec<String>, patience: f64 },
    /// A service's log; without a service PID 1's own lines.
    Logs { node: String, service: Option<String>, lines: u32, follow: bool },
    /// A serial console.
    Console { node: String, follow: bool },
    /// Power cut.
    Kill { nodes: Vec<String> },
    /// Power on.
    Start { nodes: Vec<String> },
    /// Start again, in order or not.
    Reboot { nodes: Vec<String>, hard: bool },
    /// A signal for a service's processes.
    Signal { node: String, service: String, signal: ServiceSignal },
    /// Clocks jump, by seconds; of all nodes that are on where none is named.
    Clock { nodes: Vec<String>, seconds: i64 },
    /// The description changed: nodes that are new get a place, and what they need is forwarded.
    Reload { images: PathBuf },
    /// A node reads its seed again.
    Replan { node: String },
    /// A node's power button.
    Stop { node: String },
    /// A node's place and disk go; its power is cut if it is on.
    Forget { node: String },
    /// Faults of cables.
    Impair { nodes: Vec<String>, from: Faults, to: Faults },
    /// Sets that hear themselves only; with a protocol of IP's, as far as it goes.
    Divide { sets: Vec<Vec<String>>, protocol: Option<u8> },
    /// Their disks do so many operations in a second at most; 0 = no bound.
    SlowDisk { nodes: Vec<String>, operations: u32 },
    /// No faults at all.
    Heal,
    /// Write a cable's traffic down.
    Capture { node: String, out: PathBuf },
    /// Freeze.
    Save { name: String },
    /// Go back.
    Restore { name: String },
    /// A node's boot report.
    Report { node: String },
    /// Everything that happened.
    Timeline,
    /// The power buttons, and then the end.
    Down,
    /// The end, at once.
    End,
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(crate) enum Answer {
    /// What runs.
    Status(Box<Status>),
    /// A node's line; `ms` is the node's own time.
    Said { node: String, ms: u64, text: String },
    /// A line of a log or a console.
    Line { text: String },
    /// A boot report; none = the node has not told of one.
    Report { report: Option<Box<contract::report::BootReport>> },
    /// What happened.
    Timeline { events: Vec<Event> },
    /// That was all.
    Done,
    /// It could not be done.
    Failed { why: String },
}

/// What runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) cluster: String,
    /// Its file.
    pub(crate) file: PathBuf,
    /// `kvm` or `tcg`.
    pub(crate) accel: lab::accel::Accel,
    /// A guest second in host seconds.
    pub(crate) dilation: f64,
    /// Guest milliseconds since the cluster began.
    pub(crate) now_ms: u64,
    pub(crate) keeper_pid: u32,
    pub(crate) nodes: Vec<NodeStatus>,
    /// This machine's ports, and where they lead.
    pub(crate) forwards: Vec<(SocketAddr, SocketAddr)>,
    /// etcd's members by node, as this machine reaches them.
    pub(crate) etcd: BTreeMap<String, SocketAddr>,
    /// Their snapshots, likewise.
    pub(crate) snapshots: BTreeMap<String, SocketAddr>,
    /// The API at its virtual IP, as this machine reaches it.
    pub(crate) api: Option<SocketAddr>,
    /// What passed the switch's ports.
    pub(crate) switch: BTreeMap<String, Counters>,
}
