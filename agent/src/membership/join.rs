//! Rule 2: an empty member whose cluster lives takes a new identity: it takes the entry of its own name out, if there is
//! one, adds itself without a vote, starts with the list that the cluster returned, and gets its vote when it has caught
//! up. The entry is never used again: whoever stood in it may have voted.
//!
//! Each step can fail for a while (a cluster takes nobody in before its members have been connected for some seconds);
//! whoever calls tries again, for ever.

use crate::etcd::{Gateway, Member};
use contract::node::NodeConfig;
use contract::ports::ETCD_PEER;
use std::net::SocketAddr;

/// This node's peer URL.
pub(crate) fn peer_url(config: &NodeConfig) -> String {
    format!("https://{}", SocketAddr::new(config.node.address, ETCD_PEER))
}

/// Takes this member's place in the cluster that `through` sees; answers etcd's initial cluster.
pub(crate) fn join(config: &NodeConfig, through: &str) -> Result<String, String> {
    let address = config.members.get(through).ok_or("no such member")?;
    let gateway = Gateway::to(*address)?;
    let own = peer_url(config);
    for id in former(&gateway.members()?, config.name(), &own) {
        gateway.remove(&id)?;
    }
    let members = gateway.add_learner(&own)?;
    Ok(initial_cluster(config, &members))
}

/// Entries of this member's name or address.
fn former(members: &[Member], name: &str, url: &str) -> Vec<String> {
    let is_own = |m: &&Member| m.name == name || m.peer_urls.iter().any(|u| u == url);
    members.iter().filter(is_own).map(|m| m.id.clone()).collect()
}

/// The list as etcd wants it. It compares URLs only; a member that never started has no name there yet, so it gets the
/// one that the configuration knows, or its id.
fn initial_cluster(config: &NodeConfig, members: &[Member]) -> String {
    let name_of = |m: &Member| {
        let known = |url: &String| {
            let found =
                config.members.iter().find(|(_, ip)| *url == format!("https://{}", SocketAddr::new(**ip, ETCD_PEER)));
            found.map(|(n, _)| n.clone())
        };
        m.peer_urls.iter().find_map(known).unwrap_or_else(|| m.id.clone())
    };
    let entries = members.iter().flat_map(|m| m.peer_urls.iter().map(move |u| format!("{}={u}", name_of(m))));
    entries.collect::<Vec<_>>().join(",")
}

/// Asks the others, in turn, to give this learner its vote.
pub(crate) fn promote(config: &NodeConfig, id: &str) -> Result<(), String> {
    let mut last = "no other member".to_owned();
    for (_, address) in config.members.iter().filter(|(n, _)| n.as_str() != config.name()) {
        match Gateway::to(*address).and_then(|g| g.promote(id)) {
            Ok(()) => return Ok(()),
            Err(e) => last = e,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, name: &str, url: &str) -> Member {
        Member { id: id.into(), name: name.into(), peer_urls: vec![url.into()] }
    }

    #[test]
    fn own_entries_by_name_and_by_address() {
        let url = "https://10.77.0.33:2380";
        let members = [
            member("1", "etcd-1", "https://10.77.0.31:2380"),
            member("3", "etcd-3", "https://10.77.0.99:2380"),
            member("4", "", url),
        ];
        assert_eq!(former(&members, "etcd-3", url), ["3", "4"]);
        assert!(former(&members, "etcd-2", "https://10.77.0.32:2380").is_empty());
    }

    #[test]
    fn the_list_has_names_also_for_members_that_never_started() {
        let mut config = crate::pki::tests::config();
        config.members = [("etcd-3".to_owned(), "10.77.0.33".parse().expect("an address"))].into();
        let members = [member("1", "etcd-1", "https://10.77.0.31:2380"), member("4", "", "https://10.77.0.33:2380")];
        assert_eq!(initial_cluster(&config, &members), "1=https://10.77.0.31:2380,etcd-3=https://10.77.0.33:2380");
    }
}
