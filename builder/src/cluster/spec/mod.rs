//! cluster.toml: as written (`written.rs`), and checked: what its texts mean (`values.rs`), and whether its nodes can be
//! (`placement.rs`). Every mistake is an error with its place and the reason.

mod placement;
mod values;
mod written;

pub(crate) use values::{Balancer, Lab};
pub(crate) use written::{Certificates, Cluster, Network, Node};

use crate::place::{Misplaced, Refused};
use anyhow::{Context, Result};
use contract::check::{ONE_BALANCER, advert_warning, is_label};
use contract::node::{Etcd, ProvidedBy, Role};
use metadata::network_config;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use toml::Spanned;
use written::Written;

/// A cluster's name at most, characters: names of its machines and directories begin with it.
pub(crate) const LONGEST_NAME: usize = 32;

/// Where in the file something is wrong, as a byte offset, and why.
type Wrong = (usize, String);

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
    let mut problems: Vec<Wrong> = Vec::new();
    if *written.version.get_ref() != 1 {
        let version = &written.version;
        problems.push((version.span().start, format!("version: expected 1, found {}", version.get_ref())));
    }
    // The span of a table is its header's.
    let table = written.cluster.span().start;
    let name = &written.cluster.get_ref().name;
    if !is_label(name) || name.len() > LONGEST_NAME {
        let at = table + text[table..].find(name).unwrap_or(0);
        let text = format!("cluster.name: `{name}` is not an RFC 1123 label of at most {LONGEST_NAME} characters");
        problems.push((at, text));
    }
    let etcd = values::etcd(&written.etcd, &mut problems);
    let lb = values::lb(&written.lb, &mut problems);
    problems.extend(placement::placement(&written));
    let lab = values::lab(written.lab, &mut problems);
    if !problems.is_empty() {
        let placed = |(at, why)| Misplaced::at(path, text, at, why).to_string();
        return Err(Refused(problems.into_iter().map(placed).collect()).into());
    }
    let cluster = written.cluster.into_inner();
    let placed = |n: Spanned<Node>| {
        let line = crate::place::line(text, n.span().start);
        let n = n.into_inner();
        Node { line, mac: network_config::normal_mac(&n.mac).unwrap_or_default(), ..n }
    };
    let nodes: Vec<Node> = written.node.into_iter().map(placed).collect();
    let warnings = warnings(&cluster, &lb, &nodes);
    let (network, pki) = (written.network, written.pki);
    Ok(Spec { cluster, network, etcd, lb, pki, nodes, lab, warnings })
}

/// What works, and hardly anybody wants.
fn warnings(cluster: &Cluster, lb: &Balancer, nodes: &[Node]) -> Vec<String> {
    let with = |role| nodes.iter().filter(|n| n.roles.contains(&role)).count();
    let (members, balancers) = (with(Role::Etcd), with(Role::Lb));
    let mut warnings = Vec::new();
    if members > 0 && members % 2 == 0 {
        let less = members - 1;
        warnings.push(format!("{members} etcd members survive no more failures than {less}: an odd number is better"));
    }
    if balancers == 1 && cluster.provided_by == ProvidedBy::Vip {
        warnings.push(ONE_BALANCER.into());
    }
    if balancers > 0 {
        warnings.extend(advert_warning(lb.advert_ms));
    }
    for node in nodes {
        let read = node.own_network().and_then(|own| network_config::parse(&own).ok());
        warnings.extend(read.into_iter().flat_map(|r| r.notices).map(|n| format!("node {}: {n}", node.name)));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a file that is refused.
    pub(super) fn problems(text: &str) -> String {
        parse(Path::new("cluster.toml"), text).expect_err("refused").to_string()
    }

    /// A cluster of one.
    pub(super) const ONE: &str = include_str!("../../../../examples/etcd-single.toml");

    #[test]
    fn the_template_is_good() {
        let spec = parse(Path::new("t"), crate::cluster::TEMPLATE).expect("good");
        assert!(spec.warnings.is_empty() && spec.nodes.len() == 6 && spec.lab.gateway);
        assert_eq!(spec.etcd.quota_bytes, 4 << 30);
    }

    #[test]
    fn a_load_balancer_alone_and_a_quick_one_are_warnings() {
        let t = crate::cluster::TEMPLATE;
        let alone = t
            .replace("name = \"lb-2\"\nroles = [\"lb\"]", "name = \"lb-2\"\nroles = [\"etcd\"]\nstate = \"ephemeral\"");
        let alone = parse(Path::new("t"), &alone.replace("\"100ms\"", "\"20ms\"")).expect("good");
        assert!(alone.warnings.iter().any(|w| w.contains("one load balancer")), "{:?}", alone.warnings);
        assert!(alone.warnings.iter().any(|w| w.contains("every 20 ms")), "{:?}", alone.warnings);
    }

    #[test]
    fn an_even_number_of_members_is_a_warning() {
        let second = "\n[[node]]\nname = \"etcd-2\"\nroles = [\"etcd\"]\naddress = \"10.77.0.32/24\"\nmac = \"52:54:00:77:00:32\"\nstate = \"ephemeral\"\n";
        let spec = parse(Path::new("t"), &format!("{}{second}", ONE)).expect("good");
        assert_eq!(spec.warnings.len(), 1);
    }

    #[test]
    fn what_a_node_passes_over_in_its_network_is_a_warning() {
        let own = "network = { version = 2, ethernets = { lan = { dhcp4 = true, lldp = true } } }\nstate = {";
        let spec = parse(Path::new("t"), &ONE.replace("state = {", own)).expect("good");
        assert_eq!(spec.warnings, ["node etcd-1: network-config: ethernets.lan.lldp is passed over"]);
    }

    #[test]
    fn a_wrong_value_is_named_where_it_stands() {
        let t = format!("# 400ms, Demo, 4 gigs, 5ms and version 2 are said here, too\n{ONE}");
        let cases = [
            ("version = 1", "version = 2", "version: expected 1, found 2"),
            ("name = \"demo\"", "name = \"Demo\"", "`Demo` is not an RFC 1123 label"),
            ("heartbeat = \"50ms\"", "heartbeat = \"50\"", "etcd.heartbeat: expected a time like \"50ms\", found `50`"),
            ("election = \"500ms\"", "election = \"400ms\"", "etcd.election: expected at least ten heartbeats, 500 ms"),
            ("quota = \"4GiB\"", "quota = \"4 gigs\"", "etcd.quota: expected a size like \"4GiB\", found `4 gigs`"),
            ("accel = \"auto\"", "accel = \"hvf\"", "lab.accel: expected auto or kvm or tcg, found `hvf`"),
            (
                "dilation = \"auto\"",
                "dilation = 0.5",
                "lab.dilation: expected \"auto\" or a factor of 1 to 100, found 0.5",
            ),
            (
                "memory = { etcd = \"512MiB\" }",
                "memory = { etcd = \"512\" }",
                "lab.memory.etcd: expected a size like \"512MiB\", found `512`",
            ),
            ("state_size = \"2GiB\"", "state_size = \"2\"", "lab.state_size: expected a size like \"8GiB\", found `2`"),
        ];
        let mut all = t.clone();
        for (right, wrong, why) in cases {
            let line =
                t.lines().position(|l| l.starts_with(right)).unwrap_or_else(|| panic!("{right} is not in it")) + 1;
            let found = problems(&t.replace(right, wrong));
            assert!(found.starts_with(&format!("cluster.toml:{line}:")) && found.contains(why), "{found}\n-- {why}");
            all = all.replace(right, wrong);
        }
        // All of them at once; without a good heartbeat there is nothing that the election could be too short for.
        assert_eq!(problems(&all).lines().count(), cases.len() - 1, "{}", problems(&all));
    }
}
