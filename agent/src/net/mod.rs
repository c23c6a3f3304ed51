//! The verb `network`: links, addresses, routes, DHCP, late NICs.
//!
//! It may be restarted at any moment without losing an address: nothing is taken away at the start, and what is there
//! already is left as it is. [`plan`] decides which link gets what (pure), [`netlink`] speaks to the kernel, [`dhcp`] holds
//! leases, each in a thread of its own. For other verbs [`tcp`] ends connections, and [`dns`] resolves names.

pub(crate) mod dhcp;
pub(crate) mod dns;
pub(crate) mod netlink;
pub(crate) mod plan;
mod socket;
pub(crate) mod tcp;

use crate::channel::Channel;
use contract::control::ToAgent;
use contract::control::condition::ADDRESS;
use contract::network::NetworkConfig;
use netlink::{Link, Netlink};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// An address that is not there after this long is told, with what is there instead.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) fn run() -> Result<(), String> {
    let channel = Channel;
    let mut network = Network::new(channel)?;
    loop {
        network.apply()?;
        network.report()?;
        network.wait()?;
    }
}

struct Network {
    channel: Channel,
    netlink: Netlink,
    events: Netlink,
    config: NetworkConfig,
    address: Option<IpAddr>,
    /// Links that got their configuration.
    configured: BTreeSet<u32>,
    leases: BTreeMap<u32, dhcp::Client>,
    /// The address that each link's last lease brought.
    leased: BTreeMap<u32, ipnet::Ipv4Net>,
    resolvers: Vec<IpAddr>,
    since: Instant,
    told: bool,
    done: bool,
}

impl Network {
    fn new(channel: Channel) -> Result<Self, String> {
        let mut network = Self {
            channel,
            netlink: Netlink::open(false)?,
            // Listening comes before looking: a NIC that appears in between is heard of.
            events: Netlink::open(true)?,
            config: NetworkConfig::default(),
            address: None,
            configured: BTreeSet::new(),
            leases: BTreeMap::new(),
            leased: BTreeMap::new(),
            resolvers: Vec::new(),
            since: Instant::now(),
            told: false,
            done: false,
        };
        let first = channel.hear()?;
        network.take(first);
        Ok(network)
    }

    fn take(&mut self, message: ToAgent) {
        if let ToAgent::Network { config, address } = message {
            self.config = config;
            self.address = address;
            self.configured.clear();
            self.leases.clear();
            self.since = Instant::now();
            (self.told, self.done) = (false, false);
        }
    }

    /// Gives every link that has none its configuration.
    fn apply(&mut self) -> Result<(), String> {
        for link in self.netlink.links()? {
            if link.name == "lo" {
                if !link.up {
                    self.netlink.set_up(link.index, None)?;
                }
                continue;
            }
            if self.configured.contains(&link.index) {
                continue;
            }
            let Some(wanted) = plan::for_link(&self.config, &link) else { continue };
            self.configured.insert(link.index);
            if let Err(e) = self.configure(&link, &wanted) {
                self.channel.notice(format!("{}: {e}", link.name))?;
            }
        }
        Ok(())
    }

    fn configure(&mut self, link: &Link, wanted: &plan::Wanted) -> Result<(), String> {
        self.netlink.set_up(link.index, wanted.mtu)?;
        for address in &wanted.addresses {
            self.netlink.add_address(link.index, *address)?;
        }
        for route in &wanted.routes {
            self.netlink.add_route(link.index, route)?;
        }
        if wanted.dhcp4 {
            let client = dhcp::Client::start(link.index, &link.name, link.mac)?;
            self.leases.insert(link.index, client);
        }
        self.add_resolvers(&wanted.nameservers, &wanted.search)
    }

    fn add_resolvers(&mut self, servers: &[IpAddr], search: &[String]) -> Result<(), String> {
        for server in servers {
            if !self.resolvers.contains(server) {
                self.resolvers.push(*server);
            }
        }
        let mut text: String = self.resolvers.iter().map(|s| format!("nameserver {s}\n")).collect();
        if !search.is_empty() {
            text += &format!("search {}\n", search.join(" "));
        }
        let path = Path::new(dns::RESOLV_CONF);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| e.to_string())?;
        }
        crate::pki::write_file(path, &text, 0o644, contract::users::ROOT)
            .map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Says that the declared address is there, or what it waits for.
    fn report(&mut self) -> Result<(), String> {
        if self.done {
            return Ok(());
        }
        let addresses = self.netlink.addresses()?;
        let there = match self.address {
            Some(declared) => addresses.iter().any(|(_, a)| *a == declared),
            None => addresses.iter().any(|(_, a)| is_global(*a)),
        };
        if there {
            self.done = true;
            return self.channel.done(ADDRESS);
        }
        if self.since.elapsed() >= PATIENCE && !self.told {
            self.told = true;
            let links = self.netlink.links()?;
            self.channel.notice(plan::complaint(self.address, &addresses, &links))?;
        }
        Ok(())
    }

    /// Waits for the kernel, PID 1 or a lease.
    fn wait(&mut self) -> Result<(), String> {
        let mut fds = vec![
            PollFd::new(self.channel.fd(), PollFlags::POLLIN),
            PollFd::new(self.events.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.leases.values().map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN)));
        let left = PATIENCE.saturating_sub(self.since.elapsed());
        let timeout = match self.done || self.told {
            true => PollTimeout::NONE,
            // One more than the rest, so that the wait ends behind it.
            false => PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX),
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(format!("waiting: {e}")),
        }
        let heard = fds[0].any().unwrap_or(false);
        drop(fds);
        self.events.drain();
        if heard {
            let message = self.channel.hear()?;
            self.take(message);
        }
        self.leased()
    }

    /// Puts what leases brought on their links. A lease that ran out keeps its address until there is another one: a
    /// node that cannot reach its DHCP server is better off with the address its peers know.
    fn leased(&mut self) -> Result<(), String> {
        let mut news = Vec::new();
        for (index, client) in &mut self.leases {
            news.extend(client.news().into_iter().map(|n| (*index, n)));
        }
        for (index, news) in news {
            let lease = match news {
                dhcp::News::Leased(lease) => lease,
                dhcp::News::Lost => {
                    self.channel.notice("the DHCP lease ran out, and no server renewed it; its address is kept")?;
                    continue;
                }
            };
            self.netlink.add_address(index, lease.address.into())?;
            match self.leased.insert(index, lease.address) {
                Some(old) if old != lease.address => self.netlink.remove_address(index, old.into())?,
                _ => {}
            }
            if let Some(gateway) = lease.gateway {
                self.netlink.add_route(index, &plan::default_route(gateway.into()))?;
            }
            let servers: Vec<IpAddr> = lease.nameservers.iter().map(|s| (*s).into()).collect();
            self.add_resolvers(&servers, &[])?;
        }
        Ok(())
    }
}

fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !a.is_loopback() && !a.is_link_local(),
        IpAddr::V6(a) => !a.is_loopback() && !a.is_unicast_link_local(),
    }
}
