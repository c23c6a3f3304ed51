//! What a node is told: the value under `quorate:` in its user-data.
//!
//! A configuration has two parts. *Identity* (`cluster.id`, `node.name`, `roles`, every CA, `state`) is fixed at first
//! boot; *topology* (the rest) follows a higher [`NodeConfig::generation`]. The schema is whole: later versions of
//! quorate run more roles, but read the same document.
//!
//! Unknown keys are refused everywhere: a typo must not silently become a default.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// What a node runs. A topology is only a placement of roles; nothing branches on its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Kubernetes' control plane as static pods.
    #[serde(alias = "control-plane")]
    Master,
    /// An etcd member.
    Etcd,
    /// HAProxy, and Keepalived holding the API's virtual IP.
    Lb,
    /// Runs workloads.
    Worker,
}

impl Role {
    /// The word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Etcd => "etcd",
            Self::Lb => "lb",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The document under `quorate:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Schema version: 1.
    pub version: u32,
    /// The number of the seeding: a higher one replaces the topology part.
    #[serde(default = "one")]
    pub generation: u64,
    /// What the node runs.
    pub roles: BTreeSet<Role>,
    /// The node itself.
    pub node: Node,
    /// Its cluster.
    pub cluster: Cluster,
    /// etcd members by name; for the roles etcd and master.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<String, IpAddr>,
    /// Masters by name; for the roles master and lb.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub masters: BTreeMap<String, IpAddr>,
    /// etcd's settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<Etcd>,
    /// The load balancer's settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lb: Option<Lb>,
    /// Where the node keeps what outlives a reboot.
    pub state: State,
    /// Kubernetes' settings; for the roles master and worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
    /// Certificates, and the keys this node's roles need.
    #[serde(default)]
    pub pki: Pki,
    /// NTP servers, names or addresses; none = the clock is the platform's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ntp: Vec<String>,
}

fn one() -> u64 {
    1
}

/// The node itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// RFC 1123 label; absent (a group of equal workers) = the metadata's host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The address its services bind; must be one of the network configuration's.
    pub address: IpAddr,
}

/// The cluster, as every node of it knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// RFC 1123 label, at most 32 characters.
    pub name: String,
    /// 16 hex digits, made once with the secrets; etcd's cluster token.
    pub id: String,
    /// `host:port` that clients use; absent on a cluster of etcd alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Further names and addresses of the API.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sans: Vec<String>,
    /// Pods' addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_subnet: Option<ipnet::IpNet>,
    /// Services' addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_subnet: Option<ipnet::IpNet>,
    /// DNS suffix inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_domain: Option<String>,
    /// Pod network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni: Option<Cni>,
}

/// Pod network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cni {
    /// flannel, VXLAN.
    Flannel,
    /// Brought by the user.
    None,
}

/// etcd's settings, the same on all members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Etcd {
    /// Leader's heartbeat, ms.
    pub heartbeat_ms: u32,
    /// Election timeout, ms; at least ten heartbeats.
    pub election_ms: u32,
    /// Backend quota, bytes.
    pub quota_bytes: u64,
    /// What a first boot with members missing does.
    #[serde(skip_serializing_if = "Bootstrap::is_all")]
    pub bootstrap: Bootstrap,
    /// A member keeps a snapshot of its data this often, minutes; 0 = never.
    pub snapshot_minutes: u32,
    /// ... and so many of them.
    pub snapshots: u32,
    /// The snapshot that the cluster's data comes from, where an operator restored one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            heartbeat_ms: 50,
            election_ms: 500,
            quota_bytes: 4 << 30,
            bootstrap: Bootstrap::All,
            snapshot_minutes: 360,
            snapshots: 4,
            restore: None,
        }
    }
}

/// What a restore is told to all members: data of before it is void, one member makes the snapshot its data, and the
/// others join that one empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// The number of the seeding that began it: of two restores the one with the higher number counts.
    pub number: u64,
    /// Who makes the snapshot its data.
    pub member: String,
    /// Of the snapshot, 64 hex digits.
    pub sha256: String,
}

/// What a first boot with members missing does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bootstrap {
    /// Waits for all of them.
    #[default]
    All,
    /// Goes on with a majority: the operator's word that the missing ones never had data.
    Majority,
}

impl Bootstrap {
    fn is_all(&self) -> bool {
        *self == Self::All
    }
}

/// The load balancer's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lb {
    /// Who brings clients to the load balancers.
    #[serde(default, skip_serializing_if = "ProvidedBy::is_vip")]
    pub provided_by: ProvidedBy,
    /// All load balancers, this one too; their order is their priority. With a virtual IP only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<Peer>,
    /// VRRP advertisement interval, ms; 10 to 40,000 in steps of 10 (the protocol's unit).
    #[serde(default = "advert")]
    pub advert_ms: u32,
    /// VRRP's virtual router id, 1 to 255; with a virtual IP only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_router_id: Option<u8>,
}

/// The default of [`Lb::advert_ms`].
pub const ADVERT_MS: u32 = 100;

fn advert() -> u32 {
    ADVERT_MS
}

/// Who brings clients to the load balancers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProvidedBy {
    /// They do, with a virtual IP that one of them holds (VRRP).
    #[default]
    Vip,
    /// A cloud's load balancer, or DNS.
    External,
}

impl ProvidedBy {
    fn is_vip(&self) -> bool {
        *self == Self::Vip
    }
}

/// A load balancer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Node name.
    pub name: String,
    /// Node address.
    pub address: IpAddr,
}

/// Where the node keeps what outlives a reboot: the word `ephemeral`, or a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected the word `ephemeral` or `{disk: /dev/…}`")]
pub enum State {
    /// RAM. An etcd member on RAM needs this word.
    Ephemeral(Ephemeral),
    /// A disk, taken when it is blank or ours.
    Disk(StateDisk),
}

/// The word `ephemeral`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ephemeral {
    /// RAM.
    Ephemeral,
}

/// The state disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateDisk {
    /// `/dev/…`, `path:/dev/…` or `serial:X`.
    pub disk: String,
    /// Take it although something is on it; never one that is labelled for quorate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wipe: bool,
}

/// Kubernetes' settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kubernetes {
    /// By node name, `id.secret` as Kubernetes writes them; a worker carries only its own, a master those of all workers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bootstrap_tokens: BTreeMap<String, String>,
    /// Workers by name: which names and addresses a kubelet's certificate may carry. On masters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub workers: BTreeMap<String, IpAddr>,
    /// 32 bytes, base64: the key that secrets are encrypted with at rest. On masters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_key: Option<String>,
    /// Node labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Node taints, `key=value:Effect` or `key:Effect`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<String>,
    /// Pods on this node at most; none = the kubelet's default, 110.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pods: Option<u32>,
}

/// Certificates and keys, PEM. A key stands only where the node's roles need it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pki {
    /// Kubernetes' CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_ca: Option<Ca>,
    /// The aggregation layer's CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub front_proxy_ca: Option<Ca>,
    /// Signs service-account tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<KeyPair>,
    /// etcd members to each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_peer_ca: Option<Ca>,
    /// etcd members to their clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_server_ca: Option<Ca>,
    /// Clients to etcd members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_client_ca: Option<Ca>,
    /// Life of leaf certificates in minutes; default a year.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf_minutes: Option<u64>,
}

/// A certification authority: its certificate, and where needed its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ca {
    /// PEM certificate.
    pub cert: String,
    /// PEM private key (PKCS#8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A bare key pair.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyPair {
    /// PEM private key (PKCS#8).
    pub key: String,
}

// Private keys must not reach a log through a `{:?}`.
impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("cert", &"<PEM>").field("key", &self.key.as_ref().map(|_| "<secret>")).finish()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(<secret>)")
    }
}

/// What keeps ordinary pods off a master (kubeadm's).
pub const CONTROL_PLANE_TAINT: &str = "node-role.kubernetes.io/control-plane:NoSchedule";

impl NodeConfig {
    /// The node's name; [`crate::check::check`] guarantees it after the metadata filled it in.
    pub fn name(&self) -> &str {
        self.node.name.as_deref().unwrap_or("")
    }

    /// Address and port of the endpoint; none where it is a name, or absent.
    pub fn endpoint_address(&self) -> Option<std::net::SocketAddr> {
        self.cluster.endpoint.as_deref()?.parse().ok()
    }

    /// The endpoint's port, or the API's usual one.
    pub fn endpoint_port(&self) -> u16 {
        let port = self.cluster.endpoint.as_deref().and_then(|e| e.rsplit_once(':')?.1.parse().ok());
        port.unwrap_or(crate::ports::API)
    }

    /// The virtual IP that this node's load balancer holds or waits for.
    pub fn virtual_ip(&self) -> Option<IpAddr> {
        self.lb.as_ref().filter(|l| l.provided_by == ProvidedBy::Vip)?;
        self.endpoint_address().map(|a| a.ip())
    }

    /// etcd's settings, or their defaults.
    pub fn etcd_settings(&self) -> Etcd {
        self.etcd.clone().unwrap_or_default()
    }

    /// Whether it has a kubelet: masters and workers do, one each.
    pub fn has_kubelet(&self) -> bool {
        self.roles.contains(&Role::Master) || self.roles.contains(&Role::Worker)
    }

    /// Pods' addresses.
    pub fn pod_subnet(&self) -> ipnet::IpNet {
        self.cluster.pod_subnet.unwrap_or_else(|| ipnet::Ipv4Net::new_assert([10, 244, 0, 0].into(), 16).into())
    }

    /// Services' addresses.
    pub fn service_subnet(&self) -> ipnet::IpNet {
        self.cluster.service_subnet.unwrap_or_else(|| ipnet::Ipv4Net::new_assert([10, 96, 0, 0].into(), 12).into())
    }

    /// The service address that has a number: 1 is the API's, 10 the DNS's (kubeadm's convention).
    pub fn service_address(&self, number: u32) -> IpAddr {
        match self.service_subnet() {
            ipnet::IpNet::V4(n) => IpAddr::V4((u32::from(n.network()) + number).into()),
            ipnet::IpNet::V6(n) => IpAddr::V6((u128::from(n.network()) + u128::from(number)).into()),
        }
    }

    /// DNS suffix inside the cluster.
    pub fn dns_domain(&self) -> &str {
        self.cluster.dns_domain.as_deref().unwrap_or("cluster.local")
    }

    /// Kubernetes' settings, or none of them.
    pub fn kubernetes(&self) -> Kubernetes {
        self.kubernetes.clone().unwrap_or_default()
    }

    /// Taints of this node: a control plane's, unless it is a worker as well, and those of its configuration.
    pub fn taints(&self) -> Vec<String> {
        let own = self.roles.contains(&Role::Master) && !self.roles.contains(&Role::Worker);
        own.then(|| CONTROL_PLANE_TAINT.to_owned()).into_iter().chain(self.kubernetes().taints).collect()
    }

    /// Whether any private key or token stands in it, so that plain http must not carry it.
    pub fn has_secrets(&self) -> bool {
        let p = &self.pki;
        let key = |ca: &Option<Ca>| ca.as_ref().is_some_and(|c| c.key.is_some());
        p.service_account.is_some()
            || [&p.cluster_ca, &p.front_proxy_ca, &p.etcd_peer_ca, &p.etcd_server_ca, &p.etcd_client_ca]
                .into_iter()
                .any(key)
            || self.kubernetes.as_ref().is_some_and(|k| k.encryption_key.is_some() || !k.bootstrap_tokens.is_empty())
    }
}
