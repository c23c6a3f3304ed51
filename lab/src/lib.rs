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
//! | how is it told to do something? | [`qmp`] |
//! | which disks? | [`disk`] |

pub mod accel;
pub mod clock;
pub mod command;
pub mod console;
pub mod disk;
pub mod qmp;
pub mod vm;
