//! network-config version 2 (cloud-init's "Networking config Version 2", netplan's words).
//!
//! Bonds, bridges and VLANs are known but not in this version: a clear refusal instead of a node that is half there.

use crate::cloud_config::yaml;
use contract::network::{Ethernet, NetworkConfig, Route};
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What was read, and what was passed over.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    /// Normalised.
    pub config: NetworkConfig,
    /// For the report.
    pub notices: Vec<String>,
}

#[derive(Deserialize)]
struct Document {
    network: Option<Body>,
    #[serde(flatten)]
    body: BTreeMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
struct Body {
    version: Option<u32>,
    #[serde(default)]
    ethernets: BTreeMap<String, Written>,
    #[serde(flatten)]
    rest: BTreeMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[derive(Default)]
struct Written {
    #[serde(rename = "match")]
    matches: Match,
    dhcp4: bool,
    dhcp6: bool,
    addresses: Vec<String>,
    gateway4: Option<Ipv4Addr>,
    gateway6: Option<Ipv6Addr>,
    routes: Vec<WrittenRoute>,
    nameservers: Nameservers,
    mtu: Option<u32>,
    #[serde(flatten)]
    rest: BTreeMap<String, IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Match {
    macaddress: Option<String>,
    name: Option<String>,
    driver: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WrittenRoute {
    to: String,
    via: Option<IpAddr>,
    metric: Option<u32>,
    #[serde(default)]
    on_link: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Nameservers {
    addresses: Vec<IpAddr>,
    search: Vec<String>,
}

/// Interfaces in one configuration, and addresses or routes on one of them.
const MANY: usize = 64;

/// Reads it; an empty text is "DHCP on all links".
pub fn parse(text: &str) -> Result<Read, String> {
    if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        return Ok(Read { config: NetworkConfig::default(), notices: Vec::new() });
    }
    let document: Document = yaml(text)?;
    let body = match document.network {
        Some(body) => body,
        None if document.body.contains_key("version") => yaml(text)?,
        None => return Err("expected `version: 2`, found no `version` and no `network`".into()),
    };
    match body.version {
        Some(2) => {}
        Some(v) => return Err(format!("version {v} is not in this version of quorate; expected `version: 2`")),
        None => return Err("expected `version: 2`, found no `version`".into()),
    }
    let mut notices = Vec::new();
    for key in body.rest.keys() {
        match key.as_str() {
            "bonds" | "bridges" | "vlans" | "wifis" | "tunnels" | "modems" | "vrfs" => {
                return Err(format!("`{key}` is not in this version of quorate; it knows ethernets"));
            }
            "renderer" => {}
            _ => notices.push(format!("network-config: `{key}` is passed over")),
        }
    }
    if body.ethernets.len() > MANY {
        return Err(format!("{} interfaces; expected at most {MANY}", body.ethernets.len()));
    }
    let mut config = NetworkConfig::default();
    for (id, written) in body.ethernets {
        config.ethernets.push(ethernet(&id, written, &mut notices).map_err(|e| format!("ethernets.{id}: {e}"))?);
    }
    let mut macs: Vec<_> = config.ethernets.iter().filter_map(|e| e.mac.as_ref()).collect();
    macs.sort();
    if let Some(twice) = macs.windows(2).find(|w| w[0] == w[1]) {
        return Err(format!("two interfaces match the MAC address {}", twice[0]));
    }
    Ok(Read { config, notices })
}

fn ethernet(id: &str, w: Written, notices: &mut Vec<String>) -> Result<Ethernet, String> {
    if w.addresses.len() > MANY || w.routes.len() > MANY {
        return Err(format!("more than {MANY} addresses or routes"));
    }
    if w.dhcp6 {
        notices.push(format!("network-config: ethernets.{id}.dhcp6 is not in this version of quorate: passed over"));
    }
    for key in w.rest.keys().filter(|k| !["set-name", "optional", "accept-ra", "wakeonlan"].contains(&k.as_str())) {
        notices.push(format!("network-config: ethernets.{id}.{key} is passed over"));
    }
    let mac = w.matches.macaddress.as_deref().map(normal_mac).transpose()?;
    let addresses = w.addresses.iter().map(|a| address(a)).collect::<Result<_, _>>()?;
    let mut routes = w.routes.iter().map(route).collect::<Result<Vec<_>, _>>()?;
    let default = |gateway: IpAddr| Route { to: default_of(gateway), via: Some(gateway), metric: None, on_link: false };
    routes.extend(w.gateway4.map(|g| default(g.into())));
    routes.extend(w.gateway6.map(|g| default(g.into())));
    if let Some(mtu) = w.mtu.filter(|m| !(576..=65_535).contains(m)) {
        return Err(format!("mtu {mtu}: expected 576 to 65535"));
    }
    let named = w.matches.name.or_else(|| (mac.is_none() && w.matches.driver.is_none()).then(|| id.to_owned()));
    Ok(Ethernet {
        id: id.into(),
        mac,
        name: named,
        driver: w.matches.driver,
        dhcp4: w.dhcp4,
        addresses,
        routes,
        nameservers: w.nameservers.addresses,
        search: w.nameservers.search,
        mtu: w.mtu,
    })
}

/// `52:54:00:AB:cd:ef`, `52-54-…` or without separators, as platforms write them; answered in lower case with colons.
pub fn normal_mac(text: &str) -> Result<String, String> {
    let hex: String = text.chars().filter(|c| !":-".contains(*c)).map(|c| c.to_ascii_lowercase()).collect();
    if hex.len() != 12 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format!("`{text}` is no MAC address"));
    }
    Ok(hex.as_bytes().chunks(2).map(|c| String::from_utf8_lossy(c).into_owned()).collect::<Vec<_>>().join(":"))
}

/// `ip/len`, and cloud-init's own documentation also shows `ip/netmask`.
fn address(text: &str) -> Result<IpNet, String> {
    if let Ok(net) = text.parse() {
        return Ok(net);
    }
    let (ip, mask) = text.split_once('/').ok_or_else(|| format!("`{text}`: expected an address with prefix length"))?;
    let (ip, mask): (IpAddr, IpAddr) = match (ip.parse(), mask.parse()) {
        (Ok(i), Ok(m)) => (i, m),
        _ => return Err(format!("`{text}` is no address with prefix length")),
    };
    IpNet::with_netmask(ip, mask).map_err(|_| format!("`{text}`: the netmask has gaps"))
}

fn route(w: &WrittenRoute) -> Result<Route, String> {
    let to = match w.to.as_str() {
        "default" => match w.via {
            Some(via) => default_of(via),
            None => return Err("a default route needs `via`".into()),
        },
        text => text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .map_err(|_| format!("routes: `{text}` is no destination"))?,
    };
    if let Some(via) = w.via
        && via.is_ipv4() != to.addr().is_ipv4()
    {
        return Err(format!("routes: {to} via {via} mixes IPv4 and IPv6"));
    }
    Ok(Route { to, via: w.via, metric: w.metric, on_link: w.on_link })
}

fn default_of(gateway: IpAddr) -> IpNet {
    let zero: IpAddr = if gateway.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    IpNet::new_assert(zero, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn real_platforms_documents() {
        for (name, text) in [
            ("kubevirt", include_str!("../tests/samples/kubevirt-network-config.yaml")),
            (
                "lab",
                "network:\n  version: 2\n  ethernets:\n    lan:\n      match: {macaddress: 52-54-00-77-00-1F}\n      addresses: [10.77.0.31/24]\n      routes: [{to: default, via: 10.77.0.1}]\n      nameservers: {addresses: [10.77.0.3], search: [x]}\n      mtu: 1450\n",
            ),
            (
                "netmask",
                "version: 2\nethernets:\n  eth0:\n    addresses: [192.168.1.10/255.255.255.0]\n    gateway4: 192.168.1.1\n",
            ),
        ] {
            let read = parse(text).expect(name);
            insta::assert_snapshot!(name, format!("{:#?}", read));
        }
        assert!(parse("# nothing\n\n").expect("empty").config.has_dhcp());
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, want) in [
            ("version: 1\nconfig: []\n", "version 1 is not in this version"),
            ("ethernets: {}\n", "expected `version: 2`"),
            ("version: 2\nbonds: {b0: {}}\n", "`bonds` is not in this version"),
            ("version: 2\nethernets: {e: {match: {macaddress: zz}}}\n", "ethernets.e: `zz` is no MAC address"),
            ("version: 2\nethernets: {e: {addresses: [10.0.0.1]}}\n", "expected an address with prefix length"),
            ("version: 2\nethernets: {e: {routes: [{to: default}]}}\n", "needs `via`"),
            ("version: 2\nethernets: {e: {mtu: 9}}\n", "expected 576"),
            ("version: 2\nethernets: {e: {dhcp4: maybe}}\n", "line "),
            (
                "version: 2\nethernets: {a: {match: {macaddress: '52:54:00:00:00:01'}}, b: {match: {macaddress: '52:54:00:00:00:01'}}}\n",
                "two interfaces match",
            ),
        ] {
            let e = parse(text).expect_err(want);
            assert!(e.contains(want), "{e}\n-- expected: {want}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn never_panics(text in "(version: 2|\n|ethernets:|  e:|addresses: \\[|\\]|\\{|\\}|10.0.0.1/24|to: default| |via: ::1){0,30}") {
            let _ = parse(&text);
        }
    }
}
