//! Which node has which role, address and name: what cannot work, and why, with its place in the file.

use super::Wrong;
use super::written::Written;
use contract::check::is_label;
use contract::node::{ProvidedBy, Role};
use metadata::network_config::{self, normal_mac};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Everything that cannot be, of nodes by themselves, beside each other, and beside `[cluster]` and `[network]`.
pub(super) fn placement(w: &Written) -> Vec<Wrong> {
    let cluster = w.cluster.get_ref();
    let mut problems = Vec::new();
    let mut names = BTreeSet::new();
    let mut addresses = BTreeMap::new();
    let mut macs = BTreeMap::new();
    for spanned in &w.node {
        let (at, node) = (spanned.span().start, spanned.get_ref());
        let mut say = |text: String| problems.push((at, format!("node {}: {text}", node.name)));
        if !is_label(&node.name) {
            say("its name is not an RFC 1123 label (lower-case letters, digits, inner dashes, at most 63)".into());
        }
        if !names.insert(&node.name) {
            say("the name is given twice".into());
        }
        if let Some(other) = addresses.insert(node.address.addr(), &node.name) {
            say(format!("has the address {} that {other} has already", node.address.addr()));
        }
        let mac = normal_mac(&node.mac).unwrap_or_else(|e| {
            say(format!("mac: {e}; expected six bytes in hexadecimal, as in 52:54:00:77:00:11"));
            node.mac.clone()
        });
        // IEEE 802: the lowest bit of the first byte.
        if mac.as_bytes().get(1).is_some_and(|digit| b"13579bdf".contains(digit)) {
            say(format!("mac: {mac} is the address of a group, not of one machine"));
        }
        if let Some(other) = macs.insert(mac, &node.name) {
            say(format!("has the MAC address {} that {other} has already", node.mac));
        }
        if node.address.prefix_len() == 0 || node.address.addr() == node.address.network() {
            say(format!("address: expected a host's address with its prefix length, found {}", node.address));
        }
        if let Some(g) = w.network.gateway.filter(|g| node.network.is_none() && !node.address.contains(g)) {
            say(format!("the gateway {g} is outside its subnet {}", node.address.trunc()));
        }
        if let Some(Err(e)) = node.own_network().map(|own| network_config::parse(&own)) {
            say(format!("network: {e}"));
        }
        if node.roles.is_empty() {
            say("has no role; expected at least one of master, etcd, lb, worker".into());
        }
        if node.roles.contains(&Role::Etcd) && node.state.is_none() {
            say("has `etcd` but no `state`: name a disk, or write state = \"ephemeral\"".into());
        }
        if let Some(vip) = cluster.virtual_ip() {
            if vip == node.address.addr() {
                say(format!("has the address {vip} of the endpoint: nobody else may have a virtual IP"));
            } else if node.roles.contains(&Role::Lb) && node.network.is_none() && !node.address.contains(&vip) {
                say(format!("the virtual IP {vip} is outside its subnet {}", node.address.trunc()));
            }
        }
    }
    let with = |role| w.node.iter().find(|n| n.get_ref().roles.contains(&role)).map(|n| n.span().start);
    if let Some(at) = with(Role::Lb) {
        if with(Role::Master).is_none() {
            problems.push((
                at,
                "there is a load balancer, but no node has the role master: nobody to send clients to".into(),
            ));
        }
        match (&cluster.endpoint, cluster.provided_by) {
            (None, _) => {
                problems.push((at, "there is a load balancer, but no cluster.endpoint: its virtual IP".into()));
            }
            (Some(e), ProvidedBy::Vip) if e.parse::<IpAddr>().is_err() => {
                let text = format!(
                    "cluster.endpoint: `{e}` is no address, and a virtual IP is one; hint: provided_by = \"external\""
                );
                problems.push((at, text));
            }
            _ => {}
        }
    }
    let masters = w.node.iter().filter(|n| n.get_ref().roles.contains(&Role::Master));
    if let Some(second) = masters.clone().nth(1).filter(|_| cluster.endpoint.is_none()) {
        let text = "a second master, but no cluster.endpoint: clients and workers would know the first one only";
        problems.push((second.span().start, text.into()));
    }
    if let Some(at) = with(Role::Worker).filter(|_| masters.clone().next().is_none()) {
        problems.push((at, "there is a worker, but no node has the role master".into()));
    }
    // Load balancers may stand in front of masters that are not ours to run; whoever keeps data needs a member.
    if with(Role::Etcd).is_none() && with(Role::Lb).is_none() {
        problems.push((0, "no node has the role etcd: a cluster needs at least one member".into()));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ONE, problems};

    #[test]
    fn load_balancers_are_checked_with_their_place() {
        let t = crate::cluster::TEMPLATE;
        let cases = [
            (
                t.replace("endpoint = \"10.77.0.10\"", "endpoint = \"10.78.0.10\""),
                "node lb-1: the virtual IP 10.78.0.10 is outside its subnet 10.77.0.0/24",
            ),
            (
                t.replace("endpoint = \"10.77.0.10\"", "endpoint = \"10.77.0.21\""),
                "node lb-1: has the address 10.77.0.21 of the endpoint",
            ),
            (
                t.replace("endpoint = \"10.77.0.10\"", "endpoint = \"api.example\""),
                "`api.example` is no address, and a virtual IP is one; hint: provided_by = \"external\"",
            ),
            (t.replace("endpoint = \"10.77.0.10\"", ""), "no cluster.endpoint"),
            (
                t.replace("roles = [\"master\", \"etcd\"]", "roles = [\"etcd\"]"),
                "no node has the role master: nobody to send clients to",
            ),
            (
                t.replace("advert = \"100ms\"", "advert = \"5ms\""),
                "lb.advert: expected 10ms to 40s in steps of 10ms, found `5ms`",
            ),
            (
                t.replace("# virtual_router_id = 77 ", "virtual_router_id = 0 "),
                "lb.virtual_router_id: expected 1 to 255, found 0",
            ),
            (t.replace("# virtual_router_id = 77 ", "virtual_router_id = 256 "), "expected u8"),
        ];
        for (text, want) in cases {
            let found = problems(&text);
            assert!(found.contains(want) && found.contains("cluster.toml:"), "{found}\n-- expected: {want}");
        }
    }

    #[test]
    fn placement_mistakes_are_named_with_their_place() {
        let second = "\n[[node]]\nname = \"etcd-2\"\nroles = [\"etcd\"]\naddress = \"10.77.0.31/24\"\nmac = \"52:54:00:77:00:32\"\nstate = \"ephemeral\"\n";
        let t = ONE;
        let cases = [
            (
                format!("{t}{second}"),
                "cluster.toml:32:1: node etcd-2: has the address 10.77.0.31 that etcd-1 has already",
            ),
            (t.replace("\"etcd-1\"", "\"Etcd_1\""), "not an RFC 1123 label"),
            (t.replace("roles = [\"etcd\"]", "roles = [\"worker\"]"), "no node has the role etcd"),
            (
                t.replace("roles = [\"etcd\"]", "roles = [\"worker\"]"),
                "there is a worker, but no node has the role master",
            ),
            (
                format!(
                    "{}{}",
                    t.replace("roles = [\"etcd\"]", "roles = [\"etcd\", \"master\"]"),
                    second.replace("[\"etcd\"]", "[\"master\"]").replace("77.0.31", "77.0.32")
                ),
                "a second master, but no cluster.endpoint",
            ),
            (t.replace("77:00:31", "77:00"), "cluster.toml:18:1: node etcd-1: mac: `52:54:00:77:00` is no MAC address"),
            (t.replace("52:54:00:77:00:31", "53:54:00:77:00:31"), "mac: 53:54:00:77:00:31 is the address of a group"),
            (
                t.replace("state = {", "network = { version = 2, bonds = {} }\nstate = {"),
                "node etcd-1: network: `bonds` is not in this version of quorate",
            ),
            (t.replace("gateway = \"10.77.0.1\"", "gateway = \"10.78.0.1\""), "outside its subnet 10.77.0.0/24"),
            (t.replace("state = {", "stat = {"), "hint: did you mean `state`?"),
            (t.replace("\"500ms\"", "\"400ms\""), "at least ten heartbeats"),
            (t.replace("\"4GiB\"", "\"4 gigs\""), "etcd.quota: expected a size"),
            (t.replace("state = { disk = \"/dev/vda\" }", ""), "no `state`"),
            (
                t.replace("name = \"demo\"", "name = \"demo\"\nendpoint = \"10.77.0.31\""),
                "address 10.77.0.31 of the endpoint",
            ),
        ];
        for (text, want) in cases {
            let e = problems(&text);
            assert!(e.contains(want), "{e}\n-- expected: {want}");
        }
    }
}
