//! Arguments of `quorate etcd`.

use super::Format;
use super::cluster::Which;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `quorate etcd`.
#[derive(Debug, Args)]
#[command(
    after_help = "Members keep snapshots of their own (`[etcd] snapshot_every`, `snapshots` in cluster.toml); these commands take one \
now, bring one here, and make one the cluster's data again.\n\n\
Examples:\n  quorate etcd snapshot today.db\n  quorate etcd snapshots\n  quorate etcd fetch master-1 etcd-1795650000.db\n  \
quorate etcd restore today.db"
)]
pub(crate) struct EtcdArgs {
    /// Which.
    #[command(subcommand)]
    pub(crate) command: EtcdCommand,
}

/// The commands of `quorate etcd`.
#[derive(Debug, Subcommand)]
pub(crate) enum EtcdCommand {
    /// Take a snapshot of the data now; also of a member that sees no leader any more
    Snapshot {
        /// The file to write
        out: PathBuf,
        /// Of which member; default: the first that answers
        #[arg(long, value_name = "NODE")]
        member: Option<String>,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// List the snapshots that members keep
    Snapshots {
        /// Text or JSON
        #[arg(long, default_value = "text")]
        format: Format,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// Copy a snapshot that a member keeps
    Fetch {
        /// The member
        node: String,
        /// The snapshot, as `snapshots` lists it
        name: String,
        /// The file to write; default: its name
        out: Option<PathBuf>,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// Make a snapshot the data of all members: what they have is put aside, and the cluster goes on from the snapshot
    #[command(
        after_help = "All members get a new seed and start again; VMs of this machine by themselves. Elsewhere: give every \
member its new seed and start it again while this command waits. One member takes the snapshot (port 2384), the others \
join it empty. Revisions go on a billion higher than the snapshot's, so that Kubernetes' watches see that they must begin anew."
    )]
    Restore {
        /// A file that `quorate etcd snapshot`, `fetch` or `etcdctl snapshot save` wrote
        snapshot: PathBuf,
        /// Who takes it; default: the first member of cluster.toml
        #[arg(long, value_name = "NODE")]
        member: Option<String>,
        /// The members have their new seeds already: only send it
        #[arg(long, conflicts_with = "member")]
        send_only: bool,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
}
