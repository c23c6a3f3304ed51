//! What build time, seed time and boot time must agree on.
//!
//! The builder writes what init reads, the seed maker writes what the agent reads, the agent and PID 1 talk to each
//! other: every name, path, schema and message that two of them share stands here, once, as a type.
//!
//! **May enter:** pure types, constants, validation of values. **May not enter:** input or output, a clock, async, a
//! parser of a foreign format (YAML, TOML, ISO 9660, DHCP live in `metadata`, `builder` and `agent`). PID 1 links this
//! crate, so each dependency is weighed twice.
//!
//! | question | module |
//! |---|---|
//! | what may stand on the kernel command line? | [`cmdline`] |
//! | what does an image consist of? | [`image`] |
//! | what is a node told? | [`node`], checked by [`check`] |
//! | how does it reach its network? | [`network`] |
//! | what does the metadata agent answer? | [`seed`] |
//! | what does init supervise? | [`service`] |
//! | what do agents and PID 1 say to each other? | [`control`] |
//! | what does a node report? | [`report`], to its host by [`voice`] |
//! | where do files lie, who owns them? | [`paths`], [`users`], [`disk`], [`ports`] |
#![forbid(unsafe_code)]

pub mod check;
pub mod cmdline;
pub mod control;
pub mod disk;
pub mod image;
pub mod kube;
pub mod lb;
pub mod nearest;
pub mod network;
pub mod node;
pub mod paths;
pub mod ports;
pub mod report;
pub mod seed;
pub mod service;
pub mod users;
pub mod voice;
