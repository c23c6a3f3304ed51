//! `quorate`: builds images, makes seeds, runs clusters of VMs.
//!
//! **May enter:** everything that happens on the operator's machine. **May not enter:** code of `init` or `agent`; their
//! binaries are input files here. Determinism is a rule of this room: no clock, no random identifier, no unordered map,
//! no unsorted directory listing decides what is written.
//!
//! | question | file |
//! |---|---|
//! | what does a profile mean? | `profile/` |
//! | what exactly goes in? | `lock/`, `debian/`, `component/` |
//! | what will a build do, and how does it? | `plan.rs`, `build.rs` |
//! | what is in the root? | `rootfs/`, `tree/` |
//! | how are bytes laid out? | `format/` |
//! | what is a node told? | `cluster/`, `config.rs` |
//! | how does a cluster go back to a snapshot? | `cluster/etcd.rs` |
//! | what does a cluster make of a fault? | `cluster/chaos/` |
//! | where did the time of a boot go? | `chart.rs` |
//! | who owns a running cluster's VMs? | `keeper/` |

mod build;
mod chart;
mod cli;
mod cluster;
mod component;
mod config;
mod debian;
mod digest;
mod dirs;
mod failure;
mod fetch;
mod format;
mod image;
mod interrupt;
mod keeper;
mod lock;
mod output;
mod place;
mod plan;
mod profile;
mod progress;
mod rootfs;
mod store;
mod tree;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Image(args) => interrupt::install().and_then(|()| image::run(args)),
        Command::Config(args) => config::run(args),
        Command::Cluster(args) => cluster::run(args),
        Command::Etcd(args) => cluster::etcd::run(args),
        Command::Chaos(args) => cluster::chaos::run(args),
        Command::BootChart(args) => cluster::boot_chart(args),
    };
    interrupt::work_ended();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => failure::tell(&e),
    }
}
