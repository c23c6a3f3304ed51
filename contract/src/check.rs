//! Whether a configuration makes sense: the same function at seed time, in `quorate config validate`, and at boot.

mod kubernetes;

use crate::nearest::nearest;
use crate::network::NetworkConfig;
use crate::node::{Ca, Lb, NodeConfig, ProvidedBy, Role, State};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Something wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The key, dotted.
    pub key: String,
    /// What was found and what was expected.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.text)
    }
}

/// RFC 1123 label: lower-case letters, digits and inner dashes, 1 to 63 characters.
pub fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// Collects problems.
struct Checker(Vec<Problem>);

impl Checker {
    fn say(&mut self, key: &str, text: impl Into<String>) {
        self.0.push(Problem { key: key.into(), text: text.into() });
    }

    fn unless(&mut self, holds: bool, key: &str, text: impl FnOnce() -> String) {
        if !holds {
            self.say(key, text());
        }
    }
}

/// Every problem of a configuration; none = it can be booted with.
pub fn check(config: &NodeConfig, network: &NetworkConfig) -> Vec<Problem> {
    let mut c = Checker(Vec::new());
    c.unless(config.version == 1, "quorate.version", || format!("expected 1, found {}", config.version));
    check_roles(&mut c, config);
    check_names(&mut c, config);
    check_members(&mut c, config);
    check_etcd(&mut c, config);
    check_masters(&mut c, config);
    check_lb(&mut c, config, network);
    kubernetes::check(&mut c, config);
    check_pki(&mut c, config);
    check_state(&mut c, config);
    let address = config.node.address;
    c.unless(network.has_dhcp() || network.addresses().any(|a| a == address), "quorate.node.address", || {
        let declared: Vec<_> = network.addresses().map(|a| a.to_string()).collect();
        format!("{address} is on no interface of network-config; it declares {}", declared.join(", "))
    });
    c.0
}

/// What is odd but not wrong.
pub fn warnings(config: &NodeConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(lb) = config.lb.as_ref().filter(|l| l.provided_by == ProvidedBy::Vip) {
        if lb.peers.len() == 1 {
            warnings.push(ONE_BALANCER.into());
        }
        warnings.extend(advert_warning(lb.advert_ms));
    }
    warnings
}

/// A virtual IP that cannot move.
pub const ONE_BALANCER: &str = "one load balancer: the virtual IP goes with it; two survive the loss of one";
/// Advertisements faster than this are for hosts that never pause. Milliseconds.
const ADVERT_WARNING_MS: u32 = 50;

/// What is to be said of an advertisement interval.
pub fn advert_warning(advert_ms: u32) -> Option<String> {
    let text =
        || format!("advertisements every {advert_ms} ms: a pause of a load balancer's host is taken for its loss");
    (advert_ms < ADVERT_WARNING_MS).then(text)
}

fn check_roles(c: &mut Checker, config: &NodeConfig) {
    c.unless(!config.roles.is_empty(), "quorate.roles", || {
        "expected at least one of master, etcd, lb, worker; no role is ever guessed".into()
    });
}

fn check_names(c: &mut Checker, config: &NodeConfig) {
    match &config.node.name {
        None => c.say("quorate.node.name", "is missing, and the metadata has no host name to take instead"),
        Some(n) => c.unless(is_label(n), "quorate.node.name", || {
            format!("`{n}` is not an RFC 1123 label (lower-case letters, digits, inner dashes, at most 63)")
        }),
    }
    let name = &config.cluster.name;
    c.unless(is_label(name) && name.len() <= 32, "quorate.cluster.name", || {
        format!("`{name}` is not an RFC 1123 label of at most 32 characters")
    });
    let id = &config.cluster.id;
    c.unless(id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()), "quorate.cluster.id", || {
        format!("expected 16 hex digits, found `{id}`")
    });
}

fn check_members(c: &mut Checker, config: &NodeConfig) {
    let needs_members = config.roles.contains(&Role::Etcd) || config.roles.contains(&Role::Master);
    if !needs_members {
        c.unless(config.members.is_empty(), "quorate.members", || {
            "stands on a node without `etcd` or `master`: it must not travel there".into()
        });
        return;
    }
    c.unless(!config.members.is_empty(), "quorate.members", || "expected the etcd members by name and address".into());
    for name in config.members.keys() {
        c.unless(is_label(name), "quorate.members", || format!("`{name}` is not an RFC 1123 label"));
    }
    let mut seen = std::collections::BTreeMap::new();
    for (name, address) in &config.members {
        if let Some(other) = seen.insert(address, name) {
            c.say("quorate.members", format!("{other} and {name} have the same address {address}"));
        }
    }
    if config.roles.contains(&Role::Etcd) {
        let (name, address) = (config.name(), config.node.address);
        match config.members.get(name) {
            Some(a) if *a == address => {}
            Some(a) => c.say("quorate.members", format!("{name} has {a} there, and {address} in node.address")),
            None => {
                let hint = nearest(name, config.members.keys().map(|k| &**k))
                    .map(|n| format!("; did you mean `{n}`?"))
                    .unwrap_or_default();
                c.say("quorate.members", format!("this node `{name}` has the role etcd, but is not among them{hint}"));
            }
        }
    }
}

fn check_etcd(c: &mut Checker, config: &NodeConfig) {
    let Some(e) = &config.etcd else { return };
    c.unless(config.roles.contains(&Role::Etcd), "quorate.etcd", || {
        "stands on a node without `etcd`: it must not travel there".into()
    });
    c.unless((5..=10_000).contains(&e.heartbeat_ms), "quorate.etcd.heartbeat_ms", || {
        format!("expected 5 to 10000, found {}", e.heartbeat_ms)
    });
    // etcd itself refuses more than 50 s, and less than five heartbeats.
    c.unless(
        e.election_ms <= 50_000 && u64::from(e.election_ms) >= 10 * u64::from(e.heartbeat_ms),
        "quorate.etcd.election_ms",
        || format!("expected 10 x heartbeat_ms ({}) to 50000, found {}", 10 * u64::from(e.heartbeat_ms), e.election_ms),
    );
    c.unless((16 << 20..=64 << 30).contains(&e.quota_bytes), "quorate.etcd.quota_bytes", || {
        format!("expected 16 MiB to 64 GiB, found {}", e.quota_bytes)
    });
    c.unless(e.snapshots <= 100, "quorate.etcd.snapshots", || format!("expected at most 100, found {}", e.snapshots));
    let Some(r) = &e.restore else { return };
    c.unless(config.members.contains_key(&r.member), "quorate.etcd.restore.member", || {
        let members: Vec<_> = config.members.keys().map(String::as_str).collect();
        format!("expected one of {}, found `{}`", members.join(", "), r.member)
    });
    c.unless(
        r.sha256.len() == 64 && r.sha256.bytes().all(|b| b.is_ascii_hexdigit()),
        "quorate.etcd.restore.sha256",
        || format!("expected 64 hex digits, found `{}`", r.sha256),
    );
    c.unless((1..=config.generation).contains(&r.number), "quorate.etcd.restore.number", || {
        format!("expected the number of a seeding, 1 to {}, found {}", config.generation, r.number)
    });
}

fn check_masters(c: &mut Checker, config: &NodeConfig) {
    let needs_masters = config.roles.contains(&Role::Lb) || config.roles.contains(&Role::Master);
    let key = "quorate.masters";
    if !needs_masters {
        c.unless(config.masters.is_empty(), key, || {
            "stands on a node without `master` or `lb`: it must not travel there".into()
        });
        return;
    }
    c.unless(!config.masters.is_empty(), key, || {
        "expected the masters by name and address; a load balancer without one has nobody to send clients to".into()
    });
    let mut seen = std::collections::BTreeMap::new();
    for (name, address) in &config.masters {
        c.unless(is_label(name), key, || format!("`{name}` is not an RFC 1123 label"));
        if let Some(other) = seen.insert(address, name) {
            c.say(key, format!("{other} and {name} have the same address {address}"));
        }
    }
}

fn check_lb(c: &mut Checker, config: &NodeConfig, network: &NetworkConfig) {
    let has_role = config.roles.contains(&Role::Lb);
    let Some(lb) = &config.lb else {
        c.unless(!has_role, "quorate.lb", || {
            "is missing; a node with `lb` needs {peers, virtual_router_id}, or {provided_by: external}".into()
        });
        return;
    };
    c.unless(has_role, "quorate.lb", || "stands on a node without `lb`: it must not travel there".into());
    // VRRPv3 counts in hundredths of a second, in twelve bits (RFC 9568, 5.2.7).
    c.unless((10..=40_000).contains(&lb.advert_ms) && lb.advert_ms % 10 == 0, "quorate.lb.advert_ms", || {
        format!("expected 10 to 40000 in steps of 10, found {}", lb.advert_ms)
    });
    c.unless(config.cluster.endpoint.is_some(), "quorate.cluster.endpoint", || {
        "is missing; clients reach a load balancer by it".into()
    });
    match lb.provided_by {
        ProvidedBy::Vip => check_vip(c, config, lb, network),
        ProvidedBy::External => {
            c.unless(lb.peers.is_empty() && lb.virtual_router_id.is_none(), "quorate.lb", || {
                "peers and virtual_router_id belong to a virtual IP; with provided_by: external nobody has one".into()
            });
            c.unless(!config.roles.contains(&Role::Master), "quorate.lb.provided_by", || {
                "with `external` HAProxy listens on the node's own address, where a master's apiserver does; hint: \
                 point the external load balancer at the masters themselves, or place `lb` on nodes of its own"
                    .into()
            });
        }
    }
}

fn check_vip(c: &mut Checker, config: &NodeConfig, lb: &Lb, network: &NetworkConfig) {
    let own = config.node.address;
    if let Some(endpoint) = config.cluster.endpoint.as_deref() {
        let key = "quorate.cluster.endpoint";
        match config.endpoint_address().map(|a| a.ip()) {
            None => c.say(key, format!("expected address:port, found `{endpoint}`: a virtual IP is an address")),
            Some(vip) => {
                let known = config.masters.iter().chain(&config.members).map(|(n, a)| (n.as_str(), *a));
                let peers = lb.peers.iter().map(|p| (p.name.as_str(), p.address));
                if let Some((name, _)) = known.chain(peers).chain([(config.name(), own)]).find(|(_, a)| *a == vip) {
                    c.say(key, format!("the virtual IP {vip} is the address of {name}: nobody else may have it"));
                }
                c.unless(vip.is_ipv4() == own.is_ipv4(), key, || {
                    format!("the virtual IP {vip} and the node's address {own} are of different families")
                });
                let nets = || network.ethernets.iter().flat_map(|e| &e.addresses);
                c.unless(network.has_dhcp() || nets().any(|n| n.contains(&vip)), key, || {
                    let nets: Vec<_> = nets().map(|n| n.trunc().to_string()).collect();
                    format!("the virtual IP {vip} is outside every interface's subnet ({})", nets.join(", "))
                });
            }
        }
    }
    c.unless(lb.virtual_router_id.is_some_and(|id| id > 0), "quorate.lb.virtual_router_id", || {
        "expected 1 to 255, the same on all load balancers of the cluster and on no other router of the network".into()
    });
    let key = "quorate.lb.peers";
    c.unless(lb.peers.len() <= PEERS_MAX, key, || {
        format!("{} load balancers: more than {PEERS_MAX} cannot have priorities that do not clash", lb.peers.len())
    });
    for (i, peer) in lb.peers.iter().enumerate() {
        c.unless(is_label(&peer.name), key, || format!("`{}` is not an RFC 1123 label", peer.name));
        if let Some(other) = lb.peers[..i].iter().find(|p| p.address == peer.address || p.name == peer.name) {
            let (a, b) = (&other.name, &peer.name);
            c.say(key, format!("{a} and {b} are the same load balancer twice: their priorities would clash"));
        }
    }
    match lb.peers.iter().find(|p| p.name == config.name()) {
        Some(p) if p.address == own => {}
        Some(p) => c.say(key, format!("{} has {} there, and {own} in node.address", p.name, p.address)),
        None => c.say(key, format!("this node `{}` has the role lb, but is not among them", config.name())),
    }
}

/// Load balancers have base priorities of their own, and whoever holds the virtual IP gets 20 more (`init/src/roles/lb`):
/// with more of them the last one that holds it would still be below the first.
const PEERS_MAX: usize = 20;

/// What a node may carry of a CA.
#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    Nothing,
    Certificate,
    Key,
}

fn check_pki(c: &mut Checker, config: &NodeConfig) {
    let has = |r| config.roles.contains(&r);
    let p = &config.pki;
    let level = |key: bool, cert: bool| match (key, cert) {
        (true, _) => May::Key,
        (false, true) => May::Certificate,
        (false, false) => May::Nothing,
    };
    let rows = [
        ("cluster_ca", &p.cluster_ca, level(has(Role::Master), has(Role::Lb) || has(Role::Worker)), "master"),
        ("front_proxy_ca", &p.front_proxy_ca, level(has(Role::Master), false), "master"),
        ("etcd_peer_ca", &p.etcd_peer_ca, level(has(Role::Etcd), false), "etcd"),
        ("etcd_server_ca", &p.etcd_server_ca, level(has(Role::Etcd), has(Role::Master)), "etcd"),
        ("etcd_client_ca", &p.etcd_client_ca, level(has(Role::Master), has(Role::Etcd)), "master"),
    ];
    for (name, ca, may, role) in rows {
        let key = format!("quorate.pki.{name}");
        match (ca, may) {
            (None, May::Nothing) => {}
            (Some(_), May::Nothing) => c.say(&key, format!("on a node without `{role}`: it must not travel there")),
            (None, May::Certificate) => c.say(&format!("{key}.cert"), "is missing; the node's roles need it"),
            (None, May::Key) => c.say(&key, "is missing; the node's roles need its certificate and key"),
            (Some(ca), may) => check_ca(c, &key, ca, may, role),
        }
    }
    c.unless(p.service_account.is_none() || has(Role::Master), "quorate.pki.service_account", || {
        "on a node without `master`: it must not travel there".into()
    });
    c.unless(p.service_account.is_some() || !has(Role::Master), "quorate.pki.service_account", || {
        "is missing; a master signs service accounts' tokens".into()
    });
    c.unless(p.leaf_minutes.is_none_or(|m| (5..=5_256_000).contains(&m)), "quorate.pki.leaf_minutes", || {
        "expected 5 minutes to ten years".into()
    });
}

fn check_ca(c: &mut Checker, key: &str, ca: &Ca, may: May, role: &str) {
    c.unless(ca.cert.trim_start().starts_with("-----BEGIN CERTIFICATE-----"), &format!("{key}.cert"), || {
        "expected a PEM certificate".into()
    });
    let key_name = format!("{key}.key");
    match (&ca.key, may) {
        (Some(_), May::Certificate) => {
            c.say(&key_name, format!("on a node without `{role}`: it must not travel there"));
        }
        (None, May::Key) => c.say(&key_name, "is missing; the node issues its own certificates"),
        (Some(k), _) => c.unless(k.contains("PRIVATE KEY-----"), &key_name, || "expected a PEM private key".into()),
        _ => {}
    }
}

fn check_state(c: &mut Checker, config: &NodeConfig) {
    if let State::Disk(d) = &config.state {
        c.unless(crate::cmdline::DiskName::parse(&d.disk).is_some(), "quorate.state.disk", || {
            format!("expected /dev/…, path:/dev/… or serial:X, found `{}`", d.disk)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn network() -> NetworkConfig {
        let lan = crate::network::Ethernet {
            addresses: vec!["10.77.0.21/24".parse().expect("a network")],
            ..Default::default()
        };
        NetworkConfig { ethernets: vec![lan] }
    }

    /// A load balancer, changed by a JSON pointer's value; null takes it away.
    fn problems(pointer: &str, value: Value) -> String {
        let mut lb = json!({
            "version": 1,
            "roles": ["lb"],
            "node": { "name": "lb-1", "address": "10.77.0.21" },
            "cluster": { "name": "demo", "id": "3f9c2a7be1d04c55", "endpoint": "10.77.0.10:6443" },
            "masters": { "master-1": "10.77.0.11", "master-2": "10.77.0.12" },
            "lb": {
                "peers": [{ "name": "lb-1", "address": "10.77.0.21" }, { "name": "lb-2", "address": "10.77.0.22" }],
                "advert_ms": 100, "virtual_router_id": 77, "provided_by": "vip",
            },
            "state": "ephemeral",
            "pki": { "cluster_ca": { "cert": "-----BEGIN CERTIFICATE-----\n" } },
        });
        if !pointer.is_empty() {
            *lb.pointer_mut(pointer).expect("a place") = value;
        }
        let config: NodeConfig = serde_json::from_value(lb).expect("the schema");
        check(&config, &network()).iter().map(|p| format!("{p}\n")).collect()
    }

    #[test]
    fn what_is_odd_is_told() {
        assert_eq!(advert_warning(50), None);
        assert!(advert_warning(20).is_some_and(|w| w.starts_with("advertisements every 20 ms")));
    }

    #[test]
    fn a_load_balancer_is_checked() {
        assert_eq!(problems("", Value::Null), "");
        let peer = |i: u32| json!({ "name": format!("lb-{i}"), "address": format!("10.77.0.{}", 20 + i) });
        let many: Vec<_> = (1..=21).map(peer).collect();
        let cases = [
            (
                "/cluster/endpoint",
                json!("10.78.0.10:6443"),
                "the virtual IP 10.78.0.10 is outside every interface's subnet (10.77.0.0/24)",
            ),
            ("/cluster/endpoint", json!("10.77.0.21:6443"), "the virtual IP 10.77.0.21 is the address of lb-1"),
            ("/cluster/endpoint", json!("10.77.0.12:6443"), "the virtual IP 10.77.0.12 is the address of master-2"),
            ("/cluster/endpoint", json!("api.example:6443"), "a virtual IP is an address"),
            ("/cluster/endpoint", json!("[fd00::1]:6443"), "are of different families"),
            ("/cluster/endpoint", Value::Null, "quorate.cluster.endpoint: is missing"),
            ("/masters", json!({}), "quorate.masters: expected the masters by name and address"),
            ("/masters", json!({ "a": "10.77.0.11", "b": "10.77.0.11" }), "a and b have the same address 10.77.0.11"),
            ("/lb", Value::Null, "quorate.lb: is missing"),
            ("/lb/advert_ms", json!(5), "expected 10 to 40000 in steps of 10, found 5"),
            ("/lb/advert_ms", json!(125), "in steps of 10, found 125"),
            ("/lb/virtual_router_id", json!(0), "quorate.lb.virtual_router_id: expected 1 to 255"),
            ("/lb/virtual_router_id", Value::Null, "quorate.lb.virtual_router_id: expected 1 to 255"),
            ("/lb/peers/0/address", json!("10.77.0.23"), "lb-1 has 10.77.0.23 there, and 10.77.0.21 in node.address"),
            (
                "/lb/peers/1/address",
                json!("10.77.0.21"),
                "lb-1 and lb-2 are the same load balancer twice: their priorities would clash",
            ),
            ("/lb/peers/0/name", json!("lb-9"), "`lb-1` has the role lb, but is not among them"),
            ("/lb/peers", json!(many), "21 load balancers: more than 20"),
            ("/lb/provided_by", json!("external"), "with provided_by: external nobody has one"),
            ("/roles", json!(["etcd"]), "quorate.lb: stands on a node without `lb`"),
        ];
        for (pointer, value, want) in cases {
            let found = problems(pointer, value.clone());
            assert!(found.contains(want), "{pointer} = {value}\n{found}-- expected: {want}");
        }
    }
}
