//! cluster.toml: as written, and checked. Placement mistakes are errors with the reason.

use crate::place::{Misplaced, Refused};
use anyhow::{Context, Result};
use contract::check::{ONE_BALANCER, advert_warning, is_label};
use contract::node::{ADVERT_MS, Etcd, ProvidedBy, Role, State};
use ipnet::IpNet;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use toml::Spanned;

/// As written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    cluster: Cluster,
    #[serde(default)]
    network: Network,
    #[serde(default)]
    etcd: WrittenEtcd,
    #[serde(default)]
    lb: WrittenLb,
    #[serde(default)]
    pki: Certificates,
    #[serde(default)]
    node: Vec<Spanned<Node>>,
    #[serde(default)]
    lab: Lab,
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
    fn port(&self) -> u16 {
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

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenEtcd {
    heartbeat: String,
    election: String,
    quota: String,
    snapshot_every: String,
    snapshots: u32,
}

impl Default for WrittenEtcd {
    fn default() -> Self {
        Self {
            heartbeat: "50ms".into(),
            election: "500ms".into(),
            quota: "4GiB".into(),
            snapshot_every: "6h".into(),
            snapshots: 4,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenLb {
    advert: String,
    virtual_router_id: Option<u8>,
}

impl Default for WrittenLb {
    fn default() -> Self {
        Self { advert: format!("{ADVERT_MS}ms"), virtual_router_id: None }
    }
}

/// `[pki]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Certificates {
    /// Life of those that nodes make for themselves, minutes; none = a year.
    pub(crate) leaf_minutes: Option<u64>,
}

/// `[lb]`, checked.
#[derive(Clone, Debug)]
pub(crate) struct Balancer {
    pub(crate) advert_ms: u32,
    /// None = from the cluster's id.
    pub(crate) virtual_router_id: Option<u8>,
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
    pub(crate) network: Option<toml::Table>,
    /// Of the Kubernetes node.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Of the Kubernetes node, `key=value:Effect`.
    #[serde(default)]
    pub(crate) taints: Vec<String>,
    /// Pods on it at most.
    pub(crate) max_pods: Option<u32>,
}

/// `[lab]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Lab {
    pub(crate) accel: String,
    pub(crate) dilation: Dilation,
    pub(crate) memory: BTreeMap<Role, String>,
    pub(crate) state_size: String,
    pub(crate) forward: Vec<Forward>,
    /// Whether there is a way in and out of the network.
    pub(crate) gateway: bool,
    /// What the gateway serves to machines that boot from the network; a path is relative to the cluster's file.
    pub(crate) tftp: Option<lab::gateway::Tftp>,
    /// Of the dice that the network's faults are thrown with.
    pub(crate) seed: u64,
}

impl Default for Lab {
    fn default() -> Self {
        Self {
            accel: "auto".into(),
            dilation: Dilation::Word("auto".into()),
            memory: BTreeMap::new(),
            state_size: "8GiB".into(),
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
pub(crate) enum Dilation {
    Factor(f64),
    Word(String),
}

/// A port of this machine that leads into the cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Forward {
    pub(crate) host: SocketAddr,
    pub(crate) to: SocketAddr,
}

/// Checked.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) cluster: Cluster,
    pub(crate) network: Network,
    pub(crate) etcd: Etcd,
    pub(crate) lb: Balancer,
    pub(crate) pki: Certificates,
    pub(crate) nodes: Vec<Node>,
    pub(crate) lab: Lab,
    pub(crate) warnings: Vec<String>,
}

impl Spec {
    /// `host:port` that clients use: the endpoint that is named, or the one master's.
    pub(crate) fn endpoint(&self) -> Option<String> {
        let Some(host) = &self.cluster.endpoint else {
            let master = self.nodes.iter().find(|n| n.roles.contains(&Role::Master))?;
            return Some(SocketAddr::new(master.address.addr(), contract::ports::API).to_string());
        };
        let port = self.cluster.port();
        Some(match host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, port).to_string(),
            Err(_) => format!("{host}:{port}"),
        })
    }
}

/// Reads and checks a cluster.toml.
pub(crate) fn read(path: &Path) -> Result<Spec> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading {}; hint: `quorate cluster new` prints one to start from", path.display()))?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Spec> {
    let written: Written = toml::from_str(text).map_err(|e| Misplaced::toml(path, text, &e))?;
    let mut problems = Vec::new();
    let mut at = |offset: usize, message: String| problems.push(Misplaced::at(path, text, offset, message).to_string());
    let place = |needle: &str| text.find(needle).unwrap_or(0);
    if written.version != 1 {
        at(place("version"), format!("version: expected 1, found {}", written.version));
    }
    let name = &written.cluster.name;
    if !is_label(name) || name.len() > 32 {
        at(place(name), format!("cluster.name: `{name}` is not an RFC 1123 label of at most 32 characters"));
    }
    let etcd = match etcd(&written.etcd) {
        Ok(e) => e,
        Err((value, e)) => {
            at(place(&value), e);
            Etcd::default()
        }
    };
    let lb = match lb(&written.lb) {
        Ok(lb) => lb,
        Err((value, e)) => {
            at(place(&value), e);
            Balancer { advert_ms: ADVERT_MS, virtual_router_id: None }
        }
    };
    for (offset, message) in placement(&written) {
        at(offset, message);
    }
    if !problems.is_empty() {
        return Err(Refused(problems).into());
    }
    let nodes: Vec<Node> = written.node.into_iter().map(Spanned::into_inner).collect();
    let members = nodes.iter().filter(|n| n.roles.contains(&Role::Etcd)).count();
    let mut warnings = Vec::new();
    if members > 0 && members % 2 == 0 {
        warnings.push(format!(
            "{members} etcd members survive no more failures than {}: an odd number is better",
            members - 1
        ));
    }
    let balancers = nodes.iter().filter(|n| n.roles.contains(&Role::Lb)).count();
    if balancers == 1 && written.cluster.provided_by == ProvidedBy::Vip {
        warnings.push(ONE_BALANCER.into());
    }
    if balancers > 0 {
        warnings.extend(advert_warning(lb.advert_ms));
    }
    let (cluster, network, pki, lab) = (written.cluster, written.network, written.pki, written.lab);
    Ok(Spec { cluster, network, etcd, lb, pki, nodes, lab, warnings })
}

fn placement(w: &Written) -> Vec<(usize, String)> {
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
        if let Some(other) = macs.insert(node.mac.to_ascii_lowercase(), &node.name) {
            say(format!("has the MAC address {} that {other} has already", node.mac));
        }
        if node.address.prefix_len() == 0 || node.address.addr() == node.address.network() {
            say(format!("address: expected a host's address with its prefix length, found {}", node.address));
        }
        if let Some(g) = w.network.gateway.filter(|g| node.network.is_none() && !node.address.contains(g)) {
            say(format!("the gateway {g} is outside its subnet {}", node.address.trunc()));
        }
        if node.roles.is_empty() {
            say("has no role; expected at least one of master, etcd, lb, worker".into());
        }
        if node.roles.contains(&Role::Etcd) && node.state.is_none() {
            say("has `etcd` but no `state`: name a disk, or write state = \"ephemeral\"".into());
        }
        if let Some(vip) = w.cluster.virtual_ip() {
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
        match (&w.cluster.endpoint, w.cluster.provided_by) {
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
    if let Some(second) = masters.clone().nth(1).filter(|_| w.cluster.endpoint.is_none()) {
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

/// The value that is wrong, and why.
type Wrong = (String, String);

fn milliseconds(key: &str, text: &str) -> Result<u32, Wrong> {
    let n = text.strip_suffix("ms").and_then(|n| n.trim().parse().ok());
    let n = n.or_else(|| text.strip_suffix('s').and_then(|n| n.trim().parse::<u32>().ok()?.checked_mul(1000)));
    n.ok_or_else(|| (text.to_owned(), format!("{key}: expected a time like \"50ms\", found `{text}`")))
}

fn lb(w: &WrittenLb) -> Result<Balancer, Wrong> {
    let advert_ms = milliseconds("lb.advert", &w.advert)?;
    if !(10..=40_000).contains(&advert_ms) || advert_ms % 10 != 0 {
        let text = format!("lb.advert: expected 10ms to 40s in steps of 10ms, found `{}`", w.advert);
        return Err((w.advert.clone(), text));
    }
    if w.virtual_router_id == Some(0) {
        return Err(("virtual_router_id".into(), "lb.virtual_router_id: expected 1 to 255, found 0".into()));
    }
    Ok(Balancer { advert_ms, virtual_router_id: w.virtual_router_id })
}

fn etcd(w: &WrittenEtcd) -> Result<Etcd, Wrong> {
    let heartbeat_ms = milliseconds("etcd.heartbeat", &w.heartbeat)?;
    let election_ms = milliseconds("etcd.election", &w.election)?;
    if u64::from(election_ms) < 10 * u64::from(heartbeat_ms) {
        return Err((
            w.election.clone(),
            format!("etcd.election: expected at least ten heartbeats, {} ms", 10 * heartbeat_ms),
        ));
    }
    let quota_bytes = bytes(&w.quota)
        .ok_or_else(|| (w.quota.clone(), format!("etcd.quota: expected a size like \"4GiB\", found `{}`", w.quota)))?;
    let snapshot_minutes = minutes(&w.snapshot_every).ok_or_else(|| {
        let text =
            format!("etcd.snapshot_every: expected a time like \"6h\", \"30m\" or \"0\", found `{}`", w.snapshot_every);
        (w.snapshot_every.clone(), text)
    })?;
    Ok(Etcd { heartbeat_ms, election_ms, quota_bytes, snapshot_minutes, snapshots: w.snapshots, ..Etcd::default() })
}

/// `6h`, `30m`; `0` = never.
fn minutes(text: &str) -> Option<u32> {
    match (text.strip_suffix('h'), text.strip_suffix('m')) {
        (Some(n), _) => n.parse::<u32>().ok()?.checked_mul(60),
        (None, Some(n)) => n.parse().ok(),
        (None, None) => (text == "0").then_some(0),
    }
}

/// `512MiB`, `4GiB`.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let (number, shift) = match (text.strip_suffix("GiB"), text.strip_suffix("MiB")) {
        (Some(n), _) => (n, 30),
        (None, Some(n)) => (n, 20),
        (None, None) => return None,
    };
    number.trim().parse::<u64>().ok()?.checked_shl(shift).filter(|b| *b > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> String {
        parse(Path::new("cluster.toml"), text).expect_err("refused").to_string()
    }

    /// A cluster of one.
    const ONE: &str = include_str!("../../../examples/etcd-single.toml");

    #[test]
    fn the_template_is_good() {
        let spec = parse(Path::new("t"), crate::cluster::TEMPLATE).expect("good");
        assert!(spec.warnings.is_empty() && spec.nodes.len() == 6 && spec.lab.gateway);
        assert_eq!(spec.etcd.quota_bytes, 4 << 30);
    }

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
        let alone = t
            .replace("name = \"lb-2\"\nroles = [\"lb\"]", "name = \"lb-2\"\nroles = [\"etcd\"]\nstate = \"ephemeral\"");
        let alone = parse(Path::new("t"), &alone.replace("\"100ms\"", "\"20ms\"")).expect("good");
        assert!(alone.warnings.iter().any(|w| w.contains("one load balancer")), "{:?}", alone.warnings);
        assert!(alone.warnings.iter().any(|w| w.contains("every 20 ms")), "{:?}", alone.warnings);
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

    #[test]
    fn an_even_number_of_members_is_a_warning() {
        let second = "\n[[node]]\nname = \"etcd-2\"\nroles = [\"etcd\"]\naddress = \"10.77.0.32/24\"\nmac = \"52:54:00:77:00:32\"\nstate = \"ephemeral\"\n";
        let spec = parse(Path::new("t"), &format!("{}{second}", ONE)).expect("good");
        assert_eq!(spec.warnings.len(), 1);
    }

    #[test]
    fn sizes() {
        assert_eq!(
            (bytes("512MiB"), bytes("4GiB"), bytes("4"), bytes("0MiB")),
            (Some(512 << 20), Some(4 << 30), None, None)
        );
    }
}
