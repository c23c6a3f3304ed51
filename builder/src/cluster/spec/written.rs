//! cluster.toml as it is written: the shapes of its tables, and their defaults.

use contract::node::{ADVERT_MS, ProvidedBy, Role, State};
use ipnet::IpNet;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use toml::Spanned;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    pub(super) version: Spanned<u32>,
    pub(super) cluster: Spanned<Cluster>,
    #[serde(default)]
    pub(super) network: Network,
    #[serde(default)]
    pub(super) etcd: WrittenEtcd,
    #[serde(default)]
    pub(super) lb: WrittenLb,
    #[serde(default)]
    pub(super) pki: Certificates,
    #[serde(default)]
    pub(super) node: Vec<Spanned<Node>>,
    #[serde(default)]
    pub(super) lab: WrittenLab,
}

/// `[cluster]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) endpoint: Option<String>,
    #[serde(default)]
    pub(crate) provided_by: ProvidedBy,
    pub(crate) port: Option<u16>,
    #[serde(default)]
    pub(crate) sans: Vec<String>,
    pub(crate) pod_subnet: Option<IpNet>,
    pub(crate) service_subnet: Option<IpNet>,
    pub(crate) dns_domain: Option<String>,
    pub(crate) cni: Option<contract::node::Cni>,
}

impl Cluster {
    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(contract::ports::API)
    }

    /// The virtual IP, where there is to be one.
    pub(crate) fn virtual_ip(&self) -> Option<IpAddr> {
        match self.provided_by {
            ProvidedBy::Vip => self.endpoint.as_deref()?.parse().ok(),
            ProvidedBy::External => None,
        }
    }
}

/// `[network]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Network {
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) nameservers: Vec<IpAddr>,
    pub(crate) ntp: Vec<String>,
}

/// `[etcd]`; `values.rs` reads what its texts mean.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenEtcd {
    pub(super) heartbeat: Spanned<String>,
    pub(super) election: Spanned<String>,
    pub(super) quota: Spanned<String>,
    pub(super) snapshot_every: Spanned<String>,
    pub(super) snapshots: u32,
}

/// A default: it has no place in the file.
fn unwritten(text: &str) -> Spanned<String> {
    Spanned::new(0..0, text.to_owned())
}

impl Default for WrittenEtcd {
    fn default() -> Self {
        Self {
            heartbeat: unwritten("50ms"),
            election: unwritten("500ms"),
            quota: unwritten("4GiB"),
            snapshot_every: unwritten("6h"),
            snapshots: 4,
        }
    }
}

/// `[lb]`; `values.rs` reads what its texts mean.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenLb {
    pub(super) advert: Spanned<String>,
    pub(super) virtual_router_id: Option<Spanned<u8>>,
}

impl Default for WrittenLb {
    fn default() -> Self {
        Self { advert: unwritten(&format!("{ADVERT_MS}ms")), virtual_router_id: None }
    }
}

/// `[pki]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Certificates {
    /// Life of those that nodes make for themselves, minutes; none = a year.
    pub(crate) leaf_minutes: Option<u64>,
}

/// `[[node]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) roles: BTreeSet<Role>,
    pub(crate) address: IpNet,
    pub(crate) mac: String,
    pub(crate) state: Option<State>,
    /// Profile; default: the smallest with these roles.
    pub(crate) image: Option<String>,
    /// network-config v2 instead of `[network]`.
    pub(crate) network: Option<serde_json::Map<String, serde_json::Value>>,
    /// Of the Kubernetes node.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Of the Kubernetes node, `key=value:Effect`.
    #[serde(default)]
    pub(crate) taints: Vec<String>,
    /// Pods on it at most.
    pub(crate) max_pods: Option<u32>,
    /// Where it begins in the file: the line, from 1.
    #[serde(skip)]
    pub(crate) line: usize,
}

impl Node {
    /// Its network-config v2, where it has one of its own.
    pub(crate) fn own_network(&self) -> Option<String> {
        self.network.clone().map(|own| format!("{:#}", serde_json::Value::Object(own)))
    }
}

/// `[lab]`; `values.rs` reads what its texts mean.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenLab {
    pub(super) accel: Spanned<String>,
    pub(super) dilation: Spanned<Dilation>,
    pub(super) memory: BTreeMap<Role, Spanned<String>>,
    pub(super) state_size: Spanned<String>,
    pub(super) forward: Vec<Forward>,
    /// Whether there is a way in and out of the network.
    pub(super) gateway: bool,
    /// What the gateway serves to machines that boot from the network; a path is relative to the cluster's file.
    pub(super) tftp: Option<lab::gateway::Tftp>,
    /// Of the dice that the network's faults are thrown with.
    pub(super) seed: u64,
}

impl Default for WrittenLab {
    fn default() -> Self {
        Self {
            accel: unwritten("auto"),
            dilation: Spanned::new(0..0, Dilation::Word("auto".into())),
            memory: BTreeMap::new(),
            state_size: unwritten("8GiB"),
            forward: Vec::new(),
            gateway: true,
            tftp: None,
            seed: 1,
        }
    }
}

/// A factor, or the word `auto`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Dilation {
    Factor(f64),
    Word(String),
}

impl std::fmt::Display for Dilation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Factor(factor) => write!(f, "{factor}"),
            Self::Word(word) => write!(f, "`{word}`"),
        }
    }
}

/// A port of this machine that leads into the cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Forward {
    pub(crate) host: SocketAddr,
    pub(crate) to: SocketAddr,
}
