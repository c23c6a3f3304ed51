//! What init supervises: services as data.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A program that PID 1 keeps running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name: cgroup, log directory, what others need.
    pub name: String,
    /// Program (absolute path) and arguments; never a shell.
    pub command: Vec<String>,
    /// uid and gid.
    #[serde(default)]
    pub user: u32,
    /// Environment beside `PATH` and `NOTIFY_SOCKET`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// A file of `KEY=VALUE` lines, read at each start: how a decision made after the plan reaches a command.
    #[serde(default)]
    pub environment_from: Option<String>,
    /// Services (ready) or conditions (done) that must be there before it starts.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Services without which it must not run: it is stopped at once when one of them ends, and started only after that one
    /// is ready again (systemd's `BindsTo=`).
    #[serde(default)]
    pub bound_to: Vec<String>,
    /// Services that are stopped before it, although they do not need it to start.
    #[serde(default)]
    pub stops_after: Vec<String>,
    /// A program that is run each time its process has ended, before anything else happens to it; program and arguments.
    #[serde(default)]
    pub after: Vec<String>,
    /// A program that is run when it has ended because the node shuts down; program and arguments. It has as long as
    /// `farewell_ms` milliseconds.
    #[serde(default)]
    pub farewell: Vec<String>,
    /// See `farewell`.
    #[serde(default)]
    pub farewell_ms: u64,
    /// The signal that asks it to end.
    #[serde(default)]
    pub stop: StopSignal,
    /// How long that may take, in milliseconds; none = as long as any service's stop.
    #[serde(default)]
    pub stop_ms: Option<u64>,
    /// The signal that makes it read its configuration again; none = it is started anew instead.
    #[serde(default)]
    pub reload: Option<ReloadSignal>,
    /// Conditions it brings about: it is stopped after those that need them.
    #[serde(default)]
    pub provides: Vec<String>,
    /// When it counts as ready.
    pub ready: Ready,
    /// What stopping it kills.
    #[serde(default)]
    pub kills: Kills,
    /// `memory.max` in bytes; none = no limit.
    #[serde(default)]
    pub memory_max: Option<u64>,
    /// `pids.max`.
    #[serde(default)]
    pub pids_max: Option<u64>,
    /// Has a control channel to PID 1 on [`crate::control::CHANNEL_FD`].
    #[serde(default)]
    pub agent: bool,
    /// May be left out of the orderly stop until the others are down (the agent that writes logs).
    #[serde(default)]
    pub last: bool,
}

impl Service {
    /// A program of root's that needs nothing, ends when it is told to, and is ready as soon as it runs.
    pub fn of(name: &str, command: Vec<String>) -> Self {
        Self {
            name: name.into(),
            command,
            user: crate::users::ROOT,
            env: BTreeMap::new(),
            environment_from: None,
            needs: vec![],
            bound_to: vec![],
            stops_after: vec![],
            after: vec![],
            farewell: vec![],
            farewell_ms: 0,
            stop: StopSignal::default(),
            stop_ms: None,
            reload: None,
            provides: vec![],
            ready: Ready::Started,
            kills: Kills::default(),
            memory_max: None,
            pids_max: None,
            agent: false,
            last: false,
        }
    }
}

/// When a service counts as ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ready {
    /// As soon as the process runs.
    Started,
    /// It sends `READY=1` (sd_notify).
    Notify,
    /// An agent said `done` for all of these.
    Done(Vec<String>),
    /// `READY=1` first, then the conditions.
    NotifyThenDone(Vec<String>),
    /// Its process has ended well: it is a program that is run once (systemd's `Type=oneshot`).
    Ended,
}

/// The signal that asks a service to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopSignal {
    /// SIGTERM.
    #[default]
    Term,
    /// SIGUSR1 (HAProxy: connections may end first).
    Usr1,
}

/// The signal that makes a service read its configuration again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReloadSignal {
    /// SIGHUP.
    Hup,
    /// SIGUSR2 (HAProxy's master process).
    Usr2,
}

/// What stopping a service kills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kills {
    /// Everything in its cgroup.
    #[default]
    Cgroup,
    /// The process only (containerd: its shims, and so every pod, must outlive it).
    Process,
}
