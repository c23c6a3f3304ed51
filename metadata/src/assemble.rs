//! From the parts of a seed to a validated [`NodeSeed`], or to every reason why not.

use crate::cloud_config;
use crate::decode::decode;
use crate::network_config;
use contract::check::{check, warnings};
use contract::network::NetworkConfig;
use contract::node::{Ca, NodeConfig, Role};
use contract::seed::NodeSeed;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;

/// The parts of a seed, as they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Required.
    pub user_data: Option<Vec<u8>>,
    /// Optional; without it the instance has no id.
    pub meta_data: Option<Vec<u8>>,
    /// Optional; without it DHCP on all links.
    pub network_config: Option<Vec<u8>>,
    /// What else was there, for the message when user-data is not.
    pub others: Vec<String>,
}

/// How the seed travelled: what carries private keys must not come in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A medium attached to the machine.
    Medium,
    /// https, or a digest pinned on the command line.
    Pinned,
    /// Plain http, or https without a pin.
    Clear {
        /// `quorate.insecure-seed=1`.
        allowed: bool,
    },
}

/// meta-data: YAML, or JSON, which is YAML.
#[derive(Default, Deserialize)]
struct MetaData {
    #[serde(rename = "instance-id")]
    instance_id: Option<String>,
    #[serde(rename = "local-hostname")]
    local_hostname: Option<String>,
    hostname: Option<String>,
    #[serde(flatten)]
    _rest: BTreeMap<String, IgnoredAny>,
}

/// Puts a seed together.
pub fn assemble(source: &str, files: &Files, transport: Transport) -> Result<NodeSeed, Vec<String>> {
    let mut problems = Vec::new();
    let mut notices = Vec::new();
    let meta = meta_data(files.meta_data.as_deref(), &mut notices);
    let Some(user_data) = files.user_data.as_deref() else {
        let found =
            if files.others.is_empty() { String::new() } else { format!("; found {}", files.others.join(", ")) };
        return Err(vec![format!("user-data: is missing{found}")]);
    };
    let mut user = match decode(user_data).map_err(|e| e.to_string()).and_then(|t| cloud_config::parse(&t)) {
        Ok(user) => user,
        Err(e) => return Err(vec![format!("user-data: {e}")]),
    };
    notices.extend(user.ignored.iter().map(|k| format!("user-data: `{k}` is passed over")));
    name(&mut user.node, [meta.local_hostname, meta.hostname, user.hostname], &mut notices);
    notices.extend(warnings(&user.node));
    let holds_data = user.node.roles.iter().any(|r| matches!(r, Role::Etcd | Role::Master));
    let network = match files.network_config.as_deref().map(network) {
        None => NetworkConfig::default(),
        Some(Ok(read)) => {
            notices.extend(read.notices);
            read.config
        }
        // A node that holds data must come up where the others expect it; any other is better reachable than not.
        Some(Err(e)) if holds_data => {
            problems.push(format!("network-config: {e}"));
            NetworkConfig::default()
        }
        Some(Err(e)) => {
            notices.push(format!("network-config: {e}; DHCP on all links instead"));
            NetworkConfig::default()
        }
    };
    problems.extend(check(&user.node, &network).iter().map(ToString::to_string));
    if let Transport::Clear { allowed: false } = transport
        && user.node.has_secrets()
    {
        problems.push(
            "the seed carries private keys and came in the clear; hint: https with ;sha256= on the ds line, or \
             quorate.insecure-seed=1"
                .into(),
        );
    }
    let not_before = match latest_not_before(&user.node) {
        Ok(t) => t,
        Err(e) => {
            problems.push(e);
            0
        }
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(NodeSeed { source: source.into(), instance_id: meta.instance_id, node: user.node, network, notices, not_before })
}

fn network(bytes: &[u8]) -> Result<network_config::Read, String> {
    decode(bytes).map_err(|e| e.to_string()).and_then(|t| network_config::parse(&t))
}

fn meta_data(bytes: Option<&[u8]>, notices: &mut Vec<String>) -> MetaData {
    let Some(bytes) = bytes.filter(|b| !b.trim_ascii().is_empty()) else {
        notices.push("meta-data is missing".into());
        return MetaData::default();
    };
    let read = decode(bytes).map_err(|e| e.to_string()).and_then(|t| cloud_config::yaml::<Option<MetaData>>(&t));
    read.map(Option::unwrap_or_default).unwrap_or_else(|e| {
        notices.push(format!("meta-data: {e}; passed over"));
        MetaData::default()
    })
}

/// The configuration's name counts; every cloud makes up its own, which is only worth a notice.
fn name(node: &mut NodeConfig, others: [Option<String>; 3], notices: &mut Vec<String>) {
    let other = others.into_iter().flatten().next();
    match (&node.node.name, other) {
        (None, Some(other)) => node.node.name = other.split('.').next().map(str::to_owned),
        (Some(own), Some(other)) if *own != other => {
            notices.push(format!("the platform calls this node `{other}`; its configuration `{own}` counts"));
        }
        _ => {}
    }
}

/// Latest `notBefore` of all certificates; a certificate that does not parse is a problem.
fn latest_not_before(node: &NodeConfig) -> Result<u64, String> {
    let p = &node.pki;
    let mut latest = 0;
    let rows: [(&str, &Option<Ca>); 5] = [
        ("cluster_ca", &p.cluster_ca),
        ("front_proxy_ca", &p.front_proxy_ca),
        ("etcd_peer_ca", &p.etcd_peer_ca),
        ("etcd_server_ca", &p.etcd_server_ca),
        ("etcd_client_ca", &p.etcd_client_ca),
    ];
    for (name, ca) in rows {
        let Some(ca) = ca else { continue };
        let bad = |e: &dyn std::fmt::Display| format!("quorate.pki.{name}.cert: does not parse: {e}");
        let (_, pem) = x509_parser::pem::parse_x509_pem(ca.cert.as_bytes()).map_err(|e| bad(&e))?;
        let cert = pem.parse_x509().map_err(|e| bad(&e))?;
        if !cert.is_ca() {
            return Err(format!("quorate.pki.{name}.cert: is not a CA's certificate"));
        }
        latest = latest.max(u64::try_from(cert.validity().not_before.timestamp()).unwrap_or(0));
    }
    Ok(latest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER_DATA: &str = include_str!("../tests/samples/etcd-user-data.yaml");

    /// The sample with real certificates in it.
    fn user_data() -> String {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec![]).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(2026, 1, 2);
        let cert = params.self_signed(&key).expect("a certificate").pem().replace('\n', "\\n");
        USER_DATA.replace("-----BEGIN CERTIFICATE-----\\nA\\n-----END CERTIFICATE-----\\n", &cert)
    }

    fn files(user: &str, meta: Option<&str>, network: Option<&str>) -> Files {
        let own = |t: &str| t.as_bytes().to_vec();
        Files { user_data: Some(own(user)), meta_data: meta.map(own), network_config: network.map(own), others: vec![] }
    }

    const NETWORK: &str = "version: 2\nethernets: {e: {addresses: [10.77.0.31/24]}}\n";

    #[test]
    fn a_whole_seed() {
        let meta = include_str!("../tests/samples/kubevirt-meta-data.json");
        let seed =
            assemble("test", &files(&user_data(), Some(meta), Some(NETWORK)), Transport::Medium).expect("a seed");
        assert!(seed.instance_id.is_some());
        assert_eq!(seed.not_before, 1_767_312_000);
        assert!(seed.notices.iter().any(|n| n.contains("`etcd-1` counts")), "{:?}", seed.notices);
    }

    #[test]
    fn every_problem_is_named() {
        let good = user_data();
        let cases: Vec<(Files, Transport, &[&str])> = vec![
            (Files::default(), Transport::Medium, &["user-data: is missing"]),
            (
                files(&good.replace("[etcd]", "[worker]"), None, None),
                Transport::Medium,
                &[
                    "quorate.members: stands on a node without `etcd` or `master`",
                    "quorate.pki.etcd_peer_ca: on a node without",
                ],
            ),
            (
                files(&good.replace("address: 10.77.0.31}", "address: 10.77.0.9}"), None, Some(NETWORK)),
                Transport::Medium,
                &["quorate.members: etcd-1 has 10.77.0.31 there, and 10.77.0.9", "10.77.0.9 is on no interface"],
            ),
            (files(&good, None, Some("version: 3\n")), Transport::Medium, &["network-config: version 3"]),
            (files(&good, None, None), Transport::Clear { allowed: false }, &["private keys and came in the clear"]),
            (files(USER_DATA, None, None), Transport::Medium, &["pki.etcd_peer_ca.cert: does not parse"]),
            (
                files(&good.replace("name: etcd-1, ", ""), Some("local-hostname: other.example\n"), None),
                Transport::Medium,
                &["this node `other` has the role etcd, but is not among them"],
            ),
            (
                files(&good.replace("    etcd_client_ca:", "    cluster_ca:"), None, None),
                Transport::Medium,
                &["pki.cluster_ca: on a node without `master`", "pki.etcd_client_ca.cert: is missing"],
            ),
        ];
        for (files, transport, wants) in cases {
            let problems = assemble("test", &files, transport).expect_err(wants[0]).join("\n");
            for want in wants {
                assert!(problems.contains(want), "{problems}\n-- expected: {want}");
            }
        }
        assemble("test", &files(&good, None, None), Transport::Clear { allowed: true }).expect("allowed");
    }
}
