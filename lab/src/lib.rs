//! Nodes as QEMU VMs.
//!
//! **May enter:** everything about a VM and its surroundings: the emulator, its clock, disks, console, QMP. **May not
//! enter:** how an image or a seed is made (`builder`), what a node does (`init`, `agent`).
//!
//! | question | module |
//! |---|---|
//! | KVM or emulation? | [`accel`] |
//! | what is a second? | [`clock`]: every wait here is in the guest's time |
//! | how is QEMU called? | [`command`], pure |
//! | who owns the process? | [`vm`]: whoever holds the [`vm::Vm`]; it ends with its owner, also when that one crashes |
//! | what does the guest say? | [`console`] |
//! | what does the node tell its host? | [`voice`] |
//! | how is it told to do something? | [`qmp`] |
//! | which disks? | [`disk`] |
//! | who hears whom, and how well? | [`switch`] |
//! | how does traffic get in and out? | [`gateway`] |
//! | what makes a cluster of it? | [`cluster`], frozen and thawed by [`snapshot`] |
//! | what does a client notice? | [`probe`] |

pub mod accel;
pub mod clock;
pub mod cluster;
pub mod command;
pub mod console;
pub mod disk;
pub mod gateway;
pub mod probe;
pub mod qmp;
pub mod snapshot;
pub mod switch;
pub mod vm;
pub mod voice;
