//! Arguments of `quorate cluster`.

use super::Format;
use super::values::{Step, dilation, milliseconds, share, signal, step};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `quorate cluster`.
#[derive(Debug, Args)]
#[command(
    after_help = "FILE is a cluster.toml; where it is left out: ./cluster.toml, else the one cluster that is up.\n\n\
Examples:\n  quorate cluster new > cluster.toml\n  quorate cluster up cluster.toml\n  eval \"$(quorate cluster env)\"; etcdctl member list\n  \
quorate cluster logs etcd-1 etcd -f\n  quorate cluster kill etcd-2; quorate cluster start etcd-2\n  quorate cluster cut etcd-3 --delay 20ms --loss 5%\n  \
quorate cluster heal\n  quorate cluster save booted; quorate cluster restore booted\n  quorate cluster down"
)]
pub(crate) struct ClusterArgs {
    /// Which.
    #[command(subcommand)]
    pub(crate) command: ClusterCommand,
}

/// The cluster a command is about, as an option.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The cluster's file
    #[arg(short = 'c', long = "cluster", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// How the VMs run.
#[derive(Clone, Debug, Args)]
pub(crate) struct Lab {
    /// Images: a directory with one directory per profile
    #[arg(long, default_value = "out", value_name = "DIR")]
    pub(crate) images: PathBuf,
    /// Force kvm or tcg, whatever [lab] says
    #[arg(long, value_name = "NAME", value_parser = lab::accel::WORDS)]
    pub(crate) accel: Option<String>,
    /// Host seconds per guest second, whatever [lab] says
    #[arg(long, value_name = "FACTOR", value_parser = dilation)]
    pub(crate) dilation: Option<f64>,
    /// End the cluster when this process ends: a CI job that is killed leaves nothing behind (--pid $$)
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<i32>,
}

/// The commands of `quorate cluster`.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Print a commented cluster.toml
    New,
    /// Make secrets (once) and a seed for every node
    Seed {
        /// The cluster
        file: PathBuf,
    },
    /// Boot the cluster's nodes as VMs and wait until they are ready
    Up {
        /// The cluster
        file: Option<PathBuf>,
        /// How it runs.
        #[command(flatten)]
        lab: Lab,
        /// Boot only these nodes; the others can be started later
        #[arg(long, value_name = "NODE", value_delimiter = ',')]
        only: Vec<String>,
        /// Leave what runs as it is when it does not come up
        #[arg(long)]
        retain: bool,
        /// How long the nodes may take, in their own time; default 60s
        #[arg(long, value_name = "TIME", value_parser = milliseconds)]
        timeout: Option<f64>,
    },
    /// Make the running cluster what cluster.toml says now: nodes go, learn what is new, come
    #[command(
        after_help = "Nodes that are not in the file any more leave in order (etcd, their pods, the API) and are powered off; those that \
stay take what is new to them while they run, one after the other; new ones are started. A node's name, address of a member, roles, disk \
and CAs are its identity: take it out, and add another. A node that was taken out must be wiped before it comes back under its old name; \
here its disk goes with it."
    )]
    Apply {
        /// The cluster
        file: Option<PathBuf>,
        /// Images: a directory with one directory per profile
        #[arg(long, default_value = "out", value_name = "DIR")]
        images: PathBuf,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// What runs, in which state
    Status {
        /// The cluster
        file: Option<PathBuf>,
        /// Text or JSON
        #[arg(long, default_value = "text")]
        format: Format,
        /// Again every second, until Ctrl-C: the nodes, who holds the virtual IP, who leads
        #[arg(short, long)]
        watch: bool,
        /// Only what the lab knows: etcd and the API are not asked
        #[arg(long)]
        local: bool,
    },
    /// Settings for a shell: eval "$(quorate cluster env)"
    Env {
        /// The cluster
        file: Option<PathBuf>,
    },
    /// What a node's services and the cluster's own pods on it print, by the node's own port: works without a network, and without the API
    Logs {
        /// The node
        node: String,
        /// The service, or a container of a pod in kube-system (kube-apiserver, coredns ...); without it PID 1's own lines
        service: Option<String>,
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
        /// How many of the last lines
        #[arg(short = 'n', long, default_value_t = 1000)]
        lines: u32,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// A node's serial console, from its start on
    Console {
        /// The node
        node: String,
        /// End where the console is now
        #[arg(long)]
        no_follow: bool,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// Cut nodes' power: nothing is flushed, nobody is asked
    Kill {
        /// The nodes
        #[arg(required = true)]
        nodes: Vec<String>,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// Power nodes on
    Start {
        /// The nodes
        #[arg(required = true)]
        nodes: Vec<String>,
        /// Do not wait until they are ready
        #[arg(long)]
        no_wait: bool,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// Have nodes start again, in order
    Reboot {
        /// The nodes
        #[arg(required_unless_present = "in_turn")]
        nodes: Vec<String>,
        /// One after the other, each only when all others are ready; without nodes, every node
        #[arg(long, conflicts_with = "no_wait")]
        in_turn: bool,
        /// By the reset button: nothing is flushed
        #[arg(long)]
        hard: bool,
        /// Do not wait until they are ready
        #[arg(long)]
        no_wait: bool,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// Send a signal to all processes of a node's service: what does the cluster make of it?
    Signal {
        /// The node
        node: String,
        /// The service, or on a master kube-apiserver, kube-controller-manager or kube-scheduler
        service: String,
        /// kill, term, stop (it hangs) or cont (it goes on)
        #[arg(value_parser = signal)]
        signal: contract::voice::ServiceSignal,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// Let clocks jump: certificates get old, leases end; what does the cluster make of it?
    Clock {
        /// How far: +20m, -1h, +730d
        #[arg(value_parser = step, allow_hyphen_values = true)]
        by: Step,
        /// The nodes; without any, all that are on
        nodes: Vec<String>,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// Cut nodes off the network, or make their cables bad; `heal` takes it back
    Cut(Cut),
    /// Divide the network: each SET (a,b) hears itself only; nodes in no set hear all
    Divide {
        /// Nodes with commas between them
        #[arg(required = true, value_name = "SET")]
        sets: Vec<String>,
        /// Only packets of this IP protocol are lost, as by a firewall: 112 is VRRP
        #[arg(long, value_name = "NUMBER")]
        protocol: Option<u8>,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// Make nodes' state disks slow; `heal` without nodes takes it back
    SlowDisk {
        /// The nodes
        #[arg(required = true)]
        nodes: Vec<String>,
        /// So many reads, writes and flushes in a second of the guest's time; 0 = no bound
        #[arg(long, default_value_t = 20)]
        iops: u32,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// Take faults of the network and of disks away: of these nodes' cables, or all there are
    Heal {
        /// The nodes; none = all, and every division and slow disk
        nodes: Vec<String>,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// Write down what passes a node's cable, for tcpdump or Wireshark
    Capture {
        /// The node, or `gateway`
        node: String,
        /// The file to write
        out: PathBuf,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// Freeze all nodes at one moment into a snapshot; they go on afterwards
    Save {
        /// Its name
        name: String,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// Go back to a snapshot, whether the cluster is up or not
    Restore {
        /// Its name
        name: String,
        /// How it runs, when it is not up.
        #[command(flatten)]
        lab: Lab,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// Ask the cluster over and over and tell of each gap in its answers, in guest time
    Probe(Probe),
    /// Write everything known of the cluster into a directory: consoles, logs, boot reports, a timeline
    Export {
        /// The directory
        out: PathBuf,
        /// Of which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// End the cluster's VMs
    Down {
        /// The cluster
        file: Option<PathBuf>,
        /// Also forget the nodes' disks and snapshots
        #[arg(long)]
        wipe: bool,
    },
    /// The background process that owns the VMs (started by `up`)
    #[command(hide = true)]
    Keep {
        /// The cluster
        file: PathBuf,
        /// How it runs.
        #[command(flatten)]
        lab: Lab,
        /// Boot only these
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Go on from a snapshot instead of booting
        #[arg(long)]
        restore: Option<String>,
    },
}

/// `quorate cluster cut`.
#[derive(Debug, Args)]
pub(crate) struct Cut {
    /// The nodes, or `gateway`
    #[arg(required = true)]
    pub(crate) nodes: Vec<String>,
    /// Only what comes from them
    #[arg(long, conflicts_with = "to")]
    pub(crate) from: bool,
    /// Only what goes to them
    #[arg(long)]
    pub(crate) to: bool,
    /// Delay frames, in guest time
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    pub(crate) delay: Option<f64>,
    /// ... by up to so much more
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    pub(crate) jitter: Option<f64>,
    /// Lose a share of the frames
    #[arg(long, value_name = "5%", value_parser = share)]
    pub(crate) loss: Option<f64>,
    /// Let a share of the frames overtake the delay
    #[arg(long, value_name = "5%", value_parser = share)]
    pub(crate) reorder: Option<f64>,
    /// Deliver a share of the frames twice
    #[arg(long, value_name = "5%", value_parser = share)]
    pub(crate) duplicate: Option<f64>,
    /// Bits per second
    #[arg(long, value_name = "BITS")]
    pub(crate) bandwidth: Option<u64>,
    /// Of which cluster.
    #[command(flatten)]
    pub(crate) which: Which,
}

/// `quorate cluster probe`.
#[derive(Debug, Args)]
pub(crate) struct Probe {
    /// Time between a client's requests
    #[arg(long, default_value = "10ms", value_name = "MS", value_parser = milliseconds)]
    pub(crate) every: f64,
    /// How long, in guest time
    #[arg(long = "for", default_value = "10s", value_name = "TIME", value_parser = milliseconds)]
    pub(crate) lasts: f64,
    /// A request that takes longer has failed
    #[arg(long, default_value = "500ms", value_name = "MS", value_parser = milliseconds)]
    pub(crate) timeout: f64,
    /// Ask the API at its virtual IP, over a new connection each time, instead of etcd's members
    #[arg(long, conflicts_with_all = ["read", "hold", "reconnect"])]
    pub(crate) api: bool,
    /// Read instead of writing
    #[arg(long)]
    pub(crate) read: bool,
    /// Also hold so many long connections to each member, and tell when one is cut
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) hold: usize,
    /// Open a new connection for each request
    #[arg(long)]
    pub(crate) reconnect: bool,
    /// Text or JSON
    #[arg(long, default_value = "text")]
    pub(crate) format: Format,
    /// Of which cluster.
    #[command(flatten)]
    pub(crate) which: Which,
}
