//! Debian: from an archive's name to the files of its packages, with every step verified.
//!
//! [`mirror`] says where an archive is, [`release`] verifies an index's signature and dates, [`index`] reads the
//! packages it lists, [`solve`] closes a set of packages under their dependencies, [`deb`] opens one.

pub(crate) mod control;
pub(crate) mod deb;
pub(crate) mod index;
pub(crate) mod mirror;
pub(crate) mod release;
pub(crate) mod solve;
pub(crate) mod version;

/// All of this is about one architecture.
pub(crate) const ARCH: &str = "amd64";
