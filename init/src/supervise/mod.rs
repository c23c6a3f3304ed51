//! Supervision: services as data, one reaper, one thread.
//!
//! [`step`] decides (pure: state and event in, actions out, driven by property tests through many schedules), [`run`]
//! waits for events and carries actions out, [`spawn`] is the only place that makes or reaps a process.

pub(crate) mod cgroup;
pub(crate) mod channel;
pub(crate) mod notify;
pub(crate) mod output;
pub(crate) mod processes;
pub(crate) mod run;
pub(crate) mod spawn;
pub(crate) mod step;
