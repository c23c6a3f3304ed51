//! From the kernel's hand to a network: mounts, modules, the seed, an address.

use contract::seed::NodeSeed;
use contract::voice::{FromNode, PORT, ToNode};
use metadata::assemble::{Files, Transport, assemble};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::time::{ClockId, clock_gettime};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Device nodes are made by the kernel on its own; this program listens to no uevents.
const LOOK: Duration = Duration::from_millis(10);
const LOOK_BOUND: Duration = Duration::from_secs(10);

/// libc has these as another type than the structures that they go into.
const AF_INET: libc::sa_family_t = 2;
const UP: libc::c_short = 0x41;

/// A line on the console.
pub(crate) fn console(text: &str) {
    if let Ok(mut console) = File::options().write(true).open("/dev/console") {
        let _ = writeln!(console, "quorate: {text}");
    }
}

pub(crate) fn mounts() -> Result<(), String> {
    for (kind, path) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        fs::create_dir_all(path).map_err(|e| format!("{path}: {e}"))?;
        mount(Some(kind), path, Some(kind), MsFlags::empty(), None::<&str>).map_err(|e| format!("{path}: {e}"))?;
    }
    Ok(())
}

/// The boot set, in its order.
pub(crate) fn modules() -> Result<(), String> {
    let entries = fs::read_dir("/modules").map_err(|e| format!("/modules: {e}"))?;
    let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).collect();
    paths.sort();
    for path in paths {
        let file = File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        // MODULE_INIT_COMPRESSED_FILE: the kernel unpacks it.
        if let Err(e) = finit_module(&file, c"", ModuleInitFlags::from_bits_retain(4)) {
            console(&format!("module {}: {e}", path.display()));
        }
    }
    Ok(())
}

fn wait_for<T>(what: &str, look: impl Fn() -> Option<T>) -> Result<T, String> {
    let deadline = Instant::now() + LOOK_BOUND;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(format!("waited {LOOK_BOUND:?} for {what}"));
        }
        std::thread::sleep(LOOK);
    }
}

/// The port to the host, and what was said on it.
#[derive(Debug)]
pub(crate) struct Voice {
    port: File,
    said: Vec<FromNode>,
}

impl Voice {
    pub(crate) fn open() -> Result<Self, String> {
        let node = wait_for("the port to the host", || {
            let ports = fs::read_dir("/sys/class/virtio-ports").ok()?.flatten();
            let ours =
                |p: &fs::DirEntry| fs::read_to_string(p.path().join("name")).is_ok_and(|name| name.trim() == PORT);
            ports.into_iter().find(ours).map(|p| p.file_name())
        })?;
        let path = std::path::Path::new("/dev").join(node);
        let open = || File::options().read(true).write(true).open(&path).ok();
        wait_for(&path.display().to_string(), open).map(|port| Self { port, said: Vec::new() })
    }

    /// A line, on the console too.
    pub(crate) fn say(&mut self, text: &str) {
        console(text);
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
        let ms = u64::try_from(now.as_millis()).unwrap_or_default();
        self.said.push(FromNode::Said { ms, text: text.into() });
        if let Some(last) = self.said.last() {
            tell(&mut self.port, last);
        }
    }

    /// The host's words, for ever.
    pub(crate) fn hear(self) {
        self.hear_words(|word| {
            let mode = match word {
                ToNode::Reboot => RebootMode::RB_AUTOBOOT,
                ToNode::Poweroff => RebootMode::RB_POWER_OFF,
                _ => return None,
            };
            let _ = reboot(mode);
            None
        });
    }

    /// The host's words as they come, and the answer to each.
    pub(crate) fn hear_words(mut self, take: impl Fn(ToNode) -> Option<FromNode>) {
        let Ok(port) = self.port.try_clone() else { return };
        // A report ends what the host waits for, even one of nothing.
        self.said.push(FromNode::Report { report: Box::default() });
        for line in BufReader::new(port).lines().map_while(Result::ok) {
            match ToNode::parse(&line) {
                Ok(ToNode::Hello) => self.said.iter().for_each(|what| tell(&mut self.port, what)),
                Ok(word) => take(word).iter().for_each(|answer| tell(&mut self.port, answer)),
                Err(_) => {}
            }
        }
    }
}

/// Nobody listens: nobody is told.
fn tell(port: &mut File, what: &FromNode) {
    if let Ok(mut line) = serde_json::to_vec(what) {
        line.push(b'\n');
        let _ = port.write_all(&line);
    }
}

/// The seed, from whichever disk has one.
pub(crate) fn seed() -> Result<NodeSeed, String> {
    let medium = wait_for("a seed disk", || {
        fs::read_dir("/sys/class/block").ok()?.flatten().find_map(|e| {
            let device = format!("/dev/{}", e.file_name().to_string_lossy());
            let medium = metadata::seed_media::read(&mut File::open(&device).ok()?)?.ok()?;
            medium.is_cidata().then_some((device, medium))
        })
    })?;
    let (device, medium) = medium;
    let file = |name: &str| medium.files.get(name).cloned();
    let files = Files {
        user_data: file("user-data"),
        meta_data: file("meta-data"),
        network_config: file("network-config"),
        others: vec![],
    };
    assemble(&device, &files, Transport::Medium).map_err(|problems| problems.join("; "))
}

/// The declared address on the one NIC.
pub(crate) fn network(seed: &NodeSeed) -> Result<(), String> {
    let address = seed.node.node.address;
    let IpAddr::V4(own) = address else { return Err("only IPv4 here".into()) };
    let nets = seed.network.ethernets.iter().flat_map(|e| &e.addresses);
    let net = nets.into_iter().find(|n| n.addr() == address).ok_or("the address has no prefix length")?;
    wait_for("eth0", || std::path::Path::new("/sys/class/net/eth0").exists().then_some(()))?;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(|e| e.to_string())?;
    let mask = Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(net.prefix_len())).unwrap_or(0));
    up(&socket, "lo")
        .and_then(|()| {
            set(&socket, libc::SIOCSIFADDR, own)?;
            set(&socket, libc::SIOCSIFNETMASK, mask)?;
            up(&socket, "eth0")
        })
        .map_err(|e| format!("eth0: {e}"))?;
    nix::unistd::sethostname(seed.node.name()).map_err(|e| e.to_string())
}

#[expect(unsafe_code, reason = "netdevice(7) is spoken by ioctl")]
fn request(name: &str) -> libc::ifreq {
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request
}

#[expect(unsafe_code, reason = "netdevice(7) is spoken by ioctl")]
fn set(socket: &std::net::UdpSocket, what: libc::Ioctl, address: Ipv4Addr) -> std::io::Result<()> {
    let mut request = request("eth0");
    let address = libc::sockaddr_in {
        sin_family: AF_INET,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: a sockaddr_in is as long as the sockaddr it stands for; the kernel reads the request only.
    unsafe {
        request.ifr_ifru.ifru_addr = std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address);
        call(socket, what, &mut request)
    }
}

#[expect(unsafe_code, reason = "netdevice(7) is spoken by ioctl")]
fn up(socket: &std::net::UdpSocket, name: &str) -> std::io::Result<()> {
    let mut request = request(name);
    // SAFETY: the kernel writes flags, and reads them.
    unsafe {
        // What is there stays: an interface without MULTICAST is none to keepalived.
        call(socket, libc::SIOCGIFFLAGS, &mut request)?;
        request.ifr_ifru.ifru_flags |= UP;
        call(socket, libc::SIOCSIFFLAGS, &mut request)
    }
}

#[expect(unsafe_code, reason = "netdevice(7) is spoken by ioctl")]
unsafe fn call(socket: &std::net::UdpSocket, what: libc::Ioctl, request: &mut libc::ifreq) -> std::io::Result<()> {
    // SAFETY: the caller's request is valid for this call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), what, std::ptr::from_mut(request)) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
