//! `quorate config validate`: the boot's own validator, on the operator's machine.

use crate::cli::{ConfigArgs, ConfigCommand};
use crate::cluster::spec;
use crate::place::Refused;
use anyhow::{Context, Result};
use metadata::assemble::{Files, Transport, assemble};
use std::path::Path;

/// Dispatches.
pub(crate) fn run(args: &ConfigArgs) -> Result<()> {
    let ConfigCommand::Validate { file, network } = &args.command;
    if file.extension().is_some_and(|e| e == "toml") {
        let cluster = spec::read(file)?;
        cluster.warnings.iter().for_each(|w| eprintln!("quorate: {}: warning: {w}", file.display()));
        println!("{}: {} nodes, no problem", file.display(), cluster.nodes.len());
        return Ok(());
    }
    let beside = file.with_file_name("network-config");
    let network = network.clone().or_else(|| beside.exists().then_some(beside));
    let read = |p: &Path| std::fs::read(p).with_context(|| format!("reading {}", p.display()));
    let files = Files {
        user_data: Some(read(file)?),
        // Where it is absent at boot that is worth a notice; here it is not what was asked about.
        meta_data: Some(b"instance-id: validate\n".to_vec()),
        network_config: network.as_deref().map(read).transpose()?,
        others: Vec::new(),
    };
    match assemble(&file.display().to_string(), &files, Transport::Medium) {
        Ok(seed) => {
            seed.notices.iter().for_each(|n| eprintln!("quorate: {}: note: {n}", file.display()));
            let roles: Vec<_> = seed.node.roles.iter().map(ToString::to_string).collect();
            println!("{}: node {} with {}, no problem", file.display(), seed.node.name(), roles.join(", "));
            Ok(())
        }
        Err(problems) => Err(Refused(problems.iter().map(|p| format!("{}: {p}", file.display())).collect()).into()),
    }
}
