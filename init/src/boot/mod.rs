//! The prelude and the steps that are over before anything runs in parallel: synchronous, one thread, each bounded.

pub(crate) mod cgroup;
pub(crate) mod clock;
pub(crate) mod end;
pub(crate) mod identity;
pub(crate) mod log;
pub(crate) mod modules;
pub(crate) mod mounts;
pub(crate) mod panic;
pub(crate) mod root;
pub(crate) mod state;
pub(crate) mod write;

/// Why the boot cannot go on: what, what was expected and found, and a hint. One line on the console.
#[derive(Debug)]
pub(crate) struct Stop(pub(crate) String);

impl Stop {
    /// `what; expected …, found …; hint: …`.
    pub(crate) fn new(what: impl std::fmt::Display, expected: &str, found: impl std::fmt::Display, hint: &str) -> Self {
        Self(format!("{what}; expected {expected}, found {found}; hint: {hint}"))
    }
}
