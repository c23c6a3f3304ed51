//! `quorate cluster …`: from a cluster.toml to seeds, and to VMs on this machine.

mod apply;
pub(crate) mod chaos;
pub(crate) mod etcd;
mod leaders;
pub(crate) mod machines;
mod operate;
mod probe;
mod secrets;
pub(crate) mod seed;
pub(crate) mod show;
pub(crate) mod spec;
mod talk;
mod up;

use crate::cli::cluster::{ClusterArgs, ClusterCommand as Command};
use crate::keeper::{Request, serve};
use anyhow::Result;

/// What `cluster new` prints.
pub(crate) const TEMPLATE: &str = include_str!("../../../examples/stacked.toml");

/// Dispatches.
pub(crate) fn run(args: &ClusterArgs) -> Result<()> {
    match &args.command {
        Command::New => {
            print!("{TEMPLATE}");
            Ok(())
        }
        Command::Seed { file } => {
            let spec = spec::read(file)?;
            spec.warnings.iter().for_each(|w| eprintln!("quorate: {}: warning: {w}", file.display()));
            let dir = seed::write(&spec, file)?;
            println!("{}", dir.display());
            Ok(())
        }
        Command::Up { file, lab, only, retain, timeout } => {
            let patience = timeout.map_or_else(up::Patience::default, |ms| up::Patience(ms / 1000.0));
            up::up(file.as_deref(), lab, only, *retain, patience)
        }
        Command::Restore { name, lab, which } => up::restore(which.file.as_deref(), name, lab),
        Command::Down { file, wipe } => up::down(file.as_deref(), *wipe),
        Command::Status { file, format, watch, local } => show::status(file.as_deref(), *format, *watch, *local),
        Command::Env { file } => talk::env(file.as_deref()),
        Command::Logs { node, service, follow, lines, which } => {
            let (node, service) = (node.clone(), service.clone());
            operate::print(which, &Request::Logs { node, service, lines: *lines, follow: *follow })
        }
        Command::Console { node, no_follow, which } => {
            operate::print(which, &Request::Console { node: node.clone(), follow: !no_follow })
        }
        Command::Apply { file, images, dry_run } => apply::apply(file.as_deref(), images, *dry_run),
        Command::Kill { nodes, which } => operate::request(which, &Request::Kill { nodes: nodes.clone() }),
        Command::Start { nodes, no_wait, which } => {
            operate::request(which, &Request::Start { nodes: nodes.clone() })?;
            up::wait(which, nodes, *no_wait)
        }
        Command::Reboot { nodes, hard, in_turn: true, which, .. } => up::in_turn(which, nodes, *hard),
        Command::Reboot { nodes, hard, no_wait, which, .. } => {
            operate::request(which, &Request::Reboot { nodes: nodes.clone(), hard: *hard })?;
            up::wait(which, nodes, *no_wait)
        }
        Command::Signal { node, service, signal, which } => {
            let (node, service) = (node.clone(), service.clone());
            operate::request(which, &Request::Signal { node, service, signal: *signal })
        }
        Command::Clock { by, nodes, which } => {
            operate::request(which, &Request::Clock { nodes: nodes.clone(), seconds: by.0 })
        }
        Command::Cut(cut) => operate::cut(cut),
        Command::Divide { sets, protocol, which } => operate::divide(which, sets, *protocol),
        Command::SlowDisk { nodes, iops, which } => {
            operate::request(which, &Request::SlowDisk { nodes: nodes.clone(), operations: *iops })
        }
        Command::Heal { nodes, which } => operate::heal(which, nodes),
        Command::Capture { node, out, which } => {
            let out = std::path::absolute(out)?;
            operate::request(which, &Request::Capture { node: node.clone(), out })
        }
        Command::Save { name, which } => operate::request(which, &Request::Save { name: name.clone() }),
        Command::Probe(args) => probe::probe(args),
        Command::Export { out, which } => operate::export(which, out),
        Command::Keep { file, lab, only, restore } => serve::keep(file, lab, only, restore.as_deref()),
    }
}

/// `quorate boot-chart`.
pub(crate) fn boot_chart(args: &crate::cli::BootChart) -> Result<()> {
    let reports = match args.report.is_empty() {
        true => operate::reports(args.which.file.as_deref(), &args.nodes)?,
        false => args.report.iter().map(|f| operate::report_of(f)).collect::<Result<_>>()?,
    };
    let svg = crate::chart::draw(&reports);
    match &args.out {
        Some(path) => crate::store::write_whole(path, svg.as_bytes()),
        None => {
            print!("{svg}");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn checkout() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).expect("listed").map(|e| e.expect("an entry").path());
        let of = |path: PathBuf| match path.is_dir() {
            true => files(&path, ending),
            false => vec![path],
        };
        entries.flat_map(of).filter(|p| p.to_string_lossy().ends_with(ending)).collect()
    }

    #[test]
    fn every_example_is_a_cluster() {
        let examples = files(&checkout().join("examples"), ".toml");
        assert!(examples.len() >= 5, "{examples:?}");
        for example in examples {
            let spec = spec::read(&example).unwrap_or_else(|e| panic!("{e:#}"));
            assert_eq!(spec.warnings, Vec::<String>::new(), "{}", example.display());
        }
    }

    /// Stacked, external and compact are what people call placements of roles. Programs know roles only.
    #[test]
    fn no_program_knows_a_topology_by_its_name() {
        let names = ["stacked", "compact", "external_etcd", "externaletcd", "topology"];
        let rooms = ["contract", "metadata", "builder", "init", "agent"];
        let sources: Vec<_> = rooms.iter().flat_map(|r| files(&checkout().join(r).join("src"), ".rs")).collect();
        assert!(sources.len() > 100, "{}", sources.len());
        for path in sources {
            let text = std::fs::read_to_string(&path).expect("read");
            // What is before the tests, without what is said to people in comments.
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let lines = code.lines().map(|l| l.split("//").next().unwrap_or_default().to_lowercase());
            for (i, line) in lines.enumerate() {
                let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
                let found = words.find(|w| names.iter().any(|n| w.split('_').any(|part| part == *n) || w == n));
                // The example that `cluster new` prints is a file of that name.
                let is_file = line.contains("stacked.toml");
                let is_test = path.to_string_lossy().contains("test");
                assert!(found.is_none() || is_file || is_test, "{}:{}: {line}", path.display(), i + 1);
            }
        }
    }
}
