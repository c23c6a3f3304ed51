//! How a node reaches its network: cloud-init's network configuration version 2 (netplan's words), normalised.
//!
//! Source: cloud-init's documentation "Networking config Version 2". The parser stands in `metadata`; what it cannot
//! express (bonds, VLANs) is a problem there, not here.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// All interfaces a configuration names; empty = DHCP on every link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// In the order of the document.
    pub ethernets: Vec<Ethernet>,
}

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ethernet {
    /// Its key in the document; the interface's name when nothing is matched.
    pub id: String,
    /// Lower-case, colons.
    pub mac: Option<String>,
    /// Interface name, a glob.
    pub name: Option<String>,
    /// Kernel driver, a glob.
    pub driver: Option<String>,
    /// DHCP for IPv4.
    pub dhcp4: bool,
    /// With prefix length.
    pub addresses: Vec<IpNet>,
    /// Static routes.
    pub routes: Vec<Route>,
    /// DNS servers.
    pub nameservers: Vec<IpAddr>,
    /// DNS search domains.
    pub search: Vec<String>,
    /// Bytes.
    pub mtu: Option<u32>,
}

/// A static route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Destination; `0.0.0.0/0` or `::/0` is the default route.
    pub to: IpNet,
    /// Gateway.
    pub via: Option<IpAddr>,
    /// Priority; lower wins.
    pub metric: Option<u32>,
    /// The gateway is reachable although no address says so.
    #[serde(default)]
    pub on_link: bool,
}

impl NetworkConfig {
    /// Every address the configuration declares.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ethernets.iter().flat_map(|e| e.addresses.iter().map(IpNet::addr))
    }

    /// Whether some interface takes its address from DHCP.
    pub fn has_dhcp(&self) -> bool {
        self.ethernets.is_empty() || self.ethernets.iter().any(|e| e.dhcp4)
    }
}
