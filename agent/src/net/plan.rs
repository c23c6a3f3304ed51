//! Which link gets what: pure.

use super::netlink::Link;
use contract::image::glob;
use contract::network::{Ethernet, NetworkConfig, Route};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a link is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) routes: Vec<Route>,
    pub(crate) dhcp4: bool,
    pub(crate) mtu: Option<u32>,
    pub(crate) nameservers: Vec<IpAddr>,
    pub(crate) search: Vec<String>,
}

/// What a link is to have, if anything: the first interface of the configuration that matches it; without a
/// configuration, DHCP on every link.
pub(crate) fn for_link(config: &NetworkConfig, link: &Link) -> Option<Wanted> {
    if config.ethernets.is_empty() {
        return Some(Wanted { dhcp4: true, ..Wanted::default() });
    }
    let e = config.ethernets.iter().find(|e| matches(e, link))?;
    Some(Wanted {
        addresses: e.addresses.clone(),
        routes: e.routes.iter().flat_map(|r| reachable(r, &e.addresses)).collect(),
        dhcp4: e.dhcp4,
        mtu: e.mtu,
        nameservers: e.nameservers.clone(),
        search: e.search.clone(),
    })
}

fn matches(e: &Ethernet, link: &Link) -> bool {
    let mac = link.mac.map(|m| m.map(|b| format!("{b:02x}")).join(":"));
    let is = |pattern: &Option<String>, value: Option<&str>| {
        pattern.as_ref().is_none_or(|p| value.is_some_and(|v| glob(p.as_bytes(), v.as_bytes())))
    };
    is(&e.mac, mac.as_deref()) && is(&e.name, Some(&link.name)) && is(&e.driver, link.driver.as_deref())
}

/// A route, and before it a route to its gateway where no address of the link reaches that (clouds give /32 addresses).
fn reachable(route: &Route, addresses: &[IpNet]) -> Vec<Route> {
    match route.via {
        Some(via)
            if !route.on_link
                && !addresses.is_empty()
                && !addresses.iter().any(|a| a.contains(&via))
                && !is_link_local(via) =>
        {
            vec![Route { to: via.into(), via: None, metric: None, on_link: true }, route.clone()]
        }
        _ => vec![route.clone()],
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(a) if a.is_unicast_link_local())
}

/// The default route over a gateway.
pub(crate) fn default_route(gateway: IpAddr) -> Route {
    let zero: IpAddr = if gateway.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    Route { to: IpNet::new_assert(zero, 0), via: Some(gateway), metric: None, on_link: false }
}

/// What is said when the address does not come.
pub(crate) fn complaint(declared: Option<IpAddr>, addresses: &[(u32, IpAddr)], links: &[Link]) -> String {
    let name = |index: u32| links.iter().find(|l| l.index == index).map_or("?", |l| &l.name);
    let mut found: Vec<String> =
        addresses.iter().filter(|(_, a)| super::is_global(*a)).map(|(i, a)| format!("{a} on {}", name(*i))).collect();
    if found.is_empty() {
        let nics: Vec<_> = links.iter().filter(|l| l.name != "lo").map(|l| l.name.as_str()).collect();
        found.push(if nics.is_empty() {
            "no network interface".into()
        } else {
            format!("no address on {}", nics.join(", "))
        });
    }
    match declared {
        Some(a) => format!("declared {a}, found {}; roles wait until the declared address is there", found.join(", ")),
        None => format!("waiting for an address by DHCP, found {}", found.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        Link {
            index: 2,
            name: "eth0".into(),
            mac: Some([0x52, 0x54, 0, 0x77, 0, 0x31]),
            driver: Some("virtio_net".into()),
            up: false,
        }
    }

    fn config(e: Ethernet) -> NetworkConfig {
        NetworkConfig { ethernets: vec![e] }
    }

    #[test]
    fn matches_by_every_word_given() {
        let mac = Some("52:54:00:77:00:31".to_owned());
        let cases = [
            (Ethernet { mac: mac.clone(), ..Ethernet::default() }, true),
            (Ethernet { mac: mac.clone(), name: Some("en*".into()), ..Ethernet::default() }, false),
            (Ethernet { name: Some("eth*".into()), ..Ethernet::default() }, true),
            (Ethernet { driver: Some("virtio*".into()), ..Ethernet::default() }, true),
            (Ethernet { mac: Some("52:54:00:77:00:32".into()), ..Ethernet::default() }, false),
        ];
        for (e, want) in cases {
            assert_eq!(for_link(&config(e.clone()), &link()).is_some(), want, "{e:?}");
        }
        assert!(for_link(&NetworkConfig::default(), &link()).expect("DHCP").dhcp4);
    }

    #[test]
    fn a_gateway_outside_the_subnet_gets_a_route_of_its_own() {
        let net = |t: &str| t.parse().expect("a network");
        let route = default_route("172.31.1.1".parse().expect("an address"));
        let far = config(Ethernet {
            name: Some("eth0".into()),
            addresses: vec![net("10.0.0.5/32")],
            routes: vec![route.clone()],
            ..Ethernet::default()
        });
        let wanted = for_link(&far, &link()).expect("wanted");
        assert_eq!(wanted.routes.len(), 2);
        assert_eq!(wanted.routes[0].to, net("172.31.1.1/32"));
        let near = config(Ethernet {
            name: Some("eth0".into()),
            addresses: vec![net("172.31.1.9/24")],
            routes: vec![route],
            ..Ethernet::default()
        });
        assert_eq!(for_link(&near, &link()).expect("wanted").routes.len(), 1);
    }

    #[test]
    fn complaints_name_what_is_there() {
        let ip = |t: &str| t.parse().expect("an address");
        let text = complaint(Some(ip("10.0.0.11")), &[(2, ip("10.0.0.57")), (1, ip("127.0.0.1"))], &[link()]);
        assert!(text.starts_with("declared 10.0.0.11, found 10.0.0.57 on eth0"), "{text}");
        assert!(complaint(None, &[], &[]).contains("no network interface"));
    }
}
