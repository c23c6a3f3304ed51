//! DHCPv4 leases, by smoltcp's client on a raw socket (RFC 2131): a thread per link, so that a server that does not
//! answer holds up nobody else.

use nix::unistd::{pipe2, read, write};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Medium, RawSocket, wait};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) address: ipnet::Ipv4Net,
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) nameservers: Vec<Ipv4Addr>,
}

/// What became of a lease. Renewals that change nothing are no news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// A new one.
    Leased(Lease),
    /// It ran out, and no server renewed it.
    Lost,
}

/// A client on one link.
#[derive(Debug)]
pub(crate) struct Client {
    wake: OwnedFd,
    leases: Receiver<News>,
}

impl Client {
    /// Starts it. The thread ends with the process: a lease outlives its client in the kernel.
    pub(crate) fn start(index: u32, name: &str, mac: Option<[u8; 6]>) -> Result<Self, String> {
        let mac = mac.ok_or("has no Ethernet address: no DHCP")?;
        let (wake, notify) =
            pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK).map_err(|e| e.to_string())?;
        let (sender, leases) = channel();
        let name = name.to_owned();
        std::thread::Builder::new()
            .name(format!("dhcp-{index}"))
            .spawn(move || match RawSocket::new(&name, Medium::Ethernet) {
                Ok(raw) => follow(raw, mac, &sender, &notify),
                Err(e) => eprintln!("{name}: opening a raw socket: {e}"),
            })
            .map_err(|e| e.to_string())?;
        Ok(Self { wake, leases })
    }

    /// What came since.
    pub(crate) fn news(&mut self) -> Vec<News> {
        let mut buffer = [0; 16];
        while read(&self.wake, &mut buffer).is_ok_and(|n| n > 0) {}
        self.leases.try_iter().collect()
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

fn follow(mut raw: RawSocket, mac: [u8; 6], sender: &Sender<News>, notify: &OwnedFd) {
    let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
    // Only tells transactions apart; the MAC address is what makes it this machine's.
    config.random_seed =
        u64::from_be_bytes([0, 0, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]]) ^ crate::clock::now();
    let mut interface = Interface::new(config, &mut raw, Instant::now());
    let mut sockets = SocketSet::new(vec![]);
    let handle = sockets.add(dhcpv4::Socket::new());
    let mut leased = false;
    loop {
        let now = Instant::now();
        interface.poll(now, &mut raw, &mut sockets);
        let news = match sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
            None => None,
            // The client also says so before its first lease.
            Some(dhcpv4::Event::Deconfigured) => std::mem::take(&mut leased).then_some(News::Lost),
            Some(dhcpv4::Event::Configured(c)) => Some(News::Leased(Lease {
                address: ipnet::Ipv4Net::new_assert(c.address.address(), c.address.prefix_len()),
                gateway: c.router,
                nameservers: c.dns_servers.iter().copied().collect(),
            })),
        };
        leased |= matches!(news, Some(News::Leased(_)));
        if let Some(news) = news
            && (sender.send(news).is_err() || write(notify, b"x").is_err())
        {
            return;
        }
        let delay = interface.poll_delay(now, &sockets).map(|d| d.max(smoltcp::time::Duration::from_millis(1)));
        // Interrupted or not: the next round looks at the clock again.
        let _ = wait(raw.as_raw_fd(), delay.or_else(|| Some(Duration::from_secs(60).into())));
    }
}
