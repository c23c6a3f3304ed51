//! Arguments: types only.

pub(crate) mod cluster;
pub(crate) mod etcd;
mod values;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Builds immutable node images for highly available Kubernetes, makes the seeds that tell nodes what they are, and
/// runs clusters of them as VMs on this machine.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The command's families.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// From a profile and its lock to a bootable image
    Image(ImageArgs),
    /// Check what a node would be told
    Config(ConfigArgs),
    /// Seeds, and clusters of VMs
    Cluster(cluster::ClusterArgs),
    /// Snapshots of a cluster's data, and the way back to one
    Etcd(etcd::EtcdArgs),
    /// Break a cluster of VMs in every way of the fault table, and measure what its users see
    Chaos(Chaos),
    /// Draw where every millisecond of a boot went (SVG, critical path marked)
    BootChart(BootChart),
}

/// `quorate chaos`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  quorate chaos --list\n  quorate chaos examples/stacked.toml\n  quorate chaos examples/compact.toml \
lb-power master-power --again\n\nThe cluster gets a name, secrets and disks of its own; what is measured lies in the directory CLUSTER.chaos beside \
the file. It is booted once for its description and images, and its saved state kept (some gigabytes, until `quorate cluster down \
CLUSTER.chaos/cluster.toml --wipe`); rows that were measured with them are not run again, and an interrupted run goes on where it was. \
Rows run as fast as this machine bears, which is tried once per boot (minutes, some more on a slow machine); with --dilation at 0.45 of it."
)]
pub(crate) struct Chaos {
    /// The cluster
    #[arg(required_unless_present = "list")]
    pub(crate) file: Option<PathBuf>,
    /// Rows of the table; all of them where none is named
    pub(crate) rows: Vec<String>,
    /// Print the rows
    #[arg(long)]
    pub(crate) list: bool,
    /// Run rows again that were measured already
    #[arg(long)]
    pub(crate) again: bool,
    /// How long the rows quiet, idle and bad-network-long last, guest minutes
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1440))]
    pub(crate) minutes: u32,
    /// How results are printed
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Images, accelerator, clock of the boot
    #[command(flatten)]
    pub(crate) lab: cluster::Lab,
}

/// `quorate boot-chart`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  quorate boot-chart -o boot.svg\n  quorate boot-chart master-1 worker-1 > boot.svg\n  \
quorate boot-chart --report boot.json   # /run/quorate/boot.json of any node"
)]
pub(crate) struct BootChart {
    /// Nodes of a running cluster; all of them where none is named
    pub(crate) nodes: Vec<String>,
    /// Of which cluster.
    #[command(flatten)]
    pub(crate) which: cluster::Which,
    /// Boot reports from files instead
    #[arg(long, value_name = "FILE", conflicts_with = "nodes")]
    pub(crate) report: Vec<PathBuf>,
    /// Where to put it; default: standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For scripts.
    Json,
}

/// `quorate image`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  quorate image build etcd\n  quorate image lock etcd --update chrony\n  quorate image plan etcd --format json"
)]
pub(crate) struct ImageArgs {
    /// Where profiles and recipes lie
    #[arg(long, global = true, default_value = "profiles", value_name = "DIR")]
    pub(crate) profiles: PathBuf,
    /// OpenPGP keyring with the archive's keys (which of them count stands in profiles/keys.toml)
    #[arg(long, global = true, default_value = "/usr/share/keyrings/debian-archive-keyring.gpg", value_name = "FILE")]
    pub(crate) keyring: PathBuf,
    /// Never open a socket: everything must be in the store
    #[arg(long, global = true)]
    pub(crate) offline: bool,
    /// quorate-init; default: beside this program
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) init: Option<PathBuf>,
    /// quorate-agent; default: beside this program
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) agent: Option<PathBuf>,
    /// Which step.
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
}

/// The steps of `quorate image`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Verify the archives' indices and write PROFILE.lock
    Lock {
        /// Name under the profiles directory, or the path of a .toml file
        profile: String,
        /// Change or add only these entries, and what they need
        #[arg(long, value_name = "NAME")]
        update: Vec<String>,
    },
    /// Print what a build would do: the resolved profile and all that goes in
    Plan {
        /// Name under the profiles directory, or the path of a .toml file
        profile: String,
        /// Text or JSON
        #[arg(long, default_value = "text")]
        format: Format,
    },
    /// Build the image into out/PROFILE
    Build(Build),
    /// Verify a built image and print what it is made of
    Inspect {
        /// Name under the profiles directory, or the path of a .toml file
        profile: String,
        /// Text or JSON
        #[arg(long, default_value = "text")]
        format: Format,
        /// The image's directory; default out/PROFILE
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

impl ImageCommand {
    /// The profile it is about.
    pub(crate) fn profile(&self) -> &str {
        match self {
            Self::Lock { profile, .. } | Self::Plan { profile, .. } | Self::Inspect { profile, .. } => profile,
            Self::Build(b) => &b.profile,
        }
    }
}

/// `quorate image build`.
#[derive(Debug, Args)]
pub(crate) struct Build {
    /// Name under the profiles directory, or the path of a .toml file
    pub(crate) profile: String,
    /// Refuse whatever the lock does not say: vanished packages, another Go toolchain
    #[arg(long, conflicts_with = "update_vanished")]
    pub(crate) locked: bool,
    /// Replace entries that the mirrors no longer have (same suite, verified, shown) and leave the lock changed
    #[arg(long)]
    pub(crate) update_vanished: bool,
    /// Compress for release (zstd 19, blocks of 1 MiB) instead of at the profile's level
    #[arg(long)]
    pub(crate) release: bool,
    /// Where to put the image; default out/PROFILE
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// `quorate config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Which.
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

/// The commands of `quorate config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Run the boot's own validator over a user-data file, or over a cluster.toml
    Validate {
        /// user-data (cloud-config), or a .toml with a cluster
        file: PathBuf,
        /// The network-config that goes with user-data
        #[arg(long, value_name = "FILE")]
        network: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        super::Cli::command().debug_assert();
        assert!(super::Cli::command().render_version().starts_with("quorate "), "not the crate's name");
    }
}
