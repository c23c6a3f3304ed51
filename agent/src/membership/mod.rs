//! etcd membership: whether and how a member starts.
//!
//! What must never happen is that a member forgets a vote, or that two clusters come from one seed. Member and cluster
//! ids are hashes of peer URLs and token, so a wiped member that bootstraps statically *is* its old self without its log,
//! and etcd's own guard sees nothing when no peer answers. Identity therefore belongs to the data directory: a mark beside
//! it, synced before etcd's first start.
//!
//! [`decide`] is the rule, pure; [`mark`] is what is on disk; [`question`] is what members ask each
//! other, [`join`] is how an empty one gets into a cluster that lives; `model` runs the rule through every schedule. What comes before it when an operator restores a
//! snapshot is [`restore`].

pub(crate) mod decide;
pub(crate) mod join;
pub(crate) mod mark;
#[cfg(test)]
mod model;
pub(crate) mod question;
pub(crate) mod restore;

use contract::node::NodeConfig;
use sha2::{Digest, Sha256};

/// The static list, as etcd wants it.
pub(crate) fn initial_cluster(config: &NodeConfig) -> String {
    let one = |(name, ip): (&String, &std::net::IpAddr)| {
        format!("{name}=https://{}", std::net::SocketAddr::new(*ip, contract::ports::ETCD_PEER))
    };
    config.members.iter().map(one).collect::<Vec<_>>().join(",")
}

/// Names a list together with its cluster: members with different ones must not bootstrap together.
pub(crate) fn digest(config: &NodeConfig) -> String {
    let text = format!("{}\n{}", config.cluster.id, initial_cluster(config));
    Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect()
}
