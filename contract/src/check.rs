//! Whether a configuration makes sense: the same function at seed time, in `quorate config validate`, and at boot.

use crate::nearest::nearest;
use crate::network::NetworkConfig;
use crate::node::{Ca, NodeConfig, Role, State};
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
    check_pki(&mut c, config);
    check_state(&mut c, config);
    let address = config.node.address;
    c.unless(network.has_dhcp() || network.addresses().any(|a| a == address), "quorate.node.address", || {
        let declared: Vec<_> = network.addresses().map(|a| a.to_string()).collect();
        format!("{address} is on no interface of network-config; it declares {}", declared.join(", "))
    });
    c.0
}

fn check_roles(c: &mut Checker, config: &NodeConfig) {
    c.unless(!config.roles.is_empty(), "quorate.roles", || {
        "expected at least one of master, etcd, lb, worker; no role is ever guessed".into()
    });
    for role in &config.roles {
        c.unless(Role::RUN_BY_THIS_VERSION.contains(role), "quorate.roles", || {
            let words: Vec<_> = Role::RUN_BY_THIS_VERSION.iter().map(|r| r.word()).collect();
            format!("`{role}` is not in this version of quorate; it runs {}", words.join(", "))
        });
    }
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
    c.unless((64 << 20..=64 << 30).contains(&e.quota_bytes), "quorate.etcd.quota_bytes", || {
        format!("expected 64 MiB to 64 GiB, found {}", e.quota_bytes)
    });
}

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
    let master_apart = has(Role::Master) && !has(Role::Etcd);
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
            (Some(ca), may) => check_ca(c, &key, ca, may, role, name == "etcd_client_ca" && !master_apart),
        }
    }
    c.unless(p.service_account.is_none() || has(Role::Master), "quorate.pki.service_account", || {
        "on a node without `master`: it must not travel there".into()
    });
    c.unless(p.leaf_minutes.is_none_or(|m| (5..=5_256_000).contains(&m)), "quorate.pki.leaf_minutes", || {
        "expected 5 minutes to ten years".into()
    });
}

fn check_ca(c: &mut Checker, key: &str, ca: &Ca, may: May, role: &str, key_optional: bool) {
    c.unless(ca.cert.trim_start().starts_with("-----BEGIN CERTIFICATE-----"), &format!("{key}.cert"), || {
        "expected a PEM certificate".into()
    });
    let key_name = format!("{key}.key");
    match (&ca.key, may) {
        (Some(_), May::Certificate) => {
            c.say(&key_name, format!("on a node without `{role}`: it must not travel there"));
        }
        (None, May::Key) if !key_optional => c.say(&key_name, "is missing; the node issues its own certificates"),
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
