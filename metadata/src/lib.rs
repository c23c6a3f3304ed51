//! From what a platform says to a [`contract::seed::NodeSeed`].
//!
//! **May enter:** pure functions over bytes: decoding, YAML, network configuration, seed media, the choice of a source.
//! **May not enter:** sockets, device files, a clock. The agent reads (`agent/src/source.rs`), this crate understands; the
//! builder runs the very same code in `quorate config validate` and `quorate cluster seed`.
//!
//! Everything here parses foreign bytes: sizes are capped, properties tested, and each parser has a fuzz target.
//!
//! | question | module |
//! |---|---|
//! | how is user-data packed? | [`decode`] |
//! | what is under `quorate:`? | [`cloud_config`] |
//! | what does network-config say? | [`network_config`] |
//! | what is on a seed medium? | [`seed_media`] |
//! | which source counts? | [`platform`] |
//! | is the whole of it a seed? | [`assemble`] |
#![forbid(unsafe_code)]

pub mod assemble;
pub mod cloud_config;
pub mod decode;
pub mod network_config;
pub mod platform;
pub mod seed_media;

/// A seed file is at most this long, packed or unpacked. Bytes.
pub const FILE_MAX: usize = 1 << 20;
