//! `quorate cluster …`: from a cluster.toml to seeds, and to VMs on this machine.

mod machines;
mod secrets;
mod seed;
pub(crate) mod spec;
mod up;

use crate::cli::{ClusterArgs, ClusterCommand};
use anyhow::Result;

/// What `cluster new` prints.
pub(crate) const TEMPLATE: &str = include_str!("../../../examples/etcd.toml");

/// Dispatches.
pub(crate) fn run(args: &ClusterArgs) -> Result<()> {
    match &args.command {
        ClusterCommand::New => {
            print!("{TEMPLATE}");
            Ok(())
        }
        ClusterCommand::Seed { file } => {
            let spec = spec::read(file)?;
            spec.warnings.iter().for_each(|w| eprintln!("quorate: {}: warning: {w}", file.display()));
            let dir = seed::write(&spec, file)?;
            println!("{}", dir.display());
            Ok(())
        }
        ClusterCommand::Up { file, images } => up::up(file, images),
        ClusterCommand::Status { file, format } => up::status(file, *format),
        ClusterCommand::Down { file, wipe } => up::down(file, *wipe),
        ClusterCommand::Keep { file, images } => up::keep(file, images),
    }
}
