//! The kernel's calls that `nix` lacks: the only unsafe code beside what runs between fork and exec.

pub(crate) mod loop_device;
pub(crate) mod pause;
