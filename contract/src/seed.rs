//! What the metadata agent answers, and what of it a node keeps.

use crate::network::NetworkConfig;
use crate::node::{NodeConfig, Role, State};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A validated seed: all that a boot needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSeed {
    /// Where it came from, for people: `nocloud:/dev/vdb`, `nocloud:https://…`.
    pub source: String,
    /// The platform's instance id. Never a reason to bootstrap anything again.
    pub instance_id: Option<String>,
    /// The node's configuration.
    pub node: NodeConfig,
    /// Its network.
    pub network: NetworkConfig,
    /// What was odd but not wrong.
    pub notices: Vec<String>,
    /// Latest `notBefore` of all certificates in it, seconds since the epoch: a floor of the clock.
    pub not_before: u64,
}

/// Why there is no seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoSeed {
    /// What was looked at.
    pub probed: Vec<String>,
    /// What was wrong with what was found; empty = nothing was found.
    pub problems: Vec<String>,
}

/// The part of a configuration that is fixed at first boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Cluster id.
    pub cluster_id: String,
    /// Node name.
    pub name: String,
    /// Roles.
    pub roles: BTreeSet<Role>,
    /// State disk, or RAM.
    pub state: State,
    /// CA certificates and keys as they were seeded, by name (kept 0600: it is the same file system as the seed).
    pub authorities: BTreeMap<String, String>,
}

impl Identity {
    /// The identity part of a configuration.
    pub fn of(config: &NodeConfig) -> Self {
        let p = &config.pki;
        let mut authorities = BTreeMap::new();
        for (name, ca) in [
            ("cluster_ca", &p.cluster_ca),
            ("front_proxy_ca", &p.front_proxy_ca),
            ("etcd_peer_ca", &p.etcd_peer_ca),
            ("etcd_server_ca", &p.etcd_server_ca),
            ("etcd_client_ca", &p.etcd_client_ca),
        ] {
            if let Some(ca) = ca {
                authorities.insert(format!("{name}.cert"), ca.cert.clone());
                if let Some(key) = &ca.key {
                    authorities.insert(format!("{name}.key"), key.clone());
                }
            }
        }
        Self {
            cluster_id: config.cluster.id.clone(),
            name: config.name().to_owned(),
            roles: config.roles.clone(),
            state: config.state.clone(),
            authorities,
        }
    }

    /// The first thing in which `other` differs, in words; none when it is the same identity.
    pub fn differs(&self, other: &Self) -> Option<String> {
        if self.cluster_id != other.cluster_id {
            return Some(format!("cluster.id is {}, the seed says {}", self.cluster_id, other.cluster_id));
        }
        if self.name != other.name {
            return Some(format!("node.name is {}, the seed says {}", self.name, other.name));
        }
        if self.roles != other.roles {
            return Some(format!("roles are {:?}, the seed says {:?}", self.roles, other.roles));
        }
        if self.state != other.state {
            return Some("state differs".into());
        }
        let keys: BTreeSet<_> = self.authorities.keys().chain(other.authorities.keys()).collect();
        keys.into_iter()
            .find(|k| self.authorities.get(*k) != other.authorities.get(*k))
            .map(|k| format!("pki.{k} differs"))
    }
}

/// A slot of the cached seed: the value and its number, so that the newer of two whole ones is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Counts up with every write.
    pub sequence: u64,
    /// The seed.
    pub seed: NodeSeed,
}
