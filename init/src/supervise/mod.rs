//! Supervision: services as data, one reaper, one thread.
//!
//! [`step`] decides (pure: state and event in, actions out, driven by property tests through many schedules), [`run`]
//! waits for events and carries actions out, [`agents`] hears what agents say, [`start`] gathers what a process needs, and [`spawn`] is
//! the only place that makes or reaps one.

mod agents;
pub(crate) mod cgroup;
pub(crate) mod channel;
pub(crate) mod notify;
pub(crate) mod output;
pub(crate) mod processes;
pub(crate) mod run;
pub(crate) mod spawn;
mod start;
pub(crate) mod step;
